"""Processes side by side, each with one thread, as many at once as there are cores.

Threads of one training wait for each other at every layer; trainings do not wait for each other: on
two cores (Intel Xeon) c0 of the demo saw 17.7 images/s with two threads, and two of it with one
thread each 12.8 + 12.6. A run takes one thread because it was asked for together with others, never
because of what else happens to be left to do or to run: stopped and continued, it comes to the same
weights.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

import psutil

from lightdet_core.config import Config, UserError, root, train_command

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # torch asks MKL first
MEMORY = 3e9  # bytes of a process: 2.2 GB for 8 images of 208 px, 2.6 GB for a notebook's kernel
RUN = re.compile(r"[^\s:]+-s\d+(:| of )|Running stage ")  # begins a line that says whose it is
LOOK = 0.2  # seconds between two looks at whether a signal came
KEPT = 50  # lines of a process, of which one says why it failed


class Job(NamedTuple):
    """A process to run, once those that it comes after have ended well."""

    name: str
    command: list[str]
    after: frozenset[str] = frozenset()  # names of other jobs
    one_thread: bool = True  # on a CPU


class Running(NamedTuple):
    """A job that was started, and what it has said and was told until now."""

    process: subprocess.Popen
    last: deque[str]
    told: list[int]  # signals


@cache
def on_gpu() -> bool:
    """Whether there are GPUs: a training takes all of them, and every core for its images."""
    import torch

    return torch.cuda.is_available()


def slots() -> int:
    """How many processes run at once: as many as there are cores, and memory for; one on GPUs."""
    if on_gpu():
        return 1
    # not os.cpu_count: a container or taskset may leave fewer
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, int(psutil.virtual_memory().available / MEMORY)))


def train_all(configs: list[Config], tell: Callable[[str], None]) -> None:
    """The command `lightdet train` with several runs: each is a process, one thread each.

    A run begins when those have ended that it learns from or starts with; finished ones are only
    published. On GPUs they are trained one after another.

    Args:
        configs: in the order to begin with them.
        tell: takes one line of text at a time.

    Raises:
        UserError: a run that is needed is neither listed nor there, or, at the end, the runs that
            failed and why; the others were trained.
        KeyboardInterrupt: stopped; the same command continues.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("torchrun trains one run at a time: give one --experiment and one --seed")
    finished = finished_runs(configs)
    listed = {config.run_name for config in configs} - finished
    jobs = []
    for config in configs:
        if config.run_name in finished:
            continue
        needed = needed_runs(config)
        for (run, seed), name in needed.items():
            path = root() / "runs" / config.profile / name / "weights.safetensors"
            if name not in listed and not path.is_file():
                command = train_command(run, config.profile, seed)
                raise UserError(
                    f"{config.run_name} needs {name}, and {path} is not there; list {run}, too, or "
                    f"train it first: {command}"
                )
        words = train_command(config.experiment, config.profile, config.seed).split()[1:]
        command = [sys.executable, "-m", "lightdet_tools", *words]
        jobs.append(Job(config.run_name, command, frozenset(listed & set(needed.values()))))
    at_once = min(len(jobs), slots())
    already = f"finished already: {len(finished)}; " if finished else ""
    tell(
        f"{already}runs: {len(jobs)}, {at_once} at a time" if jobs else f"{already}nothing to train"
    )
    conduct(jobs, at_once, tell)


def finished_runs(configs: list[Config]) -> set[str]:
    """Those that are there with these settings, data and first weights; they are published.

    One that learns from or starts with another of `configs` is so only if that one is.
    """
    from lightdet_core.machinery.runs import finished_key, identify, publish

    found = {}
    for config in configs:
        folder = root() / "runs" / config.profile / config.run_name
        with suppress(UserError, FileNotFoundError):  # the training says what is wrong
            if finished_key(folder) == identify(config, folder.parent)[-1]:
                found[config.run_name] = config
    names = {config.run_name for config in configs}
    while due := {
        name
        for name, config in found.items()
        if (set(needed_runs(config).values()) & names) - found.keys()
    }:
        found = {name: config for name, config in found.items() if name not in due}
    for name, config in found.items():
        publish(root() / "runs" / config.profile / name, config)
    return set(found)


def needed_runs(config: Config) -> dict[tuple[str, int], str]:
    """(experiment, seed) -> name of the runs whose weights a run learns from or starts with."""
    wanted = [(config.distill.teacher, 0), (config.train.init, config.seed)]
    return {(run, seed): f"{run}-s{seed}" for run, seed in wanted if run}


def conduct(
    jobs: list[Job],
    at_once: int,
    tell: Callable[[str], None],
    worth: Callable[[str], object] = bool,
    needed: Callable[[Job], bool] = lambda job: True,
) -> None:
    """Run the jobs, and pass on what they say, whole lines with the name of the job.

    Of those that may begin the first one does. What needs a job that failed does not begin; the
    rest goes on. A stop (Ctrl-C, SIGTERM, a closed terminal) is handed on to the jobs, which end in
    their own time; none begins after it, and a second one is handed on, too.

    Args:
        jobs: the names that they come after are among theirs.
        at_once: how many may run at the same time.
        tell: takes one line of text at a time.
        worth: whether a line is passed on.
        needed: asked before a job begins; where it is not needed, it counts as done.

    Raises:
        UserError: the jobs that failed, with what they said.
        KeyboardInterrupt: stopped.
    """
    work = _Work(list(jobs), at_once, needed)
    with _stops() as stops:
        try:
            while True:
                if not stops:
                    work.begin()
                _hand_on(stops, work.running.values())
                if not work.running:
                    break
                with suppress(Empty):
                    name, said = work.lines.get(timeout=LOOK)
                    if isinstance(said, int):
                        work.end(name, said)
                        how = f" ended with {said}" if said else ""
                        tell(f"[{len(work.done)} of {len(jobs)} done] {name}{how}")
                        continue
                    work.running[name].last.append(said)
                    if worth(said):
                        tell(said if RUN.match(said) else f"{name}: {said}")
        finally:  # also after an error of ours, such as a closed output
            _hand_on(stops or [signal.SIGINT], work.running.values())
            for one in work.running.values():
                one.process.wait()
    left = len(jobs) - len(work.done)
    if stops and left:
        raise KeyboardInterrupt(f"stopped, {left} left; run the same command to continue")
    if work.failed or work.waiting:
        rest = {job.name: "not begun, for it needs what failed" for job in work.waiting}
        why = work.failed | rest
        told = [f"  {job.name}: {why[job.name]}" for job in jobs if job.name in why]
        raise UserError("\n".join([f"{len(work.failed)} of {len(jobs)} failed:", *told]))


@dataclass
class _Work:
    """The jobs of `conduct`, by what has become of them."""

    waiting: list[Job]
    at_once: int
    needed: Callable[[Job], bool]
    running: dict[str, Running] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # and why
    lines: SimpleQueue[tuple[str, str | int]] = field(default_factory=SimpleQueue)

    def begin(self) -> None:
        """Start what may start now."""
        while len(self.running) < self.at_once:
            job = next((job for job in self.waiting if job.after <= self.done), None)
            if job is None:
                return
            self.waiting.remove(job)
            if self.needed(job):
                self.running[job.name] = _start(job, self.lines)
            else:
                self.done.add(job.name)

    def end(self, name: str, code: int) -> None:
        """Note how a process has ended."""
        last = self.running.pop(name).last
        if code:
            self.failed[name] = _reason(list(last), code)
        else:
            self.done.add(name)


def _start(job: Job, lines: SimpleQueue) -> Running:
    """In a process group of its own: a terminal's Ctrl-C comes here alone, to be handed on once.

    (A training takes a second one for impatience.) If this process is killed, the next line that
    they write ends them, for nobody reads it.
    """
    # `python` in a stage is this interpreter, its environment activated or not; its lines come at
    # once and in order, for the last ones say why it failed
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    settings = {"PATH": path, "PYTHONUNBUFFERED": "1"}
    if job.one_thread and not on_gpu():
        settings |= ONE_THREAD
    process = subprocess.Popen(
        job.command,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        process_group=0,
    )

    def read() -> None:
        for line in process.stdout or ():
            lines.put((job.name, line.rstrip()))
        lines.put((job.name, process.wait()))

    threading.Thread(target=read, daemon=True).start()
    return Running(process, deque(maxlen=KEPT), [])


@contextmanager
def _stops() -> Generator[list[int]]:
    """The signals that asked to stop until now."""
    came: list[int] = []
    kinds = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else by nohup
        kinds.append(signal.SIGHUP)
    before = {kind: signal.signal(kind, lambda number, _: came.append(number)) for kind in kinds}
    try:
        yield came
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _hand_on(stops: list[int], running: Iterable[Running]) -> None:
    """As Ctrl-C, to all processes of a job: DVC waits for its training, which saves and ends."""
    for one in running:
        for number in stops[len(one.told) :]:
            one.told.append(number)
            if one.process.returncode is None:
                with suppress(ProcessLookupError):  # it has just ended
                    os.killpg(one.process.pid, signal.SIGINT)


def _reason(said: list[str], code: int) -> str:
    """Why a process failed: its error in its own words, or what it said last."""
    found = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    return (found or [line for line in said if line][-1:] or [f"exit code {code}"])[0]
