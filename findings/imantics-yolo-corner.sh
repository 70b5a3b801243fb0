#!/usr/bin/env bash
# Guess: imantics' `yolo()` gives YOLO's lines: the number of the class, the same in all images and from 0, then centre,
#   width and height as parts of the image.
# Really: the numbers after the class are the upper left corner (imantics/annotation.py): half a box too far up
#   and to the left, IoU 0.14. The class is its place among those of this one image, from 1 (imantics/image.py): a cat
#   is 1 beside a dog that comes after it and 2 after the dog. Read as YOLO, right boxes score AP 0. And the places stay
#   in the data set as ids: `coco()`, which was right before, gives two classes one id after a call of `yolo()`. No list
#   of class names says what is meant, and imantics does not read YOLO itself, so nothing fails. `voc()` is right.
# Here: the lines are read in four ways, and pycocotools judges them by the file that imantics read.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 opencv-python-headless==5.0.0.93 lxml==6.1.3 pycocotools==2.0.11
venv/bin/pip install --quiet --no-deps imantics==0.1.12
venv/bin/python - <<'EOF'
import contextlib
import copy
import io
from importlib.metadata import version

from imantics import Dataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("imantics", "pycocotools")))
WIDTH, HEIGHT = 400, 200
NAMES = {1: "cat", 2: "dog", 3: "cow"}
BOXES = {1: (20, 20, 40, 40), 2: (120, 40, 80, 60), 3: (260, 80, 100, 80)}  # left, top, width, height
ORDERS = [(1, 2), (2, 1), (3, 2, 1), (1,)]  # the objects of each image, as they are listed

truth = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(1, len(ORDERS) + 1)],
    "categories": [{"id": c, "name": name} for c, name in NAMES.items()],
    "annotations": [],
}
for i, classes in enumerate(ORDERS, start=1):
    for c in classes:
        x, y, w, h = BOXES[c]
        truth["annotations"].append({
            "id": len(truth["annotations"]) + 1, "image_id": i, "category_id": c, "iscrowd": 0, "area": w * h,
            "bbox": [x, y, w, h], "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})


def ap(found):
    """AP at IoU 0.5 of (image, class, box) by the file that was read."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        rows = [{"image_id": i, "category_id": c, "bbox": list(box), "score": 0.9} for i, c, box in found]
        run = COCOeval(coco, coco.loadRes(rows), "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
    return round(float(run.stats[1]), 2)


def read(lines, class_of, centre):
    """The objects in the lines of all images; `class_of` gives the class to a number in an image."""
    for i, image in enumerate(lines.values(), start=1):
        for line in image:
            number, x, y, w, h = map(float, line.split())
            x, y = x - centre * w / 2, y - centre * h / 2
            yield i, class_of(i, int(number)), (x * WIDTH, y * HEIGHT, w * WIDTH, h * HEIGHT)


dataset = Dataset.from_coco(copy.deepcopy(truth))
before = dataset.coco()
ids = [(c["id"], c["name"]) for c in before["categories"]]
in_coco = ap((a["image_id"], a["category_id"], a["bbox"]) for a in before["annotations"])
in_voc = [[int(side.text) for side in box] for image in dataset.iter_images() for box in image.voc().iter("bndbox")]
print(f"COCO: classes {ids}, AP {in_coco}; VOC: {in_voc[:2]}")
assert ids == list(NAMES.items()) and in_coco == 1 and in_voc[:2] == [[20, 20, 60, 60], [120, 40, 200, 100]]
lines = dataset.yolo()
start = [[line[:17] for line in lines[name]] for name in ("1.jpg", "2.jpg")]
print(f"YOLO, class, x and y: {start}")
assert start == [["1 0.05000 0.10000", "2 0.30000 0.20000"], ["1 0.30000 0.20000", "2 0.05000 0.10000"]]
READINGS = {
    "centre, classes from 0, as YOLO": (lambda i, number: number + 1, 1, 0),
    "centre, classes from 1": (lambda i, number: number, 1, 0),
    "corner, classes from 1": (lambda i, number: number, 0, 0.31),
    "corner, place in the image": (lambda i, number: ORDERS[i - 1][number - 1], 0, 1),
}
for text, (class_of, centre, expected) in READINGS.items():
    value = ap(read(lines, class_of, centre))
    print(f"read as {text}: AP {value}")
    assert value == expected
ids = [(c["id"], c["name"]) for c in dataset.coco()["categories"]]
print(f"COCO after yolo(): classes {ids}")
assert ids == [(1, "cat"), (2, "dog"), (1, "cow")]
EOF
# Seen (Python 3.11, Linux, x86-64):
#   imantics 0.1.12 pycocotools 2.0.11
#   COCO: classes [(1, 'cat'), (2, 'dog'), (3, 'cow')], AP 1.0; VOC: [[20, 20, 60, 60], [120, 40, 200, 100]]
#   YOLO, class, x and y: [['1 0.05000 0.10000', '2 0.30000 0.20000'], ['1 0.30000 0.20000', '2 0.05000 0.10000']]
#   read as centre, classes from 0, as YOLO: AP 0.0
#   read as centre, classes from 1: AP 0.0
#   read as corner, classes from 1: AP 0.31
#   read as corner, place in the image: AP 1.0
#   COCO after yolo(): classes [(1, 'cat'), (2, 'dog'), (1, 'cow')]
