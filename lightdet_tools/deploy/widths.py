"""How wide each block of a smaller network should be inside: layer by layer, under one budget.

Multiply-adds alone are a poor budget: the first blocks, whose maps are large and whose channels are
few, take longer for each of them. `MOVED` puts a price on what they read and write.
"""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightdet_core.config import UserError, load_config
from lightdet_core.engine import channel_scores
from lightdet_core.machinery.packs import check_categories, open_split, with_classes
from lightdet_core.model import LightDet, load_weights
from lightdet_core.slim import LAST, blocks

STEP = 8  # channels: what vector units like
# Multiply-adds that take as long as one number that a layer writes or the next one reads: in three
# runs on an EPYC with AVX-512 6 to 11 in ONNX Runtime, 14 to 28 in OpenVINO, 23 to 30 in ncnn
# (`slimming.time_law`)
MOVED = 20.0


def macs_by_module(model: nn.Module, size: int) -> dict[str, float]:
    """Multiply-accumulates of one image in each module with all that it holds; "" is the network.

    Of convolutions, linear layers and attention's products, one MAC each; biases, norms,
    activations, pooling and resizing are left out, as is usual. Only shapes are computed, so that
    it takes no time, whatever the network.

    Args:
        model: takes images (B, 3, H, W).
        size: side of the image in pixels.
    """
    shapes, counter = copy.deepcopy(model).to("meta"), FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shapes(torch.empty(1, 3, size, size, device="meta"))
    flops = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    total = flops.pop("Global")  # the others are Class.name of the module
    return {"": total / 2} | {name.partition(".")[2]: n / 2 for name, n in flops.items()}


def channel_costs(model: LightDet, size: int) -> dict[str, tuple[float, float]]:
    """What one inner channel of a block takes in a pass: block -> multiply-adds, numbers moved.

    Moved are, there and back, the channel's two maps: of the convolution that widens, and of the
    depthwise one.

    Args:
        size: px of the square input.
    """
    macs, state, costs = macs_by_module(model, size), model.state_dict(), {}
    for block in blocks(state):
        inner = state[block + LAST].shape[1]
        cells = (
            macs[f"{block}{conv}"] / state[f"{block}{conv}.weight"].numel()
            for conv in ("conv_pw", "conv_dw")
        )
        costs[block] = macs[block.removesuffix(".")] / inner, 2 * sum(cells)
    return costs


def by_layer(
    scores: Mapping[str, Tensor], costs: Mapping[str, float], budget: float
) -> dict[str, int]:
    """Inner channels of each block, a multiple of 8: those that matter most for what they cost.

    Eight by eight, the best of each block first, as long as they fit into the budget; each block
    keeps eight.

    Args:
        scores: block -> (I,), comparable between blocks: Taylor's.
        costs: block -> of one channel. budget: of all, in the same unit.
    """
    widths = dict.fromkeys(scores, STEP)
    left = budget - sum(STEP * costs[block] for block in scores)
    groups = [
        (float(group.sum()) / costs[block], block)
        for block, score in scores.items()
        for group in score.sort(descending=True).values[STEP:].split(STEP)
        if len(group) == STEP
    ]
    for _, block in sorted(groups, reverse=True):
        if STEP * costs[block] <= left:
            widths[block] += STEP
            left -= STEP * costs[block]
    return widths


def report(weights: Path, expansion: float) -> list[str]:
    """Settings for a run that begins with these weights, by two prices, and what they cost.

    Args:
        weights: of a run whose data are packed.
        expansion: the budget: what blocks so many times as wide inside as their input take.

    Raises:
        UserError: no such run or packs, or blocks that are no wider than that.
    """
    model, about, categories = load_weights(weights)
    config = load_config(about["experiment"], about["profile"], about["seed"])
    pack = open_split(config, "train")
    check_categories(weights, categories, pack.categories)
    config = with_classes(config, pack)
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, importance="taylor")
    )
    state, costs = model.state_dict(), channel_costs(model, config.model.input_size)
    wide = {block: state[block + LAST].shape[1] for block in costs}
    uniform = {b: expansion * state[f"{b}conv_pw.weight"].shape[1] for b in costs}
    if not expansion >= 0.5 or any(uniform[block] >= wide[block] for block in costs):
        raise UserError(
            f"--expansion {expansion:g}: {weights} has other blocks; take 0.5 or more, less than "
            "theirs"
        )
    scores, chosen = channel_scores(model, config, pack, torch.device("cpu")), {}
    for name, moved in (("by multiply-adds", 0.0), ("by time", MOVED)):
        price = {block: macs + moved * numbers for block, (macs, numbers) in costs.items()}
        chosen[name] = by_layer(scores, price, sum(uniform[b] * price[b] for b in costs))
    lines = ["inside the blocks, millions of    multiply-adds  numbers moved"]
    for name, found in {"now": wide, "uniform": uniform, **chosen}.items():
        macs, moved = (sum(n * costs[b][i] for b, n in found.items()) / 1e6 for i in (0, 1))
        lines.append(f"  {name:30} {macs:13.1f}  {moved:13.2f}")
    lines.append("for an experiment whose train.init is this run, one of the two:")
    settings = [f"  model: {{inner: {list(f.values())}}}  # {name}" for name, f in chosen.items()]
    return [*lines, *settings, "  train: {importance: taylor}"]
