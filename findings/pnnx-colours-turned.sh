#!/usr/bin/env bash
# Guess: what pnnx makes of an ONNX file for ncnn computes the same; what it cannot do, it says, as for a Slice with
#   step 2.
# Really: a Slice of a whole axis with step -1, which turns blue, green, red to red, green, blue or mirrors an image, is
#   left out unless it goes from -1 to the least number of 32 or 64 bits: with -4, right before the first of 3 channels,
#   or from 2, the last one, the values come out as they went in. A Gather of several channels gives one, without its
#   axis, and that goes by no index: the number of the axis, 1, is taken for it, so that channels 2, 1, 0 and 0, 2 both
#   are channel 1. Padding by wrap-around (a panorama of 360 degrees) pads with zeros. A bilinear Resize with
#   "asymmetric" coordinates (TensorFlow's older ones) is sampled as with "half_pixel". No message about it,
#   exit status 0, ncnn runs it; the variants beside them are right.
# Here: networks are converted from torch, not from ONNX, and each exported file is compared with torch.
# (pnnx asks for torch, but its program reads ONNX without it: hence --no-deps.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 ncnn==1.0.20261020
venv/bin/pip install --quiet --no-deps pnnx==20261020
cat > check.py <<'EOF'
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
# Blue is 1 to 4 from left to right in each row, green 100 more, red 200 more.
IMAGE = (np.arange(1, 5) + 100 * np.arange(3)[:, None, None] + np.zeros((4, 1)))[None].astype(np.float32)
UNSURE = ("not supported", "unsupported", "ignore ", "error")  # what pnnx says of a step that it cannot translate


def convert(kind, *numbers, **attributes):
    """One node behind a convolution that changes nothing, as net.onnx and net.ncnn.param -> what pnnx says of it."""
    one = numpy_helper.from_array(np.eye(3, dtype=np.float32)[:, :, None, None], "one")
    stored = [numpy_helper.from_array(np.array(v), f"n{i}") for i, v in enumerate(numbers) if v is not None]
    given = ["" if v is None else f"n{i}" for i, v in enumerate(numbers)]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "one"], ["c"]), helper.make_node(kind, ["c", *given], ["y"], **attributes)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, None, None, None])],
        [one, *stored],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(net, full_check=True)
    onnx.save(onnx.shape_inference.infer_shapes(net), "net.onnx")
    for path in Path().glob("net.ncnn.*"):
        path.unlink()
    done = subprocess.run([PNNX, "net.onnx", "fp16=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0
    return [line for line in done.stdout.splitlines() if any(word in line.lower() for word in UNSURE)]


def both(name, kind, *numbers, **attributes):
    """ONNX Runtime's output and ncnn's."""
    assert convert(kind, *numbers, **attributes) == []
    right = onnxruntime.InferenceSession("net.onnx").run(None, {"x": IMAGE})[0][0]
    net = ncnn.Net()
    for option in ("packed", "storage", "arithmetic"):
        setattr(net.opt, f"use_fp16_{option}", False)
    net.opt.use_bf16_storage = False
    assert net.load_param("net.ncnn.param") == 0 and net.load_model("net.ncnn.bin") == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(IMAGE[0].copy()).clone())
    code, out = extractor.extract("out0")
    assert code == 0
    out = np.array(out)
    layers = [line.split()[0] for line in Path("net.ncnn.param").read_text().splitlines()[4:]]
    same = out.shape == right.shape and np.allclose(out, right, atol=1e-3)
    print(f"{name}: {'the same' if same else 'OTHER'}, {right.shape} and {out.shape}, layers {layers}")
    return right, out, same


def slices(first, end, axis, step):
    return "Slice", [first], [end], [axis], [step]


def row(out):
    return " ".join(f"{v:g}" for v in np.ravel(out).round(2))


LEAST, BORDER = -(2**63), [0, 0, 0, 1, 0, 0, 0, 1]  # "from the end to the start"; one column on each side
CHANNELS, COLUMNS = np.s_[..., 0, 0], np.s_[0, 0]
for name, node, wrong, line in (
    ("Slice, step -1 to the least number", slices(-1, LEAST, 1, -1), False, CHANNELS),
    ("Slice, step -1 to before the first of 3 channels", slices(-1, -4, 1, -1), True, CHANNELS),
    ("Slice, step -1 from the last, 2, to the least number", slices(2, LEAST, 1, -1), True, CHANNELS),
    ("Slice, step -1 to before the first of 4 columns", slices(-1, -5, 3, -1), True, COLUMNS),
    ("Gather, channels 2, 1, 0", ("Gather", [2, 1, 0]), True, CHANNELS),
    ("Gather, channels 0, 2", ("Gather", [0, 2]), True, CHANNELS),
    ("Pad, edge", ("Pad", BORDER), False, COLUMNS),
    ("Pad, wrap", ("Pad", BORDER), True, COLUMNS),
    ("Resize, half_pixel", ("Resize", None, np.float32([1, 1, 2, 2])), False, COLUMNS),
    ("Resize, asymmetric", ("Resize", None, np.float32([1, 1, 2, 2])), True, COLUMNS),
):
    (kind, *numbers), how = node, name.split(", ")[-1]
    more = {"Gather": {"axis": 1}, "Pad": {"mode": how},
            "Resize": {"mode": "linear", "coordinate_transformation_mode": how}}.get(kind, {})
    right, out, same = both(name, kind, *numbers, **more)
    print(f"  onnxruntime {row(right[line])} | ncnn {row(out[line])}")
    assert same != wrong
    if kind == "Slice" and wrong:
        assert np.array_equal(out, IMAGE[0])
    if kind == "Gather":
        assert np.array_equal(right, IMAGE[0, numbers[0]]) and np.array_equal(out, IMAGE[0, 1])
    if name == "Pad, wrap":
        assert not out[:, :, [0, -1]].any()

said = convert(*slices(0, 3, 1, 2))
print("of step 2 it says:", said[0])
assert "step 2" in said[0]
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   pnnx 20261020 ncnn 1.0.20261020 onnxruntime 1.31.1
#   Slice, step -1 to the least number: the same, (3, 4, 4) and (3, 4, 4), layers ['Flip']
#     onnxruntime 201 101 1 | ncnn 201 101 1
#   Slice, step -1 to before the first of 3 channels: OTHER, (3, 4, 4) and (3, 4, 4), layers []
#     onnxruntime 201 101 1 | ncnn 1 101 201
#   Slice, step -1 from the last, 2, to the least number: OTHER, (3, 4, 4) and (3, 4, 4), layers []
#     onnxruntime 201 101 1 | ncnn 1 101 201
#   Slice, step -1 to before the first of 4 columns: OTHER, (3, 4, 4) and (3, 4, 4), layers []
#     onnxruntime 4 3 2 1 | ncnn 1 2 3 4
#   Gather, channels 2, 1, 0: OTHER, (3, 4, 4) and (4, 4), layers ['Crop', 'Squeeze']
#     onnxruntime 201 101 1 | ncnn 101
#   Gather, channels 0, 2: OTHER, (2, 4, 4) and (4, 4), layers ['Crop', 'Squeeze']
#     onnxruntime 1 201 | ncnn 101
#   Pad, edge: the same, (3, 4, 6) and (3, 4, 6), layers ['Padding']
#     onnxruntime 1 1 2 3 4 4 | ncnn 1 1 2 3 4 4
#   Pad, wrap: OTHER, (3, 4, 6) and (3, 4, 6), layers ['Padding']
#     onnxruntime 4 1 2 3 4 1 | ncnn 0 1 2 3 4 0
#   Resize, half_pixel: the same, (3, 8, 8) and (3, 8, 8), layers ['Interp']
#     onnxruntime 1 1.25 1.75 2.25 2.75 3.25 3.75 4 | ncnn 1 1.25 1.75 2.25 2.75 3.25 3.75 4
#   Resize, asymmetric: OTHER, (3, 8, 8) and (3, 8, 8), layers ['Interp']
#     onnxruntime 1 1.5 2 2.5 3 3.5 4 4 | ncnn 1 1.25 1.75 2.25 2.75 3.25 3.75 4
#   of step 2 it says: slice with step 2 is not supported
