#!/usr/bin/env bash
# Guess: a reduction over the classes in an ONNX file is one over the classes in OpenVINO.
# Really: with opset 13 to 17 OpenVINO looks for the axes of ReduceL1, ReduceLogSum and ReduceLogSumExp where only
#   opset 18 has them, finds none, and reduces over everything: classes, cells and all. A softmax written as the logits
#   less their ReduceLogSumExp (torch.logsumexp exported with opset 17) gives scores that sum up to 1 over the
#   whole map, all of them tiny, in the right shape, without a word. The seven other reductions are right, and so are
#   these three with opset 11 or 18.
# Here: each exported file is compared with torch; opset 18 or ReduceSum of Exp in place of the three.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "openvino")))
CLASSES, SIDE = 3, 4
SHAPE = (1, CLASSES, SIDE, SIDE)
x = np.random.default_rng(0).uniform(0.5, 2, SHAPE).astype(np.float32)
CORE = openvino.Core()
PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}
REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


def net(nodes, opset, constants=()):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "net", ends[:1], ends[1:], list(constants)),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def reduction(name, opset):
    """The reduction over the classes, its axes where this opset has them -> node and constants."""
    if opset >= 18 or (name == "Sum" and opset >= 13):
        axes = numpy_helper.from_array(np.array([1]), "axes")
        return helper.make_node(f"Reduce{name}", ["x", "axes"], ["r"]), [axes]
    return helper.make_node(f"Reduce{name}", ["x"], ["r"], axes=[1]), []


def outputs(model):
    file = model.SerializeToString()
    return {
        "reference": ReferenceEvaluator(model).run(None, {"x": x})[0],
        "onnxruntime": onnxruntime.InferenceSession(file).run(None, {"x": x})[0],
        "openvino": CORE.compile_model(CORE.read_model(file), "CPU", PRECISE)(x)[0],
    }


for opset in (11, 13, 17, 18):
    wrong = {"onnxruntime": [], "openvino": []}
    for name in REDUCTIONS:
        node, constants = reduction(name, opset)
        made = outputs(net([node, helper.make_node("Sub", ["x", "r"], ["y"])], opset, constants))
        for tool, bad in wrong.items():
            assert made[tool].shape == SHAPE
            if not np.allclose(made[tool], made["reference"], atol=1e-4):
                bad.append(name)
    print(f"opset {opset}: x - Reduce...(x) wrong in onnxruntime {wrong['onnxruntime']}, openvino {wrong['openvino']}")
    expected = ["L1", "LogSum", "LogSumExp"] if opset in (13, 17) else []
    assert wrong == {"onnxruntime": [], "openvino": expected}

for opset in (17, 18):
    node, constants = reduction("LogSumExp", opset)
    softmax = [node, helper.make_node("Sub", ["x", "r"], ["d"]), helper.make_node("Exp", ["d"], ["y"])]
    for tool, y in outputs(net(softmax, opset, constants)).items():
        sums, best = y.sum(1), y.max()
        print(f"softmax, opset {opset}, {tool}: sums {sums.min():.3f} to {sums.max():.3f}, highest score {best:.3f}")
        if tool == "openvino" and opset == 17:
            assert y.shape == SHAPE and sums.max() < 0.2 and best < 0.1 and abs(y.sum() - 1) < 1e-4
        else:
            assert np.allclose(sums, 1, atol=1e-5)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 openvino 2026.4.1
#   opset 11: x - Reduce...(x) wrong in onnxruntime [], openvino []
#   opset 13: x - Reduce...(x) wrong in onnxruntime [], openvino ['L1', 'LogSum', 'LogSumExp']
#   opset 17: x - Reduce...(x) wrong in onnxruntime [], openvino ['L1', 'LogSum', 'LogSumExp']
#   opset 18: x - Reduce...(x) wrong in onnxruntime [], openvino []
#   softmax, opset 17, reference: sums 1.000 to 1.000, highest score 0.620
#   softmax, opset 17, onnxruntime: sums 1.000 to 1.000, highest score 0.620
#   softmax, opset 17, openvino: sums 0.039 to 0.089, highest score 0.038
#   softmax, opset 18, reference: sums 1.000 to 1.000, highest score 0.620
#   softmax, opset 18, onnxruntime: sums 1.000 to 1.000, highest score 0.620
#   softmax, opset 18, openvino: sums 1.000 to 1.000, highest score 0.620
