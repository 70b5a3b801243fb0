"""What `lightdet latency` times: Table 1's comparators and our networks, with random weights."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lightdet_core import sparsity
from lightdet_core.config import load_config
from lightdet_core.machinery.images import letterbox
from lightdet_core.model import LightDet
from lightdet_tools.data.scenes import draw_scene
from lightdet_tools.deploy import graph
from lightdet_tools.report.zeros import measure_batch_norm
from lightdet_tools.table1 import comparators, rivals

# experiments, at the paper's sizes with 80 classes
OURS = ("g5", "g1", "c0", "+silu", "+mish", "+hswish")
OURS += ("hswish-prune", "slim-e4-taught", "slim-e3", "slim-e3-layers")  # chapter 06
OURS += ("slim-relu6", "slim-relu6-third", "slim-fast", "slim-fastest")
SPREAD = 1.26  # standard deviation of the class logits of g5, trained on the demo


@dataclass(frozen=True, eq=False)
class System:
    """One detector."""

    key: str
    title: str
    size: int  # of its square input, pixels
    model: nn.Module  # forward: images (B, 3, S, S) -> tensors; detect: -> boxes
    deployed: nn.Module  # what is exported: the same outputs
    in_paper: str  # what Table 1 shows in its row
    canvas: np.ndarray  # a drawn scene, (S, S, 3) uint8
    wanted: list[Tensor]  # what `model` gives for it


def timed_as(run: str) -> str | None:
    """The system that has the network of a run, zeros and all: of OURS or a rival."""

    def network(name: str) -> tuple:
        config = load_config(name, "coco").with_model(pretrained=False)
        return config.model, config.sparsity.prune_at is None

    if run in (*OURS, *rivals.MAKERS):
        return run
    return next((name for name in OURS if network(name) == network(run)), None)


def systems(names: list[str] | None = None, profile: str = "coco") -> Iterator[System]:
    """The comparators of Table 1 and our networks, with random weights, one after the other.

    Args:
        names: of COMPARATORS and of experiments; None takes OURS and, for `coco`, all comparators,
            for another profile those that it trains, too.
        profile: whose input sizes these and ours have. They have 80 classes in any.
    """
    others = comparators.COMPARATORS if profile == "coco" else rivals.that_fit(profile)
    for name in names or [*others, *OURS]:
        torch.manual_seed(0)
        if name in comparators.COMPARATORS:
            about = comparators.COMPARATORS[name]
            title, size, printed = about.title, about.size, about.printed
            if profile == "coco" or name not in rivals.MAKERS:
                model = comparators.build(name)
            else:
                config = load_config(name, profile).with_model(num_classes=80)
                model, size = rivals.build(config).eval(), config.model.input_size
            settle(model, size)
        else:
            size = load_config(name, profile).model.input_size
            config = load_config(name, "coco")
            title, printed = f"LightDet {name}", ""
            model = LightDet(replace(config.model, input_size=size)).eval()
            model = settle(model, size)
            if config.sparsity.prune_at is not None:
                sparsity.apply_masks(model.state_dict(), sparsity.make_masks(model))
        canvas = letterbox(draw_scene(0, 0)[0], size)
        if isinstance(model, LightDet):
            _spread(model, to_tensor(canvas))
        with torch.inference_mode():
            wanted = list(model(to_tensor(canvas)))
        ours = name not in comparators.COMPARATORS
        deployed = graph.deployable(model, size) if ours else model
        yield System(name, title, size, model, deployed, printed, canvas, wanted)


@torch.no_grad()
def settle(model: nn.Module, size: int) -> nn.Module:
    """Weights off their first values, which exporters merge where equal, and outputs that differ.

    Batch norm as of a first training step makes the features of an untrained network differ from
    cell to cell as those of a trained one do.
    """
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():  # not buffers that are constants, as mean and std
        if tensor.is_floating_point() and tensor.numel() > 1:
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.mul_(1 + 0.01 * noise).add_(1e-4 * noise)
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        scenes = np.stack([letterbox(draw_scene(0, index)[0], size) for index in range(2)])
        measure_batch_norm(model, [torch.from_numpy(scenes).permute(0, 3, 1, 2).float()])
    return model


@torch.no_grad()
def _spread(model: LightDet, images: Tensor) -> None:
    """Class logits as far apart as a trained network's.

    How many cells are decoded before the quality is known depends on it.
    """
    classes, factor = model.head.num_classes, SPREAD / model(images)[0].std()
    for tower in model.head.towers:
        tower[-1].weight[:classes] *= factor


def to_tensor(canvas: np.ndarray) -> Tensor:
    images = torch.from_numpy(canvas)[None].permute(0, 3, 1, 2)
    return images.float().contiguous(memory_format=torch.channels_last)
