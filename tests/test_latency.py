"""The protocol on calls of known length, and the whole path on two small systems."""

import time

import numpy as np
import pytest
import torch

from lightdet_core import comparators, latency
from lightdet_core.model import LightDet


def test_every_call_gets_its_share_in_turns():
    order = []

    def call(name: str, seconds: float):
        def run() -> None:
            order.append(name)
            time.sleep(seconds)

        return run

    calls = {"quick": call("quick", 0.001), "slow": call("slow", 0.02)}
    times = latency.interleaved(calls, seconds=0.04, rounds=5)
    assert len(times["slow"]) == latency.LEAST
    assert len(times["quick"]) > 2 * latency.LEAST
    assert min(times["slow"]) >= 0.02 > np.median(times["quick"])
    measured = order[4:]  # after one call each to warm up and one to see how long it takes
    first, last = measured.index("slow"), len(measured) - 1 - measured[::-1].index("slow")
    assert "quick" in measured[first:last]  # not one after the other


def test_rows_hold_median_and_spread():
    (row,) = latency.rows_of({("ncnn", "g5", "network"): [0.001 * i for i in range(1, 12)]})
    assert row == {
        "runtime": "ncnn", "system": "g5", "part": "network", "calls": 11,
        "median_ms": 6.0, "p10_ms": 2.0, "p90_ms": 10.0,
    }  # fmt: skip


def test_disturbed_networks_have_no_equal_tensors():
    from lightdet_core.config import load_config

    model = latency.disturb(LightDet(load_config("g1", "demo").model))
    norms = [v for k, v in model.state_dict().items() if k.endswith("running_var")]
    assert not torch.equal(norms[0][:8], norms[1][:8]) and all((v > 0.9).all() for v in norms)


def test_thresholds_leave_the_wanted_number_of_candidates():
    model = comparators.build("nanodet_m")
    system = latency.System("nanodet_m", "NanoDet-m", 320, model, model)
    torch.manual_seed(0)
    outputs = [torch.randn(1, 2100, 80) - 6, torch.randn(1, 2100, 4, 8)]
    threshold = latency.threshold_for(system, outputs, candidates=200)
    count = int((outputs[0].sigmoid() > threshold).sum())
    assert 190 <= count <= 210
    assert "forward" not in vars(model)  # as it was


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "ncnn"])
def test_two_systems_in_one_run(runtime):
    threads = torch.get_num_threads()
    try:
        found = latency.measure(["nanodet_m", "g1"], [runtime], 0.01, 1, lambda line: None)
    finally:
        torch.set_num_threads(threads)
    assert found["not_possible"] == []
    assert {(r["system"], r["part"]) for r in found["latency"]} == {
        (system, part) for system in ("nanodet_m", "g1") for part in ("network", "boxes")
    }
    assert all(r["median_ms"] > 0.1 and r["calls"] >= latency.LEAST for r in found["latency"])
    nanodet = found["systems"][0]
    assert nanodet["parameters"] == 950_036
    if runtime != "torch":  # four bytes for each weight, batch norm folded
        assert -0.02 < nanodet["bytes"][runtime] / (4 * 950_036) - 1 < 0.05


def test_what_cannot_run_is_said():
    """ncnn gets a network that it cannot load: no error of the whole, but its reason."""
    found = latency.measure(["nanodet_m"], ["torch.compile"], 0.01, 1, lambda line: None)
    assert found["latency"] == [] and found["not_possible"] == []  # not asked of this system
