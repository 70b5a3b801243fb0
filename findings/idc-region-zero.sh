#!/usr/bin/env bash
# Guess: `filter-labels --region=0,0,200,150` of image-dataset-converter keeps the objects in these 200 x 150 pixels; a
#   region in parts of the image has no number above 1.
# Really: one number below 1 is enough for all four to be taken as parts of the image (`initialize` in
#   idc/filter/_filter_labels.py): every pixel region that begins at the left or upper border, where most begin. The 200
#   becomes 200 times the width. With `--min_iou=0` ("overlaps at all") the region then has the whole image in it, and
#   each object stays; from 50,0 on it begins at 50 times the width and none does. With an ordinary `--min_iou` none
#   is left: all images go on as ones without objects, and nothing is said. With 1 in place of 0 it is right, and so are
#   parts, also with a 1 or a 0 in them.
# Here: one pixel in place of 0. `--min_iou` is always given, without it the filter ends with an error. A package that
#   it asks for (pyzfp, for depth maps) could not be built here, so the others are named one by one.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet setuptools==80.9.0 wheel==0.45.1 numpy==2.4.6 opencv-python-headless==5.0.0.93 \
    matplotlib==3.11.2 shapely==2.2.0 pillow==13.0.0 imagesize==2.0.1 defusedxml==0.7.1 platformdirs==4.14.8 \
    javaproperties==0.8.2 typing-inspect==0.9.0 python-dotenv==1.2.4 watchdog==7.1.0 croniter==7.0.0 pycocotools==2.0.11
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
from pycocotools import mask

print(*(f"{name} {version(name)}" for name in ("image-dataset-converter", "pycocotools")))
WIDTH, HEIGHT = 400, 300
BOXES = {"a": [0, 0, 200, 150], "b": [60, 40, 120, 100], "c": [250, 20, 100, 100], "d": [280, 200, 100, 80]}
Path("in").mkdir()
Image.new("RGB", (WIDTH, HEIGHT)).save("in/1.png")
objects = [{"id": i, "image_id": 1, "category_id": i, "iscrowd": 0, "bbox": [x, y, w, h], "area": w * h,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
           for i, (x, y, w, h) in enumerate(BOXES.values(), start=1)]
Path("in/truth.json").write_text(json.dumps({
    "images": [{"id": 1, "file_name": "1.png", "width": WIDTH, "height": HEIGHT, "license": 1}],
    "annotations": objects, "categories": [{"id": i, "name": c} for i, c in enumerate(BOXES, start=1)],
    "licenses": [{"id": 1, "name": "none", "url": "none"}]}))


def kept(region, min_iou):
    """The objects that are left in the file that is written, which has the image in any case."""
    subprocess.run(["idc-convert", "from-coco-od", "-i", "in/truth.json", "filter-labels", f"--region={region}",
                    f"--min_iou={min_iou}", "to-coco-od", "-o", "out"], check=True, capture_output=True)
    data = json.loads(Path("out/annotations.json").read_text())
    assert len(data["images"]) == 1
    names = {c["id"]: c["name"] for c in data.get("categories", [])}
    return "".join(sorted(names[o["category_id"]] for o in data["annotations"]))


def by_iou(region, min_iou):
    """The objects that should be left: those with a larger IoU, by pycocotools."""
    overlaps = mask.iou(np.array(list(BOXES.values()), float), np.array([region], float), [0])[:, 0]
    return "".join(name for name, iou in zip(BOXES, overlaps) if iou > min_iou)


REGIONS = {
    "0,0,200,150": [0, 0, 200, 150],
    "1,1,199,149": [1, 1, 199, 149],
    "0,0,0.5,0.5": [0, 0, 200, 150],
    "50,0,200,150": [50, 0, 200, 150],
    "50,1,200,149": [50, 1, 200, 149],
    "0,20,400,130": [0, 20, 400, 130],
    "1,20,399,130": [1, 20, 399, 130],
    "0,0,1,0.5": [0, 0, 400, 150],
}
wrong = []
for region, pixels in REGIONS.items():
    for min_iou in (0, 0.1):
        found, right = kept(region, min_iou), by_iou(pixels, min_iou)
        print(f"{region}, above {min_iou}: kept {found or 'none'}, by IoU {right}")
        if found != right:
            wrong.append((region, min_iou, found))
assert wrong == [("0,0,200,150", 0, "abcd"), ("0,0,200,150", 0.1, ""), ("50,0,200,150", 0, ""),
                 ("50,0,200,150", 0.1, ""), ("0,20,400,130", 0, ""), ("0,20,400,130", 0.1, "")]
EOF
# Seen (Python 3.11, Linux, x86-64):
#   image-dataset-converter 0.1.0 pycocotools 2.0.11
#   0,0,200,150, above 0: kept abcd, by IoU ab
#   0,0,200,150, above 0.1: kept none, by IoU ab
#   1,1,199,149, above 0: kept ab, by IoU ab
#   1,1,199,149, above 0.1: kept ab, by IoU ab
#   0,0,0.5,0.5, above 0: kept ab, by IoU ab
#   0,0,0.5,0.5, above 0.1: kept ab, by IoU ab
#   50,0,200,150, above 0: kept none, by IoU ab
#   50,0,200,150, above 0.1: kept none, by IoU ab
#   50,1,200,149, above 0: kept ab, by IoU ab
#   50,1,200,149, above 0.1: kept ab, by IoU ab
#   0,20,400,130, above 0: kept none, by IoU abc
#   0,20,400,130, above 0.1: kept none, by IoU abc
#   1,20,399,130, above 0: kept abc, by IoU abc
#   1,20,399,130, above 0.1: kept abc, by IoU abc
#   0,0,1,0.5, above 0: kept abc, by IoU abc
#   0,0,1,0.5, above 0.1: kept abc, by IoU abc
