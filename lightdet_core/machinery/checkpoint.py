"""What a training step changes, and how it survives an interruption.

A checkpoint holds the whole `State`; every random number is keyed by (seed, step), so that nothing
else is needed to go on, bit for bit on a CPU. It is written aside, read back and renamed, and the
one before it is kept: a damaged one costs `checkpoint_steps` steps.
"""

import csv
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightdet_core.config import UserError
from lightdet_core.model import LightDet


@dataclass
class State:
    """Everything that a step reads and changes."""

    model: LightDet
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of the fp16 loss; switched off in other precisions
    average: dict[str, Tensor] | None  # moving average of the model's state, float32
    masks: dict[str, Tensor]  # 2:4 masks by parameter; empty before pruning
    skipped: Tensor  # () steps whose gradient was not finite


def save(path: Path, step: int, state: State) -> None:
    """The state after `step` steps, as .safetensors; the checkpoint before stays beside it.

    Raises:
        UserError: a weight is not finite, or the file cannot be written or does not hold
            what was written; the checkpoint before stays in place.
    """
    weights = state.model.state_dict()
    if not all(torch.isfinite(v).all() for v in weights.values()):
        raise UserError(
            f"{path}: a weight is not finite after step {step}; lower train.lr. The checkpoint "
            "before, if any, is kept there; delete it to start again"
        )
    tensors = {f"model.{k}": v for k, v in weights.items()} | {"skipped.": state.skipped}
    for index, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    tensors |= {f"average.{k}": v for k, v in (state.average or {}).items()}
    tensors |= {f"mask.{k}": v for k, v in state.masks.items()}
    scaling = state.scaler.state_dict()  # empty when switched off
    tensors |= {f"scaler.{k}": torch.tensor(v, dtype=torch.float64) for k, v in scaling.items()}
    aside = path.with_suffix(".partial")
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        save_file(tensors, aside, metadata={"step": str(step)})
        with aside.open("rb+") as file:
            os.fsync(file.fileno())  # on the disk before it takes the other's place
        found = load_file(aside)
        if not all(_same_bytes(found[key], tensor) for key, tensor in tensors.items()):
            raise SafetensorError("it reads back as other numbers")
    except (SafetensorError, OSError) as error:  # the first also for a full disk
        aside.unlink(missing_ok=True)
        raise UserError(
            f"{aside}: cannot be written ({error}); the checkpoint before, if any, is kept"
        ) from None
    if path.is_file():
        os.replace(path, previous_path(path))
    os.replace(aside, path)


def _same_bytes(found: Tensor, wanted: Tensor) -> bool:
    """Equal bit for bit: NaN, which is none of the weights', would else differ from itself."""
    return torch.equal(found.flatten().view(torch.uint8), wanted.flatten().view(torch.uint8))


def read(
    path: Path, progress: Callable[[str], None] = print
) -> tuple[int, dict[str, Tensor]] | None:
    """Steps done and tensors of the checkpoint, or of the one before it if that is damaged.

    Returns:
        None: there is no checkpoint.

    Raises:
        UserError: there are some, but none can be read.
    """
    damage = []
    for one in (path, previous_path(path)):
        try:
            with safe_open(one, "pt") as file:
                step = int(file.metadata()["step"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            continue
        except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
            damage.append(f"{one}: damaged checkpoint ({error})")
            continue
        if damage:
            progress(f"{damage[0]}; taking the one before it")
            os.replace(one, path)  # a later `save` must not put the damaged one in its place
        return step, tensors
    if damage:
        them = "it" if len(damage) == 1 else "them"
        raise UserError(f"{'; '.join(damage)}; delete {them} to start again")
    return None


def restore(tensors: dict[str, Tensor], state: State) -> None:
    """Put the tensors of a checkpoint back into `state`."""
    parts: dict[str, dict[str, Tensor]] = {
        name: {} for name in ("model", "optimizer", "average", "mask", "scaler", "skipped")
    }
    for key, tensor in tensors.items():
        part, name = key.split(".", 1)
        parts[part][name] = tensor
    state.model.load_state_dict(parts["model"])
    slots: dict[int, dict] = {}
    for name, tensor in parts["optimizer"].items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": slots, "param_groups": groups})
    for parameter, values in state.optimizer.state.items():
        for slot, tensor in values.items():
            # the fused optimizers pair raw memory: the layout must be the parameter's
            if tensor.shape == parameter.shape:
                values[slot] = torch.empty_like(parameter).copy_(tensor)
    if state.average is not None:
        for key, tensor in parts["average"].items():
            state.average[key].copy_(tensor)
    scaling = {k: v.item() for k, v in parts["scaler"].items()}
    if scaling:
        integers = ("growth_interval", "_growth_tracker")
        state.scaler.load_state_dict(
            {k: int(v) if k in integers else v for k, v in scaling.items()}
        )
    device = state.skipped.device
    state.masks.update({k: v.to(device) for k, v in parts["mask"].items()})
    state.skipped.copy_(parts["skipped"][""])


def previous_path(checkpoint: Path) -> Path:
    """The checkpoint before it."""
    return checkpoint.with_suffix(".previous.safetensors")


def log_path(checkpoint: Path) -> Path:
    """log.csv of the run that a checkpoint belongs to."""
    return checkpoint.with_suffix(".csv")


def evaluations_path(checkpoint: Path) -> Path:
    """The accuracies along the run, where they are asked for."""
    return checkpoint.with_suffix(".evaluations.csv")


@contextmanager
def log_writer(
    path: Path, columns: tuple[str, ...], start: int
) -> Iterator[Callable[[list], None]]:
    """Append rows to a log; rows beyond the checkpoint that a resume starts from are cut."""
    rows = []
    if start:
        try:
            with path.open(newline="") as file:
                rows = list(csv.reader(file))[1:]
        except FileNotFoundError:
            raise UserError(
                f"{path}: the log beside the checkpoint is gone; delete the checkpoint, too, to "
                "start again"
            ) from None
        whole = [row for row in rows if len(row) == len(columns) and row[0].isdigit()]
        rows = [row for row in whole if int(row[0]) <= start]
    aside = path.with_suffix(".partial")
    with aside.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    os.replace(aside, path)
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")

        def write(row: list) -> None:
            writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in row])
            file.flush()

        yield write
