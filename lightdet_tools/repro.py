"""The pipeline under one profile: `dvc repro` with `profile:` of params.yaml set for it."""

import json
import re
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import yaml

from lightdet_core.config import ConfigError, UserError, load_config, read_params, root
from lightdet_core.machinery.files import write_text

LINE = re.compile(r"""^(profile:[ \t]+)(?:"[^"\n]*"|'[^'\n]*'|[^\s#]+)(?!\S)""", re.M)
SHELLS = ("sh", "bash", "dash", "zsh")
DVC = [sys.executable, "-m", "dvc", "repro"]


def set_profile(profile: str) -> str:
    """Make `profile` that of params.yaml, where nothing else changes; returns the one before.

    Raises:
        ConfigError: unknown profile, or its settings are not in order; nothing is written.
    """
    load_config("c0", profile)
    before = read_params()["profile"]
    _write(profile)
    return before


def _write(profile: str) -> None:
    path = root() / "params.yaml"
    text = path.read_bytes().decode()
    params = yaml.safe_load(text)
    if params["profile"] == profile:
        return
    word = profile if yaml.safe_load(profile) == profile else json.dumps(profile)
    changed = LINE.sub(lambda line: line[1] + word, text, count=1)
    if yaml.safe_load(changed) != params | {"profile": profile}:
        raise ConfigError(f"{path}: a line `profile: {word}` is needed; write it by hand")
    write_text(path, changed)


def check_links(profile: str) -> None:
    """`UserError` for a link behind which DVC would refuse the results of a whole training."""
    for name in ("runs", "results", f"runs/{profile}", f"results/{profile}"):
        if (path := root() / name).is_symlink():
            raise UserError(
                f"{path}: is a symbolic link, behind which DVC takes no results; use a bind mount "
                f"or a checkout on the large disk (data/{profile} may be a link)"
            )


def run_stages(profile: str, stages: list[str]) -> int:
    """`dvc repro` of these stages or of all; if it fails, params.yaml gets its profile back.

    Files of one's own may have changed without a change of the settings: their stage, which is
    quick, always runs.

    Returns:
        DVC's exit code.
    """
    check_links(profile)
    before = set_profile(profile)
    own = load_config("c0", profile).data.source in ("folder", "coco")
    code = _call("--force", "--single-item", "data") if own else 0
    code = code or _call(*stages)
    if code:
        _write(before)
    return code


def _terminate(dvc: subprocess.Popen) -> None:
    """End DVC by what it waits for: it does not hand the signal on, and a training would go on."""
    told = False
    with suppress(psutil.NoSuchProcess):
        todo = psutil.Process(dvc.pid).children()
        while todo:
            with suppress(psutil.NoSuchProcess):
                process = todo.pop()
                if process.name() in SHELLS:  # it ends with its command
                    todo += process.children()
                else:
                    process.terminate()
                    told = True
    if not told:
        dvc.terminate()


def _call(*words: str) -> int:
    """DVC's exit code. Ctrl-C reaches it and its training by itself; both end in their own time."""
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    dvc = subprocess.Popen([*DVC, *words], cwd=root())
    try:
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: _terminate(dvc))
        return dvc.wait()
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
