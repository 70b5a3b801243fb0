#!/usr/bin/env bash
# Guess: a runtime that cannot do what an attribute of an ONNX node asks for refuses the model.
# Really: OpenVINO reads ONNX's Resize and passes over keep_aspect_ratio_policy, antialias and
#   exclude_outside without an error or a warning. A letterbox inside of the network, 480 x 640 into 416 x 416,
#   becomes a stretch to 416 x 416 (ONNX Runtime and the ONNX reference give 312 x 416), with an output of
#   another shape; and lines one pixel wide vanish where antialias would have kept a quarter of them.
# Here: images are resized and padded before the network, with Pillow; no graph has such a Resize.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1
venv/bin/python - <<'EOF'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
core = openvino.Core()


def resized(image, names, number, shape, mode="linear", **attributes):
    """Runtime -> one image (1, C, H, W) after a Resize of height and width, opset 19."""
    node = helper.make_node("Resize", ["x", *names], ["y"], mode=mode, axes=[2, 3], **attributes)
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(number, names[-1])],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(net, full_check=True)  # it also infers the shape of y
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # no bfloat16, whatever the CPU
    compiled = core.compile_model(core.read_model(net.SerializeToString()), "CPU", exact)
    return {
        "reference": ReferenceEvaluator(net).run(None, {"x": image})[0],
        "onnxruntime": onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": image})[0],
        "openvino": compiled({"x": image})[0],
    }


image = np.random.default_rng(0).random((1, 3, 480, 640), dtype=np.float32)
square = np.array([416, 416])
for policy, side in (("not_larger", (312, 416)), ("not_smaller", (416, 555)), ("stretch", (416, 416))):
    made = resized(image, ["", "", "sizes"], square, [1, 3, *side], keep_aspect_ratio_policy=policy)
    shapes = {runtime: y.shape[2:] for runtime, y in made.items()}
    print(f"480 x 640, sizes 416 416, {policy}: {shapes}")
    assert shapes == {"reference": side, "onnxruntime": side, "openvino": (416, 416)}

lines = np.zeros((1, 1, 32, 32), np.float32)
lines[..., ::4] = 1  # every fourth column
quarter = np.array([0.25, 0.25], np.float32)
for antialias, kept, in_openvino in ((0, 0.0, 0.0), (1, 0.25, 0.0)):
    made = resized(lines, ["", "scales"], quarter, [1, 1, 8, 8], antialias=antialias)
    inner = {runtime: round(float(y[..., 2:-2].mean()), 4) for runtime, y in made.items()}
    print(f"lines, scale 1/4, antialias {antialias}: {inner}")
    assert inner == {"reference": kept, "onnxruntime": kept, "openvino": in_openvino}

noise = np.random.default_rng(1).random((1, 1, 8, 8), dtype=np.float32)
double = np.array([2, 2], np.float32)
for outside in (0, 1):
    made = resized(noise, ["", "scales"], double, [1, 1, 16, 16], mode="cubic", exclude_outside=outside)
    away = {runtime: bool(abs(y - made["onnxruntime"]).max() > 1e-3) for runtime, y in made.items()}
    print(f"cubic, exclude_outside {outside}: other values than onnxruntime: {away}")
    assert away == {"reference": False, "onnxruntime": False, "openvino": bool(outside)}
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 openvino 2026.4.1-22982-e213a147257-releases/2026/4
#   480 x 640, sizes 416 416, not_larger: {'reference': (312, 416), 'onnxruntime': (312, 416), 'openvino': (416, 416)}
#   480 x 640, sizes 416 416, not_smaller: {'reference': (416, 555), 'onnxruntime': (416, 555), 'openvino': (416, 416)}
#   480 x 640, sizes 416 416, stretch: {'reference': (416, 416), 'onnxruntime': (416, 416), 'openvino': (416, 416)}
#   lines, scale 1/4, antialias 0: {'reference': 0.0, 'onnxruntime': 0.0, 'openvino': 0.0}
#   lines, scale 1/4, antialias 1: {'reference': 0.25, 'onnxruntime': 0.25, 'openvino': 0.0}
#   cubic, exclude_outside 0: other values than onnxruntime: {'reference': False, 'onnxruntime': False, 'openvino': False}
#   cubic, exclude_outside 1: other values than onnxruntime: {'reference': False, 'onnxruntime': False, 'openvino': True}
