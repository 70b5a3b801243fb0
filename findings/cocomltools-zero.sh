#!/usr/bin/env bash
# Guess: cocomltools puts COCO files together by the names of classes and images, whatever their ids, and splits one
#   into two parts that have all of its images together.
# Really: what has the id 0 in the first file is never found again by its name: with classes from 0 the first one
#   becomes two of one name, "person" 0 and "person" 3, one with the first file's objects, one with the second's. A
#   detector that is right on all images has AP 0.64 in place of 1. With images from 0 the first one is listed twice,
#   its persons in one entry, its dogs in the other. With ids from 1 both are right. split --mode strat leaves out all
#   images without objects: of 100, 40 of them empty, 60 are in a part; --mode random keeps them. Nothing is said.
# Here: parts are made by image ids, empty images are kept; ids are compared with "is None" or "in".
# (Its command takes whole numbers only as --ratio, though its README gives 0.2: hence the default, which is 0.2.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==1.26.4 scipy==1.14.1 scikit-learn==1.5.2 scikit-multilearn==0.2.0 pydantic==2.8.2 \
  pillow==10.4.0 rich==13.9.4 pycocotools==2.0.11 cocomltools==0.1.8
cat > check.py <<'EOF'
import contextlib
import io
import json
import random
import subprocess
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("cocomltools", "scikit-multilearn", "pycocotools")))


def cocoml(*arguments):
    subprocess.run(["venv/bin/cocoml", *arguments], check=True, capture_output=True)


def write(path, files, classes, first_class=1, first_image=1, empty=0):
    """A COCO file with one object of each class in each image but the last ones, side by side."""
    images = [{"id": i, "file_name": name, "width": 640, "height": 480} for i, name in enumerate(files, first_image)]
    full = images[: len(images) - empty]
    numbers = {name: i for i, name in enumerate(classes, first_class)}
    objects = [{"image_id": one["id"], "category_id": numbers[name], "bbox": [100 * numbers[name], 50, 40, 40],
                "area": 1600, "iscrowd": 0, "segmentation": []} for one in full for name in classes]
    Path(path).write_text(json.dumps({
        "images": images, "annotations": [{"id": i, **one} for i, one in enumerate(objects, 1)],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }))


def ap(path, numbers):
    """COCO's AP of all boxes of a file, scores by chance, with the id that their class has in the first file."""
    score, data = random.Random(0), json.loads(Path(path).read_text())
    names = {one["id"]: one["name"] for one in data["categories"]}
    found = [{"image_id": one["image_id"], "category_id": numbers[names[one["category_id"]]], "bbox": one["bbox"],
              "score": score.uniform(0.5, 1)} for one in data["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)
        judge = COCOeval(coco, coco.loadRes(found), "bbox")
        for step in (judge.evaluate, judge.accumulate, judge.summarize):
            step()
    return round(float(judge.stats[0]), 2)


# 1: classes
ALL = ["person", "car", "dog"]
print("two files with 20 images each, an object of each class in each: classes, objects of each, AP of right boxes")
for first in (1, 0):
    write("one.json", [f"a{i}.jpg" for i in range(20)], ALL, first_class=first)
    write("two.json", [f"b{i}.jpg" for i in range(20)], ALL, first_class=first)
    cocoml("merge", "--coco-paths", "one.json,two.json")
    data = json.loads(Path("coco_merged.json").read_text())
    classes = [(one["id"], one["name"]) for one in data["categories"]]
    counts = Counter(one["category_id"] for one in data["annotations"])
    value = ap("coco_merged.json", {name: i for i, name in enumerate(ALL, first)})
    print(f"  classes from {first}: {classes}, {[counts[i] for i, _ in classes]}; {value}")
    if first:
        assert [name for _, name in classes] == ALL and set(counts.values()) == {40} and value == 1
    else:
        assert classes == [*enumerate([*ALL, "person"])] and counts[0] == counts[3] == 20 and value < 0.7

# 2: images
print("the persons and the dogs of the same four images in two files: entries, objects of each")
for first in (1, 0):
    files = [f"{i}.jpg" for i in range(4)]
    write("one.json", files, ["person"], first_image=first)
    write("two.json", files, ["dog"], first_image=first)
    cocoml("merge", "--coco-paths", "one.json,two.json")
    data = json.loads(Path("coco_merged.json").read_text())
    counts = Counter(one["image_id"] for one in data["annotations"])
    entries = [(one["id"], one["file_name"], counts[one["id"]]) for one in data["images"]]
    print(f"  images from {first}: {entries}")
    if first:
        assert [name for _, name, _ in entries] == files and set(counts.values()) == {2}
    else:
        assert [name for _, name, _ in entries] == [*files, files[0]] and [counts[0], counts[4]] == [1, 1]

# 3: split
write("all.json", [f"{i}.jpg" for i in range(100)], ["person", "car"], empty=40)
print("100 images, 40 of them without objects: images in the train part, in the test part")
for mode in ("random", "strat"):
    cocoml("split", "--coco-path", "all.json", "--mode", mode)
    parts = [{one["file_name"] for one in json.loads(Path(f"coco_{part}.json").read_text())["images"]}
             for part in ("train", "test")]
    print(f"  {mode}: {[len(part) for part in parts]}")
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == (100 if mode == "random" else 60)
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   cocomltools 0.1.8 scikit-multilearn 0.2.0 pycocotools 2.0.11
#   two files with 20 images each, an object of each class in each: classes, objects of each, AP of right boxes
#     classes from 1: [(1, 'person'), (2, 'car'), (3, 'dog')], [40, 40, 40]; 1.0
#     classes from 0: [(0, 'person'), (1, 'car'), (2, 'dog'), (3, 'person')], [20, 40, 40, 20]; 0.64
#   the persons and the dogs of the same four images in two files: entries, objects of each
#     images from 1: [(1, '0.jpg', 2), (2, '1.jpg', 2), (3, '2.jpg', 2), (4, '3.jpg', 2)]
#     images from 0: [(0, '0.jpg', 1), (1, '1.jpg', 2), (2, '2.jpg', 2), (3, '3.jpg', 2), (4, '0.jpg', 1)]
#   100 images, 40 of them without objects: images in the train part, in the test part
#     random: [80, 20]
#     strat: [48, 12]
