#!/usr/bin/env bash
# Guess: what MNN's converter makes of an ONNX file computes the same; what it cannot do, it refuses (Hardmax, say).
# Really: it passes over parts of common operators, says "Converted Success!", and the output has the right shape:
#   - the axes of ReduceL2, ReduceL1, ReduceSumSquare, ReduceLogSum and ReduceLogSumExp where they are an input,
#     so from opset 18 on: vectors that should have length 1 per cell are divided by the length of the whole map
#     (ReduceMean, ReduceSum and ReduceMax do read them);
#   - SAME_LOWER, computed as SAME_UPPER: one pixel off in convolutions and poolings;
#   - the dilations of a max pooling (not those of a convolution);
#   - the place of a PRelu's slopes: one per column becomes one per channel;
#   - select_last_index of ArgMax and nearest_mode "ceil" of Resize;
#   - the axis that Softmax has when none is written, before opset 13.
#   Split in 3 of 7 rows (num_outputs, opset 18) gives 2, 2 and 2: the last row is gone.
#   The same graphs written otherwise (opset 17, paddings and sizes as numbers) are right.
# Here: each exported file is compared with torch; MNN is not among our formats.
# (_tools.mnnconvert is what the command mnnconvert calls; see mnn-convert-installs for why not the command.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 mnn==3.6.1
cat >check.py <<'END'
from importlib.metadata import version
from pathlib import Path

import _tools
import MNN.expr as expr
import MNN.nn as nn
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper



def say(text):
    print(text, file=SCREEN, flush=True)


SCREEN = open(3, "w")
say(" ".join(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "mnn")))
rng = np.random.default_rng(0)
MAP = rng.normal(size=(1, 3, 7, 7)).astype(np.float32)
EVEN = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
WEIGHTS = rng.normal(size=(3, 3, 3, 3)).astype(np.float32)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def outputs(x, nodes, opset, kind, stored):
    """ONNX Runtime's outputs and MNN's of a graph from x to those that no node reads."""
    read = {name for node in nodes for name in node.input}
    names = [name for node in nodes for name in node.output if name not in read]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", FLOAT, x.shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in names],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    Path("net.mnn").unlink(missing_ok=True)
    _tools.mnnconvert(["", "-f", "ONNX", "--modelFile", "net.onnx", "--MNNModel", "net.mnn", "--bizCode", "net"])
    right = onnxruntime.InferenceSession("net.onnx").run(None, {"x": x})
    net = nn.load_module_from_file("net.mnn", ["x"], names)
    made = net.forward([expr.const(x, list(x.shape), expr.NCHW, expr.float)])
    made = [expr.convert(y, expr.NCHW) if y.data_format == expr.NC4HW4 else y for y in made]
    return right, [np.array(y.read()).reshape(y.shape) for y in made]


def show(title, x, nodes, opset=13, kind=FLOAT, wrong=False, **stored):
    right, made = outputs(x, nodes, opset, kind, stored)
    off = sum(int((abs(a - b) > 1e-3).sum()) for a, b in zip(right, made, strict=True) if a.shape == b.shape)
    size = sum(a.size for a in right)
    if [a.shape for a in right] == [b.shape for b in made]:
        say(f"{title}: {off} of {size} wrong")
    else:
        say(f"{title}: shapes {[b.shape for b in made]}, right {[a.shape for a in right]}")
        off = size
    assert (off > 0) is wrong
    return made


def node(kind, *inputs, **attributes):
    return helper.make_node(kind, ["x", *inputs], ["y"], **attributes)


# a vector of length 1 per cell, as torch.nn.functional.normalize
for kind in ("L2", "L1", "SumSquare", "LogSum", "LogSumExp", "Mean", "Sum", "Max"):
    divide = helper.make_node("Div", ["x", "n"], ["y"])
    reduce = f"Reduce{kind}"
    positive = abs(EVEN) + 1
    if kind != "Sum":  # its axes have been an input since opset 13
        old = helper.make_node(reduce, ["x"], ["n"], axes=[1], keepdims=1)
        show(f"x / {reduce}(x), opset 17", positive, [old, divide], 17)
    new = helper.make_node(reduce, ["x", "axes"], ["n"], keepdims=1)
    dropped = kind in ("L2", "L1", "SumSquare", "LogSum", "LogSumExp")
    (y,) = show(f"x / {reduce}(x), opset 18", positive, [new, divide], 18, axes=[1], wrong=dropped)
    if kind == "L2":
        lengths = np.sqrt((y**2).sum(1))
        say(f"  lengths per cell {lengths.min():.3f} to {lengths.max():.3f}, of the whole {(y**2).sum() ** 0.5:.3f}")

three = {"kernel_shape": [3, 3], "strides": [2, 2]}
for kind in ("Conv", "MaxPool", "AveragePool"):
    stored = {"w": WEIGHTS} if kind == "Conv" else {}
    for padding in ({"auto_pad": "SAME_UPPER"}, {"pads": [1, 1, 0, 0]}, {"auto_pad": "SAME_LOWER"}):
        lower = padding == {"auto_pad": "SAME_LOWER"}
        (y,) = show(f"{kind} {padding}", EVEN, [node(kind, *stored, **three, **padding)], **stored, wrong=lower)
        if "SAME_UPPER" in padding.values():
            upper = y
    assert np.array_equal(y, upper)

two = {"kernel_shape": [2, 2], "strides": [2, 2]}
for dilation in (1, 2):
    pooling = node("MaxPool", dilations=[dilation] * 2, **two)
    show(f"MaxPool, dilations {dilation}", MAP, [pooling], wrong=dilation > 1)
    small = {"w": WEIGHTS[:, :, :2, :2]}
    show(f"Conv, dilations {dilation}", MAP, [node("Conv", "w", dilations=[dilation] * 2, **two)], **small)

for shape in ((3, 1, 1), (7,)):
    slopes = rng.uniform(size=shape).astype(np.float32)
    (y,) = show(f"PRelu, slopes {shape}", MAP, [node("PRelu", "slopes")], slopes=slopes, wrong=shape == (7,))
assert np.allclose(y, np.where(MAP < 0, MAP * slopes[:3].reshape(3, 1, 1), MAP))

steps = np.array([[1, 3, 3, 1], [2, 2, 0, 2]], np.float32)
for last in (0, 1):
    best = node("ArgMax", axis=1, keepdims=0, select_last_index=last)
    (y,) = show(f"ArgMax, select_last_index {last}", steps, [best], kind=INT64, wrong=last == 1)
    assert y.tolist() == [1, 0]
scales = np.array([1, 1, 2, 2], np.float32)
for mode in ("floor", "ceil"):
    resize = node("Resize", "", "scales", mode="nearest", nearest_mode=mode, coordinate_transformation_mode="asymmetric")
    show(f"Resize, nearest_mode {mode}", MAP, [resize], scales=scales, wrong=mode == "ceil")
for attributes in ({"axis": 1}, {}):
    show(f"Softmax, opset 11, {attributes}", MAP, [node("Softmax", **attributes)], 11, wrong=not attributes)
rows, parts = MAP[0, 0], ["a", "b", "c"]
split = helper.make_node("Split", ["x", "sizes"], parts)
show("Split in [3, 3, 1]", rows, [split], 18, sizes=[3, 3, 1])
show("Split in 3", rows, [helper.make_node("Split", ["x"], parts, num_outputs=3)], 18, wrong=True)
END
# The converter's own lines go to a file, those of the check to the screen.
venv/bin/python check.py 3>&1 >converter.txt
echo "the converter said \"Converted Success!\" $(grep -c 'Converted Success!' converter.txt) times, \"error\"" \
  "$(grep -ic error converter.txt || true) times, \"not support\" $(grep -ic 'not support' converter.txt || true) times"
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 mnn 3.6.1
#   x / ReduceL2(x), opset 17: 0 of 192 wrong
#   x / ReduceL2(x), opset 18: 192 of 192 wrong
#     lengths per cell 0.083 to 0.201, of the whole 1.000
#   x / ReduceL1(x), opset 17: 0 of 192 wrong
#   x / ReduceL1(x), opset 18: 192 of 192 wrong
#   x / ReduceSumSquare(x), opset 17: 0 of 192 wrong
#   x / ReduceSumSquare(x), opset 18: 192 of 192 wrong
#   x / ReduceLogSum(x), opset 17: 0 of 192 wrong
#   x / ReduceLogSum(x), opset 18: 192 of 192 wrong
#   x / ReduceLogSumExp(x), opset 17: 0 of 192 wrong
#   x / ReduceLogSumExp(x), opset 18: 192 of 192 wrong
#   x / ReduceMean(x), opset 17: 0 of 192 wrong
#   x / ReduceMean(x), opset 18: 0 of 192 wrong
#   x / ReduceSum(x), opset 18: 0 of 192 wrong
#   x / ReduceMax(x), opset 17: 0 of 192 wrong
#   x / ReduceMax(x), opset 18: 0 of 192 wrong
#   Conv {'auto_pad': 'SAME_UPPER'}: 0 of 48 wrong
#   Conv {'pads': [1, 1, 0, 0]}: 0 of 48 wrong
#   Conv {'auto_pad': 'SAME_LOWER'}: 48 of 48 wrong
#   MaxPool {'auto_pad': 'SAME_UPPER'}: 0 of 48 wrong
#   MaxPool {'pads': [1, 1, 0, 0]}: 0 of 48 wrong
#   MaxPool {'auto_pad': 'SAME_LOWER'}: 30 of 48 wrong
#   AveragePool {'auto_pad': 'SAME_UPPER'}: 0 of 48 wrong
#   AveragePool {'pads': [1, 1, 0, 0]}: 0 of 48 wrong
#   AveragePool {'auto_pad': 'SAME_LOWER'}: 48 of 48 wrong
#   MaxPool, dilations 1: 0 of 27 wrong
#   Conv, dilations 1: 0 of 27 wrong
#   MaxPool, dilations 2: 23 of 27 wrong
#   Conv, dilations 2: 0 of 27 wrong
#   PRelu, slopes (3, 1, 1): 0 of 147 wrong
#   PRelu, slopes (7,): 61 of 147 wrong
#   ArgMax, select_last_index 0: 0 of 2 wrong
#   ArgMax, select_last_index 1: 2 of 2 wrong
#   Resize, nearest_mode floor: 0 of 588 wrong
#   Resize, nearest_mode ceil: 396 of 588 wrong
#   Softmax, opset 11, {'axis': 1}: 0 of 147 wrong
#   Softmax, opset 11, {}: 147 of 147 wrong
#   Split in [3, 3, 1]: 0 of 49 wrong
#   Split in 3: shapes [(2, 7), (2, 7), (2, 7)], right [(3, 7), (3, 7), (1, 7)]
#   the converter said "Converted Success!" 38 times, "error" 0 times, "not support" 0 times
