#!/usr/bin/env bash
# Guess: OpenCV's dnn module reads auto_pad of an ONNX file, as TensorFlow's networks have it, or refuses it.
# Really: SAME_UPPER is computed as SAME_LOWER: where the padding is odd, as with every stride of 2 on an even size, the
#   extra row and column lie above and at the left instead of below and at the right. All windows of convolutions
#   and of poolings sit one pixel off, the output has the right shape, and there is no message. With an odd
#   size, or stride 1 and an odd kernel, both are the same, so that a check on such a map passes.
# Here: paddings are numbers in our exports; each exported file is compared with torch.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 opencv-python-headless==5.0.0.93
venv/bin/python - <<'END'
from importlib.metadata import version

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "opencv-python-headless")))
# A convolution that takes the left neighbour: its output names the columns where the windows begin.
LEFT = numpy_helper.from_array(np.array([[[[0, 0, 0], [1, 0, 0], [0, 0, 0]]]], np.float32), "weights")


def middle(kind, columns, **attributes):
    """The middle row of both runtimes' outputs for an image whose values are its columns, from 1 on."""
    x = np.tile(np.arange(1, columns + 1, dtype=np.float32), (1, 1, columns, 1))
    names, weights = (["x", "weights"], [LEFT]) if kind == "Conv" else (["x"], [])
    node = helper.make_node(kind, names, ["y"], kernel_shape=[3, 3], **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, None, None])]
    graph = helper.make_graph([node], "net", ends, out, weights)
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(net, full_check=True)
    right = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})[0]
    reader = cv2.dnn.readNetFromONNX(np.frombuffer(net.SerializeToString(), np.uint8))
    reader.setInput(x)
    seen = reader.forward()
    assert seen.shape == right.shape
    row = right.shape[2] // 2
    return right[0, 0, row].round(2).tolist(), seen[0, 0, row].round(2).tolist()


two = {"strides": [2, 2]}
for columns, attributes, same in (
    (6, {"auto_pad": "SAME_UPPER", **two}, False),
    (6, {"auto_pad": "SAME_LOWER", **two}, True),
    (6, {"pads": [0, 0, 1, 1], **two}, True),  # SAME_UPPER of this size in numbers
    (7, {"auto_pad": "SAME_UPPER", **two}, True),
    (6, {"auto_pad": "SAME_UPPER"}, True),
):
    for kind in ("Conv", "MaxPool", "AveragePool"):
        right, seen = middle(kind, columns, **attributes)
        print(f"{kind}, {columns} columns, {attributes}: onnxruntime {right}, opencv {seen}")
        assert (right == seen) is same
        if not same:
            assert seen == middle(kind, columns, auto_pad="SAME_LOWER", **two)[0]
END
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 opencv-python-headless 5.0.0.93
#   Conv, 6 columns, {'auto_pad': 'SAME_UPPER', 'strides': [2, 2]}: onnxruntime [1.0, 3.0, 5.0], opencv [0.0, 2.0, 4.0]
#   MaxPool, 6 columns, {'auto_pad': 'SAME_UPPER', 'strides': [2, 2]}: onnxruntime [3.0, 5.0, 6.0], opencv [2.0, 4.0, 6.0]
#   AveragePool, 6 columns, {'auto_pad': 'SAME_UPPER', 'strides': [2, 2]}: onnxruntime [2.0, 4.0, 5.5], opencv [1.5, 3.0, 5.0]
#   Conv, 6 columns, {'auto_pad': 'SAME_LOWER', 'strides': [2, 2]}: onnxruntime [0.0, 2.0, 4.0], opencv [0.0, 2.0, 4.0]
#   MaxPool, 6 columns, {'auto_pad': 'SAME_LOWER', 'strides': [2, 2]}: onnxruntime [2.0, 4.0, 6.0], opencv [2.0, 4.0, 6.0]
#   AveragePool, 6 columns, {'auto_pad': 'SAME_LOWER', 'strides': [2, 2]}: onnxruntime [1.5, 3.0, 5.0], opencv [1.5, 3.0, 5.0]
#   Conv, 6 columns, {'pads': [0, 0, 1, 1], 'strides': [2, 2]}: onnxruntime [1.0, 3.0, 5.0], opencv [1.0, 3.0, 5.0]
#   MaxPool, 6 columns, {'pads': [0, 0, 1, 1], 'strides': [2, 2]}: onnxruntime [3.0, 5.0, 6.0], opencv [3.0, 5.0, 6.0]
#   AveragePool, 6 columns, {'pads': [0, 0, 1, 1], 'strides': [2, 2]}: onnxruntime [2.0, 4.0, 5.5], opencv [2.0, 4.0, 5.5]
#   Conv, 7 columns, {'auto_pad': 'SAME_UPPER', 'strides': [2, 2]}: onnxruntime [0.0, 2.0, 4.0, 6.0], opencv [0.0, 2.0, 4.0, 6.0]
#   MaxPool, 7 columns, {'auto_pad': 'SAME_UPPER', 'strides': [2, 2]}: onnxruntime [2.0, 4.0, 6.0, 7.0], opencv [2.0, 4.0, 6.0, 7.0]
#   AveragePool, 7 columns, {'auto_pad': 'SAME_UPPER', 'strides': [2, 2]}: onnxruntime [1.5, 3.0, 5.0, 6.5], opencv [1.5, 3.0, 5.0, 6.5]
#   Conv, 6 columns, {'auto_pad': 'SAME_UPPER'}: onnxruntime [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], opencv [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
#   MaxPool, 6 columns, {'auto_pad': 'SAME_UPPER'}: onnxruntime [2.0, 3.0, 4.0, 5.0, 6.0, 6.0], opencv [2.0, 3.0, 4.0, 5.0, 6.0, 6.0]
#   AveragePool, 6 columns, {'auto_pad': 'SAME_UPPER'}: onnxruntime [1.5, 2.0, 3.0, 4.0, 5.0, 5.5], opencv [1.5, 2.0, 3.0, 4.0, 5.0, 5.5]
