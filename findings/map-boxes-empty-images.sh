#!/usr/bin/env bash
# Guess: `exclude_not_in_annotations=False`, map-boxes' default, counts detections on images without objects as errors,
#   True leaves out those on images that the annotations do not name.
# Really: they are left out either way, as its loop runs over the images of the annotations alone: 95 false detections
#   on empty images cost nothing, AP is 1 in place of 0.05. With True and images named by whole numbers, as in COCO, it
#   drops all detections, as it compares numbers with text: AP 0. Files named by text are right with True. An image is
#   only seen as empty with a row of its own, labelled "nan", of which the documentation says nothing.
# Here: AP comes from pycocotools, which goes by the list of images.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet map-boxes==1.0.6 numpy==2.4.6 pandas==3.1.1 pycocotools==2.0.11
venv/bin/python - <<'EOF'
import contextlib
import io
from importlib.metadata import version

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

with contextlib.redirect_stdout(io.StringIO()):  # it says that it takes its slower IoU
    from map_boxes import mean_average_precision_for_boxes

print(*(f"{name} {version(name)}" for name in ("map-boxes", "pycocotools")))
BOX = 10, 10, 50, 50  # left, top, right, bottom
IMAGES = range(1, 101)  # the first five show a car
CARS = IMAGES[:5]


def wide(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def ap_coco(found):
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i} for i in IMAGES], "categories": [{"id": 1, "name": "car"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": wide(BOX), "area": 1600, "iscrowd": 0}
                        for i in CARS],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = [{"image_id": i, "category_id": 1, "bbox": wide(box), "score": score} for i, score, box in found]
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
    return run.stats[1]


def ap_map_boxes(found, name, empty=(), **options):
    rows = [[name(i), "car", *BOX[::2], *BOX[1::2]] for i in CARS] + [[name(i), "nan", 0, 0, 0, 0] for i in empty]
    detections = [[name(i), "car", score, *box[::2], *box[1::2]] for i, score, box in found]
    truth, result = np.array(rows, object), np.array(detections, object)
    return mean_average_precision_for_boxes(truth, result, iou_threshold=0.5, verbose=False, **options)[0]


# each car is found with 0.8; false detections, with 0.9: none, beside the cars, or on the empty images
NEAR, FAR = BOX, (100, 100, 150, 150)
cars = [(i, 0.8, NEAR) for i in CARS]
FOUND = {
    "the cars alone": cars,
    "and 5 errors beside them": cars + [(i, 0.9, FAR) for i in CARS],
    "and 95 on empty images": cars + [(i, 0.9, NEAR) for i in IMAGES[5:]],
}
seen = {}
for what, found in FOUND.items():
    for kind, name in (("numbers", int), ("text", lambda i: f"{i}.jpg")):
        values = [
            ap_map_boxes(found, name),
            ap_map_boxes(found, name, exclude_not_in_annotations=True),
            ap_map_boxes(found, name, empty=IMAGES[5:]),
            ap_coco(found),
        ]
        seen[what, kind] = by_default, excluded, listed, coco = [round(float(v), 2) for v in values]
        print(f"{what}, images named by {kind}: {by_default}, with exclude {excluded}, with rows of nan {listed};",
              f"pycocotools {coco}")

assert seen == {
    ("the cars alone", "numbers"): [1, 0, 1, 1], ("the cars alone", "text"): [1, 1, 1, 1],
    ("and 5 errors beside them", "numbers"): [0.5, 0, 0.5, 0.5], ("and 5 errors beside them", "text"): [0.5] * 4,
    ("and 95 on empty images", "numbers"): [1, 0, 0.05, 0.05], ("and 95 on empty images", "text"): [1, 1, 0.05, 0.05],
}
EOF
# Seen (Python 3.11, Linux, x86-64):
#   map-boxes 1.0.6 pycocotools 2.0.11
#   the cars alone, images named by numbers: 1.0, with exclude 0.0, with rows of nan 1.0; pycocotools 1.0
#   the cars alone, images named by text: 1.0, with exclude 1.0, with rows of nan 1.0; pycocotools 1.0
#   and 5 errors beside them, images named by numbers: 0.5, with exclude 0.0, with rows of nan 0.5; pycocotools 0.5
#   and 5 errors beside them, images named by text: 0.5, with exclude 0.5, with rows of nan 0.5; pycocotools 0.5
#   and 95 on empty images, images named by numbers: 1.0, with exclude 0.0, with rows of nan 0.05; pycocotools 0.05
#   and 95 on empty images, images named by text: 1.0, with exclude 1.0, with rows of nan 0.05; pycocotools 0.05
