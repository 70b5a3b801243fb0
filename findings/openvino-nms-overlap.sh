#!/usr/bin/env bash
# Guess: one ONNX model with a NonMaxSuppression node keeps the same boxes in ONNX Runtime and in
#   OpenVINO; a threshold of 1 suppresses nothing, and boxes that do not touch never suppress each other.
# Really: OpenVINO also suppresses a box whose overlap EQUALS the threshold; ONNX Runtime and the ONNX
#   reference evaluator keep it. Integer boxes hit 1/2 or 3/4 exactly. With the optional iou_threshold
#   left out (it is 0 then) every overlap of 0 equals it: OpenVINO keeps the best box alone,
#   wherever the others lie, silently.
# Here: exported networks end with scores and boxes; NMS runs outside of the graph, one code for all runtimes.
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


def model(count, threshold):
    """A graph of one NonMaxSuppression: at most 10 boxes, score threshold 0."""
    numbers = [helper.make_tensor("most", TensorProto.INT64, [1], [10])]
    names = ["boxes", "scores", "most", ""]
    if threshold is not None:
        numbers.append(helper.make_tensor("iou", TensorProto.FLOAT, [1], [threshold]))
        names[3] = "iou"
    numbers.append(helper.make_tensor("low", TensorProto.FLOAT, [1], [0.0]))
    node = helper.make_node("NonMaxSuppression", [*names, "low"], ["kept"])
    inputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, count, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, count]),
    ]
    kept = helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])
    graph = helper.make_graph([node], "nms", inputs, [kept], numbers)
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(net, full_check=True)
    return net


def kept_boxes(boxes, threshold):
    """Runtime -> numbers of the boxes that it keeps."""
    boxes = np.array([boxes], np.float32)
    scores = np.linspace(0.9, 0.5, boxes.shape[1], dtype=np.float32)[None, None]
    net, feed = model(boxes.shape[1], threshold), {"boxes": boxes, "scores": scores}
    session = onnxruntime.InferenceSession(net.SerializeToString())
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # no bfloat16, whatever the CPU
    compiled = core.compile_model(core.read_model(net.SerializeToString()), "CPU", exact)
    rows = {"onnxruntime": session.run(None, feed)[0], "openvino": compiled(feed)[0]}
    if threshold is not None:  # the reference evaluator refuses the node without it
        rows["reference"] = ReferenceEvaluator(net).run(None, feed)[0]
    return {runtime: np.asarray(row)[:, 2].tolist() for runtime, row in rows.items()}


half = [[0, 0, 10, 10], [0, 0, 10, 5]]  # y1 x1 y2 x2, overlap 50 / 100
twins = [[0, 0, 10, 10], [0, 0, 10, 10]]  # overlap 1
apart = [[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]]  # overlap 0
cases = [
    ("overlap 1/2, threshold 0.49", half, 0.49, [0], [0]),
    ("overlap 1/2, threshold 0.5", half, 0.5, [0, 1], [0]),
    ("overlap 1/2, threshold 0.51", half, 0.51, [0, 1], [0, 1]),
    ("the same box twice, threshold 1", twins, 1.0, [0, 1], [0]),
    ("three boxes apart, threshold 0.001", apart, 0.001, [0, 1, 2], [0, 1, 2]),
    ("three boxes apart, threshold 0", apart, 0.0, [0, 1, 2], [0]),
    ("three boxes apart, no threshold", apart, None, [0, 1, 2], [0]),
]
for name, boxes, threshold, others, in_openvino in cases:
    kept = kept_boxes(boxes, threshold)
    print(f"{name}: {kept}")
    assert kept.pop("openvino") == in_openvino
    assert all(row == others for row in kept.values())
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 openvino 2026.4.1-22982-e213a147257-releases/2026/4
#   overlap 1/2, threshold 0.49: {'onnxruntime': [0], 'openvino': [0], 'reference': [0]}
#   overlap 1/2, threshold 0.5: {'onnxruntime': [0, 1], 'openvino': [0], 'reference': [0, 1]}
#   overlap 1/2, threshold 0.51: {'onnxruntime': [0, 1], 'openvino': [0, 1], 'reference': [0, 1]}
#   the same box twice, threshold 1: {'onnxruntime': [0, 1], 'openvino': [0], 'reference': [0, 1]}
#   three boxes apart, threshold 0.001: {'onnxruntime': [0, 1, 2], 'openvino': [0, 1, 2], 'reference': [0, 1, 2]}
#   three boxes apart, threshold 0: {'onnxruntime': [0, 1, 2], 'openvino': [0], 'reference': [0, 1, 2]}
#   three boxes apart, no threshold: {'onnxruntime': [0, 1, 2], 'openvino': [0]}
