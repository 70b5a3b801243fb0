#!/usr/bin/env bash
# Guess: what pnnx makes of an ONNX file for ncnn computes the same; what it cannot do, it says.
# Really: auto_pad SAME_UPPER (TensorFlow's "same", so EfficientDet's) is right for a convolution but not for
#   a max pooling beside it: pnnx pads both sides by one where only the right and bottom are to be padded, and all
#   windows sit one pixel off; the output has the right shape. SpaceToDepth (YOLO's passthrough) becomes
#   ncnn's Reorg, whose channels come in another order. No message, exit status 0, ncnn runs it.
# Here: networks are converted from torch, with paddings as numbers, and each exported file is compared with
#   torch.
# (pnnx asks for torch, but its program reads ONNX without it: hence --no-deps.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 ncnn==1.0.20261020
venv/bin/pip install --quiet --no-deps pnnx==20261020
venv/bin/python - <<'EOF'
import subprocess
import sysconfig
from importlib.metadata import version
from pathlib import Path

import ncnn
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print(*(f"{name} {version(name)}" for name in ("pnnx", "ncnn", "onnxruntime")))
PNNX = Path(sysconfig.get_paths()["purelib"], "pnnx", "pnnx")
# One channel whose values are its columns: 0 1 2 ... 7; a convolution by 1 comes first.
COLUMNS = np.tile(np.arange(8, dtype=np.float32), (1, 1, 8, 1))
# Four channels 0, 100, 200, 300.
CHANNELS = np.tile(np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1) * 100, (1, 1, 2, 2))


def both(x, node, *weights):
    """The node after a convolution that changes nothing -> ONNX Runtime's output, ncnn's, ncnn's layers."""
    channels = x.shape[1]
    one = numpy_helper.from_array(np.eye(channels, dtype=np.float32)[:, :, None, None], "one")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "one"], ["c"]), node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, None, None, None])],
        [one, *weights],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(net, full_check=True)
    net = onnx.shape_inference.infer_shapes(net)
    onnx.save(net, "net.onnx")
    right = onnxruntime.InferenceSession("net.onnx").run(None, {"x": x})[0][0]
    for path in Path().glob("net.ncnn.*"):
        path.unlink()
    done = subprocess.run([PNNX, "net.onnx", "fp16=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0
    assert "error" not in done.stdout.lower() and "not supported" not in done.stdout.lower()
    runtime = ncnn.Net()
    for option in ("packed", "storage", "arithmetic"):
        setattr(runtime.opt, f"use_fp16_{option}", False)
    runtime.opt.use_bf16_storage = False
    assert runtime.load_param("net.ncnn.param") == 0 and runtime.load_model("net.ncnn.bin") == 0
    extractor = runtime.create_extractor()
    extractor.input("in0", ncnn.Mat(np.ascontiguousarray(x[0])).clone())
    code, out = extractor.extract("out0")
    assert code == 0
    layers = [line.split()[0] for line in Path("net.ncnn.param").read_text().splitlines()[3:]]
    out = np.array(out)
    assert out.shape == right.shape
    return right, out, layers


def show(name, right, out, layers):
    print(f"{name}: onnxruntime {right}, ncnn {out} {layers}")


window = {"kernel_shape": [3, 3], "strides": [2, 2]}
for padding, expected in [
    ({"pads": [0, 0, 1, 1]}, [2, 4, 6, 7]),
    ({"auto_pad": "SAME_LOWER"}, [1, 3, 5, 7]),
    ({"auto_pad": "SAME_UPPER"}, [2, 4, 6, 7]),
]:
    right, out, layers = both(COLUMNS, helper.make_node("MaxPool", ["c"], ["y"], **window, **padding))
    right, out = right[0, 1].tolist(), out[0, 1].tolist()
    show(f"MaxPool {padding}", right, out, layers)
    assert right == expected
    assert out == ([1, 3, 5, 7] if padding == {"auto_pad": "SAME_UPPER"} else expected)

# the convolution that sums a window of ones: right
ones = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "ones")
node = helper.make_node("Conv", ["c", "ones"], ["y"], **window, auto_pad="SAME_UPPER")
right, out, layers = both(COLUMNS, node, ones)
show("Conv SAME_UPPER", right[0, 1].tolist(), out[0, 1].tolist(), layers)
assert np.array_equal(right, out) and right[0, 1].tolist() == [9, 27, 45, 39]

right, out, layers = both(CHANNELS, helper.make_node("SpaceToDepth", ["c"], ["y"], blocksize=2))
right, out = right[:, 0, 0].astype(int).tolist(), out[:, 0, 0].astype(int).tolist()
show("SpaceToDepth", right, out, layers)
assert right == [0, 100, 200, 300] * 4 and out == sorted(right)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   pnnx 20261020 ncnn 1.0.20261020 onnxruntime 1.31.1
#   MaxPool {'pads': [0, 0, 1, 1]}: onnxruntime [2.0, 4.0, 6.0, 7.0], ncnn [2.0, 4.0, 6.0, 7.0] ['Convolution', 'Padding', 'Pooling']
#   MaxPool {'auto_pad': 'SAME_LOWER'}: onnxruntime [1.0, 3.0, 5.0, 7.0], ncnn [1.0, 3.0, 5.0, 7.0] ['Convolution', 'Padding', 'Pooling']
#   MaxPool {'auto_pad': 'SAME_UPPER'}: onnxruntime [2.0, 4.0, 6.0, 7.0], ncnn [1.0, 3.0, 5.0, 7.0] ['Convolution', 'Padding', 'Pooling']
#   Conv SAME_UPPER: onnxruntime [9.0, 27.0, 45.0, 39.0], ncnn [9.0, 27.0, 45.0, 39.0] ['Convolution', 'Convolution']
#   SpaceToDepth: onnxruntime [0, 100, 200, 300, 0, 100, 200, 300, 0, 100, 200, 300, 0, 100, 200, 300], ncnn [0, 0, 0, 0, 100, 100, 100, 100, 200, 200, 200, 200, 300, 300, 300, 300] ['Convolution', 'Reorg']
