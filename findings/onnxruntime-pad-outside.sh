#!/usr/bin/env bash
# Guess: quantize_static measures the range of each tensor, so a Pad with a constant outside of what was there before
#   is int8 with a range that has both; what cannot be written so stays in float.
# Really: in the operator form (QuantFormat.QOperator) the output of a Pad is given the scale of its input. The constant
#   is stored with that scale, cut to its range, and the range measured behind the Pad is not used. Rows that a head
#   fills up to a fixed number with score -1 for "nothing" come out with score 0, and all count as found; a distance
#   of 20 for "far away" becomes the largest one that was there before. There is no warning. A Pad whose input is not
#   int8 yet (as a letterbox at the start of a file), a constant inside of the range, and all of it with QDQ, where the
#   output has a range of its own, are right.
# Here: judged by ONNX Runtime on the float file.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
venv/bin/python - <<'EOF'
import logging
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime")))
logging.disable(logging.WARNING)  # each call advises a step before it
X = np.array([-9, -1, 0, 1, 9], np.float32).reshape(1, 1, 5)  # one number for each of five rows


class Reader(CalibrationDataReader):
    def __init__(self):
        self.rest = iter([{"x": X}])

    def get_next(self):
        return next(self.rest, None)


def save(before, value, after):
    """An operator (or none), three more rows of `value`, another operator (or none)."""
    nodes = [helper.make_node(before, ["x"], ["a"], "before")] if before else []
    nodes.append(helper.make_node("Pad", ["a" if before else "x", "p", "v"], ["b" if after else "y"], "pad"))
    nodes += [helper.make_node(after, ["b"], ["y"], "after")] if after else []
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 8])],
        [numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 3]), "p"),
         numpy_helper.from_array(np.array(value, np.float32), "v")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")
    for form in QuantFormat:
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static("float.onnx", f"{form.name}.onnx", Reader(), quant_format=form, **types)


def run(file):
    return onnxruntime.InferenceSession(f"{file}.onnx").run(None, {"x": X})[0].ravel()


for before, value, after, cut in (
    ("Sigmoid", 0.5, None, 0.5),
    ("Sigmoid", -1, None, 0),
    ("Sigmoid", 3, None, 1),
    ("LeakyRelu", 20, None, 9),
    (None, 20, "Sigmoid", 1),
):
    save(before, value, after)
    print(f"{before or 'nothing'}, three rows of {value}, {after or 'nothing'}")
    right = run("float")
    for file in ("float", "QDQ", "QOperator"):
        found = run(file)
        words = " ".join(f"{v:.3g}" for v in found.astype(float).round(2) + 0.0)
        print(f"  {file}: {words}" + (f"; not below 0: {(found >= 0).sum()}" if value < 0 else ""))
        assert np.allclose(found[:5], right[:5], atol=0.1), file
        assert np.allclose(found[5:], cut if file == "QOperator" else right[5:], atol=0.1), file
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1
#   Sigmoid, three rows of 0.5, nothing
#     float: 0 0.27 0.5 0.73 1 0.5 0.5 0.5
#     QDQ: 0 0.27 0.5 0.73 1 0.5 0.5 0.5
#     QOperator: 0 0.27 0.5 0.73 1 0.5 0.5 0.5
#   Sigmoid, three rows of -1, nothing
#     float: 0 0.27 0.5 0.73 1 -1 -1 -1; not below 0: 5
#     QDQ: 0 0.27 0.5 0.73 1 -1 -1 -1; not below 0: 5
#     QOperator: 0 0.27 0.5 0.73 1 0 0 0; not below 0: 8
#   Sigmoid, three rows of 3, nothing
#     float: 0 0.27 0.5 0.73 1 3 3 3
#     QDQ: 0 0.27 0.51 0.73 1 3 3 3
#     QOperator: 0 0.27 0.5 0.73 1 1 1 1
#   LeakyRelu, three rows of 20, nothing
#     float: -0.09 -0.01 0 1 9 20 20 20
#     QDQ: -0.08 0 0 1.02 8.98 20 20 20
#     QOperator: -0.11 0 0 1 8.95 8.98 8.98 8.98
#   nothing, three rows of 20, Sigmoid
#     float: 0 0.27 0.5 0.73 1 1 1 1
#     QDQ: 0 0.26 0.5 0.74 1 1 1 1
#     QOperator: 0 0.26 0.5 0.74 1 1 1 1
