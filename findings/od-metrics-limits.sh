#!/usr/bin/env bash
# Guess: od-metrics computes COCO's AP for each limit of detections in `max_detection_thresholds`, in whatever order
#   they are listed; `mean_evaluator` takes a list of classes, sizes or IoU thresholds.
# Really: the last one of the list cuts the detections for all: with [100, 10, 1] what is called "mAP@[.5:.95 | all |
#   100]" is that of the best detection of each image and class, 0.34 in place of 1, as are AP at 0.5 and AR; nothing is
#   said. A list without 100, as [1, 10, 300], has a mAP that is the mean over all its limits: 0.78 where each limit
#   from 3 on alone has 1; its name lists them all. In pycocotools the order has no effect. A list of two for the mean
#   raises ValueError about shapes, unless it is all of them; one value works. With the default limits all is COCO's, on
#   60 data sets made by chance.
# Here: AP comes from pycocotools or what is compared with it; judged by it, limit by limit.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pydantic==2.14.4 od-metrics==2.2.2 pycocotools==2.0.11
venv/bin/python - <<'EOF'
import contextlib
import io
from importlib.metadata import version

import numpy as np
from od_metrics import ODMetrics
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("od-metrics", "pycocotools")))


def wanted(truth, found, limits):
    """AP, AP at 0.5 and AR of pycocotools, with the largest limit."""
    objects = [
        {"image_id": i, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, image in enumerate(truth)
        for box, label in zip(image["boxes"], image["labels"], strict=True)
    ]
    rows = [
        {"image_id": i, "category_id": label, "bbox": box, "score": score}
        for i, image in enumerate(found)
        for box, label, score in zip(image["boxes"], image["labels"], image["scores"], strict=True)
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(len(truth))],
        "categories": [{"id": label} for label in range(3)],
        "annotations": [{"id": i, **one} for i, one in enumerate(objects, start=1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(rows), "bbox")
        judge.params.maxDets = limits
        judge.evaluate()
        judge.accumulate()
    values = []
    for name, at in (("precision", slice(None)), ("precision", 0), ("recall", slice(None))):
        part = judge.eval[name][at, ..., 0, -1]  # all sizes, the largest limit
        values.append(float(part[part > -1].mean()))
    return [round(value, 3) for value in values]


def given(truth, found, limits, most=100):
    result = ODMetrics(max_detection_thresholds=limits).compute(truth, found)
    names = [f"mAP@[.5:.95 | all | {most}]", f"mAP@[.5 | all | {most}]", f"mAR@[.5:.95 | all | {most}]"]
    return [round(result[name], 3) for name in names]


# Three objects on each image, all found as they are.
boxes = [[10.0, 10.0, 40.0, 40.0], [100.0, 10.0, 40.0, 40.0], [10.0, 100.0, 40.0, 40.0]]
truth = [{"boxes": boxes, "labels": [0, 0, 0]} for _ in range(4)]
found = [{"boxes": boxes, "labels": [0, 0, 0], "scores": [0.9, 0.8, 0.7]} for _ in range(4)]
seen = {}
for limits in ([1, 10, 100], [100, 10, 1], [10, 100, 1], [1, 100, 10]):
    seen[str(limits)] = given(truth, found, limits), wanted(truth, found, limits)
    print(f"{limits}: AP, AP at 0.5 and AR for 100: {seen[str(limits)][0]}, pycocotools {seen[str(limits)][1]}")
for limits, most in (([300], "300"), ([1, 10, 300], "1_10_300")):
    seen[str(limits)] = given(truth, found, limits, most), wanted(truth, found, limits)
    print(f"{limits}: {seen[str(limits)][0]} (called {most}), pycocotools for 300 {seen[str(limits)][1]}")

chance = np.random.default_rng(0)
same = 0
for _ in range(60):
    many, most = [], []
    for _ in range(5):
        count = int(chance.integers(1, 8))
        made = np.concatenate([chance.uniform(0, 400, (count, 2)), chance.uniform(5, 200, (count, 2))], 1)
        labels = chance.integers(0, 3, count).tolist()
        many.append({"boxes": made.tolist(), "labels": labels})
        moved = np.concatenate([made, made]) + chance.normal(0, 4, (2 * count, 4))
        moved[:, 2:] = np.abs(moved[:, 2:]) + 1
        most.append({"boxes": moved.tolist(), "labels": labels * 2, "scores": chance.random(2 * count).tolist()})
    same += given(many, most, [1, 10, 100]) == wanted(many, most, [1, 10, 100])
print(f"default limits: {same} of 60 data sets made by chance have pycocotools' values")
mean = ODMetrics().compute(many, most, extended_summary=True)["mean_evaluator"]
for title, options in {
    "one class": {"label_id": 1},
    "two of three classes": {"label_id": [0, 1]},
    "small and medium": {"area_range_key": ["small", "medium"]},
    "IoU 0.5 and 0.75": {"iou_threshold": [0.5, 0.75]},
    "all three classes": {"label_id": [0, 1, 2]},
}.items():
    try:
        seen[title] = f"{len(mean(**options))} values"
    except ValueError as error:
        seen[title] = f"ValueError: {error}".strip()
    print(f"mean over {title}: {seen[title]}")

assert same == 60 and seen["[1, 10, 100]"] == ([1, 1, 1], [1, 1, 1])
for limits in ("[100, 10, 1]", "[10, 100, 1]"):
    assert seen[limits][0][0] < 0.4 and seen[limits][1] == [1, 1, 1]
assert seen["[300]"] == ([1, 1, 1], [1, 1, 1])
assert seen["[1, 10, 300]"][0][0] < 0.8 and seen["[1, 10, 300]"][1] == [1, 1, 1]
for title in ("two of three classes", "small and medium", "IoU 0.5 and 0.75"):
    assert seen[title].startswith("ValueError")
assert seen["one class"] == seen["all three classes"] == "2 values"
EOF
# Seen (Python 3.11, Linux, x86-64):
#   od-metrics 2.2.2 pycocotools 2.0.11
#   [1, 10, 100]: AP, AP at 0.5 and AR for 100: [1.0, 1.0, 1.0], pycocotools [1.0, 1.0, 1.0]
#   [100, 10, 1]: AP, AP at 0.5 and AR for 100: [0.337, 0.337, 0.333], pycocotools [1.0, 1.0, 1.0]
#   [10, 100, 1]: AP, AP at 0.5 and AR for 100: [0.337, 0.337, 0.333], pycocotools [1.0, 1.0, 1.0]
#   [1, 100, 10]: AP, AP at 0.5 and AR for 100: [1.0, 1.0, 1.0], pycocotools [1.0, 1.0, 1.0]
#   [300]: [1.0, 1.0, 1.0] (called 300), pycocotools for 300 [1.0, 1.0, 1.0]
#   [1, 10, 300]: [0.779, 0.779, 0.778] (called 1_10_300), pycocotools for 300 [1.0, 1.0, 1.0]
#   default limits: 60 of 60 data sets made by chance have pycocotools' values
#   mean over one class: 2 values
#   mean over two of three classes: ValueError: operands could not be broadcast together with shapes (2,) (3,)
#   mean over small and medium: ValueError: operands could not be broadcast together with shapes (2,) (4,)
#   mean over IoU 0.5 and 0.75: ValueError: operands could not be broadcast together with shapes (2,) (10,)
#   mean over all three classes: 2 values
