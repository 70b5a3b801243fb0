import numpy as np
import pytest
import torch
from conftest import teach
from PIL import Image

import lightdet_core
from lightdet_core.config import UserError
from lightdet_tools.data import scenes
from lightdet_tools.deploy.detect import open_detector


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    teach(runs, "g3")
    return runs / "g3-s0" / "weights.safetensors"


@pytest.fixture(scope="module")
def picture():
    return scenes.draw_scene(0, 3, 160, 120)[0]


def test_every_kind_of_image_gives_the_same_boxes(weights, picture, tmp_path):
    model = lightdet_core.load(weights)
    path = tmp_path / "scene.png"
    Image.fromarray(picture).save(path)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    kinds = (path, str(path), Image.open(path), picture, tensor, tensor.float())
    found = [model.predict(image, 0.002) for image in kinds]
    first = found[0]
    assert len(first.boxes) > 3 and set(first.names) <= set(scenes.CLASSES)
    assert first.names == [model.categories[label]["name"] for label in first.labels]
    assert (first.scores.diff() <= 0).all() and first.scores[-1] > 0.002
    assert first.boxes.min() >= 0 and (first.boxes.amax(0)[2:] <= torch.tensor([160, 120])).all()
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(first[:3], other[:3], strict=True))
        assert other.names == first.names


def test_the_detector_of_the_command_finds_the_same(weights, picture):
    model, detector = lightdet_core.load(weights), open_detector(weights)
    ours, theirs = model.predict(picture, 0.002), detector.detect(picture, 0.002)
    assert len(ours.boxes) and torch.equal(ours.boxes, theirs.boxes)
    assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\); a path, PIL image"),
        (np.zeros((4, 4, 3), np.float32), r"float32 \(4, 4, 3\)"),
        (torch.zeros(4, 4, 3), r"tensor \(4, 4, 3\), \(3, H, W\)"),
        (torch.full((3, 4, 4), 0.5), r"up to 0\.5; multiply it by 255"),
        ("none.png", r"none\.png: image not found"),
        (7, "<class 'int'>"),
    ],
)
def test_what_is_no_image_is_named(weights, image, message):
    with pytest.raises(UserError, match=message):
        lightdet_core.load(weights).predict(image)


def test_unknown_names_are_no_part_of_the_package():
    with pytest.raises(AttributeError, match=r"lightdet_core.*'nothing'"):
        _ = lightdet_core.nothing
