#!/usr/bin/env bash
# Guess: what goes through albumentations in `label_fields` beside the boxes comes back as it was, at most
#   fewer and in the same order.
# Really: numbers become columns of the float32 array that holds the boxes: a whole number above 2^24 (16 777 216) comes
#   back as another one, and those near each other as the same one. They keep the type int64, if they came as an array,
#   so that nothing shows it. Ids of annotations are that large where they are made of the image's id and a number; those
#   of COCO's own crowds are above 900100000000. After a mere flip, three objects share one id, pycocotools takes
#   the last of them three times, and right boxes score 0.11 in place of 1. The same ids as text come back whole.
# Here: ids are int64 in an array of their own, beside the boxes; an id that occurs twice in a COCO file is reported.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
export NO_ALBUMENTATIONS_UPDATE=1
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 scipy==1.17.1 pydantic==2.14.4 opencv-python-headless==5.0.0.93 \
  albumentations==2.0.8 pycocotools==2.0.11
venv/bin/python - <<'EOF'
import contextlib
import io
from importlib.metadata import version

import albumentations as A
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("albumentations", "numpy", "pycocotools")))
IMAGE = np.zeros((480, 640, 3), np.uint8)
BOXES = [[10, 10, 50, 40], [200, 50, 60, 80], [400, 200, 100, 90]]


def flipped(ids):
    """The three boxes after a horizontal flip, and their ids."""
    turn = A.Compose([A.HorizontalFlip(p=1)], bbox_params=A.BboxParams("coco", label_fields=["ids"]))
    after = turn(image=IMAGE, bboxes=BOXES, ids=ids)
    return np.array(after["bboxes"]).round(3).tolist(), after["ids"]


def ap(boxes, ids):
    """AP of detections on all three boxes; the truth has these ids."""
    rest = {"image_id": 184613, "category_id": 1}
    truth, found = COCO(), [{**rest, "bbox": box, "score": 0.9 - i / 10} for i, box in enumerate(boxes)]
    objects = [
        {**rest, "id": int(identity), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for identity, box in zip(ids, boxes, strict=True)
    ]
    truth.dataset = {"images": [{"id": 184613}], "categories": [{"id": 1}], "annotations": objects}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 4)


seen = {}
for name, ids in {
    "small": [1, 2, 3],
    "image's id and a number": [184613001, 184613002, 184613003],
    "as COCO's crowds": [900100184613, 900100184614, 900100184615],
}.items():
    boxes, came = flipped(np.array(ids))
    as_text = [int(i) for i in flipped([str(i) for i in ids])[1]]
    whole = [int(i) for i in came]
    seen[name] = (ids, whole, as_text, ap(boxes, ids), ap(boxes, whole))
    print(f"{name}: {ids} -> {whole} ({type(came[0]).__name__}), as text {as_text}")
    print(f"  AP of right boxes, with the ids given and those that came back: {seen[name][3:]}")
    assert isinstance(came[0], np.integer) and as_text == ids

assert seen["small"][0] == seen["small"][1] and seen["small"][3:] == (1, 1)
for name in ("image's id and a number", "as COCO's crowds"):
    assert len(set(seen[name][1])) == 1 and seen[name][1][0] not in seen[name][0]
    assert seen[name][3] == 1 and seen[name][4] < 0.2
EOF
# Seen (Python 3.11, Linux, x86-64):
#   albumentations 2.0.8 numpy 2.4.6 pycocotools 2.0.11
#   small: [1, 2, 3] -> [1, 2, 3] (int64), as text [1, 2, 3]
#     AP of right boxes, with the ids given and those that came back: (1.0, 1.0)
#   image's id and a number: [184613001, 184613002, 184613003] -> [184613008, 184613008, 184613008] (int64), as text [184613001, 184613002, 184613003]
#     AP of right boxes, with the ids given and those that came back: (1.0, 0.1122)
#   as COCO's crowds: [900100184613, 900100184614, 900100184615] -> [900100194304, 900100194304, 900100194304] (int64), as text [900100184613, 900100184614, 900100184615]
#     AP of right boxes, with the ids given and those that came back: (1.0, 0.1122)
