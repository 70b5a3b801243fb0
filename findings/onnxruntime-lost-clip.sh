#!/usr/bin/env bash
# Guess: ONNX Runtime's quantizer may leave Relu and Clip out of an int8 file because the range of their output cuts in
#   the same way: the outputs are those of the float file, up to a step or two of int8.
# Really: they are left out without a look at their bounds, and a range always has 0 in it. Clip(1, 4) gives numbers
#   down to 0 then, Clip(-4, -1) up to 0; a reciprocal after it, of 1 at most, becomes infinite. In the operator form
#   a Relu is left out, too, if its input is read elsewhere as well: the range is that of the input then, and nothing is
#   cut at all. And in both forms the input of a Relu gets the range of the Relu even if it is an output of the file:
#   all its negative numbers are 0. `QDQKeepRemovableActivations` helps with the bounds only. Nothing is said.
# Here: int8 files are in the QDQ form, with no Clip but ReLU6; one whose outputs are too far from torch's is refused.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
venv/bin/python - <<'END'
import logging
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

logging.disable(logging.WARNING)  # the advice to preprocess: there is nothing to do here
print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime")))
print("smallest and largest value, and in brackets the largest distance from float")
random = np.random.default_rng(0)
IMAGES = [random.uniform(-1, 1, (1, 2, 32, 32)).astype(np.float32) for _ in range(4)]
STORED = {"five": np.eye(2).reshape(2, 2, 1, 1) * 5, "both": np.ones((2, 2, 1, 1))}
STORED |= {name: np.array(value) for name, value in (("-4", -4), ("-1", -1), ("0", 0), ("1", 1), ("4", 4))}
FORMS = {"QDQ": (QuantFormat.QDQ, {}), "operators": (QuantFormat.QOperator, {})}
FORMS["kept"] = (QuantFormat.QDQ, {"QDQKeepRemovableActivations": True})


class Calibration(CalibrationDataReader):
    def __init__(self):
        self.rest = iter([{"x": image} for image in IMAGES])

    def get_next(self):
        return next(self.rest, None)


def outputs(steps, outs, form):
    """The outputs of a chain of (operator, inputs, output), as float and as int8."""
    nodes = [helper.make_node(op, inputs, [out], name=f"node {out}") for op, inputs, out in steps]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 32, 32]) for name in ("x", *outs)]
    stored = [numpy_helper.from_array(STORED[k].astype(np.float32), k) for k in STORED if any(k in s[1] for s in steps)]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], stored)
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(net, full_check=True)
    onnx.save(net, "net.onnx")
    quantize_static(
        "net.onnx", "int8.onnx", Calibration(), quant_format=FORMS[form][0], extra_options=FORMS[form][1],
        activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8,  # as the documentation advises for AVX2
    )
    return [onnxruntime.InferenceSession(p).run(None, {"x": IMAGES[0]}) for p in ("net.onnx", "int8.onnx")]


CONV, RELU = ("Conv", ["x", "five"], "y"), ("Relu", ["y"], "z")
CASES = {
    "Clip(0, 4)": ([CONV, ("Clip", ["y", "0", "4"], "z")], ["z"]),
    "Clip(-1, 4)": ([CONV, ("Clip", ["y", "-1", "4"], "z")], ["z"]),
    "Clip(1, 4)": ([CONV, ("Clip", ["y", "1", "4"], "z")], ["z"]),
    "Clip(-4, -1)": ([CONV, ("Clip", ["y", "-4", "-1"], "z")], ["z"]),
    "1 / Clip(1, 4)": ([CONV, ("Clip", ["y", "1", "4"], "z"), ("Reciprocal", ["z"], "out")], ["out"]),
    "sum of Relu": ([CONV, RELU, ("Conv", ["z", "both"], "sum")], ["sum"]),
    "input read twice": ([CONV, RELU, ("Conv", ["z", "both"], "sum"), ("Conv", ["y", "both"], "b")], ["sum"]),
    "input an output": ([CONV, RELU, ("Conv", ["z", "both"], "sum")], ["y"]),
}
LOST = {("Clip(1, 4)", "Clip(-4, -1)", "1 / Clip(1, 4)"): ("QDQ", "operators")}
LOST |= {("input read twice",): ("operators",), ("input an output",): tuple(FORMS)}
lost = {(name, form) for names, forms in LOST.items() for name in names for form in forms}
for name, (steps, outs) in CASES.items():
    if "twice" in name:
        outs = [*outs, "b"]  # a second reader, which leads to an output of its own
    line = ""
    for form in FORMS:
        (exact, *_), (rounded, *_) = outputs(steps, outs, form)
        away = float(abs(rounded - exact).max())
        line += f", {form} {rounded.min():.2f}..{rounded.max():.2f} ({away:.2f})"
        assert away > 0.9 if (name, form) in lost else away < 0.1
    print(f"{name}: float {exact.min():.2f}..{exact.max():.2f}{line}")
END
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1
#   smallest and largest value, and in brackets the largest distance from float
#   Clip(0, 4): float 0.00..4.00, QDQ 0.00..4.00 (0.03), operators 0.00..4.00 (0.03), kept 0.00..4.00 (0.03)
#   Clip(-1, 4): float -1.00..4.00, QDQ -1.00..4.00 (0.02), operators -1.00..4.00 (0.02), kept -1.00..4.00 (0.02)
#   Clip(1, 4): float 1.00..4.00, QDQ 0.00..4.00 (1.00), operators 0.00..4.00 (1.00), kept 1.00..4.00 (0.03)
#   Clip(-4, -1): float -4.00..-1.00, QDQ -4.00..0.00 (1.00), operators -4.00..0.00 (1.00), kept -4.00..-1.00 (0.03)
#   1 / Clip(1, 4): float 0.25..1.00, QDQ 0.25..inf (inf), operators 0.25..inf (inf), kept 0.25..1.00 (0.02)
#   sum of Relu: float 0.00..9.49, QDQ 0.00..9.48 (0.05), operators 0.00..9.48 (0.05), kept 0.00..9.48 (0.05)
#   input read twice: float 0.00..9.49, QDQ 0.00..9.48 (0.05), operators 0.00..9.48 (4.75), kept 0.00..9.48 (0.05)
#   input an output: float -5.00..5.00, QDQ 0.00..4.98 (5.00), operators 0.00..4.98 (5.00), kept 0.00..4.98 (5.00)
