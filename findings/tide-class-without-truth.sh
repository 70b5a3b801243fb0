#!/usr/bin/env bash
# Guess: TIDE (tidecv) takes COCO files and prints COCO's AP beside its kinds of errors: the number of
#   pycocotools.
# Really: a class without any object in the ground truth has no AP in COCO, and the mean leaves it out. In TIDE it
#   counts as AP 0 as soon as there is one detection of it: with one class found perfectly and one that
#   no image of the subset shows, AP is 50 and not 100, and falls with every such class. One weak
#   detection (score 0.01) is enough. So a part of COCO looks worse in TIDE, the more so the smaller it is.
# Here: AP comes from pycocotools alone, and a class without an object is -1 in our tables, never 0.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 tidecv==1.0.1 pycocotools==2.0.11
venv/bin/python - <<'EOF'
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import tidecv
import tidecv.datasets
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print("tidecv", version("tidecv"), "pycocotools", version("pycocotools"))
NAMES = ("person", "kite", "sheep", "bench")
x, y, w, h = box = [10, 10, 60, 40]
truth = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}],
    "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)],
    "annotations": [
        {
            "id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": w * h, "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
    ],
}
Path("truth.json").write_text(json.dumps(truth))


def both(absent):
    """AP of one right detection and one weak one of each of so many absent classes."""
    found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9}]
    found += [
        {"image_id": 1, "category_id": 2 + i, "bbox": [300, 200, 30, 30], "score": 0.01} for i in range(absent)
    ]
    Path("found.json").write_text(json.dumps(found))
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO("truth.json")
        coco = COCOeval(gt, gt.loadRes("found.json"), "bbox")
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
        tide = tidecv.TIDE()
        tide.evaluate(
            tidecv.datasets.COCO("truth.json"),
            tidecv.datasets.COCOResult("found.json"),
            mode=tidecv.TIDE.BOX,
            name="net",
        )
    return round(100 * float(coco.stats[1]), 2), round(float(tide.runs["net"].ap), 2)


for absent, expected in enumerate([(100, 100), (100, 50), (100, 33.33), (100, 25)]):
    of_coco, of_tide = both(absent)
    print(f"AP50, {absent} classes of which there is only a detection: pycocotools {of_coco}, TIDE {of_tide}")
    assert (of_coco, of_tide) == expected
EOF
# Seen (Python 3.11, Linux, x86-64):
#   tidecv 1.0.1 pycocotools 2.0.11
#   AP50, 0 classes of which there is only a detection: pycocotools 100.0, TIDE 100.0
#   AP50, 1 classes of which there is only a detection: pycocotools 100.0, TIDE 50.0
#   AP50, 2 classes of which there is only a detection: pycocotools 100.0, TIDE 33.33
#   AP50, 3 classes of which there is only a detection: pycocotools 100.0, TIDE 25.0
