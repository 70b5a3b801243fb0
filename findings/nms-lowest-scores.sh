#!/usr/bin/env bash
# Guess: the package nms does what cv2.dnn.NMSBoxes does, as its text says: `score_threshold` leaves out boxes with
#   lower scores, `top_k` keeps the best ones.
# Really: `score_threshold` has no effect with any of its three algorithms: both branches of the test keep the box. With
#   the default one (malisiewicz) and with felzenszwalb, which sort by rising score, `top_k` takes the first rows of
#   that order: the lowest scores stay, the best are thrown away before anything is suppressed. Ten objects found with
#   0.9 among forty boxes on nothing are all lost with top_k=20: AP 0 in place of 1. That of the third (fast) is right.
# Here: boxes are cut by score before a suppression of others is called, and a test has boxes below the threshold.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet nms==0.1.6 numpy==2.4.6 opencv-python-headless==5.0.0.93 pycocotools==2.0.11
venv/bin/python - <<'EOF'
import contextlib
import io
from importlib.metadata import version

import cv2
from nms import fast, felzenszwalb, malisiewicz, nms
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("nms", "opencv-python-headless", "pycocotools")))
KINDS = {"default": {}} | {
    name: {"nms_algorithm": module.nms}
    for name, module in (("malisiewicz", malisiewicz), ("felzenszwalb", felzenszwalb), ("fast", fast))
}


def kept(boxes, scores, **options):
    """Which boxes each one keeps: the algorithms of nms and, last, OpenCV."""
    found = {name: nms.boxes(boxes, scores, nms_threshold=0.4, **kind, **options) for name, kind in KINDS.items()}
    settings = {"score_threshold": 0.3, "nms_threshold": 0.4, "top_k": 0} | options
    found["OpenCV"] = cv2.dnn.NMSBoxes(boxes, scores, **settings)
    return {name: sorted(map(int, rows)) for name, rows in found.items()}


# six boxes that touch nowhere, the best first
apart = [[100 * i, 0, 50, 50] for i in range(6)]
falling = [0.9, 0.8, 0.7, 0.2, 0.1, 0.05]
seen = {}
for options in ({}, {"score_threshold": 0.75}, {"top_k": 2}, {"score_threshold": 0.75, "top_k": 3}):
    now = seen[str(options)] = kept(apart, falling, **options)
    groups = {}
    for name, rows in now.items():
        groups.setdefault(str(rows), []).append(name)
    print(f"{options}:", "; ".join(f"{', '.join(names)} {rows}" for rows, names in groups.items()))

# a detector's output: ten objects with 0.9, each found again with 0.6, and forty boxes on nothing with 0.1
objects = [[100 * i, 0, 50, 50] for i in range(10)]
again = [[x + 2, y, w, h] for x, y, w, h in objects]
nothing = [[25 * i, 500, 20, 20] for i in range(40)]
boxes = objects + again + nothing
scores = [0.9] * 10 + [0.6] * 10 + [0.1] * 40
truth = COCO()
truth.dataset = {
    "images": [{"id": 1}], "categories": [{"id": 1, "name": "car"}],
    "annotations": [{"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 2500, "iscrowd": 0}
                    for i, box in enumerate(objects)],
}


def judge(rows):
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = [{"image_id": 1, "category_id": 1, "bbox": boxes[i], "score": scores[i]} for i in rows]
        run = COCOeval(truth, truth.loadRes(found), "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
    return round(float(run.stats[0]), 3)


for options in ({}, {"top_k": 20}):
    ap = {name: judge(rows) for name, rows in kept(boxes, scores, **options).items()}
    print(f"AP with {options}:", *(f"{name} {value}" for name, value in ap.items()))
    seen[f"AP {options}"] = list(ap.values())

for options, now in list(seen.items())[:4]:
    assert now["default"] == now["malisiewicz"] == now["felzenszwalb"]
    assert now["OpenCV"] == ([0, 1] if len(options) > 2 else [0, 1, 2])
assert all(seen[key][name] == [*range(6)] for key in list(seen)[:2] for name in KINDS)
assert seen["{'top_k': 2}"]["default"] == [4, 5] and seen["{'top_k': 2}"]["fast"] == [0, 1]
assert list(seen.values())[3]["default"] == [3, 4, 5] and list(seen.values())[3]["fast"] == [0, 1, 2]
assert seen["AP {}"] == [1] * 5 and seen["AP {'top_k': 20}"] == [0, 0, 0, 1, 1]
EOF
# Seen (Python 3.11, Linux, x86-64):
#   nms 0.1.6 opencv-python-headless 5.0.0.93 pycocotools 2.0.11
#   {}: default, malisiewicz, felzenszwalb, fast [0, 1, 2, 3, 4, 5]; OpenCV [0, 1, 2]
#   {'score_threshold': 0.75}: default, malisiewicz, felzenszwalb, fast [0, 1, 2, 3, 4, 5]; OpenCV [0, 1]
#   {'top_k': 2}: default, malisiewicz, felzenszwalb [4, 5]; fast, OpenCV [0, 1]
#   {'score_threshold': 0.75, 'top_k': 3}: default, malisiewicz, felzenszwalb [3, 4, 5]; fast [0, 1, 2]; OpenCV [0, 1]
#   AP with {}: default 1.0 malisiewicz 1.0 felzenszwalb 1.0 fast 1.0 OpenCV 1.0
#   AP with {'top_k': 20}: default 0.0 malisiewicz 0.0 felzenszwalb 0.0 fast 1.0 OpenCV 1.0
