#!/usr/bin/env bash
# Guess: onnx's reference evaluator computes an operator as the opset of the file describes it.
# Really: it has one RoiAlign for all opsets, that of 16. From there on boxes are moved by half a pixel by default;
#   before, from 10 to 15, they are not, and a box counts as at least one cell wide and high. So for a file of these
#   opsets the evaluator reads the features of each box half a cell to the left and above, and those of a box narrower
#   than a cell closer together. Shapes are right, nothing is said. The same file taken to opset 16 by onnx's version
#   converter is right, as that writes `output_half_pixel` into it; a file of opset 16 with or without that attribute
#   is right, too. LpNormalization with p = 1 divides by the sum of the numbers in place of that of their amounts: 3
#   and -4 become -3 and 4; with p = 2 it is right.
# Here: judged by arithmetic and ONNX Runtime.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, version_converter
from onnx.reference import ReferenceEvaluator

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime")))
FLOAT = TensorProto.FLOAT
MAP = np.broadcast_to(np.arange(16, dtype=np.float32), (1, 1, 16, 16)).copy()  # each value is its column
FEEDS = {"x": MAP, "boxes": None, "images": np.array([0])}


def net(opset, node, x, y):
    x = [helper.make_tensor_value_info(k, TensorProto.INT64 if k == "images" else FLOAT, v) for k, v in x.items()]
    graph = helper.make_graph([node], "net", x, [helper.make_tensor_value_info("y", FLOAT, y)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def roi_align(opset, mode=None):
    more = {"coordinate_transformation_mode": mode} if mode else {}
    node = helper.make_node("RoiAlign", [*FEEDS], ["y"], output_height=1, output_width=2, sampling_ratio=2, **more)
    return net(opset, node, {"x": MAP.shape, "boxes": [1, 4], "images": [1]}, [1, 1, 1, 2])


def both(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return [r.run(None, feeds)[0].ravel() for r in (session, ReferenceEvaluator(model))]


# by arithmetic: two bins over the width, the mean of the columns read there is the middle of the bin
for left, right in ((4, 8), (4, 4.5)):
    feeds = {**FEEDS, "boxes": np.array([[left, 4, right, 8]], np.float32)}
    print(f"a box from {left} to {right}")
    for text, model in (
        *((f"opset {opset}", roi_align(opset)) for opset in (10, 15, 16)),
        ("opset 10 taken to 16", version_converter.convert_version(roi_align(10), 16)),
        ("opset 16, output_half_pixel", roi_align(16, "output_half_pixel")),
    ):
        old = text != "opset 16"
        width, start = (max(right - left, 1), left) if old else (right - left, left - 0.5)
        expected = start + width * np.array([0.25, 0.75])
        runtime, reference = both(model, feeds)
        assert np.allclose(runtime, expected)
        assert np.allclose(reference, expected) == (text not in ("opset 10", "opset 15"))
        print(f"  {text}: right {expected.tolist()}, reference {reference.tolist()}")
        if text in ("opset 10", "opset 15"):
            assert np.allclose(reference, left - 0.5 + (right - left) * np.array([0.25, 0.75]))

x = np.array([[3, -4]], np.float32)
for p, length in ((1, 7), (2, 5)):
    model = net(17, helper.make_node("LpNormalization", ["x"], ["y"], axis=1, p=p), {"x": x.shape}, x.shape)
    runtime, reference = both(model, {"x": x})
    words = ("{:.2f} {:.2f}".format(*values) for values in (x[0] / length, reference))
    print("LpNormalization, p = {}: right {}, reference {}".format(p, *words))
    assert np.allclose(runtime, x / length) and np.allclose(reference, x / (3 - 4 if p == 1 else length))
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1
#   a box from 4 to 8
#     opset 10: right [5.0, 7.0], reference [4.5, 6.5]
#     opset 15: right [5.0, 7.0], reference [4.5, 6.5]
#     opset 16: right [4.5, 6.5], reference [4.5, 6.5]
#     opset 10 taken to 16: right [5.0, 7.0], reference [5.0, 7.0]
#     opset 16, output_half_pixel: right [5.0, 7.0], reference [5.0, 7.0]
#   a box from 4 to 4.5
#     opset 10: right [4.25, 4.75], reference [3.625, 3.875]
#     opset 15: right [4.25, 4.75], reference [3.625, 3.875]
#     opset 16: right [3.625, 3.875], reference [3.625, 3.875]
#     opset 10 taken to 16: right [4.25, 4.75], reference [4.25, 4.75]
#     opset 16, output_half_pixel: right [4.25, 4.75], reference [4.25, 4.75]
#   LpNormalization, p = 1: right 0.43 -0.57, reference -3.00 4.00
#   LpNormalization, p = 2: right 0.60 -0.80, reference 0.60 -0.80
