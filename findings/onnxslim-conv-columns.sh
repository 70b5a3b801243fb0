#!/usr/bin/env bash
# Guess: what onnxslim folds into a convolution leaves the outputs as they are.
# Really: a Mul after a convolution is folded into its weights as soon as its constant has as many values as there are
#   channels, whatever its shape. A factor per column (the last axis) or per row becomes one per channel where the map
#   happens to be as wide or as high as it has channels: 80 classes on a map of 80 x 80, say. The shape is right,
#   and nobody says a word. At other sizes the same graph is right, and so are ONNX Runtime, onnxsim and
#   onnxoptimizer at all of them. Factors per channel are folded rightly.
# Here: each exported file is compared with torch, after every step.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxslim==0.1.98 onnxsim==0.8.1 \
  onnxoptimizer==0.4.2
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
import onnxsim
import onnxslim
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

NAMES = ("onnx", "onnxruntime", "onnxslim", "onnxsim", "onnxoptimizer")
print(*(f"{name} {version(name)}" for name in NAMES))
CHANNELS = 6
rng = np.random.default_rng(0)


def net(side, factor):
    """A convolution, then one factor per channel, column or row."""
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CHANNELS, side, side]),
    ]
    constants = {
        "w": rng.normal(size=(CHANNELS, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=CHANNELS).astype(np.float32),
        "factor": factor.astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c", "factor"], ["y"]),
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


for side in (CHANNELS, CHANNELS + 1):
    shapes = {"channel": (CHANNELS, 1, 1), "column": (side,), "row": (side, 1)}
    for kind, shape in shapes.items():
        model = net(side, np.arange(1, np.prod(shape) + 1).reshape(shape))
        x = rng.normal(size=(1, 3, side, side)).astype(np.float32)
        right = ReferenceEvaluator(model).run(None, {"x": x})[0]
        slim = onnxslim.slim(model)
        made = {
            "onnxruntime": run(model, x),
            "onnxslim": run(slim, x),
            "onnxsim": run(onnxsim.simplify(model)[0], x),
            "onnxoptimizer": run(onnxoptimizer.optimize(model), x),
        }
        wrong = {name: int((abs(y - right) > 1e-3).sum()) for name, y in made.items()}
        left = [node.op_type for node in slim.graph.node]
        print(f"{CHANNELS} channels, map {side} x {side}, a factor per {kind} {shape}: onnxslim leaves {left}")
        print(f"  wrong of {right.size}: {', '.join(f'{name} {count}' for name, count in wrong.items())}")
        folded = kind == "channel" or side == CHANNELS
        assert left == (["Conv"] if folded else ["Conv", "Mul"])
        assert (wrong["onnxslim"] > right.size / 2) == (folded and kind != "channel")
        assert not any(count for name, count in wrong.items() if name != "onnxslim")
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnxslim 0.1.98 onnxsim 0.8.1 onnxoptimizer 0.4.2
#   6 channels, map 6 x 6, a factor per channel (6, 1, 1): onnxslim leaves ['Conv']
#     wrong of 216: onnxruntime 0, onnxslim 0, onnxsim 0, onnxoptimizer 0
#   6 channels, map 6 x 6, a factor per column (6,): onnxslim leaves ['Conv']
#     wrong of 216: onnxruntime 0, onnxslim 180, onnxsim 0, onnxoptimizer 0
#   6 channels, map 6 x 6, a factor per row (6, 1): onnxslim leaves ['Conv']
#     wrong of 216: onnxruntime 0, onnxslim 180, onnxsim 0, onnxoptimizer 0
#   6 channels, map 7 x 7, a factor per channel (6, 1, 1): onnxslim leaves ['Conv']
#     wrong of 294: onnxruntime 0, onnxslim 0, onnxsim 0, onnxoptimizer 0
#   6 channels, map 7 x 7, a factor per column (7,): onnxslim leaves ['Conv', 'Mul']
#     wrong of 294: onnxruntime 0, onnxslim 0, onnxsim 0, onnxoptimizer 0
#   6 channels, map 7 x 7, a factor per row (7, 1): onnxslim leaves ['Conv', 'Mul']
#     wrong of 294: onnxruntime 0, onnxslim 0, onnxsim 0, onnxoptimizer 0
