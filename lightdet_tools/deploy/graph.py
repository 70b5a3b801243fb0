"""The network in operations that the runtimes have, with its batch norms folded."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lightdet_core import boxes
from lightdet_core.boxes import QUALITY_TOPK
from lightdet_core.model import LightDet


class SigmoidMish(nn.Module):
    """Mish from one sigmoid: tanh(softplus(x)) = (1 - t^2) / (1 + t^2) with t = sigmoid(-x).

    No exponential that could overflow. In ONNX Runtime the network takes a quarter of the time
    that softplus and tanh take, and less than with the forms in e^x.
    """

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(-x)
        squared = t * t
        return x * ((1 - squared) / (1 + squared))


def largest(values: Tensor, k: int) -> list[Tensor]:
    """The k largest along the last axis, falling, each (…, 1): `topk`, which ncnn lacks.

    By comparing and exchanging neighbours, k passes from the end to the front; exact with ties.
    """
    columns = list(values.split(1, -1))
    for first in range(k):
        for i in range(len(columns) - 1, first, -1):
            pair = columns[i - 1], columns[i]
            columns[i - 1], columns[i] = torch.maximum(*pair), torch.minimum(*pair)
    return columns[:k]


class Deployable(nn.Module):
    """A folded `LightDet` for one input size, in operations that ONNX Runtime and ncnn have."""

    def __init__(self, model: LightDet, size: int, decoded: bool, uint8: bool):
        super().__init__()
        head = model.head
        self.backbone, self.lateral = model.backbone.net, model.neck.lateral
        self.towers, self.quality = head.towers, head.quality
        self.num_classes, self.num_bins = head.num_classes, head.num_bins
        self.size, self.decoded, self.uint8 = size, decoded, uint8
        points, strides, _ = boxes.level_grid(size, size)
        self.num_cells = len(points)
        self.sides = [-(-size // stride) for stride in boxes.STRIDES]
        self.register_buffer("mean", model.backbone.mean)
        self.register_buffer("points", points)
        self.register_buffer("strides", strides[:, None])
        self.register_buffer("bins", torch.arange(float(self.num_bins))[:, None])

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes (after B) of what `forward` returns."""
        cells, classes, bins = self.num_cells, self.num_classes, self.num_bins
        if self.decoded:
            return {"scores": (cells, classes), "boxes": (cells, 4)}
        return {"cls_logits": (cells, classes), "box_logits": (cells, 4, bins)}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, S, S) float32 or (B, S, S, 3) uint8, RGB 0..255 -> `outputs`."""
        if self.uint8:
            images = images.permute(0, 3, 1, 2).float()
        maps = self._aggregate(self.backbone(images - self.mean))
        width, cells = self.num_classes + 4 * self.num_bins, self.num_cells
        flat = [
            tower(x).reshape(-1, width, side * side)
            for tower, x, side in zip(self.towers, maps, self.sides, strict=True)
        ]
        cls_logits, box_logits = (
            torch.cat(flat, 2).transpose(1, 2).split([self.num_classes, 4 * self.num_bins], -1)
        )
        edges = box_logits.reshape(-1, 4 * cells, self.num_bins)
        if not self.decoded:
            return cls_logits, edges.reshape(-1, cells, 4, self.num_bins)
        shape = edges.softmax(-1)
        distances = (shape @ self.bins).reshape(-1, cells, 4) * self.strides
        decoded = boxes.distances_to_boxes(self.points, distances).clamp(0, self.size)
        scores = cls_logits.sigmoid()
        if self.quality is not None:
            scores = scores * self._quality(shape).sigmoid()
        return scores, decoded

    def _aggregate(self, features: list[Tensor]) -> list[Tensor]:
        """`PAN.forward` with its sizes as constants."""
        maps = [conv(feature) for conv, feature in zip(self.lateral, features, strict=True)]
        for i in (1, 0):
            side = self.sides[i]
            up = F.interpolate(maps[i + 1], scale_factor=2.0, mode="bilinear", align_corners=False)
            maps[i] = maps[i] + (up[..., :side, :side] if side % 2 else up)
        for i in (0, 1):
            # a repeated border has the mean of what is there: `ceil_mode`, but the same everywhere
            odd = self.sides[i] % 2
            fine = F.pad(maps[i], (0, 1, 0, 1), mode="replicate") if odd else maps[i]
            maps[i + 1] = maps[i + 1] + F.avg_pool2d(fine, 2)
        return maps

    def _quality(self, edges: Tensor) -> Tensor:
        """Edge distributions (B, 4 P, R) -> quality logits (B, P, 1)."""
        top = torch.cat(largest(edges, QUALITY_TOPK), -1)
        shape = torch.cat([top, top.mean(-1, keepdim=True)], -1)
        return self.quality(shape.reshape(-1, self.num_cells, 4 * (QUALITY_TOPK + 1)))


def deployable(
    model: LightDet,
    size: int,
    decoded: bool = False,
    uint8: bool = False,
    mish: type[nn.Module] = SigmoidMish,
) -> Deployable:
    """A copy of the network for inference: batch norm folded, activations in their quick forms.

    Args:
        model: stays as it is.
        size: side of the input in pixels, a multiple of 16.
        decoded: scores and boxes instead of logits.
        uint8: images (B, S, S, 3) uint8, as decoders and `images.letterbox` give them.
        mish: the form of Mish; ncnn has a layer of its own, `nn.Mish`.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    fold_batch_norm(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Mish):
            model.set_submodule(name, mish())
    # x / std; the mean stays outside, for the zeros around the image are zeros of x - mean
    model.backbone.net.conv_stem.weight.div_(model.backbone.std)
    return Deployable(model, size, decoded, uint8).eval().requires_grad_(False)


def fold_batch_norm(model: nn.Module) -> None:
    """Batch norms into the convolutions before them, in place; timm's keep their activation.

    A row of weights is scaled as a whole, so that a 2:4 pattern along the input channels survives.
    """
    convolution = None
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = module
        elif isinstance(module, nn.BatchNorm2d):
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight, convolution.bias, module.running_mean, module.running_var,
                module.eps, module.weight, module.bias,
            )  # fmt: skip
            model.set_submodule(name, getattr(module, "act", nn.Identity()))
