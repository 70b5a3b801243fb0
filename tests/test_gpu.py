"""gpu.py and gpu_steps.py without a GPU: what is compared, counted, kept when something breaks."""

import dataclasses
import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny

from lightdet_core import gpu, gpu_steps
from lightdet_core.config import UserError, load_config
from lightdet_core.files import write_json
from lightdet_core.gpu_steps import GpuError, Product
from lightdet_core.pack import open_pack, pack_paths

CPU = torch.device("cpu")


def compared(device, here):
    config = tiny(model={"num_classes": 7, "head": "gflv2", "activation": "silu"})
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, drop_path=0.0))
    pack = open_pack(pack_paths(config, "train", 64))
    return gpu_steps.compare_devices(config, pack, device, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_losses_and_gradients_as_a_cpu_does(here):
    with gpu_steps.exact():
        found = compared(torch.device("cuda"), here)
    assert max(found["device"].values()) < gpu_steps.CLOSE


def test_float32_is_compared_with_float64(here, monkeypatch):
    found = compared(CPU, here)
    assert found["device"] == found["cpu"] and set(found) == {"device", "cpu"}
    assert set(found["cpu"]) == {"loss_qfl", "loss_giou", "loss_dfl", "gradient"}
    assert 0 < max(found["cpu"].values()) < gpu_steps.CLOSE
    right = gpu_steps.train.batch_loss

    def wrong(model, cls_logits, *args):  # one logit in a thousand
        factor = 1.001 if cls_logits.dtype == torch.float32 else 1.0
        return right(model, cls_logits * factor, *args)

    monkeypatch.setattr(gpu_steps.train, "batch_loss", wrong)
    found = compared(CPU, here)
    assert found["device"]["gradient"] > gpu_steps.CLOSE
    assert found["device"]["loss_qfl"] > gpu_steps.CLOSE


def test_the_pruned_layers_are_those_of_the_paper():
    shapes = gpu_steps.products()
    assert sum(shape.layers for shape in shapes) == 46
    weights = sum(s.layers * s.out_channels * s.in_channels for s in shapes)
    assert weights == 3_595_904  # method's count for Lite1@416
    assert {shape.pixels for shape in shapes} == {208**2, 104**2, 52**2, 26**2, 13**2}
    assert Product(320, 1152, 169, 1) in shapes  # the last block's projection


def test_a_product_is_timed_and_right():
    found = gpu_steps.time_product(Product(16, 32, 100, 1), 1, "fp32", CPU)
    assert set(found) == {"dense"} and found["dense"]["ms"] > 0
    assert found["dense"]["differs by"] == 0  # whole numbers


def test_sums_take_a_layer_dense_where_a_library_cannot():
    rows = [
        {"images": 1, "kind": "fp16", "layers": 2, "dense": {"ms": 1.0}, "CUTLASS": {"ms": 2.0}},
        {"images": 1, "kind": "fp16", "layers": 3, "dense": {"ms": 0.5}},
        {"images": 128, "kind": "int8", "layers": 1, "dense": {"ms": 4.0}},
    ]
    first, second = gpu_steps.sums_of(rows)
    assert first == {
        "images": 1, "kind": "fp16", "layers": 5, "dense": 3.5, "CUTLASS": 5.5, "CUTLASS layers": 2
    }  # fmt: skip
    assert second == {"images": 128, "kind": "int8", "layers": 1, "dense": 4.0}


@pytest.mark.parametrize("name", ["c0", "yolov4_tiny", "nanodet_m"])
@torch.inference_mode()
def test_systems_without_batch_norm_compute_the_same(name):
    model, images = gpu_steps.system(name)
    wanted = model(images)
    assert min(float(x.std()) for x in wanted) > 1e-3  # something of the image arrives
    without = gpu_steps.folded(model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in without.modules())
    assert max(map(gpu_steps.difference, without(images), wanted)) < 1e-3
    wrong = [x + 0.1 * x.std() * torch.randn_like(x) for x in wanted]
    assert max(map(gpu_steps.difference, wrong, wanted)) > 0.1


@pytest.fixture
def folder(tmp_path):
    write_json(
        tmp_path / "bundle" / "manifest.json",
        {"commit": "c", "dirty": False, "data": {"smoke": {}}},
    )
    return tmp_path / "bundle"


def test_the_data_of_a_profile_are_those_of_the_bundle(folder):
    params = gpu_steps.params_of(folder)
    config = gpu_steps.config_of(folder, "g5", "smoke_gpu", 3, params)
    wanted = load_config("g5", "smoke", 3)
    assert config.data.source == "folder" and config.data.pack_size == wanted.data.pack_size
    assert config.data.val_annotations == str(folder / "smoke" / "annotations" / "val.json")
    assert config.model.pretrained == str(folder / "imagenet" / "lite1.safetensors")
    assert dataclasses.replace(config.model, pretrained=False) == wanted.model
    assert config.train == wanted.train and config.distill == wanted.distill


def test_a_step_that_breaks_or_hangs_ends_nothing_else(folder, tmp_path, monkeypatch):
    programs = {"data": "print('fine')", "checks": "1 / 0", "speed": "import time; time.sleep(60)"}
    monkeypatch.setattr(gpu, "STEPS", {"data": 20.0, "checks": 20.0, "speed": 6.0, "sparse": 20.0})

    def command(folder, out, small, flag, name, *rest):
        return [sys.executable, "-c", programs.get(name, "print('still here')")]

    monkeypatch.setattr(gpu, "_command", command)
    steps = gpu.drive(folder, tmp_path / "out", 60, small=True)
    assert [step["outcome"] for step in steps] == [
        "done",
        "failed with exit code 1; see log.txt",
        "ended after 6 s; what it had written is kept",
        "done",
    ]
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "fine" in log and "ZeroDivisionError" in log and "still here" in log
    assert json.loads((tmp_path / "out" / "steps.json").read_text())["steps"] == steps
    steps = gpu.drive(folder, tmp_path / "out", 4, small=True)
    assert {step["outcome"] for step in steps} == {"no time was left"}


def job_of(folder, seconds, keep):
    return gpu_steps.Job(folder, folder, CPU, False, seconds, keep)


def test_rows_of_runs_are_whole(folder, monkeypatch):
    """A seed with a failed run has no row; a row that would not be finished is not begun."""
    clock, kept = iter(range(0, 10_000, 10)), []
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    def train_apart(job, profile, seed, threads, run):
        if seed == 1 and run == "g3":
            raise GpuError("g3 failed: no luck")
        return {"experiment": run, "seed": seed}

    monkeypatch.setattr(gpu, "_train_apart", train_apart)
    gpu.training(job_of(folder, 100.0, kept.append))
    found = kept[-1]
    assert [(r["seed"], r["experiment"]) for r in found["runs"]] == [
        (seed, run) for seed in (0, 2) for run in gpu.RUNS
    ]
    assert found["left out"][0] == "smoke_gpu seed 1: g3 failed: no luck"
    assert found["left out"][1].startswith("smoke_gpu seed 3: a row took 10 s")


def test_g5_waits_for_the_teacher_of_seed_0(folder, monkeypatch):
    order = []

    def train_apart(job, profile, seed, threads, run):
        if run == "teacher":
            time.sleep(0.3)
        order.append(run)
        return {}

    monkeypatch.setattr(gpu, "_train_apart", train_apart)
    gpu.train_row(job_of(folder, 1.0, None), "smoke_gpu", 0, 6)
    assert order.index("teacher") < order.index("g5") and len(order) == 6


def test_what_is_missing_is_named(folder, tmp_path, monkeypatch):
    for words, message in (
        (["--bundle", str(tmp_path), "--out", "x"], "no manifest.json in it; `make gpu`"),
        (["--bundle", str(folder), "--out", "x"], "torch sees no GPU here"),
    ):
        monkeypatch.setattr(sys, "argv", ["gpu", *words])
        monkeypatch.setattr(gpu, "best_device", lambda: CPU)
        with pytest.raises(UserError, match=message):
            gpu.main()
