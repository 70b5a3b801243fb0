#!/usr/bin/env bash
# Guess: CalibMaxIntermediateOutputs of quantize_static saves memory while ranges are measured, and gives, as its
#   documentation says, the result that one gets without it; CalibMovingAverage takes a moving average.
# Really: whenever so many images are collected, they are thrown away before anything was computed from them. What is
#   left after the last time decides: of 20 images with 6 the last two, with 7 the last six, with 19 the last one, and
#   nothing is said. With 10, where nothing is left, it raises that no data is collected. If the brightest image came
#   first, the network is made for the dark ones at the end, and an image of 20 comes out as 1, 2 or 6; if it came last,
#   all looks right. A number larger than that of the images changes nothing. The moving average is the plain mean of
#   all images, or of those left: CalibMovingAverageConstant has no effect, 0.9 gives the same range as 0.01.
# Here: the first option is not set, int8 files are made from all images at once; judged by the range in the file.
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
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime")))
graph = helper.make_graph(
    [helper.make_node("Conv", ["image", "w"], ["scores"], "conv")],
    "net",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, 8, 8])],
    [numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "net.onnx")
BRIGHTEST = [float(20 - i) for i in range(20)]  # 20, 19, ... 1: the brightest one first


class Images(CalibrationDataReader):
    def __init__(self, values):
        self.rows = iter([{"image": np.linspace(0, v, 64, dtype=np.float32).reshape(1, 1, 8, 8)} for v in values])

    def get_next(self):
        return next(self.rows, None)


def end(values, **options):
    """The upper end of the image's range in the int8 file, and what an image of 20 gives there."""
    try:
        quantize_static(
            "net.onnx",
            "int8.onnx",
            Images(values),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=options,
        )
    except ValueError as error:
        return f"ValueError: {error}"
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load("int8.onnx").graph.initializer}
    session = onnxruntime.InferenceSession("int8.onnx")
    bright = session.run(None, {"image": np.full((1, 1, 8, 8), 20, np.float32)})[0]
    return round(float(stored["image_scale"]) * 255, 2), round(float(bright.max()), 2)


seen = {}
for most in (None, 100, 6, 7, 10, 19):
    extra = {} if most is None else {"CalibMaxIntermediateOutputs": most}
    seen[most] = end(BRIGHTEST, **extra), end(BRIGHTEST[::-1], **extra)
    print(f"{most}: range up to, 20 becomes; falling {seen[most][0]}, rising {seen[most][1]}")
for most, constant in ((None, 0.01), (None, 0.9), (6, 0.01), (6, 0.9)):
    extra = {"CalibMovingAverage": True, "CalibMovingAverageConstant": constant}
    extra |= {} if most is None else {"CalibMaxIntermediateOutputs": most}
    seen[most, constant] = end(BRIGHTEST, **extra), end(BRIGHTEST[::-1], **extra)
    print(f"{most}, moving average {constant}: falling {seen[most, constant][0]}, rising {seen[most, constant][1]}")

assert seen[None] == seen[100] == ((20, 20), (20, 20))
for most, left in ((6, 2), (7, 6), (19, 1)):
    assert seen[most] == ((left, left), (20, 20)), most
assert all(one.startswith("ValueError") for one in seen[10])
for constant in (0.01, 0.9):
    assert seen[None, constant] == ((10.5, 10.5), (10.5, 10.5))
    assert [ends[0] for ends in seen[6, constant]] == [1.5, 19.5]
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.32.0
#   None: range up to, 20 becomes; falling (20.0, 20.0), rising (20.0, 20.0)
#   100: range up to, 20 becomes; falling (20.0, 20.0), rising (20.0, 20.0)
#   6: range up to, 20 becomes; falling (2.0, 2.0), rising (20.0, 20.0)
#   7: range up to, 20 becomes; falling (6.0, 6.0), rising (20.0, 20.0)
#   10: range up to, 20 becomes; falling ValueError: No data is collected., rising ValueError: No data is collected.
#   19: range up to, 20 becomes; falling (1.0, 1.0), rising (20.0, 20.0)
#   None, moving average 0.01: falling (10.5, 10.5), rising (10.5, 10.5)
#   None, moving average 0.9: falling (10.5, 10.5), rising (10.5, 10.5)
#   6, moving average 0.01: falling (1.5, 1.5), rising (19.5, 19.5)
#   6, moving average 0.9: falling (1.5, 1.5), rising (19.5, 19.5)
