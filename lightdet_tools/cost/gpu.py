"""What a GPU can tell in ten minutes: one command, most valuable first, each result kept at once.

    make gpu                                     # here: the folder build/gpu
    bash build/gpu/run results/gpu               # on the machine with the GPU
    lightdet gpu run --rehearse                  # all of it in small, on a CPU

Every step is a process of its own with its time; one that breaks or hangs ends nothing but itself.
steps.json says how each went. A rehearsal leaves out what a CPU has not: CUDA graphs, fp16, the 2:4
libraries, torch.compile.
"""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from lightdet_core import train
from lightdet_core.config import UserError, root
from lightdet_core.machinery.distributed import best_device
from lightdet_core.machinery.files import write_json
from lightdet_core.machinery.provenance import git_state, hardware
from lightdet_core.machinery.runs import keep_memory
from lightdet_tools.cost import gpu_networks, gpu_steps
from lightdet_tools.cost.gpu_bundle import bundle
from lightdet_tools.cost.gpu_steps import RUNS, Job, config_of, params_of, profiles_of
from lightdet_tools.report.results import read_result

STEPS = {  # seconds that a step may take; training has what the others leave
    "data": 60.0,
    "checks": 60.0,
    "speed": 80.0,
    "latency": 60.0,
    "sparse": 50.0,
    "training": None,
    "compiled": 75.0,
}
PATIENCE = 10  # times as long in a rehearsal: a few cores, on which other work may run
STARTING = 8.0  # seconds until torch is loaded
SIDE_BY_SIDE = 6  # trainings: small batches leave most of a GPU idle


# -------------------------------------------------------------------------------------- training


def training(job: Job) -> None:
    """The groups and their teacher, seed by seed; each run is written when it has ended.

    A profile of which a run has failed is not tried again; a row that would not be finished is not
    begun. (`report.gpu.training_table` shows whole rows only.)
    """
    began, found, took = time.monotonic(), {"runs": [], "left out": []}, {}
    found["side by side"] = 2 if job.small else SIDE_BY_SIDE
    found["runs of a row"] = ("teacher", "g1", "g5") if job.small else RUNS
    waiting = [(seed, name) for seed in range(1 if job.small else 100) for name in profiles_of(job)]
    while waiting:
        seed, name = waiting.pop(0)
        start = time.monotonic()
        left = job.seconds - (start - began)
        try:
            if left < 1.15 * took.get(name, 0):
                raise UserError(f"a row takes {took[name]:.0f} s, {left:.0f} s are left")
            train_row(job, name, seed, found)
            took[name] = time.monotonic() - start
        except UserError as error:
            found["left out"].append(f"{name} from seed {seed} on: {error}")
            waiting = [row for row in waiting if row[1] != name]
        job.keep(found)


def train_row(job: Job, profile_: str, seed: int, found: dict) -> None:
    """All runs of a profile and a seed. g5 learns from the teacher of seed 0, which must be there.

    Raises:
        UserError: a run has failed; the others are in `found`.
    """
    side_by_side, lock = found["side by side"], threading.Lock()
    threads = max(1, (os.cpu_count() or 1) // side_by_side)

    def one(run: str) -> None:
        result = _train_apart(job, profile_, seed, threads, run)
        with lock:
            found["runs"].append(result)
            job.keep(found)

    *first, last = found["runs of a row"]
    with ThreadPoolExecutor(side_by_side) as pool:
        waiting = [pool.submit(one, run) for run in first]
        if seed == 0:
            waiting[0].result()
        waiting.append(pool.submit(one, last))
        for run in waiting:
            run.result()


def _train_apart(job: Job, profile_: str, seed: int, threads: int, run: str) -> dict:
    """One run in a process of its own; what is said about it."""
    command = _command(job.bundle, job.out, job.small, "--train", run, profile_, seed)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=root(), env=environment, capture_output=True, text=True)
    print("\n".join(done.stdout.splitlines()[-2:]), flush=True)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise UserError(f"{run} failed: {' '.join(reason)[:300]}")
    folder = root() / "runs" / profile_ / f"{run}-s{seed}"
    metrics, about = (
        read_result(folder / f"{name}.json", (), "make gpu") for name in ("metrics", "run")
    )
    return {
        "profile": profile_.removesuffix("_gpu"),
        "experiment": run,
        "seed": seed,
        **{key: metrics[key] for key in ("AP", "AP50", "AP75")},
        "per_class": metrics["per_class"],
        **{key: about[key] for key in ("images_per_second", "train_seconds", "steps")},
        **{key: about[key] for key in ("skipped_steps", "pruned_layers", "input_size")},
        "pack_hash": about["pack_hash"],
    }


def train_one(folder: Path, run: str, profile_: str, seed: int, small: bool) -> None:
    """What `_train_apart` starts."""
    config = config_of(folder, run, profile_, seed, params_of(folder))
    if small:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1))
    train.fit(config, progress=partial(print, flush=True))


# --------------------------------------------------------------------------------------- driving


def about(folder: Path, device: torch.device) -> dict:
    """Where a result comes from: bundle, machine, versions."""
    manifest, own = read_result(folder / "manifest.json", (), "make gpu"), git_state()
    code = own if own["commit"] else manifest  # what travelled may be no git checkout
    return {
        "command": "make gpu; bash build/gpu/run results/gpu",
        "commit": code["commit"],
        "dirty": code["dirty"],
        "bundle": manifest["commit"],
        "hardware": hardware(device),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "timm": version("timm"),
        "date": time.strftime("%Y-%m-%d"),
    }


def run_step(name: str, folder: Path, out: Path, seconds: float, small: bool) -> None:
    """One step, in this process, which needs some of its seconds to begin."""
    device = best_device()
    if device.type == "cuda":  # a thread that makes batches is told which one
        device = torch.device("cuda", torch.cuda.current_device())
    facts = about(folder, device)
    keep = lambda found: write_json(out / f"{name}.json", facts | found, indent=1)  # noqa: E731
    keep_memory()
    job = Job(folder, out, device, small, seconds - STARTING, keep)
    homes = {"latency": gpu_networks, "sparse": gpu_networks, "training": sys.modules[__name__]}
    getattr(homes.get(name, gpu_steps), name)(job)


def drive(folder: Path, out: Path, budget: float, small: bool) -> list[dict]:
    """All steps, one after the other, each in a process group of its own.

    Returns:
        Per step its name, "done", or what became of it, and seconds; also in steps.json.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "log.txt").unlink(missing_ok=True)
    patience = PATIENCE if small else 1
    limits = {name: seconds and patience * seconds for name, seconds in STEPS.items()}
    start, steps, names = time.monotonic(), [], list(STEPS)
    for place, name in enumerate(names):
        left = budget - (time.monotonic() - start)
        later = sum(limits[n] for n in names[place + 1 :]) if limits[name] is None else 0
        seconds = min(limits[name] or left, left - later)
        began = time.monotonic()
        outcome = _apart(name, folder, out, seconds, small) if seconds > 5 else "no time was left"
        steps.append(
            {"step": name, "outcome": outcome, "seconds": round(time.monotonic() - began, 1)}
        )
        print(f"{time.monotonic() - start:5.0f} s  {name}: {outcome}", flush=True)
        write_json(out / "steps.json", about(folder, best_device()) | {"steps": steps}, indent=1)
    return steps


def _command(folder: Path, out: Path, small: bool, *words: object) -> list[str]:
    """`run` in a process of its own."""
    words = ("--bundle", folder, "--out", out, *words, *(["--rehearse"] if small else []))
    return [sys.executable, "-m", "lightdet_tools", "gpu", "run", *map(str, words)]


def _apart(name: str, folder: Path, out: Path, seconds: float, small: bool) -> str:
    """A step as a process; its lines go to log.txt."""
    command = _command(folder, out, small, "--step", name, "--budget", seconds)
    with open(out / "log.txt", "a") as log:
        log.write(f"== {name}\n")
        log.flush()
        process = subprocess.Popen(
            command, cwd=root(), stdout=log, stderr=subprocess.STDOUT, process_group=0
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):  # what it has started, too, and if it has crashed
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for unfinished in out.glob(".partial-*"):
                unfinished.unlink()
    if code is None:
        return f"ended after {seconds:.0f} s; what it had written is kept"
    return "done" if code == 0 else f"failed with exit code {code}; see log.txt"


def rehearse() -> None:
    """Everything in small: a bundle of drawn scenes, then every step on this machine.

    Raises:
        UserError: a step that is not done.
    """
    folder = root() / "build" / "gpu-rehearsal"
    out = folder / "results"
    for finished in ("data", "runs"):  # of the rehearsal before
        shutil.rmtree(root() / finished / "smoke_gpu", ignore_errors=True)
    bundle(folder, ("smoke",), wheels=False)
    try:
        check(drive(folder, out, budget=300 * PATIENCE, small=True))
    except UserError:
        print((out / "log.txt").read_text()[-6000:])
        raise


def check(steps: list[dict]) -> None:
    """`UserError` with the steps that are not done."""
    if failed := [step for step in steps if step["outcome"] != "done"]:
        raise UserError("; ".join(f"{step['step']}: {step['outcome']}" for step in failed))


def run(
    folder: Path | None,
    out: Path | None,
    budget: float,
    small: bool,
    step: str | None = None,
    train: tuple[str, str, int] | None = None,
) -> None:
    """The command `lightdet gpu run`: all steps; or one step or one training, in this process.

    Args:
        folder: of `make gpu`; None for a rehearsal, which makes its own.
        budget: seconds.
        train: experiment, profile, seed.
    """
    if small and not folder:
        return rehearse()
    if not folder or not out:
        raise UserError("--bundle and --out, as build/gpu/run gives them, or --rehearse alone")
    if step and step not in STEPS:
        raise UserError(f"--step {step}: choose one of {', '.join(STEPS)}")
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder}: no manifest.json in it; `make gpu` makes such a folder")
    if not small and best_device().type != "cuda":
        raise UserError("torch sees no GPU here; --rehearse tries everything in small on a CPU")
    folder, out = folder.resolve(), out.resolve()
    if train:
        train_one(folder, *train, small)
    elif step:
        run_step(step, folder, out, budget, small)
    else:
        check(drive(folder, out, budget, small=False))
