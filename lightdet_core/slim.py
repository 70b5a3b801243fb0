"""Slimming: out of a network whose blocks are wide inside, one with narrower blocks.

EfficientNet-Lite's blocks widen C channels to I inner ones (1x1), filter each of these by itself
(depthwise), and project them to K channels (1x1). Taking inner channels out leaves a smaller dense
network, which every processor computes faster, where the zeros of 2:4 sparsity save time on special
hardware only. Nothing outside of a block changes its shape, so the weights of all that stays go on.
Tensor legend: K output channels · I inner channels of a block.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

LAST = "conv_pwl.weight"  # timm's name of a block's projection, (K, I, 1, 1)


def blocks(state: Iterable[str]) -> list[str]:
    """What the names of each block's tensors begin with, in the order of the network."""
    return [name.removesuffix(LAST) for name in state if name.endswith(LAST)]


def by_weights(state: Mapping[str, Tensor], with_projection: bool = True) -> dict[str, Tensor]:
    """How much the inner channels of each block matter, from the weights alone: block -> (I,).

    |gamma| of the batch norm before the projection (network slimming; Liu 2017), times the norm of
    the weights that project the channel: by how much the block's output would change, at most,
    without it.
    """
    scores = {}
    for block in blocks(state):
        scores[block] = state[f"{block}bn2.weight"].abs()
        if with_projection:
            project = state[block + LAST]
            scores[block] = scores[block] * project.float().square().sum((0, 2, 3)).sqrt()
    return scores


def by_taylor(model: nn.Module, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """The same from the loss: what it would change by, to first order, without the channel.

    The sum over batches of (gamma dL/dgamma + beta dL/dbeta)^2, with scale and shift of the batch
    norm before the projection (Molchanov 2019, its gates after batch norm).

    Args:
        model: on any device.
        losses: scalars with a graph, one per batch; each is computed when it is asked for.
    """
    named = dict(model.named_parameters())
    names = blocks(named)
    gates = [named[f"{block}bn2.{part}"] for block in names for part in ("weight", "bias")]
    scores = {block: torch.zeros_like(named[f"{block}bn2.weight"]) for block in names}
    for loss in losses:
        changes = [g * d for g, d in zip(gates, torch.autograd.grad(loss, gates), strict=True)]
        for block, scale, shift in zip(names, changes[::2], changes[1::2], strict=True):
            scores[block] += (scale + shift).detach().square()
    return scores


def narrowed(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    scores: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The weights of narrower blocks: of each block the channels that matter most.

    Args:
        state: of the wide network; its inner channels keep their order.
        wanted: of the narrow one, for its shapes.
        scores: block -> (I,) of the wide one; where nothing is said, by its weights.
    """
    state, scores = dict(state), by_weights(state) if scores is None else scores
    for block in blocks(wanted):
        inner = wanted[block + LAST].shape[1]
        if block not in scores or inner >= len(scores[block]):
            continue  # what does not fit otherwise is named when it is loaded
        keep = scores[block].topk(inner).indices.sort().values
        state[block + LAST] = state[block + LAST][:, keep]
        parts = tuple(block + part for part in ("conv_pw.", "bn1.", "conv_dw.", "bn2."))  # (I, …)
        for name, value in state.items():
            if name.startswith(parts) and value.ndim:  # no counter
                state[name] = value[keep]
    return state
