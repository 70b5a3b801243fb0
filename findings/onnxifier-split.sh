#!/usr/bin/env bash
# Guess: onnxify, with the passes that it takes by itself, writes Split as Slices of the same values.
# Really: where the parts are not equal (`num_outputs`, opset 18 on) it counts in another way than ONNX: 10 rows in 4
#   are 2 + 2 + 2 + 2, not 3 + 3 + 3 + 1, and rows 8 and 9 are in no part; 10 in 3 lose their last row; 7 in 2 are
#   6 + 1, not 4 + 3. With `-v 17` (`target_opset`) the file is not made opset 19 before, and a Split without sizes has
#   no `num_outputs`: each part is one channel wide, however many parts there are. Softmax over one bin is 1, so that
#   all distances of a head are the same, whatever the image. Equal parts at opset 19, given sizes, and opset 17
#   without `-v` are right. The file is valid each time.
# Here: judged by ONNX Runtime on the file before.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxifier==2.0.3
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxifier
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "onnxifier")))


def net(nodes, stored, x, y, opset):
    graph = helper.make_graph(
        [helper.make_node(op, i, o, f"{k} {op}", **a) for k, (op, i, o, a) in enumerate(nodes)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.array(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x):
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def strips(rows, parts, sizes=None):
    """First and last row of each strip of a map whose values are the numbers of the rows."""
    names = [f"s{i}" for i in range(parts)]
    ends = [f"{op}{i}" for i in range(parts) for op in ("Min", "Max")]
    nodes = [
        ("Split", ["x", "sizes"] if sizes else ["x"], names, {"axis": 2, **({} if sizes else {"num_outputs": parts})}),
        *((f"Reduce{end[:3]}", [f"s{end[3:]}", "axis"], [end], {}) for end in ends),
        ("Concat", ends, ["y"], {"axis": 2}),
    ]
    stored = {"axis": [2], **({"sizes": sizes} if sizes else {})}
    x = np.arange(rows, dtype=np.float32).reshape(1, 1, rows, 1)
    return net(nodes, stored, x.shape, [1, 1, 2 * parts, 1], 19), x


def show(y):
    pairs = y.reshape(-1, 2).astype(int).tolist()
    return " ".join(f"{a}-{b}" for a, b in pairs)


for rows, parts, sizes in ((12, 4, None), (10, 4, None), (10, 3, None), (7, 2, None), (10, 4, [3, 3, 3, 1])):
    model, x = strips(rows, parts, sizes)
    before, after = run(model, x), run(onnxifier.convert(model, print_passes=False), x)
    print(f"{rows} rows in {parts}{', sizes given' if sizes else ''}: {show(before)}, after onnxify {show(after)}")
    assert (before == after).all() == (rows % parts == 0 or bool(sizes))

# A head as in YOLOv8: 16 bins for each of the four sides of a box, their mean by Softmax
SIDES = ["left", "top", "right", "bottom"]
nodes = [("Split", ["x"], SIDES, {"axis": 1})]
for side in SIDES:
    nodes += [("Softmax", [side], [f"{side} p"], {"axis": 1}), ("Mul", [f"{side} p", "bins"], [f"{side} b"], {})]
    nodes += [("ReduceSum", [f"{side} b", "axis"], [f"{side} d"], {})]
nodes += [("Concat", [f"{side} d" for side in SIDES], ["y"], {"axis": 1})]
stored = {"bins": np.arange(16, dtype=np.float32).reshape(1, 16, 1), "axis": [1]}
x = np.random.default_rng(0).normal(0, 4, (1, 64, 3)).astype(np.float32)
model = net(nodes, stored, x.shape, [1, 4, 3], 17)
before = run(model, x)
print(f"distances of the first cell, opset 17: {before[0, :, 0].astype(float).round(1).tolist()}")
for text, options in (("onnxify", {}), ("onnxify -v 17", {"target_opset": 17})):
    after = run(onnxifier.convert(model, print_passes=False, **options), x)
    print(f"after {text}: {after[0, :, 0].astype(float).round(1).tolist()}")
    assert np.allclose(before, after, atol=1e-4) if not options else (after == 120).all()
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnxifier 2.0.3
#   12 rows in 4: 0-2 3-5 6-8 9-11, after onnxify 0-2 3-5 6-8 9-11
#   10 rows in 4: 0-2 3-5 6-8 9-9, after onnxify 0-1 2-3 4-5 6-7
#   10 rows in 3: 0-3 4-7 8-9, after onnxify 0-3 4-7 8-8
#   7 rows in 2: 0-3 4-6, after onnxify 0-5 6-6
#   10 rows in 4, sizes given: 0-2 3-5 6-8 9-9, after onnxify 0-2 3-5 6-8 9-9
#   distances of the first cell, opset 17: [9.8, 2.9, 10.2, 8.2]
#   after onnxify: [9.8, 2.9, 10.2, 8.2]
#   after onnxify -v 17: [120.0, 120.0, 120.0, 120.0]
