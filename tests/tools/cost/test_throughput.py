import json

import pytest
from conftest import tiny, use_root

from lightdet_core.config import UserError
from lightdet_tools.cost import throughput

RATES = {(1, 2, False): 10, (2, 1, False): 15, (1, 2, True): 1, (2, 1, True): 12}


def test_steps_are_counted_from_when_all_are_ready(here, monkeypatch):
    now, calls = iter([0.0, 1.0, 2.0, 5.0, 5.0]), []
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(now))
    rate = throughput.train_for(tiny(), 4.0, lambda: calls.append("ready"))
    assert calls == ["ready"] and rate == 3 * 8 / 5  # at 1 and 2 it goes on, at 5 it does not


def test_both_ways_are_measured_on_idle_and_on_busy_cores(tmp_path, monkeypatch):
    now_busy = [False]

    class Busy:
        def __init__(self, number):
            self.number = number

        def __enter__(self):
            now_busy[0] = self.number == 2

        def __exit__(self, *_):
            now_busy[0] = False

    def together(config, number, threads, seconds):
        return RATES[number, threads, now_busy[0]]

    use_root(monkeypatch, tmp_path)
    monkeypatch.setattr(throughput.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(throughput, "busy", Busy)
    monkeypatch.setattr(throughput, "together", together)
    lines = []
    found = json.loads(throughput.write_throughput(tiny(), 1, lines.append).read_text())
    assert found["ratios"] == {"idle": 1.5, "busy": 12.0}
    assert found["images_per_second"]["side by side, busy"] == [12, 12]
    assert lines[-1] == "side by side against one at a time: 1.5 on idle cores, 12.0 on busy ones"


def test_trainings_at_the_same_time_start_together_and_are_added_up(monkeypatch):
    code = "print('ready', flush=True); input(); import os; print(os.environ['OMP_NUM_THREADS'])"
    monkeypatch.setattr(throughput, "CHILD", code)
    assert throughput.together(tiny(), 2, 3, 1.0) == 6
    monkeypatch.setattr(throughput, "CHILD", "print('no')")
    with pytest.raises(UserError, match="g1-s0 ended before its first steps"):
        throughput.together(tiny(), 1, 1, 1.0)


def test_busy_processes_end(monkeypatch):
    started, start = [], throughput.subprocess.Popen

    def spy(*arguments):
        started.append(start(*arguments))
        return started[-1]

    monkeypatch.setattr(throughput.subprocess, "Popen", spy)
    with throughput.busy(2):
        assert [process.poll() for process in started] == [None, None]
    assert all(process.poll() is not None for process in started)
