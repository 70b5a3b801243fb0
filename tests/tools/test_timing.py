import time

import numpy as np

from lightdet_tools import timing


def test_every_call_gets_its_share_in_turns(monkeypatch):
    order = []

    def call(name: str, seconds: float):
        def run() -> None:
            order.append(name)
            time.sleep(seconds)

        return run

    calls = {"quick": call("quick", 0.001), "slow": call("slow", 0.02)}
    times = timing.interleaved(calls, seconds=0.04, rounds=5)
    assert len(times["slow"]) == timing.LEAST
    assert len(times["quick"]) > 2 * timing.LEAST
    assert min(times["slow"]) >= 0.02 > np.median(times["quick"])
    measured = order[4:]  # two calls each say how long it takes
    first, last = measured.index("slow"), len(measured) - 1 - measured[::-1].index("slow")
    assert "quick" in measured[first:last]  # not one after the other
    assert order.count("quick") == 2 + len(times["quick"]) + 5  # one a turn does not count
    assert order.count("slow") == 2 + timing.LEAST + 5
    monkeypatch.setattr(timing, "SLOW", 0.01)
    order.clear()
    timing.interleaved(calls, seconds=0.04, rounds=5)
    assert order.count("slow") == timing.LEAST  # each counts
