#!/usr/bin/env bash
# Guess: an optimizer that joins two Slices into one Split cuts at the same place.
# Really: onnxscript.optimizer.optimize makes a Split into two of the Slices [..., :n // 2] and [..., n // 2:]. For
#   an odd n, Split gives the larger part first: of 5 values (x, y | w, h, score) the first part gets 3, where
#   the Slice had 2. If both parts are put together again the shape is right, and one column has gone through the
#   other branch. ONNX Runtime's only word is a warning about a shape while loading. It needs the last axis,
#   opset 18 (an older file gets a Split that ONNX Runtime refuses) and the second half's node before the first's;
#   in the other order, for even n, and with another cut the numbers are right, as with onnxsim and onnxslim.
# Here: files are exported without this optimizer, and each one is compared with torch.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxscript==0.7.2 onnx-ir==1.1.0 \
  onnxsim==0.8.1 onnxslim==0.1.98
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import onnxsim
import onnxslim
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer

NAMES = ("onnx", "onnxruntime", "onnxscript", "onnx-ir", "onnxsim", "onnxslim")
print(*(f"{name} {version(name)}" for name in NAMES))


def net(size, cut, second_first, opset=18):
    """Sigmoid of the first `cut` values of each cell, exponential of the others."""
    slices = [
        helper.make_node("Slice", ["x", "zero", "cut", "last"], ["a"]),
        helper.make_node("Slice", ["x", "cut", "size", "last"], ["b"]),
    ]
    nodes = slices[:: -1 if second_first else 1] + [
        helper.make_node("Sigmoid", ["a"], ["c"]),
        helper.make_node("Exp", ["b"], ["d"]),
        helper.make_node("Concat", ["c", "d"], ["y"], axis=-1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, size]) for name in "xy"]
    numbers = {"zero": 0, "cut": cut, "size": size, "last": -1}
    tensors = [numpy_helper.from_array(np.array([value]), name) for name, value in numbers.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # not the warning about the shape
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def copy(model):
    return onnx.ModelProto.FromString(model.SerializeToString())


for size, cut, second_first in ((4, 2, True), (5, 2, False), (5, 2, True), (5, 3, True), (7, 3, True), (6, 3, True)):
    x = np.random.default_rng(0).normal(size=(1, 4, size)).astype(np.float32)
    right = np.concatenate([1 / (1 + np.exp(-x[..., :cut])), np.exp(x[..., cut:])], -1)
    model = net(size, cut, second_first)
    made = optimizer.optimize(copy(model))
    for other in (model, onnxsim.simplify(copy(model))[0], onnxslim.slim(copy(model))):
        assert np.allclose(run(other, x), right, rtol=1e-5)
    y, nodes = run(made, x), [node.op_type for node in made.graph.node]
    assert y.shape == right.shape
    wrong = np.flatnonzero((abs(y - right) > 1e-4).any((0, 1))).tolist()
    order = "second half first" if second_first else "first half first"
    print(f"{size} values, cut at {cut}, {order}: {nodes[:2]}, wrong columns {wrong}")
    assert ("Split" in nodes) == (second_first and cut == size // 2)
    assert wrong == ([cut] if "Split" in nodes and size % 2 else [])
    if wrong:
        print(f"  first cell: right {right[0, 0].round(3)}\n              really {y[0, 0].round(3)}")
old = optimizer.optimize(net(4, 2, True, 13))
try:
    run(old, np.zeros((1, 4, 4), np.float32))
    raise SystemExit("opset 13 is read")
except Exception as error:
    print(f"opset 13: {type(error).__name__}")
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnxscript 0.7.2 onnx-ir 1.1.0 onnxsim 0.8.1 onnxslim 0.1.98
#   4 values, cut at 2, second half first: ['Split', 'Sigmoid'], wrong columns []
#   5 values, cut at 2, first half first: ['Slice', 'Slice'], wrong columns []
#   5 values, cut at 2, second half first: ['Split', 'Sigmoid'], wrong columns [2]
#     first cell: right [0.531 0.467 1.897 1.111 0.585]
#                 really [0.531 0.467 0.655 1.111 0.585]
#   5 values, cut at 3, second half first: ['Slice', 'Slice'], wrong columns []
#   7 values, cut at 3, second half first: ['Split', 'Sigmoid'], wrong columns [3]
#     first cell: right [0.531 0.467 0.655 1.111 0.585 1.436 3.684]
#                 really [0.531 0.467 0.655 0.526 0.585 1.436 3.684]
#   6 values, cut at 3, second half first: ['Split', 'Sigmoid'], wrong columns []
#   opset 13: InvalidGraph
