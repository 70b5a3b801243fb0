#!/usr/bin/env bash
# Guess: compute_iou and convert_bbox of pybboxes take the numbers of a box as they are.
# Really: every COCO and VOC box is rounded to whole pixels first (x, y, width and height each for itself, halves to the
#   even side), and every box in shares of the image becomes whole pixels on the way. So two different boxes have IoU 1,
#   a shift of one pixel counts as two, YOLO to YOLO gives other numbers, and COCO to YOLO moves the right edge by up to
#   a pixel. Nothing is said. After COCO to YOLO right detections of 6 to 16 pixels score 0.79 in place of 1; on large
#   boxes it is little, with whole pixels nothing. `BoundingBox(...).to_yolo()` alone keeps the numbers.
# Here: judged by pycocotools and by hand.
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
from importlib.metadata import version

import numpy as np
from pybboxes import BoundingBox, convert_bbox
from pybboxes.functional import compute_iou
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("pybboxes", "pycocotools", "numpy")))
SIZE = WIDE, HIGH = 640, 480


def yolo(box):
    """A COCO box in shares of the image, by hand."""
    x, y, w, h = box
    return (x + w / 2) / WIDE, (y + h / 2) / HIGH, w / WIDE, h / HIGH


def coco(box):
    """The way back."""
    x, y, w, h = box
    return [(x - w / 2) * WIDE, (y - h / 2) * HIGH, w * WIDE, h * HIGH]


def iou(a, b):
    return mask.iou(np.array([a], float), np.array([b], float), [0])[0, 0]


def text(box):
    return ", ".join(f"{v:.10g}" for v in box)


for a, b, right in (
    ([10, 10, 20, 20], [15, 10, 20, 20], 1),
    ([10, 10, 2.4, 2.4], [10, 10, 1.6, 1.6], 0),
    ([100.4, 100.4, 12.4, 12.4], [99.6, 99.6, 11.6, 11.6], 0),
    ([10.5, 10.5, 5.5, 5.5], [11.5, 11.5, 5.5, 5.5], 0),
):
    found, real = compute_iou(a, b), iou(a, b)
    in_yolo = compute_iou(yolo(a), yolo(b), "yolo", image_size=SIZE)
    print(f"IoU of {text(a)} and {text(b)}: {found:.2f}, as YOLO boxes {in_yolo:.2f}; pycocotools {real:.2f}")
    assert (abs(found - real) < 1e-9) == (abs(in_yolo - real) < 1e-9) == right

box = [100.5, 60.5, 12.5, 8.5]
for source, given in (("coco", box), ("voc", [100.5, 60.5, 113, 69]), ("yolo", yolo(box))):
    after = coco(convert_bbox(given, source, "yolo", SIZE))
    print(f"{source} to yolo: {text(box)} -> {text(after)}")
    assert np.abs(np.array(after) - box).max() > 0.4
exact = coco(BoundingBox(100.5, 60.5, 113, 69, image_size=SIZE).to_yolo().values)
print(f"BoundingBox(...).to_yolo(): {text(box)} -> {text(exact)}")
assert np.allclose(exact, box)

random = np.random.default_rng(0)


def score(low, high, whole):
    """AP of the right boxes, against the ones that convert_bbox made of them."""
    place = random.uniform(0, 100, (200, 2)) + 100
    sides = random.uniform(low, high, (200, 2))
    right = np.concatenate([place, sides], 1).round(0 if whole else 2)  # COCO has two digits
    truth, found = COCO(), COCO()
    common = {"images": [{"id": i + 1} for i in range(200)], "categories": [{"id": 1, "name": "object"}]}
    made = [coco(convert_bbox(b, "coco", "yolo", SIZE)) for b in right.tolist()]
    for data, rows in ((truth, made), (found, right.tolist())):
        data.dataset = dict(common, annotations=[
            {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": b, "area": b[2] * b[3], "iscrowd": 0, "score": 1}
            for i, b in enumerate(rows)])
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        judge = COCOeval(truth, found, "bbox")
        for step in (judge.evaluate, judge.accumulate, judge.summarize):
            step()
    return judge.stats[0]


for low, high, whole in ((6, 16, 1), (6, 16, 0), (16, 32, 0), (150, 250, 0)):
    ap = score(low, high, whole)
    print(f"boxes of {low} to {high} pixels, {'whole' if whole else 'two digits'}: AP {ap:.2f} after coco to yolo")
    assert (ap > 0.99) == (whole or low > 100)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   pybboxes 0.2.0 pycocotools 2.0.11 numpy 2.4.6
#   IoU of 10, 10, 20, 20 and 15, 10, 20, 20: 0.60, as YOLO boxes 0.60; pycocotools 0.60
#   IoU of 10, 10, 2.4, 2.4 and 10, 10, 1.6, 1.6: 1.00, as YOLO boxes 1.00; pycocotools 0.44
#   IoU of 100.4, 100.4, 12.4, 12.4 and 99.6, 99.6, 11.6, 11.6: 1.00, as YOLO boxes 0.72; pycocotools 0.68
#   IoU of 10.5, 10.5, 5.5, 5.5 and 11.5, 11.5, 5.5, 5.5: 0.29, as YOLO boxes 0.36; pycocotools 0.50
#   coco to yolo: 100.5, 60.5, 12.5, 8.5 -> 100, 60, 12, 8
#   voc to yolo: 100.5, 60.5, 12.5, 8.5 -> 100, 60, 13, 9
#   yolo to yolo: 100.5, 60.5, 12.5, 8.5 -> 100, 60, 13, 9
#   BoundingBox(...).to_yolo(): 100.5, 60.5, 12.5, 8.5 -> 100.5, 60.5, 12.5, 8.5
#   boxes of 6 to 16 pixels, whole: AP 1.00 after coco to yolo
#   boxes of 6 to 16 pixels, two digits: AP 0.79 after coco to yolo
#   boxes of 16 to 32 pixels, two digits: AP 0.94 after coco to yolo
#   boxes of 150 to 250 pixels, two digits: AP 1.00 after coco to yolo
