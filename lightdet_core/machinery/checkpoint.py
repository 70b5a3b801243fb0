"""Checkpoints: a training's tensors, so that they survive an interruption.

Written aside, read back and renamed; the one before is kept: a damaged one costs
`checkpoint_steps` steps.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightdet_core.config import UserError

PREVIOUS = ".previous.safetensors"  # the end of the name of the checkpoint before


def save(path: Path, step: int, tensors: dict[str, Tensor]) -> None:
    """The state after `step` steps, as .safetensors; the checkpoint before stays beside it.

    Raises:
        UserError: a weight is not finite, or the file cannot be written or does not hold
            what was written; the checkpoint before stays in place.
    """
    if not all(v.isfinite().all() for k, v in tensors.items() if k.startswith("model.")):
        raise UserError(
            f"{path}: a weight is not finite after step {step}; lower train.lr. The checkpoint "
            "before, if any, is kept there; delete it to start again"
        )
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
        os.replace(path, path.with_suffix(PREVIOUS))
    os.replace(aside, path)


def _same_bytes(found: Tensor, wanted: Tensor) -> bool:
    """Equal bit for bit: NaN, which is none of the weights', would else differ from itself."""
    return torch.equal(found.flatten().view(torch.uint8), wanted.flatten().view(torch.uint8))


def read(path: Path, progress: Callable[[str], None]) -> tuple[int, dict[str, Tensor]] | None:
    """Steps done and tensors of the checkpoint, or of the one before it if that is damaged.

    None if there is no checkpoint; `UserError` if there are some, but none can be read.
    """
    damage = []
    for one in (path, path.with_suffix(PREVIOUS)):
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
