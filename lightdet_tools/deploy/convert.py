"""A torch module as ONNX, ncnn or OpenVINO: float32, float16, int8."""

import io
import logging
import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pnnx
import torch
from onnx.numpy_helper import to_array as array_of
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from lightdet_core.config import UserError
from lightdet_tools.deploy.ncnn_files import fold_hardswish
from lightdet_tools.deploy.runtime import first_line, onnx_session, openvino_library

OPSET = 17
HALF = ".fp16"  # what the names of weights stored in fp16 end in
# the kinds of nodes in int8 for ONNX Runtime: convolutions, neck, and ReLU6 and SiLU as exported
QUANTIZED = ["Conv", "Add", "AveragePool", "Resize", "Pad", "Clip", "Sigmoid", "Mul"]
FLOORS = {"Sigmoid": -6, "HardSigmoid": -3}  # of what these nodes read


def convert_onnx(module: nn.Module, example: Tensor, outputs: list[str]) -> onnx.ModelProto:
    """The module as ONNX with a free batch size.

    Args:
        example: an input; its first axis is the batch.
        outputs: names, in the order of the module's results.

    Raises:
        UserError: an operation that ONNX lacks.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # by tracing, as ncnn needs it, too: a third of the new exporter's time, no clutter inside
        warnings.simplefilter("ignore")  # of the old exporter's end, and of a constant left as is
        try:
            torch.onnx.export(
                module,
                (example,),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=outputs,
                dynamic_axes={name: {0: "B"} for name in ("images", *outputs)},
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise UserError(f"ONNX: cannot be converted: {first_line(error)}") from None
    return onnx.load_from_string(buffer.getvalue())


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The weights of convolutions stored in fp16 and cast when the file is loaded.

    Runtimes compute in fp32 as before. Biases and the little else stay, as in ncnn's files.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    weights = {node.input[1] for node in half.graph.node if node.op_type == "Conv"}
    casts = []
    for tensor in half.graph.initializer:
        if tensor.name in weights:
            name = tensor.name
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, name + HALF))
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=1))  # 1: FLOAT
    nodes = [*casts, *half.graph.node]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    return half


class _Canvases(CalibrationDataReader):
    """Inputs one by one, as the library asks for them."""

    def __init__(self, inputs: Iterable[np.ndarray], name: str):
        self.feeds = ({name: x} for x in inputs)

    def get_next(self) -> dict | None:
        return next(self.feeds, None)


def quantize(
    model: onnx.ModelProto, inputs: Iterable[np.ndarray], openvino: bool = False
) -> onnx.ModelProto:
    """Convolutions and what lies between them in 8 bits, for ONNX Runtime or for OpenVINO.

    Static: the range of an activation is the mean of the inputs' extremes, not the farthest of all,
    since SiLU's outputs have long tails. Weights are signed and scaled by output channel,
    activations unsigned, which CPUs multiply fastest. Weights use 7 of the bits: without VNNI a
    CPU's sums of two products stop at 16 bits. For ONNX Runtime ReLU6 and SiLU are part of it, or
    every layer would go to fp32 and back: ReLU6 then costs nothing, SiLU two passes. Other
    activations, the last convolution of a level and what comes after it stay in fp32: such a range
    would cut the few highest logits, which are what is looked for. OpenVINO computes ReLU6 and SiLU
    inside of the convolution before them, unless a rounding parts them: for it, only what
    convolutions read is rounded. Biases make up for what the rounded weights add, see `_recentre`.

    Args:
        model: of `convert_onnx`.
        inputs: as the model takes them, with a batch axis.
        openvino: for `convert_openvino`.
    """
    name, inputs = model.graph.input[0].name, list(inputs)
    types, options = QUANTIZED, {"CalibMovingAverage": True}  # the mean, despite its name
    if openvino:
        types = ["Conv"]
        options["OpTypesToExcludeOutputQuantization"] = types
    # the library warns and reports on the root logger
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as clutter:
            source, plain, small = (Path(clutter, f"{x}.onnx") for x in ("net", "plain", "int8"))
            source.write_bytes(model.SerializeToString())  # given the model, it would empty it
            quant_pre_process(source, plain, skip_symbolic_shape=True)
            network = onnx.load(plain)
            if not openvino:
                options["TensorQuantOverrides"] = _floors(network)
            quantize_static(
                plain,
                small,
                _Canvases(inputs, name),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=types,
                nodes_to_exclude=_in_full(network, not openvino),
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options=options,
            )
            return _recentre(onnx.load(small), network, inputs)
    finally:
        logging.disable(logging.NOTSET)


def _recentre(
    small: onnx.ModelProto, network: onnx.ModelProto, inputs: list[np.ndarray]
) -> onnx.ModelProto:
    """Biases less what the rounding of the weights adds to a channel in the mean (Nagel 2019).

    In a channel of few weights, as depthwise and slim layers have, their errors do not cancel, and
    the layers behind see it shifted. By how much the float network says: beside each of its
    convolutions stands one that has the errors for weights.

    Args:
        small: the quantized network; its biases are replaced.
        network: the float one that it was made of; nodes have the same names.
        inputs: of `quantize`.
    """
    values = {tensor.name: tensor for tensor in small.graph.initializer}
    stored = {
        node.output[0]: [values[name] for name in node.input]
        for node in small.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in values
    }
    reads = {node.name: node.input for node in small.graph.node if node.op_type == "Conv"}
    exact = {tensor.name: array_of(tensor) for tensor in network.graph.initializer}
    errors, biases = onnx.ModelProto(), []
    errors.CopyFrom(network)
    del errors.graph.output[:]
    for node in network.graph.node:
        if node.op_type != "Conv" or not stored.keys() >= set(reads[node.name][1:]):
            continue  # one that stays in fp32
        (weight, scale, _), *bias = (stored[name] for name in reads[node.name][1:])
        if not bias:
            continue
        rounded = array_of(weight) * array_of(scale).reshape(-1, 1, 1, 1)
        name = f"{node.name}/error"
        errors.graph.initializer.append(
            onnx.numpy_helper.from_array(rounded - exact[node.input[1]], name)
        )
        beside = errors.graph.node.add()
        beside.CopyFrom(node)
        beside.name, beside.input[:], beside.output[:] = name, [node.input[0], name], [f"{name}/y"]
        mean = onnx.helper.make_node("ReduceMean", [f"{name}/y"], [f"{name}/mean"],
                                     axes=[0, 2, 3], keepdims=0)  # fmt: skip
        errors.graph.node.append(mean)
        errors.graph.output.append(onnx.helper.make_empty_tensor_value_info(f"{name}/mean"))
        biases += bias
    if not biases:
        return small
    session = onnx_session(errors.SerializeToString(), os.cpu_count() or 1)
    shifts = [session.run(None, {network.graph.input[0].name: x}) for x in inputs]
    for (bias, scale, _), *shift in zip(biases, *shifts, strict=True):
        steps = array_of(bias) - np.mean(shift, 0) / array_of(scale)
        bias.CopyFrom(onnx.numpy_helper.from_array(np.rint(steps).astype(np.int32), bias.name))
    return small


def _in_full(model: onnx.ModelProto, last: bool) -> list[str]:
    """Names of the nodes that stay in fp32: those of Mish, and those that feed no convolution.

    Args:
        last: of these, convolutions, too.
    """
    # nodes are called after the module that they are of
    mish = {node.name.rpartition("/")[0] for node in model.graph.node if node.op_type == "Neg"}
    feeding, names = set(), []
    for node in reversed(model.graph.node):  # in the order of their execution
        feeds, convolves = bool(feeding & set(node.output)), node.op_type == "Conv"
        if feeds or convolves:
            feeding |= set(node.input)
        if (not feeds and (last or not convolves)) or node.name.rpartition("/")[0] in mish:
            names.append(node.name)
    return names


def _floors(model: onnx.ModelProto) -> dict[str, list[dict]]:
    """Where the ranges of what SiLU and h-swish read begin, as the library takes it: below, they
    are 0, or of SiLU(-6) = -0.015 nothing is left in 8 bits.

    Convolutions reach -20, which made steps coarse.
    """
    return {
        node.input[0]: [{"rmin": np.float32(FLOORS[node.op_type])}]
        for node in model.graph.node
        if node.op_type in FLOORS
    }


def convert_openvino(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    """An ONNX model as OpenVINO's .xml and .bin, for one image at a time.

    Weights stay as they are stored, in fp32, fp16 or int8, and metadata comes along.
    """
    openvino = openvino_library()
    network = openvino.Core().read_model(model.SerializeToString())
    shape = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    network.reshape([1, *shape[1:]])
    with tempfile.TemporaryDirectory() as clutter:
        path = Path(clutter, "net.xml")
        openvino.save_model(network, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def convert_ncnn(
    module: nn.Module, example: Tensor, precisions: tuple[str, ...] = ("fp32", "fp16")
) -> dict[str, tuple[str, bytes]]:
    """The module as ncnn's .param and .bin, by how the weights are stored.

    Args:
        example: an input; its batch of one becomes ncnn's tensor without a batch.

    Raises:
        UserError: pnnx fails, or leaves an operation that ncnn lacks.
    """
    with tempfile.TemporaryDirectory() as clutter:
        trace(module, example, Path(clutter))
        return run_pnnx(Path(clutter), list(example.shape), precisions)


def trace(module: nn.Module, example: Tensor, folder: Path) -> None:
    """The module as pnnx reads it, in a folder of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated; constants, which they shall be
        torch.jit.trace(module, example, check_trace=False).save(folder / "net.pt")


def run_pnnx(
    folder: Path, shape: list[int], precisions: tuple[str, ...]
) -> dict[str, tuple[str, bytes]]:
    """`convert_ncnn` of what `trace` wrote; nothing of torch, so that a thread may do it.

    Args:
        shape: of the example.
    """
    found = {}
    for precision in precisions:
        options = f"inputshape={shape}".replace(" ", ""), f"fp16={int(precision == 'fp16')}"
        command = [pnnx.EXEC_PATH, "net.pt", *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        try:
            param = fold_hardswish((folder / "net.ncnn.param").read_text())
            weights = (folder / "net.ncnn.bin").read_bytes()
            (folder / "net.ncnn.bin").unlink()  # or a second failure would not be seen
        except FileNotFoundError:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise UserError(f"pnnx: ended with code {done.returncode}: {last}") from None
        found[precision] = param, weights
    layers = {line.split()[0] for line in found[precision][0].splitlines()[2:]}
    # what it cannot translate keeps the name that torch or pnnx gave it
    unknown = sorted(layer for layer in layers if "." in layer or ":" in layer)
    if unknown:
        raise UserError(f"ncnn: has no layer for {', '.join(unknown)}")
    return found
