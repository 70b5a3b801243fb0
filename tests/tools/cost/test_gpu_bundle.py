"""gpu_bundle.py: what travels is complete, small, and costs no accuracy."""

import dataclasses
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import read, silent
from PIL import Image
from safetensors.torch import load_file

from lightdet_core.config import UserError, load_config, root
from lightdet_core.evaluate import coco_metrics, detect_pack
from lightdet_core.machinery.files import write_json
from lightdet_core.machinery.packs import read_truth
from lightdet_core.machinery.weights import load_imagenet
from lightdet_core.model import Backbone
from lightdet_tools.cost import gpu_bundle
from lightdet_tools.data.pack import build
from lightdet_tools.table1.nanodet import load_nanodet

NANODET, MINICOCO = os.environ.get("LIGHTDET_NANODET"), os.environ.get("LIGHTDET_MINICOCO")


@pytest.fixture
def photographs(tmp_path):
    """A wide one and a small one, as a profile's data; the config."""
    folder = tmp_path / "data"
    folder.mkdir()
    ramp = np.linspace(0, 255, 800 * 400 * 3).reshape(400, 800, 3).astype(np.uint8)
    Image.fromarray(ramp).save(folder / "wide.png")
    Image.fromarray(ramp[:50, :100]).save(folder / "small.png")
    images = [
        {"id": 7, "file_name": "wide.png", "width": 800, "height": 400},
        {"id": 3, "file_name": "small.png", "width": 100, "height": 50},
    ]
    boxes = [
        {"id": 1, "image_id": 7, "category_id": 5, "bbox": [100, 40, 200, 80], "iscrowd": 1},
        {"id": 2, "image_id": 3, "category_id": 2, "bbox": [10, 10, 20, 30]},
        {"id": 3, "image_id": 7, "category_id": 9, "bbox": [0, 0, 50, 50]},
    ]
    categories = [{"id": i, "name": n} for i, n in ((2, "a"), (5, "b"), (9, "c"))]
    coco = {"images": images, "annotations": boxes, "categories": categories}
    write_json(folder / "both.json", coco)
    config = load_config("g3", "custom")
    paths = {"images": str(folder), "train_annotations": str(folder / "both.json")}
    data = dataclasses.replace(config.data, pack_size=416, classes=("a", "b"), **paths)
    return dataclasses.replace(config, data=data)


def test_pictures_shrink_and_boxes_follow(photographs, tmp_path):
    counts = gpu_bundle.pack_split(photographs, "train", tmp_path / "out", silent)
    assert counts == {"images": 2, "boxes": 2}
    coco = read(tmp_path / "out/annotations/train.json")
    assert coco["images"] == [
        {"id": 7, "file_name": "7.avif", "width": 416, "height": 208},
        {"id": 3, "file_name": "3.avif", "width": 100, "height": 50},
    ]
    boxes = {a["image_id"]: a for a in coco["annotations"]}
    assert boxes[7]["bbox"] == pytest.approx([52, 20.8, 104, 41.6])
    assert boxes[7]["iscrowd"] == 1 and boxes[7]["category_id"] == 5
    assert boxes[3]["bbox"] == [10, 10, 20, 30] and boxes[3]["iscrowd"] == 0
    assert coco["categories"] == [{"id": 2, "name": "a"}, {"id": 5, "name": "b"}]
    for image in coco["images"]:
        with Image.open(tmp_path / "out" / "images" / "train" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) and picture.format == "AVIF"


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_bundle, "prepare", lambda config, progress: None)
    monkeypatch.setattr(gpu_bundle, "pack_split", lambda *_: {"images": 0, "boxes": 0})
    lines = []
    return gpu_bundle.bundle(tmp_path / "gpu", wheels=False, progress=lines.append), lines


def test_weights_travel_in_half_precision(made):
    folder, lines = made
    assert lines[-1].endswith("MiB")
    for backbone in ("lite0", "lite1", "lite2"):
        path = folder / "imagenet" / f"{backbone}.safetensors"
        state = load_file(path)
        exact = load_imagenet(backbone, True, Backbone(backbone, "relu6").net.state_dict())
        assert state.keys() == exact.keys()  # no classifier, which nothing needs
        for name, value in state.items():
            wanted = exact[name].half() if exact[name].is_floating_point() else exact[name]
            assert torch.equal(value, wanted) and torch.isfinite(value).all(), name
    assert set(read(folder / "manifest.json")["data"]) == set(gpu_bundle.PROFILES)
    assert subprocess.run(["bash", "-n", folder / "run"]).returncode == 0


def test_too_large_a_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_bundle, "LIMIT", 2**20)
    with pytest.raises(UserError, match=r"gpu: 2\d\.\d MiB, with .*at most 1 and 64 MiB may"):
        gpu_bundle.bundle(tmp_path / "gpu", (), wheels=False, progress=silent)
    monkeypatch.undo()
    monkeypatch.setattr(gpu_bundle, "checkout_bytes", lambda: 50 * 2**20)
    with pytest.raises(UserError, match=r"gpu: 2\d\.\d MiB, with the checkout 7\d\.\d MiB"):
        gpu_bundle.bundle(tmp_path / "gpu", (), wheels=False, progress=silent)


def test_the_checkout_leaves_room_for_what_make_gpu_takes_along():
    """44.9 MiB of pictures, weights and wheels, which take a minute to make."""
    assert gpu_bundle.checkout_bytes() < gpu_bundle.TREE_LIMIT - 45.0 * 2**20


def test_what_the_results_say_of_the_pictures_is_what_is_done():
    text = " ".join((root() / "results/gpu/README.md").read_text().split())
    said = "those for training at quality {train}, those for evaluation at {val},"
    assert said.format(**gpu_bundle.QUALITY) in text


def test_wheels_are_the_locked_ones(tmp_path, monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        return SimpleNamespace(returncode=len(commands) - 1, stderr="…\nno network")

    monkeypatch.setattr(gpu_bundle.subprocess, "run", run)
    gpu_bundle.fetch_wheels(tmp_path)
    locked = (root() / "requirements.txt").read_text().split()
    wheels = [word for word in commands[0] if "==" in word]
    assert len(wheels) == len(gpu_bundle.WHEELS) and set(wheels) <= set(locked)
    with pytest.raises(UserError, match=r"no wheels of .*pycocotools==.*: no network"):
        gpu_bundle.fetch_wheels(tmp_path)


@pytest.mark.skipif(not (NANODET and MINICOCO), reason="LIGHTDET_NANODET and _MINICOCO are unset")
def test_pictures_as_they_travel_cost_no_accuracy(tmp_path):
    """A public network finds as much in them as in the originals."""
    config = load_config("g3", "minicoco416")
    gpu_bundle.pack_split(config, "val", tmp_path / "small", silent)
    model = load_nanodet(*(Path(NANODET) / f"nanodet-m.{end}" for end in ("param", "bin")))
    found = {}
    for name, annotations, images in (
        ("original", *gpu_bundle.split_paths(config, "val")),
        ("travelling", tmp_path / "small/annotations/val.json", tmp_path / "small/images/val"),
    ):
        pack = build(annotations, images, tmp_path / name, 416, progress=silent)
        detections = detect_pack(model, pack)
        found[name] = coco_metrics(read_truth(pack), detections)["AP"]
    print(found)
    assert found["original"] > 0.15
    assert abs(found["travelling"] - found["original"]) < 0.003
