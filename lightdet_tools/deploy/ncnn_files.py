"""ncnn's files, read without ncnn: the layers of a .param with their weights from the .bin."""

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightdet_core.config import UserError

MAGIC = "7767517"  # first line of every .param file
CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")
HARDSWISH = 6  # number of that activation in a convolution's parameter 9; SiLU (Swish) has none
FLOAT32, FLOAT16 = 0, 0x01306B47  # how a weight is stored, said before it; a bias is bare float32


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


def fold_hardswish(param: str) -> str:
    """The text of a .param with each h-swish inside of the convolution before it.

    pnnx folds the other activations that ncnn's convolution knows, but leaves this one a layer of
    its own. The .bin stays as it is. What follows another layer, an activation, or a convolution
    whose output is needed elsewhere, stays a layer.
    """
    magic, _, *lines = param.splitlines()
    layers = [_layer(line) for line in lines]
    uses = Counter(name for layer in layers for name in layer.inputs)
    makers = {name: row for row, layer in enumerate(layers) for name in layer.outputs}
    folded = set()
    for row, swish in enumerate(layers):
        if swish.kind != "HardSwish":
            continue
        (source,), numbers = swish.inputs, [swish.params.get(0, 0.2), swish.params.get(1, 0.5)]
        place = makers[source]
        before = layers[place]
        if before.kind in CONVOLUTIONS and uses[source] == 1 and not before.params.get(9):
            kind, name, *counts = lines[place].split()[:4]
            own = lines[place].split()[6:]
            words = [*counts, *before.inputs, *swish.outputs, *own, f"9={HARDSWISH}"]
            words.append(f"-23310=2,{','.join(map(str, numbers))}")
            lines[place] = f"{kind:<24} {name:<24} {' '.join(words)}"
            folded.add(row)
    left = [line for row, line in enumerate(lines) if row not in folded]
    blobs = len(makers) - len(folded)
    return "\n".join([magic, f"{len(left)} {blobs}", *left]) + "\n"


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
