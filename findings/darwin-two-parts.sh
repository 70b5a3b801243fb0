#!/usr/bin/env bash
# Guess: darwin-py writes an object of V7 Darwin as an object of a COCO file, also where it is hidden in the middle and
#   its outline has two parts; in its grey masks each class has the grey that class_mapping.csv lists for it.
# Really: an outline in two parts, or with a hole, becomes a crowd of area 0: nobody has to find it, and a right box on
#   it is neither right nor wrong. A detector that finds none of those has AP 1 in place of 0.6, one that finds only
#   those 0 in place of 0.41; of such objects alone AP is -1. Its own importer leaves crowds out. In grey masks of more
#   than 15 classes greys are replaced one after the other, also those that were put in before: of 16 classes the first
#   gets the grey of the 15th, of 80 classes 25 get another one's. Index masks and 15 classes are right.
# Here: crowds in a data set are counted (there are few or none), and AP per class is looked at beside the mean.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
export HOME="$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 darwin-py==3.6.3 pycocotools==2.0.11
cat > check.py <<'EOF'
import contextlib
import csv
import io
import json
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
from darwin.exporter import export_annotations, get_exporter
from darwin.importer.formats.coco import parse_path
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("darwin-py", "pycocotools")))
logging.disable(logging.WARNING)


def corners(x, y, w, h):
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]


def export(form, objects, width, height):
    """A Darwin file of one image with (class, parts of the outline as boxes), written as `form` to a folder."""
    folder = Path(f"{form}-{len(objects)}-{width}")
    (folder / "out").mkdir(parents=True)
    data = {
        "version": "2.0",
        "item": {"name": "a.jpg", "path": "/", "slots": [{
            "type": "image", "slot_name": "0", "width": width, "height": height,
            "source_files": [{"file_name": "a.jpg", "url": ""}],
        }]},
        "annotations": [
            {
                "id": str(i), "name": name, "slot_names": ["0"], "bounding_box": around(parts),
                "polygon": {"paths": [[{"x": x, "y": y} for x, y in corners(*part)] for part in parts]},
            }
            for i, (name, parts) in enumerate(objects)
        ],
    }
    (folder / "a.json").write_text(json.dumps(data))
    with contextlib.redirect_stdout(io.StringIO()):
        export_annotations(get_exporter(form), [folder / "a.json"], folder / "out")
    return folder / "out"


def around(parts):
    x, y = min(part[0] for part in parts), min(part[1] for part in parts)
    right, down = max(part[0] + part[2] for part in parts), max(part[1] + part[3] for part in parts)
    return {"x": x, "y": y, "w": right - x, "h": down - y}


def by_hand(objects):
    """The COCO file as COCO describes it: a single object, crowd 0, may have several polygons."""
    boxes = [list(around(parts).values()) for _, parts in objects]
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0,
             "area": sum(w * h for _, _, w, h in parts),
             "segmentation": [sum(corners(*part), []) for part in parts]}
            for i, ((_, parts), box) in enumerate(zip(objects, boxes, strict=True), 1)
        ],
    }


def ap(data, found):
    """pycocotools' AP of the boxes of the objects with these numbers, as `by_hand` has them."""
    image, category = data["images"][0]["id"], data["categories"][0]["id"]
    boxes = [by_hand(OBJECTS)["annotations"][i]["bbox"] for i in found]
    rows = [{"image_id": image, "category_id": category, "bbox": box, "score": 0.9 - 0.01 * i}
            for i, box in enumerate(boxes)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = data
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(rows), "bbox")
        for step in (judge.evaluate, judge.accumulate, judge.summarize):
            step()
    return round(float(judge.stats[0]), 2)


# ten cars; a post hides the middle of the last four
OBJECTS = [("car", [[60 * i, 20, 50, 40]]) for i in range(6)]
OBJECTS += [("car", [[120 * i, 200, 40, 40], [120 * i + 60, 200, 40, 40]]) for i in range(4)]
seen = {}
for name, objects in {"all ten": OBJECTS, "the four in two parts": OBJECTS[6:]}.items():
    out = export("coco", objects, 640, 480)
    written = json.loads((out / "output.json").read_text())
    crowds = [one for one in written["annotations"] if one["iscrowd"]]
    found = {"those in one piece": range(6), "those in two parts": range(6, 10), "all": range(10)}
    scores = {title: (ap(written, which), ap(by_hand(objects), which)) for title, which in found.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        back = sum(len(file.annotations) for file in parse_path(out / "output.json"))
    seen[name] = len(crowds), {one["area"] for one in crowds}, back, scores
    print(f"{name}: {len(crowds)} crowds of area {[one['area'] for one in crowds]}, read again {back} objects")
    for title, (theirs, right) in scores.items():
        print(f"  a detector that finds {title}: AP {theirs}, by hand {right}")
out = export("coco", [("car", [[10, 10, 50, 50], [30, 30, 10, 10]])], 640, 480)
(hole,) = json.loads((out / "output.json").read_text())["annotations"]
print(f"an object with a hole: iscrowd {hole['iscrowd']}, area {hole['area']}")

greys = {}
for count in (15, 16, 80):
    objects = [(f"class {i:02}", [[10 * i, 0, 8, 8]]) for i in range(count)]
    for form in ("semantic_mask_grey", "semantic_mask_index"):
        out = export(form, objects, 10 * count, 10)
        pixels = np.asarray(Image.open(next(out.rglob("*.png"))))
        with open(out / "class_mapping.csv") as file:
            listed = {row["class_name"]: int(row["class_color"]) for row in csv.DictReader(file)}
        painted = {name: int(pixels[4, parts[0][0] + 4]) for name, parts in objects}
        wrong = {name: (listed[name], painted[name]) for name, _ in objects if listed[name] != painted[name]}
        greys[form, count] = len(wrong), len(set(painted.values())), dict(list(wrong.items())[:2])
        print(f"{form}, {count} classes: {len(set(painted.values()))} greys, {len(wrong)} not as listed", end=" ")
        print(", ".join(f"({name}: {to}, not {at})" for name, (at, to) in greys[form, count][2].items()))

assert seen["all ten"] == (4, {0}, 6, {
    "those in one piece": (1, 0.6), "those in two parts": (0, 0.41), "all": (1, 1)})
assert seen["the four in two parts"] == (4, {0}, 0, {
    "those in one piece": (-1, 0), "those in two parts": (-1, 1), "all": (-1, 0.4)})
assert (hole["iscrowd"], hole["area"]) == (1, 0)
for count in (15, 16, 80):
    assert greys["semantic_mask_index", count][:2] == (0, count)
assert greys["semantic_mask_grey", 15][:2] == (0, 15)
assert greys["semantic_mask_grey", 16] == (1, 15, {"class 00": (15, 239)})
assert greys["semantic_mask_grey", 80] == (25, 55, {"class 00": (3, 89), "class 01": (6, 191)})
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   darwin-py 3.6.3 pycocotools 2.0.11
#   all ten: 4 crowds of area [0, 0, 0, 0], read again 6 objects
#     a detector that finds those in one piece: AP 1.0, by hand 0.6
#     a detector that finds those in two parts: AP 0.0, by hand 0.41
#     a detector that finds all: AP 1.0, by hand 1.0
#   the four in two parts: 4 crowds of area [0, 0, 0, 0], read again 0 objects
#     a detector that finds those in one piece: AP -1.0, by hand 0.0
#     a detector that finds those in two parts: AP -1.0, by hand 1.0
#     a detector that finds all: AP -1.0, by hand 0.4
#   an object with a hole: iscrowd 1, area 0
#   semantic_mask_grey, 15 classes: 15 greys, 0 not as listed
#   semantic_mask_index, 15 classes: 15 greys, 0 not as listed
#   semantic_mask_grey, 16 classes: 15 greys, 1 not as listed (class 00: 239, not 15)
#   semantic_mask_index, 16 classes: 16 greys, 0 not as listed
#   semantic_mask_grey, 80 classes: 55 greys, 25 not as listed (class 00: 89, not 3), (class 01: 191, not 6)
#   semantic_mask_index, 80 classes: 80 greys, 0 not as listed
