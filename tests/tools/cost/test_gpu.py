"""gpu.py and gpu_steps.py without a GPU: what is compared, counted, kept when something breaks."""

import dataclasses
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import HERE, tiny

from lightdet_core import engine
from lightdet_core.config import UserError, load_config
from lightdet_core.machinery.files import write_json
from lightdet_core.machinery.packs import open_pack, pack_path
from lightdet_tools import cli
from lightdet_tools.cost import gpu, gpu_bundle, gpu_networks, gpu_steps
from lightdet_tools.cost.gpu_networks import Product

CPU = torch.device("cpu")


def compared(device, here):
    config = tiny(model={"num_classes": 7, "head": "gflv2", "activation": "silu"})
    config = config.with_model(drop_path=0.0)
    pack = open_pack(pack_path(config, "train"))
    return gpu_steps.compare_devices(config, pack, device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_losses_and_gradients_as_a_cpu_does(here):
    with gpu_steps.exact():
        found = compared(torch.device("cuda"), here)
    for key, off in found["device"].items():
        assert off <= max(gpu_steps.CLOSE, 5 * found["cpu"][key]), key


def test_float32_is_compared_with_float64(here, monkeypatch):
    found = compared(CPU, here)
    assert found["device"] == found["cpu"] and set(found) == {"device", "cpu"}
    assert set(found["cpu"]) == {"loss_qfl", "loss_giou", "loss_dfl", "gradient"}
    assert 0 < max(found["cpu"].values()) < 10 * gpu_steps.CLOSE
    right = engine.batch_loss

    def wrong(logits, *args):
        factor = 1.01 if logits.cls.dtype == torch.float32 else 1.0
        return right(logits._replace(cls=logits.cls * factor), *args)

    monkeypatch.setattr(engine, "batch_loss", wrong)
    off = compared(CPU, here)["device"]
    assert min(off["gradient"], off["loss_qfl"]) > 20 * gpu_steps.CLOSE


def test_the_tests_for_a_gpu_are_all_run_there():
    files = (HERE / "tests").rglob("test_*.py")
    marked = {path for path in files if "@pytest.mark.gpu" + chr(10) in path.read_text()}
    assert marked == {HERE / "tests" / name for name in gpu_steps.GPU_TESTS}


@pytest.mark.parametrize(
    ("code", "last", "device", "found"),
    [
        (0, "== 3 passed in 20.1s ==", "cuda", None),
        (1, "== 1 failed, 2 passed in 20.1s ==", "cuda", "exit code 1, 1 failed"),
        (0, "== 3 skipped, 50 deselected in 1.1s ==", "cuda", "exit code 0, 3 skipped"),
        (0, "== 2 passed, 1 skipped in 9.1s ==", "cuda", "2 passed, 1 skipped"),
        (0, "== 3 skipped, 50 deselected in 1.1s ==", "cpu", None),
        (4, "ERROR: file or directory not found", "cpu", "exit code 4"),
    ],
)
def test_tests_that_fail_or_do_not_run_fail_the_step(
    folder, monkeypatch, code, last, device, found
):
    done = SimpleNamespace(returncode=code, stdout=f"collected\n{last}\n", stderr="")
    monkeypatch.setattr(gpu_steps.subprocess, "run", lambda *_, **__: done)
    close = {"loss_qfl": 1e-6, "gradient": 3e-4}
    off = {"device": close, "cpu": {"loss_qfl": 1e-6, "gradient": 1e-4}}
    monkeypatch.setattr(gpu_steps, "compare_devices", lambda *_: off)
    monkeypatch.setattr(gpu_steps, "open_split", lambda config, split: None)
    monkeypatch.setattr(gpu_steps, "with_classes", lambda config, pack: config)
    kept = []
    job = job_of(folder, 60.0, kept.append)._replace(device=torch.device(device))
    if found:
        with pytest.raises(UserError, match=found):
            gpu_steps.checks(job)
    else:
        gpu_steps.checks(job)
        off["device"] = close | {"gradient": 6e-4}  # five times the CPU's own would be 5e-4
        with pytest.raises(UserError, match="gradient differ too much"):
            gpu_steps.checks(job)
        off["device"] = close | {"loss_qfl": float("nan")}
        with pytest.raises(UserError, match="loss_qfl differ too much"):
            gpu_steps.checks(job)
    assert kept[-1]["tests"] == last.strip("= ")


def test_the_pruned_layers_are_those_of_the_paper():
    shapes = gpu_networks.products()
    assert sum(shape.layers for shape in shapes) == 46
    weights = sum(s.layers * s.out_channels * s.in_channels for s in shapes)
    assert weights == 3_595_904  # method's count for Lite1@416
    assert {shape.pixels for shape in shapes} == {208**2, 104**2, 52**2, 26**2, 13**2}
    assert Product(320, 1152, 169, 1) in shapes  # the last block's projection


def test_a_product_is_timed_and_right():
    found = gpu_networks.time_product(Product(16, 32, 100, 1), 1, "fp32", CPU)
    assert set(found) == {"dense"} and found["dense"]["ms"] > 0
    assert found["dense"]["differs by"] == 0  # whole numbers


def test_sums_take_a_layer_dense_where_a_library_cannot():
    rows = [
        {"images": 1, "kind": "fp16", "layers": 2, "dense": {"ms": 1.0}, "CUTLASS": {"ms": 2.0}},
        {"images": 1, "kind": "fp16", "layers": 3, "dense": {"ms": 0.5}},
        {"images": 128, "kind": "int8", "layers": 1, "dense": {"ms": 4.0}},
    ]
    first, second = gpu_networks.sums_of(rows)
    assert first == {
        "images": 1, "kind": "fp16", "layers": 5, "dense": 3.5, "CUTLASS": 5.5, "CUTLASS layers": 2
    }  # fmt: skip
    assert second == {"images": 128, "kind": "int8", "layers": 1, "dense": 4.0}
    failed = {"images": 1, "kind": "int8", "layers": 1, "not possible": {"dense": "no"}}
    assert gpu_networks.sums_of([failed])[0]["layers"] == 0


@pytest.mark.parametrize("name", ["c0", "yolov4_tiny", "nanodet_m"])
@torch.inference_mode()
def test_systems_without_batch_norm_compute_the_same(name):
    model, images = gpu_networks.system(name)
    wanted = model(images)
    assert min(float(x.std()) for x in wanted) > 1e-3  # something of the image arrives
    without = gpu_networks.folded(model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in without.modules())
    assert max(map(gpu_networks.difference, without(images), wanted)) < 1e-3
    wrong = [x + 0.1 * x.std() * torch.randn_like(x) for x in wanted]
    assert max(map(gpu_networks.difference, wrong, wanted)) > 0.1


@pytest.fixture
def folder(tmp_path):
    about = {"commit": "c", "dirty": False, "data": {"smoke": {}}}
    write_json(tmp_path / "bundle" / "manifest.json", about)
    return tmp_path / "bundle"


def test_the_data_of_a_profile_are_those_of_the_bundle(folder):
    params = gpu_steps.params_of(folder)
    config = gpu_steps.config_of(folder, "g5", "smoke_gpu", 3, params)
    wanted = load_config("g5", "smoke", 3)
    assert config.data.source == "folder" and config.data.pack_size == wanted.data.pack_size
    assert config.data.val_annotations == str(folder / "smoke" / "annotations" / "val.json")
    assert config.model.pretrained == str(folder / "imagenet" / "lite1.safetensors")
    assert dataclasses.replace(config.model, pretrained=True) == wanted.model
    assert config.train == wanted.train and config.distill == wanted.distill


def test_speed_is_that_of_all_classes_of_coco(folder):
    """With few classes the head is smaller, with few images a batch shows some twice."""
    data = {name: {} for name in gpu_bundle.PROFILES}
    write_json(folder / "manifest.json", {"commit": "c", "dirty": False, "data": data})
    job = job_of(folder, 60.0, None)
    assert gpu_steps.profiles_of(job) == ["bccd416_gpu", "minicoco416_gpu"]  # the quick one first
    assert gpu_steps.measured_config(job, "g3").profile == "minicoco416_gpu"


def test_a_step_that_breaks_or_hangs_ends_nothing_else(folder, tmp_path, monkeypatch):
    child = "import subprocess, sys; child = [sys.executable, '-c', 'import time; time.sleep(99)']"
    child += f"; print(subprocess.Popen(child).pid, file=open({str(tmp_path / 'pid')!r}, 'a'))"
    programs = {"data": "print('fine')", "checks": f"{child}; 1 / 0"}
    programs["speed"] = f"{child}; import time; time.sleep(60)"
    monkeypatch.setattr(gpu, "STEPS", {"data": 20.0, "checks": 20.0, "speed": 6.0, "sparse": 20.0})

    def command(folder, out, small, flag, name, *rest):
        return [sys.executable, "-c", programs.get(name, "print('still here')")]

    monkeypatch.setattr(gpu, "_command", command)
    steps = gpu.drive(folder, tmp_path / "out", 60, small=False)
    failed = "failed with exit code 1; see log.txt"
    ended = "ended after 6 s; what it had written is kept"
    assert [step["outcome"] for step in steps] == ["done", failed, ended, "done"]
    for pid in (tmp_path / "pid").read_text().split():  # what a step has started goes with it
        assert not is_running(int(pid)), pid
    with pytest.raises(UserError, match=f"^checks: {re.escape(failed)}; speed: ended"):
        gpu.check(steps)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "fine" in log and "ZeroDivisionError" in log and "still here" in log
    assert json.loads((tmp_path / "out" / "steps.json").read_text())["steps"] == steps
    steps = gpu.drive(folder, tmp_path / "out", 4, small=False)
    assert {step["outcome"] for step in steps} == {"no time was left"}


def test_a_rehearsal_waits_for_slow_cores(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "STEPS", {"data": 60.0, "training": None, "compiled": 75.0})
    given = {}

    def apart(name, folder, out, seconds, small):
        given[name] = seconds
        return "done"

    monkeypatch.setattr(gpu, "_apart", apart)
    gpu.drive(folder, tmp_path / "out", 300, small=False)
    assert given == {"data": 60, "training": pytest.approx(225, abs=5), "compiled": 75}
    gpu.drive(folder, tmp_path / "out", 3000, small=True)
    assert given == {"data": 600, "training": pytest.approx(2250, abs=5), "compiled": 750}


def is_running(pid):
    """Not gone, and no zombie that nobody has asked about yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def job_of(folder, seconds, keep):
    return gpu_steps.Job(folder, folder, CPU, False, seconds, keep)


def test_what_failed_is_not_tried_again(folder, monkeypatch):
    kept = []

    def train_apart(job, profile, seed, threads, run):
        if seed == 1 and run == "g3":
            raise UserError("g3 failed: no luck")
        return {"experiment": run, "seed": seed}

    monkeypatch.setattr(gpu, "_train_apart", train_apart)
    gpu.training(job_of(folder, 100.0, kept.append))
    ended = sorted((r["seed"], r["experiment"]) for r in kept[-1]["runs"])
    wanted = [(0, run) for run in gpu.RUNS] + [(1, run) for run in gpu.RUNS if run != "g3"]
    assert ended == sorted(wanted)
    assert kept[-1]["left out"] == ["smoke_gpu from seed 1 on: g3 failed: no luck"]


def test_a_row_that_would_not_be_finished_is_not_begun(folder, monkeypatch):
    clock, kept = iter(range(0, 10_000, 10)), []
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(gpu, "_train_apart", lambda job, profile, seed, *_: {"seed": seed})
    gpu.training(job_of(folder, 55.0, kept.append))
    # begun at 10, 30 and not at 50, when 5 of 55 s are left
    assert {run["seed"] for run in kept[-1]["runs"]} == {0, 1}
    assert kept[-1]["left out"] == ["smoke_gpu from seed 2 on: a row takes 10 s, 5 s are left"]


def test_g5_waits_for_the_teacher_of_seed_0(folder, monkeypatch):
    order = []

    def train_apart(job, profile, seed, threads, run):
        if run == "teacher":
            time.sleep(0.3)
        order.append(run)
        return {}

    monkeypatch.setattr(gpu, "_train_apart", train_apart)
    found = {"runs": [], "side by side": 6, "runs of a row": gpu.RUNS}
    gpu.train_row(job_of(folder, 1.0, lambda _: None), "smoke_gpu", 0, found)
    assert order.index("teacher") < order.index("g5") and len(order) == 6


def test_what_is_missing_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "best_device", lambda: CPU)
    for words, message in (
        ([], "--bundle and --out, as build/gpu/run gives them"),
        (["--bundle", str(tmp_path), "--out", "x"], "no manifest.json in it; `make gpu`"),
        (["--bundle", str(folder), "--out", "x"], "torch sees no GPU here"),
        (["--bundle", str(folder), "--out", "x", "--step", "sped"], "--step sped: choose one of"),
    ):
        with pytest.raises(UserError, match=message):
            cli.run("gpu", "run", *words)


def test_a_gpu_has_its_number(folder, tmp_path, monkeypatch):
    """The thread that makes batches is told which one; without it torch refuses."""
    jobs = []
    monkeypatch.setattr(gpu, "best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(gpu, "about", lambda *_: {})
    monkeypatch.setattr(gpu_steps, "speed", jobs.append)
    gpu.run_step("speed", folder, tmp_path, 60.0, small=True)
    assert jobs[0].device == torch.device("cuda", 0) and jobs[0].seconds < 60
