#!/usr/bin/env bash
# Guess: odach runs a detector on a mirrored or turned image as well, brings the boxes back to where they belong and
#   fuses them: a detector that is right comes out right.
# Really: HorizontalFlip, the first in all of its examples, turns the batch upside down and brings the boxes back as if
#   left and right were exchanged: each object comes back twice, once in the opposite corner, both with half of the
#   score: AP 1 becomes 0.5. Rotate90Left is right for square images only: on others it takes the height for the width,
#   and a second box lies beside each object, by the difference of the two, or is dropped beyond the border: AP 0.52 at
#   96 x 64. VerticalFlip and Rotate90Right are right.
# Here: a test mirrors a batch and compares both its pixels and its boxes.
# (odach asks for torchvision, too, but does not import it: hence --no-deps. Torch's build for the CPU is enough.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 numba==0.68.1 torch==2.13.0 pycocotools==2.0.11
venv/bin/pip install --quiet --no-deps odach==0.4.0
cat > check.py <<'EOF'
import contextlib
import io
import json
import random
import warnings
from importlib.metadata import version
from pathlib import Path

import odach
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

warnings.filterwarnings("ignore", module="odach")  # it warns of boxes beyond the border, which it has put there
torch.set_num_threads(1)
print(*(f"{name} {version(name).split('+')[0]}" for name in ("odach", "torch", "pycocotools")))


def detector(images):
    """The box around what is bright in each image, always with the same score: right whichever way it is turned."""
    out = []
    for image in images:
        y, x = torch.nonzero(image[0] > 0.5, as_tuple=True)
        box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        out.append({"boxes": box[None], "scores": torch.tensor([0.9]), "labels": torch.tensor([1.0])})
    return out


def picture(width, height, box):
    image = torch.zeros(1, 3, height, width)
    image[:, :, box[1] : box[3], box[0] : box[2]] = 1
    return image


def fused(image, changes):
    """[box, score] of what is found in the image and in the changed ones."""
    with contextlib.redirect_stdout(io.StringIO()):
        (out,) = odach.TTAWrapper(detector, changes)(image)
    rows = zip(out["boxes"].round().int().tolist(), out["scores"].tolist(), strict=True)
    return [[box, round(score, 2)] for box, score in rows]


def ap(width, height, changes):
    """AP of that detector on 40 images with one object each."""
    place = random.Random(0)
    images, objects, found = [], [], []
    for i in range(1, 41):
        x, y = place.randrange(width - 28), place.randrange(height - 12)
        box = [x, y, x + 28, y + 12]
        images.append({"id": i, "file_name": f"{i}.jpg", "width": width, "height": height})
        objects.append({"id": i, "image_id": i, "category_id": 1, "bbox": [x, y, 28, 12], "area": 336, "iscrowd": 0})
        for (x1, y1, x2, y2), score in fused(picture(width, height, box), changes):
            found.append({"image_id": i, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    coco = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "bar"}]}
    Path("truth.json").write_text(json.dumps(coco))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO("truth.json")
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 2), len(found)


CHANGES = {
    "Multiply": lambda: [odach.Multiply(0.9)],
    "VerticalFlip": lambda: [odach.VerticalFlip()],
    "HorizontalFlip": lambda: [odach.HorizontalFlip()],
    "Rotate90Right": lambda: [odach.Rotate90Right()],
    "Rotate90Left": lambda: [odach.Rotate90Left()],
}
# the batch as HorizontalFlip changes it, four pixels 1 2 / 3 4
pixels = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
mirrored = odach.HorizontalFlip().batch_augment(pixels)[0, 0].int().tolist()
print("HorizontalFlip of 1 2 / 3 4:", mirrored)
assert mirrored == [[3, 4], [1, 2]]
box, seen = [4, 8, 32, 20], {}
for size in ((64, 64), (96, 64)):
    print(f"{size[0]} x {size[1]}, one object {box}; AP and detections of 40 images with one each")
    for name, make in CHANGES.items():
        rows = fused(picture(*size, box), make())
        seen[size, name] = rows, ap(*size, make())
        print(f"  {name}: {rows}; AP {seen[size, name][1][0]}, {seen[size, name][1][1]} detections")

once = [[box, 0.9]], (1.0, 40)
for (size, name), result in seen.items():
    if name == "HorizontalFlip":
        other = [size[0] - box[2], size[1] - box[3], size[0] - box[0], size[1] - box[1]]
        assert sorted(result[0]) == sorted([[box, 0.45], [other, 0.45]]) and result[1][0] < 0.7 and result[1][1] > 70
    elif name == "Rotate90Left" and size[0] != size[1]:
        assert result[0] == [[box, 0.45]] and result[1][0] < 0.7 and result[1][1] > 70
    else:
        assert result == once
EOF
OMP_NUM_THREADS=1 venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   odach 0.4.0 torch 2.13.0 pycocotools 2.0.11
#   HorizontalFlip of 1 2 / 3 4: [[3, 4], [1, 2]]
#   64 x 64, one object [4, 8, 32, 20]; AP and detections of 40 images with one each
#     Multiply: [[[4, 8, 32, 20], 0.9]]; AP 1.0, 40 detections
#     VerticalFlip: [[[4, 8, 32, 20], 0.9]]; AP 1.0, 40 detections
#     HorizontalFlip: [[[32, 44, 60, 56], 0.45], [[4, 8, 32, 20], 0.45]]; AP 0.5, 80 detections
#     Rotate90Right: [[[4, 8, 32, 20], 0.9]]; AP 1.0, 40 detections
#     Rotate90Left: [[[4, 8, 32, 20], 0.9]]; AP 1.0, 40 detections
#   96 x 64, one object [4, 8, 32, 20]; AP and detections of 40 images with one each
#     Multiply: [[[4, 8, 32, 20], 0.9]]; AP 1.0, 40 detections
#     VerticalFlip: [[[4, 8, 32, 20], 0.9]]; AP 1.0, 40 detections
#     HorizontalFlip: [[[64, 44, 92, 56], 0.45], [[4, 8, 32, 20], 0.45]]; AP 0.5, 80 detections
#     Rotate90Right: [[[4, 8, 32, 20], 0.9]]; AP 1.0, 40 detections
#     Rotate90Left: [[[4, 8, 32, 20], 0.45]]; AP 0.52, 78 detections
