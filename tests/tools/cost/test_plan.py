"""plan.py: hours, memory and disk add up."""

import dataclasses
import json
import shutil

import pytest
import torch
from conftest import use_root
from test_benchmark import CPU, config, write_files
from torch import nn

from lightdet_core.config import DataError, all_runs, load_config, read_params
from lightdet_core.engine import batch_loss, total_loss
from lightdet_core.model import LightDet
from lightdet_tools.cost import plan
from lightdet_tools.cost.benchmark import learn, untrained
from lightdet_tools.data import sources
from lightdet_tools.data.pack import build


def test_saved_bytes_of_a_small_network():
    """Autograd keeps the input and ReLU's result, which the next layer shares; not the weights."""
    net, x = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(5, 16)
    assert plan.saved_bytes(lambda: net(x), net.parameters()) == 4 * 5 * (16 + 8)
    own = 4 * 8 * 2  # the second layer's weight, for the gradient of its input
    assert plan.saved_bytes(lambda: net(x), []) == 4 * 5 * (16 + 8) + own


@pytest.mark.parametrize(("optimizer", "slots"), [("sgd", 1), ("adamw", 2)])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_state_bytes(optimizer, slots, ema):
    settings = config(optimizer=optimizer, ema_decay=ema)
    state = untrained(settings, CPU)
    learn(state, plan.made_up_batch(settings, 1, CPU), settings, 0)
    parameters = [p.numel() for p in state.model.parameters()]
    wanted = 4 * sum(parameters) * (2 + slots) + sum(b.nbytes for b in state.model.buffers())
    if optimizer == "adamw":
        wanted += 4 * len(parameters)  # each counts its steps
    if ema:
        wanted += sum(x.nbytes for x in state.model.state_dict().values())
    assert plan.state_bytes(state) == wanted


@pytest.fixture
def one_step(monkeypatch):
    """Speed does not matter here."""
    monkeypatch.setattr(plan, "STEPS", 1)
    monkeypatch.setattr(plan, "WARM_UP", 0)


def test_memory_grows_by_what_an_image_needs(one_step):
    """From one image and two to six more: what autograd keeps of a real batch of six."""
    settings = config(batch_size=2)
    more = dataclasses.replace(settings, train=dataclasses.replace(settings.train, batch_size=8))
    found = [plan.measure(run, None, CPU) for run in (settings, more)]
    state = untrained(settings, CPU)
    batch = plan.made_up_batch(settings, 6, CPU)
    kept = plan.saved_bytes(
        lambda: total_loss(batch_loss(state.model.logits(batch.images), batch, settings)),
        [*state.model.parameters(), *state.model.buffers()],
    )
    assert found[1].memory - found[0].memory == pytest.approx(kept, rel=0.01)
    assert found[0].memory > kept / 3 + 12 * sum(p.numel() for p in state.model.parameters())
    assert min(cost.images_per_second for cost in found) > 0


def test_teacher_needs_its_weights_and_no_activations(one_step):
    """But for logits and what the loss makes of them: some numbers per cell, class and bin."""
    settings = config(batch_size=2)
    taught = dataclasses.replace(settings, distill=load_config("self-ld", "demo").distill)
    more = plan.measure(taught, settings.model, CPU).memory
    more -= plan.measure(settings, None, CPU).memory
    weights = sum(x.nbytes for x in LightDet(settings.model).state_dict().values())
    logits = 4 * 84 * (8 + 4 * 11) * 2  # bytes of float32 of two images
    assert weights < more < weights + 10 * logits


def test_made_up_batch_holds_objects():
    batch = plan.made_up_batch(config(size=96), 3, CPU)
    assert batch.images.shape == (3, 3, 96, 96) and batch.images.max() > 200
    low, high = batch.gt_boxes.split(2, -1)
    assert (low < high).all() and low.min() >= 0 and high.max() <= 96
    assert batch.gt_mask.all() and batch.gt_labels.max() < 8


def test_packs_of_coco():
    """The train pack at 640 px, and one pack of val2017 for each of the two input sizes."""
    configs = [load_config(name, "coco") for name in ("g1", "g2", "g3")]
    images, val, _ = plan.data_counts(configs[0])
    wanted = 3 * (118_287 * 640**2 + 5_000 * (320**2 + 416**2))
    packs = plan.pack_bytes(configs, images, val)
    assert sum(packs) == wanted
    assert "20.4 GB to download" in plan.disk_line(configs, sum(packs))


def test_disk_and_counts_of_minicoco(monkeypatch):
    for name in ("LIGHTDET_COCO", "LIGHTDET_MINICOCO"):
        monkeypatch.delenv(name, raising=False)
    few, all_classes = (load_config("g1", name) for name in ("minicoco", "minicoco416"))
    assert plan.data_counts(few) == (2161, 300, 9)
    assert plan.data_counts(all_classes) == (2161, 300, 80)
    for name in ("LIGHTDET_COCO", "LIGHTDET_MINICOCO"):
        assert "1.1 GB to download, 1.7 GB when unpacked, and 0.0" in plan.disk_line([few], 0)
        with monkeypatch.context() as patch:
            patch.setenv(name, "somewhere")
            assert "download" not in plan.disk_line([few], 0)


def test_disk_counts_what_is_unpacked_and_what_is_there(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    monkeypatch.delenv("LIGHTDET_COCO", raising=False)
    configs = [load_config("g1", "coco")]
    unpacked = sum(about[3] for about in sources.COCO_FILES.values())
    free = unpacked + 10**9
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free, 0, free))
    assert "too little" not in plan.disk_line(configs, 10**9)
    assert "too little" in plan.disk_line(configs, 10**9 + 1)
    (tmp_path / "data/coco/packs").mkdir(parents=True)
    (tmp_path / "data/coco/other").write_bytes(b"x")  # no part of what was counted
    assert "too little" in plan.disk_line(configs, 10**9 + 1)
    (tmp_path / "data/coco/packs/part").write_bytes(b"x")
    assert "too little" not in plan.disk_line(configs, 10**9 + 1)
    monkeypatch.setenv("LIGHTDET_COCO", "somewhere")
    assert "too little" in plan.disk_line(configs, free + 2)


@pytest.fixture
def measured(monkeypatch):
    """Stands in for the measurement; holds what was asked for."""
    asked = []

    def measure(run, teacher, device):
        asked.append((run, teacher))
        return plan.Cost(1000.0 if run.model.backbone == "lite0" else 500.0, 12_340_000_000)

    monkeypatch.setattr(plan, "measure", measure)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return asked


def test_plan_of_coco(measured):
    lines = []
    total = plan.estimate("coco", progress=lines.append)
    rows = {line.split()[0]: line.split() for line in lines}
    runs = all_runs(read_params())
    assert set(runs) < set(rows)
    wanted = "g1 lite0 relu6 gflv1 320 128 fp32 118,287 170 157,080 1000.0 5.59 12.34 GB"
    assert " ".join(rows["g1"]) == wanted
    assert rows["g3"][6] == "fp16*"
    seconds = 170 * 924 * 128 * (1 / 1000 + (len(runs) - 1) / 500)
    assert total == pytest.approx(seconds / 3600)
    assert lines[-2:] == [
        f"total: {total:,.1f} hours on this machine, one process",
        "and the ladder: python -m lightdet_tools plan --ladder --profile coco",
    ]
    # without a GPU fp16 is timed in fp32, and nothing downloads ImageNet weights
    assert {run.train.precision for run, _ in measured} == {"fp32"}
    teachers = [teacher and teacher.backbone for run, teacher in measured]
    assert teachers.count("lite2") == 1 and teachers.count(None) == len(runs) - 1


def test_plan_measures_equal_networks_once(measured):
    lines = []
    plan.estimate("coco", with_ladder=True, progress=lines.append)
    assert lines[-1].startswith("total: ")
    params = read_params()
    assert {*all_runs(params), *params["ladder"]} < {line.split()[0] for line in lines}
    keys = [(run.model, teacher) for run, teacher in measured]  # all else is equal there
    assert len(keys) == len(set(keys))


def test_plan_of_what_is_too_large(measured, monkeypatch):
    def measure(run, teacher, device):
        if run.model.backbone == "lite2":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plan.Cost(500.0, 10**9)

    monkeypatch.setattr(plan, "measure", measure)
    lines = []
    total = plan.estimate("coco", progress=lines.append)
    others = len(all_runs(read_params())) - 1
    assert total == pytest.approx(others * 170 * 924 * 128 / 500 / 3600)
    assert [line.split()[0] for line in lines if line.endswith("too large")] == ["teacher"]
    assert "lower train.batch_size" in lines[-3]


def test_plan_names_the_packed_images_on_a_gpu(measured, monkeypatch):
    """Which training may copy there. Nothing is measured in another precision."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (140 * 10**9, 141 * 10**9))
    monkeypatch.setattr(plan, "hardware", lambda device: "a GPU")
    lines = []
    plan.estimate("coco", progress=lines.append)
    (line,) = (line for line in lines if line.startswith("GPU"))
    assert f"{3 * 118_287 * 640**2 / 1e9:.1f} GB of packed images" in line
    assert line.endswith("half of the 140.0 GB that are free")
    assert {run.train.precision for run, _ in measured} == {"fp32", "fp16"}
    assert not any("*" in line for line in lines)


def test_plan_without_data(measured, monkeypatch, tmp_path):
    """The demo's numbers stand in params.yaml; of other data nothing is known before the packs."""
    monkeypatch.setattr(plan, "pack_path", lambda *_: tmp_path / "none")
    settings = load_config("c0", "demo")
    assert plan.data_counts(settings) == (settings.data.num_train, settings.data.num_val, 7)
    with pytest.raises(DataError, match=r"bccd: .*lightdet pack --profile bccd"):
        plan.estimate("bccd", progress=lambda line: None)
    assert measured == []


def test_plan_counts_a_folder_of_ones_own_before_it_is_packed(tmp_path):
    images = [{"id": 5 * i, "file_name": f"{i}.png", "width": 9, "height": 9} for i in range(3)]
    truth = {"images": images, "annotations": [], "categories": [{"id": 17, "name": "cup"}]}
    (tmp_path / "train.json").write_text(json.dumps(truth))
    (tmp_path / "val.json").write_text(json.dumps(truth | {"images": images[:1]}))
    settings = load_config("c0", "custom")
    paths = {f"{split}_annotations": str(tmp_path / f"{split}.json") for split in ("train", "val")}
    data = dataclasses.replace(settings.data, images=str(tmp_path), **paths)
    assert plan.data_counts(dataclasses.replace(settings, data=data)) == (3, 1, 1)
    some = dataclasses.replace(data, classes=("dog",))
    with pytest.raises(DataError, match=r"train\.json: data\.classes: dog"):
        plan.data_counts(dataclasses.replace(settings, data=some))
    coco = load_config("c0", "coco")
    data = dataclasses.replace(coco.data, classes=("dog",))
    assert plan.data_counts(dataclasses.replace(coco, data=data)) == (118_287, 5_000, 1)


def test_plan_counts_what_is_packed(tmp_path, monkeypatch):
    build(*write_files(tmp_path), tmp_path / "pack", 64, progress=lambda line: None)
    monkeypatch.setattr(plan, "pack_path", lambda *_: tmp_path / "pack")
    assert plan.data_counts(load_config("c0", "custom")) == (8, 8, 2)
