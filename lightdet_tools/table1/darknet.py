"""The YOLO detectors of the paper's Table 1 as darknet defines them, and darknet's weights files.

A network is a table of layers in the order of darknet's cfg file, because a .weights file holds
the tensors in that order. Each row works on the current features x:

    conv filters size stride activation   convolution, batch norm, activation
    pool stride                           2x2 maximum; with stride 1 the size stays
    half · up · spp                       second half of the channels · twice the size · pyramid
    keep name · back name                 remember x under a name · go on from there
    add name · cat name                   add what is kept to x · put it behind x
    yolo anchors scale_xy                 an output, from a 1x1 convolution with bias; x stays

Sources: Redmon & Farhadi 2018 (YOLOv3), Bochkovskiy et al. 2020 (YOLOv4), Wang et al. 2021
(YOLOv4-tiny), and the cfg files of these names.
Tensor legend: B images · A anchors of an output · C classes · H, W.
"""

import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightdet_core import boxes
from lightdet_core.boxes import DetectionNetwork, Detections
from lightdet_core.config import UserError
from lightdet_core.machinery.precision import forward

Row = tuple  # the kind, then its values
# torch's own Mish, not the quicker to train one of `model`, which pnnx cannot trace
ACTIVATIONS = {"leaky": partial(nn.LeakyReLU, 0.1), "mish": nn.Mish}
MAX_STRIDE = 32


def conv(filters: int, size: int = 3, stride: int = 1, activation: str = "leaky") -> Row:
    """A row of a table, with what most convolutions have."""
    return ("conv", filters, size, stride, activation)


mish = partial(conv, activation="mish")  # YOLOv4's backbone


def five(filters: int) -> list[Row]:
    """The block before each output and between the levels: 1x1 narrows, 3x3 widens."""
    narrow, wide = conv(filters, 1), conv(2 * filters)
    return [narrow, wide, narrow, wide, narrow]


def darknet53() -> list[Row]:
    """YOLOv3's backbone, the stages kept as c64 … c1024: residual blocks of 1x1 and 3x3."""
    rows = [conv(32)]
    for width, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        block = [("keep", "r"), conv(width // 2, 1), conv(width), ("add", "r")]
        rows += [conv(width, stride=2), *blocks * block, ("keep", f"c{width}")]
    return rows


def csp_darknet53() -> list[Row]:
    """YOLOv4's backbone: one path of a stage goes past its residual blocks and joins behind."""
    rows = [mish(32)]
    for width, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        path = max(64, width // 2)  # the first stage does not halve
        block = [("keep", "r"), mish(width // 2, 1), mish(path), ("add", "r")]
        rows += [mish(width, stride=2), ("keep", "in"), mish(path, 1), ("keep", "past")]
        rows += [("back", "in"), mish(path, 1), *blocks * block, mish(path, 1)]
        rows += [("cat", "past"), mish(width, 1), ("keep", f"c{width}")]
    return rows


def csp_tiny() -> list[Row]:
    """YOLOv4-tiny's backbone: only half of a stage's channels go through its blocks."""
    rows = [conv(32, stride=2), conv(64, stride=2)]
    for width in (64, 128, 256):
        rows += [conv(width), ("keep", "whole"), ("half",), conv(width // 2), ("keep", "first")]
        rows += [conv(width // 2), ("cat", "first"), conv(width, 1), ("keep", "merged")]
        rows += [("back", "whole"), ("cat", "merged"), ("pool", 2)]
    return rows


# By sections. Anchors are in pixels of the network's input, whatever its size (but `anchor_scale`).
TABLES: dict[str, list[list[Row]]] = {
    "yolov3": [
        darknet53(),
        [*five(512), ("keep", "tap"), conv(1024)],
        [("yolo", ((116, 90), (156, 198), (373, 326)), 1.0)],
        [("back", "tap"), conv(256, 1), ("up",), ("cat", "c512")],
        [*five(256), ("keep", "tap"), conv(512)],
        [("yolo", ((30, 61), (62, 45), (59, 119)), 1.0)],
        [("back", "tap"), conv(128, 1), ("up",), ("cat", "c256")],
        [*five(128), conv(256)],
        [("yolo", ((10, 13), (16, 30), (33, 23)), 1.0)],
    ],
    "yolov3-tiny": [
        [conv(16), ("pool", 2), conv(32), ("pool", 2), conv(64), ("pool", 2), conv(128)],
        [("pool", 2), conv(256), ("keep", "c256"), ("pool", 2), conv(512), ("pool", 1)],
        [conv(1024), conv(256, 1), ("keep", "tap"), conv(512)],
        [("yolo", ((81, 82), (135, 169), (344, 319)), 1.0)],
        [("back", "tap"), conv(128, 1), ("up",), ("cat", "c256"), conv(256)],
        # the cfg file of today has the first three, the weights were trained with these
        # (AlexeyAB/darknet, issue 1341)
        [("yolo", ((23, 27), (37, 58), (81, 82)), 1.0)],
    ],
    "yolov4": [
        csp_darknet53(),
        [conv(512, 1), conv(1024), conv(512, 1), ("spp",)],
        [conv(512, 1), conv(1024), conv(512, 1), ("keep", "p5")],
        [conv(256, 1), ("up",), ("keep", "up"), ("back", "c512"), conv(256, 1), ("cat", "up")],
        [*five(256), ("keep", "p4"), conv(128, 1), ("up",), ("keep", "up")],
        [("back", "c256"), conv(128, 1), ("cat", "up"), *five(128), ("keep", "p3"), conv(256)],
        [("yolo", ((12, 16), (19, 36), (40, 28)), 1.2)],
        [("back", "p3"), conv(256, stride=2), ("cat", "p4")],
        [*five(256), ("keep", "p4"), conv(512)],
        [("yolo", ((36, 75), (76, 55), (72, 146)), 1.1)],
        [("back", "p4"), conv(512, stride=2), ("cat", "p5")],
        [*five(512), conv(1024)],
        [("yolo", ((142, 110), (192, 243), (459, 401)), 1.05)],
    ],
    "yolov4-tiny": [
        csp_tiny(),
        [conv(512), conv(256, 1), ("keep", "tap"), conv(512)],
        [("yolo", ((81, 82), (135, 169), (344, 319)), 1.05)],
        [("back", "tap"), conv(128, 1), ("up",), ("cat", "merged"), conv(256)],
        # without 10 x 14 and with 81 x 82 again: so it was trained
        [("yolo", ((23, 27), (37, 58), (81, 82)), 1.05)],
    ],
}


def decode(output: Tensor, anchors: Tensor, stride: int, scale_xy: float) -> tuple[Tensor, Tensor]:
    """Boxes and logits of one output.

    A centre lies in its cell at scale_xy (sigmoid(t) - 1/2) + 1/2, so that a scale above 1 lets
    it reach the cell's border; a side is anchor exp(t).

    Args:
        output: (B, A (5 + C), H, W) logits; per anchor x, y, w, h, objectness, classes.
        anchors: (A, 2), width and height in pixels.
        stride: pixels per cell.

    Returns:
        xyxy (B, A H W, 4) in pixels and logits (B, A H W, 1 + C) of objectness and classes; anchor
        by anchor, each row by row.
    """
    logits = output.unflatten(1, (len(anchors), -1)).movedim(2, -1)  # (B, A, H, W, 5 + C)
    cells = cells_of(output)
    centers = (scale_xy * (logits[..., :2].sigmoid() - 0.5) + 0.5 + cells) * stride
    sizes = anchors[:, None, None] * logits[..., 2:4].exp()
    xyxy = torch.cat([centers - sizes / 2, centers + sizes / 2], -1)
    return xyxy.flatten(1, 3), logits[..., 4:].flatten(1, 3)


def cells_of(output: Tensor) -> Tensor:
    """Column and row of each cell of (…, H, W): (H, W, 2)."""
    y, x = (torch.arange(n, device=output.device) for n in output.shape[-2:])
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


class Raw(NamedTuple):
    """What a network says before training is over, of N anchors at their cells; float32."""

    boxes: Tensor  # (B, N, 4) xyxy, pixels of the canvas, not clipped
    logits: Tensor  # (B, N, 1 + C) of objectness and classes
    anchors: Tensor  # (N, 2) width and height, pixels
    cells: Tensor  # (N, 2) column and row
    strides: Tensor  # (N,) pixels


class Yolo(DetectionNetwork):
    """A table as a network; `forward` gives the raw maps, `detect` gives boxes.

    Args:
        anchor_scale: factor on the anchors, for inputs of another size than those of the cfg.
    """

    def __init__(self, name: str, num_classes: int, anchor_scale: float = 1.0):
        super().__init__()
        self.name, self.num_classes, self.anchor_scale = name, num_classes, anchor_scale
        self.table = [row for section in TABLES[name] for row in section]
        self.outputs = [values for kind, *values in self.table if kind == "yolo"]
        self.convs = nn.ModuleList()  # in the order of the cfg
        width, widths = 3, {}
        for row in self.table:
            match row:
                case ("conv", filters, size, stride, kind):
                    convolution = nn.Conv2d(width, filters, size, stride, size // 2, bias=False)
                    norm = nn.BatchNorm2d(filters)  # torch's epsilon is also darknet's
                    activation = ACTIVATIONS[kind](inplace=True)
                    self.convs.append(nn.Sequential(convolution, norm, activation))
                    width = filters
                case ("yolo", anchors, _):
                    self.convs.append(nn.Conv2d(width, len(anchors) * (5 + num_classes), 1))
                case ("keep", name):
                    widths[name] = width
                case ("back", name):
                    width = widths[name]
                case ("cat", name):
                    width += widths[name]
                case ("half",):
                    width //= 2
                case ("spp",):
                    width *= 4

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) RGB 0..255 -> raw maps (B, A (5 + C), H / stride, W / stride).

        They come in the order of the cfg: YOLOv4's finest first, the others' coarsest first.

        Raises:
            UserError: H or W is no multiple of 32.
        """
        height, width = images.shape[-2:]
        if height % MAX_STRIDE or width % MAX_STRIDE:
            raise UserError(
                f"{self.name}: an input of {width} x {height} pixels; "
                f"both sides must be multiples of {MAX_STRIDE}"
            )
        x, kept, maps, convs = images / 255, {}, [], iter(self.convs)
        for row in self.table:
            match row:
                case ("conv", *_):
                    x = next(convs)(x)
                case ("yolo", *_):
                    maps.append(next(convs)(x))
                case ("keep", name):
                    kept[name] = x
                case ("back", name):
                    x = kept[name]
                case ("add", name):
                    x = x + kept[name]
                case ("cat", name):
                    x = torch.cat([x, kept[name]], 1)
                case ("half",):
                    x = x.chunk(2, 1)[1]
                case ("pool", 2):
                    x = F.max_pool2d(x, 2)
                case ("pool", 1):  # the last row and column again: it changes no maximum
                    x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)
                case ("spp",):
                    x = torch.cat([*(F.max_pool2d(x, n, 1, n // 2) for n in (13, 9, 5)), x], 1)
                case ("up",):
                    x = F.interpolate(x, scale_factor=2.0)
        return maps

    def postprocess(
        self, outputs: Sequence[Tensor], size: tuple[int, int], *limits: float
    ) -> list[Detections]:
        parts = self._decoded(outputs, size[0])
        scores = [logits[..., :1].sigmoid() * logits[..., 1:].sigmoid() for _, logits in parts]
        found = torch.cat([xyxy for xyxy, _ in parts], 1)
        return boxes.detect_batch(torch.cat(scores, 1), found, size, *limits)

    def logits(self, images: Tensor, precision: str = "fp32") -> Raw:
        """What the losses need: (B, 3, H, W) through the network in a precision."""
        outputs, places = forward(self, images, precision), []
        found, logits = zip(*self._decoded(outputs, images.shape[-2]), strict=True)
        for output, (anchors, _) in zip(outputs, self.outputs, strict=True):
            sides, cells = self._sides(output, anchors), cells_of(output).flatten(0, 1)
            sides, cells = sides.repeat_interleave(len(cells), 0), cells.repeat(len(anchors), 1)
            stride = images.shape[-2] // output.shape[-2]
            places.append((sides, cells, torch.full_like(sides[:, 0], stride)))
        where = (torch.cat(x) for x in zip(*places, strict=True))
        return Raw(torch.cat(found, 1), torch.cat(logits, 1), *where)

    def _sides(self, output: Tensor, anchors: tuple) -> Tensor:
        return output.new_tensor(anchors) * self.anchor_scale

    def _decoded(self, outputs: Sequence[Tensor], height: int) -> list[tuple[Tensor, Tensor]]:
        """`decode` of each output, of an input so many pixels high."""
        return [
            decode(output, self._sides(output, anchors), height // output.shape[-2], scale_xy)
            for output, (anchors, scale_xy) in zip(outputs, self.outputs, strict=True)
        ]


def build_yolo(name: str, num_classes: int = 80, anchor_scale: float = 1.0) -> Yolo:
    """One of yolov3, yolov3-tiny, yolov4 and yolov4-tiny, with random weights.

    Raises:
        UserError: there is no network of this name.
    """
    if name not in TABLES:
        raise UserError(f"{name}: no such network; take one of {', '.join(TABLES)}")
    return Yolo(name, num_classes, anchor_scale)


def _stored(model: Yolo) -> list[Tensor]:
    """The model's tensors in the order of a .weights file."""
    tensors = []
    for layer in model.convs:
        if isinstance(layer, nn.Conv2d):
            tensors += [layer.bias, layer.weight]
        else:
            first, norm, _ = layer
            tensors += [norm.bias, norm.weight, norm.running_mean, norm.running_var, first.weight]
    return tensors


@torch.no_grad()
def load_darknet_weights(model: Yolo, path: Path | str) -> None:
    """Fill the model with darknet's weights, all of them little-endian float32.

    The header is three int32 (major, minor, revision) and the number of images seen, an int64
    since version 0.2 and an int32 before.

    Raises:
        UserError: the file cannot be read, or is not of this network and number of classes.
    """
    path, tensors = Path(path), _stored(model)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    major, minor = struct.unpack_from("<2i", data) if len(data) >= 8 else (0, 2)
    header = 20 if major * 10 + minor >= 2 else 16
    expected = header + 4 * sum(tensor.numel() for tensor in tensors)
    about = f"the weights of {model.name} with {model.num_classes} classes"
    if len(data) != expected:
        raise UserError(
            f"{path}: {len(data):,} bytes, but {about} are {expected:,}; "
            "it is incomplete, or of another network or number of classes"
        )
    values = torch.from_numpy(np.frombuffer(data, "<f4", offset=header).astype(np.float32))
    if not values.isfinite().all():
        raise UserError(f"{path}: holds values that are not finite, so not {about}")
    for tensor, part in zip(tensors, values.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
