#!/usr/bin/env bash
# Guess: pnnx folds an activation into the convolution before it whenever ncnn's convolution knows that
#   activation.
# Really: it folds ReLU, leaky ReLU, clip (ReLU6), sigmoid and Mish, but leaves Hard-Swish as a layer of
#   its own, though ncnn's convolution takes it as activation_type 6; by hand in the .param it gives the same
#   numbers. A network with Hard-Swish so has one layer more per convolution than one with Mish.
# Here: the converted .param is rewritten so, and compared with the network again.
# (pnnx asks for torch, but its program reads ONNX without it: hence --no-deps.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 ncnn==1.0.20261020
venv/bin/pip install --quiet --no-deps pnnx==20261020
cat > check.py <<'EOF'
import subprocess
import sysconfig
from importlib.metadata import version
from pathlib import Path

import ncnn
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

print("pnnx", version("pnnx"), "ncnn", version("ncnn"), "onnx", onnx.__version__)
PNNX = Path(sysconfig.get_paths()["purelib"], "pnnx", "pnnx")
random = np.random.default_rng(0)
WEIGHTS = random.normal(size=(8, 3, 3, 3)).astype(np.float32)
IMAGE = random.normal(size=(3, 16, 16)).astype(np.float32)


def convert(name, node, *numbers):
    """Convolution, then the activation -> the layers of the .param that pnnx writes."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weights"], ["c"], pads=[1] * 4), node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 16, 16])],
        [numpy_helper.from_array(WEIGHTS, "weights"), *numbers],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(net, full_check=True)
    onnx.save(net, f"{name}.onnx")
    subprocess.run([PNNX, f"{name}.onnx"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    return [line.split() for line in Path(f"{name}.ncnn.param").read_text().splitlines()[2:]]


def run(param, values):
    """The output of a network in ncnn, in float32."""
    net = ncnn.Net()
    for option in ("packed", "storage", "arithmetic"):
        setattr(net.opt, f"use_fp16_{option}", False)
    net.opt.use_bf16_storage = False
    assert net.load_param(param) == 0 and net.load_model(values) == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(IMAGE).clone())
    code, out = extractor.extract("out0")
    assert code == 0
    return np.array(out)


def clip_bounds():
    return [numpy_helper.from_array(np.float32(v), n) for v, n in ((0, "low"), (6, "high"))]


for number, name, node, *more in [
    (1, "Relu", helper.make_node("Relu", ["c"], ["y"])),
    (2, "LeakyRelu", helper.make_node("LeakyRelu", ["c"], ["y"], alpha=0.1)),
    (3, "Clip", helper.make_node("Clip", ["c", "low", "high"], ["y"]), *clip_bounds()),
    (4, "Sigmoid", helper.make_node("Sigmoid", ["c"], ["y"])),
    (5, "Mish", helper.make_node("Mish", ["c"], ["y"])),
    (6, "HardSwish", helper.make_node("HardSwish", ["c"], ["y"])),
]:
    layers = convert(name, node, *more)
    kinds = [layer[0] for layer in layers]
    folded = [field for field in layers[1] if field.startswith("9=")]
    print(f"{name}: {kinds} {folded}")
    if name == "HardSwish":
        assert kinds == ["Input", "Convolution", "HardSwish"] and not folded
    else:
        assert kinds == ["Input", "Convolution"] and folded == [f"9={number}"]

# the last one by hand: type 6 with its two numbers, the convolution's output called out0
convolution, swish = layers[1:]
convolution[5] = "out0"
line = " ".join([*convolution, "9=6", "-23310=2,0.166666672,0.5"])
print("by hand:", line)
Path("hand.param").write_text(f"7767517\n2 2\n{' '.join(layers[0])}\n{line}\n")
written = run("HardSwish.ncnn.param", "HardSwish.ncnn.bin")
by_hand = run("hand.param", "HardSwish.ncnn.bin")
difference = float(abs(written - by_hand).max())
assert written.shape == (8, 16, 16) and abs(written).max() > 1
print("largest difference below 1e-5:", difference < 1e-5, "of values up to", round(float(abs(written).max()), 2))
assert difference < 1e-5
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   pnnx 20261020 ncnn 1.0.20261020 onnx 1.23.2
#   Relu: ['Input', 'Convolution'] ['9=1']
#   LeakyRelu: ['Input', 'Convolution'] ['9=2']
#   Clip: ['Input', 'Convolution'] ['9=3']
#   Sigmoid: ['Input', 'Convolution'] ['9=4']
#   Mish: ['Input', 'Convolution'] ['9=5']
#   HardSwish: ['Input', 'Convolution', 'HardSwish'] []
#   by hand: Convolution conv_1 1 1 in0 out0 0=8 1=3 11=3 12=1 13=1 14=1 2=1 3=1 4=1 5=0 6=216 9=6 -23310=2,0.166666672,0.5
#   largest difference below 1e-5: True of values up to 14.05
