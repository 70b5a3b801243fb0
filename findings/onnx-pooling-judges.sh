#!/usr/bin/env bash
# Guess: what a pooling of an ONNX file computes, onnx's reference evaluator or ONNX Runtime tells.
# Really: each is wrong where the other is right, with a valid file and without an error.
#   The reference computes a max pooling with SAME_LOWER as one with SAME_UPPER where the size is even, and loses the
#   last row and column where it is odd; an average pooling with SAME_LOWER is right. In an average pooling with
#   ceil_mode whose last window has one row only, it shifts all windows by one. Average poolings with
#   dilations and SAME are shifted and end in zeros.
#   ONNX Runtime leaves the dilations out of the padding for SAME: the map is smaller than shape inference promised; it
#   logs a warning and goes on (a convolution with both it refuses). With paddings as numbers it is right; so is the
#   reference, but for a max pooling of stride 1 whose paddings differ: it takes the four in another order.
# Here: paddings are numbers in our exports, without ceil_mode; they are compared with torch, not with a second reader
#   of the file alone.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
venv/bin/python - <<'END'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime")))


def middle(kind, columns, **attributes):
    """A middle row of the reference and of ONNX Runtime for an image whose values are its columns, from 1 on."""
    x = np.tile(np.arange(1, columns + 1, dtype=np.float32), (1, 1, columns, 1))
    node = helper.make_node(kind, ["x"], ["y"], kernel_shape=[3, 3], **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "net", ends, out)
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    net = onnx.shape_inference.infer_shapes(net, strict_mode=True)
    onnx.checker.check_model(net, full_check=True)
    promised = [size.dim_value for size in net.graph.output[0].type.tensor_type.shape.dim]
    made = (
        ReferenceEvaluator(net).run(None, {"x": x})[0],
        onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})[0],
    )
    return promised[3], *(y[0, 0, y.shape[2] // 2].round(2).tolist() for y in made)


two = {"strides": [2, 2]}
three = {"strides": [3, 3]}
wide = {"dilations": [2, 2]}
lower, upper, ceil = {"auto_pad": "SAME_LOWER"}, {"auto_pad": "SAME_UPPER"}, {"ceil_mode": 1}
BOTH, REFERENCE, RUNTIME, NONE = (True, True), (True, False), (False, True), (False, False)
MEANS = [2, 5, 7]  # of columns 1 2 3, 4 5 6 and 7
for kind, columns, attributes, truth, right in (
    ("MaxPool", 8, {**two, "pads": [1, 1, 0, 0]}, [2, 4, 6, 8], BOTH),
    ("MaxPool", 8, {**two, **lower}, [2, 4, 6, 8], RUNTIME),
    ("MaxPool", 8, {**two, **upper}, [3, 5, 7, 8], BOTH),
    ("MaxPool", 7, {**two, "pads": [1, 1, 1, 1]}, [2, 4, 6, 7], BOTH),
    ("MaxPool", 8, {"pads": [0, 0, 1, 1]}, [3, 4, 5, 6, 7, 8, 8], RUNTIME),
    ("AveragePool", 8, {"pads": [0, 0, 1, 1]}, [2, 3, 4, 5, 6, 7, 7.5], BOTH),
    ("MaxPool", 7, {**two, **lower}, [2, 4, 6, 7], RUNTIME),
    ("MaxPool", 7, {**two, **upper}, [2, 4, 6, 7], BOTH),
    ("AveragePool", 8, {**two, **lower}, [1.5, 3, 5, 7], BOTH),
    ("AveragePool", 7, {**three, **ceil}, MEANS, RUNTIME),
    ("MaxPool", 7, {**three, **ceil}, [3, 6, 7], BOTH),
    ("MaxPool", 8, {**wide, "pads": [2, 2, 2, 2]}, [3, 4, 5, 6, 7, 8, 7, 8], BOTH),
    ("MaxPool", 8, {**wide, **upper}, [3, 4, 5, 6, 7, 8, 7, 8], REFERENCE),
    ("AveragePool", 8, {**wide, "pads": [2, 2, 2, 2]}, [2, 3, 3, 4, 5, 6, 6, 7], BOTH),
    ("AveragePool", 8, {**wide, **upper}, [2, 3, 3, 4, 5, 6, 6, 7], NONE),
):
    promised, *made = middle(kind, columns, **attributes)
    says = ", ".join(f"{who} {y}" for who, y in zip(("reference", "onnxruntime"), made))
    print(f"{kind}, {columns} columns, {attributes}: {promised} columns promised")
    print(f"  {says}" + ("" if right == BOTH else f", right {truth}"))
    assert promised == len(truth) and tuple(y == truth for y in made) == right
END
# Seen (Python 3.11, Linux, x86-64; without ONNX Runtime's warnings):
#   onnx 1.23.2 onnxruntime 1.31.1
#   MaxPool, 8 columns, {'strides': [2, 2], 'pads': [1, 1, 0, 0]}: 4 columns promised
#     reference [2.0, 4.0, 6.0, 8.0], onnxruntime [2.0, 4.0, 6.0, 8.0]
#   MaxPool, 8 columns, {'strides': [2, 2], 'auto_pad': 'SAME_LOWER'}: 4 columns promised
#     reference [3.0, 5.0, 7.0, 8.0], onnxruntime [2.0, 4.0, 6.0, 8.0], right [2, 4, 6, 8]
#   MaxPool, 8 columns, {'strides': [2, 2], 'auto_pad': 'SAME_UPPER'}: 4 columns promised
#     reference [3.0, 5.0, 7.0, 8.0], onnxruntime [3.0, 5.0, 7.0, 8.0]
#   MaxPool, 7 columns, {'strides': [2, 2], 'pads': [1, 1, 1, 1]}: 4 columns promised
#     reference [2.0, 4.0, 6.0, 7.0], onnxruntime [2.0, 4.0, 6.0, 7.0]
#   MaxPool, 8 columns, {'pads': [0, 0, 1, 1]}: 7 columns promised
#     reference [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 8.0], onnxruntime [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 8.0], right [3, 4, 5, 6, 7, 8, 8]
#   AveragePool, 8 columns, {'pads': [0, 0, 1, 1]}: 7 columns promised
#     reference [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.5], onnxruntime [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.5]
#   MaxPool, 7 columns, {'strides': [2, 2], 'auto_pad': 'SAME_LOWER'}: 4 columns promised
#     reference [3.0, 5.0, 7.0], onnxruntime [2.0, 4.0, 6.0, 7.0], right [2, 4, 6, 7]
#   MaxPool, 7 columns, {'strides': [2, 2], 'auto_pad': 'SAME_UPPER'}: 4 columns promised
#     reference [2.0, 4.0, 6.0, 7.0], onnxruntime [2.0, 4.0, 6.0, 7.0]
#   AveragePool, 8 columns, {'strides': [2, 2], 'auto_pad': 'SAME_LOWER'}: 4 columns promised
#     reference [1.5, 3.0, 5.0, 7.0], onnxruntime [1.5, 3.0, 5.0, 7.0]
#   AveragePool, 7 columns, {'strides': [3, 3], 'ceil_mode': 1}: 3 columns promised
#     reference [1.5, 4.0, 6.0], onnxruntime [2.0, 5.0, 7.0], right [2, 5, 7]
#   MaxPool, 7 columns, {'strides': [3, 3], 'ceil_mode': 1}: 3 columns promised
#     reference [3.0, 6.0, 7.0], onnxruntime [3.0, 6.0, 7.0]
#   MaxPool, 8 columns, {'dilations': [2, 2], 'pads': [2, 2, 2, 2]}: 8 columns promised
#     reference [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 7.0, 8.0], onnxruntime [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 7.0, 8.0]
#   MaxPool, 8 columns, {'dilations': [2, 2], 'auto_pad': 'SAME_UPPER'}: 8 columns promised
#     reference [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 7.0, 8.0], onnxruntime [4.0, 5.0, 6.0, 7.0, 8.0, 7.0], right [3, 4, 5, 6, 7, 8, 7, 8]
#   AveragePool, 8 columns, {'dilations': [2, 2], 'pads': [2, 2, 2, 2]}: 8 columns promised
#     reference [2.0, 3.0, 3.0, 4.0, 5.0, 6.0, 6.0, 7.0], onnxruntime [2.0, 3.0, 3.0, 4.0, 5.0, 6.0, 6.0, 7.0]
#   AveragePool, 8 columns, {'dilations': [2, 2], 'auto_pad': 'SAME_UPPER'}: 8 columns promised
#     reference [3.0, 3.0, 4.0, 5.0, 6.0, 6.0, 0.0, 0.0], onnxruntime [3.0, 3.0, 4.0, 5.0, 6.0, 6.0], right [2, 3, 3, 4, 5, 6, 6, 7]
