#!/usr/bin/env bash
# Guess: label-convert writes a COCO file from a YOLOv8 data set with the same classes and outlines.
# Really: its categories are numbered from 0, the objects from 1: each object has the next class's name, those of the
#   last class a category that the file does not have. Detections of the right classes, by name, score AP 0. An outline
#   becomes a list of points in place of one of numbers: pycocotools refuses it as a mask, and its area is that of its
#   box. A box that the image's border cuts on the left keeps its whole width, from the border on. The same objects as a
#   YOLOv5 data set have the right classes, with the same outlines and boxes.
# Here: an object with an id that no category has is reported as one of an unknown category; judged by pycocotools.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 opencv-python-headless==5.0.0.93 tqdm==4.70.1 pyyaml==6.0.4 \
  pycocotools==2.0.11
venv/bin/pip install --quiet --no-deps label-convert==0.3.0  # it wants opencv-python, the same with windows
venv/bin/python - <<'EOF'
import contextlib
import io
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from label_convert.yolov5_to_coco import YOLOv5ToCOCO
from label_convert.yolov8_to_coco import YOLOv8ToCOCO
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("label-convert", "pycocotools")))
NAMES = ["person", "dog", "car"]
WIDTH, HEIGHT = 200, 100
# class, corners in pixels
OBJECTS = [("person", [20, 10, 60, 90]), ("dog", [80, 50, 120, 90]), ("car", [130, 20, 190, 60])]
TRIANGLE = "1 0.1 0.1 0.3 0.1 0.1 0.5"  # a dog; half of its box, 40 x 40 pixels
CUT = "2 0.0 0.5 0.2 0.4"  # a car; its middle is on the image's left border


def line(name, x1, y1, x2, y2):
    numbers = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
    return " ".join([str(NAMES.index(name)), *map(str, numbers)])


LABELS = {
    "objects": "\n".join(line(name, *box) for name, box in OBJECTS),
    "outline": TRIANGLE,
    "cut": CUT,
}
for part in ("train", "val"):
    for folder in ("images", "labels"):
        Path("eight", folder, part).mkdir(parents=True)
for folder in ("images", "labels"):
    Path("five", folder).mkdir(parents=True)
rows = []
for name, text in LABELS.items():
    for picture, label in (
        (Path("eight/images/train") / f"{name}.jpg", Path("eight/labels/train") / f"{name}.txt"),
        (Path("five/images") / f"{name}.jpg", Path("five/labels") / f"{name}.txt"),
    ):
        cv2.imwrite(str(picture), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        label.write_text(text)
    rows.append(f"images/{name}.jpg")
Path("eight/data.yaml").write_text("names:\n" + "".join(f"  {i}: {name}\n" for i, name in enumerate(NAMES)))
Path("five/train.txt").write_text("\n".join(rows))
Path("five/val.txt").write_text(rows[0])
Path("five/classes.txt").write_text("\n".join(NAMES))
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    YOLOv8ToCOCO("eight", "eight_coco", "eight/data.yaml")()
    YOLOv5ToCOCO("five", Path("five_coco"))()


def look(folder):
    """What the COCO file says of the objects, and the AP of detections with the right names."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(f"{folder}/annotations/instances_train2017.json")
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    by_image = {}
    for one in coco.dataset["annotations"]:
        by_image.setdefault(one["image_id"], []).append(one)
    objects = next(ones for ones in by_image.values() if len(ones) == 3)
    (outline,) = next(ones for ones in by_image.values() if len(ones) == 1 and len(ones[0]["segmentation"]) == 3)
    (cut,) = next(ones for ones in by_image.values() if len(ones) == 1 and len(ones[0]["segmentation"]) == 1)
    objects = sorted(objects, key=lambda one: one["bbox"][0])
    called = [names.get(one["category_id"], f"none (id {one['category_id']})") for one in objects]
    try:
        pixels = int(coco.annToMask(outline).sum())
    except Exception as error:  # noqa: BLE001 (whatever it is)
        pixels = type(error).__name__
    ids = {name: i for i, name in names.items()}
    found = [
        {"image_id": objects[0]["image_id"], "category_id": ids[name], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9}
        for name, (x1, y1, x2, y2) in OBJECTS
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(coco, coco.loadRes(found), "bbox")
        judge.params.imgIds = [objects[0]["image_id"]]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return names, called, round(float(judge.stats[0]), 3), pixels, outline["area"], [round(n, 3) for n in cut["bbox"]]


seen = {}
for title, folder in (("YOLOv8", "eight_coco"), ("YOLOv5", "five_coco")):
    seen[title] = look(folder)
    names, called, ap, pixels, area, cut = seen[title]
    print(f"{title}: categories {names}")
    print(f"  person, dog and car are called {', '.join(called)}; AP of right detections {ap}")
    print(f"  triangle of 800 pixels: mask {pixels}, area {area}; box of which 20 x 40 are on the image: {cut}")

assert seen["YOLOv8"][1] == ["dog", "car", "none (id 3)"] and seen["YOLOv8"][2] == 0
assert seen["YOLOv5"][1] == NAMES and seen["YOLOv5"][2] == 1
for title in seen:
    assert isinstance(seen[title][3], str) and seen[title][4] == 1600 and seen[title][5] == [0, 30, 40, 40]
EOF
# Seen (Python 3.11, Linux, x86-64):
#   label-convert 0.3.0 pycocotools 2.0.11
#   YOLOv8: categories {0: 'person', 1: 'dog', 2: 'car'}
#     person, dog and car are called dog, car, none (id 3); AP of right detections 0.0
#     triangle of 800 pixels: mask Exception, area 1600.0; box of which 20 x 40 are on the image: [0, 30.0, 40.0, 40.0]
#   YOLOv5: categories {1: 'person', 2: 'dog', 3: 'car'}
#     person, dog and car are called person, dog, car; AP of right detections 1.0
#     triangle of 800 pixels: mask Exception, area 1600.0; box of which 20 x 40 are on the image: [0, 30.0, 40.0, 40.0]
