#!/usr/bin/env bash
# Guess: COCO in, COCO out through datumaro, with reindex=False: all ids stay, as those of images and
#   annotations do.
# Really: annotations and images keep theirs, but categories are numbered anew from 1 without gaps, with reindex
#   or not. COCO's own ids have gaps (1 to 90 for 80 classes), so that the first eleven stay right and all later ones
#   move: results written with the ids from before, scored against the new file, count for another class,
#   or for none, and pycocotools says nothing. Right boxes of four classes score 0.25.
# Here: category ids are those of the file that was given; detections go out with the same ids.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 datumaro==1.13.12 pycocotools==2.0.11 pillow==12.2.0
venv/bin/python - 2> log <<'EOF' || { cat log; exit 1; }
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import datumaro
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print("datumaro", version("datumaro"), "pycocotools", version("pycocotools"))
NAMES = {1: "person", 10: "traffic light", 13: "stop sign", 18: "dog"}  # COCO's own ids
Path("given/images/val").mkdir(parents=True)
Path("given/annotations").mkdir()
Image.new("RGB", (640, 480)).save("given/images/val/street.jpg")
annotations = [
    {
        "id": 100 + number, "image_id": 7, "category_id": number, "bbox": [30 * number, 20, 25, 40],
        "area": 1000, "iscrowd": 0, "segmentation": [],
    }
    for number in NAMES
]
given = {
    "images": [{"id": 7, "file_name": "street.jpg", "width": 640, "height": 480}],
    "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
    "annotations": annotations,
}
Path("given/annotations/instances_val.json").write_text(json.dumps(given))
found = [
    {"image_id": 7, "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9} for a in annotations
]
Path("found.json").write_text(json.dumps(found))


def per_class(path):
    """AP of all classes together, and {name: AP}."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        evaluation = COCOeval(truth, truth.loadRes("found.json"), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap = evaluation.eval["precision"][:, :, :, 0, -1].mean((0, 1))
    names = [truth.cats[i]["name"] for i in evaluation.params.catIds]
    return round(float(evaluation.stats[0]), 4), dict(zip(names, ap.round(4).tolist(), strict=True))


print("given:", NAMES, *per_class("given/annotations/instances_val.json"))
for reindex in (False, True):
    folder = f"reindex_{reindex}"
    dataset = datumaro.Dataset.import_from("given", "coco_instances")
    dataset.export(folder, "coco_instances", save_media=False, reindex=reindex)
    path = Path(folder, "annotations", "instances_val.json")
    written = json.loads(path.read_text())
    numbers = {c["id"]: c["name"] for c in written["categories"]}
    ids = [a["id"] for a in written["annotations"]]
    print(f"reindex={reindex}: annotations {ids}, image {written['images'][0]['id']}, categories {numbers}")
    assert numbers == dict(enumerate(NAMES.values(), start=1))
    assert (ids == [a["id"] for a in annotations]) is not reindex
    if reindex:  # the image has another number, too: pycocotools refuses the results
        continue
    total, classes = per_class(path)
    print(f"  AP of the results from before: {total}, {classes}")
    assert total == 0.25 and classes == {"person": 1.0, "traffic light": 0.0, "stop sign": 0.0, "dog": 0.0}
EOF
# Seen (Python 3.11, Linux, x86-64):
#   datumaro 1.13.12 pycocotools 2.0.11
#   given: {1: 'person', 10: 'traffic light', 13: 'stop sign', 18: 'dog'} 1.0 {'person': 1.0, 'traffic light': 1.0, 'stop sign': 1.0, 'dog': 1.0}
#   reindex=False: annotations [101, 110, 113, 118], image 7, categories {1: 'person', 2: 'traffic light', 3: 'stop sign', 4: 'dog'}
#     AP of the results from before: 0.25, {'person': 1.0, 'traffic light': 0.0, 'stop sign': 0.0, 'dog': 0.0}
#   reindex=True: annotations [1, 2, 3, 4], image 1, categories {1: 'person', 2: 'traffic light', 3: 'stop sign', 4: 'dog'}
