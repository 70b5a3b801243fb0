#!/usr/bin/env bash
# Guess: coco-assistant puts COCO data sets of a folder together: classes by name, new ones under ids of their own.
# Really: a new class gets the number of classes plus one. Where the ids of the first set have gaps that
#   number may be another class: with COCO's own 80 classes (ids to 90) the first new one is 81, which is the sink. Both
#   stand in the file under one id, so that pycocotools takes them for one class: AP is 1 for a net that calls every sink
#   a scooter and every scooter a sink (with ids from 1 to 80 it is 0).
#   A set is left out altogether if its folder sorts otherwise than its file: `street` comes before `street-night`,
#   `street-night.json` before `street.json`, so that both are missing from the merged file. No word of either.
# Here: a COCO file with one id twice among its classes is refused; images and objects are counted before and after.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pandas==2.3.3 matplotlib==3.11.2 seaborn==0.13.2 pillow==13.0.0 tqdm==4.70.1 \
  requests==2.34.2 pycocotools==2.0.11
venv/bin/pip install --quiet --no-deps coco-assistant==0.4.0 # it asks for mkdocs and for a pandas that knows no numpy 2
venv/bin/python - <<'EOF'
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

from coco_assistant import COCO_Assistant
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("coco-assistant", "pycocotools")))
# The ids that COCO gives to its 80 classes; 81 is its sink.
COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
BOX = [10, 10, 40, 40]


def data_set(classes, labels):
    """A COCO file of one image per object; classes are names by id."""
    ids = range(1, len(labels) + 1)
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 64} for i in ids],
        "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in classes.items()],
        "annotations": [
            {"id": i, "image_id": i, "category_id": label, "bbox": BOX, "area": 1600, "iscrowd": 0}
            for i, label in zip(ids, labels, strict=True)
        ],
    }


def merged(name, sets):
    room = Path(name)
    for part, coco in sets.items():
        (room / "images" / part).mkdir(parents=True)
        (room / "annotations").mkdir(exist_ok=True)
        (room / "annotations" / f"{part}.json").write_text(json.dumps(coco))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        COCO_Assistant(room / "images", room / "annotations").merge()
    return json.loads((room / "results" / "merged" / "annotations" / "merged.json").read_text())


def ap(coco, named):
    """AP of right boxes, one in each image, which are called so."""
    Path("truth.json").write_text(json.dumps(coco))
    ids = {c["name"]: c["id"] for c in coco["categories"]}
    found = [
        {"image_id": image["id"], "category_id": ids[name], "bbox": BOX, "score": 0.9 - i / 100}
        for i, (image, name) in enumerate(zip(coco["images"], named, strict=True))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO("truth.json")
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 4)


seen = {}
for name, ids in (("ids 1 to 80", range(1, 81)), ("COCO's ids", COCO_IDS)):
    sink = ids[71]
    names = {i: "sink" if i == sink else f"class {i}" for i in ids}
    both = merged(name, {"first": data_set(names, [sink]), "second": data_set({1: "scooter"}, [1])})
    classes = {c["name"]: c["id"] for c in both["categories"] if c["name"] in ("sink", "scooter")}
    aps = ap(both, ["sink", "scooter"]), ap(both, ["scooter", "sink"])
    seen[name] = classes, [a["category_id"] for a in both["annotations"]], aps
    print(f"{name}: {classes}, objects of {seen[name][1]}; AP if named rightly, and exchanged: {aps}")
assert seen["ids 1 to 80"] == ({"sink": 72, "scooter": 81}, [72, 81], (1, 0))
assert seen["COCO's ids"] == ({"sink": 81, "scooter": 81}, [81, 81], (1, 1))

car = {1: "car"}
for name, folders in (("plain names", ("street", "town")), ("one name begins another", ("street", "street-night"))):
    sets = {folders[0]: data_set(car, [1]), folders[1]: data_set(car, [1, 1]), "woods": data_set(car, [1] * 3)}
    both = merged(name, sets)
    seen[name] = len(both["images"]), len(both["annotations"])
    print(f"{name}: {[*sets]} of 1, 2 and 3 images with an object each; images and objects after: {seen[name]}")
assert seen["plain names"] == (6, 6) and seen["one name begins another"] == (3, 3)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   coco-assistant 0.4.0 pycocotools 2.0.11
#   ids 1 to 80: {'sink': 72, 'scooter': 81}, objects of [72, 81]; AP if named rightly, and exchanged: (1.0, 0.0)
#   COCO's ids: {'sink': 81, 'scooter': 81}, objects of [81, 81]; AP if named rightly, and exchanged: (1.0, 1.0)
#   plain names: ['street', 'town', 'woods'] of 1, 2 and 3 images with an object each; images and objects after: (6, 6)
#   one name begins another: ['street', 'street-night', 'woods'] of 1, 2 and 3 images with an object each; images and objects after: (3, 3)
