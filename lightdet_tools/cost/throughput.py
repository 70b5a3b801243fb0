"""Images per second: trainings side by side against one at a time, on idle cores and on busy ones.

    lightdet benchmark --side-by-side

One at a time a training has a thread per core, and its threads wait for each other at every layer;
side by side there are as many trainings as cores, one thread each. Busy cores: one process for each
of them counts without end. The ways take turns; only ratios are meant to be compared.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

from lightdet_core.augment import on_device, training_batch
from lightdet_core.config import Config, UserError, load_config, root
from lightdet_core.machinery.files import write_json
from lightdet_core.machinery.packs import open_split, with_classes
from lightdet_core.machinery.provenance import git_state, hardware
from lightdet_core.machinery.runs import keep_memory
from lightdet_tools.cost.benchmark import WARM_UP, learn, untrained

ROUNDS = 2
CHILD = "from lightdet_tools.cost.throughput import answer; answer(*{arguments!r})"
COUNTING = "while True: pass"


def train_for(config: Config, seconds: float, ready: Callable[[], object]) -> float:
    """Images per second of steps as training takes them, after a few that do not count.

    Args:
        ready: called before the clock starts.
    """
    pack, device = open_split(config, "train"), torch.device("cpu")
    config, (pack, _) = with_classes(config, pack), on_device(pack, device)
    keep_memory()
    state, step, start = untrained(config, device), 0, 0.0
    while step <= WARM_UP or time.perf_counter() < start + seconds:
        if step == WARM_UP:
            ready()
            start = time.perf_counter()
        batch = training_batch(pack, config, config.seed, step, device)
        learn(state, batch, config, step)
        step += 1
    return (step - WARM_UP) * config.train.batch_size / (time.perf_counter() - start)


def answer(experiment: str, profile: str, seconds: float) -> None:
    """What a process does: says that it is ready, waits for a line, says its images per second."""

    def ready() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    print(train_for(load_config(experiment, profile), seconds, ready))


def together(config: Config, number: int, threads: int, seconds: float) -> float:
    """Images per second of so many trainings at the same time, all together."""
    code = CHILD.format(arguments=(config.experiment, config.profile, seconds))
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", code]
    children = [subprocess.Popen(command, env=environment, **pipes) for _ in range(number)]
    try:
        for child in children:
            if child.stdout.readline() != "ready\n":
                raise UserError(f"a training of {config.run_name} ended before its first steps")
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        return sum(float(child.stdout.readline()) for child in children)
    finally:
        for child in children:
            child.kill()
            child.communicate()


@contextmanager
def busy(number: int) -> Generator[None]:
    """So many processes that each keep a core busy."""
    others = [subprocess.Popen([sys.executable, "-c", COUNTING]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def write_throughput(config: Config, seconds: float, progress: Callable[[str], None]) -> Path:
    """results/<profile>/benchmarks/side-by-side.json: both ways, idle and busy, and their ratios.

    Args:
        seconds: of each measurement; there are `ROUNDS` of each.
    """
    cores = os.cpu_count() or 1
    ways = {"one at a time": (1, cores), "side by side": (cores, 1)}
    found = {f"{way}, {others}": [] for others in ("idle", "busy") for way in ways}
    for _ in range(ROUNDS):
        for others in ("idle", "busy"):
            with busy(cores if others == "busy" else 0):
                for way, (number, threads) in ways.items():
                    rate = together(config, number, threads, seconds)
                    found[f"{way}, {others}"].append(round(rate, 2))
                    progress(f"{way}, {others}: {rate:.1f} images/s")
    means = {name: sum(rates) / ROUNDS for name, rates in found.items()}
    ratios = {
        others: round(means[f"side by side, {others}"] / means[f"one at a time, {others}"], 2)
        for others in ("idle", "busy")
    }
    text = "side by side against one at a time: {idle} on idle cores, {busy} on busy ones"
    progress(text.format(**ratios))
    path = root() / "results" / config.profile / "benchmarks" / "side-by-side.json"
    result = {
        "command": f"lightdet benchmark --side-by-side --experiment {config.experiment} "
        f"--profile {config.profile}",
        **git_state(),
        "hardware": hardware(torch.device("cpu")),
        "torch": version("torch"),
        "input_size": config.model.input_size,
        "batch_size": config.train.batch_size,
        "seconds": seconds,
        "images_per_second": found,
        "ratios": ratios,
    }
    write_json(path, result, indent=2)
    return path
