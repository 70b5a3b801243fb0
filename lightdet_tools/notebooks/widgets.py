"""Controls of the notebooks in JupyterLab: a score threshold to move, an image of your own.

Under papermill nobody moves them; the notebook runs on all the same.
"""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt

from lightdet_core.config import UserError
from lightdet_core.machinery.images import read_image
from lightdet_tools.deploy.detect import draw
from lightdet_tools.deploy.detector import Detector


def slider(value: float) -> ipywidgets.FloatSlider:
    """A score threshold, 0.05 to 0.95; it reports once it is let go."""
    return ipywidgets.FloatSlider(
        value, min=0.05, max=0.95, step=0.05, description="score >", continuous_update=False
    )


def threshold(picture: Callable[[float], object], value: float = 0.3) -> ipywidgets.VBox:
    """A slider above what `picture(score_threshold)` draws with matplotlib."""
    # not ipywidgets.interactive: papermill may wait for ever for a cell with its Output widget
    score, view = slider(value), ipywidgets.Image()

    def show(_: object = None) -> None:
        picture(score.value)
        buffer = io.BytesIO()
        plt.savefig(buffer, format="png", dpi="figure")
        plt.close()
        view.value = buffer.getvalue()

    score.observe(show, "value")
    show()
    return ipywidgets.VBox([score, view])


def own_image(detector: Detector, value: float = 0.3) -> ipywidgets.VBox:
    """A button that takes an image file, a slider, and the image with what is found in it."""
    button = ipywidgets.FileUpload(accept="image/*", description="own image")
    score, view, line = slider(value), ipywidgets.Image(width="640"), ipywidgets.Label()
    view.layout.display = "none"  # without a picture browsers show a broken one
    names = [category["name"] for category in detector.categories]
    image = found = None

    def show(_: object = None) -> None:
        if image is None:
            return
        keep = found.scores > score.value
        buffer = io.BytesIO()
        draw(image, type(found)(*(values[keep] for values in found)), names).save(buffer, "PNG")
        view.value, line.value = buffer.getvalue(), f"{int(keep.sum())} detections"
        view.layout.display = None

    def take(change: dict) -> None:
        nonlocal image, found
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = Path(folder) / Path(change["new"][0]["name"]).name
                path.write_bytes(change["new"][0]["content"])
                image = read_image(path)
                found = detector.detect(image, score.min)
                show()
            except UserError as error:
                image, view.value, view.layout.display = None, b"", "none"
                line.value = str(error).replace(f"{folder}/", "")

    button.observe(take, "value")
    score.observe(show, "value")
    return ipywidgets.VBox([ipywidgets.HBox([button, score, line]), view])
