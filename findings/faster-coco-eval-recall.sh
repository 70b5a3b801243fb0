#!/usr/bin/env bash
# Guess: `extended_metrics` of faster-coco-eval gives precision and recall at IoU 0.5, at the score with the best F1:
#   recall is the part of the objects that were found, so it is 1 at most.
# Really: it takes its hits from a list of pairs that has those of all ten IoU thresholds, and counts each detection
#   in it. Where the box with the higher score lies worse (IoU 0.6) than a second one on the same object (0.98), both
#   are in the list, one of 0.5 and one of 0.75: one object, recall 2. Five of ten objects found twice are "recall 1,
#   precision 1" beside AP50 0.505. Boxes in a crowd are pairs, too, while the crowd is no object: recall 6, or 5 beside
#   AP 0. With 0.5 as the only threshold the doubles are right, the crowds are not. AP itself is right in all cases.
# Here: all that is shown is AP of pycocotools.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 faster-coco-eval==1.8.0 pycocotools==2.0.11
venv/bin/python - <<'EOF'
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import faster_coco_eval
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("faster-coco-eval", "pycocotools")))


def write(objects, found):  # (image, box, crowd) and (image, box, score)
    truth = {"images": [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(1, 11)]}
    truth["categories"] = [{"id": 1, "name": "car"}]
    truth["annotations"] = [
        {"id": n, "image_id": i, "category_id": 1, "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
        for n, (i, b, crowd) in enumerate(objects, start=1)
    ]
    Path("truth.json").write_text(json.dumps(truth))
    rows = [{"image_id": i, "category_id": 1, "bbox": b, "score": score} for i, b, score in found]
    Path("found.json").write_text(json.dumps(rows))


def tool(thresholds=None):
    truth = faster_coco_eval.COCO("truth.json")
    judge = faster_coco_eval.COCOeval_faster(truth, truth.loadRes("found.json"), "bbox", extra_calc=True)
    if thresholds is not None:
        judge.params.iouThrs = np.array(thresholds)
    judge.run()
    return tuple(round(judge.extended_metrics[name], 4) for name in ("map", "precision", "recall"))


def reference():
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO("truth.json")
        judge = COCOeval(truth, truth.loadRes("found.json"), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    images = [e for e in judge.evalImgs if e and e["aRng"] == judge.params.areaRng[0]]
    pairs = [p for e in images for p in zip(e["dtScores"], e["dtMatches"][0], e["dtIgnore"][0], strict=True)]
    rows = [(score, hit > 0) for score, hit, ignored in pairs if not ignored]
    objects = sum(int(np.sum(e["gtIgnore"] == 0)) for e in images)
    cuts = [[hit for score, hit in rows if score >= low] for low in sorted({score for score, _ in rows})]
    best = max(cuts, key=lambda hits: 2 * sum(hits) / (len(hits) + objects))  # the best F1
    return tuple(round(float(v), 4) for v in (judge.stats[1], sum(best) / len(best), sum(best) / objects))


BOX, CLOSE, LOOSE = [100, 100, 100, 100], [100, 100, 98, 100], [100, 100, 60, 100]
CROWD = (1, [300, 100, 200, 200], 1)
INSIDE = [(1, [310 + 20 * i, 110, 30, 60], 0.8 - 0.01 * i) for i in range(5)]
TEN = [(i, BOX, 0) for i in range(1, 11)]
CASES = {
    "one object, the better box first": ([(1, BOX, 0)], [(1, CLOSE, 0.9), (1, LOOSE, 0.8)]),
    "one object, the worse box first": ([(1, BOX, 0)], [(1, LOOSE, 0.9), (1, CLOSE, 0.8)]),
    "five of ten objects, once each": (TEN, [(i, CLOSE, 0.9) for i in range(1, 6)]),
    "five of ten objects, twice each": (TEN, [(i, b, s) for i in range(1, 6) for b, s in ((LOOSE, 0.9), (CLOSE, 0.8))]),
    "one object found, five boxes in a crowd": ([(1, BOX, 0), CROWD], [(1, BOX, 0.9), *INSIDE]),
    "one object missed, five boxes in a crowd": ([(1, BOX, 0), CROWD], [(1, [20, 400, 50, 50], 0.9), *INSIDE]),
}
print("(AP50, precision, recall) of pycocotools' pairs, of the tool, of the tool with 0.5 alone:")
rows = []
for name, case in CASES.items():
    write(*case)
    rows.append((reference(), tool(), tool([0.5])))
    print(f"  {name}:", *rows[-1])
assert all(right[0] == wide[0] == one[0] for right, wide, one in rows)  # AP50
assert rows[0][0] == rows[0][1] and rows[2][0] == rows[2][1]
assert rows[1][1][2] == 2 and rows[3][1][1:] == (1, 1) and rows[3][0][2] == 0.5
assert rows[1][0] == rows[1][2] and rows[3][0] == rows[3][2]
assert rows[4][1][2] == rows[4][2][2] == 6 and rows[5][1][2] == rows[5][2][2] == 5 and rows[5][0] == (0, 0, 0)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   faster-coco-eval 1.8.0 pycocotools 2.0.11
#   (AP50, precision, recall) of pycocotools' pairs, of the tool, of the tool with 0.5 alone:
#     one object, the better box first: (1.0, 1.0, 1.0) (1.0, 1.0, 1.0) (1.0, 1.0, 1.0)
#     one object, the worse box first: (1.0, 1.0, 1.0) (1.0, 1.0, 2.0) (1.0, 1.0, 1.0)
#     five of ten objects, once each: (0.505, 1.0, 0.5) (0.505, 1.0, 0.5) (0.505, 1.0, 0.5)
#     five of ten objects, twice each: (0.505, 1.0, 0.5) (0.505, 1.0, 1.0) (0.505, 1.0, 0.5)
#     one object found, five boxes in a crowd: (1.0, 1.0, 1.0) (1.0, 1.0, 6.0) (1.0, 1.0, 6.0)
#     one object missed, five boxes in a crowd: (0.0, 0.0, 0.0) (0.0, 0.8333, 5.0) (0.0, 0.8333, 5.0)
