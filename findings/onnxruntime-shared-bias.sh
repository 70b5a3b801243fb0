#!/usr/bin/env bash
# Guess: a head that a detector uses on several levels, one convolution with one bias, stays right when quantize_static
#   makes it int8.
# Really: in the operator form (QuantFormat.QOperator) the bias is stored once, in steps that fit the input of the level
#   that is listed first, and the other levels read the same whole numbers in their own steps. Where the input has a
#   tenth of that range the bias counts a tenth, where it has ten times the range ten times. A head whose bias keeps
#   empty cells at a score of 0.01 gives them 0.39 on a level of the first kind; on one of the second kind the object is
#   lost, it scores 0.01 like the empty cells. With a scale per channel it is the same, and nothing is said. With
#   QuantFormat.QDQ each level has a bias of its own and is right; so it is in the operator form if the float file has
#   one for each level.
# Here: int8 files are made with QuantFormat.QDQ; judged by ONNX Runtime on the float file, level by level.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - 2>errors.txt <<'EOF' || { cat errors.txt; exit 1; }
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime")))
chance = np.random.default_rng(0)
RANGES = {"large": 10.0, "middle": 1.0, "small": 0.1}  # of the features of each level
WEIGHTS = chance.uniform(0.05, 0.1, (3, 8, 1, 1)).astype(np.float32)
BIAS = np.full(3, -np.log(99), np.float32)  # a score of 0.01 where there is nothing


def write(levels, own_bias=False):
    """A file with the same convolution on all levels, in this order."""
    stored = {"w": WEIGHTS, "b": BIAS}
    nodes = []
    for level in levels:
        bias = f"b_{level}" if own_bias else "b"
        stored[bias] = BIAS
        nodes.append(helper.make_node("Conv", [level, "w", bias], [f"head_{level}"], f"head_{level}"))
    if own_bias:
        del stored["b"]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(level, TensorProto.FLOAT, [1, 8, 4, 4]) for level in levels],
        [helper.make_tensor_value_info(f"head_{level}", TensorProto.FLOAT, [1, 3, 4, 4]) for level in levels],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")


# Each level has one cell with an object (features at the upper end of their range), the others are empty.
FEATURES = {level: np.zeros((1, 8, 4, 4), np.float32) for level in RANGES}
for level, top in RANGES.items():
    FEATURES[level][0, :, 1, 1] = top


class Features(CalibrationDataReader):
    def __init__(self):
        self.rows = iter([FEATURES])

    def get_next(self):
        return next(self.rows, None)


def scores(file, levels):
    """The score of an empty cell and the sum before the sigmoid at the object, for each level."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    values = onnxruntime.InferenceSession(file, settings).run([f"head_{level}" for level in levels], FEATURES)
    return {
        level: (round(float(1 / (1 + np.exp(-value[0, 0, 0, 0]))), 3), round(float(value[0, 0, 1, 1]), 2))
        for level, value in zip(levels, values, strict=True)
    }


seen = {}
print("for each level: the score of an empty cell, the sum before the sigmoid in the cell with an object")
for title, levels, form, extra, own in (
    ("float", ("large", "middle", "small"), None, {}, False),
    ("operators, middle first", ("middle", "large", "small"), QuantFormat.QOperator, {}, False),
    ("operators, large first", ("large", "middle", "small"), QuantFormat.QOperator, {}, False),
    ("operators, per channel", ("large", "middle", "small"), QuantFormat.QOperator, {"per_channel": True}, False),
    ("operators, own biases", ("large", "middle", "small"), QuantFormat.QOperator, {}, True),
    ("QDQ", ("large", "middle", "small"), QuantFormat.QDQ, {}, False),
):
    write(levels, own)
    file = "net.onnx"
    if form is not None:
        file = "int8.onnx"
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static("net.onnx", file, Features(), quant_format=form, **types, **extra)
    seen[title] = scores(file, sorted(levels))
    print(f" {title}: {seen[title]}")

right = seen["float"]
for title in ("QDQ", "operators, own biases"):
    for level, numbers in right.items():
        assert all(abs(a - b) < 0.1 for a, b in zip(seen[title][level], numbers, strict=True)), (title, level)
for title in ("operators, large first", "operators, per channel"):
    assert abs(seen[title]["large"][0] - 0.01) < 0.003 and seen[title]["middle"][0] > 0.3
    assert seen[title]["small"][0] > 0.45
first = seen["operators, middle first"]
assert abs(first["middle"][0] - 0.01) < 0.003 and first["small"][0] > 0.3
assert first["large"][1] < -4.5 and right["large"][1] > 1.4  # the object
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.32.0
#   for each level: the score of an empty cell, the sum before the sigmoid in the cell with an object
#    float: {'large': (0.01, 1.42), 'middle': (0.01, -3.99), 'small': (0.01, -4.53)}
#    operators, middle first: {'large': (0.01, -4.6), 'middle': (0.01, -4.0), 'small': (0.385, -0.4)}
#    operators, large first: {'large': (0.01, 1.42), 'middle': (0.389, 0.0), 'small': (0.486, 0.0)}
#    operators, per channel: {'large': (0.01, 1.42), 'middle': (0.385, 0.0), 'small': (0.486, 0.0)}
#    operators, own biases: {'large': (0.01, 1.42), 'middle': (0.01, -4.0), 'small': (0.01, -4.54)}
#    QDQ: {'large': (0.01, 1.42), 'middle': (0.01, -4.0), 'small': (0.01, -4.54)}
