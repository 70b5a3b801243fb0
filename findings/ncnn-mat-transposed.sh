#!/usr/bin/env bash
# Guess: ncnn.Mat(image.transpose(2, 0, 1)) is the image with its channels first, or an error.
# Really: the Mat has the shape of the transposed array and the bytes of the array before it: ncnn's
#   Python binding takes the buffer's address and shape and forgets its strides. Pixels of all three
#   colours are mixed in each channel, .clone() copies them mixed, and a network runs on them silently.
# Here: pixels enter by ncnn.Mat.from_pixels(np.ascontiguousarray(canvas), ...).
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 ncnn==1.0.20261020
printf '7767517\n2 2\nInput in 0 1 in\nReduction mean 1 1 in out 0=3 1=0 -23303=2,1,2 5=1\n' > mean.param
: > none.bin  # a network without weights: the mean of every channel
venv/bin/python - <<'EOF'
from importlib.metadata import version

import ncnn
import numpy as np

print("ncnn", version("ncnn"), "numpy", np.__version__)
image = np.zeros((4, 6, 3), np.float32)
image[:] = [200, 100, 0]  # height, width, red green blue: every pixel orange
turned = image.transpose(2, 0, 1)  # a view
copied = np.ascontiguousarray(turned)
assert np.array_equal(turned, copied)  # for numpy they are one and the same

net = ncnn.Net()
assert net.load_param("mean.param") == 0 and net.load_model("none.bin") == 0


def means(array):
    """The mean of each channel, as ncnn sees it."""
    extractor = net.create_extractor()
    assert extractor.input("in", ncnn.Mat(array).clone()) == 0
    _, out = extractor.extract("out")
    return np.array(out).ravel().round(3).tolist()


for name, array in (("turned", turned), ("copied", copied)):
    mat = ncnn.Mat(array)
    same = np.array_equal(np.array(mat), array)
    print(f"{name}: Mat {mat.w} x {mat.h} x {mat.c}, equal to the array: {same}, means {means(array)}")
view = np.array(ncnn.Mat(turned))
print("first row of the first channel, all 200 in numpy:", view[0, 0].tolist())
assert view.shape == turned.shape
assert np.array_equal(view.ravel(), image.ravel())  # the memory, in its own order
assert np.array_equal(np.array(ncnn.Mat(copied)), copied)
assert means(copied) == [200, 100, 0] and means(turned) == [100, 100, 100]
EOF
# Seen (Python 3.11, Linux, x86-64):
#   ncnn 1.0.20261020 numpy 2.4.6
#   turned: Mat 6 x 4 x 3, equal to the array: False, means [100.0, 100.0, 100.0]
#   copied: Mat 6 x 4 x 3, equal to the array: True, means [200.0, 100.0, 0.0]
#   first row of the first channel, all 200 in numpy: [200.0, 100.0, 0.0, 200.0, 100.0, 0.0]
