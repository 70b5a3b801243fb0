#!/usr/bin/env bash
# Guess: what a network gives depends on its inputs, not on those of the call before.
# Really: tinygrad's OnnxRunner keeps two things from one call for the next. Bounds, sizes and counts (inputs of Slice,
#   TopK, Resize, Pad, Tile, Range and others) are read at the first call and never again, also where the graph
#   computes them from the image: the crop around the best point stays where the first image had it. And ScatterND
#   writes into its input: where that is stored in the file, the next call still holds the old rows; where another
#   node reads it, that one sees the new rows, at the first call too. A comment in tinygrad's source calls changing
#   inputs of the first kind rare; at run time there is no word. A check with one image passes.
# Here: each exported file is compared with torch on several inputs, with one session.
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
from tinygrad.nn.onnx import OnnxRunner

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "tinygrad")))
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def row(*values):
    return np.array(values, np.float32)


def net(nodes, inputs, outputs, **stored):
    """A checked model; inputs and outputs are name: (type, shape)."""
    ends = [[helper.make_tensor_value_info(name, *kind) for name, kind in side.items()] for side in (inputs, outputs)]
    weights = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "net", *ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def compare(title, model, calls, right_calls):
    """Each call through one session, one runner for all calls, and a new runner."""
    onnx.save(model, "net.onnx")
    session, runner = onnxruntime.InferenceSession("net.onnx"), OnnxRunner("net.onnx")
    print(title)
    for number, feed in enumerate(calls):
        right = [y.tolist() for y in session.run(None, feed)]
        kept, fresh = (
            [y.numpy().tolist() for y in one(dict(feed)).values()] for one in (runner, OnnxRunner("net.onnx"))
        )
        print(f"  call {number + 1}: onnxruntime {right}, tinygrad {kept}, new runner {fresh}")
        assert (kept == right) is (number in right_calls)
        assert fresh == right or 0 not in right_calls


zero, two = np.array([0]), np.array([2])
compare(
    "Slice, bounds computed: the best point of a row and the one after it",
    net(
        [
            helper.make_node("ArgMax", ["x"], ["start"], axis=0),
            helper.make_node("Add", ["start", "two"], ["end"]),
            helper.make_node("Slice", ["x", "start", "end", "zero"], ["y"]),
        ],
        {"x": (FLOAT, [6])},
        {"y": (FLOAT, ["n"])},
        zero=zero,
        two=two,
    ),
    [{"x": row(0, 9, 1, 2, 3, 4)}, {"x": row(0, 1, 2, 9, 3, 4)}],
    {0},
)
compare(
    "TopK, as many of the scores as there are marks",
    net(
        [
            helper.make_node("NonZero", ["marks"], ["places"]),
            helper.make_node("Shape", ["places"], ["k"], start=1),
            helper.make_node("TopK", ["scores", "k"], ["best", "where"]),
        ],
        {"scores": (FLOAT, [4]), "marks": (FLOAT, [4])},
        {"best": (FLOAT, ["n"])},
    ),
    [{"scores": row(1, 4, 3, 2), "marks": marks} for marks in (row(1, 0, 0, 1), row(1, 1, 1, 0))],
    {0},
)
compare(
    "ScatterND into stored zeros",
    net(
        [helper.make_node("ScatterND", ["zeros", "place", "value"], ["y"])],
        {"place": (INT64, [1, 1]), "value": (FLOAT, [1])},
        {"y": (FLOAT, [4])},
        zeros=row(0, 0, 0, 0),
    ),
    [{"place": zero[None], "value": row(5)}, {"place": two[None], "value": row(7)}],
    {0},
)
compare(
    "ScatterND, and a second node that reads the same tensor",
    net(
        [
            helper.make_node("ScatterND", ["x", "place", "value"], ["y"]),
            helper.make_node("Neg", ["x"], ["minus"]),
        ],
        {"x": (FLOAT, [3])},
        {"y": (FLOAT, [3]), "minus": (FLOAT, [3])},
        place=zero[None],
        value=row(50),
    ),
    [{"x": row(1, 2, 3)}],
    set(),
)
END
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 tinygrad 0.14.0
#   Slice, bounds computed: the best point of a row and the one after it
#     call 1: onnxruntime [[9.0, 1.0]], tinygrad [[9.0, 1.0]], new runner [[9.0, 1.0]]
#     call 2: onnxruntime [[9.0, 3.0]], tinygrad [[1.0, 2.0]], new runner [[9.0, 3.0]]
#   TopK, as many of the scores as there are marks
#     call 1: onnxruntime [[4.0, 3.0]], tinygrad [[4.0, 3.0]], new runner [[4.0, 3.0]]
#     call 2: onnxruntime [[4.0, 3.0, 2.0]], tinygrad [[4.0, 3.0]], new runner [[4.0, 3.0, 2.0]]
#   ScatterND into stored zeros
#     call 1: onnxruntime [[5.0, 0.0, 0.0, 0.0]], tinygrad [[5.0, 0.0, 0.0, 0.0]], new runner [[5.0, 0.0, 0.0, 0.0]]
#     call 2: onnxruntime [[0.0, 0.0, 7.0, 0.0]], tinygrad [[5.0, 0.0, 7.0, 0.0]], new runner [[0.0, 0.0, 7.0, 0.0]]
#   ScatterND, and a second node that reads the same tensor
#     call 1: onnxruntime [[50.0, 2.0, 3.0], [-1.0, -2.0, -3.0]], tinygrad [[50.0, 2.0, 3.0], [-50.0, -2.0, -3.0]], new runner [[50.0, 2.0, 3.0], [-50.0, -2.0, -3.0]]
