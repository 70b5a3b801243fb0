#!/usr/bin/env bash
# Guess: of two Reshape nodes in a row the second alone is enough, and tools that join them get the same numbers.
# Really: a 0 in the second one's shape means "as before", and before it stood the first one's output. OpenCV's dnn module and
#   onnxoptimizer's default passes drop the first Reshape and leave the 0: it now copies sizes of the map before both.
#   A head of 2 anchors x 3 classes so gets its softmax over other numbers (its sums are no longer 1), and if the
#   number of values still fits, all shapes are as expected and nobody says a word. With the sizes as numbers both
#   are right, as are ONNX Runtime, OpenVINO and onnxslim with a 0.
# Here: exported heads are flattened once; each exported file is compared with torch.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxoptimizer==0.4.2 onnxslim==0.1.98 \
  opencv-python-headless==5.0.0.93
venv/bin/python - <<'END'
from importlib.metadata import version

import cv2
import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
import onnxslim
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

NAMES = ("onnx", "onnxruntime", "onnxslim", "onnxoptimizer", "opencv-python-headless")
print(*(f"{name} {version(name)}" for name in NAMES))
ANCHORS, CLASSES, SIDE = 2, 3, 6
SHAPE = (1, ANCHORS * CLASSES, SIDE, SIDE)
x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def head(second):
    """Anchors and classes apart, cells in one row, a softmax over the classes, and back."""
    shapes = {"first": [1, ANCHORS, CLASSES, SIDE, SIDE], "second": second, "third": SHAPE}
    nodes = [
        helper.make_node("Reshape", ["x", "first"], ["a"]),
        helper.make_node("Reshape", ["a", "second"], ["b"]),
        helper.make_node("Softmax", ["b"], ["c"], axis=2),
        helper.make_node("Reshape", ["c", "third"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"]
    numbers = [numpy_helper.from_array(np.array(shape), name) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], numbers)
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(net, full_check=True)
    return net


def run(net):
    return onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})[0]


def outputs(net):
    reader = cv2.dnn.readNetFromONNX(np.frombuffer(net.SerializeToString(), np.uint8))
    reader.setInput(x)
    return {
        "reference": ReferenceEvaluator(net).run(None, {"x": x})[0],
        "onnxruntime": run(net),
        "onnxslim": run(onnxslim.slim(net)),
        "onnxoptimizer": run(onnxoptimizer.optimize(net)),
        "opencv": reader.forward(),
    }


for second in ([1, ANCHORS, CLASSES, -1], [0, 0, 0, -1], [0, 0, CLASSES, -1]):
    made = outputs(head(second))
    print(f"second shape {second}")
    for name, y in made.items():
        assert y.shape == SHAPE
        sums = y.reshape(ANCHORS, CLASSES, SIDE, SIDE).sum(1)
        wrong = int((abs(y - made["reference"]) > 1e-4).sum())
        print(f"  {name}: wrong {wrong} of {y.size}, sums over the classes {sums.min():.4f} to {sums.max():.4f}")
        joined = name in ("onnxoptimizer", "opencv") and 0 in second
        assert wrong > 200 if joined else wrong == 0
END
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnxslim 0.1.98 onnxoptimizer 0.4.2 opencv-python-headless 5.0.0.93
#   second shape [1, 2, 3, -1]
#     reference: wrong 0 of 216, sums over the classes 1.0000 to 1.0000
#     onnxruntime: wrong 0 of 216, sums over the classes 1.0000 to 1.0000
#     onnxslim: wrong 0 of 216, sums over the classes 1.0000 to 1.0000
#     onnxoptimizer: wrong 0 of 216, sums over the classes 1.0000 to 1.0000
#     opencv: wrong 0 of 216, sums over the classes 1.0000 to 1.0000
#   second shape [0, 0, 0, -1]
#     reference: wrong 0 of 216, sums over the classes 1.0000 to 1.0000
#     onnxruntime: wrong 0 of 216, sums over the classes 1.0000 to 1.0000
#     onnxslim: wrong 0 of 216, sums over the classes 1.0000 to 1.0000
#     onnxoptimizer: wrong 216 of 216, sums over the classes 0.1668 to 1.0396
#     opencv: wrong 216 of 216, sums over the classes 0.1668 to 1.0396
#   second shape [0, 0, 3, -1]
#     reference: wrong 0 of 216, sums over the classes 1.0000 to 1.0000
#     onnxruntime: wrong 0 of 216, sums over the classes 1.0000 to 1.0000
#     onnxslim: wrong 0 of 216, sums over the classes 1.0000 to 1.0000
#     onnxoptimizer: wrong 216 of 216, sums over the classes 0.3299 to 1.7390
#     opencv: wrong 216 of 216, sums over the classes 0.3299 to 1.7390
