#!/usr/bin/env bash
# Guess: CalibrationMethod.Entropy looks for the range that loses least and cuts off a rare extreme value; MinMax does
#   not.
# Really: quantize_static sorts the values into 128 bins and compares ranges of 128 bins or more: that is one range, the
#   one of all values. All scales and zero points are those of MinMax, and the int8 network gives the same numbers to
#   the last bit, on three kinds of data. One value of 100 among 82 000 normal ones makes the steps of both 11 times as
#   wide as without it. It is in the collecting: all images go into one histogram, and quantize_static takes no number
#   of bins. create_calibrator does: with 2048 the same data get a range up to 7.8 in place of 100. Percentile cuts as
#   it says.
# Here: scales and zero points are compared one by one and outputs bit by bit; what a range costs is measured on an
#   image of normal values.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - 2>errors.txt <<'EOF' || { cat errors.txt; exit 1; }
import contextlib
import io
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime")))
chance = np.random.default_rng(0)
STORED = {
    "w": chance.normal(0, 0.2, (8, 1, 3, 3)),
    "b": chance.normal(0, 0.1, 8),
    "v": chance.normal(0, 0.2, (4, 8, 1, 1)),
}
graph = helper.make_graph(
    [
        helper.make_node("Conv", ["image", "w", "b"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["a"], ["s"], "gate"),
        helper.make_node("Mul", ["a", "s"], ["m"], "silu"),
        helper.make_node("Conv", ["m", "v"], ["scores"], "last"),
    ],
    "net",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 64, 64])],
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4, 64, 64])],
    [numpy_helper.from_array(value.astype(np.float32), name) for name, value in STORED.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(onnx.shape_inference.infer_shapes(model), "net.onnx")


class Images(CalibrationDataReader):
    def __init__(self, images):
        self.rows = iter([{"image": image} for image in images])

    def get_next(self):
        return next(self.rows, None)


def run(file, image):
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(file, settings).run(None, {"image": image})[0]


def quantized(images, method, **extra):
    """Scales and zero points of the int8 file, its outputs for the last image, and how far they are off in the mean."""
    with contextlib.redirect_stdout(io.StringIO()):
        quantize_static(
            "net.onnx",
            "int8.onnx",
            Images(images),
            calibrate_method=method,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=extra,
        )
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load("int8.onnx").graph.initializer}
    numbers = {name: value.tolist() for name, value in stored.items() if name.endswith(("_scale", "_zero_point"))}
    outputs = run("int8.onnx", images[-1])
    return numbers, outputs, float(np.abs(outputs - run("net.onnx", images[-1])).mean())


def top(images, bins):
    """The upper end of the image's range that the entropy calibrator finds with so many bins."""
    with contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            "net.onnx", None, "all.onnx", CalibrationMethod.Entropy, extra_options={"num_bins": bins}
        )
        calibrator.collect_data(Images(images))
        return round(float(calibrator.compute_data()["image"].range_value[1]), 1)


normal = [chance.normal(0, 1, (1, 1, 64, 64)).astype(np.float32) for _ in range(20)]
spike = [image.copy() for image in normal]
spike[3][0, 0, 20, 20] = 100
seen = {}
for title, images in {
    "normal": normal,
    "one value of 100": spike,
    "long tail": [(image**3).astype(np.float32) for image in normal],
}.items():
    for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy, CalibrationMethod.Percentile):
        extra = {"CalibPercentile": 99.9} if method is CalibrationMethod.Percentile else {}
        numbers, outputs, error = seen[title, method.name] = quantized(images, method, **extra)
        print(f"{title}, {method.name}: scale of the image {numbers['image_scale']:.4f}, mean error {error:.4f}")
    same = seen[title, "MinMax"][0] == seen[title, "Entropy"][0]
    equal = bool((seen[title, "MinMax"][1] == seen[title, "Entropy"][1]).all())
    print(f"  Entropy and MinMax: all {len(numbers)} scales and zero points equal {same}, outputs equal {equal}")
    assert same and equal and seen[title, "Percentile"][0] != seen[title, "MinMax"][0]
ends = {bins: top(spike, bins) for bins in (128, 256, 2048)}
print(f"one value of 100, upper end that Entropy finds, by number of bins: {ends}")

wide, narrow = (seen[title, "Entropy"][0]["image_scale"] for title in ("one value of 100", "normal"))
assert wide > 10 * narrow and ends[128] == 100 and ends[2048] < 20
assert seen["one value of 100", "Percentile"][2] < seen["one value of 100", "Entropy"][2] / 3
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.32.0
#   normal, MinMax: scale of the image 0.0362, mean error 0.0037
#   normal, Entropy: scale of the image 0.0362, mean error 0.0037
#   normal, Percentile: scale of the image 0.0258, mean error 0.0029
#     Entropy and MinMax: all 16 scales and zero points equal True, outputs equal True
#   one value of 100, MinMax: scale of the image 0.4098, mean error 0.0394
#   one value of 100, Entropy: scale of the image 0.4098, mean error 0.0394
#   one value of 100, Percentile: scale of the image 0.0257, mean error 0.0029
#     Entropy and MinMax: all 16 scales and zero points equal True, outputs equal True
#   long tail, MinMax: scale of the image 0.7715, mean error 0.0562
#   long tail, Entropy: scale of the image 0.7715, mean error 0.0562
#   long tail, Percentile: scale of the image 0.2780, mean error 0.0304
#     Entropy and MinMax: all 16 scales and zero points equal True, outputs equal True
#   one value of 100, upper end that Entropy finds, by number of bins: {128: 100.0, 256: 84.4, 2048: 7.8}
