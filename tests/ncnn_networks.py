"""Small networks as ncnn files, and ncnn's own runtime to compare with."""

import struct
from pathlib import Path

import ncnn
import numpy as np
import torch
from torch import nn


def write_ncnn(folder: Path, convs: list[nn.Conv2d], half: bool) -> tuple[Path, Path]:
    """A chain of convolutions as an ncnn pair, each followed by LeakyReLU 0.1 as ncnn folds it."""
    lines, data = ["Input            in               0 1 x0"], b""
    for i, conv in enumerate(convs):
        (height, width), weight = conv.kernel_size, conv.weight.detach().numpy()
        kind = "ConvolutionDepthWise" if conv.groups > 1 else "Convolution"
        lines.append(
            f"{kind} conv{i} 1 1 x{i} x{i + 1} 0={conv.out_channels} 1={width} 11={height} "
            f"3={conv.stride[0]} 4={conv.padding[0]} 5={int(conv.bias is not None)} "
            f"6={weight.size} 7={conv.groups} 9=2 -23310=1,1.000000e-01"
        )
        data += struct.pack("<I", 0x01306B47 if half else 0)
        raw = weight.astype("<f2" if half else "<f4").tobytes()
        data += raw + b"\0" * (-len(raw) % 4)
        if conv.bias is not None:
            data += conv.bias.detach().numpy().astype("<f4").tobytes()
    param, weights = folder / "net.param", folder / "net.bin"
    param.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n")
    weights.write_bytes(data)
    return param, weights


def three_convs() -> list[nn.Conv2d]:
    """An odd number of values in the first (16 bits need padding), groups in the second."""
    torch.manual_seed(1)
    convs = [nn.Conv2d(1, 3, 3, 2, 1), nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)]
    return [*convs, nn.Conv2d(3, 5, 1)]


def run_ncnn(param: Path, weights: Path, x: np.ndarray, blob: str, outputs: list[str]) -> list:
    """ncnn's own runtime, in float32. `x` lives until the end: ncnn.Mat does not copy it."""
    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, option, False)
    assert net.load_param(str(param)) == 0 and net.load_model(str(weights)) == 0
    extractor = net.create_extractor()
    extractor.input(blob, ncnn.Mat(x))
    return [torch.from_numpy(np.array(extractor.extract(name)[1])) for name in outputs]
