#!/usr/bin/env bash
# Guess: with `string_to_match` the evaluation of pyodi counts only the images whose file names match, as its help says.
# Really: it finds these images and logs their number, and then evaluates all images as before. It puts their ids into
#   an attribute of COCOeval that nobody reads (`image_ids`, not `params.imgIds`; pyodi/apps/evaluation.py). So the AP
#   by day, that at night and that of a pattern which fits no image are one number: here 0.505 in place of 1.0, 0.0
#   and none. Comparing a model on two kinds of images with it shows that there is no difference, whatever there is.
# Here: the ids go into `params.imgIds` of pycocotools by hand. pyodi asks for packages that are older than Python 3.11
#   (numpy 1.22.1), so it is installed without them; the pattern is lost in its own code.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pandas==3.0.3 pycocotools==2.0.11 loguru==0.7.3
venv/bin/pip install --quiet --no-deps pyodi==0.0.9
venv/bin/python - <<'EOF'
import contextlib
import io
import json
import re
from importlib.metadata import version

from loguru import logger
from pyodi.apps.evaluation import evaluation
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("pyodi", "pycocotools")))
CAR, ELSEWHERE = [10, 10, 50, 50], [110, 110, 50, 50]
NAMES = {i: f"{'day' if i <= 10 else 'night'}_{i}.jpg" for i in range(1, 21)}

# twenty images with a car each, which is found by day and never at night
truth = {
    "images": [{"id": i, "file_name": name, "width": 200, "height": 200} for i, name in NAMES.items()],
    "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": CAR, "area": 2500, "iscrowd": 0} for i in NAMES],
    "categories": [{"id": 1, "name": "car"}],
}
found = [{"image_id": i, "category_id": 1, "score": 0.9, "bbox": CAR if NAMES[i].startswith("day") else ELSEWHERE}
         for i in NAMES]
for name, data in (("truth", truth), ("found", found)):
    with open(f"{name}.json", "w") as file:
        json.dump(data, file)


def ap_pyodi(pattern):
    """AP at IoU 0.5 in what pyodi prints, and what it logs."""
    text, log = io.StringIO(), []
    logger.remove()
    logger.add(lambda message: log.append(message.record["message"]))
    with contextlib.redirect_stdout(text):
        evaluation("truth.json", "found.json", pattern)
    line = next(line for line in text.getvalue().splitlines() if "(AP)" in line and "IoU=0.50      " in line)
    return float(line.split("=")[-1]), log


def ap_by_hand(pattern):
    with contextlib.redirect_stdout(io.StringIO()):
        all_images = COCO("truth.json")
        run = COCOeval(all_images, all_images.loadRes("found.json"), "bbox")
        run.params.imgIds = [i for i, name in NAMES.items() if re.match(pattern, name)]
        run.evaluate(), run.accumulate(), run.summarize()
    return round(float(run.stats[1]), 3)


EXPECTED = {"day": (10, 1.0), "night": (10, 0.0), "(day|night)": (20, 0.505), "night_20": (1, 0.0)}
everything, log = ap_pyodi(None)
print(f"no pattern: AP50 {everything}")
assert everything == 0.505 and not log
for pattern, (number, right) in EXPECTED.items():
    ap, log = ap_pyodi(pattern)
    print(f"{pattern}: log {log}, AP50 {ap}; pycocotools with these images {ap_by_hand(pattern)}")
    assert log == [f"Number of filtered_ids: {number}"] and ap == everything and ap_by_hand(pattern) == right
ap, log = ap_pyodi("fog")
print(f"fog: log {log}, AP50 {ap}")
assert log == ["Number of filtered_ids: 0"] and ap == everything
EOF
# Seen (Python 3.11, Linux, x86-64):
#   pyodi 0.0.9 pycocotools 2.0.11
#   no pattern: AP50 0.505
#   day: log ['Number of filtered_ids: 10'], AP50 0.505; pycocotools with these images 1.0
#   night: log ['Number of filtered_ids: 10'], AP50 0.505; pycocotools with these images 0.0
#   (day|night): log ['Number of filtered_ids: 20'], AP50 0.505; pycocotools with these images 0.505
#   night_20: log ['Number of filtered_ids: 1'], AP50 0.505; pycocotools with these images 0.0
#   fog: log ['Number of filtered_ids: 0'], AP50 0.505
