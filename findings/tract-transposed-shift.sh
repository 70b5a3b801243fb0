#!/usr/bin/env bash
# Guess: what tract reads from an ONNX file it computes as ONNX Runtime does, what it cannot do it refuses.
# Really: a ConvTranspose with `output_shape` is cut at its end only. ONNX halves the surplus, without auto_pad the
#   larger part before: at twice the size with stride 2 all values sit one pixel aside, with kernel 4 as with kernel
#   3. With the same cut written as `pads` tract is right, and where nothing is to cut. GlobalLpPool is divided by the
#   number of cells before its root is taken, and with an odd p negative numbers keep their sign: a mean in place of a
#   sum, negative or nan; ReduceL2 is right. Celu lacks its factor alpha: right for 1 only; Elu has it. Softplus is
#   infinite from 89 on, LogSoftmax somewhere beyond -100, and off before that. Nothing is said.
# Here: judged by ONNX Runtime and by the formulas of the operators, written out.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 tract==0.23.9
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper, numpy_helper

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "tract")))


def both(op, x, sizes=None, weights=None, **attributes):
    """The output of one operator in ONNX Runtime and in tract."""
    x = np.array(x, np.float32)
    names, stored = (["x"], []) if weights is None else (["x", "w"], [numpy_helper.from_array(weights, "w")])
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape if sizes is None else sizes)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    run = tract.onnx().load("net.onnx").into_model().into_runnable().run
    right = onnxruntime.InferenceSession("net.onnx").run(None, {"x": x})[0]
    return right.ravel(), run([x])[0].to_numpy().ravel()


def words(values):
    return " ".join(f"{v:.4g}" for v in values)


print("ConvTranspose by 2 of 1 2 3 4, output_shape or pads; the whole one is cut to the output")
ROW = np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 1, 4)
for kernel, size, pads in ((4, 8, None), (4, 8, [0, 1, 0, 1]), (3, 8, None), (3, 8, [0, 1, 0, 0]), (2, 8, None)):
    weights = 10 ** np.arange(kernel, dtype=np.float32).reshape(1, 1, 1, kernel)
    cut = {"pads": pads} if pads else {"output_shape": [1, size]}
    right, found = both("ConvTranspose", ROW, [1, 1, 1, size], weights, strides=[1, 2], **cut)
    whole = np.zeros(6 + kernel)
    for i, value in enumerate(ROW.ravel()):
        whole[2 * i:2 * i + kernel] += value * weights.ravel()
    surplus = len(whole) - size
    before = pads[1] if pads else surplus - surplus // 2
    how = f"pads {pads[1]} and {pads[3]}" if pads else f"output_shape {size}"
    print(f"  kernel {kernel}, {how}: right {words(right)}, tract {words(found)}")
    assert (right == whole[before:before + size]).all()  # as the operator's description says
    assert (found == whole[0 if not pads else before:][:size]).all()
    assert (found == right).all() == (bool(pads) or surplus == 0)

X = np.array([-3, -2, 0, 1, 2])
for text, op, attributes, x, expected, same in (
    *((f"GlobalLpPool, p {p}", "GlobalLpPool", {"p": p}, X, (np.abs(X) ** p).sum() ** (1 / p), 0) for p in (1, 2, 3)),
    ("ReduceL2", "ReduceL2", {"axes": [2, 3]}, X, (X**2).sum() ** 0.5, 1),
    *((f"Celu, alpha {a}", "Celu", {"alpha": a}, X, np.where(X > 0, X, a * (np.exp(X / a) - 1)), a == 1)
      for a in (0.5, 1.0, 2.0)),
    ("Elu, alpha 2.0", "Elu", {"alpha": 2.0}, X, np.where(X > 0, X, 2 * (np.exp(X) - 1)), 1),
    ("Softplus", "Softplus", {}, [1, 50, 88, 89, 200], np.log1p(np.exp([1, 50, 88, 89, 200])), 0),
    ("LogSoftmax", "LogSoftmax", {"axis": -1}, [0, -50, -100, -110, -200], [0, -50, -100, -110, -200], 0),
):
    x = np.array(x).reshape(1, 1, 1, 5)
    right, found = both(op, x, None if np.ndim(expected) else [1, 1, 1, 1], **attributes)
    print(f"{text} of {words(x.ravel())}: right {words(right)}, tract {words(found)}")
    assert np.allclose(right, expected, atol=1e-4)
    assert np.allclose(found, expected, atol=1e-4) == same
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 tract 0.23.9
#   ConvTranspose by 2 of 1 2 3 4, output_shape or pads; the whole one is cut to the output
#     kernel 4, output_shape 8: right 10 102 1020 203 2030 304 3040 400, tract 1 10 102 1020 203 2030 304 3040
#     kernel 4, pads 1 and 1: right 10 102 1020 203 2030 304 3040 400, tract 10 102 1020 203 2030 304 3040 400
#     kernel 3, output_shape 8: right 10 102 20 203 30 304 40 400, tract 1 10 102 20 203 30 304 40
#     kernel 3, pads 1 and 0: right 10 102 20 203 30 304 40 400, tract 10 102 20 203 30 304 40 400
#     kernel 2, output_shape 8: right 1 10 2 20 3 30 4 40, tract 1 10 2 20 3 30 4 40
#   GlobalLpPool, p 1 of -3 -2 0 1 2: right 8, tract -0.4
#   GlobalLpPool, p 2 of -3 -2 0 1 2: right 4.243, tract 1.897
#   GlobalLpPool, p 3 of -3 -2 0 1 2: right 3.53, tract nan
#   ReduceL2 of -3 -2 0 1 2: right 4.243, tract 4.243
#   Celu, alpha 0.5 of -3 -2 0 1 2: right -0.4988 -0.4908 0 1 2, tract -0.9975 -0.9817 0 1 2
#   Celu, alpha 1.0 of -3 -2 0 1 2: right -0.9502 -0.8647 0 1 2, tract -0.9502 -0.8647 0 1 2
#   Celu, alpha 2.0 of -3 -2 0 1 2: right -1.554 -1.264 0 1 2, tract -0.7769 -0.6321 0 1 2
#   Elu, alpha 2.0 of -3 -2 0 1 2: right -1.9 -1.729 0 1 2, tract -1.9 -1.729 0 1 2
#   Softplus of 1 50 88 89 200: right 1.313 50 88 89 200, tract 1.313 50 88 inf inf
#   LogSoftmax of 0 -50 -100 -110 -200: right 0 -50 -100 -110 -200, tract 0 -50 -87.52 -inf -inf
