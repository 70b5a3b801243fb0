"""What a result needs to be believed: command, settings, commit, machine and versions."""

import dataclasses
import json
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightdet_core.config import Config, root, train_command
from lightdet_core.machinery.files import file_hash
from lightdet_core.machinery.packs import Pack
from lightdet_core.machinery.weights import imagenet_origin

CODE = ("lightdet_core", "lightdet_tools", "params.yaml")  # what decides on a result
LIBRARIES = ("torchvision", "timm", "numpy", "pycocotools", "safetensors")


def provenance(
    config: Config, model: nn.Module, packs: dict[str, Pack], device: torch.device
) -> dict:
    """The facts about a run that run.json holds, but for those that training measures."""
    # another number of threads rounds otherwise
    threads = "OMP_NUM_THREADS=1 " if device.type == "cpu" and torch.get_num_threads() == 1 else ""
    return {
        "command": threads + train_command(config.experiment, config.profile, config.seed),
        "experiment": config.experiment,
        "profile": config.profile,
        "seed": config.seed,
        "config_hash": config.hash,
        "config": dataclasses.asdict(config),
        **git_state(),
        "hardware": hardware(device),
        "versions": {
            "python": platform.python_version(),
            **{k: version(k) for k in LIBRARIES},
            "torch": str(torch.__version__),  # with the build: +cu130
        },
        "num_params": sum(p.numel() for p in model.parameters()),
        "input_size": config.model.input_size,
        "train_images": len(packs["train"].images),
        "val_images": len(packs["val"].images),
        "pack_hash": packs["train"].hash,
        "val_hash": packs["val"].hash,
    }


def first_weights(config: Config) -> dict[str, str]:
    """Weights that a run begins with for run.json, `imagenet` or a file, `pretrained`; {} if it
    begins with a run (`train.init`) or at random."""
    source = config.model.pretrained
    if config.train.init or not source:
        return {}
    if isinstance(source, str):
        return {"pretrained": f"{source}, sha256 {file_hash(root() / source)[:16]}"}
    return {"imagenet": imagenet_origin(config.model.backbone, source)}


def hardware(device: torch.device) -> str:
    """The machine in words: GPU if one was used, processor, threads.

    With the instructions that torch computes with: clouds call several kinds of processor by one
    name, which round otherwise.
    """
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name.*?: *(.+)", info.read_text() if info.is_file() else "", re.M)
    cpu = model[1].strip() if model else platform.processor() or platform.machine()
    cpu += f" with {torch.backends.cpu.get_cpu_capability()}"
    text = f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(device)}; {text}" if device.type == "cuda" else text


def git_state() -> dict:
    """Commit, and whether code or settings differ from it; None outside of a git checkout."""

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", *args], cwd=root(), capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain", "-uno", "--", *CODE)
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def rounded(value: Any) -> Any:
    """Floats of nested dicts and lists to six digits, so that the file says what was measured."""
    return json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 6))
