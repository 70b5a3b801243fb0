#!/usr/bin/env bash
# Guess: simple-cocotools compares boxes by their IoU, as COCO does: a detection that misses the object is wrong.
# Really: it divides by the area of the smallest box around both, not by that of their union; and where two boxes lie
#   apart in x and in y, it takes the gap between them for the overlap (minus times minus). So a small detection in the
#   opposite corner of the picture has "IoU" 0.92 and counts as a hit, while one shifted by a tenth in both directions
#   has 0.67 in place of 0.68, one by a quarter 0.36 in place of 0.39. A detector that marks the corner opposite of each
#   object has a box mAP of 0.9, in pycocotools 0. Masks are compared as they should be.
# Here: IoU is intersection by union, nothing for boxes apart; AP comes from pycocotools or what is compared with it.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 scipy==1.17.1 simple-cocotools==1.0.2 pycocotools==2.0.11
venv/bin/python - <<'EOF'
import contextlib
import io
from importlib.metadata import version

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from simple_cocotools import CocoEvaluator
from simple_cocotools.detections import Detection, box_iou, mask_iou

print(*(f"{name} {version(name)}" for name in ("simple-cocotools", "pycocotools")))
OBJECT = [0, 0, 20, 20]  # corners
OTHERS = {
    "the same": [0, 0, 20, 20],
    "shifted by a tenth": [2, 2, 22, 22],
    "shifted by a quarter": [5, 5, 25, 25],
    "half as high": [0, 0, 20, 10],
    "beside it": [40, 0, 60, 20],
    "beside it and below": [40, 40, 60, 60],
    "in the opposite corner": [1180, 780, 1200, 800],
}


def wide(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def filled(box):
    """The mask of a box on the picture."""
    picture = np.zeros((800, 1200), bool)
    picture[box[1] : box[3], box[0] : box[2]] = True
    return Detection(1, np.array(box), picture)


seen = {}
for name, box in OTHERS.items():
    right = float(mask.iou([wide(box)], [wide(OBJECT)], [0])[0, 0])
    found, masks = (float(iou(filled(box), filled(OBJECT))) for iou in (box_iou, mask_iou))
    seen[name] = round(right, 3), round(found, 3)
    print(f"{name}: IoU {seen[name][0]}, simple-cocotools {seen[name][1]}, of its masks {masks:.3f}")
    assert abs(masks - right) < 1e-6


def scores(found, truth):
    """Box mAP and mAR of simple-cocotools, AP and AR of pycocotools; one object and one detection on each image."""
    evaluator = CocoEvaluator(labelmap={1: "car"})
    evaluator.update(
        [{"boxes": np.array([box]), "labels": np.array([1]), "scores": np.array([0.9])} for box in found],
        [{"boxes": np.array([box]), "labels": np.array([1])} for box in truth],
    )
    box = evaluator.summarize(verbose=False)["box"]
    rest = {"category_id": 1}
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(1, len(truth) + 1)],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {**rest, "id": i, "image_id": i, "bbox": wide(one), "area": 400, "iscrowd": 0}
            for i, one in enumerate(truth, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        rows = [{**rest, "image_id": i, "bbox": wide(one), "score": 0.9} for i, one in enumerate(found, start=1)]
        judge = COCOeval(coco, coco.loadRes(rows), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return tuple(round(float(value), 3) for value in (box["mAP"], box["mAR"], judge.stats[0], judge.stats[8]))


corners = [[0, 0, 20, 20], [1180, 0, 1200, 20], [0, 780, 20, 800], [1180, 780, 1200, 800]]
for name, found in {
    "right boxes": corners,
    "shifted by three pixels": [[x1 + 3, y1 + 3, x2 + 3, y2 + 3] for x1, y1, x2, y2 in corners],
    "in the opposite corner": corners[::-1],
}.items():
    seen[name, "AP"] = scores(found, corners)
    print("{}: mAP and mAR {}, {}, pycocotools {}, {}".format(name, *seen[name, "AP"]))

assert seen["the same"] == (1, 1) and seen["half as high"] == (0.5, 0.5) and seen["beside it"] == (0, 0)
assert seen["shifted by a quarter"][0] > seen["shifted by a quarter"][1] + 0.02
assert seen["beside it and below"][0] == 0 < seen["beside it and below"][1]
assert seen["in the opposite corner"][0] == 0 and seen["in the opposite corner"][1] > 0.9
assert seen["right boxes", "AP"] == (1, 1, 1, 1)
assert seen["in the opposite corner", "AP"][0] > 0.85 and seen["in the opposite corner", "AP"][2] == 0
EOF
# Seen (Python 3.11, Linux, x86-64):
#   simple-cocotools 1.0.2 pycocotools 2.0.11
#   the same: IoU 1.0, simple-cocotools 1.0, of its masks 1.000
#   shifted by a tenth: IoU 0.681, simple-cocotools 0.669, of its masks 0.681
#   shifted by a quarter: IoU 0.391, simple-cocotools 0.36, of its masks 0.391
#   half as high: IoU 0.5, simple-cocotools 0.5, of its masks 0.500
#   beside it: IoU 0.0, simple-cocotools 0.0, of its masks 0.000
#   beside it and below: IoU 0.0, simple-cocotools 0.111, of its masks 0.000
#   in the opposite corner: IoU 0.0, simple-cocotools 0.918, of its masks 0.000
#   right boxes: mAP and mAR 1.0, 1.0, pycocotools 1.0, 1.0
#   shifted by three pixels: mAP and mAR 0.1, 0.1, pycocotools 0.2, 0.2
#   in the opposite corner: mAP and mAR 0.9, 0.9, pycocotools 0.0, 0.0
