#!/usr/bin/env bash
# Guess: int8 with one scale per channel is at least as exact as with one for the whole layer, and a channel
#   whose weights are all zero is the easiest: it gives its bias.
# Really: ONNX Runtime's quantizer gives such a channel the weight scale 1, and a bias is stored in steps of input
#   scale times weight scale: those of the input, say 6 / 255. The biases that batch normalization leaves there are
#   rounded to these steps, small ones to 0; one weight of 0.000001 in the channel is enough to keep them. Per tensor,
#   the same bias is right. Pruned networks are full of such channels, and nothing is said.
# Here: 2:4 keeps two weights of every four, so that no channel is empty; int8 files are judged by AP, not by one output.
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

logging.disable(logging.WARNING)  # the advice to preprocess: one convolution needs none
print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime")))
random = np.random.default_rng(0)
IMAGES = [random.uniform(0, 6, (1, 3, 16, 16)).astype(np.float32) for _ in range(4)]  # as after ReLU6
IMAGES[0][0, 0, 0, :2] = 0, 6
BIAS = np.array([0.01, 0.01, 0.03, 0.05], np.float32)


class Calibration(CalibrationDataReader):
    def __init__(self):
        self.rest = iter([{"x": image} for image in IMAGES])

    def get_next(self):
        return next(self.rest, None)


def outputs(weights, form, per_channel):
    """Mean of each output channel, as float and as int8, and the weight scales."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 16, 16])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(net, full_check=True)
    onnx.save(net, "net.onnx")
    quantize_static(
        "net.onnx", "int8.onnx", Calibration(), quant_format=form, per_channel=per_channel,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )
    means = [
        onnxruntime.InferenceSession(path).run(None, {"x": IMAGES[0]})[0].mean((0, 2, 3))
        for path in ("net.onnx", "int8.onnx")
    ]
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load("int8.onnx").graph.initializer}
    return *means, tensors["w_scale"]


weights = random.uniform(-0.01, 0.01, (4, 3, 1, 1)).astype(np.float32)
weights[1:] = 0  # three of four channels are pruned
nearly = weights.copy()
nearly[1:, 0] = 1e-6
for form in (QuantFormat.QDQ, QuantFormat.QOperator):
    for name, w, per_channel in (
        ("per tensor", weights, False), ("per channel", weights, True), ("per channel, 0.000001", nearly, True)
    ):
        exact, rounded, scales = outputs(w, form, per_channel)
        print(f"{form}, {name}: empty channels {rounded[1:].round(4)}, float {exact[1:].round(4)}")
        print(f"  weight scales {np.atleast_1d(scales)}")
        away = abs(rounded - exact)[1:]
        if name == "per channel":
            step = 6 / 255
            assert scales[1:].tolist() == [1, 1, 1]
            assert np.allclose(rounded[1:], np.round(BIAS[1:] / step) * step, atol=1e-3)
            assert away.min() > 0.002
        else:
            assert away.max() < 0.0005
END
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1
#   QDQ, per tensor: empty channels [0.0099 0.0299 0.0499], float [0.01 0.03 0.05]
#     weight scales [3.6823556e-05]
#   QDQ, per channel: empty channels [0.     0.0235 0.047 ], float [0.01 0.03 0.05]
#     weight scales [3.6823556e-05 1.0000000e+00 1.0000000e+00 1.0000000e+00]
#   QDQ, per channel, 0.000001: empty channels [0.0099 0.0299 0.0499], float [0.01 0.03 0.05]
#     weight scales [3.6823556e-05 7.8740161e-09 7.8740161e-09 7.8740161e-09]
#   QOperator, per tensor: empty channels [0.0099 0.0299 0.0499], float [0.01 0.03 0.05]
#     weight scales [3.6823556e-05]
#   QOperator, per channel: empty channels [0.     0.0235 0.047 ], float [0.01 0.03 0.05]
#     weight scales [3.6823556e-05 1.0000000e+00 1.0000000e+00 1.0000000e+00]
#   QOperator, per channel, 0.000001: empty channels [0.0099 0.0299 0.0499], float [0.01 0.03 0.05]
#     weight scales [3.6823556e-05 7.8740161e-09 7.8740161e-09 7.8740161e-09]
