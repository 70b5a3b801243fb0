#!/usr/bin/env bash
# Guess: with keep_io_types=True the float16 file of onnxconverter-common has the inputs and outputs of the float32 file
#   in float32.
# Really: an output that comes from an operator which the converter itself leaves in float32 (its default list: Resize,
#   TopK, Min, Max, RoiAlign and more) becomes float16: a Cast is added behind it, the entry of the output is
#   changed. A caller who multiplies sides of such boxes has infinite areas from 256 x 256 pixels on; one who reads the
#   bytes as float32 has half as many. The same happens with nodes named in node_block_list to keep them exact: a file's
#   last node cannot be kept. Only where the last operator is one that is converted is the output float32. Nothing is
#   said.
# Here: judged by ONNX Runtime on the float32 file, types and values.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 onnxconverter-common==1.16.0
venv/bin/python -W error - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common import float16

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "onnxconverter-common")))
SETTINGS = onnxruntime.SessionOptions()
SETTINGS.log_severity_level = 3


def write(nodes, shape, stored):
    """A float32 file from x to y; every node has a name."""
    nodes = [helper.make_node(kind, inputs, outputs, f"node_{i}", **rest) for i, (kind, inputs, outputs, rest) in
             enumerate(nodes)]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, value):
    """The output's type by ONNX Runtime, and the output, for a float32 input."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), SETTINGS)
    assert session.get_inputs()[0].type == "tensor(float)"
    return session.get_outputs()[0].type, session.run(["y"], {"x": value})[0]


chance = np.random.default_rng(0)
BOXES = np.concatenate([chance.integers(0, 100, (100, 2)), chance.integers(200, 500, (100, 2))], 1).astype(np.float32)
SCORES = chance.uniform(0, 1, (1, 100)).astype(np.float32)
MAP = chance.uniform(0, 1, (1, 1, 4, 4)).astype(np.float32)
ONE, LEFT, RIGHT = np.float32(1), np.float32(0), np.float32(640)
FILES = {  # nodes, input, stored tensors, further settings
    "boxes cut by Max and Min": (
        [("Max", ["x", "a"], ["c"], {}), ("Min", ["c", "b"], ["y"], {})], BOXES, {"a": LEFT, "b": RIGHT}, {},
    ),
    "the same, then Mul by 1": (
        [("Max", ["x", "a"], ["c"], {}), ("Min", ["c", "b"], ["d"], {}), ("Mul", ["d", "one"], ["y"], {})],
        BOXES, {"a": LEFT, "b": RIGHT, "one": ONE}, {},
    ),
    "TopK of scores": ([("TopK", ["x", "k"], ["y", "places"], {})], SCORES, {"k": np.array([100])}, {}),
    "map resized": (
        [("Relu", ["x"], ["r"], {}), ("Resize", ["r", "", "s"], ["y"], {"mode": "linear"})],
        MAP, {"s": np.array([1, 1, 2, 2], np.float32)}, {},
    ),
    "Add, kept by node_block_list": (
        [("Relu", ["x"], ["r"], {}), ("Add", ["r", "one"], ["y"], {})],
        BOXES, {"one": ONE}, {"node_block_list": ["node_1"]},
    ),
    "Add": ([("Relu", ["x"], ["r"], {}), ("Add", ["r", "one"], ["y"], {})], BOXES, {"one": ONE}, {}),
}  # fmt: skip
seen = {}
for title, (nodes, value, stored, settings) in FILES.items():
    model = write(nodes, value.shape, stored)
    kind, right = run(model, value)
    assert kind == "tensor(float)"
    half = float16.convert_float_to_float16(model, keep_io_types=True, **settings)
    kind, found = run(half, value)
    assert np.abs(found.astype(np.float32) - right).max() < 0.3
    seen[title] = (kind, round(found.nbytes / right.nbytes, 1))
    print(f"{title}: {kind}, {seen[title][1]} of the bytes")
    if value is BOXES:
        with np.errstate(over="ignore"):
            areas = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
        seen[title] += (int(np.isinf(areas).sum()),)
        print(f" infinite areas: {seen[title][2]} of {len(areas)}")

for title in ("boxes cut by Max and Min", "TopK of scores", "map resized", "Add, kept by node_block_list"):
    assert seen[title][:2] == ("tensor(float16)", 0.5), title
for title in ("the same, then Mul by 1", "Add"):
    assert seen[title] == ("tensor(float)", 1, 0), title
assert seen["boxes cut by Max and Min"][2] > 30
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.32.0 onnxconverter-common 1.16.0
#   boxes cut by Max and Min: tensor(float16), 0.5 of the bytes
#    infinite areas: 67 of 100
#   the same, then Mul by 1: tensor(float), 1.0 of the bytes
#    infinite areas: 0 of 100
#   TopK of scores: tensor(float16), 0.5 of the bytes
#   map resized: tensor(float16), 0.5 of the bytes
#   Add, kept by node_block_list: tensor(float16), 0.5 of the bytes
#    infinite areas: 67 of 100
#   Add: tensor(float), 1.0 of the bytes
#    infinite areas: 0 of 100
