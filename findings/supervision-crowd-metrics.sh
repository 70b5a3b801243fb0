#!/usr/bin/env bash
# Guess: a COCO file read by supervision's from_coco keeps its crowds, and its metrics treat them as COCO does.
# Really: MeanAveragePrecision and MeanAverageRecall do, to the last digit of pycocotools; Precision, Recall, F1Score and
#   ConfusionMatrix never look: a crowd is an object to be found, and what is found in it is false. For the same
#   boxes on the same image AP is 1 and the F1 score 0.44. And MeanAverageRecall gives 0 for a size of which there is no
#   object, where COCO and its own MeanAveragePrecision give -1 (unknown): it reads as if all small ones were missed.
# Here: what we say of detections comes from pycocotools, which knows crowds; what no object shows is -1, never 0.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 scipy==1.17.1 matplotlib==3.11.2 pillow==13.0.0 pandas==2.3.3 \
  supervision==0.31.2 pycocotools==2.0.11
venv/bin/python -W ignore - <<'EOF'
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from supervision.metrics import F1Score, MeanAveragePrecision, MeanAverageRecall, Precision, Recall

print(*(f"{name} {version(name)}" for name in ("supervision", "pycocotools")))
Path("images").mkdir()
Image.new("RGB", (640, 480)).save("images/street.jpg")
LEFT, RIGHT, GROUP = [10, 10, 50, 50], [200, 300, 60, 60], [300, 100, 300, 200]
SINGLES = [[310 + 70 * i, 150, 40, 90] for i in range(4)]  # inside of GROUP


def both(objects, found):
    """What pycocotools and supervision say about boxes (xywh) and right or wrong detections."""
    rest = {"image_id": 1, "category_id": 1}
    truth = {
        "images": [{"id": 1, "file_name": "street.jpg", "width": 640, "height": 480}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {**rest, "id": i, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd, "segmentation": []}
            for i, (box, crowd) in enumerate(objects, start=1)
        ],
    }
    Path("truth.json").write_text(json.dumps(truth))
    scores = [0.95 - i / 20 for i in range(len(found))]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO("truth.json")
        results = [{**rest, "bbox": box, "score": s} for box, s in zip(found, scores, strict=True)]
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    _, _, target = sv.DetectionDataset.from_coco("images", "truth.json")[0]
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in found], float)
    own = sv.Detections(xyxy=corners, confidence=np.array(scores), class_id=np.zeros(len(found), int))
    value = {m.__name__: m().update(own, target).compute() for m in (MeanAveragePrecision, MeanAverageRecall)}
    ap, ar = value["MeanAveragePrecision"], value["MeanAverageRecall"]
    plain = {
        "precision": Precision().update(own, target).compute().precision_at_50,
        "recall": Recall().update(own, target).compute().recall_at_50,
        "F1": F1Score().update(own, target).compute().f1_50,
    }
    matrix = sv.ConfusionMatrix.from_detections([own], [target], classes=["person"]).matrix
    said = {
        "pycocotools": {"AP": evaluation.stats[0], "AR": evaluation.stats[8], "AR small": evaluation.stats[9]},
        "supervision": {"AP": ap.map50_95, "AR": ar.mAR_at_100, "AR small": ar.small_objects.mAR_at_100},
        "its others": plain,
    }
    rounded = {who: {key: round(float(v), 3) for key, v in what.items()} for who, what in said.items()}
    rounded["AP small"] = round(float(ap.small_objects.map50_95), 3)
    rounded["confusion"] = np.asarray(matrix).astype(int).tolist()
    return np.asarray(target.data["iscrowd"]).tolist(), rounded


seen = {}
for name, objects, found in (
    ("two people, both found", [(LEFT, 0), (RIGHT, 0)], [LEFT, RIGHT]),
    ("a crowd beside them", [(LEFT, 0), (RIGHT, 0), (GROUP, 1)], [LEFT, RIGHT]),
    ("and four found in it", [(LEFT, 0), (RIGHT, 0), (GROUP, 1)], [LEFT, RIGHT, *SINGLES]),
):
    crowds, seen[name] = both(objects, found)
    print(f"{name}: iscrowd as read {crowds}")
    for who, what in seen[name].items():
        print(f"  {who}: {what}")

for what in seen.values():
    assert what["pycocotools"] == {"AP": 1, "AR": 1, "AR small": -1} and what["AP small"] == -1
    assert what["supervision"] == {"AP": 1, "AR": 1, "AR small": 0}
plain = [tuple(what["its others"].values()) for what in seen.values()]
assert plain == [(1, 1, 1), (1, 0.667, 0.8), (0.333, 0.667, 0.444)]
EOF
# Seen (Python 3.11, Linux, x86-64):
#   supervision 0.31.2 pycocotools 2.0.11
#   two people, both found: iscrowd as read [0, 0]
#     pycocotools: {'AP': 1.0, 'AR': 1.0, 'AR small': -1.0}
#     supervision: {'AP': 1.0, 'AR': 1.0, 'AR small': 0.0}
#     its others: {'precision': 1.0, 'recall': 1.0, 'F1': 1.0}
#     AP small: -1.0
#     confusion: [[2, 0], [0, 0]]
#   a crowd beside them: iscrowd as read [0, 0, 1]
#     pycocotools: {'AP': 1.0, 'AR': 1.0, 'AR small': -1.0}
#     supervision: {'AP': 1.0, 'AR': 1.0, 'AR small': 0.0}
#     its others: {'precision': 1.0, 'recall': 0.667, 'F1': 0.8}
#     AP small: -1.0
#     confusion: [[2, 1], [0, 0]]
#   and four found in it: iscrowd as read [0, 0, 1]
#     pycocotools: {'AP': 1.0, 'AR': 1.0, 'AR small': -1.0}
#     supervision: {'AP': 1.0, 'AR': 1.0, 'AR small': 0.0}
#     its others: {'precision': 0.333, 'recall': 0.667, 'F1': 0.444}
#     AP small: -1.0
#     confusion: [[2, 1], [4, 0]]
