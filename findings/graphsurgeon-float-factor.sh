#!/usr/bin/env bash
# Guess: folding constants with onnx-graphsurgeon, or with `polygraphy surgeon sanitize --fold-constants`, computes
#   what is known beforehand and leaves the outputs alone.
# Really: before it folds, it takes two Casts away, those of whole numbers to float before an Add, Mul or Div (by its
#   source Sub, Max and Min, too) and back to whole numbers after it, and cuts the stored float number to a whole one.
#   Times 0.5 is times 0 then, times 1.5 times 1, plus 0.5 (to round) plus 0, by 2.5 by 2. It is meant for sizes, but
#   looks neither where the numbers come from nor whether the stored one is whole: a Resize to 1.5 times the size of
#   its input does not enlarge any more. Nothing is said. Right are whole factors, a Floor before the second Cast, a
#   second Cast to another type than the first one's input, a float result that something else reads as well, and
#   `fold_shapes=False` (`--no-fold-shapes`).
# Here: judged by ONNX Runtime on the file before the folding, and by plain arithmetic.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnx-graphsurgeon==0.6.1 polygraphy==0.53.6
PATH="$room/venv/bin:$PATH" venv/bin/python - <<'EOF'
import subprocess
from importlib.metadata import version

import numpy as np
import onnx
import onnx_graphsurgeon
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "onnx-graphsurgeon", "polygraphy")))
INT, FLOAT, node = TensorProto.INT64, TensorProto.FLOAT, helper.make_node


def net(nodes, stored, x, outs):
    """A model of these nodes, with `x` and `outs` as (type, sizes)."""
    values = [helper.make_tensor_value_info(name, *value) for name, value in {"x": x, **outs}.items()]
    stored = [numpy_helper.from_array(v, k) for k, v in stored.items()]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})


X = np.array([-7, 3, 8, 641])
onnxruntime.set_default_logger_severity(3)  # it warns of the size of `y` in the file folded with fixed sides
print("numbers", *X)
for text, op, value, between, to, settings, right in (
    ("* 2", "Mul", 2, None, INT, {}, True),
    ("* 0.5", "Mul", 0.5, None, INT, {}, False),
    ("* 1.5", "Mul", 1.5, None, INT, {}, False),
    ("+ 0.5", "Add", 0.5, None, INT, {}, False),
    ("/ 2.5", "Div", 2.5, None, INT, {}, False),
    ("* 0.5, Floor", "Mul", 0.5, node("Floor", ["p"], ["q"]), INT, {}, True),
    ("* 0.5, to int32", "Mul", 0.5, None, TensorProto.INT32, {}, True),
    ("* 0.5, read as float, too", "Mul", 0.5, None, INT, {}, True),
    ("* 0.5, fold_shapes=False", "Mul", 0.5, None, INT, {"fold_shapes": False}, True),
):
    nodes = [node("Cast", ["x"], ["f"], to=FLOAT), node(op, ["f", "value"], ["p"]), *([between] if between else [])]
    nodes += [node("Cast", ["q" if between else "p"], ["y"], to=to)]
    outs = {"y": (to, [4])}
    if "read as float" in text:
        nodes, outs = [*nodes, node("Neg", ["p"], ["n"])], {**outs, "n": (FLOAT, [4])}
    model = net(nodes, {"value": np.array(value, np.float32)}, (INT, [4]), outs)
    graph = onnx_graphsurgeon.import_onnx(model).fold_constants(**settings).cleanup()
    before, after = run(model, X)[0], run(onnx_graphsurgeon.export_onnx(graph), X)[0]
    print(f"x {text}: right {before.tolist()}, folded {after.tolist()}")
    assert (before == after).all() == right
    if not right:  # what is computed in place of it: the same with the stored number cut to a whole one
        whole = {"Mul": X * int(value), "Add": X + int(value), "Div": np.trunc(X / max(int(value), 1))}
        assert (after == whole[op]).all()

print("Resize to 1.5 times the size of the input, before and after `polygraphy surgeon sanitize --fold-constants`:")
image = np.ones((1, 1, 40, 60), np.float32)
nodes = [
    node("Shape", ["x"], ["all"]), node("Slice", ["all", "two", "four"], ["sides"]),
    node("Cast", ["sides"], ["f"], to=FLOAT), node("Mul", ["f", "value"], ["p"]), node("Cast", ["p"], ["new"], to=INT),
    node("Concat", ["ones", "new"], ["sizes"], axis=0), node("Resize", ["x", "", "", "sizes"], ["y"]),
]
stored = {"two": np.array([2]), "four": np.array([4]), "ones": np.array([1, 1]), "value": np.array(1.5, np.float32)}
for text, sides, sizes in (("fixed sides", [40, 60], [60, 90]), ("named sides", ["h", "w"], ["H", "W"])):
    model = net(nodes, stored, (FLOAT, [1, 1, *sides]), {"y": (FLOAT, [1, 1, *sizes])})
    onnx.save(model, "net.onnx")
    for options in ([], ["--no-fold-shapes"]):
        sanitize = ["polygraphy", "surgeon", "sanitize", "net.onnx", "--fold-constants", "-o", "out.onnx"]
        subprocess.run([*sanitize, *options], check=True, capture_output=True)
        before, after = (run(m, image)[0].shape for m in (model, onnx.load("out.onnx")))
        print(f"  {' '.join([text, *options])}: {before[2:]}, {after[2:]}")
        assert before == (1, 1, 60, 90) and after == ((1, 1, 60, 90) if options else image.shape)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnx-graphsurgeon 0.6.1 polygraphy 0.53.6
#   numbers -7 3 8 641
#   x * 2: right [-14, 6, 16, 1282], folded [-14, 6, 16, 1282]
#   x * 0.5: right [-3, 1, 4, 320], folded [0, 0, 0, 0]
#   x * 1.5: right [-10, 4, 12, 961], folded [-7, 3, 8, 641]
#   x + 0.5: right [-6, 3, 8, 641], folded [-7, 3, 8, 641]
#   x / 2.5: right [-2, 1, 3, 256], folded [-3, 1, 4, 320]
#   x * 0.5, Floor: right [-4, 1, 4, 320], folded [-4, 1, 4, 320]
#   x * 0.5, to int32: right [-3, 1, 4, 320], folded [-3, 1, 4, 320]
#   x * 0.5, read as float, too: right [-3, 1, 4, 320], folded [-3, 1, 4, 320]
#   x * 0.5, fold_shapes=False: right [-3, 1, 4, 320], folded [-3, 1, 4, 320]
#   Resize to 1.5 times the size of the input, before and after `polygraphy surgeon sanitize --fold-constants`:
#     fixed sides: (60, 90), (40, 60)
#     fixed sides --no-fold-shapes: (60, 90), (60, 90)
#     named sides: (60, 90), (40, 60)
#     named sides --no-fold-shapes: (60, 90), (60, 90)
