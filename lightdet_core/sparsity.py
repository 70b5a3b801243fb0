"""2:4 structured sparsity: of four weights in a row along the input channels, two are zero.

Pruning a network once, after which training goes on under fixed masks:

    masks = make_masks(model)                  # from the weights as they are now
    apply_masks(model.state_dict(), masks)     # and the moving average, where there is one
    attach(optimizer, model, masks)            # every step keeps the zeros

Layers are chosen and training is masked as NVIDIA's ASP does it ("m4n2_1d"). The zeros save
storage; they save time only where the hardware and its library use them.
Tensor legend: K output channels · C input channels · R, S rows and columns of the kernel.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightdet_core.config import UserError

APEX_BUFFER = "__weight_mma_mask"


def mask_2to4(weight: Tensor) -> Tensor:
    """Which weights stay: the two of largest magnitude in each four consecutive input channels.

    Of equal ones the lowest channel stays. A last group of fewer than four is filled with zeros.

    Args:
        weight: (K, C) of a linear layer or (K, C, R, …) of a convolution, any memory format.

    Returns:
        bool, of the shape and the memory format of `weight`.
    """
    groups = _groups(weight.detach().abs())
    order = groups.argsort(dim=-1, descending=True, stable=True)  # stable: lowest index first
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :2], True)
    keep = keep.flatten(-2)[..., : weight.shape[1]].movedim(-1, 1)
    return torch.empty_like(weight, dtype=torch.bool).copy_(keep)


def _groups(weight: Tensor) -> Tensor:
    """(K, C, R, …) -> (K, R, …, ceil(C / 4), 4): the input channels in fours, zero padded."""
    channels_last = weight.movedim(1, -1)
    return F.pad(channels_last, (0, -weight.shape[1] % 4)).unflatten(-1, (-1, 4))


def is_layer(name: str, tensor: Tensor) -> bool:
    """A linear layer's or a convolution's weight; those of batch norms have one dimension."""
    return name.rpartition(".")[2] == "weight" and 2 <= tensor.ndim <= 5


def obstacle(weight: Tensor) -> str:
    """Why ASP leaves a layer dense; "" when it does not."""
    if weight.dtype not in (torch.float32, torch.float16):
        return "number format"
    if weight.ndim > 2 and weight.shape[1] == 1:
        return "depthwise"
    if weight.shape[1] % 16:
        return "input channels"
    return "output channels" if weight.shape[0] % 8 else ""


def eligible(name: str, weight: Tensor) -> bool:
    """ASP's rule: a layer's weight, fp32 or fp16, K a multiple of 8 and C one of 16.

    So depthwise convolutions stay dense. bf16 weights are left alone, too (ASP would prune them
    without a look at their shape); under autocast the weights themselves are fp32. `name` is as in
    `model.state_dict()`, "weight" or something that ends in ".weight"; `weight` is (K, C, …).
    """
    return is_layer(name, weight) and not obstacle(weight)


def make_masks(model: nn.Module) -> dict[str, Tensor]:
    """`mask_2to4` of every eligible parameter, by the parameter's name."""
    return {n: mask_2to4(p) for n, p in model.named_parameters() if eligible(n, p)}


@torch.no_grad()
def apply_masks(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set what the masks of `make_masks` drop to +0.0, in place; other tensors stay as they are.

    Args:
        tensors: `model.state_dict()`, or a moving average with the same names.

    Raises:
        UserError: a mask has no tensor of its name and shape; nothing was changed.
    """
    for tensor, mask in _paired(tensors, masks):
        tensor.masked_fill_(~mask.to(tensor.device), 0.0)  # a product would leave -0.0 and NaN


def _paired(
    tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    for name, mask in masks.items():
        shape = tuple(tensors[name].shape) if name in tensors else "missing"
        if shape != tuple(mask.shape):
            raise UserError(
                f"{name}: the mask is {tuple(mask.shape)}, the weight {shape}; "
                "the masks belong to another network, make them from this one"
            )
    return [(tensors[name], mask) for name, mask in masks.items()]


def attach(optimizer: torch.optim.Optimizer, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Keep the zeros in training, in ASP's order: gradient x mask, the step, weight x mask.

    Without the second product, momentum from before the pruning would revive weights. Both are
    hooks of `optimizer.step`: a GradScaler that skips it skips them; a fused optimizer, which skips
    the update by itself, is told to before they run. (A closure's gradients come too late to be
    masked; the weights still are.) The model is on its device already, its masks applied.

    Raises:
        UserError: a mask has no parameter of its name and shape.
    """
    if not masks:
        return
    pairs = _paired(dict(model.named_parameters()), masks)
    weights = [weight for weight, _ in pairs]
    # numbers are three times as fast as bools, and foreach is quick where type and layout agree
    factors = [torch.empty_like(weight).copy_(mask) for weight, mask in pairs]

    @torch.no_grad()
    def mask_gradients(*_) -> None:
        found = [(w.grad, f) for w, f in zip(weights, factors, strict=True) if w.grad is not None]
        if found:
            torch._foreach_mul_(*map(list, zip(*found, strict=True)))

    @torch.no_grad()
    def mask_weights(*_) -> None:
        torch._foreach_mul_(weights, factors)
        torch._foreach_add_(weights, 0.0)  # -0.0 becomes +0.0: zeros that are equal compress best

    optimizer.register_step_pre_hook(mask_gradients)
    optimizer.register_step_post_hook(mask_weights)


def check_2to4(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of eligible tensors where four in a row have more than two non-zeros; [] is good."""
    groups = {name: _groups(weight) for name, weight in tensors.items() if eligible(name, weight)}
    return [name for name, fours in groups.items() if (fours.count_nonzero(-1) > 2).any()]


def nvidia_asp(device: torch.device) -> type:
    """NVIDIA apex's ASP class, or a `UserError` that says why this device cannot have it.

    (At commit 6424da3 it allocates the masks on a GPU even for weights on a CPU.)
    """
    try:
        from apex.contrib.sparsity import ASP  # type: ignore[import]
    except ImportError as error:
        raise UserError(
            f"backend apex: NVIDIA apex cannot be imported ({error}); build it from source, "
            "github.com/NVIDIA/apex (PyPI's `apex` is another project), or set backend: own, "
            "which gives the same masks"
        ) from error
    if device.type != "cuda":
        raise UserError(f"backend apex: it needs a CUDA GPU, not a {device.type}; set backend: own")
    return ASP


def prune_with_apex(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """NVIDIA's own ASP in place of `attach`, with the masks that it finds itself: the same.

    (But for ties, by rounding, too: ASP compares sums and takes the first pattern in the order of a
    Python set.) ASP keeps network, optimizer and masks in its class: one network per process.

    Returns:
        The masks, by the parameter's name; the weights are pruned, the optimizer is patched.

    Raises:
        UserError: NVIDIA apex is not installed, or was used in this process already;
            there is no CUDA GPU.
    """
    asp = nvidia_asp(next(model.parameters()).device)
    try:
        asp.init_model_for_pruning(
            model,
            mask_calculator="m4n2_1d",
            verbosity=0,
            whitelist=[nn.Linear, nn.Conv2d],
            allow_recompute_mask=False,
            allow_permutation=False,  # not there when the paper was written
        )
        asp.init_optimizer_for_pruning(optimizer)
    except AssertionError as error:
        raise UserError(
            f"backend apex: {error} It prunes one network per process; start a new one, "
            "or set backend: own"
        ) from error
    asp.compute_sparse_masks()
    masks = {}
    for name, mask in list(model.named_buffers()):
        owner, _, buffer = name.rpartition(".")
        if buffer == APEX_BUFFER:
            masks[name.removesuffix(APEX_BUFFER) + "weight"] = mask
            # ASP holds the mask itself; without the buffer the state dict has its usual names
            delattr(model.get_submodule(owner), buffer)
    return masks
