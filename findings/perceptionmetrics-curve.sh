#!/usr/bin/env bash
# Guess: perceptionmetrics gives the area under the curve of precision and recall, AP over the 11 points of VOC, and
#   "COCO-style mAP" at IoU 0.5 to 0.95.
# Really: the area begins at the recall of the first detection, not at 0: a detector that is right about everything has
#   0 for one object, 0.5 for two, 0.9 for ten; with one object a detector with a false box before the right one has
#   0.25, more than the right one. Recalls are kept in 32 bits and compared in 64, where 0.7 and 0.9 are a little less
#   than the points 0.7 and 0.9: with 9 of 10 objects found and nothing false AP is 0.82 in place of 0.91, as for 8 of
#   10, with 7 of 10 0.64 in place of 0.73. The "COCO-style" mAP goes over the same 11 points, not over COCO's 101:
#   0.82 where COCO says 0.90.
# Here: AP is compared with pycocotools on small sets that one can work out by hand.
# (It asks for streamlit, open3d, tensorboard and more, but the metrics need only numpy and pandas: hence --no-deps.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==1.26.4 pandas==2.3.3 pycocotools==2.0.11
venv/bin/pip install --quiet --no-deps perceptionmetrics==3.1.0
cat > check.py <<'EOF'
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from perceptionmetrics.utils.detection_metrics import DetectionMetricsFactory
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("perceptionmetrics", "numpy", "pycocotools")))


def coco_ap(objects, found):
    def boxes(rows):
        return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in rows]

    Path("coco.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "a.jpg", "width": 4000, "height": 4000}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                        for i, box in enumerate(boxes(objects), 1)],
        "categories": [{"id": 1, "name": "dog"}],
    }))
    rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 1 - i / 100} for i, box in enumerate(boxes(found))]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO("coco.json")
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def by_hand(hits, count):
    """The area under the steps of the curve, from recall 0 on, and AP over the 11 points, in whole numbers."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    area = sum(p / count for p, hit in zip(precision, hits, strict=True) if hit)
    points = [max((p for p, n in zip(precision, right, strict=True) if 10 * n >= k * count), default=0)
              for k in range(11)]
    return area, sum(points) / 11


def measure(hits, count):
    """For detections in the order of their scores, right ones (1) and false ones (0), of so many objects."""
    objects = [[30 * i, 0, 30 * i + 20, 20] for i in range(count)]
    rest = iter(objects)
    found = [next(rest) if hit else [30 * i, 500, 30 * i + 20, 520] for i, hit in enumerate(hits)]
    factory = DetectionMetricsFactory(iou_threshold=0.5, num_classes=1)
    factory.update(np.array(objects, float), [0] * count, np.array(found, float), [0] * len(found),
                   [1 - i / 100 for i in range(len(found))])
    table = factory.get_metrics_dataframe({"dog": {"idx": 0}})["mean"]
    return [float(table[name]) for name in ("AUC-PR", "AP", "mAP@[0.5:0.95]")], by_hand(hits, count), \
        coco_ap(objects, found)


seen = {}
for name, hits, count in (
    ("1 object, found", [1], 1),
    ("1 object, a false box before it", [0, 1], 1),
    ("2 objects, found", [1] * 2, 2),
    ("10 objects, found", [1] * 10, 10),
    ("10 objects, 9 found", [1] * 9, 10),
    ("10 objects, 8 found", [1] * 8, 10),
    ("10 objects, 7 found", [1] * 7, 10),
):
    (area, ap, coco_style), (area_by_hand, ap_by_hand), coco = seen[name] = measure(hits, count)
    print(f"{name}: area {area:.2f} (by hand {area_by_hand:.2f}), AP {ap:.2f} (by hand {ap_by_hand:.2f}),",
          f"COCO-style {coco_style:.2f} (COCO {coco:.2f})")
    if 0 not in hits:
        assert abs(area - (len(hits) - 1) / count) < 1e-6 and abs(area_by_hand - len(hits) / count) < 1e-9
    assert abs(coco_style - ap) < 1e-6  # the same 11 points at each IoU, as all boxes are exact
    if count == 10 and len(hits) in (7, 9):
        assert abs(ap_by_hand - ap - 1 / 11) < 1e-6 and abs(coco_style - coco) > 0.05
    else:
        assert abs(ap_by_hand - ap) < 1e-6
assert seen["1 object, a false box before it"][0][0] == 0.25 > seen["1 object, found"][0][0] == 0
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   perceptionmetrics 3.1.0 numpy 1.26.4 pycocotools 2.0.11
#   1 object, found: area 0.00 (by hand 1.00), AP 1.00 (by hand 1.00), COCO-style 1.00 (COCO 1.00)
#   1 object, a false box before it: area 0.25 (by hand 0.50), AP 0.50 (by hand 0.50), COCO-style 0.50 (COCO 0.50)
#   2 objects, found: area 0.50 (by hand 1.00), AP 1.00 (by hand 1.00), COCO-style 1.00 (COCO 1.00)
#   10 objects, found: area 0.90 (by hand 1.00), AP 1.00 (by hand 1.00), COCO-style 1.00 (COCO 1.00)
#   10 objects, 9 found: area 0.80 (by hand 0.90), AP 0.82 (by hand 0.91), COCO-style 0.82 (COCO 0.90)
#   10 objects, 8 found: area 0.70 (by hand 0.80), AP 0.82 (by hand 0.82), COCO-style 0.82 (COCO 0.80)
#   10 objects, 7 found: area 0.60 (by hand 0.70), AP 0.64 (by hand 0.73), COCO-style 0.64 (COCO 0.69)
