import io
from datetime import datetime

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from lightdet_core.boxes import Detections
from lightdet_tools.deploy.detect import draw
from lightdet_tools.deploy.detector import Detector
from lightdet_tools.notebooks import widgets

BOXES = torch.tensor([[4.0, 4, 30, 20], [40, 10, 60, 30]])
FOUND = Detections(BOXES, torch.tensor([0.8, 0.4]), torch.tensor([1, 0]))
CATEGORIES = [{"id": 1, "name": "car"}, {"id": 3, "name": "bus"}]


def upload(button, name, content):
    about = {"name": name, "type": "", "size": len(content), "last_modified": datetime.now()}
    button.value = ({**about, "content": memoryview(content)},)


def pixels(view):
    return np.asarray(Image.open(io.BytesIO(view.value)))


def test_the_slider_draws_at_its_threshold():
    seen = []

    def picture(limit):
        seen.append(limit)
        plt.figure(figsize=(1, limit), dpi=100)

    control = widgets.threshold(picture, 0.4)
    score, view = control.children
    assert isinstance(score, ipywidgets.FloatSlider) and pixels(view).shape[:2] == (40, 100)
    score.value = 0.65
    assert seen == [0.4, 0.65] and pixels(view).shape[:2] == (65, 100)
    assert not plt.get_fignums()  # or JupyterLab would show them once more


def test_an_own_image_shows_what_is_above_the_threshold():
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    asked = []

    def detect(given, score_threshold):
        asked.append((given, score_threshold))
        return FOUND

    box = widgets.own_image(Detector(detect, CATEGORIES, 64), 0.3)
    (button, score, line), view = box.children[0].children, box.children[1]
    assert view.layout.display == "none"  # an image of no bytes looks broken
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    upload(button, "photo.png", buffer.getvalue())
    assert view.layout.display is None
    assert np.array_equal(asked[0][0], image) and asked[0][1] == score.min
    assert np.array_equal(pixels(view), np.asarray(draw(image, FOUND, ["car", "bus"])))
    assert line.value == "2 detections"

    score.value = 0.5  # the second falls out, and the network is not asked again
    first = Detections(*(values[:1] for values in FOUND))
    assert np.array_equal(pixels(view), np.asarray(draw(image, first, ["car", "bus"])))
    assert line.value == "1 detections" and len(asked) == 1

    upload(button, "notes.txt", b"no picture")
    assert line.value.startswith("notes.txt: unreadable image") and view.value == b""
    assert view.layout.display == "none"
    score.value = 0.3  # nothing to draw, no error
    assert view.value == b""
