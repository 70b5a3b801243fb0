"""What an activation lets through: dead channels and flat gradients, layer by layer.

The paper prunes a network and says that ReLU6 then stops learning, while SiLU and Mish go on. What
can be seen of that in a trained network: channels that say the same about every image, and inputs
at which the activation's slope, a factor of every gradient below it, is near zero.
Tensor legend: B images · K channels · H, W.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

KINDS = (nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.Mish, nn.Hardswish)
CONSTANT = 1e-3  # a channel whose outputs differ by less is dead
FLAT = 0.01  # a smaller slope passes on next to nothing


def visit(
    model: nn.Module, images: Tensor, look: Callable[[str, nn.Module, Tensor], Any]
) -> list[Any]:
    """What `look(name, activation, input)` says of each activation, in the order of the pass.

    Args:
        model: in eval mode.
        images: (B, 3, H, W), RGB 0..255.
        look: gets the input (B, K, H, W) as a copy, for some activations write in place.
    """
    found: list[Any] = []
    names = {module: n for n, module in model.named_modules() if isinstance(module, KINDS)}

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if module in names:
            found.append(look(names[module], module, args[0].detach().clone()))

    with torch.no_grad(), register_module_forward_pre_hook(hook):
        model(images)
    return found


def slope(activation: nn.Module, x: Tensor) -> Tensor:
    """Derivative of an activation at x, of the same shape."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        # `forward` itself calls no hooks; the copy may be overwritten
        (found,) = torch.autograd.grad(activation.forward(x.clone()).sum(), x)
    return found


def report(model: nn.Module, images: Tensor) -> list[dict]:
    """What each activation does on these images.

    Returns:
        Rows for `pandas.DataFrame`: layer, channels, dead (channels whose output is the same
        everywhere, within 1e-3), flat (share of the inputs where the slope is below 0.01) and
        gain (root mean square of the slope: what a gradient is multiplied by, on average).
    """

    def look(name: str, module: nn.Module, x: Tensor) -> dict:
        steepness = slope(module, x)
        y = module.forward(x)
        spread = y.amax((0, 2, 3)) - y.amin((0, 2, 3))
        return {
            "layer": name,
            "channels": len(spread),
            "dead": int((spread < CONSTANT).sum()),
            "flat": float((steepness.abs() < FLAT).float().mean()),
            "gain": float(steepness.square().mean().sqrt()),
        }

    return visit(model, images, look)


def summary(rows: list[dict]) -> dict:
    """`report` in three numbers: dead channels of all, mean flat share, mean gain of the layers."""
    return {
        "dead_channels": sum(row["dead"] for row in rows) / sum(row["channels"] for row in rows),
        "flat": sum(row["flat"] for row in rows) / len(rows),
        "gain": sum(row["gain"] for row in rows) / len(rows),
    }
