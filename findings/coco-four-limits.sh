#!/usr/bin/env bash
# Guess: with maxDets raised to more than 100 (crowded images, a detector without NMS), evaluators that
#   take the same COCOeval parameters print the same AP, with up to that many detections.
# Really: with [1, 10, 300] pycocotools prints AP -1 beside a real AP50, which does use the 300: its headline
#   looks for a limit of exactly 100. With [1, 10, 100, 300] pycocotools keeps 100 in all of them and leaves
#   the 300 unused; faster-coco-eval and hotcoco take 300 in the AP. faster-coco-eval also puts a thirteenth
#   number into stats, so that "AR of small" has moved by one; hotcoco does not.
# Here: maxDets stays [1, 10, 100]; numbers with other limits are not compared.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pycocotools==2.0.11 faster-coco-eval==1.8.0 hotcoco==1.3.0
venv/bin/python - <<'EOF'
import contextlib
import io
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import faster_coco_eval
import hotcoco
import pycocotools.coco
import pycocotools.cocoeval

EVALUATORS = {
    "pycocotools": (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    "hotcoco": (hotcoco.COCO, hotcoco.COCOeval),
}
print(*(f"{name} {version(name)}" for name in EVALUATORS))

# One image, one object of 20 x 20 pixels; 150 empty boxes come before the one that finds it.
box, empty = [10, 10, 20, 20], [400, 300, 20, 20]
truth = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0}
    ],
}
boxes = [empty] * 150 + [box]
found = [
    {"image_id": 1, "category_id": 1, "bbox": b, "score": 0.9 - 0.001 * i} for i, b in enumerate(boxes)
]
Path("truth.json").write_text(json.dumps(truth))
Path("found.json").write_text(json.dumps(found))


def stats(name, limits):
    reader, judge = EVALUATORS[name]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hotcoco says that the limits are unusual
        gt = reader("truth.json")
        evaluation = judge(gt, gt.loadRes("found.json"), "bbox")
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [round(float(v), 4) for v in evaluation.stats]


AP = 0.0066  # one right box at place 151
for limits, expected in [
    ([1, 10, 100], {name: [0, 0, 12] for name in EVALUATORS}),
    ([1, 10, 300], {"pycocotools": [-1, AP, 12], "faster-coco-eval": [AP, AP, 12], "hotcoco": [AP, AP, 12]}),
    ([1, 10, 100, 300], {"pycocotools": [0, 0, 12], "faster-coco-eval": [AP, AP, 13], "hotcoco": [AP, AP, 12]}),
]:
    print(f"maxDets {limits}")
    for name in EVALUATORS:
        numbers = stats(name, limits)
        print(f"  {name}: AP {numbers[0]} AP50 {numbers[1]}; {len(numbers)} numbers: {numbers}")
        assert [*numbers[:2], len(numbers)] == expected[name]
# the object is small: index 9 is "AR of small" but for the one that counts one more limit
assert stats("faster-coco-eval", [1, 10, 100, 300])[8:11] == [0, 1, 1]
EOF
# Seen (Python 3.11, Linux, x86-64):
#   pycocotools 2.0.11 faster-coco-eval 1.8.0 hotcoco 1.3.0
#   maxDets [1, 10, 100]
#     pycocotools: AP 0.0 AP50 0.0; 12 numbers: [0.0, 0.0, 0.0, 0.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, -1.0]
#     faster-coco-eval: AP 0.0 AP50 0.0; 12 numbers: [0.0, 0.0, 0.0, 0.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, -1.0]
#     hotcoco: AP 0.0 AP50 0.0; 12 numbers: [0.0, 0.0, 0.0, 0.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, -1.0]
#   maxDets [1, 10, 300]
#     pycocotools: AP -1.0 AP50 0.0066; 12 numbers: [-1.0, 0.0066, 0.0066, 0.0066, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0, -1.0, -1.0]
#     faster-coco-eval: AP 0.0066 AP50 0.0066; 12 numbers: [0.0066, 0.0066, 0.0066, 0.0066, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0, -1.0, -1.0]
#     hotcoco: AP 0.0066 AP50 0.0066; 12 numbers: [0.0066, 0.0066, 0.0066, 0.0066, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0, -1.0, -1.0]
#   maxDets [1, 10, 100, 300]
#     pycocotools: AP 0.0 AP50 0.0; 12 numbers: [0.0, 0.0, 0.0, 0.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, -1.0]
#     faster-coco-eval: AP 0.0066 AP50 0.0066; 13 numbers: [0.0066, 0.0066, 0.0066, 0.0066, -1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0, -1.0, -1.0]
#     hotcoco: AP 0.0066 AP50 0.0066; 12 numbers: [0.0066, 0.0066, 0.0066, 0.0066, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0, -1.0, -1.0]
