#!/usr/bin/env bash
# Guess: SAHI's `merge` and `merge_from_file` put two COCO data sets together with all of their objects, as its
#   `Coco.merge` and `merge_from_list` do; a class is subsampled alike whatever its id; boxes within the image are left
#   alone by `clip_bboxes_to_img_dims`.
# Really: without `desired_name2id` they keep the classes of the first set only. Objects of classes that just the second
#   has are left out, its images come along: two cats are background for training. Which class is lost goes by the
#   order, nothing is said. `get_subsampled_coco(10, category_id=0)` takes every tenth of all images, not of those with
#   class 0: of 20 dogs two are left. With the same class as 1 it is right, and 0 is what SAHI's own merges begin with.
#   Clipping cuts all boxes to whole pixels, corner and size, and drops all outlines: right boxes of 8 to 11 pixels, all
#   within the image, have an AP of 0.46 in place of 1; boxes in whole pixels are right.
# Here: data sets are put together by names of classes, and the objects per class are counted before and after.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet sahi==0.12.8 pycocotools==2.0.11
cat > check.py <<'EOF'
import contextlib
import io
import json
from collections import Counter
from copy import deepcopy
from importlib.metadata import version

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sahi.utils.coco import Coco, merge, merge_from_file, merge_from_list

print(*(f"{name} {version(name)}" for name in ("sahi", "pycocotools")))


def data_set(classes, images, objects):
    """COCO with `classes` as name: id, and `objects` as (number of the image from 1, class, box)."""
    return {
        "categories": [{"id": i, "name": name, "supercategory": name} for name, i in classes.items()],
        "images": [{"id": i, "file_name": name, "width": 640, "height": 480} for i, name in enumerate(images, 1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": classes[name], "bbox": box, "area": box[2] * box[3],
             "iscrowd": 0, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
            for i, (image, name, box) in enumerate(objects, 1) for x, y, w, h in [box]
        ],
    }


def count(data):
    names = {one["id"]: one["name"] for one in data["categories"]}
    return len(data["images"]), dict(Counter(names[one["category_id"]] for one in data["annotations"]))


BOX = [10, 10, 50, 50]
DOGS = data_set({"person": 1, "dog": 2}, ["a1.jpg", "a2.jpg"], [(1, "person", BOX), (2, "dog", BOX)])
CATS = data_set({"person": 1, "cat": 2}, ["b1.jpg", "b2.jpg", "b3.jpg"],
                [(1, "person", BOX), (2, "cat", BOX), (3, "cat", BOX)])
ALL = (5, {"person": 2, "dog": 1, "cat": 2})
quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
with quiet[0], quiet[1]:
    for name, data in {"dogs.json": DOGS, "cats.json": CATS}.items():
        with open(name, "w") as file:
            json.dump(data, file)
    merge_from_file("dogs.json", "cats.json", "both.json")
    with open("both.json") as file:
        written = json.load(file)
    together = Coco.from_coco_dict_or_path(deepcopy(DOGS), image_dir="a")
    together.merge(Coco.from_coco_dict_or_path(deepcopy(CATS), image_dir="b"), verbose=0)
    merged = {
        "merge(dogs, cats)": merge(DOGS, CATS),
        "merge(cats, dogs)": merge(CATS, DOGS),
        "merge_from_file": written,
        "merge_from_list": merge_from_list([deepcopy(DOGS), deepcopy(CATS)], verbose=0),
        "Coco.merge": together.json,
        "merge with desired_name2id": merge(DOGS, CATS, {"person": 1, "dog": 2, "cat": 3}),
    }
seen = {name: count(data) for name, data in merged.items()}
for name, (images, classes) in seen.items():
    print(f"{name}: {images} images, {classes}")
first_ids = {name: min(one["id"] for one in merged[name]["categories"]) for name in ("merge_from_list", "Coco.merge")}
print("first id of a class:", first_ids)

many = [(i, "person" if i <= 20 else "dog", BOX) for i in range(1, 41)]  # 20 images with each
thinned = {}
for person in (0, 1):
    data = data_set({"person": person, "dog": person + 1}, [f"{i}.jpg" for i in range(40)], many)
    with contextlib.redirect_stderr(io.StringIO()):
        coco = Coco.from_coco_dict_or_path(data)
    for name in ("person", "dog"):
        category = person + (name == "dog")
        thinned[name, category] = count(coco.get_subsampled_coco(10, category_id=category).json)
        print(f"every tenth image with a {name}, id {category}: {thinned[name, category]}")


def ap_of(boxes, clip=True):
    """AP of the boxes as detections with what SAHI has made of them as truth, outlines left, the first box."""
    data = data_set({"person": 1}, ["a.jpg"], [(1, "person", box) for box in boxes])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        made = Coco.from_coco_dict_or_path(deepcopy(data), clip_bboxes_to_img_dims=clip).json
        truth = COCO()
        truth.dataset = made
        truth.createIndex()
        rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9 - 0.01 * i} for i, box in enumerate(boxes)]
        judge = COCOeval(truth, truth.loadRes(rows), "bbox")
        for step in (judge.evaluate, judge.accumulate, judge.summarize):
            step()
    outlines = sum(bool(one["segmentation"]) for one in made["annotations"])
    return round(float(judge.stats[0]), 2), outlines, [round(x, 2) for x in made["annotations"][0]["bbox"]]


random = np.random.default_rng(0)
small = [[20 + 60 * (i % 10) + x, 20 + 60 * (i // 10) + y, 8 + w, 8 + h]
         for i, (x, y, w, h) in enumerate((random.random((50, 4)) * [1, 1, 3, 3]).round(2).tolist())]
whole = [[float(round(value)) for value in box] for box in small]
ap = {"not clipped": ap_of(small, False), "clipped": ap_of(small), "in whole pixels, clipped": ap_of(whole)}
for name, (score, outlines, box) in ap.items():
    print(f"50 boxes within the image, {name}: AP {score}, outlines left {outlines}, first {box}")

assert seen["merge(dogs, cats)"] == seen["merge_from_file"] == (5, {"person": 2, "dog": 1})
assert seen["merge(cats, dogs)"] == (5, {"person": 2, "cat": 2})
for name in ("merge_from_list", "Coco.merge", "merge with desired_name2id"):
    assert seen[name] == ALL
assert first_ids == {"merge_from_list": 0, "Coco.merge": 0}
assert thinned["person", 0] == (4, {"person": 2, "dog": 2})
assert thinned["person", 1] == (22, {"dog": 20, "person": 2})
assert thinned["dog", 1] == thinned["dog", 2] == (22, {"person": 20, "dog": 2})
assert ap["not clipped"][:2] == (1, 50) and ap["in whole pixels, clipped"][:2] == (1, 0)
assert ap["clipped"] == (0.46, 0, [float(int(value)) for value in small[0]])
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   sahi 0.12.8 pycocotools 2.0.11
#   merge(dogs, cats): 5 images, {'person': 2, 'dog': 1}
#   merge(cats, dogs): 5 images, {'person': 2, 'cat': 2}
#   merge_from_file: 5 images, {'person': 2, 'dog': 1}
#   merge_from_list: 5 images, {'person': 2, 'dog': 1, 'cat': 2}
#   Coco.merge: 5 images, {'person': 2, 'dog': 1, 'cat': 2}
#   merge with desired_name2id: 5 images, {'person': 2, 'dog': 1, 'cat': 2}
#   first id of a class: {'merge_from_list': 0, 'Coco.merge': 0}
#   every tenth image with a person, id 0: (4, {'person': 2, 'dog': 2})
#   every tenth image with a dog, id 1: (22, {'person': 20, 'dog': 2})
#   every tenth image with a person, id 1: (22, {'dog': 20, 'person': 2})
#   every tenth image with a dog, id 2: (22, {'person': 20, 'dog': 2})
#   50 boxes within the image, not clipped: AP 1.0, outlines left 50, first [20.64, 20.27, 8.12, 8.05]
#   50 boxes within the image, clipped: AP 0.46, outlines left 0, first [20.0, 20.0, 8.0, 8.0]
#   50 boxes within the image, in whole pixels, clipped: AP 1.0, outlines left 0, first [21.0, 20.0, 8.0, 8.0]
