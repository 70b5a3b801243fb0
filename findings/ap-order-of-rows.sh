#!/usr/bin/env bash
# Guess: average precision is about scores, so it does not matter in which order the detections are listed.
# Really: mapcalc never looks at the scores: it takes the detections as they are listed, and five of them give eight
#   values from 0.4 to 1. map-boxes sorts them, but gives away the objects of an image before, row by row: a second
#   box on an object, with the score 0.1, takes it from the one with 0.9 if it is listed first, and that one
#   counts as an error. Neither asks for sorted rows. pycocotools and hotcoco give one value for all orders.
# Here: AP comes from pycocotools or what is compared with it; other tools get rows sorted by falling score.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 mapcalc==0.2.2 map-boxes==1.0.6 pandas==3.1.1 hotcoco==1.3.0 \
  pycocotools==2.0.11
venv/bin/python - <<'EOF'
import contextlib
import io
import json
from importlib.metadata import version
from itertools import permutations
from pathlib import Path

import hotcoco
import numpy as np
from mapcalc import calculate_map
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

with contextlib.redirect_stdout(io.StringIO()):  # it says that it takes its slower IoU
    from map_boxes import mean_average_precision_for_boxes

print(*(f"{name} {version(name)}" for name in ("mapcalc", "map-boxes", "pycocotools", "hotcoco")))
OBJECTS = [[10, 10, 50, 50], [60, 60, 90, 90]]
# (box, score): both objects, the first one again, and two on nothing
FOUND = [
    ([10, 10, 50, 50], 0.9),
    ([60, 60, 90, 90], 0.8),
    ([100, 10, 120, 40], 0.3),
    ([100, 60, 120, 90], 0.2),
    ([12, 10, 54, 50], 0.1),
]


def ap_mapcalc(rows):
    truth = {"boxes": OBJECTS, "labels": [1, 1]}
    boxes, scores = zip(*rows, strict=True)
    return calculate_map(truth, {"boxes": list(boxes), "labels": [1] * len(rows), "scores": list(scores)}, 0.5)


def ap_map_boxes(rows):
    truth = np.array([["a", "car", x1, x2, y1, y2] for x1, y1, x2, y2 in OBJECTS], object)
    found = np.array([["a", "car", score, x1, x2, y1, y2] for (x1, y1, x2, y2), score in rows], object)
    return mean_average_precision_for_boxes(truth, found, iou_threshold=0.5, verbose=False)[0]


def wide(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def ap_coco(reader, judge, rows):
    objects = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": wide(box), "area": 900, "iscrowd": 0}
        for i, box in enumerate(OBJECTS, start=1)
    ]
    coco = {"images": [{"id": 1, "file_name": "a.jpg", "width": 128, "height": 128}], "annotations": objects}
    Path("truth.json").write_text(json.dumps({**coco, "categories": [{"id": 1, "name": "car"}]}))
    found = [{"image_id": 1, "category_id": 1, "bbox": wide(box), "score": score} for box, score in rows]
    Path("found.json").write_text(json.dumps(found))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = reader("truth.json")
        evaluation = judge(truth, truth.loadRes("found.json"), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])  # at IoU 0.5


TOOLS = {
    "mapcalc": ap_mapcalc,
    "map-boxes": ap_map_boxes,
    "pycocotools": lambda rows: ap_coco(COCO, COCOeval, rows),
    "hotcoco": lambda rows: ap_coco(hotcoco.COCO, hotcoco.COCOeval, rows),
}
seen = {}
for name, tool in TOOLS.items():
    values = {order: round(float(tool([FOUND[i] for i in order])), 4) for order in permutations(range(len(FOUND)))}
    falling, rising = tuple(range(len(FOUND))), tuple(reversed(range(len(FOUND))))
    seen[name] = values[falling], values[rising], sorted(set(values.values()))
    print(f"{name}: scores falling {values[falling]}, rising {values[rising]}, all 120 orders {seen[name][2]}")

for name in ("pycocotools", "hotcoco"):
    assert seen[name] == (1.0, 1.0, [1.0])
assert seen["map-boxes"][0] == 1 and seen["map-boxes"][1] < 0.8
assert seen["mapcalc"][0] == 1 and seen["mapcalc"][2][0] < 0.5 and len(seen["mapcalc"][2]) > 5
EOF
# Seen (Python 3.11, Linux, x86-64):
#   mapcalc 0.2.2 map-boxes 1.0.6 pycocotools 2.0.11 hotcoco 1.3.0
#   mapcalc: scores falling 1.0, rising 0.75, all 120 orders [0.4, 0.45, 0.5, 0.6667, 0.7, 0.75, 0.8333, 1.0]
#   map-boxes: scores falling 1.0, rising 0.45, all 120 orders [0.45, 1.0]
#   pycocotools: scores falling 1.0, rising 1.0, all 120 orders [1.0]
#   hotcoco: scores falling 1.0, rising 1.0, all 120 orders [1.0]
