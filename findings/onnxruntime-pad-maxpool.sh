#!/usr/bin/env bash
# Guess: ONNX Runtime's optimizations change the speed of a network; its outputs stay the same but for rounding.
# Really: a Pad with zeros before a MaxPool is folded into the pooling's own padding, which is minus infinity.
#   Where the real values of a window are all negative, as they may be after leaky ReLU, Hard-Swish or Mish, the zero
#   at the border was the maximum and no longer is: other values along the border, by default and without a message.
#   With the optimizations off, in OpenVINO and in the ONNX reference the zero counts; after ReLU nobody sees it.
#   onnxoptimizer's fuse_pad_into_pool does the same and writes it to the file. A Pad with another number stays.
# Here: our detector has no max pooling; each exported file is compared with torch.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 onnxoptimizer==0.4.2
venv/bin/python - <<'END'
from importlib.metadata import version

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "openvino", "onnxoptimizer")))
LEVEL = onnxruntime.GraphOptimizationLevel
core = openvino.Core()
# A row and a column more, below and at the right, for a pooling of 2 x 2 with stride 1: the size stays.
PADS = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1]), "pads")


def network(value, activation, x):
    """Activation, Pad with a value, MaxPool."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    nodes = [
        helper.make_node(activation, ["x"], ["a"], **({"alpha": 0.1} if activation == "LeakyRelu" else {})),
        helper.make_node("Pad", ["a", "pads", "value"], ["p"]),
        helper.make_node("MaxPool", ["p"], ["y"], kernel_shape=[2, 2]),
    ]
    number = numpy_helper.from_array(np.float32(value), "value")
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [PADS, number])
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(net, full_check=True)
    return net


def onnx_runtime(net, x, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3  # errors: no word about initializers that are not used any more
    return onnxruntime.InferenceSession(net.SerializeToString(), options).run(None, {"x": x})[0]


def maps(net, x):
    fused = onnxoptimizer.optimize(net, ["fuse_pad_into_pool"])
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # no bfloat16, whatever the CPU
    return {
        "reference": ReferenceEvaluator(net).run(None, {"x": x})[0],
        "openvino": core.compile_model(core.read_model(net.SerializeToString()), "CPU", exact)({"x": x})[0],
        "onnxruntime, off": onnx_runtime(net, x, LEVEL.ORT_DISABLE_ALL),
        "onnxruntime": onnx_runtime(net, x, LEVEL.ORT_ENABLE_ALL),
        "onnxoptimizer": onnx_runtime(fused, x, LEVEL.ORT_DISABLE_ALL),
    }


below = np.full((1, 1, 3, 3), -20, np.float32)
for name, y in maps(network(0, "LeakyRelu", below), below).items():
    print(f"leaky ReLU of -20, zeros around it, {name}: {y[0, 0].round(4).tolist()}")
    inner = [-2, -2, 0]
    fused = name in ("onnxruntime", "onnxoptimizer")
    assert np.allclose(y[0, 0], [[-2] * 3] * 3 if fused else [inner, inner, [0] * 3])

noise = np.random.default_rng(0).normal(size=(1, 64, 13, 13)).astype(np.float32)
for value, activation, expected in (
    (0, "LeakyRelu", True), (0, "HardSwish", True), (0, "Relu", False), (-0.001, "LeakyRelu", False)
):
    made = maps(network(value, activation, noise), noise)
    wrong = {name: int((abs(y - made["reference"]) > 1e-5).sum()) for name, y in made.items()}
    print(f"{activation} of noise, {value} around it: other values of {noise.size}: {wrong}")
    assert [count > 0 for count in wrong.values()] == [False, False, False, expected, expected]
END
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 openvino 2026.4.1 onnxoptimizer 0.4.2
#   leaky ReLU of -20, zeros around it, reference: [[-2.0, -2.0, 0.0], [-2.0, -2.0, 0.0], [0.0, 0.0, 0.0]]
#   leaky ReLU of -20, zeros around it, openvino: [[-2.0, -2.0, 0.0], [-2.0, -2.0, 0.0], [0.0, 0.0, 0.0]]
#   leaky ReLU of -20, zeros around it, onnxruntime, off: [[-2.0, -2.0, 0.0], [-2.0, -2.0, 0.0], [0.0, 0.0, 0.0]]
#   leaky ReLU of -20, zeros around it, onnxruntime: [[-2.0, -2.0, -2.0], [-2.0, -2.0, -2.0], [-2.0, -2.0, -2.0]]
#   leaky ReLU of -20, zeros around it, onnxoptimizer: [[-2.0, -2.0, -2.0], [-2.0, -2.0, -2.0], [-2.0, -2.0, -2.0]]
#   LeakyRelu of noise, 0 around it: other values of 10816: {'reference': 0, 'openvino': 0, 'onnxruntime, off': 0, 'onnxruntime': 414, 'onnxoptimizer': 414}
#   HardSwish of noise, 0 around it: other values of 10816: {'reference': 0, 'openvino': 0, 'onnxruntime, off': 0, 'onnxruntime': 412, 'onnxoptimizer': 412}
#   Relu of noise, 0 around it: other values of 10816: {'reference': 0, 'openvino': 0, 'onnxruntime, off': 0, 'onnxruntime': 0, 'onnxoptimizer': 0}
#   LeakyRelu of noise, -0.001 around it: other values of 10816: {'reference': 0, 'openvino': 0, 'onnxruntime, off': 0, 'onnxruntime': 0, 'onnxoptimizer': 0}
