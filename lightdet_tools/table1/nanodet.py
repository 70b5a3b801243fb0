"""NanoDet-m (RangiLyu/nanodet, 2020): a comparator, and a check of our whole inference path.

It has this project's neck and head on a ShuffleNetV2; its public weights come as ncnn files.
Loaded from there, its AP says whether letterbox, decoding, NMS and evaluation here are sound.
Tensor legend: B images · H, W. Images are RGB, 0..255; the network normalises them itself.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import shufflenet_v2_x1_0

from lightdet_core.boxes import STRIDES
from lightdet_core.config import ModelConfig, UserError
from lightdet_core.model import ACTIVATIONS, PAN, GFLHead, LightDet
from lightdet_tools.deploy.runtime import load_ncnn

SETTINGS = ModelConfig(  # of the published network; `backbone` does not apply
    input_size=320, activation="leakyrelu", channels=96, stacked_convs=2, reg_max=7, cell_scale=5.0
)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB; NanoDet lists them as BGR
MAGIC = "7767517"  # first line of every .param file
CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")
FLOAT32, FLOAT16 = 0, 0x01306B47  # how a weight is stored, said before it; a bias is bare float32


class ShuffleNet(nn.Module):
    """torchvision's ShuffleNetV2 1.0x without its last convolution: strides 8, 16 and 32.

    NanoDet's blocks are the same (no activation after the depthwise convolutions, padding 1,
    batch norm with torch's eps) but for LeakyReLU in place of ReLU.
    """

    def __init__(self):
        super().__init__()
        self.channels = [116, 232, 464]
        net = shufflenet_v2_x1_0()
        self.stem = nn.Sequential(net.conv1, net.maxpool)
        self.stages = nn.ModuleList([net.stage2, net.stage3, net.stage4])
        for module in list(self.modules()):
            for name, layer in module.named_children():
                if isinstance(layer, nn.ReLU):
                    setattr(module, name, ACTIVATIONS["leakyrelu"](inplace=True))
        for key, value in (("mean", MEAN), ("std", STD)):
            self.register_buffer(key, torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB 0..255 -> features at strides 8, 16, 32."""
        x, features = self.stem((images - self.mean) / self.std), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class NanoDet(LightDet):
    """LightDet on another backbone: `forward`, `scores` and `detect` are its own."""

    def __init__(self, config: ModelConfig):
        nn.Module.__init__(self)  # LightDet's would make an EfficientNet
        self.backbone = ShuffleNet()
        self.neck = PAN(self.backbone.channels, config.channels)
        self.head = GFLHead(config)


def build_nanodet(num_classes: int = 80) -> NanoDet:
    """NanoDet-m, untrained: 950,036 parameters with 80 classes (published: 0.95 M, AP 20.6)."""
    return NanoDet(replace(SETTINGS, num_classes=num_classes))


# ------------------------------------------------------------------------------- ncnn's files


class Layer(NamedTuple):
    """A line of a .param file, with the weights it has in the .bin."""

    kind: str
    name: str
    inputs: list[str]  # names of blobs, ncnn's word for tensors
    outputs: list[str]
    params: dict[int, float | list[float]]
    weight: Tensor | None = None  # float32, a convolution's: (outputs, inputs / groups, H, W)
    bias: Tensor | None = None  # (outputs,)


def read_ncnn(param_path: Path | str, bin_path: Path | str) -> list[Layer]:
    """The layers of an ncnn network in the order of the file.

    Weights are read for convolutions, for `Gemm` as pnnx writes linear layers (outputs, inputs),
    and for `MemoryData`, stored in 32 or 16 bits; where other layers hold some, the .bin does not
    fit the .param and that is an error.

    Raises:
        UserError: a file is missing, is no ncnn file, is damaged, or one does not fit the other.
    """
    layers = _read_param(Path(param_path))
    data, start = _bytes(Path(bin_path)), 0

    def take(dtype: str, count: int, name: str) -> np.ndarray:
        nonlocal start
        size = count * np.dtype(dtype).itemsize
        if size > len(data) - start:
            raise UserError(
                f"{bin_path}: ends within the weights of {name}: {len(data) - start} bytes left, "
                f"{size} expected; is it whole, and the partner of {param_path}?"
            )
        values = np.frombuffer(data, dtype, count, start)
        start += -(-size // 4) * 4  # 16-bit values are padded to whole words
        return values

    for i, layer in enumerate(layers):
        tensors = []
        for shape, tagged in _stored(layer, Path(param_path)):
            (storage,) = take("<u4", 1, layer.name).tolist() if tagged else (FLOAT32,)
            if storage not in (FLOAT32, FLOAT16):
                raise UserError(
                    f"{bin_path}: {layer.name} is stored as {storage:#010x}, expected 0 (32 bits) "
                    f"or {FLOAT16:#010x} (16 bits); is it the partner of {param_path}?"
                )
            dtype = "<f4" if storage == FLOAT32 else "<f2"
            values = take(dtype, math.prod(shape), layer.name)
            tensors.append(torch.tensor(values).float().view(shape))
        layers[i] = layer._replace(**dict(zip(("weight", "bias"), tensors, strict=False)))
    if start < len(data):
        raise UserError(
            f"{bin_path}: {len(data)} bytes, but the layers of {param_path} have {start}"
        )
    return layers


def load_nanodet(param_path: Path | str, bin_path: Path | str) -> NanoDet:
    """NanoDet-m in eval mode with its public ncnn weights; there are 80 classes.

    ncnn has batch norm folded into the convolutions: here it is left adding their bias.

    Raises:
        UserError: see `read_ncnn`; also when the network in the files is another one.
    """
    model = build_nanodet().eval()
    modules = [x for x in model.modules() if isinstance(x, (nn.Conv2d, nn.BatchNorm2d))]
    ours = [i for i, x in enumerate(modules) if isinstance(x, nn.Conv2d)]
    theirs = [x for x in read_ncnn(param_path, bin_path) if x.kind in CONVOLUTIONS]
    if len(theirs) != len(ours):
        raise UserError(
            f"{param_path}: not NanoDet-m: {len(theirs)} convolutions, expected {len(ours)}"
        )
    with torch.no_grad():
        for i, layer in zip(ours, theirs, strict=True):
            conv, params = modules[i], layer.params
            geometry = (params.get(3, 1), params.get(4, 0), params.get(7, 1))
            found = (*layer.weight.shape, *geometry, layer.bias is not None)
            wanted = (*conv.weight.shape, conv.stride[0], conv.padding[0], conv.groups, True)
            if found != wanted:
                raise UserError(
                    f"{param_path}: not NanoDet-m: {layer.name} has shape, stride, padding, groups "
                    f"and bias {found}, expected {wanted}"
                )
            # the public network sees BGR, ours RGB
            conv.weight.copy_(layer.weight.flip(1) if i == 0 else layer.weight)
            if conv.bias is None:
                norm = modules[i + 1]
                norm.running_var.fill_(1 - norm.eps)
                norm.bias.copy_(layer.bias)
            else:
                conv.bias.copy_(layer.bias)
    return model


def ncnn_forward(
    param_path: Path, bin_path: Path, threads: int = 1
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """`NanoDet.forward` by ncnn itself, from the public files as they are.

    They give scores, of which the logits are taken again.
    """
    import ncnn

    net = load_ncnn(param_path, bin_path, threads)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    names = [[f"{kind}_pred_stride_{s}" for s in STRIDES] for kind in ("cls", "dis")]

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for image in images:
            bgr = ((image - mean) / std).flip(0).contiguous().numpy()
            pixels, extractor = ncnn.Mat(bgr), net.create_extractor()  # bgr outlives them
            extractor.input("input.1", pixels)
            parts = [[np.array(extractor.extract(n)[1]) for n in kind] for kind in names]
            scores, edges = (torch.from_numpy(np.concatenate(part)) for part in parts)
            found.append((scores.logit(), edges.unflatten(-1, (4, -1))))
        return tuple(torch.stack(part) for part in zip(*found, strict=True))

    return forward


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _read_param(path: Path) -> list[Layer]:
    """The layers, still without weights."""
    lines = _bytes(path).decode(errors="replace").splitlines()
    if lines[:1] != [MAGIC]:
        found = lines[0][:20] if lines else ""
        raise UserError(f"{path}: begins with {found!r}, expected {MAGIC}: no ncnn .param file")
    layers = []
    for number, line in enumerate(lines[2:], start=3):
        try:
            layers.append(_layer(line))
        except ValueError:
            raise UserError(f"{path}: damaged: line {number} is {line[:60]!r}") from None
    stated = " ".join(lines[1:2]).split(" ")[0]
    if stated != str(len(layers)):
        raise UserError(f"{path}: damaged: {len(layers)} layers, expected {stated or 'some'}")
    return layers


def _layer(line: str) -> Layer:
    """A line: kind, name, number of inputs and of outputs, their names, then key=value.

    A list has its length first and -23300 - key as its key: "-23310=2,0.1,3" is [0.1, 3] under 10.
    """
    kind, name, inputs, outputs, *rest = line.split()
    start, end = int(inputs), int(inputs) + int(outputs)
    params = {}
    for item in rest[end:]:
        key, values = item.split("=")
        numbers = [int(x) if x.lstrip("-").isdigit() else float(x) for x in values.split(",")]
        params |= {-23300 - int(key): numbers[1:]} if int(key) < 0 else {int(key): numbers[0]}
    return Layer(kind, name, rest[:start], rest[start:end], params)


def _stored(layer: Layer, path: Path) -> list[tuple[tuple[int, ...], bool]]:
    """Shapes of a layer's weight and bias, and whether a tag before each says how it is stored."""
    params = layer.params
    if layer.kind in CONVOLUTIONS:
        shape = _weight_shape(layer, path)
        return [(shape, True), (shape[:1], False)][: 2 if params.get(5) else 1]
    if layer.kind == "Gemm":
        shape = params.get(8, 0), params.get(9, 0)
        has_bias = params.get(6) and params.get(10, 0) != -1
        stored = [(shape, True)] * bool(params.get(5)) + [(shape[:1], True)] * bool(has_bias)
    elif layer.kind == "MemoryData":
        sides = (params.get(key, 0) for key in (2, 11, 1, 0))  # 0: an axis that it does not have
        stored = [(tuple(side for side in sides if side), False)]
    else:
        return []
    if not all(isinstance(x, int) and x > 0 for shape, _ in stored for x in shape):
        raise UserError(f"{path}: damaged: {layer.name} has shapes {[s for s, _ in stored]}")
    return stored


def _weight_shape(layer: Layer, path: Path) -> tuple[int, int, int, int]:
    """A weight's shape; the file states the sides and the number of values."""
    outputs, width, size = (layer.params.get(key, 0) for key in (0, 1, 6))
    sides = (outputs, layer.params.get(11, width), width)
    whole = all(isinstance(x, int) and x > 0 for x in (*sides, size))
    if not whole or size % math.prod(sides):
        raise UserError(
            f"{path}: damaged: {layer.name} has {size} weights, expected a multiple of outputs, "
            f"height and width {sides}"
        )
    return sides[0], size // math.prod(sides), *sides[1:]
