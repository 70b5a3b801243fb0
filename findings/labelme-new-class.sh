#!/usr/bin/env bash
# Guess: labelme2coco takes the categories of the training part for the validation part, as its own page shows, so
#   that both have the same ids; a label that only the validation part has becomes one class more.
# Really: new ids are counted from category_id_start, whatever the given list holds. The new class gets the id of the
#   first one on the list (dog is 1 like person), and the next person, whose name no longer has an id, gets 2,
#   the one of car. From there on every class has another id than before, and the file lists person and car twice.
#   pycocotools reads it without a word: who finds every person and car has AP 0.28 in place of 0.67 (dog is new).
#   One such object is enough. Without one it is right, and with category_id_start behind the list, too.
# Here: parts of a data set whose categories differ are refused before anything is packed.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 opencv-python-headless==5.0.0.93 shapely==2.1.2 pycocotools==2.0.11 \
  click==8.5.1 fire==0.7.1 matplotlib==3.10.8 pillow==12.2.0 pyyaml==6.0.4 requests==2.34.2 tqdm==4.70.1 \
  jsonschema==4.26.0
venv/bin/pip install --quiet --no-deps sahi==0.12.8 labelme2coco==0.2.6 # sahi asks for an OpenCV with windows
venv/bin/python - 2> log <<'EOF' || { cat log; exit 1; }
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

from labelme2coco import get_coco_from_labelme_folder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("labelme2coco", "sahi", "pycocotools")))
PLACES = {"person": [10, 10, 60, 110], "car": [200, 200, 300, 260], "dog": [400, 300, 450, 350]}


def folder(name, images):
    """A folder as labelme leaves it: one file per image, here with one rectangle per label."""
    Path(name).mkdir()
    for number, labels in enumerate(images, start=1):
        shapes = [
            {"label": label, "shape_type": "rectangle", "points": [PLACES[label][:2], PLACES[label][2:]], "flags": {}}
            for label in labels
        ]
        data = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{number}.jpg", "imageData": None}
        Path(name, f"{number}.json").write_text(json.dumps({**data, "imageHeight": 480, "imageWidth": 640}))


def convert(name, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = get_coco_from_labelme_folder(name, **options)
    Path(f"{name}.coco.json").write_text(json.dumps(coco.json))
    return coco


def ap(name, ids, images):
    """pycocotools' AP of a detector that finds every object of the classes it was trained on, and nothing else."""
    found = [
        {"image_id": number, "category_id": ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9}
        for number, labels in enumerate(images, start=1)
        for label, (x1, y1, x2, y2) in PLACES.items()
        if label in labels and label in ids
    ]
    Path("found.json").write_text(json.dumps(found))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(f"{name}.coco.json")
        judge = COCOeval(truth, truth.loadRes("found.json"), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return round(float(judge.stats[0]), 4)


folder("train", [["person", "car"]])
VAL = [["person", "car"], ["dog"], ["person", "car"], ["person", "car"]]
PLAIN = [[label for label in labels if label != "dog"] for labels in VAL]
folder("val", VAL)
folder("plain", PLAIN)
given = convert("train", category_id_start=1).json_categories
ids = {c["name"]: c["id"] for c in given}
print("train:", ids)
seen = []
for name, images, start in (("plain", PLAIN, 1), ("val", VAL, 1), ("val", VAL, 3)):
    data = convert(name, coco_category_list=given, category_id_start=start).json
    categories = [(c["id"], c["name"]) for c in data["categories"]]
    rows = [[a["category_id"] for a in data["annotations"] if a["image_id"] == i + 1] for i in range(len(images))]
    seen.append((categories, rows, ap(name, ids, images)))
    print(f"{name}, category_id_start={start}: {categories}\n  ids per image {rows}, AP {seen[-1][2]}")

plain, moved, right = seen
assert plain[1:] == ([[1, 2], [], [1, 2], [1, 2]], 1.0)
assert [name for _, name in moved[0]] == ["person", "car", "dog", "person", "car"]
assert moved[1] == [[1, 2], [1], [2, 3], [2, 3]] and round(moved[2], 2) == 0.28
assert right[1:] == ([[1, 2], [3], [1, 2], [1, 2]], 0.6667)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   labelme2coco 0.2.6 sahi 0.12.8 pycocotools 2.0.11
#   train: {'person': 1, 'car': 2}
#   plain, category_id_start=1: [(1, 'person'), (2, 'car')]
#     ids per image [[1, 2], [], [1, 2], [1, 2]], AP 1.0
#   val, category_id_start=1: [(1, 'person'), (2, 'car'), (1, 'dog'), (2, 'person'), (3, 'car')]
#     ids per image [[1, 2], [1], [2, 3], [2, 3]], AP 0.2805
#   val, category_id_start=3: [(1, 'person'), (2, 'car'), (3, 'dog')]
#     ids per image [[1, 2], [3], [1, 2], [1, 2]], AP 0.6667
