"""The protocol on calls of known length, and the whole path on two small systems."""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import raising, read

from lightdet_core import sparsity
from lightdet_core.config import SparsityConfig, UserError, load_config
from lightdet_tools.report import zeros
from lightdet_tools.table1 import latency, runtimes, systems


def test_rows_hold_median_and_spread():
    key = ("onnxruntime int8", "onnxruntime", "g5", "network")
    (row,) = latency.rows_of({key: [0.001 * i for i in range(1, 12)]})
    assert row == {
        "runtime": "onnxruntime int8", "base": "onnxruntime", "system": "g5", "part": "network",
        "calls": 11, "median_ms": 6.0, "p10_ms": 2.0, "p90_ms": 10.0,
    }  # fmt: skip


@pytest.fixture
def small_g5(monkeypatch):
    model = dataclasses.replace(load_config("g5", "demo").model, num_classes=7)
    config = SimpleNamespace(model=model, sparsity=SparsityConfig())
    small = lambda name, profile: config if name == "g5" else load_config(name, profile)  # noqa: E731
    monkeypatch.setattr(systems, "load_config", small)


@pytest.mark.parametrize("name", ["nanodet_m", "g5"])
def test_untrained_networks_stand_for_trained_ones(name, small_g5):
    """No tensors that an exporter would merge; outputs that differ from cell to cell; and about as
    many candidates as wanted."""
    (system,) = systems.systems([name])
    norms = [m.weight for m in system.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) > 40
    assert not any(torch.equal(a[:8], b[:8]) for a, b in itertools.pairwise(norms))
    with torch.inference_mode():
        threshold = latency.score_threshold(system, system.wanted, candidates=150)
        scores = system.model.scores_and_boxes(*system.wanted, (system.size,) * 2)[0]
    assert float(system.wanted[0].std()) == pytest.approx(systems.SPREAD, rel=0.05)
    assert system.wanted[0].std(1).median() > 0.02  # from cell to cell, too
    assert int((scores > threshold).sum()) in range(145, 151)  # equal scores fall together


@pytest.mark.parametrize(
    "names",
    [
        ["torch", "torch bf16"],
        ["onnxruntime", "onnxruntime int8"],
        ["ncnn"],
        ["openvino", "openvino int8"],
    ],
)
def test_two_systems_in_one_run(names, small_g5):
    """g5 has the quality predictor, which is left to the host."""
    kept = []
    found = latency.measure(["nanodet_m", "g5"], names, 0.01, 1, str, kept.append)
    assert found["not_possible"] == [] and kept == [found] * (3 if "onnxruntime" in names else 2)
    assert {(r["runtime"], r["system"], r["part"]) for r in found["latency"]} == {
        (runtime, system, part)
        for runtime in names
        for system in ("nanodet_m", "g5")
        for part in ("network", "boxes")
        if runtime in ("torch", "onnxruntime", "ncnn", "openvino") or system == "g5"
    }
    assert all(r["median_ms"] > 0.1 and r["calls"] >= latency.LEAST for r in found["latency"])
    nanodet = found["systems"][0]
    assert nanodet["parameters"] == 950_036
    kinds = {row["operator"]: row for row in found["operators"] if row["system"] == "g5"}
    if names[0] == "onnxruntime":  # SiLU is no part of a convolution there
        assert kinds["QuickGelu"]["nodes"] == 60 and kinds["Conv"]["nodes"] > 80
        assert kinds["Conv"]["ms"] > kinds["QuickGelu"]["ms"] > 0
    else:
        assert not kinds
    if names[0] != "torch":  # four bytes for each weight, batch norm folded
        assert -0.02 < nanodet["bytes"][names[0]] / (4 * 950_036) - 1 < 0.05


def test_a_stop_leaves_the_times_of_before(tmp_path, monkeypatch):
    out = tmp_path / "latency.json"
    out.write_text("before")
    monkeypatch.setattr(latency, "measure", raising(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        latency.write_table(["g1"], ["torch"], 0.01, 1, out, str)
    assert out.read_text() == "before"
    monkeypatch.setattr(latency, "measure", lambda *given: given[-2]({}))
    latency.write_table(["g1"], ["torch"], 0.01, 1, out, str)
    assert [path.name for path in tmp_path.iterdir()] == ["latency.json"]
    assert read(out)["reference"] == latency.REFERENCE


def test_medians_of_the_networks_are_shown(tmp_path):
    times = {("torch", "torch", "a", "network"): [0.0123], ("torch", "torch", "a", "boxes"): [1.0]}
    times |= {("torch", "torch", "b", "network"): [0.5], ("ncnn", "ncnn", "b", "network"): [0.25]}
    systems = [{"key": "b", "title": "Net B"}, {"key": "a", "title": "Net A"}]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"systems": systems, "latency": latency.rows_of(times)}))
    _, _, *rows = latency.medians(path).splitlines()
    assert [row.split() for row in rows] == [
        ["Net", "B", "500.0", "250.0"], ["Net", "A", "12.3", "-"]
    ]  # fmt: skip
    path.write_text(json.dumps({"systems": systems, "latency": []}))
    assert "Net A" in latency.medians(path)


def test_what_cannot_run_is_said(monkeypatch):
    """One runtime's failure costs neither the others' numbers nor the reason."""
    other = runtimes.Runtime(raising(OSError("no such runtime\nhere")), "other")
    monkeypatch.setattr(
        latency, "GROUPS", ({"torch": runtimes.GROUPS[0]["torch"], "other": other},)
    )
    kept = []
    found = latency.measure(["nanodet_m"], ["torch", "other"], 0.01, 1, str)
    assert {row["runtime"] for row in found["latency"]} == {"torch"}
    alone = latency.measure(["nanodet_m"], ["other"], 0.01, 1, str, kept.append)
    assert alone["not_possible"] == found["not_possible"] and kept == [alone]
    (row,) = found["not_possible"]
    assert row == {
        "runtime": "other", "system": "NanoDet-m", "part": "network", "reason": "no such runtime"
    }  # fmt: skip


def test_a_network_is_opened_for_its_check_and_its_times_and_converted_once(monkeypatch):
    opened, converted = [], []
    convert = runtimes.convert.convert_onnx

    def load(system: systems.System, threads: int, folder) -> runtimes.Loaded:
        opened.append(system.key)
        return runtimes.load_onnx(system, threads, folder)

    def convert_onnx(*given) -> object:
        converted.append(given)
        return convert(*given)

    group = {"onnxruntime": runtimes.Runtime(load, "onnxruntime")}
    monkeypatch.setattr(latency, "GROUPS", (group,))
    monkeypatch.setattr(runtimes.convert, "convert_onnx", convert_onnx)
    latency.measure(["nanodet_m"], ["onnxruntime"], 0.01, 1, str)
    assert len(opened) == 2 and len(converted) == 1


def test_pnnx_runs_once_for_each_and_before_any_time_is_taken(monkeypatch):
    """What fails there is tried again, and said."""
    done, run, times = [], runtimes.convert.run_pnnx, latency._times

    def run_pnnx(folder, shape, precisions) -> dict:
        done.append(shape)
        if len(done) > 1:  # of NanoDet-m once, of YOLOv3-tiny whenever it is tried
            raise UserError("pnnx: ended with code 1")
        return run(folder, shape, precisions)

    monkeypatch.setattr(runtimes.convert, "run_pnnx", run_pnnx)
    monkeypatch.setattr(latency, "_times", lambda *given: done.append("times") or times(*given))
    found = latency.measure(["nanodet_m", "yolov3_tiny"], ["torch", "ncnn"], 0.01, 1, str)
    nanodet, yolo = [1, 3, 320, 320], [1, 3, 416, 416]
    assert done == [nanodet, yolo, yolo, "times", "times"]
    assert {row["system"] for row in found["latency"] if row["runtime"] == "ncnn"} == {"nanodet_m"}
    (row,) = found["not_possible"]
    assert row["runtime"] == "ncnn" and row["reason"] == "pnnx: ended with code 1"


def test_other_outputs_are_refused():
    wanted = [torch.randn(1, 50, 3)]
    latency._check_same([wanted[0] + 0.01], wanted, 0.05)
    with pytest.raises(UserError, match=r"differ from torch's by 0\.\d+ of their deviation"):
        latency._check_same([wanted[0] + 0.2], wanted, 0.05)
    with pytest.raises(UserError, match=r"an output is \(1, 50\), torch's \(1, 50, 3\)"):
        latency._check_same([wanted[0][..., 0]], wanted, 0.05)


def test_a_profile_times_our_networks_at_its_own_sizes():
    small, paper = (next(systems.systems(["g1"], profile)) for profile in ("demo", "coco"))
    assert (small.size, paper.size) == (128, 320)
    assert small.canvas.shape == (128, 128, 3)
    assert [x.shape[-1] for x in small.wanted] == [x.shape[-1] for x in paper.wanted]  # 80 classes


def test_a_pruned_network_is_timed_with_its_zeros():
    (pruned,) = systems.systems(["hswish-prune"], "demo")
    state = pruned.model.state_dict()
    assert sparsity.check_2to4(state) == [] and zeros.report(state)[1]["zeros"] > 1e6


def test_bf16_is_for_processors_that_compute_in_it(monkeypatch):
    monkeypatch.setattr(runtimes, "cpu_computes_in", lambda half: half != "bf16")
    with pytest.raises(UserError, match="this CPU does not compute in bf16"):
        runtimes.load_bf16(None, 1, None)
