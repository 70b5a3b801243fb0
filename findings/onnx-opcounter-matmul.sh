#!/usr/bin/env bash
# Guess: a counter of multiply-adds counts a product of matrices in an ONNX file however its inputs are arranged.
# Really: onnx-opcounter multiplies the number of values of the first input by the last size of the output. With a
#   vector as the second input, as in the mean over the bins of a distance, that size is another one: with the cells
#   last, each cell counts as often as there are cells. With the weights first, the leading sizes of the maps are left
#   out. With a name for the batch a convolution counts 0; weights in Constant nodes are no parameters, the shape
#   of a Reshape is four. Nothing is said. As a matrix of one column and as a convolution the same sums are right;
#   onnx-tool is right with the weights first and refuses the vector.
# Here: multiply-adds are counted on the layers while they run, with sizes that are known.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnx-opcounter==0.0.4 onnx-tool==1.0.1
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnx_tool
from onnx import TensorProto, helper, numpy_helper
from onnx_opcounter import calculate_macs, calculate_params

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "onnx-opcounter", "onnx-tool")))
CELLS, BINS, IN, OUT = 100, 17, 8, 4


def net(op, sizes, second, order, out, **attributes):
    """One product of the input `x` and stored numbers `w`, in this order or the other."""
    graph = helper.make_graph(
        [helper.make_node(op, order, ["y"], name="product", **attributes)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.ones(second, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def by_tool(model):
    try:
        graph = onnx_tool.Model(model).graph
        graph.shape_infer(None)
        graph.profile()
        return int(graph.macs[0])
    except RuntimeError as error:
        return f"refused ({error})"


mean, maps = 4 * CELLS * BINS, CELLS * IN * OUT
XW, WX = ["x", "w"], ["w", "x"]
for text, model, right, times in (
    ("mean, a matrix of one column", net("MatMul", [1, 4, CELLS, BINS], [BINS, 1], XW, [1, 4, CELLS, 1]), mean, 1),
    ("mean, a vector, cells last", net("MatMul", [1, 4, CELLS, BINS], [BINS], XW, [1, 4, CELLS]), mean, CELLS),
    ("mean, a vector, sides last", net("MatMul", [1, CELLS, 4, BINS], [BINS], XW, [1, CELLS, 4]), mean, 4),
    ("channels, x times weights", net("MatMul", [10, 10, IN], [IN, OUT], XW, [10, 10, OUT]), maps, 1),
    ("channels, weights times x", net("MatMul", [10, IN, 10], [OUT, IN], WX, [10, OUT, 10]), maps, 1 / 10),
    ("channels, a 1 x 1 convolution", net(
        "Conv", [1, IN, 10, 10], [OUT, IN, 1, 1], XW, [1, OUT, 10, 10], kernel_shape=[1, 1]), maps, 1),
    ("the same, batch with a name", net(
        "Conv", ["batch", IN, 10, 10], [OUT, IN, 1, 1], XW, ["batch", OUT, 10, 10], kernel_shape=[1, 1]), maps, 0),
):
    found = int(calculate_macs(model))
    tool = by_tool(model) if times else "needs a size"
    print(f"{text}: right {right}, onnx-opcounter {found}, onnx-tool {tool}")
    assert found == round(right * times)
    assert tool == right if isinstance(tool, int) else " a vector" in text or not times
model = net("Conv", [1, IN, 10, 10], [OUT, IN, 1, 1], XW, [1, OUT, 10, 10], kernel_shape=[1, 1])
graph = model.graph
graph.node[0].output[0] = "c"
graph.node.append(helper.make_node("Reshape", ["c", "shape"], ["y"]))
graph.initializer.append(numpy_helper.from_array(np.array([1, OUT, 10, 10]), "shape"))
as_stored = calculate_params(model)
weights = graph.initializer[0]
graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weights))
graph.initializer.remove(weights)
onnx.checker.check_model(model, full_check=True)
as_constant = calculate_params(model)
print(f"parameters, right {OUT * IN}: {as_stored} with a Reshape, {as_constant} with the weights in a Constant node")
assert (as_stored, as_constant) == (OUT * IN + 4, 4)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnx-opcounter 0.0.4 onnx-tool 1.0.1
#   mean, a matrix of one column: right 6800, onnx-opcounter 6800, onnx-tool 6800
#   mean, a vector, cells last: right 6800, onnx-opcounter 680000, onnx-tool refused (Gemm inputs must have rank >= 2)
#   mean, a vector, sides last: right 6800, onnx-opcounter 27200, onnx-tool refused (Gemm inputs must have rank >= 2)
#   channels, x times weights: right 3200, onnx-opcounter 3200, onnx-tool 3200
#   channels, weights times x: right 3200, onnx-opcounter 320, onnx-tool 3200
#   channels, a 1 x 1 convolution: right 3200, onnx-opcounter 3200, onnx-tool 3200
#   the same, batch with a name: right 3200, onnx-opcounter 0, onnx-tool needs a size
#   parameters, right 32: 36 with a Reshape, 4 with the weights in a Constant node
