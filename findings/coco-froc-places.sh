#!/usr/bin/env bash
# Guess: a FROC curve counts a lesion as found if the centre of a detection lies in its box, as the description of
#   coco-froc-analysis says, or with `use_iou` if the two overlap by more than the threshold.
# Really: where they lie has no effect on the curve. Pairs that do not belong together get a high price, then every
#   object of an image and class is paired with some detection as long as there are any, and all pairs count as found.
#   Four objects and four detections in the other corner: sensitivity 1 with no false one, at any IoU threshold; two
#   boxes beside each object count as the object found and one false one. The precision and recall of the "count
#   curve" are counted in the same way. Right are the class and the number: a detection of another class, or in an
#   image without objects, is false. Nothing is said.
# Here: found objects are pycocotools' (IoU with the object, one detection each).
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet coco-froc-analysis==0.2.15 numpy==1.26.4 scipy==1.17.1 matplotlib==3.11.2 tqdm==4.70.1 \
  pycocotools==2.0.11
MPLBACKEND=Agg TQDM_DISABLE=1 venv/bin/python -W ignore - <<'EOF'
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

from coco_froc_analysis.count import generate_count_curve
from coco_froc_analysis.froc import generate_froc_curve
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("coco-froc-analysis", "scipy", "pycocotools")))
BOX, BESIDE, FAR = [100, 100, 50, 50], [160, 100, 50, 50], [800, 800, 50, 50]
OBJECTS = range(1, 5)  # one object of class 1 in each of the images 1 to 4; none in image 5
TRUTH = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 1000, "height": 1000} for i in range(1, 6)],
    "categories": [{"id": 1, "name": "nodule"}, {"id": 2, "name": "other"}],
    "annotations": [
        {"id": i, "image_id": i, "category_id": 1, "bbox": BOX, "area": 2500, "iscrowd": 0} for i in OBJECTS
    ]  # one of the other class, as the tool divides by the number of objects of each
    + [{"id": 5, "image_id": 1, "category_id": 2, "bbox": FAR, "area": 2500, "iscrowd": 0}],
}
Path("truth.json").write_text(json.dumps(TRUTH))


def froc(**settings):
    """Sensitivity and false detections per image of class 1, at score threshold 0."""
    found, wrong = generate_froc_curve("truth.json", "found.json", plot_title=None, n_sample_points=1, **settings)
    return found[1][0], wrong[1][0]


def coco(threshold):
    """The same from pycocotools' matches at one IoU threshold."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO("truth.json")
        judge = COCOeval(truth, truth.loadRes("found.json"), "bbox")
        judge.params.iouThrs, judge.params.catIds = [threshold], [1]
        judge.evaluate()
    every = [e for e in judge.evalImgs if e and e["aRng"] == judge.params.areaRng[0]]
    hits = sum(int((e["dtMatches"][0] > 0).sum()) for e in every)
    return hits / len(OBJECTS), (sum(len(e["dtIds"]) for e in every) - hits) / len(TRUTH["images"])


def all_at(*boxes, images=OBJECTS, category=1):
    return [{"image_id": i, "category_id": category, "bbox": b, "score": 0.9} for i in images for b in boxes]


CASES = {
    "all four found": all_at(BOX),
    "all four in the other corner": all_at(FAR),
    "two boxes beside each object": all_at(BESIDE, FAR),
    "one found, three in the other corner": all_at(BOX, images=[1]) + all_at(FAR, images=[2, 3, 4]),
    "four of the other class": all_at(BOX, category=2),
    "one in the image without objects": all_at(BOX, images=[5]),
}
for name, rows in CASES.items():
    Path("found.json").write_text(json.dumps([{**rows[0], "image_id": 5, "category_id": 2}, *rows]))
    centre, overlap, strict, right = froc(), froc(use_iou=True), froc(use_iou=True, iou_thres=0.95), coco(0.5)
    precision, recall = (v[1][0] for v in generate_count_curve(
        "truth.json", "found.json", plot_title=None, n_sample_points=1))
    print(f"{name}: found {right[0]}, false per image {right[1]} (pycocotools)")
    print(f"  by centre {centre}, IoU 0.5 {overlap}, IoU 0.95 {strict}; precision {precision:.2f}, recall {recall:.2f}")
    assert centre == overlap == strict
    assert (centre == right) == ("corner" not in name and "beside" not in name)
    in_images = [min(sum(r["image_id"] == i and r["category_id"] == 1 for r in rows), 1) for i in OBJECTS]
    assert centre[0] == sum(in_images) / len(OBJECTS)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   coco-froc-analysis 0.2.15 scipy 1.17.1 pycocotools 2.0.11
#   all four found: found 1.0, false per image 0.0 (pycocotools)
#     by centre (1.0, 0.0), IoU 0.5 (1.0, 0.0), IoU 0.95 (1.0, 0.0); precision 1.00, recall 1.00
#   all four in the other corner: found 0.0, false per image 0.8 (pycocotools)
#     by centre (1.0, 0.0), IoU 0.5 (1.0, 0.0), IoU 0.95 (1.0, 0.0); precision 1.00, recall 1.00
#   two boxes beside each object: found 0.0, false per image 1.6 (pycocotools)
#     by centre (1.0, 0.8), IoU 0.5 (1.0, 0.8), IoU 0.95 (1.0, 0.8); precision 0.50, recall 1.00
#   one found, three in the other corner: found 0.25, false per image 0.6 (pycocotools)
#     by centre (1.0, 0.0), IoU 0.5 (1.0, 0.0), IoU 0.95 (1.0, 0.0); precision 1.00, recall 1.00
#   four of the other class: found 0.0, false per image 0.0 (pycocotools)
#     by centre (0.0, 0.0), IoU 0.5 (0.0, 0.0), IoU 0.95 (0.0, 0.0); precision 0.00, recall 0.00
#   one in the image without objects: found 0.0, false per image 0.2 (pycocotools)
#     by centre (0.0, 0.2), IoU 0.5 (0.0, 0.2), IoU 0.95 (0.0, 0.2); precision 0.00, recall 0.00
