#!/usr/bin/env bash
# Guess: cocojson's merge takes the objects of the wanted categories (`cids`) into the new file, its sample_by_class as
#   many images of each category as the list `class_ks` says for it.
# Really: whether an object is taken depends on the last category of the file, not on that of the object: if the last one
#   is not wanted, or gets another number, all images come along and none of the objects, as if they were
#   background. sample_by_class goes through the list in the order in which categories first appear among the
#   annotations, not that of `categories`: 8 images of dogs in place of 8 of people. No word of either; with all
#   categories, and with objects sorted by category, it is as one would guess.
# Here: objects and images are counted per class on both sides of any such step.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 opencv-python-headless==5.0.0.93 pillow==13.0.0 tqdm==4.70.1
venv/bin/pip install --quiet --no-deps cocojson==0.1.1 # it asks for an OpenCV with windows
venv/bin/python - <<'EOF'
import contextlib
import io
import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from cocojson.tools.merge import merge
from cocojson.tools.sample import sample_by_class
from PIL import Image

print("cocojson", version("cocojson"))
NAMES = {1: "person", 2: "car", 3: "dog"}
Path("images").mkdir()
for i in range(1, 31):
    Image.new("RGB", (32, 32)).save(f"images/{i}.jpg")


def data_set(labels):
    """A COCO file of 30 images with an object each."""
    numbered = list(enumerate(labels, start=1))
    coco = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 32, "height": 32} for i, _ in numbered],
        "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in NAMES.items()],
        "annotations": [
            {"id": i, "image_id": i, "category_id": label, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
            for i, label in numbered
        ],
    }
    Path("set.json").write_text(json.dumps(coco))


def quiet(call, *given, **named):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        call(*given, **named)


def counted(path):
    """Number of images, and of objects by the name of their class."""
    coco = json.loads(Path(path).read_text())
    names = {c["id"]: c["name"] for c in coco["categories"]}
    objects = Counter(names[a["category_id"]] for a in coco["annotations"])
    return len(coco["images"]), {name: objects[name] for name in names.values()}


seen = {}
data_set([3, 1, 2] * 10)
for wanted in ([1, 2, 3], [1, 2], [1], [3]):
    quiet(merge, ["set.json"], ["images"], "merged", cids=[wanted])
    seen[tuple(wanted)] = counted("merged/merged.json")
    print(f"merge, categories {wanted}: images {seen[tuple(wanted)][0]}, objects {seen[tuple(wanted)][1]}")
assert seen[1, 2, 3] == (30, {"person": 10, "car": 10, "dog": 10})
assert seen[1, 2] == (30, {"person": 0, "car": 0})
assert seen[1,] == (30, {"person": 0}) and seen[3,] == (30, {"dog": 0})

for name, labels in (("sorted by category", sorted([3, 1, 2] * 10)), ("a dog first", [3, 1, 2] * 10)):
    data_set(labels)
    quiet(sample_by_class, "set.json", "images", "sampled", class_ks=[8, 2, 1])
    seen[name] = counted("sampled/set.json")
    print(f"sample_by_class, 8 people, 2 cars, 1 dog, {name}: {seen[name][1]}")
assert seen["sorted by category"] == (11, {"person": 8, "car": 2, "dog": 1})
assert seen["a dog first"] == (11, {"person": 2, "car": 1, "dog": 8})
EOF
# Seen (Python 3.11, Linux, x86-64):
#   cocojson 0.1.1
#   merge, categories [1, 2, 3]: images 30, objects {'person': 10, 'car': 10, 'dog': 10}
#   merge, categories [1, 2]: images 30, objects {'person': 0, 'car': 0}
#   merge, categories [1]: images 30, objects {'person': 0}
#   merge, categories [3]: images 30, objects {'dog': 0}
#   sample_by_class, 8 people, 2 cars, 1 dog, sorted by category: {'person': 8, 'car': 2, 'dog': 1}
#   sample_by_class, 8 people, 2 cars, 1 dog, a dog first: {'person': 2, 'car': 1, 'dog': 8}
