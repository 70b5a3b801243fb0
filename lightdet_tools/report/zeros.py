"""What 2:4 masks do to a network: zeros by layer, bytes, statistics of its batch norms."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lightdet_core.sparsity import check_2to4, eligible, is_layer, obstacle


def report(state: Mapping[str, Tensor]) -> tuple[list[dict], dict]:
    """What is pruned in each convolution and linear layer.

    Args:
        state: `model.state_dict()`.

    Returns:
        Rows for `pandas.DataFrame` (name, shape, eligible, obstacle, weights, zeros, share = zeros
        per weight; obstacle: depthwise, input channels, output channels, number format or ""), and
        the totals (layers, eligible_layers, weights, eligible_weights, zeros, share).
    """
    rows = [
        {
            "name": name.removesuffix(".weight"),
            "shape": tuple(weight.shape),
            "eligible": eligible(name, weight),
            "obstacle": obstacle(weight),
            "weights": weight.numel(),
            "zeros": weight.numel() - int(weight.count_nonzero()),
        }
        for name, weight in state.items()
        if is_layer(name, weight)
    ]
    pruned = [row for row in rows if row["eligible"]]
    totals = {
        "layers": len(rows),
        "eligible_layers": len(pruned),
        "weights": sum(row["weights"] for row in rows),
        "eligible_weights": sum(row["weights"] for row in pruned),
        "zeros": sum(row["zeros"] for row in rows),
    }
    for row in (*rows, totals):
        row["share"] = row["zeros"] / max(row["weights"], 1)
    return rows, totals


def stored_bytes(state: Mapping[str, Tensor], bits: int) -> int:
    """Bytes of a network whose eligible layers are stored in 2:4 form and all else dense.

    Two of four values and their places, two bits each: half the values and one bit per original
    weight. A layer that does not hold the pattern counts as dense. Counters (whole numbers) and
    the scales of int8 are left out.

    Args:
        state: `model.state_dict()`.
        bits: of one value: 32, 16 or 8.
    """
    total = 0
    for name, tensor in state.items():
        if tensor.is_floating_point():
            packed = eligible(name, tensor) and not check_2to4({name: tensor})
            total += tensor.numel() * (bits // 2 + 1 if packed else bits)
    return total // 8


@torch.no_grad()
def measure_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Running statistics anew, as the plain mean over batches of images, in place.

    Masks change what a layer puts out, and the statistics of the dense network no longer fit; in
    training they follow by themselves.

    Args:
        model: left in eval mode.
        batches: of images (B, 3, H, W), RGB 0..255.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a plain mean
    model.train()
    for images in batches:
        model(images)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
