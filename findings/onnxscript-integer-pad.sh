#!/usr/bin/env bash
# Guess: an optimizer that moves a Pad into an integer convolution leaves the numbers alone.
# Really: onnxscript.optimizer.optimize moves a Pad with 0 into ConvInteger whatever its zero point is. ConvInteger
#   pads with the zero point: a uint8 image with a black border gets a grey one when its zero point is 128, and every
#   output that touches the border is another number. Nothing is said. A Pad with 128, which would be right to
#   move, stays. With a zero point of 0 or none the numbers are right; ONNX Runtime's own optimizations, onnxsim,
#   onnxslim and onnxoptimizer leave them alone everywhere.
# Here: files are exported without this optimizer, and each one is compared with torch.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxscript==0.7.2 onnx-ir==1.1.0 \
  onnxsim==0.8.1 onnxslim==0.1.98 onnxoptimizer==0.4.2
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
import onnxsim
import onnxslim
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer

NAMES = ("onnx", "onnxruntime", "onnxscript", "onnx-ir", "onnxsim", "onnxslim", "onnxoptimizer")
print(*(f"{name} {version(name)}" for name in NAMES))
random = np.random.default_rng(0)
IMAGE = random.integers(0, 256, (1, 3, 6, 6)).astype(np.uint8)
WEIGHTS = random.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)


def net(border, zero):
    """A 3 x 3 convolution of integers on the image, padded with `border`."""
    stored = {"pads": np.array([0, 0, 1, 1] * 2), "border": np.uint8(border), "w": WEIGHTS}
    if zero is not None:
        stored["zero"] = np.uint8(zero)
    nodes = [
        helper.make_node("Pad", ["x", "pads", "border"], ["padded"]),
        helper.make_node("ConvInteger", ["padded", "w"] + ["zero"] * ("zero" in stored), ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, IMAGE.shape),
        helper.make_tensor_value_info("y", TensorProto.INT32, [1, 4, 6, 6]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3  # not the warning about numbers that nothing uses any more
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": IMAGE})[0]


def copy(model):
    return onnx.ModelProto.FromString(model.SerializeToString())


for border, zero in ((0, None), (0, 0), (0, 128), (128, 128)):
    model = net(border, zero)
    padded = np.pad(IMAGE, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=border).astype(np.int32) - (zero or 0)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    right = np.einsum("nchwij,ocij->nohw", windows, WEIGHTS.astype(np.int32))
    made = optimizer.optimize(copy(model))
    for other in (
        run(model), run(model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL),
        run(onnxsim.simplify(copy(model))[0]), run(onnxslim.slim(copy(model))),
        run(onnxoptimizer.optimize(copy(model))),
    ):
        assert (other == right).all()
    away = run(made) != right
    nodes = [node.op_type for node in made.graph.node]
    inside = int(away[:, :, 1:-1, 1:-1].sum())
    wrong = int(away.sum())
    print(f"Pad with {border}, zero point {zero}: {nodes}, wrong {wrong} of {away.size}, {inside} of them inside")
    assert ("Pad" in nodes) == (border == 128)
    assert inside == 0 and away.any() == ((border, zero) == (0, 128))
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnxscript 0.7.2 onnx-ir 1.1.0 onnxsim 0.8.1 onnxslim 0.1.98 onnxoptimizer 0.4.2
#   Pad with 0, zero point None: ['ConvInteger'], wrong 0 of 144, 0 of them inside
#   Pad with 0, zero point 0: ['ConvInteger'], wrong 0 of 144, 0 of them inside
#   Pad with 0, zero point 128: ['ConvInteger'], wrong 80 of 144, 0 of them inside
#   Pad with 128, zero point 128: ['Pad', 'ConvInteger'], wrong 0 of 144, 0 of them inside
