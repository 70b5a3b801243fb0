"""The picture with which a chapter opens: its subject, before any code is explained.

Each function sets the look of the notebook, reads what it needs of a profile, and draws.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from lightdet_core import activations, sparsity, train
from lightdet_core.boxes import STRIDES
from lightdet_core.config import load_config, root
from lightdet_core.machinery.packs import Pack, check_categories, open_pack, pack_path
from lightdet_core.machinery.runs import publish
from lightdet_core.model import ACTIVATIONS, LightDet, load_weights
from lightdet_tools.notebooks import draw
from lightdet_tools.report.figures import ACTIVATIONS as NAMES
from lightdet_tools.report.found import clearest, found_objects
from lightdet_tools.style import WIDTH


def weights_of(profile: str, experiment: str, seed: int = 0) -> Path:
    """The file of a trained run."""
    return root() / "runs" / profile / f"{experiment}-s{seed}" / "weights.safetensors"


def _opened(profile: str, experiment: str, seed: int = 0) -> tuple[LightDet, Pack]:
    """A trained run and the val images of its profile, which must have the same classes."""
    path = weights_of(profile, experiment, seed)
    model, _, categories = load_weights(path)
    pack = open_pack(pack_path(load_config(experiment, profile), "val"))
    check_categories(path, categories, pack.categories)
    return model, pack


@torch.no_grad()
def detector(profile: str, experiment: str, score_threshold: float = 0.35, seed: int = 0) -> Figure:
    """How a trained network comes to its boxes, on the clearest of (at most) 200 val images.

    That is the one on which it errs least, and of those the one with most objects found.
    """
    draw.notebook_style()
    model, pack = _opened(profile, experiment, seed)
    names = [category["name"] for category in pack.categories]
    truth = draw.plain_batch(pack, range(min(200, len(pack.images))))
    found = [one for part in truth.images.split(32) for one in model.detect(part, score_threshold)]
    seen = truth.gt_boxes, truth.gt_labels, truth.gt_mask
    row = clearest(*found_objects(found, *seen, score_threshold), truth.gt_mask)
    return draw.from_image_to_boxes(model, truth.images[row], names, score_threshold)


def trained(profile: str, experiment: str, seed: int) -> Path:
    """The folder of a run, which is trained first unless it is there, and its `detector`."""
    config = load_config(experiment, profile, seed)
    folder = train.fit(config)
    publish(folder, config)
    detector(profile, experiment, seed=seed)
    return folder


def scenes(profile: str, experiment: str) -> None:
    """The first training images with at least three objects, and these."""
    draw.notebook_style()
    pack = open_pack(pack_path(load_config(experiment, profile), "train"))
    many = np.flatnonzero(pack.counts >= 3)
    rows = (many if len(many) else np.arange(len(pack.images)))[:6]
    for axis, row in zip(draw.sheet(len(rows), columns=3), rows.tolist(), strict=True):
        draw.scene(axis, pack, row)


def cells(profile: str, experiment: str) -> None:
    """The cells of the three levels over the val image with most objects, of the first 100."""
    draw.notebook_style()
    pack = open_pack(pack_path(load_config(experiment, profile), "val"))
    row = int(pack.counts[:100].argmax())
    for axis, stride in zip(draw.sheet(3, columns=3), STRIDES, strict=True):
        count = -(-pack.size // stride)
        draw.scene(axis, pack, row, f"stride {stride}: {count} x {count} cells")
        draw.grid(axis, (pack.size, pack.size), stride, draw.LEVEL_COLORS[stride])


def curves() -> None:
    """The activations and their slopes."""
    draw.notebook_style()
    x = torch.linspace(-6, 9, 601)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    styles = ("-", ":", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))  # colours alone may not do
    for (name, words), style in zip(NAMES.items(), styles, strict=True):
        make = ACTIVATIONS[name]
        left.plot(x, make()(x), linestyle=style, label=words)
        right.plot(x, activations.slope(make(), x), linestyle=style)
    left.set(title="activation", xlabel="input x", ylabel="f(x)", ylim=(-1, 7))
    right.set(title="slope", xlabel="input x", ylabel="f′(x)", ylim=(-0.6, 1.6))
    figure.legend(loc="outside upper center", ncols=5)


def pattern(profile: str, experiment: str) -> None:
    """A piece of the first layer that 2:4 pruning touches, dense and pruned."""
    draw.notebook_style()
    state = _opened(profile, experiment)[0].state_dict()
    name = next(key for key, value in state.items() if sparsity.eligible(key, value))
    weight = state[name][:6, :16, 0, 0]
    mask = sparsity.mask_2to4(state[name])[:6, :16, 0, 0]
    _, axes = plt.subplots(2, 1, figsize=(WIDTH, 6), sharex=True)
    limit = float(weight.abs().max())
    for axis, values, title in zip(axes, (weight, weight * mask), ("dense", "pruned"), strict=True):
        axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
        for (row, column), value in np.ndenumerate(100 * values.numpy()):
            shade = "white" if abs(value) > 60 * limit else "black"
            text = f"{value:.0f}" if value else ""
            axis.text(column, row, text, ha="center", va="center", fontsize=9, color=shade)
        for edge in range(4, 16, 4):
            axis.axvline(edge - 0.5, color="black", linewidth=2)
        axis.set(title=f"{title}: weights × 100", ylabel="output channel")
        axis.grid(False)
    axes[1].set_xlabel(f"input channel of {name.removesuffix('.weight')}; lines part the groups")
