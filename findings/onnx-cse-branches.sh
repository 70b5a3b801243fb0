#!/usr/bin/env bash
# Guess: onnx-cse ("focuses on being safe") joins two steps only if they give the same.
# Really: it compares most of what stands in a step, not all. Numbers stored in the branches of an If count by their
#   name alone: of two Ifs on the same switch, each with a factor k of its own, one is left, the second head gets the
#   first one's factor, 2 in place of 10, the score of a box its size's. Draws of random numbers count as the same: two
#   RandomNormalLike, or two Dropouts in training mode, give one noise twice. Up to opset 17 a Split in halves and one
#   in quarters, both without sizes, count as the same, too, where both have a part of that number: the half that is
#   asked for becomes a quarter, or a quarter the half, by which of them stands first. The file is valid each time, and
#   nothing is said. Factors in Constant nodes or under names that differ, draws with a `seed` each, and Splits from
#   opset 18 on, where the number of parts is an attribute, are right.
# Here: judged by ONNX Runtime and onnx's reference evaluator, on the file before and after.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 typing-extensions==4.16.0 xxhash==3.6.0 \
  onnx-cse==0.3.1
cat > check.py <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_cse import eliminate_common_subexpressions

print(*(f"{name} {version(name)}" for name in ("onnx-cse", "xxhash", "onnxruntime", "onnx")))
node, info = helper.make_node, helper.make_tensor_value_info
X = np.arange(1, 9, dtype=np.float32).reshape(1, 8)
FEED = {"x": X, "dark": np.array(True)}


def both(nodes, outputs, shape, opset=17, judge=True):
    """The outputs of these steps before and after onnx-cse, and the kinds of the steps that are left."""
    graph = helper.make_graph(
        nodes, "net", [info("x", TensorProto.FLOAT, X.shape), info("dark", TensorProto.BOOL, [])],
        [info(name, TensorProto.FLOAT, shape) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    results = []
    for turn in range(2):
        if turn:
            eliminate_common_subexpressions(model)
        onnx.checker.check_model(model, full_check=True)
        options = onnxruntime.SessionOptions()  # without ONNX Runtime's own optimizations
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        results.append(onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, FEED))
        if judge:
            assert all(np.allclose(a, b) for a, b in zip(results[-1], ReferenceEvaluator(model).run(None, FEED)))
    return *results, [n.op_type for n in model.graph.node]


def head(out, day, night, name="k", stored=True):
    """x times `night` if it is dark, else times `day`."""
    branches = {}
    for branch, value in (("then_branch", night), ("else_branch", day)):
        factor = numpy_helper.from_array(np.float32(value), name)
        steps = [] if stored else [node("Constant", [], [name], value=factor)]
        steps.append(node("Mul", ["x", name], [f"{out} {branch}"]))
        ends = [info(f"{out} {branch}", TensorProto.FLOAT, X.shape)]
        branches[branch] = helper.make_graph(steps, branch, [], ends, [factor] if stored else [])
    return node("If", ["dark"], [out], **branches)


for text, steps, right in (
    ("both stored as k", [head("y", 1, 2), head("z", 5, 10)], False),
    ("stored as k and k2", [head("y", 1, 2), head("z", 5, 10, "k2")], True),
    ("in Constant nodes", [head("y", 1, 2, stored=False), head("z", 5, 10, stored=False)], True),
):
    before, after, left = both(steps, ["y", "z"], X.shape)
    print(f"two Ifs, factors 2 and 10 {text}: {left}, they give {[float(o[0, 0]) for o in after]}")
    assert np.array_equal(before, [X * 2, X * 10]) and np.array_equal(after, [X * 2, X * (10 if right else 2)])

train = [node("Constant", [], ["half"], value_float=0.5), node("Cast", ["half"], ["on"], to=TensorProto.BOOL)]
for text, steps, right in (
    ("RandomNormalLike", [node("RandomNormalLike", ["x"], [out]) for out in "yz"], False),
    ("RandomNormalLike with two seeds",
     [node("RandomNormalLike", ["x"], [out], seed=seed) for out, seed in (("y", 1.0), ("z", 2.0))], True),
    ("Dropout in training mode", [*train, *(node("Dropout", ["x", "half", "on"], [out]) for out in "yz")], False),
):
    pairs = [both(steps, ["y", "z"], X.shape, judge=False)[:2] for _ in range(20)]
    before, after = (sum(np.array_equal(*outs) for outs in turn) for turn in zip(*pairs))
    print(f"two draws by {text}: equal in {before} of 20 runs, after onnx-cse in {after}")
    assert before < 5 and after == (before if right else 20)

for opset in (13, 18):
    halves, quarters = (
        node("Split", ["x"], parts, axis=1, **({"num_outputs": len(parts)} if opset == 18 else {}))
        for parts in (["m", "n"], ["a", "b", "c", "d"])
    )
    sums = [node("ReduceSum", [part], [out]) for part, out in (("m", "y"), ("b", "z"))]
    for text, steps in (("halves first", [halves, quarters]), ("quarters first", [quarters, halves])):
        before, after, left = both([*steps, *sums], ["y", "z"], [1, 1], opset)
        before, after = ([float(out.item()) for out in outs] for outs in (before, after))
        print(f"Splits of opset {opset}, {text}: sums of the first half and the second quarter are {after}")
        assert before == [1 + 2 + 3 + 4, 3 + 4]
        assert after == (before if opset == 18 else [10, 26] if text == "halves first" else [3, 7])
EOF
OMP_NUM_THREADS=1 venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   onnx-cse 0.3.1 xxhash 3.6.0 onnxruntime 1.32.0 onnx 1.23.2
#   two Ifs, factors 2 and 10 both stored as k: ['If', 'Identity'], they give [2.0, 2.0]
#   two Ifs, factors 2 and 10 stored as k and k2: ['If', 'If'], they give [2.0, 10.0]
#   two Ifs, factors 2 and 10 in Constant nodes: ['If', 'If'], they give [2.0, 10.0]
#   two draws by RandomNormalLike: equal in 0 of 20 runs, after onnx-cse in 20
#   two draws by RandomNormalLike with two seeds: equal in 0 of 20 runs, after onnx-cse in 0
#   two draws by Dropout in training mode: equal in 0 of 20 runs, after onnx-cse in 20
#   Splits of opset 13, halves first: sums of the first half and the second quarter are [10.0, 26.0]
#   Splits of opset 13, quarters first: sums of the first half and the second quarter are [3.0, 7.0]
#   Splits of opset 18, halves first: sums of the first half and the second quarter are [10.0, 7.0]
#   Splits of opset 18, quarters first: sums of the first half and the second quarter are [10.0, 7.0]
