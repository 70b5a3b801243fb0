#!/usr/bin/env bash
# Guess: a Softmax over the classes (axis 1 of 1 x C x H x W) is the same in every runtime, whatever the opset.
# Really: before opset 13 `axis` means "from here on everything is one row": the values of all classes and cells sum
#   to 1 together. ONNX Runtime follows the opset. OpenVINO does for opset 9, but reads 11 and 12 as if they were 13,
#   where every cell sums to 1; LogSoftmax of 11 it reads right. The reference evaluator of the onnx package takes
#   the new meaning for all opsets, so that as a judge it sides with the wrong one.
# Here: exports have an opset of 13 or later, and each exported file is compared with torch.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1
venv/bin/python - <<'EOF'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
core = openvino.Core()
scores = np.random.default_rng(0).normal(size=(1, 5, 2, 3)).astype(np.float32)  # 5 classes, 6 cells


def totals(kind, opset):
    """Runtime -> sum of all probabilities: 1 (one row) or 6 (one for each cell)."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, scores.shape) for name in "xy"]
    node = helper.make_node(kind, ["x"], ["y"], axis=1)
    graph = helper.make_graph([node], "net", ends[:1], ends[1:])
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(net, full_check=True)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # no bfloat16, whatever the CPU
    compiled = core.compile_model(core.read_model(net.SerializeToString()), "CPU", exact)
    outputs = {
        "onnxruntime": onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": scores})[0],
        "openvino": compiled({"x": scores})[0],
        "reference": ReferenceEvaluator(net).run(None, {"x": scores})[0],
    }
    if kind == "LogSoftmax":
        outputs = {runtime: np.exp(y) for runtime, y in outputs.items()}
    return {runtime: round(float(y.sum()), 3) for runtime, y in outputs.items()}


for kind, opset, expected in [
    ("Softmax", 9, [1, 1, 6]),
    ("Softmax", 11, [1, 6, 6]),
    ("Softmax", 12, [1, 6, 6]),
    ("Softmax", 13, [6, 6, 6]),
    ("LogSoftmax", 11, [1, 1, 6]),
    ("LogSoftmax", 13, [6, 6, 6]),
]:
    found = totals(kind, opset)
    print(f"{kind} axis 1, opset {opset}, sum over 5 classes and 6 cells: {found}")
    assert list(found.values()) == expected
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 openvino 2026.4.1-22982-e213a147257-releases/2026/4
#   Softmax axis 1, opset 9, sum over 5 classes and 6 cells: {'onnxruntime': 1.0, 'openvino': 1.0, 'reference': 6.0}
#   Softmax axis 1, opset 11, sum over 5 classes and 6 cells: {'onnxruntime': 1.0, 'openvino': 6.0, 'reference': 6.0}
#   Softmax axis 1, opset 12, sum over 5 classes and 6 cells: {'onnxruntime': 1.0, 'openvino': 6.0, 'reference': 6.0}
#   Softmax axis 1, opset 13, sum over 5 classes and 6 cells: {'onnxruntime': 6.0, 'openvino': 6.0, 'reference': 6.0}
#   LogSoftmax axis 1, opset 11, sum over 5 classes and 6 cells: {'onnxruntime': 1.0, 'openvino': 1.0, 'reference': 6.0}
#   LogSoftmax axis 1, opset 13, sum over 5 classes and 6 cells: {'onnxruntime': 6.0, 'openvino': 6.0, 'reference': 6.0}
