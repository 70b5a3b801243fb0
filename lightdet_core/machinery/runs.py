"""Run folders: what a run starts from, whether it is finished, one training at a time.

A finished run is `runs/<profile>/<experiment>-s<seed>/`; its small files are published to
results/<profile>/, where git keeps them.
"""

import ctypes
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from lightdet_core.config import Config, UserError, root, train_command
from lightdet_core.machinery.files import file_hash, replacing, short_hash
from lightdet_core.machinery.packs import Pack, open_split, with_classes


def sources_of(config: Config, runs: Path) -> dict[str, Path]:
    """Weights from elsewhere that a run learns from or starts with, by the setting that asks.

    Raises:
        UserError: a run is not there, or `check_start`; the message names the setting.
    """
    check_start(config, runs)
    sources, teacher, init = {}, config.distill.teacher, config.train.init
    for setting, run, seed in (("distill.teacher", teacher, 0), ("train.init", init, config.seed)):
        if run:
            path = sources[setting] = runs / f"{run}-s{seed}" / "weights.safetensors"
            if not path.is_file():
                command = train_command(run, config.profile, seed)
                raise UserError(f"{setting} {run}: {path} is not there; train it first: {command}")
    if isinstance(config.model.pretrained, str):
        sources["model.pretrained"] = root() / config.model.pretrained
    return sources


def identify(config: Config, runs: Path) -> tuple[Config, dict[str, Pack], dict[str, Path], str]:
    """A run's config with the classes of its data, its packs, its sources and its key.

    Raises:
        UserError: what does not fit or is missing. FileNotFoundError: a pack.
    """
    packs = {split: open_split(config, split) for split in ("train", "val")}
    config = with_classes(config, packs["train"])
    sources = sources_of(config, runs)
    return config, packs, sources, run_key(config, packs, sources)


def run_key(config: Config, packs: dict[str, Pack], sources: dict[str, Path]) -> str:
    """What a checkpoint and a finished run must agree with, 8 characters each.

    Settings, data, then what the weights from elsewhere (teacher, first weights) were made from, by
    the key of their run: on another processor the same gives other bytes. (So a teacher that is
    trained anew, by other code, makes no student due; delete these to train them anew, too.) Of a
    file without a run its bytes count. Seeds that share a key may be averaged (report.run_table).
    """
    data = "".join(pack.hash + pack.pixels for pack in packs.values())
    return config.hash[:8] + short_hash(data) + "".join(map(_origin, sources.values()))


def _origin(weights: Path) -> str:
    """8 characters for the run that made this file, or for the file."""
    key = finished_key(weights.parent)
    return file_hash(weights)[:8] if key == "incomplete" else short_hash(key)


def finished_key(folder: Path) -> str:
    """The key of the finished run in `folder`; "incomplete" if it is none."""
    try:
        key = json.loads((folder / "run.json").read_text())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return "incomplete"
    return key if (folder / "weights.safetensors").is_file() else "incomplete"


def check_links(profile: str) -> None:
    """`UserError` for a link behind which DVC would refuse the results of a whole training."""
    for name in ("runs", "results", f"runs/{profile}", f"results/{profile}"):
        if (path := root() / name).is_symlink():
            raise UserError(
                f"{path}: is a symbolic link, behind which DVC takes no results; use a bind mount "
                f"or a checkout on the large disk (data/{profile} may be a link)"
            )


def check_start(config: Config, runs: Path, others: Iterable[str] = ()) -> None:
    """`UserError` for first weights in the folder of a run that replaces them: this one, or one of
    the others, names of folders, which are emptied before anything trains."""
    start = config.model.pretrained
    if not isinstance(start, str):
        return
    path = (root() / start).resolve()
    for name in (config.run_name, *others):
        if path.is_relative_to((runs / name).resolve()):
            raise UserError(
                f"model.pretrained {start} of {config.experiment}: training {name} replaces it; "
                f"copy the file elsewhere, or the block {config.profile} of params.yaml under "
                "another name"
            )


def refuse_run_folder(path: Path) -> None:
    """Raises a UserError, which names the weights, for a folder that has some."""
    weights = path / "weights.safetensors"
    if weights.is_file():
        raise UserError(f"{path}: is a folder; the weights are {weights}")


def move_aside(folder: Path) -> Path:
    """Rename a run folder to one that no other has; returns its new path."""
    found = finished_key(folder)
    aside, number = folder.with_name(f"{folder.name}.{found}"), 1
    while aside.exists():
        aside, number = folder.with_name(f"{folder.name}.{found}.{number}"), number + 1
    return folder.rename(aside)


@contextmanager
def alone(lock: Path) -> Generator[None]:
    """`UserError` while another process trains the same run; the lock ends with its holder."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{lock.stem}: {file.read().strip() or 'another process'} trains this run now; "
                f"wait until it has ended, or stop it (lock: {lock})"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def publish(folder: Path, config: Config) -> None:
    """Copy the small files of a run to results/<profile>/, where git keeps them."""
    results = root() / "results" / config.profile
    for name, room in (("metrics.json", "metrics"), ("log.csv", "logs"), ("run.json", "runs")):
        source = folder / name
        with replacing(results / room / f"{config.run_name}{source.suffix}") as aside:
            shutil.copy(source, aside)


def keep_memory(keep: bool = True) -> None:
    """Ask glibc to keep freed memory: large activations come and go at every step (1.1-1.3x).

    `keep=False` goes back to what it does by itself, for comparison.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        # M_MMAP_MAX: no separate mapping per large block
        libc.mallopt(-4, 0 if keep else 65_536)
        # M_TRIM_THRESHOLD: do not return the top of the heap
        libc.mallopt(-1, 2**31 - 1 if keep else 131_072)
