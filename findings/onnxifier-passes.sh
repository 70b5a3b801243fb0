#!/usr/bin/env bash
# Guess: a pass of onnxifier that writes an operator as another one leaves the numbers alone, or leaves the file alone.
# Really: four of those that are chosen by name (`-a`) do not look at all that matters, and the shape stays right:
#   - merge_parallel_conv never compares the two convolutions: the second gets the dilations of the first,
#   - merge_mul_to_conv turns (x * k + t) into (x + t / k) also where another operator reads the sum: the skip
#     connection beside the convolution carries 1 / k of its value,
#   - resize_to_convtransposed adds nothing at the border of a bilinear Resize where the edge should be repeated: a map
#     of ones is 0.75 along its border and 0.56 in its corners (twice the size),
#   - avgpool_to_conv minds `pads` but not auto_pad: with SAME_UPPER the border is divided by 9 where 4 or 6 count.
#   Equal convolutions, a product without a skip, nearest Resize with its defaults, paddings as numbers are right.
# Here: judged by ONNX Runtime on the file before.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxifier==2.0.3
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxifier
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "onnxifier")))
onnxruntime.set_default_logger_severity(3)  # it warns of numbers that are no longer used
random = np.random.default_rng(0)
X = np.ones((1, 4, 6, 6), np.float32)
X[:, 1:] = random.normal(size=(1, 3, 6, 6))
STORED = {
    "w": random.normal(size=(4, 4, 3, 3)).astype(np.float32),
    "v": random.normal(size=(4, 4, 3, 3)).astype(np.float32),
    "k": np.full((1, 4, 1, 1), 2, np.float32),
    "t": np.ones((1, 4, 1, 1), np.float32),
    "twice": np.array([1, 1, 2, 2], np.float32),
}


def net(nodes):
    nodes = [helper.make_node(op, i, o, f"{k} {op}", **a) for k, (op, i, o, a) in enumerate(nodes)]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in STORED.items() if any(k in n.input for n in nodes)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})[0]


def conv(x, w, y, rate=1):
    return "Conv", [x, w], [y], {"dilations": [rate, rate], "pads": [rate] * 4}


def branches(rate):
    return [conv("x", "w", "a"), conv("x", "v", "b", rate), ("Concat", ["a", "b"], ["y"], {"axis": 1})]


SUM = [("Mul", ["x", "k"], ["a"], {}), ("Add", ["a", "t"], ["b"], {})]


def resize(mode):
    return [("Resize", ["x", "", "twice"], ["y"], {"mode": mode})]


def pool(**how):
    return [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], **how})]


for text, nodes, name, right in (
    ("two convolutions", branches(1), "merge_parallel_conv", True),
    ("the second with dilations 2", branches(2), "merge_parallel_conv", False),
    ("product, sum, convolution", [*SUM, conv("b", "w", "y")], "merge_mul_to_conv", True),
    ("the sum read twice", [*SUM, conv("b", "w", "c"), ("Add", ["b", "c"], ["y"], {})], "merge_mul_to_conv", False),
    ("nearest", resize("nearest"), "resize_to_convtransposed", True),
    ("bilinear", resize("linear"), "resize_to_convtransposed", False),
    ("pads and count_include_pad", pool(pads=[1] * 4, count_include_pad=1), "avgpool_to_conv", True),
    ("pads", pool(pads=[1] * 4), "avgpool_to_conv", True),
    ("SAME_UPPER", pool(auto_pad="SAME_UPPER"), "avgpool_to_conv", False),
):
    model = net(nodes)
    after = onnxifier.convert(model, passes=["initializer_to_constant", name], print_passes=False)
    before, found = run(model), run(after)
    away = abs(before - found).max(axis=0).reshape(-1)
    ops = [node.op_type for node in after.graph.node if node.op_type != "Constant"]
    print(f"{name}, {text}: {' '.join(ops)}", end="")
    print("" if right else f", {(away > 1e-4).mean():.0%} of the values differ, up to {away.max():.2f}")
    assert before.shape == found.shape and right == (away.max() < 1e-4)
    if text in ("bilinear", "SAME_UPPER"):
        print(f"  ones, first row: {found[0, 0, 0, :6].astype(float).round(2).tolist()}")
        assert (before[0, 0] == 1).all() if text == "bilinear" else np.allclose(before[0, 0], 1)
        assert np.allclose(found[0, 0, 2:-2, 2:-2], 1)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnxifier 2.0.3
#   merge_parallel_conv, two convolutions: Concat Conv Concat
#   merge_parallel_conv, the second with dilations 2: Concat Conv Concat, 50% of the values differ, up to 15.81
#   merge_mul_to_conv, product, sum, convolution: Mul Div Add Conv
#   merge_mul_to_conv, the sum read twice: Mul Div Add Conv Add, 100% of the values differ, up to 2.50
#   resize_to_convtransposed, nearest: ConvTranspose
#   resize_to_convtransposed, bilinear: ConvTranspose, 31% of the values differ, up to 0.69
#     ones, first row: [0.56, 0.75, 0.75, 0.75, 0.75, 0.75]
#   avgpool_to_conv, pads and count_include_pad: Conv
#   avgpool_to_conv, pads: AveragePool
#   avgpool_to_conv, SAME_UPPER: Conv, 56% of the values differ, up to 0.56
#     ones, first row: [0.44, 0.67, 0.67, 0.67, 0.67, 0.44]
