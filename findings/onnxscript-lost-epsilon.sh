#!/usr/bin/env bash
# Guess: an optimizer removes `x + 0` and `x * 1`, and leaves the small number alone that keeps a division by 0 away.
# Really: onnxscript.optimizer.optimize compares a constant with 0 to within 1e-8, and with 1 to within a
#   hundred-thousandth. `x + 1e-9`, so that an empty sum may be divided by, is "plus 0" and goes: a cell without any
#   score gives nan in place of 0, a logarithm -inf in place of -20.7, and nobody says a word. It hits scalars of 1e-8
#   and less, also when subtracted. 1e-7 stays, so does the same number as a list of one, and as a bound of Max;
#   onnxsim, onnxslim, onnxoptimizer and ONNX Runtime's own optimizations leave all of them.
# Here: files are exported without this optimizer, and each one is compared with torch.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxscript==0.7.2 onnx-ir==1.1.0 \
  onnxsim==0.8.1 onnxslim==0.1.98 onnxoptimizer==0.4.2
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
import onnxsim
import onnxslim
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer

NAMES = ("onnx", "onnxruntime", "onnxscript", "onnx-ir", "onnxsim", "onnxslim", "onnxoptimizer")
print(*(f"{name} {version(name)}" for name in NAMES))
CELLS = np.array([[0, 0, 0], [0.1, 0.2, 0.1]], np.float32)  # scores of three classes in two cells


def net(kind, small):
    """Scores divided by their sum, or their logarithm, with something small against 0."""
    sums = [helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1)]
    nodes = {
        "Add": sums + [helper.make_node("Add", ["sum", "small"], ["s"]), helper.make_node("Div", ["x", "s"], ["y"])],
        "Sub": sums + [helper.make_node("Sub", ["sum", "small"], ["s"]), helper.make_node("Div", ["x", "s"], ["y"])],
        "Max": sums + [helper.make_node("Max", ["sum", "small"], ["s"]), helper.make_node("Div", ["x", "s"], ["y"])],
        "Log": [helper.make_node("Add", ["x", "small"], ["s"]), helper.make_node("Log", ["s"], ["y"])],
        "Mul": [helper.make_node("Mul", ["x", "small"], ["y"])],
    }[kind]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    stored = {"small": small, "axes": np.array([1])}
    used = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items() if name in used]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": CELLS})[0]


def copy(model):
    return onnx.ModelProto.FromString(model.SerializeToString())


for kind, value, shape, lost in (
    ("Add", 1e-7, (), False), ("Add", 1e-8, (), True), ("Add", 1e-9, (), True), ("Add", 1e-9, (1,), False),
    ("Sub", 1e-9, (), True), ("Max", 1e-9, (), False), ("Log", 1e-7, (), False), ("Log", 1e-9, (), True),
    ("Mul", 1.000009, (), True),
):
    model = net(kind, np.full(shape, value, np.float32))
    right, made = run(model), optimizer.optimize(copy(model))
    got, nodes = run(made), [node.op_type for node in made.graph.node]
    for other in (
        run(model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL), run(onnxsim.simplify(copy(model))[0]),
        run(onnxslim.slim(copy(model))), run(onnxoptimizer.optimize(copy(model))),
    ):
        assert np.allclose(other, right, rtol=1e-6)
    print(f"{kind} of {value} {shape}: {nodes}, empty cell {got[0, 0]:.4f} (right {right[0, 0]:.4f})")
    assert (("Add" if kind == "Log" else kind) not in nodes) == lost
    assert np.allclose(got[1], right[1], rtol=1e-4)
    assert np.allclose(got[0], right[0]) == (not lost or kind == "Mul")
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnxscript 0.7.2 onnx-ir 1.1.0 onnxsim 0.8.1 onnxslim 0.1.98 onnxoptimizer 0.4.2
#   Add of 1e-07 (): ['ReduceSum', 'Add', 'Div'], empty cell 0.0000 (right 0.0000)
#   Add of 1e-08 (): ['ReduceSum', 'Div'], empty cell nan (right 0.0000)
#   Add of 1e-09 (): ['ReduceSum', 'Div'], empty cell nan (right 0.0000)
#   Add of 1e-09 (1,): ['ReduceSum', 'Add', 'Div'], empty cell 0.0000 (right 0.0000)
#   Sub of 1e-09 (): ['ReduceSum', 'Div'], empty cell nan (right -0.0000)
#   Max of 1e-09 (): ['ReduceSum', 'Max', 'Div'], empty cell 0.0000 (right 0.0000)
#   Log of 1e-07 (): ['Add', 'Log'], empty cell -16.1181 (right -16.1181)
#   Log of 1e-09 (): ['Log'], empty cell -inf (right -20.7233)
#   Mul of 1.000009 (): ['Identity'], empty cell 0.0000 (right 0.0000)
