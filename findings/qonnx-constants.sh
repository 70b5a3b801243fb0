#!/usr/bin/env bash
# Guess: a transformation of qonnx, the tool that takes ONNX files to FPGAs (FINN, hls4ml), leaves the outputs alone or
#   warns that it skips something.
# Really: QCDQToQuant, which reads int8 files such as those of ONNX Runtime's quantize_static, subtracts the zero point
#   from stored numbers in their own type, 8 bits, so that it wraps around: 100 - 128 is 228. With weights of type
#   QUInt8 the best class is another one in 94% of the cells, with QInt8 that are not symmetric in 27%; with symmetric
#   ones a stored number below 0 that is added (an anchor's corner) is still off by 256 steps: -24 pixels become 56.
#   With zero points of 0, as Brevitas writes them, it is right. SubPixelToDeconvolution takes every DepthToSpace for
#   one of mode CRD (PyTorch's PixelShuffle); ONNX's default is DCR (TensorFlow's): 3 of 4 numbers are others.
#   ConvertDivToMul makes of a division of whole numbers by 20 a multiplication by 0: the row of each cell is 0. The
#   shape is right and nothing is said.
# Here: judged by ONNX Runtime on the file before; of the int8 file also by qonnx before the transformation.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 qonnx==1.0.0
cat > check.py <<'EOF'
import logging
import warnings
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.general import ConvertDivToMul
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.transformation.qcdq_to_qonnx import QCDQToQuant
from qonnx.transformation.subpixel_to_deconv import SubPixelToDeconvolution

print(*(f"{name} {version(name)}" for name in ("qonnx", "onnxruntime", "onnx")))
logging.disable(logging.WARNING)  # quantize_static advises a step before it
random = np.random.default_rng(0)


def save(nodes, x, y, **stored):
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(net, full_check=True)
    onnx.save(net, "net.onnx")


def run(file, x):
    return onnxruntime.InferenceSession(file).run(None, {"x": x})[0]


def transformed(file, x, transformation):
    """What qonnx computes before and after, and the operators after."""
    net = ModelWrapper(file).transform(InferShapes())
    before = execute_onnx(net, {"x": x})["y"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        net = net.transform(transformation)
    assert not said
    return before, execute_onnx(net, {"x": x})["y"], [node.op_type for node in net.graph.node]


class Reader(CalibrationDataReader):
    def __init__(self, x):
        self.rest = iter([{"x": x}])

    def get_next(self):
        return next(self.rest, None)


def quantize(x, weights, symmetric):
    quantize_static("net.onnx", "int8.onnx", Reader(x), quant_format=QuantFormat.QDQ, weight_type=weights,
                    activation_type=QuantType.QUInt8, extra_options={"WeightSymmetric": symmetric})


# A head of six classes.
x = random.normal(0, 1, (20, 3, 8, 8)).astype(np.float32)
weights, bias = (random.normal(0, 1, shape).astype(np.float32) for shape in ((6, 3, 3, 3), 6))
save([helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", pads=[1] * 4)], x, [20, 6, 8, 8], w=weights, b=bias)
best = run("net.onnx", x).argmax(1)
for kind, symmetric, wrong in (
    (QuantType.QInt8, True, False), (QuantType.QInt8, False, True), (QuantType.QUInt8, False, True)
):
    quantize(x, kind, symmetric)
    before, after, _ = transformed("int8.onnx", x, QCDQToQuant())
    other = [(y.argmax(1) != best).mean() for y in (run("int8.onnx", x), before, after)]
    name = f"{kind.name}{'' if symmetric else ', not symmetric'}"
    print(f"QCDQToQuant, weights {name}: another best class in", end=" ")
    print("{:.0%} (ONNX Runtime), {:.0%} (qonnx before), {:.0%} (after)".format(*other))
    assert max(other[:2]) < 0.03 and (other[2] > 0.1) == wrong

# Boxes: anchor * x + corner.
x = random.uniform(0, 1, (50, 4)).astype(np.float32)
anchor, corner = np.float32([32, 64, 96, 128]), np.float32([-8, -24, 40, 56])
nodes = [helper.make_node("Mul", ["x", "a"], ["m"], "mul"), helper.make_node("Add", ["m", "c"], ["y"], "add")]
save(nodes, x, [50, 4], a=anchor, c=corner)
right = run("net.onnx", x)
quantize(x, QuantType.QInt8, True)
before, after, operators = transformed("int8.onnx", x, QCDQToQuant())
off = [np.abs(y - right).max(0) for y in (run("int8.onnx", x), before, after)]
for name, numbers in zip(("ONNX Runtime", "qonnx before", "after"), off):
    print(f"QCDQToQuant, boxes: {name} at most {' '.join(f'{v:.1f}' for v in numbers)} pixels off")
assert max(off[0].max(), off[1].max()) < 2 and (off[2][:2] > 20).all() and (off[2][2:] < 2).all()

# Twice the size from a convolution with four times the channels.
x = random.normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
weights = random.normal(0, 1, (8, 3, 3, 3)).astype(np.float32)
for mode, wrong in (("CRD", False), ("DCR", True), (None, True)):  # None: the default
    conv = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4, kernel_shape=[3, 3], strides=[1, 1], group=1)
    space = helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=2, **({"mode": mode} if mode else {}))
    save([conv, space], x, [1, 2, 16, 16], w=weights)
    before, after, operators = transformed("net.onnx", x, SubPixelToDeconvolution())
    right = run("net.onnx", x)
    same = np.isclose(after, right, atol=1e-3).mean()
    print(f"SubPixelToDeconvolution, mode {mode}: {same:.0%} of the numbers are the same")
    assert operators == ["ConvTranspose"] and np.allclose(before, right, atol=1e-3)
    assert same < 0.3 if wrong else same == 1

# The cells of a map of 20 columns -> their rows.
x = np.float32([[3, 19, 20, 47, 210, 399]])
for name, to, type_ in (("float32", TensorProto.FLOAT, np.float32), ("int64", TensorProto.INT64, np.int64)):
    nodes = [helper.make_node("Cast", ["x"], ["i"], to=to), helper.make_node("Div", ["i", "columns"], ["d"]),
             helper.make_node("Cast", ["d"], ["y"], to=TensorProto.FLOAT)]
    save(nodes, x, [1, 6], columns=np.array([20], type_))
    before, after, operators = transformed("net.onnx", x, ConvertDivToMul())
    told = (" ".join(f"{v:g}" for v in row.astype(float).round(2)) for row in (before[0], after[0]))
    print(f"ConvertDivToMul, {name}: {', after '.join(told)}")
    assert np.allclose(before, run("net.onnx", x)) and operators[1] == "Mul"
    assert np.allclose(after, before, atol=1e-5) if name == "float32" else not after.any()
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   qonnx 1.0.0 onnxruntime 1.32.0 onnx 1.23.2
#   QCDQToQuant, weights QInt8: another best class in 1% (ONNX Runtime), 1% (qonnx before), 1% (after)
#   QCDQToQuant, weights QInt8, not symmetric: another best class in 1% (ONNX Runtime), 1% (qonnx before), 27% (after)
#   QCDQToQuant, weights QUInt8, not symmetric: another best class in 1% (ONNX Runtime), 1% (qonnx before), 94% (after)
#   QCDQToQuant, boxes: ONNX Runtime at most 0.5 0.6 0.9 0.7 pixels off
#   QCDQToQuant, boxes: qonnx before at most 0.5 0.6 0.9 0.7 pixels off
#   QCDQToQuant, boxes: after at most 64.8 80.7 0.9 0.7 pixels off
#   SubPixelToDeconvolution, mode CRD: 100% of the numbers are the same
#   SubPixelToDeconvolution, mode DCR: 25% of the numbers are the same
#   SubPixelToDeconvolution, mode None: 25% of the numbers are the same
#   ConvertDivToMul, float32: 0.15 0.95 1 2.35 10.5 19.95, after 0.15 0.95 1 2.35 10.5 19.95
#   ConvertDivToMul, int64: 0 0 1 2 10 19, after 0 0 0 0 0 0
