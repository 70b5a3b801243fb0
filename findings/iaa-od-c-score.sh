#!/usr/bin/env bash
# Guess: the C-Score of iaa-od says how far annotators agree on the classes of boxes that they drew on each other; it is
#   1 if they agree on all and 0 if they agree on none ("intersecting bounding boxes", says its text).
# Really: it never looks at a box. It compares which classes occur in an image at all, and it compares each annotator
#   with himself as well, which always gives 1. So it is 1 where each dog of one is a cat of the other, and where no two
#   boxes touch; where nobody agrees it is not 0 but 2 / (n + 1) for n annotators: 0.67, 0.50, 0.33 for 2, 3, 5. And
#   boxes of an image with the id 0 are lost when a file is read. Krippendorff's alpha of the same package does look
#   at the boxes.
# Here: judged by hand, pair of boxes by pair of boxes.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet iaa-od==4.4.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 matplotlib==3.11.2
venv/bin/python - <<'EOF'
import contextlib
import io
import json
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

with contextlib.redirect_stdout(io.StringIO()):  # it prints its name
    import iaa_od

print(*(f"{name} {version(name)}" for name in ("iaa-od", "scikit-learn", "numpy")))
CLASSES = "cat", "dog", "cow", "horse", "sheep"
IMAGES, EACH, SIDE = 10, 4, 40
BOXES = [[50 * i, 10, SIDE, SIDE] for i in range(EACH)]
ASIDE = [[x, 200, w, h] for x, _, w, h in BOXES]


def read(name, choose, boxes, first=1):
    """A COCO file of one annotator, as iaa-od reads it; `choose` gives the class of box i."""
    ids = range(first, first + IMAGES)
    data = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "width": 400, "height": 400} for k in ids],
        "categories": [{"id": c, "name": text} for c, text in enumerate(CLASSES, start=1)],
        "annotations": [
            {"id": n, "image_id": k, "category_id": choose(i), "bbox": box, "area": SIDE**2, "iscrowd": 0}
            for n, (k, i, box) in enumerate(((k, i, box) for k in ids for i, box in enumerate(boxes)), start=1)],
    }
    Path(f"{name}.json").write_text(json.dumps(data))
    return iaa_od.GroundTruth.from_file(f"{name}.json", name=name)


def by_hand(people):
    """The share of equal classes among pairs of boxes of two annotators that lie on each other."""
    equal = [
        a.category_id == b.category_id
        for one, other in combinations(people, 2) for image in one.images
        for a in one.annotations[image] for b in other.annotations[image] if iaa_od.iou(a, b) > 0.5]
    return sum(equal) / len(equal) if equal else None


def show(text, people, score, hand):
    got, alpha = iaa_od.c_score(people).global_value, iaa_od.alpha(people).alpha
    print(f"{text}: C-Score {got:.2f}, alpha {alpha:.2f}; by hand {by_hand(people)}")
    assert abs(got - score) < 1e-9 and by_hand(people) == hand


mixed, turned = (lambda i: 1 + i % 2), (lambda i: 2 - i % 2)
show("same boxes, same classes", [read("a", mixed, BOXES), read("b", mixed, BOXES)], 1, 1)
show("every cat is the other's dog", [read("a", mixed, BOXES), read("b", turned, BOXES)], 1, 0)
show("no two boxes touch", [read("a", mixed, BOXES), read("b", mixed, ASIDE)], 1, None)
for n in (2, 3, 5):
    people = [read(f"p{k}", lambda i, k=k: k + 1, BOXES) for k in range(n)]
    show(f"{n} annotators, each with a class of his own", people, 2 / (n + 1), 0)
for first in (1, 0):
    boxes = sum(len(a) for a in read("zero", mixed, BOXES, first).annotations.values())
    print(f"image ids from {first}: {boxes} boxes read of {IMAGES * EACH}")
    assert boxes == IMAGES * EACH - (0 if first else EACH)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   iaa-od 4.4.0 scikit-learn 1.9.1 numpy 2.4.6
#   same boxes, same classes: C-Score 1.00, alpha 1.00; by hand 1.0
#   every cat is the other's dog: C-Score 1.00, alpha -0.98; by hand 0.0
#   no two boxes touch: C-Score 1.00, alpha 0.00; by hand None
#   2 annotators, each with a class of his own: C-Score 0.67, alpha -0.98; by hand 0.0
#   3 annotators, each with a class of his own: C-Score 0.50, alpha -0.49; by hand 0.0
#   5 annotators, each with a class of his own: C-Score 0.33, alpha -0.24; by hand 0.0
#   image ids from 1: 40 boxes read of 40
#   image ids from 0: 36 boxes read of 40
