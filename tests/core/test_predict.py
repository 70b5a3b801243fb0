import numpy as np
import pytest
import torch
from conftest import teach
from PIL import Image

import lightdet_core
from lightdet_core.config import UserError
from lightdet_core.predict import to_pixels
from lightdet_tools.data import scenes
from lightdet_tools.deploy.detector import open_detector


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
        (torch.full((3, 4, 4), 0.5), r"float32 tensor from 0\.5 to 0\.5; RGB .*multiply it by 255"),
        (torch.linspace(-2, 2.6, 12).view(3, 2, 2), r"from -2 to 2\.6; RGB 0\.\.255 is needed$"),
        (torch.linspace(0, 2.9, 12).half().view(3, 2, 2), r"from 0 to 2\.9.*; RGB 0\.\.255"),
        (torch.linspace(0, 999, 12).view(3, 2, 2), r"from 0 to 999; RGB 0\.\.255"),
        (torch.linspace(-99, 255, 12).view(3, 2, 2), r"from -99 to 255; RGB 0\.\.255"),
        (torch.tensor([0.0, 99.0, torch.nan]).view(3, 1, 1), r"from nan to nan; RGB 0\.\.255"),
        (torch.tensor([0.0, 99.0, torch.inf]).view(3, 1, 1), r"from 0 to inf; RGB 0\.\.255"),
        (torch.tensor([-1, 99, 99]).view(3, 1, 1), r"int64 tensor from -1 to 99; RGB"),
        (torch.ones(3, 2, 2, dtype=torch.int32), r"int32 tensor from 1 to 1; .*multiply it"),
        (torch.ones(3, 2, 2, dtype=torch.bool), r"bool tensor from 1 to 1; RGB"),
        (torch.full((3, 2, 2), 9000).to(torch.uint16), r"uint16 tensor from 9000 to 9000; RGB"),
        (torch.zeros(3, 0, 4), r"Tensor \(3, 0, 4\) has no pixels"),
        (np.zeros((0, 5, 3), np.uint8), r"ndarray \(0, 5, 3\) has no pixels"),
        (np.zeros((0, 0, 3), np.uint8), r"ndarray \(0, 0, 3\) has no pixels"),
        (Image.new("RGB", (0, 0)), r"Image \(0, 0\) has no pixels"),
        (Image.new("I", (4, 4)), r"image: I pixels .* have no fixed range; save 8 or 16"),
        (Image.new("F", (4, 4)), r"image: F pixels .* have no fixed range"),
        ("none.png", r"none\.png: image not found"),
        (7, "<class 'int'>"),
    ],
)
def test_what_is_no_image_is_named(weights, image, message):
    with pytest.raises(UserError, match=message):
        lightdet_core.load(weights).predict(image)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float16, torch.bfloat16])
def test_tensors_of_any_type_that_holds_the_range(kind):
    """Black ones too."""
    for value in (0, 2 if kind == torch.uint8 else 3, 255):
        found = to_pixels(torch.full((3, 4, 5), value).to(kind))
        assert found.shape == (4, 5, 3) and found.dtype == np.uint8 and (found == value).all()


def test_a_deep_picture_is_scaled_as_from_its_file(tmp_path):
    deep = np.arange(0, 65536, 13, np.uint16)[:5000].reshape(50, 100)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image = Image.open(tmp_path / "deep.png")
    found = to_pixels(image)
    assert image.mode == "I;16" and (found == to_pixels(tmp_path / "deep.png")).all()
    assert (found == np.rint(deep[..., None] / 257)).all()


def test_a_picture_that_pillow_cannot_read(picture, tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(picture).save(path)
    path.write_bytes((whole := path.read_bytes())[: len(whole) // 2])
    with pytest.raises(UserError, match=r"image: unreadable PIL image: .*truncated"):
        to_pixels(Image.open(path))
    (closed := Image.fromarray(picture)).close()
    with pytest.raises(UserError, match=r"image: unreadable PIL image: .*closed"):
        to_pixels(closed)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, 30, float("nan"), "0.3", None, [0.3], np.ones(2)])
def test_a_threshold_that_is_no_share(weights, picture, wrong):
    with pytest.raises(UserError, match=r"score_threshold .*: a number from 0 to 1 is needed"):
        lightdet_core.load(weights).predict(picture, wrong)


def test_a_threshold_of_any_library(weights, picture):
    model = lightdet_core.load(weights)
    for right in (0, 1, np.float32(0.5), torch.tensor(0.5)):
        model.predict(picture, right)


def test_unknown_names_are_no_part_of_the_package():
    with pytest.raises(AttributeError, match=r"lightdet_core.*'nothing'"):
        _ = lightdet_core.nothing


def test_dark_frames_and_overshoot_of_resizing_are_taken():
    assert to_pixels(torch.ones(3, 2, 2, dtype=torch.uint8)).max() == 1
    pixels = to_pixels(torch.tensor([-40.0, 128.4, 300.0]).view(3, 1, 1))
    assert pixels.tolist() == [[[0, 128, 255]]]
