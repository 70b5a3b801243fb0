#!/usr/bin/env bash
# Guess: a COCO file that went through globox (in: from_coco, out: to_coco) gives the AP it gave before.
# Really: globox numbers annotations from 0, and pycocotools marks an unmatched detection with 0. The
#   first object of the file then can never be found, and the detection on it counts as a false one, without a
#   word: two right boxes of two score 0.25 in place of 1. hotcoco reads the same file as meant.
#   Crowds come back as ordinary objects, too (iscrowd 0), so that a detection in a crowd becomes an error.
# Here: every annotation gets a new id from 1 on before it is evaluated, and crowds stay crowds.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 globox==2.9.0 hotcoco==1.3.0 pycocotools==2.0.11
venv/bin/python - <<'EOF'
import contextlib
import io
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import globox
import hotcoco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("globox", "pycocotools", "hotcoco")))
PYCOCOTOOLS, HOTCOCO = (COCO, COCOeval), (hotcoco.COCO, hotcoco.COCOeval)


def ap(path, detections, tools):
    """Headline AP of a COCO file and detections."""
    Path("found.json").write_text(json.dumps(detections))
    reader, judge = tools
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hotcoco warns of the id 0
        truth = reader(path)
        evaluation = judge(truth, truth.loadRes("found.json"), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 4)


def through_globox(name, objects):
    """A COCO file of one image, and what globox makes of it -> both paths."""
    annotations = [
        {"id": number, "image_id": 7, "category_id": 3, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
        for number, (box, crowd) in enumerate(objects, start=1)
    ]
    image = {"id": 7, "file_name": "street.jpg", "width": 640, "height": 480}
    kind = {"id": 3, "name": "person"}
    coco = {"images": [image], "annotations": annotations, "categories": [kind]}
    before, after = f"{name}.json", f"{name}_globox.json"
    Path(before).write_text(json.dumps(coco))
    written = globox.AnnotationSet.from_coco(before).to_coco()
    Path(after).write_text(json.dumps(written))
    return before, after, [(a["id"], a["iscrowd"]) for a in written["annotations"]]


left, right, crowd = [10, 10, 50, 50], [200, 200, 50, 50], [300, 100, 200, 200]
found = [
    {"image_id": 7, "category_id": 3, "bbox": box, "score": score}
    for box, score in ((left, 0.9), (right, 0.8), ([320, 120, 40, 40], 0.95))
]

before, after, marks = through_globox("two", [(left, 0), (right, 0)])
print("two objects, both found; (id, iscrowd) after globox:", marks)
scores = [ap(path, found[:2], tools) for tools in (PYCOCOTOOLS, HOTCOCO) for path in (before, after)]
print("  AP before and after: pycocotools", scores[:2], "hotcoco", scores[2:])
assert marks == [(0, 0), (1, 0)] and scores == [1.0, 0.2525, 1.0, 1.0]

before, after, marks = through_globox("crowd", [(left, 0), (right, 0), (crowd, 1)])
print("and a crowd, one box in it; (id, iscrowd) after globox:", marks)
scores = [ap(path, found, tools) for tools in (PYCOCOTOOLS, HOTCOCO) for path in (before, after)]
print("  AP before and after: pycocotools", scores[:2], "hotcoco", scores[2:])
assert marks == [(0, 0), (1, 0), (2, 0)] and scores == [1.0, 0.1122, 1.0, 0.4422]
EOF
# Seen (Python 3.11, Linux, x86-64):
#   globox 2.9.0 pycocotools 2.0.11 hotcoco 1.3.0
#   two objects, both found; (id, iscrowd) after globox: [(0, 0), (1, 0)]
#     AP before and after: pycocotools [1.0, 0.2525] hotcoco [1.0, 1.0]
#   and a crowd, one box in it; (id, iscrowd) after globox: [(0, 0), (1, 0), (2, 0)]
#     AP before and after: pycocotools [1.0, 0.1122] hotcoco [1.0, 0.4422]
