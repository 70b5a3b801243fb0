#!/usr/bin/env bash
# Guess: bboxconverter's export(format="coco", split=True) and kfold=3 write COCO files with the same classes under the
#   same ids, val_size and test_size are the sizes of the val and the test part, all images are in one of the parts.
# Really: each file numbers its classes anew, in the order in which they come up in it: car, person and dog are 0, 1, 2
#   in train.json, 2, 1, 0 in val.json, 1, 2, 0 in test.json, and the two files of each of three folds differ as well.
#   A detector that is right on all images, with the ids of train.json, has AP 0.33 on the val part and 0 on the test
#   part in place of 1. The two sizes are exchanged: with val_size=0.375, test_size=0.125 the val part has 5 of 40
#   images, the test part 15. Images without objects are in no part, nor in the file of the whole data set. Nothing is
#   said.
# Here: a report names each category with its id; train and val are one file each, written at once, with one list of
#   categories.
# (Each file's first object may have the id 0, which pycocotools takes for "not matched": all ids are raised by 1 here
#  before AP is taken.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==1.26.4 pandas==1.5.3 scikit-learn==1.5.2 lxml==4.9.4 pycocotools==2.0.11 \
  bboxconverter==0.1.9
cat > check.py <<'EOF'
import contextlib
import io
import json
import random
from importlib.metadata import version
from pathlib import Path

import bboxconverter
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("bboxconverter", "pandas", "scikit-learn", "pycocotools")))
IMAGES, EMPTY = 50, 10  # images, and how many of them have no object
CLASSES = {1: "person", 2: "car", 3: "dog"}
pick = random.Random(0)
objects = []
for image in range(1, IMAGES - EMPTY + 1):
    for number in pick.sample([*CLASSES], pick.randint(1, 3)):
        objects.append({"id": len(objects) + 1, "image_id": image, "category_id": number, "iscrowd": 0, "area": 1200,
                        "bbox": [100 * number, 20, 30, 40], "segmentation": []})
Path("data", "images").mkdir(parents=True)
images = [{"id": i, "file_name": f"images/{i:03}.jpg", "width": 640, "height": 480} for i in range(1, IMAGES + 1)]
for one in images:
    Path("data", one["file_name"]).touch()  # they are copied, never read
Path("data", "coco.json").write_text(json.dumps({
    "images": images, "annotations": objects,
    "categories": [{"id": number, "name": name} for number, name in CLASSES.items()],
}))


def read(path):
    data = json.loads(Path("data", path).read_text())
    return data, {one["name"]: one["id"] for one in sorted(data["categories"], key=lambda one: one["name"])}


def ap(path, ids):
    """COCO's AP, by a file that was written, of its own boxes with the classes' ids of another file."""
    data, _ = read(path)
    names = {one["id"]: one["name"] for one in data["categories"]}
    for one in data["annotations"]:
        one["id"] += 1
    found = [{"image_id": one["image_id"], "category_id": ids[names[one["category_id"]]], "bbox": one["bbox"],
              "score": 0.9} for one in data["annotations"]]
    Path("ids.json").write_text(json.dumps(data))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO("ids.json")
        judge = COCOeval(coco, coco.loadRes(found), "bbox")
        for step in (judge.evaluate, judge.accumulate, judge.summarize):
            step()
    return round(float(judge.stats[0]), 2)


parser = bboxconverter.read_coco("data/coco.json")
VAL, TEST = 0.375, 0.125
parser.export("data", "coco", split=True, train_size=0.5, val_size=VAL, test_size=TEST)
print(f"{IMAGES} images, {EMPTY} without objects; val_size={VAL}, test_size={TEST}: images, ids of the classes")
seen, numbers, sizes = {}, {}, {}
for part in ("train", "val", "test"):
    data, numbers[part] = read(f"{part}/{part}.json")
    for one in data["images"]:
        seen.setdefault(Path(one["file_name"]).name, []).append(part)
    sizes[part] = len(data["images"])
    print(f"  {part}: {sizes[part]}, {numbers[part]}")
whole, _ = read("annotations.json")
print(f"  images in a part: {len(seen)}, in the file of the whole data set: {len(whole['images'])}")
assert {len(parts) for parts in seen.values()} == {1} and len(seen) == len(whole["images"]) == IMAGES - EMPTY
assert numbers["train"] != numbers["val"] != numbers["test"] != numbers["train"]
assert sizes["val"] == TEST * len(seen) and sizes["test"] == VAL * len(seen)  # the other way round
for part in ("val", "test"):
    values = [ap(f"{part}/{part}.json", numbers[file]) for file in (part, "train")]
    print(f"  right boxes on {part}: AP {values[0]} with its own ids, {values[1]} with those of train.json")
    assert values[0] == 1 and values[1] < 0.6

with contextlib.redirect_stdout(io.StringIO()):
    parser.export("data", "coco", kfold=3)
print("three folds: ids of the classes for training and for testing; AP of right boxes with the ids for training")
values = []
for fold in (1, 2, 3):
    ids = [read(f"fold_{fold}/{part}/{part}.json")[1] for part in ("train", "test")]
    values.append(ap(f"fold_{fold}/test/test.json", ids[0]))
    print(f"  {fold}: {ids[0]}, {ids[1]}; {values[-1]}")
    assert ids[0] != ids[1]
assert max(values) < 0.6
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   bboxconverter 0.1.9 pandas 1.5.3 scikit-learn 1.5.2 pycocotools 2.0.11
#   50 images, 10 without objects; val_size=0.375, test_size=0.125: images, ids of the classes
#     train: 20, {'car': 0, 'dog': 2, 'person': 1}
#     val: 5, {'car': 2, 'dog': 0, 'person': 1}
#     test: 15, {'car': 1, 'dog': 0, 'person': 2}
#     images in a part: 40, in the file of the whole data set: 40
#     right boxes on val: AP 1.0 with its own ids, 0.33 with those of train.json
#     right boxes on test: AP 1.0 with its own ids, 0.0 with those of train.json
#   three folds: ids of the classes for training and for testing; AP of right boxes with the ids for training
#     1: {'car': 0, 'dog': 2, 'person': 1}, {'car': 1, 'dog': 0, 'person': 2}; 0.0
#     2: {'car': 0, 'dog': 2, 'person': 1}, {'car': 0, 'dog': 1, 'person': 2}; 0.33
#     3: {'car': 1, 'dog': 0, 'person': 2}, {'car': 0, 'dog': 2, 'person': 1}; 0.0
