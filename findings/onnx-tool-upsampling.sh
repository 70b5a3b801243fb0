#!/usr/bin/env bash
# Guess: onnx-tool counts the multiply-adds and parameters of each step of an ONNX file.
# Really: for a ConvTranspose it takes a convolution's formula: each output value times the kernel, without the input
#   channels. Right is each input value times its kernel. Upsampling by 2 from 64 to 64 channels counts four times,
#   depthwise too, from 64 to 256 sixteen times, from 256 to 64 once, by chance; the mask branch of a YOLOv8-seg has
#   1.65 in place of 1.34 billion. Flatten with axis -1 becomes one row, so that a MatMul over 100 cells counts as one
#   over one cell; a MatMul of [2, 1, 8, 8] by [1, 5, 8, 8] is half of it. Weights in Constant nodes, as some exporters
#   write them, are no parameters, 0 in place of 36864, but with `constant_folding`, which is off; their multiply-adds
#   are right. So are convolutions, and MatMul with the same batch on both sides.
# Here: multiply-adds are counted on the layers while they run, here one multiplication after the other.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 tabulate==0.10.0 onnx-tool==1.0.1
cat > check.py <<'EOF'
from importlib.metadata import version
from math import prod

import numpy as np
import onnx
import onnx_tool
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print(*(f"{name} {version(name)}" for name in ("onnx-tool", "onnxruntime", "onnx")))
rng = np.random.default_rng(0)


def counted(nodes, inputs, stored, constants=False):
    """Multiply-adds and parameters by onnx-tool, the last output's shape by it and by ONNX Runtime, the output."""
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    steps = [helper.make_node("Constant", [], [t.name], t.name, value=t) for t in tensors] if constants else []
    steps += [helper.make_node(kind, i, o, f"{k} {kind}", **more) for k, (kind, i, o, more) in enumerate(nodes)]
    graph = helper.make_graph(
        steps, "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [] if constants else tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    y = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)[0]
    tool = onnx_tool.Model(model, {}).graph
    tool.shape_infer()
    tool.profile()
    assert y.shape == tuple(d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim)
    return int(tool.macs[0]), int(tool.params), tuple(tool.tensormap["y"].get_shape()), y


def values(*shape):
    return rng.normal(size=shape).astype(np.float32)


def by_hand(x, w, step, group):
    """A ConvTranspose, one multiplication after the other, and how many there are."""
    _, ins, height, width = x.shape
    _, outs, high, wide = w.shape
    y, count = np.zeros((1, outs * group, (height - 1) * step + high, (width - 1) * step + wide)), 0
    for c, row, column in np.ndindex(ins, height, width):
        first = c // (ins // group) * outs
        for o, i, j in np.ndindex(outs, high, wide):
            y[0, first + o, row * step + i, column * step + j] += x[0, c, row, column] * w[c, o, i, j]
            count += 1
    return y, count


for ins, outs, size, step, group in ((8, 8, 2, 2, 1), (32, 8, 2, 2, 1), (8, 32, 2, 2, 1), (8, 8, 2, 2, 8)):
    x, w = values(1, ins, 6, 5), values(ins, outs // group, size, size)
    more = {"strides": [step, step], "group": group}
    macs, params, shape, y = counted([("ConvTranspose", ["x", "w"], ["y"], more)], {"x": x}, {"w": w})
    right, count = by_hand(x, w, step, group)
    assert np.allclose(y, right, atol=1e-4) and shape == y.shape and params == w.size
    print(f"ConvTranspose {ins} to {outs}, {size} x {size}, by {step}, {group} groups: {macs}, by hand {count}")
    assert macs == y.size * prod(w.shape[1:]) and count == x.size * prod(w.shape[1:])

x = {"x": values(1, 64, 80, 80)}  # the branch of a YOLOv8-seg that makes the masks
stored = {"a": values(64, 64, 3, 3), "b": values(64, 64, 2, 2), "c": values(64, 64, 3, 3), "d": values(32, 64, 1, 1)}
steps = [("Conv", ["x", "a"], ["1"], {"pads": [1] * 4}), ("ConvTranspose", ["1", "b"], ["2"], {"strides": [2, 2]}),
         ("Conv", ["2", "c"], ["3"], {"pads": [1] * 4}), ("Conv", ["3", "d"], ["y"], {})]
right = 80 * 80 * (stored["a"].size + stored["b"].size) + 160 * 160 * (stored["c"].size + stored["d"].size)
macs = counted(steps, x, stored)[0]
print(f"mask branch: {macs / 1e9:.2f} billion, by hand {right / 1e9:.2f}")
assert macs == right + 3 * 80 * 80 * stored["b"].size

w = {"w": values(8, 4)}
flat, last = ([("Flatten", ["x"], ["a"], {"axis": axis}), ("MatMul", ["a", "w"], ["y"], {})] for axis in (3, -1))
product = [("MatMul", ["x", "z"], ["y"], {})]
for text, nodes, inputs, stored, part in (
    ("Flatten(axis=3), MatMul", flat, {"x": values(1, 10, 10, 8)}, w, 1),
    ("Flatten(axis=-1), MatMul", last, {"x": values(1, 10, 10, 8)}, w, 100),
    ("MatMul [2, 5, 8, 8] by [5, 8, 8]", product, {"x": values(2, 5, 8, 8), "z": values(5, 8, 8)}, {}, 1),
    ("MatMul [2, 1, 8, 8] by [1, 5, 8, 8]", product, {"x": values(2, 1, 8, 8), "z": values(1, 5, 8, 8)}, {}, 2),
):
    macs, _, shape, y = counted(nodes, inputs, stored)
    print(f"{text}: {macs} and {[*shape]}, right {y.size * 8} and {[*y.shape]}")
    assert macs * part == y.size * 8 and (shape == y.shape) == (part == 1)

x, w = {"x": values(1, 64, 20, 20)}, {"w": values(64, 64, 3, 3)}
for constants in (False, True):
    macs, params = counted([("Conv", ["x", "w"], ["y"], {"pads": [1] * 4})], x, w, constants)[:2]
    print(f"weights in {'a Constant node' if constants else 'an initializer'}: {macs} and {params} parameters")
    assert macs == 400 * 36864 and params == (0 if constants else 36864)
EOF
OMP_NUM_THREADS=1 venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   onnx-tool 1.0.1 onnxruntime 1.32.0 onnx 1.23.2
#   ConvTranspose 8 to 8, 2 x 2, by 2, 1 groups: 30720, by hand 7680
#   ConvTranspose 32 to 8, 2 x 2, by 2, 1 groups: 30720, by hand 30720
#   ConvTranspose 8 to 32, 2 x 2, by 2, 1 groups: 491520, by hand 30720
#   ConvTranspose 8 to 8, 2 x 2, by 2, 8 groups: 3840, by hand 960
#   mask branch: 1.65 billion, by hand 1.34
#   Flatten(axis=3), MatMul: 3200 and [100, 4], right 3200 and [100, 4]
#   Flatten(axis=-1), MatMul: 32 and [1, 4], right 3200 and [100, 4]
#   MatMul [2, 5, 8, 8] by [5, 8, 8]: 5120 and [2, 5, 8, 8], right 5120 and [2, 5, 8, 8]
#   MatMul [2, 1, 8, 8] by [1, 5, 8, 8]: 2560 and [1, 5, 8, 8], right 5120 and [2, 5, 8, 8]
#   weights in an initializer: 14745600 and 36864 parameters
#   weights in a Constant node: 14745600 and 0 parameters
