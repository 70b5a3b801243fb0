#!/usr/bin/env bash
# Guess: the COCO file that superannotate makes of rectangles has each object's area, which decides whether it counts as
#   small, medium or large.
# Really: the area is width * y2 - y1 in place of width * (y2 - y1): it grows with the place in the image. The same
#   object of 20 x 20 pixels has 400 at the upper border, 4200 at y 200 and 15600, which is large, at y 800; all are as
#   large as they look only at y 0. A detector that finds the small objects and no other has AP 0.66 for medium and 0.19
#   for large ones in place of 0, one that finds all large ones 0.46 in place of 1. Boxes and outlines are right.
# Here: an area that no mask in the box can have is taken from the box, and counted in the report.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
export HOME="$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pandas==2.3.3 superannotate==4.6.2 pycocotools==2.0.11
cat > check.py <<'EOF'
import contextlib
import io
import json
import os
from importlib.metadata import version
from pathlib import Path

os.environ.update(SA_SKIP_METRICS="True", SA_VERSION_CHECK="False")  # nothing is sent or asked for
import superannotate
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("superannotate", "pycocotools")))
WIDTH, HEIGHT = 1920, 1080
SIDES = {"small": 20, "medium": 50, "large": 120}
Path("set/classes").mkdir(parents=True)
Path("set/classes/classes.json").write_text(json.dumps([{"id": 1, "name": "dog", "color": "#ff0000"}]))
metadata = {"name": "a.jpg", "width": WIDTH, "height": HEIGHT}
boxes = [[x, y, side, side] for x, side in zip((100, 300, 500), SIDES.values(), strict=True)
         for y in (0, 200, 400, 600, 800)]
instances = [
    {"type": "bbox", "classId": 1, "className": "dog", "probability": 100, "groupId": 0, "attributes": [],
     "points": {"x1": x, "x2": x + width, "y1": y, "y2": y + height}}
    for x, y, width, height in boxes
]
Path("set/a.jpg___objects.json").write_text(json.dumps({"metadata": metadata, "instances": instances}))
with contextlib.redirect_stderr(io.StringIO()):
    superannotate.export_annotation("set", "out", "COCO", "dogs", "Vector", "object_detection")
coco = json.loads(Path("out/dogs.json").read_text())
assert [one["bbox"] for one in coco["annotations"]] == boxes
areas = [one["area"] for one in coco["annotations"]]
for name, side in SIDES.items():
    found = {box[1]: area for box, area in zip(boxes, areas, strict=True) if box[2] == side}
    print(f"{name}, {side} x {side} = {side * side}: area by y {found}")
assert areas == [width * (y + height) - y for _, y, width, height in boxes]

right = json.loads(json.dumps(coco))
for one in right["annotations"]:
    one["area"] = one["bbox"][2] * one["bbox"][3]
Path("right.json").write_text(json.dumps(right))


def score(path, size):
    """AP of small, medium and large objects for a detector that finds those of one size, exactly."""
    found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes if box[2] == SIDES[size]]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [round(float(v), 2) for v in evaluation.stats[3:6]]


for size in SIDES:
    with_right, exported = score("right.json", size), score("out/dogs.json", size)
    print(f"a detector that finds the {size} ones: AP small, medium, large {with_right}, with these areas {exported}")
    assert with_right == [float(size == name) for name in SIDES]
    assert exported != with_right
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   superannotate 4.6.2 pycocotools 2.0.11
#   small, 20 x 20 = 400: area by y {0: 400, 200: 4200, 400: 8000, 600: 11800, 800: 15600}
#   medium, 50 x 50 = 2500: area by y {0: 2500, 200: 12300, 400: 22100, 600: 31900, 800: 41700}
#   large, 120 x 120 = 14400: area by y {0: 14400, 200: 38200, 400: 62000, 600: 85800, 800: 109600}
#   a detector that finds the small ones: AP small, medium, large [1.0, 0.0, 0.0], with these areas [1.0, 0.66, 0.19]
#   a detector that finds the medium ones: AP small, medium, large [0.0, 1.0, 0.0], with these areas [0.0, 0.34, 0.37]
#   a detector that finds the large ones: AP small, medium, large [0.0, 0.0, 1.0], with these areas [0.0, 0.0, 0.46]
