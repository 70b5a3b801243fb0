#!/usr/bin/env bash
# Guess: pnnx reads torch's own files (TorchScript), which it is made for, and what it translates computes the same in
#   ncnn; what it cannot do, it says, as for a convolution with padding_mode="circular".
# Really: five steps give other numbers. Average pooling with ceil_mode divides the last column of an odd size by the
#   whole window, cells outside of the map included: half of the mean. LayerNorm over channels, height and width takes
#   mean and deviation of each channel alone, so that the difference between channels is gone. x ** 3 of a number below
#   0 is 2.4e38, whichever it is; x * x * x is right. torch.remainder, which is never below 0 for a divisor above, gives
#   what lies nearest to 0: angles brought to 0 to 6.28 come out between -3.14 and 3.14. torch.rsub's alpha goes to the
#   other operand, so that 3 - 2 * x becomes 2 * 3 - x. No message about it, exit status 0, ncnn runs it.
# Here: an exported graph repeats the last column and row in place of ceil_mode; each file is compared with torch.
# (Torch makes the files; its build for the CPU is enough.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 torch==2.13.0 ncnn==1.0.20261020 pnnx==20261020
cat > check.py <<'EOF'
import subprocess
import sysconfig
import warnings
from importlib.metadata import version
from pathlib import Path

import ncnn
import numpy as np
import torch
from torch.nn import functional

warnings.filterwarnings("ignore")  # torch calls TorchScript old
torch.set_num_threads(1)
print(*(f"{name} {version(name).split('+')[0]}" for name in ("pnnx", "ncnn", "torch")))
PNNX = Path(sysconfig.get_paths()["purelib"], "pnnx", "pnnx")
UNSURE = ("not supported", "unsupported", "ignore ", "error")  # what pnnx says of a step that it cannot translate
# Two channels of 5 x 5: -12 to 12 from left to right and down, and 100 more.
IMAGE = torch.stack([torch.arange(-12.0, 13.0).reshape(5, 5) + more for more in (0, 100)])[None]


class Net(torch.nn.Module):
    """One step behind a convolution that changes nothing."""

    def __init__(self, step):
        super().__init__()
        self.first = torch.nn.Conv2d(2, 2, 1, bias=False)
        self.first.weight.data = torch.eye(2)[:, :, None, None]
        self.step = step

    def forward(self, x):
        return self.step(self.first(x))


def both(step):
    """torch's output, ncnn's, ncnn's layers behind the convolution, what pnnx says of the step."""
    torch.manual_seed(0)
    net = Net(step).eval()
    with torch.no_grad():
        right = net(IMAGE)[0].numpy()
        torch.jit.trace(net, IMAGE).save("net.pt")
    for path in Path().glob("net.ncnn.*"):
        path.unlink()
    call = [PNNX, "net.pt", "inputshape=[1,2,5,5]", "fp16=0"]
    done = subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0
    said = [line for line in done.stdout.splitlines() if any(word in line.lower() for word in UNSURE)]
    net = ncnn.Net()
    for option in ("packed", "storage", "arithmetic"):
        setattr(net.opt, f"use_fp16_{option}", False)
    net.opt.use_bf16_storage = False
    net.opt.num_threads = 1
    assert net.load_param("net.ncnn.param") == 0 and net.load_model("net.ncnn.bin") == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(IMAGE[0].numpy()).clone())
    code, out = extractor.extract("out0")
    assert code == 0
    layers = [line.split()[0] for line in Path("net.ncnn.param").read_text().splitlines()[4:]]
    return right, np.array(out), layers, said


def row(values):
    return " ".join(f"{v:.4g}" for v in np.ravel(values))


FIRST, LAST = np.s_[0, 0, :], np.s_[0, -1, :]  # rows of the first channel
BOTH = np.s_[:, 0, 0]  # the first cell in both channels
for name, step, wrong, cut in (
    ("avg_pool2d(x, 2)", lambda x: functional.avg_pool2d(x, 2), False, FIRST),
    ("avg_pool2d(x, 2, ceil_mode=True)", lambda x: functional.avg_pool2d(x, 2, ceil_mode=True), True, FIRST),
    ("layer_norm(x, (5, 5))", lambda x: functional.layer_norm(x, (5, 5)), False, BOTH),
    ("layer_norm(x, (2, 5, 5))", lambda x: functional.layer_norm(x, (2, 5, 5)), True, BOTH),
    ("x * x * x", lambda x: x * x * x, False, FIRST),
    ("x ** 3", lambda x: x**3, True, FIRST),
    ("fmod(x, 6.2832)", lambda x: torch.fmod(x, 6.2832), False, FIRST),
    ("remainder(x, 6.2832)", lambda x: torch.remainder(x, 6.2832), True, FIRST),
    ("3 - 2 * x", lambda x: 3 - 2 * x, False, FIRST),
    ("rsub(x, 3, alpha=2)", lambda x: torch.rsub(x, 3, alpha=2), True, FIRST),
):
    right, out, layers, said = both(step)
    assert said == [] and out.shape == right.shape
    same = np.allclose(out, right, rtol=1e-4, atol=1e-3)
    print(f"{name}: {'the same' if same else 'OTHER'}, layers {layers}")
    print(f"  torch {row(right[cut])} | ncnn {row(out[cut])}")
    assert same != wrong
    if "ceil_mode" in name:
        assert np.allclose(out[:, :2, -1] * 2, right[:, :2, -1]) and np.allclose(out[:, -1, -1] * 4, right[:, -1, -1])
    if name == "layer_norm(x, (2, 5, 5))":
        assert np.allclose(out[0], out[1], atol=1e-3) and right[1].min() > right[0].max()
    if name == "x ** 3":
        assert (out[0][IMAGE[0, 0].numpy() < 0] > 1e38).all() and np.allclose(out[1], right[1], rtol=1e-4)
    if name.startswith("remainder"):
        x = IMAGE[0].numpy()
        assert np.allclose(out, x - 6.2832 * np.round(x / 6.2832), atol=1e-3) and right.min() >= 0
    if name.startswith("rsub"):
        assert np.array_equal(out, 2 * 3 - IMAGE[0].numpy())

said = both(torch.nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"))[3]
print("of a circular convolution it says:", said[0])
assert said == ["unsupported padding_mode circular"]
EOF
OMP_NUM_THREADS=1 venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   pnnx 20261020 ncnn 1.0.20261020 torch 2.13.0
#   avg_pool2d(x, 2): the same, layers ['Pooling']
#     torch -9 -7 | ncnn -9 -7
#   avg_pool2d(x, 2, ceil_mode=True): OTHER, layers ['Pooling']
#     torch -9 -7 -5.5 | ncnn -9 -7 -2.75
#   layer_norm(x, (5, 5)): the same, layers ['LayerNorm']
#     torch -1.664 -1.664 | ncnn -1.664 -1.664
#   layer_norm(x, (2, 5, 5)): OTHER, layers ['LayerNorm']
#     torch -1.227 0.7522 | ncnn -1.664 -1.664
#   x * x * x: the same, layers ['Split', 'BinaryOp', 'BinaryOp']
#     torch -1728 -1331 -1000 -729 -512 | ncnn -1728 -1331 -1000 -729 -512
#   x ** 3: OTHER, layers ['BinaryOp']
#     torch -1728 -1331 -1000 -729 -512 | ncnn 2.406e+38 2.406e+38 2.406e+38 2.406e+38 2.406e+38
#   fmod(x, 6.2832): the same, layers ['BinaryOp']
#     torch -5.717 -4.717 -3.717 -2.717 -1.717 | ncnn -5.717 -4.717 -3.717 -2.717 -1.717
#   remainder(x, 6.2832): OTHER, layers ['BinaryOp']
#     torch 0.5664 1.566 2.566 3.566 4.566 | ncnn 0.5664 1.566 2.566 -2.717 -1.717
#   3 - 2 * x: the same, layers ['BinaryOp', 'BinaryOp']
#     torch 27 25 23 21 19 | ncnn 27 25 23 21 19
#   rsub(x, 3, alpha=2): OTHER, layers ['BinaryOp']
#     torch 27 25 23 21 19 | ncnn 18 17 16 15 14
#   of a circular convolution it says: unsupported padding_mode circular
