#!/usr/bin/env bash
# Guess: lsnms.nms with `class_ids` suppresses class by class, as its text says, wherever the origin of the coordinates
#   lies; of boxes it asks only for x0 <= x1 and y0 <= y1.
# Really: it puts each class on a place of its own on a grid, and then suppresses all of them at once. The step of the
#   grid is the largest coordinate + 2, without a look at the smallest one. With coordinates below 0 the places overlap:
#   boxes of different classes that are a hundred pixels apart come to lie on each other and one is lost; a box that is
#   lost so does not suppress others of its class, which stay. If the largest coordinate is -2, the step is 0 and all
#   classes are one. Nothing is said. The same boxes, moved so that none is below 0, are right; so are those that reach
#   a few pixels over the edge of an image, and those so far below 0 that the step, negative then, is wide enough.
#   Coordinates below 0 are those around a middle: of a slide or a tile, of a local map, of a camera's axis.
# Here: boxes are moved to 0 and above before such a call.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet lsnms==0.5.0 numba==0.63.1 numpy==2.3.5
cat > check.py <<'EOF'
from importlib.metadata import version

import numpy as np
from lsnms import nms

print(" ".join(f"{name} {version(name)}" for name in ("lsnms", "numpy")))
THRESHOLD = 0.5


def iou(box, others):
    common = np.prod(np.clip(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0, None), axis=1)
    return common / (np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - common)


def by_class(boxes, scores, classes):
    """What stays if each class is suppressed by itself, written down as it is defined."""
    kept = []
    for i in np.argsort(-scores):
        same = [j for j in kept if classes[j] == classes[i]]
        if not same or iou(boxes[i], boxes[same]).max() <= THRESHOLD:
            kept.append(int(i))
    return kept


def kept(boxes, scores, classes):
    return nms(boxes, scores, THRESHOLD, class_ids=classes).tolist()


two, scores = np.array([0, 1]), np.array([0.9, 0.8])
PAIRS = {
    "a car, a tree 102 px above it": [[0, 52, 100, 100], [0, -50, 100, -2]],
    "a rider on a bicycle": [[-160, -120, -40, -20], [-160, -100, -40, -2]],
}
for name, boxes in PAIRS.items():
    boxes = np.array(boxes, float)
    here, moved, one_kind = kept(boxes, scores, two), kept(boxes + 200, scores, two), kept(boxes, scores, two * 0)
    print(f"{name}: {here} stay; moved by 200 px {moved}; as one class {one_kind}")
    assert here == [0] and moved == by_class(boxes, scores, two) == [0, 1]
    assert one_kind == ([0, 1] if "tree" in name else [0])

# 1800 boxes of ten classes in 600 x 600: 600 things, each found three times, with scores in any order.
random = np.random.default_rng(1)
corners, sizes = random.uniform(0, 560, (600, 2)), random.uniform(20, 40, (600, 2))
boxes = np.repeat(np.hstack([corners, corners + sizes]), 3, axis=0) + random.uniform(-2, 2, (1800, 4))
boxes, classes = boxes.clip(0, 600), np.repeat(random.integers(0, 10, 600), 3)
scores = random.permutation(np.linspace(0.3, 0.99, 1800))
wrong = {}
for shift in (1000, 0, -10, -300, -600, -602, -1500):
    now = boxes + shift
    want, got = set(by_class(now, scores, classes)), set(kept(now, scores, classes))
    single = set()  # class by class through the same function
    for one in range(10):
        rows = np.flatnonzero(classes == one)
        single |= set(rows[nms(now[rows], scores[rows], THRESHOLD)].tolist())
    assert single == want
    wrong[shift] = len(want - got), len(got - want)
    print("coordinates from {} to {}: {} stay, {} of them lost, {} others kept".format(
        shift, shift + 600, len(want), *wrong[shift]))
assert wrong[1000] == wrong[0] == wrong[-10] == wrong[-1500] == (0, 0)
assert all(wrong[shift][0] > 10 for shift in (-300, -600, -602))
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   lsnms 0.5.0 numpy 2.3.5
#   a car, a tree 102 px above it: [0] stay; moved by 200 px [0, 1]; as one class [0, 1]
#   a rider on a bicycle: [0] stay; moved by 200 px [0, 1]; as one class [0]
#   coordinates from 1000 to 1600: 594 stay, 0 of them lost, 0 others kept
#   coordinates from 0 to 600: 594 stay, 0 of them lost, 0 others kept
#   coordinates from -10 to 590: 594 stay, 0 of them lost, 0 others kept
#   coordinates from -300 to 300: 594 stay, 15 of them lost, 5 others kept
#   coordinates from -600 to 0: 594 stay, 57 of them lost, 19 others kept
#   coordinates from -602 to -2: 594 stay, 61 of them lost, 15 others kept
#   coordinates from -1500 to -900: 594 stay, 0 of them lost, 0 others kept
