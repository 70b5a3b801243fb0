#!/usr/bin/env bash
# Guess: with onnxruntime-ggml a session gives what ONNX Runtime alone gives; a graph with a step that ggml cannot do is
#   left to ONNX Runtime as a whole.
# Really: which steps it can do goes by their names alone, and what it knows of a step are its inputs as of opset 13. In
#   files up to opset 10 the bounds of Clip are attributes and passed over: ReLU6 does nothing. Up to opset 12 the sizes
#   of a Split are, which becomes one in equal parts: of 4 distances and 12 classes a box gets 8 and 8 numbers; and a
#   Softmax with axis 1 runs over the classes of each cell, not over classes and cells. In every opset Max and Min look
#   at two inputs only, a third has no effect (the best of three scales is that of two); a reduction without
#   axes and with noop_with_empty_axes=1, which returns its input, reduces everything to one number. A norm written in
#   single steps with a factor per channel, over 64 cells of 64 channels, takes the factors for the cells'; with another
#   number of cells it stops with an error. Clip, Softmax, Split and Max of two at opset 13 are right.
# Here: exports have an opset of 13 or later, and each exported file is compared with torch.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.30.0 onnxruntime-ggml==0.2.0
cat > check.py <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import onnxruntime_ggml
from onnx import TensorProto, helper, numpy_helper

print(*(f"{name} {version(name)}" for name in ("onnxruntime-ggml", "onnxruntime", "onnx")))
onnxruntime.set_default_logger_severity(4)
rng = np.random.default_rng(0)


def both(nodes, inputs, stored, opset):
    """The last output of these steps by ONNX Runtime alone, and by ggml alone."""
    graph = helper.make_graph(
        [helper.make_node(kind, i, o, **more) for kind, i, o, more in nodes],
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1][2][0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    alone = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, inputs)[0]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # so that ggml does all of it, or nothing
    session = onnxruntime_ggml.InferenceSession(data, {"device": "cpu", "threads": 1}, options)
    return alone, session.run(None, inputs)[0]


def softmax(x, axes):
    powers = np.exp(x - x.max(axes, keepdims=True))
    return powers / powers.sum(axes, keepdims=True)


def check(text, nodes, inputs, stored, opset, right, other=None):
    """other: what ggml gives where it is not right."""
    alone, ggml = both(nodes, inputs, stored, opset)
    assert alone.shape == right.shape and np.allclose(alone, right, atol=1e-4)
    got = right if other is None else other
    assert ggml.shape == got.shape and np.allclose(ggml, got, atol=1e-2 if "norm" in text else 1e-4)
    if other is None:
        print(f"{text}, opset {opset}: as in ONNX Runtime")
    elif other.shape != right.shape:
        print(f"{text}, opset {opset}: shape {[*right.shape]}, with ggml {[*ggml.shape]}")
    else:
        wrong = np.abs(ggml - right) > 0.01
        most = np.abs(ggml - right).max()
        print(f"{text}, opset {opset}: {wrong.mean():.0%} of the numbers differ, by up to {most:.2f}")
        assert wrong.any()


x = rng.normal(0, 4, (1, 16, 6)).astype(np.float32)
cut = np.clip(x, 0, 6)
check("ReLU6", [("Clip", ["x"], ["y"], {"min": 0.0, "max": 6.0})], {"x": x}, {}, 10, cut, x)
ends = {"low": np.float32(0), "high": np.float32(6)}
check("ReLU6", [("Clip", ["x", "low", "high"], ["y"], {})], {"x": x}, ends, 13, cut)
check("box of 4 + 12", [("Split", ["x"], ["y", "z"], {"axis": 1, "split": [4, 12]})], {"x": x}, {}, 12,
      x[:, :4], x[:, :8])
check("box of 4 + 12", [("Split", ["x", "sizes"], ["y", "z"], {"axis": 1})], {"x": x}, {"sizes": [4, 12]}, 13, x[:, :4])
for opset in (12, 13):
    check("Softmax, axis 1", [("Softmax", ["x"], ["y"], {"axis": 1})], {"x": x}, {}, opset,
          softmax(x, (1, 2) if opset < 13 else 1), softmax(x, 1) if opset < 13 else None)
maps = {name: rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for name in "abc"}
for kind, best, count in (("Max", np.maximum, 2), ("Max", np.maximum, 3), ("Min", np.minimum, 3)):
    some = {name: maps[name] for name in "abc"[:count]}
    check(f"{kind} of {count} maps", [(kind, [*some], ["y"], {})], some, {}, 17, best.reduce([*some.values()]),
          best(maps["a"], maps["b"]) if count > 2 else None)
check("ReduceSum without axes", [("ReduceSum", ["x"], ["y"], {"noop_with_empty_axes": 1})], {"x": x}, {}, 13, x,
      x.sum(keepdims=True))

cells = rng.normal(size=(1, 64, 64)).astype(np.float32)  # 64 channels of 8 x 8 cells
factors = np.linspace(0.1, 2, 64, dtype=np.float32)
steps = [("ReduceMean", ["x"], ["mean"], {"axes": [2]}), ("Sub", ["x", "mean"], ["d"], {}),
         ("Pow", ["d", "two"], ["square"], {}), ("ReduceMean", ["square"], ["variance"], {"axes": [2]}),
         ("Add", ["variance", "small"], ["v"], {}), ("Sqrt", ["v"], ["size"], {}),
         ("Div", ["d", "size"], ["norm"], {}), ("Mul", ["norm", "factor"], ["y"], {})]
norm = (cells - cells.mean(2, keepdims=True)) / np.sqrt(cells.var(2, keepdims=True) + 1e-5)
for text, shape, other in (("cell", (64,), None), ("channel", (64, 1), norm * factors)):
    stored = {"two": np.float32(2), "small": np.float32(1e-5), "factor": factors.reshape(shape)}
    check(f"norm, a factor per {text}", steps, {"x": cells}, stored, 17, norm * factors.reshape(shape), other)
EOF
ORT_GGML_LOG=off OMP_NUM_THREADS=1 venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   onnxruntime-ggml 0.2.0 onnxruntime 1.30.0 onnx 1.23.2
#   ReLU6, opset 10: 55% of the numbers differ, by up to 9.30
#   ReLU6, opset 13: as in ONNX Runtime
#   box of 4 + 12, opset 12: shape [1, 4, 6], with ggml [1, 8, 6]
#   box of 4 + 12, opset 13: as in ONNX Runtime
#   Softmax, axis 1, opset 12: 24% of the numbers differ, by up to 0.94
#   Softmax, axis 1, opset 13: as in ONNX Runtime
#   Max of 2 maps, opset 17: as in ONNX Runtime
#   Max of 3 maps, opset 17: 34% of the numbers differ, by up to 3.68
#   Min of 3 maps, opset 17: 30% of the numbers differ, by up to 3.63
#   ReduceSum without axes, opset 13: shape [1, 16, 6], with ggml [1, 1, 1]
#   norm, a factor per cell, opset 17: as in ONNX Runtime
#   norm, a factor per channel, opset 17: 96% of the numbers differ, by up to 4.88
