#!/usr/bin/env bash
# Guess: the optimizer of onnxconverter-common puts a Pad into the convolution after it where that computes the same:
#   zeros, and no auto_pad.
# Really: it takes each Pad that has (by its source) one reader and an operator before it, and looks only at how much
#   is padded. Edge, reflect and wrap become zeros, and so does any other constant, as the grey of a letterbox: other
#   values along the whole border. With a Transpose between the two it is the same. SAME_UPPER and SAME_LOWER, for
#   which it looks in the wrong attribute, are replaced by the amounts of the Pad: the output is smaller than the file
#   says. A Pad before a MaxPool, and one that is the first operator, stay. Nothing is said. onnxoptimizer and onnxsim
#   take away the zeros without auto_pad only, and compute the same as before.
# Here: judged by ONNX Runtime on the file before.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxconverter-common==1.16.0 \
  onnxoptimizer==0.4.2 onnxsim==0.8.1
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
import onnxsim
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common.optimizer import optimize_onnx_model

TOOLS = {
    "onnxconverter-common": optimize_onnx_model,
    "onnxoptimizer": lambda model: onnxoptimizer.optimize(model, ["fuse_pad_into_conv", "eliminate_deadend"]),
    "onnxsim": lambda model: onnxsim.simplify(model)[0],
}
print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", *TOOLS)))
onnxruntime.set_default_logger_severity(3)  # it warns of the sizes of `y` after SAME_UPPER and SAME_LOWER
random = np.random.default_rng(0)
IMAGE = random.uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)
LAST = random.uniform(0, 1, (1, 8, 8, 3)).astype(np.float32)
WEIGHTS = random.normal(size=(4, 3, 3, 3)).astype(np.float32)


def net(x, steps, pads, value, size):
    """A chain of (operator, attributes)."""
    stored = {"pads": np.array(pads), "value": np.array(value, np.float32), "w": WEIGHTS}
    more = {"Pad": ["pads", "value"], "Conv": ["w"]}
    nodes = []
    for i, (op, attributes) in enumerate(steps):
        names = [f"v{i}" if i else "x", *more.get(op, [])]
        nodes.append(helper.make_node(op, names, ["y" if i == len(steps) - 1 else f"v{i + 1}"], op, **attributes))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, size)],
        [numpy_helper.from_array(v, k) for k, v in stored.items() if any(k in n.input for n in nodes)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


RELU, CONV, END, TURN = ("Relu", {}), ("Conv", {}), ("Sigmoid", {}), ("Transpose", {"perm": [0, 3, 1, 2]})
FIRST, AROUND, MIDDLE = [1, 4, 8, 8], [0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 0, 1, 1, 0]
POOL = ("MaxPool", {"kernel_shape": [3, 3]})
for text, x, steps, pads, value, size, same in (
    ("zeros", IMAGE, [RELU, ("Pad", {}), CONV, END], AROUND, 0, FIRST, 1),
    ("0.447", IMAGE, [RELU, ("Pad", {}), CONV, END], AROUND, 0.447, FIRST, 0),
    *((mode, IMAGE, [RELU, ("Pad", {"mode": mode}), CONV, END], AROUND, 0, FIRST, 0)
      for mode in ("edge", "reflect", "wrap")),
    ("edge, Transpose", LAST, [RELU, ("Pad", {"mode": "edge"}), TURN, CONV, END], MIDDLE, 0, FIRST, 0),
    *((f"zeros, {auto}", IMAGE, [RELU, ("Pad", {}), ("Conv", {"auto_pad": auto}), END], AROUND, 0, [1, 4, 10, 10], 0)
      for auto in ("SAME_UPPER", "SAME_LOWER")),
    ("edge, the first operator", IMAGE, [("Pad", {"mode": "edge"}), CONV, END], AROUND, 0, FIRST, 1),
    ("edge, MaxPool", IMAGE, [RELU, ("Pad", {"mode": "edge"}), POOL, END], AROUND, 0, [1, 3, 8, 8], 1),
):
    model = net(x, steps, pads, value, size)
    right = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    line = []
    for name, tool in TOOLS.items():
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        after = tool(copy)
        found = onnxruntime.InferenceSession(after.SerializeToString()).run(None, {"x": x})[0]
        line += [f"{name} Pad" if any(n.op_type == "Pad" for n in after.graph.node) else f"{name} no Pad"]
        if found.shape != right.shape:
            line[-1] += f", sides {found.shape[2:]} in place of {right.shape[2:]}"
        elif (away := abs(found - right).max(axis=1)[0]).max() > 1e-4:
            line[-1] += f", {(away > 1e-4).sum()} of {away.size} places differ, up to {away.max():.2f}"
            assert away[1:-1, 1:-1].max() < 1e-4  # away from the border it is the same
        assert ("," not in line[-1]) == (same or "common" not in name)
    print(f"{text}: {'; '.join(line)}")
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnxconverter-common 1.16.0 onnxoptimizer 0.4.2 onnxsim 0.8.1
#   zeros: onnxconverter-common no Pad; onnxoptimizer no Pad; onnxsim no Pad
#   0.447: onnxconverter-common no Pad, 28 of 64 places differ, up to 0.53; onnxoptimizer Pad; onnxsim Pad
#   edge: onnxconverter-common no Pad, 28 of 64 places differ, up to 0.77; onnxoptimizer Pad; onnxsim Pad
#   reflect: onnxconverter-common no Pad, 28 of 64 places differ, up to 0.81; onnxoptimizer Pad; onnxsim Pad
#   wrap: onnxconverter-common no Pad, 28 of 64 places differ, up to 0.75; onnxoptimizer Pad; onnxsim Pad
#   edge, Transpose: onnxconverter-common no Pad, 28 of 64 places differ, up to 0.85; onnxoptimizer Pad; onnxsim Pad
#   zeros, SAME_UPPER: onnxconverter-common no Pad, sides (8, 8) in place of (10, 10); onnxoptimizer Pad; onnxsim Pad
#   zeros, SAME_LOWER: onnxconverter-common no Pad, sides (8, 8) in place of (10, 10); onnxoptimizer Pad; onnxsim Pad
#   edge, the first operator: onnxconverter-common Pad; onnxoptimizer Pad; onnxsim Pad
#   edge, MaxPool: onnxconverter-common Pad; onnxoptimizer Pad; onnxsim Pad
