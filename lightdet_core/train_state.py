"""What a training step reads and changes: first state, learning rate, average, pruning.

All of a `State` goes into a checkpoint and comes back from it, bit for bit on a CPU.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightdet_core import sparsity
from lightdet_core.config import Config, TrainConfig
from lightdet_core.machinery.weights import Weights
from lightdet_core.model import LightDet


@dataclass
class State:
    """Everything that a step reads and changes."""

    model: LightDet
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of the fp16 loss; switched off in other precisions
    average: Weights | None  # moving average of the model's state, float32
    masks: Weights  # 2:4 masks by parameter; empty before pruning
    skipped: Tensor  # () steps that the scaler left out: a gradient was not finite


def new_state(model: LightDet, train: TrainConfig, device: torch.device) -> State:
    """The state before the first step, of a network that is on its device and in train mode."""
    average = None
    if train.ema_decay:
        average = {k: v.clone() for k, v in model.state_dict().items()}
    if train.precision == "fp16-pure":
        model.half()
    scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
    skipped = torch.zeros((), device=device)
    return State(model, make_optimizer(model, train), scaler, average, {}, skipped)


def make_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """SGD (momentum 0.9, no Nesterov) or AdamW; decay on every parameter, as NanoDet has it.

    Fused, but for parameters in half precision, which SGD alone may have: on a CPU fused SGD (torch
    2.11) leaves most of those as they are.
    """
    parameters, decay = list(model.parameters()), train.weight_decay
    if train.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=train.lr, weight_decay=decay, fused=True)
    fused = train.precision != "fp16-pure"
    optimizer = torch.optim.SGD(parameters, train.lr, momentum=0.9, weight_decay=decay, fused=fused)
    for parameter in parameters:
        # torch allocates it unfilled in the first step, and leaves it so if that one overflows
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def learning_rate(train: TrainConfig, step: int, epoch_steps: int) -> float:
    """Learning rate of a step (counted from 0): linear warm-up, then multistep or cosine.

    The warm-up is k = 1 - (1 - step / warmup_steps) (1 - warmup_lr / lr), as in NanoDet; the
    paper's is 0.0003 -> 0.16 in 500 steps.
    """
    if step < train.warmup_steps:
        ratio = train.warmup_lr / train.lr
        return train.lr * (1 - (1 - step / train.warmup_steps) * (1 - ratio))
    if train.schedule == "multistep":
        return train.lr * 0.1 ** sum(step // epoch_steps >= m for m in train.milestones)
    span = max(train.epochs * epoch_steps - train.warmup_steps, 1)
    share = (step - train.warmup_steps) / span
    return train.final_lr + (train.lr - train.final_lr) * (1 + math.cos(math.pi * share)) / 2


def follow(state: State, train: TrainConfig, step: int) -> None:
    """The moving average, where there is one, goes towards the weights after a step."""
    if state.average is not None:
        update_average(state.average, state.model, ema_decay(train.ema_decay, step, train.ema_ramp))


def ema_decay(decay: float, step: int, ramp: int) -> float:
    """Decay of the moving average, growing from near 0: d (1 - exp(-(1 + step) / ramp))."""
    return decay * (1 - math.exp(-(1 + step) / ramp))


@torch.no_grad()
def update_average(average: Weights, model: nn.Module, decay: float) -> None:
    """Exponential moving average of weights and of batch-norm statistics; counters are copied."""
    now = {key: _full(value) for key, value in model.state_dict().items()}
    floating = [key for key, value in now.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[k] for k in floating], [now[k] for k in floating], 1 - decay)
    for key in now.keys() - set(floating):
        average[key].copy_(now[key])


def _full(value: Tensor) -> Tensor:
    """Half precision as float32; everything else as it is."""
    return value.float() if value.dtype == torch.float16 else value


def final_weights(state: State) -> Weights:
    """What a run evaluates and writes: the average, where there is one; float32, on the CPU."""
    weights = state.average if state.average is not None else state.model.state_dict()
    return {k: _full(v).detach().cpu().contiguous() for k, v in weights.items()}


def prune(state: State, config: Config) -> None:
    """Set the 2:4 masks from the weights of now; from here on the optimizer keeps them."""
    state.masks = sparsity.make_masks(state.model)
    sparsity.apply_masks(dict(state.model.named_parameters()), state.masks)
    if state.average is not None:
        # both copies are zero there from now on, and so is every average of them
        sparsity.apply_masks(state.average, state.masks)
    keep_pruned(state, config)


def keep_pruned(state: State, config: Config) -> None:
    """Hook the masks into the optimizer, or let apex do it with the masks that it finds itself."""
    if config.sparsity.backend == "apex":
        state.masks = sparsity.prune_with_apex(state.model, state.optimizer)
    else:
        sparsity.attach(state.optimizer, state.model, state.masks)


def tensors_of(state: State) -> Weights:
    """All of a state, for a checkpoint; `restore` puts it back."""
    tensors = {f"model.{k}": v for k, v in state.model.state_dict().items()}
    tensors["skipped.steps"] = state.skipped
    for index, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    tensors |= {f"average.{k}": v for k, v in (state.average or {}).items()}
    tensors |= {f"mask.{k}": v for k, v in state.masks.items()}
    scaling = state.scaler.state_dict()  # empty when switched off
    tensors |= {f"scaler.{k}": torch.tensor(v, dtype=torch.double) for k, v in scaling.items()}
    return tensors


def restore(tensors: Weights, state: State) -> None:
    """Put the tensors of a checkpoint back into `state`."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        part, name = key.split(".", 1)
        parts[part][name] = tensor
    state.model.load_state_dict(parts["model"])
    parameters = list(state.model.parameters())
    for name, tensor in parts["optimizer"].items():
        index, slot = name.split(".", 1)
        parameter = parameters[int(index)]
        # the fused optimizers pair raw memory: the layout must be the parameter's
        layout = parameter if tensor.shape == parameter.shape else tensor.to(parameter.device)
        state.optimizer.state[parameter][slot] = torch.empty_like(layout).copy_(tensor)
    if state.average is not None:
        for key, tensor in parts["average"].items():
            state.average[key].copy_(tensor)
    if scaling := {k: v.item() for k, v in parts["scaler"].items()}:
        integers = {k: int(scaling[k]) for k in ("growth_interval", "_growth_tracker")}
        state.scaler.load_state_dict(scaling | integers)
    device = state.skipped.device
    state.masks.update({k: v.to(device) for k, v in parts["mask"].items()})
    state.skipped.copy_(parts["skipped"]["steps"])
