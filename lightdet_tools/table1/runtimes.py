"""The runtimes in which `lightdet latency` times a system, and how each loads it."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from lightdet_core.config import UserError
from lightdet_core.machinery.precision import cpu_computes_in
from lightdet_tools.deploy import convert, export, graph, runtime
from lightdet_tools.table1.systems import System, to_tensor
from lightdet_tools.timing import cuda_graph

HALVED = ("c0", "g5")
QUANTIZED = ("g1", *HALVED, "+hswish", "slim-e3-layers", "slim-relu6", "slim-relu6-third")
QUANTIZED += ("slim-fast", "slim-fastest", "yolov4_tiny")


class Loaded(NamedTuple):
    """A system in a runtime."""

    prepare: Callable[[np.ndarray], object]  # canvas (S, S, 3) uint8 -> the network's input
    network: Callable[[object], list]  # -> raw outputs, arrays or tensors with a batch axis
    size_bytes: int | None = None  # of the file that was loaded


def load_torch(system: System, threads: int, folder: Path) -> Loaded:
    model = _opened(system)
    return Loaded(to_tensor, torch.inference_mode()(lambda x: list(model(x))))


def load_bf16(system: System, threads: int, folder: Path) -> Loaded:
    if not cpu_computes_in("bf16"):  # what stands in for it takes 20 to 30 times as long as fp32
        raise UserError("this CPU does not compute in bf16; take fp32")
    model = _opened(system)

    @torch.inference_mode()
    def network(x: Tensor) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return list(model(x))

    return Loaded(to_tensor, network)


def load_cuda(system: System, threads: int, folder: Path) -> Loaded:
    """fp16 on the GPU, as one CUDA graph, so that no time goes into launching kernels."""
    model = _opened(system).to("cuda", torch.float16)
    zeros = np.zeros((system.size, system.size, 3), np.uint8)
    network = cuda_graph(model, to_tensor(zeros).to("cuda", torch.float16))
    return Loaded(lambda canvas: to_tensor(canvas).to("cuda", torch.float16), network)


def load_onnx(system: System, threads: int, folder: Path) -> Loaded:
    return _session(write_onnx(system, folder), threads)


def load_int8(system: System, threads: int, folder: Path) -> Loaded:
    return _session(_quantized(system, folder), threads)


def load_openvino(system: System, threads: int, folder: Path) -> Loaded:
    return _openvino(write_onnx(system, folder), threads)


def load_openvino_bf16(system: System, threads: int, folder: Path) -> Loaded:
    return _openvino(write_onnx(system, folder), threads, bf16=True)


def load_openvino_int8(system: System, threads: int, folder: Path) -> Loaded:
    return _openvino(_quantized(system, folder, openvino=True), threads)


def load_ncnn(system: System, threads: int, folder: Path) -> Loaded:
    path = folder / f"{system.key}-ncnn.param"  # OpenVINO's weights are a .bin, too
    if not path.exists():
        write_ncnn(trace_ncnn(system, folder), system, folder)
    network = runtime.ncnn_network(path, len(system.wanted), threads)

    def batch(pixels: object) -> list[np.ndarray]:
        return [output[None] for output in network(pixels)]

    return Loaded(runtime.ncnn_pixels, batch, path.with_suffix(".bin").stat().st_size)


def trace_ncnn(system: System, folder: Path) -> tempfile.TemporaryDirectory:
    """A folder within this one with what pnnx reads."""
    deployed = system.deployed
    if isinstance(deployed, graph.Deployable):  # ncnn has a Mish of its own
        deployed = graph.deployable(system.model, system.size, mish=nn.Mish)
    traced = tempfile.TemporaryDirectory(dir=folder)
    convert.trace(deployed, _zeros(system), Path(traced.name))
    return traced


def write_ncnn(traced: tempfile.TemporaryDirectory, system: System, folder: Path) -> None:
    """ncnn's files, of `trace_ncnn`, which goes: up to a minute on one core, in any thread."""
    with traced:
        shape = [1, 3, system.size, system.size]
        param, values = convert.run_pnnx(Path(traced.name), shape, ("fp32",))["fp32"]
    (folder / f"{system.key}-ncnn.bin").write_bytes(values)
    (folder / f"{system.key}-ncnn.param").write_text(param)


def _opened(system: System) -> nn.Module:
    return copy.deepcopy(system.model).to(memory_format=torch.channels_last)


def _zeros(system: System) -> Tensor:
    return torch.zeros(1, 3, system.size, system.size)


def write_onnx(system: System, folder: Path) -> Path:
    """Its file, written once."""
    path = folder / f"{system.key}.onnx"
    if not path.exists():
        names = [f"out{i}" for i in range(len(system.wanted))]
        onnx.save(convert.convert_onnx(system.deployed, _zeros(system), names), path)
    return path


def _quantized(system: System, folder: Path, openvino: bool = False) -> Path:
    path = folder / f"{system.key}-int8{'-openvino' * openvino}.onnx"
    if not path.exists():
        images = [runtime.to_floats(x[None]) for x in export.example_images(system.size)]
        onnx.save(convert.quantize(onnx.load(write_onnx(system, folder)), images, openvino), path)
    return path


def _openvino(source: Path, threads: int, bf16: bool = False) -> Loaded:
    path = source.with_suffix(".xml")
    if not path.exists():
        text, values = convert.convert_openvino(onnx.load(source))
        path.with_suffix(".bin").write_bytes(values)
        path.write_bytes(text)
    network = runtime.openvino_network(runtime.read_openvino(path), threads, bf16)
    size = path.with_suffix(".bin").stat().st_size
    return Loaded(lambda canvas: runtime.to_floats(canvas[None]), network, size)


def _session(path: Path, threads: int) -> Loaded:
    session = runtime.onnx_session(path, threads)
    prepare = lambda canvas: runtime.to_floats(canvas[None])  # noqa: E731
    return Loaded(prepare, lambda x: session.run(None, {"images": x}), path.stat().st_size)


class Runtime(NamedTuple):
    """A way to run a network."""

    load: Callable[[System, int, Path], Loaded]
    base: str  # the runtime of the reference that its ratios are to: of the same group
    keys: tuple[str, ...] | None = None  # of the systems that it is for; None: all
    # largest difference from torch in fp32, in standard deviations of the output
    tolerance: float = 0.05


GROUPS = (  # timed together
    {
        "torch": Runtime(load_torch, "torch"),
        # how far few bits are off, only the AP of a trained network can say
        "torch bf16": Runtime(load_bf16, "torch", HALVED, float("inf")),
    },
    {
        "onnxruntime": Runtime(load_onnx, "onnxruntime"),
        "onnxruntime int8": Runtime(load_int8, "onnxruntime", QUANTIZED, float("inf")),
    },
    {"ncnn": Runtime(load_ncnn, "ncnn")},
    {
        "openvino": Runtime(load_openvino, "openvino"),
        "openvino bf16": Runtime(load_openvino_bf16, "openvino", HALVED, float("inf")),
        "openvino int8": Runtime(load_openvino_int8, "openvino", QUANTIZED, float("inf")),
    },
    {"cuda fp16": Runtime(load_cuda, "cuda fp16", None, 1.0)},
)
RUNTIMES = [name for group in GROUPS for name in group]
