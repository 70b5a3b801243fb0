"""log.py: a training that becomes much slower says so, once, and what to do."""

import pytest

from lightdet_core.config import load_config
from lightdet_core.machinery import log

VALUES = {"lr": 1e-3, "loss": 1.0, "loss_qfl": 0.5}


@pytest.mark.parametrize(("seconds", "word"), [(6.0, False), (17.0, False), (19.0, True)])
def test_steps_that_take_several_times_as_long_are_told_once(tmp_path, monkeypatch, seconds, word):
    now, told = [0.0], []
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    config = load_config("g1", "smoke")
    run = log.Log(tmp_path / "g1-s0", config, ("loss_qfl",), 0, 1000, told.append)
    for step, took in enumerate([6.0, 6.0, seconds, seconds], start=1):  # ten steps each
        now[0] += took
        run.line(10 * step, "1/9", VALUES)
    busy = [line for line in told if "as long as before" in line]
    assert len(told) - len(busy) == 4 and len(busy) == word
    if word:
        assert busy[0].startswith("g1-s0: a step takes 3.2 times as long as before: other work on")
        assert told.index(busy[0]) == 2  # before the line of the slow steps
