#!/usr/bin/env bash
# Guess: a file that onnx-quantize has made int8 computes the same as the float file up to rounding, in each of its ways
#   (weights only, dynamic, static), or the step that it cannot do stays float.
# Really: of a Gemm's attributes only transB is looked at. alpha and beta become 1: with beta 0.25 the bias counts four
#   times as much, 46% of the rows have another best class; with alpha 0.25 all but the bias does. transA becomes 0:
#   rows and columns are exchanged where the map is square. It is so in all three ways, for weights only, too, where the
#   weights alone should change. With a scale per channel, dynamic and static, a MatMul over [batch, tokens, channels]
#   takes the scales of the channels for the tokens': with as many tokens as outputs (64 channels, a map of 8 x 8) row 1
#   gets the scale of channel 1 and so on, an error of 86%; with other numbers of tokens ONNX Runtime stops with an
#   error. Nothing is said. A plain Gemm, one with transB, a MatMul over two axes, and one scale for all are right.
# Here: an exported Gemm has neither alpha nor beta nor transA, and each int8 file is compared with the float one.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 onnx-ir==1.1.0 onnxscript==0.7.2 \
  pydantic==2.14.4 onnx-quantize==0.2.0
cat > check.py <<'EOF'
import copy
import logging
import warnings
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx_quantize import QConfig, quantize

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
print(*(f"{name} {version(name)}" for name in ("onnx-quantize", "onnxruntime", "onnx")))
rng = np.random.default_rng(0)
BIAS = np.float32([-2, -1, 1, 3])
WEIGHTS = (rng.normal(size=(16, 4)) / 2).astype(np.float32)


def net(kind, shape, out, weights, bias=None, **more):
    """One step with stored weights: x by weights, and a bias."""
    stored = {"w": weights} if bias is None else {"w": weights, "b": bias}
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *stored], ["y"], **more)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


WAYS = {"weights only": {"weights_only": True}, "dynamic": {"is_static": False}, "static": {}}


def errors(model, x, group_size=None):
    """How far each way's outputs are from the float file's, as a part of their size; and the outputs."""
    right = run(model, x)
    parts, outs = {}, {}
    for way, more in WAYS.items():
        config = QConfig(calibration_data=x, group_size=group_size, **more)
        outs[way] = run(quantize(copy.deepcopy(model), config), x)
        assert outs[way].shape == right.shape
        parts[way] = round(float(np.sqrt(((outs[way] - right) ** 2).mean() / (right**2).mean())), 2)
    return parts, outs, right


x = rng.normal(size=(400, 16)).astype(np.float32)
square = rng.normal(size=(16, 16)).astype(np.float32)
print("Gemm of 400 rows, 16 features, 4 classes; weights only, dynamic, static:")
for more, wrong in (
    ({}, None),
    ({"transB": 1}, None),
    ({"alpha": 0.25}, x @ WEIGHTS + BIAS),
    ({"beta": 0.25}, x @ WEIGHTS + BIAS),
    ({"beta": 0.25, "transB": 1}, x @ WEIGHTS + BIAS),
):
    weights = WEIGHTS.T if more.get("transB") else WEIGHTS
    parts, outs, right = errors(net("Gemm", [400, 16], [400, 4], weights, BIAS, **more), x)
    by_hand = more.get("alpha", 1) * (x @ WEIGHTS) + more.get("beta", 1) * BIAS
    assert np.allclose(right, by_hand, atol=1e-4)
    other = {way: round(float((out.argmax(1) != right.argmax(1)).mean()), 2) for way, out in outs.items()}
    print(f"  {more or 'plain'}: error {[*parts.values()]} of the outputs' size, another best class", [*other.values()])
    if wrong is None:
        assert max(parts.values()) < 0.02 and max(other.values()) < 0.03
    else:
        assert min(parts.values()) > 0.5 and min(other.values()) > 0.15
        assert all(np.allclose(out, wrong, atol=0.3) for out in outs.values())  # as if all attributes were 1

parts, outs, right = errors(net("Gemm", [16, 16], [16, 4], WEIGHTS, BIAS, transA=1), square)
assert np.allclose(right, square.T @ WEIGHTS + BIAS, atol=1e-4)
print(f"  transA=1 on 16 x 16: error {[*parts.values()]}")
assert min(parts.values()) > 0.5
assert all(np.allclose(out, square @ WEIGHTS + BIAS, atol=0.3) for out in outs.values())

# channels of different size, as trained ones are: a scale for each
weights = (rng.normal(size=(64, 64)) * np.geomspace(0.1, 1, 64)).astype(np.float32)
tokens = rng.normal(size=(1, 64, 64)).astype(np.float32)
print("MatMul by 64 x 64 weights; weights only, dynamic, static:")
for name, shape, group_size, right_ways in (
    ("[64, 64], per channel", [64, 64], -1, 3),
    ("[1, 64, 64], one scale", [1, 64, 64], None, 3),
    ("[1, 64, 64], per channel", [1, 64, 64], -1, 1),
):
    parts, outs, right = errors(net("MatMul", shape, shape, weights), tokens.reshape(shape), group_size)
    print(f"  {name}: error {[*parts.values()]}")
    bad = [way for way, part in parts.items() if part > 0.02]
    assert bad == list(WAYS)[right_ways:]
    if bad:
        scale = np.abs(weights).max(0)  # of each channel of the outputs: taken for the rows, in place of the columns
        for way in bad:
            assert parts[way] > 0.4
            assert np.abs(outs[way] / scale[:, None] * scale - right).max() < 0.03 * np.abs(right).max()
EOF
OMP_NUM_THREADS=1 venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   onnx-quantize 0.2.0 onnxruntime 1.32.0 onnx 1.23.2
#   Gemm of 400 rows, 16 features, 4 classes; weights only, dynamic, static:
#     plain: error [0.0, 0.01, 0.01] of the outputs' size, another best class [0.0, 0.0, 0.0]
#     {'transB': 1}: error [0.0, 0.01, 0.01] of the outputs' size, another best class [0.0, 0.0, 0.0]
#     {'alpha': 0.25}: error [0.7, 0.7, 0.7] of the outputs' size, another best class [0.19, 0.18, 0.18]
#     {'beta': 0.25}: error [0.75, 0.75, 0.75] of the outputs' size, another best class [0.46, 0.46, 0.46]
#     {'beta': 0.25, 'transB': 1}: error [0.75, 0.75, 0.75] of the outputs' size, another best class [0.46, 0.46, 0.46]
#     transA=1 on 16 x 16: error [1.14, 1.14, 1.14]
#   MatMul by 64 x 64 weights; weights only, dynamic, static:
#     [64, 64], per channel: error [0.01, 0.01, 0.01]
#     [1, 64, 64], one scale: error [0.02, 0.02, 0.02]
#     [1, 64, 64], per channel: error [0.01, 0.86, 0.86]
