#!/usr/bin/env bash
# Guess: the rules by which onnx-passes writes a graph as another (`onnx-passes -o out.onnx in.onnx algebraic`) leave
#   the outputs alone, as their names say: eliminate an identity, absorb, move past.
# Really: several do so for a part of the inputs only, and do not check which part it is. A comparison with a limit of
#   the Clip before it loses the Clip: "cut at the image's border" is true only for what lies on the border exactly.
#   x * x <= 9 is always true, while x * x >= 9 is right. A reduction over
#   one channel is taken for nothing at all: ReduceL2 (by its source ReduceL1, too) of a single channel keeps
#   its sign, ReduceSumSquare is no square, ReduceLogSum no logarithm. A constant matrix times v * x gets v along the
#   wrong side (with as many columns as rows nothing shows it); v * x times a matrix is right. `factorize` loses the
#   axis of a Gather. Shapes stay right, nothing is said. What it has for verification is off by default.
# Here: judged by ONNX Runtime on the file before.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnx-passes==0.4.1 onnx-ir==1.1.0 \
  onnxscript==0.7.2
venv/bin/python - <<'EOF'
import contextlib
import io
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node as node
from onnx_passes.__main__ import main

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "onnx-passes", "onnx-ir", "onnxscript")))
random = np.random.default_rng(0)


def run(path, x):
    return onnxruntime.InferenceSession(path).run(None, {"x": x})[0]


def compare(text, nodes, x, stored, rules="algebraic", right=False):
    x, stored = np.array(x, np.float32), {k: np.array(v) for k, v in stored.items()}
    stored = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in stored.items()}
    x_info = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    y_info = helper.make_tensor_value_info("y", 9 if nodes[-1].op_type in COMPARISONS else TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(v, k) for k, v in stored.items()]
    graph = helper.make_graph(nodes, "g", [x_info], [y_info], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "in.onnx")
    with contextlib.redirect_stdout(io.StringIO()) as log:
        main(["-o", "out.onnx", "in.onnx", rules], standalone_mode=False)
    assert all(line.startswith("Applied ") for line in log.getvalue().splitlines())
    before, after = run("in.onnx", x), run("out.onnx", x)
    assert before.shape == after.shape and np.allclose(before, after, atol=1e-4) == right
    if before.size > 4:
        words = f"{(~np.isclose(before, after, atol=1e-4)).sum()} of {before.size} values differ"
    else:
        pair = ([v if isinstance(v, bool) else round(v, 2) for v in y.ravel().tolist()] for y in (before, after))
        words = "right {}, found {}".format(*pair)
    print(f"{text}: {words}")


COMPARISONS = ("Equal", "GreaterOrEqual", "LessOrEqual")
CLIP = node("Clip", ["x", "low", "high"], ["c"])
SIDES, LIMITS = [[700, 640, 300]], {"low": 0.0, "high": 640.0}
compare("Clip(x, 0, 640) == 640", [CLIP, node("Equal", ["c", "high"], ["y"])], SIDES, LIMITS)
compare("Clip(x, 0, 640) >= 320", [CLIP, node("GreaterOrEqual", ["c", "k"], ["y"])], SIDES, {**LIMITS, "k": 320.0},
        right=True)
for name, op in (("<=", "LessOrEqual"), (">=", "GreaterOrEqual")):
    compare(f"x * x {name} 9", [node("Mul", ["x", "x"], ["s"]), node(op, ["s", "k"], ["y"])], [[-5, 1, 5]], {"k": 9.0},
            right=name == ">=")
for op, x in (("ReduceL2", [[[-3, 4]]]), ("ReduceSumSquare", [[[-3, 4]]]), ("ReduceLogSum", [[[3, 4]]]),
              ("ReduceLogSumExp", [[[-3, 4]]]), ("ReduceL2", [[[-3, 4], [4, 3]]])):
    compare(f"{op}, channels: {len(x[0])}", [node(op, ["x", "k"], ["y"], keepdims=1)], x, {"k": [1]},
            right=op == "ReduceLogSumExp" or len(x[0]) == 2)
matrix, four, cube = random.normal(size=(4, 4)), [1.0, 2, 3, 4], random.normal(size=(2, 4, 4))
for text, inputs in (("matrix @ (v * x)", ["m", "s"]), ("(v * x) @ matrix", ["s", "m"])):
    compare(text, [node("Mul", ["v", "x"], ["s"]), node("MatMul", inputs, ["y"])], cube, {"m": matrix, "v": four},
            right=inputs == ["s", "m"])
for axis in (1, 0):
    compare(f"factorize, Gather, axis {axis}", [node("Cast", ["x"], ["i"], to=TensorProto.INT64), node("Gather",
            ["table", "i"], ["y"], axis=axis)], [1, 0], {"table": [[0.5, 1], [1.5, 2]]}, "factorize", axis == 0)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnx-passes 0.4.1 onnx-ir 1.1.0 onnxscript 0.7.2
#   Clip(x, 0, 640) == 640: right [True, True, False], found [False, True, False]
#   Clip(x, 0, 640) >= 320: right [True, True, False], found [True, True, False]
#   x * x <= 9: right [False, True, False], found [True, True, True]
#   x * x >= 9: right [True, False, True], found [True, False, True]
#   ReduceL2, channels: 1: right [3.0, 4.0], found [-3.0, 4.0]
#   ReduceSumSquare, channels: 1: right [9.0, 16.0], found [-3.0, 4.0]
#   ReduceLogSum, channels: 1: right [1.1, 1.39], found [3.0, 4.0]
#   ReduceLogSumExp, channels: 1: right [-3.0, 4.0], found [-3.0, 4.0]
#   ReduceL2, channels: 2: right [5.0, 5.0], found [5.0, 5.0]
#   matrix @ (v * x): 32 of 32 values differ
#   (v * x) @ matrix: 0 of 32 values differ
#   factorize, Gather, axis 1: right [1.0, 0.5, 2.0, 1.5], found [1.5, 2.0, 0.5, 1.0]
#   factorize, Gather, axis 0: right [1.5, 2.0, 0.5, 1.0], found [1.5, 2.0, 0.5, 1.0]
