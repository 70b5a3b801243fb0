#!/usr/bin/env bash
# Guess: pybboxes reads a COCO file, and each object keeps the name of its class in the COCO, YOLO and VOC files that it
#   writes.
# Really: it makes a list of the names, in the order of the file, and takes the id of a class for the place in that
#   list, counted from 0. That fits only where the ids are 0, 1, 2 and so on, in that order. With ids from 1, as in COCO
#   itself, each object gets the name of the class after it, with COCO's gaps that of another one, and with ids from 0
#   in another order the names are mixed. All three formats agree on the wrong names. Nothing is said, unless a place is
#   past the end of the list: then reading stops with an IndexError, that is, only if the last classes have an object.
# Here: judged by pycocotools, classes compared by name; right boxes with right names score 0 in place of 1.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pycocotools==2.0.11 pyyaml==6.0.3
venv/bin/pip install --quiet --no-deps pybboxes==0.2.0  # it asks for older ones of these three, to be compiled
venv/bin/python - <<'EOF'
import contextlib
import io
import json
import shutil
import xml.etree.ElementTree as ET
from importlib.metadata import version

from pybboxes.annotations import Annotations
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("pybboxes", "pycocotools")))
IMAGE = {"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}


def boxes(objects):
    """An object of each of these classes, side by side, in whole pixels."""
    return [{"id": i + 1, "image_id": 1, "category_id": c, "bbox": [10 + 50 * i, 20, 40, 60], "area": 2400,
             "iscrowd": 0} for i, c in enumerate(objects)]


def names_after(classes, objects):
    """The names of the objects in the three formats, and AP of the right boxes with the right names."""
    with open("truth.json", "w") as f:
        json.dump({"images": [IMAGE], "categories": [{"id": i, "name": n} for i, n in classes],
                   "annotations": boxes(objects)}, f)
    read = Annotations("coco")
    read.load_from_coco("truth.json")
    for folder in ("yolo", "voc"):
        shutil.rmtree(folder, ignore_errors=True)
    read.save_as_yolo("yolo")
    read.save_as_voc("voc")
    read.save_as_coco("after.json")
    listed = open("yolo/classes.txt").read().splitlines()
    yolo = [listed[int(line.split()[0])] for line in open("yolo/a.txt")]
    voc = [o.find("name").text for o in ET.parse("voc/a.xml").getroot().findall("object")]
    after = json.load(open("after.json"))
    name = {c["id"]: c["name"] for c in after["categories"]}
    coco = [name[a["category_id"]] for a in after["annotations"]]
    assert yolo == voc == coco

    truth, found = COCO(), COCO()
    for a in after["annotations"]:  # pycocotools has no place for the id 0
        a["id"] += 1
    ids = {n: i for i, n in name.items()}
    right = [dict(a, category_id=ids[dict(classes)[a["category_id"]]], image_id=0, score=1) for a in boxes(objects)]
    truth.dataset, found.dataset = after, dict(after, annotations=right)
    truth.createIndex()
    found.createIndex()
    judge = COCOeval(truth, found, "bbox")
    for step in (judge.evaluate, judge.accumulate, judge.summarize):
        step()
    return coco, judge.stats[0]


GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO80 = [(i, f"coco-{i}") for i in range(1, 91) if i not in GAPS]
ZERO = [(0, "person"), (1, "car"), (2, "dog")]
ONE = [(1, "person"), (2, "car"), (3, "dog")]
MIXED = [(2, "dog"), (0, "person"), (1, "car")]
for text, classes, objects, same in (
    ("ids 0, 1, 2", ZERO, [0, 0, 1, 2], 1),
    ("ids 1, 2, 3, no dog here", ONE, [1, 1, 2], 0),
    ("ids 0, 1, 2, listed as 2, 0, 1", MIXED, [0, 0, 1, 2], 0),
    ("the ids of COCO", COCO80, [1, 18, 50, 70], 0),
    ("ids 1, 2, 3, a dog, too", ONE, [1, 1, 2, 3], 0),
    ("the ids of COCO, object of 85", COCO80, [1, 85], 0),
):
    before = [dict(classes)[c] for c in objects]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            after, ap = names_after(classes, objects)
    except IndexError:
        print(f"{text}: IndexError")
        assert objects[-1] >= len(classes)
        continue
    print(f"{text}: {', '.join(before)} -> {', '.join(after)}; AP {ap:.2f}")
    assert objects[-1] < len(classes) and (after == before) == same and abs(ap - same) < 1e-9
    assert after == [classes[c][1] for c in objects]  # the id taken for a place
EOF
# Seen (Python 3.11, Linux, x86-64):
#   pybboxes 0.2.0 pycocotools 2.0.11
#   ids 0, 1, 2: person, person, car, dog -> person, person, car, dog; AP 1.00
#   ids 1, 2, 3, no dog here: person, person, car -> car, car, dog; AP 0.00
#   ids 0, 1, 2, listed as 2, 0, 1: person, person, car, dog -> dog, dog, person, car; AP 0.00
#   the ids of COCO: coco-1, coco-18, coco-50, coco-70 -> coco-2, coco-20, coco-56, coco-80; AP 0.00
#   ids 1, 2, 3, a dog, too: IndexError
#   the ids of COCO, object of 85: IndexError
