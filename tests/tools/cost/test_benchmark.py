"""benchmark.py: what is timed does the same work as a step of training."""

import dataclasses
import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conftest import STILL, painted, use_root
from PIL import Image

from lightdet_core import engine
from lightdet_core.augment import training_batch
from lightdet_core.config import load_config
from lightdet_core.machinery.files import write_json
from lightdet_core.model import LightDet
from lightdet_tools import cli
from lightdet_tools.cost import benchmark
from lightdet_tools.data.annotations import read_annotations
from lightdet_tools.data.pack import build

CPU = torch.device("cpu")
WIDE = (64, 48)  # on a canvas of 64: its pixels are not resampled


def config(augment=STILL, size=64, batch_size=4, **train):
    full = load_config("c0", "demo")
    model = dataclasses.replace(full.model, num_classes=8, input_size=size)
    train = dataclasses.replace(full.train, batch_size=batch_size, **train)
    return dataclasses.replace(full, model=model, train=train, augment=augment)


def write_files(tmp_path):
    """Eight pictures of noise with two objects each, a crowd and a sliver: annotations, folder."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    boxes = [[4.0, 6.0, 20.0, 30.0], [30.0, 10.0, 25.0, 8.0], [1, 1, 9, 9], [50.0, 5.0, 1.5, 20.0]]
    for i in range(8):
        name = f"{i}.png"
        pixels = rng.integers(0, 256, (*WIDE[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        images.append({"id": i, "file_name": name, "width": WIDE[0], "height": WIDE[1]})
        for k, box in enumerate(boxes[: 1 + i % 4]):
            known = {"id": 4 * i + k, "image_id": i, "category_id": 1 + (i + k) % 2}
            annotations.append(known | {"bbox": box, "iscrowd": int(k == 2)})
    path = tmp_path / "train.json"
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})
    return path, tmp_path


files = pytest.fixture(write_files)


def drawn_batch(settings):
    return training_batch(painted(8, 64, 0), settings, 0, 0, CPU)


# A step


def test_every_part_of_a_step_is_timed_in_its_order():
    settings, names = config(batch_size=2, grad_clip=1.0), []
    state = benchmark.untrained(settings, CPU)
    part = lambda name: nullcontext(names.append(name))  # noqa: E731
    for step in range(2):
        benchmark.learn(state, drawn_batch(settings), settings, step, part=part)
    assert names == ["forward", "assignment and loss", "backward", "optimizer"] * 2


# The usual way


def test_from_files_sees_the_same_objects(files, tmp_path):
    """Without warp, flip and colour both ways give the same pixels, boxes and labels."""
    pack = build(*files, tmp_path / "pack", 64, progress=lambda line: None)
    ours = training_batch(pack, config(), 3, 1, "cpu")
    truth = read_annotations(files[0])
    usual = benchmark.augment_from_files(truth, files[1], config(), seed=3, step=1)
    torch.testing.assert_close(usual.images, ours.images.contiguous(), atol=0.51, rtol=0)
    for row in range(4):
        masks = ours.gt_mask[row], usual.gt_mask[row]
        mine, others = ours.gt_boxes[row][masks[0]], usual.gt_boxes[row][masks[1]]
        torch.testing.assert_close(mine, others, atol=1e-3, rtol=0)
        labels = ours.gt_labels[row][masks[0]].tolist()
        assert labels == usual.gt_labels[row][masks[1]].tolist() and len(labels) in (1, 2)


def test_from_files_moves_boxes_with_pixels(files):
    """A white box on black stays where its annotation says, whatever the warp does to it."""
    truth = read_annotations(files[0])
    for i in range(8):
        pixels = np.zeros((*WIDE[::-1], 3), np.uint8)
        pixels[6:36, 4:24] = 255
        Image.fromarray(pixels).save(files[1] / f"{i}.png")
    moving = dataclasses.replace(STILL, warp_probability=1.0, flip=0.5, scale=(0.8, 2.0))
    seen = set()
    for step in range(3):
        batch = benchmark.augment_from_files(truth, files[1], config(moving, 96), 0, step)
        assert batch.images.shape == (4, 3, 96, 96) and batch.images.dtype == torch.float32
        assert batch.gt_boxes.min() >= 0 and batch.gt_boxes.max() <= 96
        assert not batch.gt_boxes[~batch.gt_mask].any()
        for image, boxes in zip(batch.images, batch.gt_boxes, strict=True):
            y, x = torch.where(image[0] > 127)
            hull = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
            torch.testing.assert_close(hull, boxes[0], atol=1.0, rtol=0)
            seen.add(tuple(hull.tolist()))
    assert len(seen) > 8


def test_loss_by_image_is_the_mean_over_images():
    """Of batches of one; both ways agree on such a batch."""
    settings = config()
    batch = drawn_batch(settings)
    torch.manual_seed(0)
    model = LightDet(settings.model).eval()
    with torch.no_grad():
        logits = model.logits(batch.images)
        pairs = [[benchmark._rows(x, slice(i, i + 1)) for x in (logits, batch)] for i in range(4)]
        losses = [engine.batch_loss(*pair, settings) for pair in pairs]
        found = benchmark.loss_by_image(logits, batch, settings, None)
    for name in ("loss_qfl", "loss_giou", "loss_dfl"):
        ones = [float(terms[name]) for terms in losses]
        assert len(set(ones)) == 4 and min(ones) > 0
        assert float(found[name]) == pytest.approx(sum(ones) / 4, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_optimizer_that_is_not_fused_learns_the_same(optimizer):
    settings = config(batch_size=2, optimizer=optimizer, lr=1e-3)
    batch = drawn_batch(settings)
    states = [benchmark.untrained(settings, CPU, fused=fused) for fused in (True, False)]
    before = [p.clone() for p in states[0].model.parameters()]
    for state in states:
        benchmark.learn(state, batch, settings, 0)
    assert [state.optimizer.param_groups[0]["fused"] for state in states] == [True, None]
    ours, usual = (list(state.model.parameters()) for state in states)
    torch.testing.assert_close(ours, usual, atol=1e-6, rtol=1e-5)
    assert any((a - b).abs().max() > 1e-5 for a, b in zip(before, ours, strict=True))


@pytest.mark.parametrize("name", ["step", "compare"])
def test_what_is_written(files, tmp_path, monkeypatch, name):
    pack = build(*files, tmp_path / "pack", 64, progress=lambda line: None)
    monkeypatch.setattr(benchmark, "split_paths", lambda *_: files)
    monkeypatch.setattr(benchmark, "open_split", lambda *_: pack)
    use_root(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = "benchmark --profile custom --batch-size 2 --input-size 64 --steps 1"
    cli.run(*command.split(), *["--compare"] * (name == "compare"))
    found = json.loads((tmp_path / f"results/custom/benchmarks/{name}-c0.json").read_text())
    times, shares = found["milliseconds"], found["share"]
    whole = times["ours"] if name == "compare" else sum(times.values())
    assert min(times.values()) > 0
    assert shares == pytest.approx({k: v / whole for k, v in times.items()}, abs=1e-3)
    assert found["images_per_second"] == pytest.approx(2000 / whole, rel=1e-2, abs=0.006)
    assert len(times) == (6 if name == "compare" else 5)
