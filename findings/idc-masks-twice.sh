#!/usr/bin/env bash
# Guess: `is-to-od` of image-dataset-converter makes one object of each connected region of a mask, and from each image
#   that goes in one image comes out.
# Really: a hole is one more object of the same class, as it takes every contour that OpenCV finds, the inner ones, too.
#   And an image comes out once for each class that it shows, each time with the objects of all of them (the record is
#   given out within the loop over the classes; idc/filter/_is_to_od.py). The COCO file has it twice or more under
#   different ids, its log speaks of the images that went in, and a split puts the copies into different parts: here 10
#   of 10 images lie in train and in val. With one class and without holes all is right. In YOLO's format the copies
#   write over each other, which hides it: there only the holes are too much.
# Here: the objects are counted by hand. A package that it asks for (pyzfp, for depth maps) could not be built here, so
#   the others are named one by one; it leaves those formats out.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet setuptools==80.9.0 wheel==0.45.1 numpy==2.4.6 opencv-python-headless==5.0.0.93 \
    matplotlib==3.11.2 shapely==2.2.0 pillow==13.0.0 imagesize==2.0.1 defusedxml==0.7.1 platformdirs==4.14.8 \
    javaproperties==0.8.2 typing-inspect==0.9.0 python-dotenv==1.2.4 watchdog==7.1.0 croniter==7.0.0
venv/bin/pip install --quiet --no-deps --no-build-isolation image-dataset-converter==0.1.0 seppl==0.3.1 \
    kasperl==0.0.3 wai_logging==0.0.8 wai_common==0.0.46 python_image_complete==0.0.6 simple_palette_utils==0.0.4 \
    fast_opex==0.0.4
# it keeps a folder in the home folder
HOME="$room" PATH="$room/venv/bin:$PATH" python - <<'EOF'
import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

print(*(f"{name} {version(name)}" for name in ("image-dataset-converter", "opencv-python-headless")))
IMAGES, SIZE = 10, (200, 300)  # height, width
LABELS = "cat", "dog", "cow"
BOXES = {"cat": (20, 20, 60, 60), "dog": (120, 20, 40, 40), "cow": (200, 120, 80, 60)}  # left, top, width, height
HOLE = 40, 40, 20, 20


def convert(name, classes, hole, *to):
    """Masks of `classes`, the cat with a hole in it or without, become boxes."""
    folder = Path(name)
    folder.mkdir()
    mask = np.zeros(SIZE, np.uint8)
    for number, box in [(LABELS.index(label) + 1, BOXES[label]) for label in classes] + [(0, HOLE)] * hole:
        x, y, w, h = box
        mask[y:y + h, x:x + w] = number
    picture = Image.new("P", SIZE[::-1])
    picture.putpalette([c for k in range(256) for c in (k, k, k)])
    picture.putdata(mask.flatten().tolist())
    for i in range(IMAGES):
        picture.save(folder / f"{i}.png")
        Image.new("RGB", SIZE[::-1]).save(folder / f"{i}.jpg")
    command = ["idc-convert", "-l", "INFO", "from-indexed-png-is", "-i", f"{name}/*.png", "--labels", *LABELS,
               "is-to-od", "--labels", *LABELS, *to]
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return next(line.split(":")[-1] for line in log.splitlines() if "processed in total" in line)


def coco(path):
    data = json.loads(Path(path, "annotations.json").read_text())
    return [i["file_name"] for i in data["images"]], data["annotations"]


CASES = {  # name: classes, a hole, how often each image comes out
    "one class": (["cat"], False, 1),
    "one class with a hole": (["cat"], True, 1),
    "two classes": (["cat", "dog"], False, 2),
    "three classes with a hole": (list(LABELS), True, 3),
}
for number, (text, (classes, hole, times)) in enumerate(CASES.items()):
    log = convert(f"masks{number}", classes, hole, "to-coco-od", "-o", f"coco{number}")
    names, found = coco(f"coco{number}")
    print(f"{text}: {len(names)} images of {IMAGES}, {len(found)} objects, by hand {IMAGES * len(classes)}; log: {log}")
    assert (len(names), len(set(names))) == (IMAGES * times, IMAGES)
    assert len(found) == IMAGES * times * (len(classes) + hole) and log == "10 records processed in total."
boxes = [(o["category_id"], o["bbox"]) for o in coco("coco1")[1] if o["image_id"] == 1]
print(f"the cat with a hole: {boxes}")
assert boxes == [(1, [20, 20, 60, 60]), (1, [39, 39, 22, 22])]

halves = "--split_names", "train", "val", "--split_ratios", "50", "50"
convert("masks", ["cat", "dog"], False, "to-coco-od", "-o", "parts", *halves)
train, val = (coco(f"parts/{part}")[0] for part in ("train", "val"))
both = len({*train} & {*val})
print(f"two classes, split in halves: {len(train)} and {len(val)} images, {both} of {IMAGES} in both parts")
assert both == IMAGES
convert("yolo", ["cat", "dog"], True, "to-yolo-od", "-o", "yolo-boxes", "--labels", "names.txt")
lines = [len(file.read_text().splitlines()) for file in Path("yolo-boxes", "labels").glob("*.txt")]
print(f"two classes with a hole as YOLO: {len(lines)} files, {sum(lines)} objects, by hand {IMAGES * 2}")
assert len(lines) == IMAGES and sum(lines) == IMAGES * 3
EOF
# Seen (Python 3.11, Linux, x86-64):
#   image-dataset-converter 0.1.0 opencv-python-headless 5.0.0.93
#   one class: 10 images of 10, 10 objects, by hand 10; log: 10 records processed in total.
#   one class with a hole: 10 images of 10, 20 objects, by hand 10; log: 10 records processed in total.
#   two classes: 20 images of 10, 40 objects, by hand 20; log: 10 records processed in total.
#   three classes with a hole: 30 images of 10, 120 objects, by hand 30; log: 10 records processed in total.
#   the cat with a hole: [(1, [20.0, 20.0, 60.0, 60.0]), (1, [39.0, 39.0, 22.0, 22.0])]
#   two classes, split in halves: 10 and 10 images, 10 of 10 in both parts
#   two classes with a hole as YOLO: 10 files, 30 objects, by hand 20
