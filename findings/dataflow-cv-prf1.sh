#!/usr/bin/env bash
# Guess: precision, recall and F1 of dataflow-cv are those of the classes that the data show, and crowds count as its
#   text says, as in pycocotools.
# Really: the overall numbers are means over all classes that the file lists, and a class without an object and without
#   a detection has 0 in all three: with the 80 classes of COCO and objects of two, right boxes have F1 0.03, beside AP
#   1 of the same package. That is the default; `method="micro"` is right. A detection inside a crowd is passed over
#   only if box and crowd overlap by the plain IoU, of which a small box never has enough, in place of the share of the
#   detection: twenty such boxes make precision 0.05. With `iou_type="segm"`, the same boxes as outlines, it is right.
# Here: judged by the COCO evaluation of the same package, and by hand.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pycocotools==2.0.11
venv/bin/pip install --quiet --no-deps dataflow-cv==3.0.0  # OpenCV and click, for its other parts, are not needed
venv/bin/python - <<'EOF'
import contextlib
import io
import logging
from importlib.metadata import version

from dataflow.evaluate import DetectionEvaluator, compute_pr_f1

print(*(f"{name} {version(name)}" for name in ("dataflow-cv", "pycocotools")))
logging.disable(logging.WARNING)


def thing(number, box, category, **more):
    x, y, w, h = box
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {"id": number, "image_id": 1, "category_id": category, "bbox": box, "area": w * h, "iscrowd": 0,
            "segmentation": outline, **more}


def scores(classes, objects, found, **more):
    truth = {"images": [{"id": 1, "width": 640, "height": 480, "file_name": "a.jpg"}], "annotations": objects,
             "categories": [{"id": i, "name": f"class {i}"} for i in classes]}
    with contextlib.redirect_stdout(io.StringIO()):
        result = compute_pr_f1(truth, dict(truth, annotations=found), **more)
        ap = DetectionEvaluator().evaluate(truth, dict(truth, annotations=found)).metrics.ap
    assert result.success, result
    return result.overall, ap


def show(text, values, ap, right):
    print(f"{text}: precision {values.precision:.2f}, recall {values.recall:.2f}, F1 {values.f1_score:.2f} "
          f"({values.tp} hits, {values.fp} false, {values.fn} missed); AP {ap:.2f}")
    assert abs(ap - 1) < 1e-9 and (abs(values.f1_score - 1) < 1e-9) == right


BOXES = [[20 + 120 * i, 40, 100, 200] for i in range(4)]
OBJECTS = [thing(i + 1, b, 1 + i % 2) for i, b in enumerate(BOXES)]
FOUND = [dict(o, score=0.9) for o in OBJECTS]
for number, method, right in ((2, "macro", 1), (3, "macro", 0), (80, "macro", 0), (80, "micro", 1)):
    values, ap = scores(range(1, number + 1), OBJECTS, FOUND, method=method)
    show(f"{number} classes, objects of two, {method}", values, ap, right)

INSIDE = [[10 + 30 * i, 300, 20, 60] for i in range(20)]
CROWD = [OBJECTS[0], thing(9, [0, 280, 640, 180], 1, iscrowd=1)]
IN_CROWD = [FOUND[0], *(thing(10 + i, b, 1, score=0.5) for i, b in enumerate(INSIDE))]
for kind, right in (("bbox", 0), ("segm", 1)):
    show(f"20 boxes in a crowd, {kind}", *scores([1], CROWD, IN_CROWD, iou_type=kind), right)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   dataflow-cv 3.0.0 pycocotools 2.0.11
#   2 classes, objects of two, macro: precision 1.00, recall 1.00, F1 1.00 (4 hits, 0 false, 0 missed); AP 1.00
#   3 classes, objects of two, macro: precision 0.67, recall 0.67, F1 0.67 (4 hits, 0 false, 0 missed); AP 1.00
#   80 classes, objects of two, macro: precision 0.03, recall 0.03, F1 0.03 (4 hits, 0 false, 0 missed); AP 1.00
#   80 classes, objects of two, micro: precision 1.00, recall 1.00, F1 1.00 (4 hits, 0 false, 0 missed); AP 1.00
#   20 boxes in a crowd, bbox: precision 0.05, recall 1.00, F1 0.09 (1 hits, 20 false, 0 missed); AP 1.00
#   20 boxes in a crowd, segm: precision 1.00, recall 1.00, F1 1.00 (1 hits, 0 false, 0 missed); AP 1.00
