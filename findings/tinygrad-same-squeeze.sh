#!/usr/bin/env bash
# Guess: tinygrad reads a convolution's auto_pad and negative axes as they are meant, or refuses them.
# Really: a 1 x 1 convolution with stride 2 and SAME_UPPER, the shortcut of a ResNet that comes from TensorFlow, takes
#   the odd columns and rows instead of the even ones where the size is even: its padding is -1, and tinygrad cuts
#   that off at the left and top. The shape is right, and an odd size is right as a whole. With dilations, SAME
#   padding is that of the undilated kernel, and the map shrinks. Squeeze and Unsqueeze with the axes [-2, -1] do one
#   axis at a time in a wrong order: (N, C, 1, 1) becomes (N, C, 1), and (N, C) becomes (N, 1, C, 1): a gate per
#   channel turns into one per row where the map is as high as it has channels. Before opset 13 Softmax runs over one
#   axis. With numbers for paddings, axes counted from the front, and opset 13 all are right.
# Here: paddings and axes are such numbers in our exports; each exported file is compared with torch.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 tinygrad==0.14.0
export DEV=PYTHON # tinygrad's device without a compiler
venv/bin/python - <<'END'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tinygrad.nn.onnx import OnnxRunner

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "tinygrad")))


def outputs(x, nodes, opset=13, **stored):
    """The output y of onnx's reference evaluator and tinygrad; ONNX Runtime's has to be the first's."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    made = OnnxRunner("net.onnx")({"x": x})["y"].numpy()
    dilated = any(attribute.name == "dilations" for node in nodes for attribute in node.attribute)
    if dilated:  # which ONNX Runtime refuses together with SAME_UPPER
        return ReferenceEvaluator(model).run(None, {"x": x})[0], made
    right = onnxruntime.InferenceSession("net.onnx").run(None, {"x": x})[0]
    if opset >= 13:  # see onnx-softmax-eleven
        assert np.allclose(right, ReferenceEvaluator(model).run(None, {"x": x})[0], atol=1e-6)
    return right, made


def same(right, made):
    return right.shape == made.shape and np.allclose(right, made, atol=1e-5)


def node(kind, *inputs, y="y", **attributes):
    return helper.make_node(kind, inputs, [y], **attributes)


one, nine = np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 3, 3), np.float32)
for columns, padding, expected in (
    (8, {"pads": [0, 0, 0, 0]}, True),
    (7, {"auto_pad": "SAME_UPPER"}, True),
    (8, {"auto_pad": "SAME_UPPER"}, False),
):
    x = np.tile(np.arange(columns, dtype=np.float32), (1, 1, columns, 1))  # its values are its columns
    right, made = outputs(x, [node("Conv", "x", "w", strides=[2, 2], **padding)], w=one)
    print(f"1 x 1 by 2, {columns} columns, {padding}: right {right[0, 0, 0].tolist()}, tinygrad {made[0, 0, 0].tolist()}")
    assert same(right, made) is expected
for dilation, expected in ((1, True), (2, False)):
    attributes = {"dilations": [dilation] * 2, "auto_pad": "SAME_UPPER"}
    right, made = outputs(x, [node("Conv", "x", "w", **attributes)], w=nine)
    print(f"3 x 3, dilation {dilation}, SAME_UPPER: right {right.shape}, tinygrad {made.shape}")
    assert same(right, made) is expected

rng = np.random.default_rng(0)
features = rng.normal(size=(1, 4, 4, 4)).astype(np.float32)
for axes, expected in (([2, 3], True), ([-2, -1], False)):
    mean = node("GlobalAveragePool", "x", y="mean")
    right, made = outputs(features, [mean, node("Squeeze", "mean", "axes")], axes=axes)
    print(f"mean per channel, Squeeze {axes}: right {right.shape}, tinygrad {made.shape}")
    assert same(right, made) is expected
    gate = [
        node("ReduceMean", "x", y="mean", axes=[2, 3], keepdims=0),
        node("Unsqueeze", "mean", "axes", y="gate"),
        node("Mul", "x", "gate"),
    ]
    right, made = outputs(features, gate, axes=axes)
    wrong = int((abs(right - made) > 1e-5).sum())
    print(f"map times mean per channel, Unsqueeze {axes}: shape {made.shape}, {wrong} of {right.size} wrong")
    assert right.shape == made.shape and (wrong == 0) is expected
    if not expected:
        assert np.allclose(made, features * features.mean((2, 3)).reshape(1, 1, 4, 1), atol=1e-5)

for opset, expected in ((13, True), (11, False)):
    right, made = outputs(features, [node("Softmax", "x", axis=1)], opset)
    print(f"Softmax, axis 1, opset {opset}: sum of all right {right.sum():.3f}, tinygrad {made.sum():.3f}")
    assert same(right, made) is expected
END
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 tinygrad 0.14.0
#   1 x 1 by 2, 8 columns, {'pads': [0, 0, 0, 0]}: right [0.0, 2.0, 4.0, 6.0], tinygrad [0.0, 2.0, 4.0, 6.0]
#   1 x 1 by 2, 7 columns, {'auto_pad': 'SAME_UPPER'}: right [0.0, 2.0, 4.0, 6.0], tinygrad [0.0, 2.0, 4.0, 6.0]
#   1 x 1 by 2, 8 columns, {'auto_pad': 'SAME_UPPER'}: right [0.0, 2.0, 4.0, 6.0], tinygrad [1.0, 3.0, 5.0, 7.0]
#   3 x 3, dilation 1, SAME_UPPER: right (1, 1, 8, 8), tinygrad (1, 1, 8, 8)
#   3 x 3, dilation 2, SAME_UPPER: right (1, 1, 8, 8), tinygrad (1, 1, 6, 6)
#   mean per channel, Squeeze [2, 3]: right (1, 4), tinygrad (1, 4)
#   map times mean per channel, Unsqueeze [2, 3]: shape (1, 4, 4, 4), 0 of 64 wrong
#   mean per channel, Squeeze [-2, -1]: right (1, 4), tinygrad (1, 4, 1)
#   map times mean per channel, Unsqueeze [-2, -1]: shape (1, 4, 4, 4), 48 of 64 wrong
#   Softmax, axis 1, opset 13: sum of all right 16.000, tinygrad 16.000
#   Softmax, axis 1, opset 11: sum of all right 1.000, tinygrad 16.000
