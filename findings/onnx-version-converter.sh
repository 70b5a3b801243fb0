#!/usr/bin/env bash
# Guess: onnx.version_converter writes a model for another opset that computes the same, or refuses; it has
#   an adapter for what changed its meaning.
# Really: bilinear upsampling (Upsample of opset 8 and 9, Resize of 10: old necks) taken to opset 11 or later is
#   sampled half a pixel aside: the old operators had one grid, the new default is another, and the converter leaves
#   it out, though for RoiAlign it does write the old grid down. Hardmax taken to 13 keeps its axis while what that
#   means changes: one winner of classes, rows and columns together becomes one for each cell. All pass the
#   checker, without a warning, with the shape as before; ONNX Runtime and OpenVINO agree on each of them.
# Here: networks are exported at the opset that is used; no file is converted to another one.
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
from onnx import TensorProto, helper, numpy_helper, version_converter

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
core = openvino.Core()


def outputs(net, x):
    """The output in two runtimes, which have to agree."""
    onnx.checker.check_model(net, full_check=True)
    one = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})[0]
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # no bfloat16, whatever the CPU
    other = core.compile_model(core.read_model(net.SerializeToString()), "CPU", exact)({"x": x})[0]
    assert np.allclose(one, other, atol=1e-5)
    return one


def converted(x, shape, opsets, kind, *weights, **attributes):
    """The outputs before and after, and the attributes of the operator after."""
    old, new = opsets
    names = [weight.name for weight in weights]
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *names], ["y"], **attributes)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        list(weights),
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", old)], ir_version=8)
    after = version_converter.convert_version(net, new)
    assert after.opset_import[0].version == new
    return outputs(net, x), outputs(after, x), [a.name for a in after.graph.node[-1].attribute]


ramp = np.tile(np.arange(4, dtype=np.float32), (1, 1, 2, 1))  # rows 0 1 2 3
double = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
OLD, NEW = [0, 0.5, 1, 1.5, 2, 2.5, 3, 3], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
for kind, opsets, expected in (
    ("Upsample", (9, 10), OLD), ("Upsample", (9, 11), NEW), ("Upsample", (9, 18), NEW), ("Resize", (10, 13), NEW)
):
    before, after, attributes = converted(ramp, [1, 1, 4, 8], opsets, kind, double, mode="linear")
    print(f"{kind} linear, opset {opsets[0]} to {opsets[1]}, attributes after it {attributes}")
    print("  before", before[0, 0, 0].tolist(), "after", after[0, 0, 0].tolist())
    assert before[0, 0, 0].tolist() == OLD and after[0, 0, 0].tolist() == expected
    assert attributes == ["mode"]

box = numpy_helper.from_array(np.array([[0, 0, 3, 1]], np.float32), "box")
image = numpy_helper.from_array(np.array([0]), "image")
roi = {"output_height": 1, "output_width": 3, "sampling_ratio": 2}
before, after, attributes = converted(ramp, [1, 1, 1, 3], (10, 16), "RoiAlign", box, image, **roi)
print("RoiAlign, opset 10 to 16, attributes after it", attributes)
assert "coordinate_transformation_mode" in attributes and np.allclose(before, after)

scores = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)  # two classes, 2 x 2 cells
before, after, _ = converted(scores, [1, 2, 2, 2], (11, 13), "Hardmax", axis=1)
winners = int(before.sum()), int(after.sum())
print(f"Hardmax axis 1 of two classes and four cells, opset 11 to 13: winners {winners[0]}, then {winners[1]}")
assert winners == (1, 4)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 openvino 2026.4.1-22982-e213a147257-releases/2026/4
#   Upsample linear, opset 9 to 10, attributes after it ['mode']
#     before [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0] after [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0]
#   Upsample linear, opset 9 to 11, attributes after it ['mode']
#     before [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0] after [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
#   Upsample linear, opset 9 to 18, attributes after it ['mode']
#     before [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0] after [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
#   Resize linear, opset 10 to 13, attributes after it ['mode']
#     before [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0] after [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
#   RoiAlign, opset 10 to 16, attributes after it ['output_height', 'output_width', 'sampling_ratio', 'coordinate_transformation_mode']
#   Hardmax axis 1 of two classes and four cells, opset 11 to 13: winners 1, then 4
