"""benchmark.py: what is timed against ours does the same work; the plan's numbers add up."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_augment import STILL, painted
from torch import nn

from lightdet_core import benchmark
from lightdet_core.config import all_runs, load_config, read_params
from lightdet_core.datasets import DataError, write_json
from lightdet_core.model import LightDet
from lightdet_core.pack import build, read_annotations

CPU = torch.device("cpu")
WIDE = (64, 48)  # on a canvas of 64: its pixels are not resampled


def config(augment=STILL, size=64, batch_size=4, **train):
    full = load_config("c0", "demo")
    model = dataclasses.replace(full.model, num_classes=8, input_size=size)
    train = dataclasses.replace(full.train, batch_size=batch_size, **train)
    return dataclasses.replace(full, model=model, train=train, augment=augment)


@pytest.fixture
def files(tmp_path):
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


# The usual way


def test_from_files_sees_the_same_objects(files, tmp_path):
    """Without warp, flip and colour both ways give the same pixels, boxes and labels."""
    pack = build(*files, tmp_path / "pack", 64, progress=lambda line: None)
    ours = benchmark.training_batch(pack, config(), 3, 1, "cpu")
    usual = benchmark.augment_from_files(
        read_annotations(files[0]), files[1], config(), seed=3, step=1
    )
    torch.testing.assert_close(usual.images, ours.images.contiguous(), atol=0.51, rtol=0)
    for row in range(4):
        (mine, labels), (others, other_labels) = (
            (b.gt_boxes[row][b.gt_mask[row]], b.gt_labels[row][b.gt_mask[row]])
            for b in (ours, usual)
        )
        torch.testing.assert_close(mine, others, atol=1e-3, rtol=0)
        assert labels.tolist() == other_labels.tolist() and len(labels) in (1, 2)


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
    batch = benchmark.training_batch(painted(8, 64, 0), settings, 0, 0, "cpu")
    torch.manual_seed(0)
    model = LightDet(settings.model).eval()
    with torch.no_grad():
        logits = model(batch.images)
        single = [
            (tuple(x[i : i + 1] for x in logits), type(batch)(*(x[i : i + 1] for x in batch)))
            for i in range(4)
        ]
        losses = [float(benchmark.loss_at_once(model, *one, settings)) for one in single]
        found = float(benchmark.loss_by_image(model, logits, batch, settings))
    assert len(set(losses)) == 4 and min(losses) > 0
    assert found == pytest.approx(sum(losses) / 4, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_optimizer_that_is_not_fused_learns_the_same(optimizer):
    settings = config(optimizer=optimizer, lr=1e-3)
    batch = benchmark.made_up_batch(settings, 2, CPU)
    learners = [benchmark.make_learner(settings, CPU, fused=fused) for fused in (True, False)]
    before = [p.clone() for p in learners[0].model.parameters()]
    for learner in learners:
        benchmark.learn(learner, batch, settings, 0, benchmark.loss_at_once)
    assert [learner.optimizer.param_groups[0]["fused"] for learner in learners] == [True, None]
    ours, usual = (list(learner.model.parameters()) for learner in learners)
    torch.testing.assert_close(ours, usual, atol=1e-6, rtol=1e-5)
    assert any((a - b).abs().max() > 1e-5 for a, b in zip(before, ours, strict=True))


@pytest.mark.parametrize("name", ["step", "compare"])
def test_what_is_written(files, tmp_path, monkeypatch, name):
    build(*files, tmp_path / "pack", 64, progress=lambda line: None)
    monkeypatch.setattr(benchmark, "split_paths", lambda *_: files)
    monkeypatch.setattr(benchmark, "pack_paths", lambda *_: tmp_path / "pack")
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = "benchmark --profile custom --batch-size 2 --input-size 64 --steps 1"
    monkeypatch.setattr("sys.argv", command.split() + ["--compare"] * (name == "compare"))
    benchmark.main()
    found = json.loads((tmp_path / f"results/custom/benchmarks/{name}.json").read_text())
    times, shares = found["milliseconds"], found["share"]
    whole = times["ours"] if name == "compare" else sum(times.values())
    assert min(times.values()) > 0
    assert shares == pytest.approx({k: v / whole for k, v in times.items()}, abs=1e-3)
    assert found["images_per_second"] == pytest.approx(2000 / whole, rel=1e-2)
    assert len(times) == 5


# The plan


def test_saved_bytes_of_a_small_network():
    """Autograd keeps the input and ReLU's result, which the next layer shares; not the weights."""
    net, x = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(5, 16)
    assert benchmark.saved_bytes(lambda: net(x), net.parameters()) == 4 * 5 * (16 + 8)
    own = 4 * 8 * 2  # the second layer's weight, for the gradient of its input
    assert benchmark.saved_bytes(lambda: net(x), []) == 4 * 5 * (16 + 8) + own


@pytest.mark.parametrize(("optimizer", "slots"), [("sgd", 1), ("adamw", 2)])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_state_bytes(optimizer, slots, ema):
    settings = config(optimizer=optimizer, ema_decay=ema)
    learner = benchmark.make_learner(settings, CPU)
    batch = benchmark.made_up_batch(settings, 1, CPU)
    benchmark.learn(learner, batch, settings, 0, benchmark.loss_at_once)
    parameters = [p.numel() for p in learner.model.parameters()]
    wanted = 4 * sum(parameters) * (2 + slots) + sum(b.nbytes for b in learner.model.buffers())
    if optimizer == "adamw":
        wanted += 4 * len(parameters)  # each counts its steps
    if ema:
        wanted += sum(x.nbytes for x in learner.model.state_dict().values())
    assert benchmark.state_bytes(learner) == wanted


@pytest.fixture
def one_step(monkeypatch):
    """Speed does not matter here."""
    monkeypatch.setattr(benchmark, "PLAN_STEPS", 1)
    monkeypatch.setattr(benchmark, "PLAN_WARM_UP", 0)


def test_memory_grows_by_what_an_image_needs(one_step):
    """From one image and two to six more: what autograd keeps of a real batch of six."""
    settings = config(batch_size=2)
    more = dataclasses.replace(settings, train=dataclasses.replace(settings.train, batch_size=8))
    found = [benchmark.measure(run, None, CPU) for run in (settings, more)]
    learner = benchmark.make_learner(settings, CPU)
    batch = benchmark.made_up_batch(settings, 6, CPU)
    kept = benchmark.saved_bytes(
        lambda: benchmark.loss_at_once(learner.model, learner.model(batch.images), batch, settings),
        [*learner.model.parameters(), *learner.model.buffers()],
    )
    assert found[1].memory - found[0].memory == pytest.approx(kept, rel=0.01)
    assert found[0].memory > kept / 3 + 12 * sum(p.numel() for p in learner.model.parameters())
    assert min(cost.images_per_second for cost in found) > 0


def test_teacher_needs_its_weights_and_no_activations(one_step):
    """But for logits and what the loss makes of them: some numbers per cell, class and bin."""
    settings = config(batch_size=2)
    taught = load_config("self-ld", "demo").distill
    more = (
        benchmark.measure(dataclasses.replace(settings, distill=taught), settings.model, CPU).memory
        - benchmark.measure(settings, None, CPU).memory
    )
    weights = sum(x.nbytes for x in LightDet(settings.model).state_dict().values())
    logits = 4 * 84 * (8 + 4 * 11) * 2  # bytes of float32 of two images
    assert weights < more < weights + 10 * logits


def test_made_up_batch_holds_objects():
    batch = benchmark.made_up_batch(config(size=96), 3, CPU)
    assert batch.images.shape == (3, 3, 96, 96) and batch.images.max() > 200
    low, high = batch.gt_boxes.split(2, -1)
    assert (low < high).all() and low.min() >= 0 and high.max() <= 96
    assert batch.gt_mask.all() and batch.gt_labels.max() < 8


def test_hours():
    settings = load_config("g1", "coco")  # 170 epochs of 924 steps of 128
    assert benchmark.hours(settings, 118_287, 1000.0) == pytest.approx(170 * 924 * 128 / 3.6e6)


def test_packs_of_coco():
    """The train pack at 640 px, and one pack of val2017 for each of the two input sizes."""
    configs = [load_config(name, "coco") for name in ("g1", "g2", "g3")]
    images, val, _ = benchmark.data_counts(configs[0])
    wanted = 3 * (118_287 * 640**2 + 5_000 * (320**2 + 416**2))
    assert benchmark.pack_bytes(configs, images, val) == wanted
    assert "20.4 GB to download" in benchmark.disk_line(configs, images, val)


@pytest.fixture
def measured(monkeypatch):
    """Stands in for the measurement; holds what was asked for."""
    asked = []

    def measure(run, teacher, device):
        asked.append((run, teacher))
        return benchmark.Cost(1000.0 if run.model.backbone == "lite0" else 500.0, 12_340_000_000)

    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return asked


def test_plan_of_coco(measured):
    lines = []
    total = benchmark.plan("coco", progress=lines.append)
    rows = {line.split()[0]: line.split() for line in lines}
    runs = all_runs(read_params())
    assert set(runs) < set(rows)
    wanted = "g1 lite0 relu6 gflv1 320 128 fp32 118,287 170 157,080 1000.0 5.59 12.34 GB"
    assert " ".join(rows["g1"]) == wanted
    assert rows["g3"][6] == "fp16*"
    seconds = 170 * 924 * 128 * (1 / 1000 + (len(runs) - 1) / 500)
    assert total == pytest.approx(seconds / 3600)
    assert lines[-1] == f"total: {total:,.1f} hours on this machine, one process"
    # without a GPU fp16 is timed in fp32, and nothing downloads ImageNet weights
    assert {run.train.precision for run, _ in measured} == {"fp32"}
    teachers = [teacher and teacher.backbone for run, teacher in measured]
    assert teachers.count("lite2") == 1 and teachers.count(None) == len(runs) - 1


def test_plan_measures_equal_networks_once(measured):
    lines = []
    benchmark.plan("coco", with_ladder=True, progress=lines.append)
    params = read_params()
    assert {*all_runs(params), *params["ladder"]} < {line.split()[0] for line in lines}
    keys = [(run.model, teacher) for run, teacher in measured]  # all else is equal there
    assert len(keys) == len(set(keys))


def test_plan_of_what_is_too_large(measured, monkeypatch):
    def measure(run, teacher, device):
        if run.model.backbone == "lite2":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return benchmark.Cost(500.0, 10**9)

    monkeypatch.setattr(benchmark, "measure", measure)
    lines = []
    total = benchmark.plan("coco", progress=lines.append)
    others = len(all_runs(read_params())) - 1
    assert total == pytest.approx(others * 170 * 924 * 128 / 500 / 3600)
    assert [line.split()[0] for line in lines if line.endswith("too large")] == ["teacher"]
    assert "lower train.batch_size" in lines[-2]


def test_plan_without_data(measured, monkeypatch, tmp_path):
    """The demo's numbers stand in params.yaml; of other data nothing is known before the packs."""
    monkeypatch.setattr(benchmark, "pack_paths", lambda *_: tmp_path / "none")
    settings = load_config("c0", "demo")
    assert benchmark.data_counts(settings) == (settings.data.num_train, settings.data.num_val, 7)
    with pytest.raises(DataError, match=r"bccd: .*lightdet_core.pack --profile bccd"):
        benchmark.plan("bccd", progress=lambda line: None)
    assert measured == []


def test_plan_counts_what_is_packed(files, tmp_path, monkeypatch):
    build(*files, tmp_path / "pack", 64, progress=lambda line: None)
    monkeypatch.setattr(benchmark, "pack_paths", lambda *_: tmp_path / "pack")
    assert benchmark.data_counts(load_config("c0", "custom")) == (8, 8, 2)
