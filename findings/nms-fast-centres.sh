#!/usr/bin/env bash
# Guess: nms.boxes takes boxes as (x, y, w, h) with the upper left corner, as cv2.dnn.NMSBoxes does, which its text says
#   it replicates; boxes may be pixels or parts of the image, as there.
# Really: its algorithm `fast` gives x and y to OpenCV as the middle of a rotated box, so that boxes of different sizes
#   lie elsewhere to each other, and a box within another one is an overlap of 1: a plate on a car (IoU 0.01) is lost,
#   and so is a thing at its corner (0.04); half of a thing found again (0.5) stays. Boxes of one size, or with the same
#   middle, are right. The default one, and felzenszwalb, add 1 to the width and height of the overlap, not to those
#   of the boxes: with parts of the image as coordinates each box covers all others, and only the best one is left.
# Here: suppression is compared with one by hand on boxes of different sizes, in pixels and in parts of the image.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet nms==0.1.6 numpy==2.4.6 opencv-python-headless==5.0.0.93
venv/bin/python - <<'EOF'
from importlib.metadata import version

import cv2
from nms import fast, felzenszwalb, malisiewicz, nms

print(*(f"{name} {version(name)}" for name in ("nms", "opencv-python-headless")))
KINDS = {"malisiewicz": malisiewicz.nms, "felzenszwalb": felzenszwalb.nms, "fast": fast.nms}  # the first by default
THRESHOLD = 0.4


def iou(a, b):
    wide, high = (min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    common = max(0, wide) * max(0, high)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def counts(boxes):
    """How many boxes each one keeps, of which the first has the highest score."""
    scores = [0.9 - 0.01 * i for i in range(len(boxes))]
    found = {name: nms.boxes(boxes, scores, nms_algorithm=kind, nms_threshold=THRESHOLD)
             for name, kind in KINDS.items()}
    found["OpenCV"] = cv2.dnn.NMSBoxes(boxes, scores, 0.3, THRESHOLD)
    numbers = {name: len(rows) for name, rows in found.items()}
    return tuple(numbers.values()), ", ".join(f"{name} {number}" for name, number in numbers.items())


CASES = {
    "a plate on a car": ([100, 100, 200, 200], [180, 180, 20, 20]),
    "a thing at a corner of it": ([100, 100, 200, 200], [60, 60, 80, 80]),
    "half of a thing again": ([100, 100, 100, 100], [150, 100, 50, 100]),
    "larger, with the same middle": ([100, 100, 100, 100], [90, 90, 120, 120]),
    "same size, near": ([100, 100, 100, 100], [120, 100, 100, 100]),
    "same size, far": ([100, 100, 100, 100], [165, 100, 100, 100]),
    "side by side": ([100, 100, 60, 60], [160, 100, 60, 60]),
}
seen = {}
for name, (a, b) in CASES.items():
    by_hand, theirs = iou(a, b), fast.rectangle_iou(a, b)
    assert abs(iou(b, a) - by_hand) < 1e-9
    numbers, text = counts([a, b])
    seen[name] = (round(by_hand, 2), round(float(theirs), 2), *numbers)
    print(f"{name}: IoU {by_hand:.2f}, that of fast {theirs:.2f}; kept {text}")

# nine boxes that touch nowhere: in pixels, and the same in parts of an image of 1000 x 1000
pixels = [[300 * i + 50, 300 * j + 50, 100, 100] for i in range(3) for j in range(3)]
parts = [[value / 1000 for value in box] for box in pixels]
for name, boxes in (("pixels", pixels), ("parts", parts)):
    seen[name], text = counts(boxes)
    print(f"nine boxes apart, in {name}: kept {text}")

assert seen == {
    "a plate on a car": (0.01, 1.0, 1, 1, 1, 2),
    "a thing at a corner of it": (0.04, 1.0, 2, 2, 1, 2),
    "half of a thing again": (0.5, 0.2, 1, 1, 2, 1),
    "larger, with the same middle": (0.69, 0.69, 1, 1, 1, 1),
    "same size, near": (0.67, 0.67, 1, 1, 1, 1),
    "same size, far": (0.21, 0.21, 2, 2, 2, 2),
    "side by side": (0.0, 0.0, 2, 2, 2, 2),
    "pixels": (9, 9, 9, 9),
    "parts": (1, 1, 9, 9),
}
EOF
# Seen (Python 3.11, Linux, x86-64):
#   nms 0.1.6 opencv-python-headless 5.0.0.93
#   a plate on a car: IoU 0.01, that of fast 1.00; kept malisiewicz 1, felzenszwalb 1, fast 1, OpenCV 2
#   a thing at a corner of it: IoU 0.04, that of fast 1.00; kept malisiewicz 2, felzenszwalb 2, fast 1, OpenCV 2
#   half of a thing again: IoU 0.50, that of fast 0.20; kept malisiewicz 1, felzenszwalb 1, fast 2, OpenCV 1
#   larger, with the same middle: IoU 0.69, that of fast 0.69; kept malisiewicz 1, felzenszwalb 1, fast 1, OpenCV 1
#   same size, near: IoU 0.67, that of fast 0.67; kept malisiewicz 1, felzenszwalb 1, fast 1, OpenCV 1
#   same size, far: IoU 0.21, that of fast 0.21; kept malisiewicz 2, felzenszwalb 2, fast 2, OpenCV 2
#   side by side: IoU 0.00, that of fast 0.00; kept malisiewicz 2, felzenszwalb 2, fast 2, OpenCV 2
#   nine boxes apart, in pixels: kept malisiewicz 9, felzenszwalb 9, fast 9, OpenCV 9
#   nine boxes apart, in parts: kept malisiewicz 1, felzenszwalb 1, fast 9, OpenCV 9
