#!/usr/bin/env bash
# Guess: boxlab puts two COCO files together class by class, an export to YOLO gives each object the number of its class
#   in data.yaml, and each entry of a COCO file names the picture that it describes.
# Really: a class that only the second file has keeps its id there, though the first has another class under it: with
#   person 1, car 2 and dog 1, bicycle 2, both counted from 1 as usual, the merged data set has the classes dog and
#   bicycle, and all persons are dogs, all cars bicycles. In YOLO an object has its id minus 1, and 0 for id 0, but
#   data.yaml the places in the sorted list: with ids 0, 1, 2 the first two classes become one, and the third gets the
#   second's name; of COCO's own 80 ids 69 get another class's name or none. And with a split, pictures of one name in
#   two sources are written under it into one folder if they fall into different parts: only the first is copied, the
#   other's boxes lie on it. Nothing is said. With ids that do not collide, ids from 1 without gaps and naming="prefix"
#   it is right.
# Here: classes are compared by id and name when files are read; pictures are never renamed or copied.
# (boxlab asks for streamlit, plotly and more for its window, which is not opened here: hence --no-deps.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
export HOME="$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==1.26.4 pandas==2.3.3 matplotlib==3.10.7 pillow==12.3.0 pyyaml==6.0.3 \
  pycocotools==2.0.11
venv/bin/pip install --quiet --no-deps boxlab==0.1.4
cat > check.py <<'EOF'
import contextlib
import io
import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import boxlab.dataset.plugins.coco  # as its command does: without these two it knows no format
import boxlab.dataset.plugins.yolo
import yaml
from boxlab.dataset.io import SplitRatio, export_dataset, load_dataset, merge
from PIL import Image
from pycocotools.coco import COCO

print(*(f"{name} {version(name)}" for name in ("boxlab", "pycocotools")))
COUNT, SIZE = 40, 64
GREY = {"first": 50, "second": 200}  # each source's pictures


def write(folder, classes):
    """A COCO file with pictures of one grey, one object in each; an object's width says which of the classes it is."""
    Path(folder, "images").mkdir(parents=True)
    for i in range(COUNT):
        Image.new("L", (SIZE, SIZE), GREY.get(folder, 0)).save(Path(folder, "images", f"{i:03}.png"))
    ids = list(classes)
    Path(folder, "all.json").write_text(json.dumps({
        "images": [{"id": i + 1, "file_name": f"{i:03}.png", "width": SIZE, "height": SIZE} for i in range(COUNT)],
        "annotations": [{"id": i + 1, "image_id": i + 1, "category_id": ids[i % len(ids)], "iscrowd": 0, "area": 100,
                         "bbox": [4, 4, 10, 10]} for i in range(COUNT)],
        "categories": [{"id": number, "name": name} for number, name in classes.items()],
    }))
    return load_dataset(f"{folder}/all.json", name=folder, format="coco")


def classes_of(path):
    """How many objects of each class a COCO file has, and its classes."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)
    names = {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())}
    return dict(Counter(names[one["category_id"]] for one in coco.loadAnns(coco.getAnnIds()))), names


# 1: merged
print(f"merged, {COUNT // 2} objects of each class in each file")
TOWN = {1: "person", 2: "car"}
first = write("first", TOWN)
for other in ({1: "dog", 2: "bicycle"}, {3: "dog", 4: "bicycle"}):
    folder = "second" if 1 in other else "third"
    second = write(folder, other)
    together = merge(first, second)
    export_dataset(together, f"merged {folder}", format="coco", naming="prefix")
    counts, names = classes_of(f"merged {folder}/annotations_train.json")
    print(f"  {TOWN} and {other}: classes {names},\n    objects {counts}")
    if folder == "second":
        assert names == other and counts == {"dog": COUNT, "bicycle": COUNT}
    else:
        assert names == {**TOWN, **other} and set(counts.values()) == {COUNT // 2}

# 2: YOLO
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
print("YOLO: class of the objects by data.yaml")
for name, numbers in (
    ("ids 1, 2, 3", [1, 2, 3]),
    ("ids 0, 1, 2", [0, 1, 2]),
    ("COCO's 80 ids", [i for i in range(1, 91) if i not in GAPS]),
):
    folder = f"ids {len(numbers)} {numbers[0]}"
    words = ["person", "car", "dog"] if len(numbers) == 3 else [f"class {i}" for i in numbers]
    seen = {}
    COUNT = len(numbers)
    data = write(folder, dict(zip(numbers, words, strict=True)))
    export_dataset(data, f"yolo {folder}", format="yolo")
    listed = yaml.safe_load(Path(f"yolo {folder}", "data.yaml").read_text())["names"]
    for i, word in enumerate(words):
        (line,) = Path(f"yolo {folder}", "labels", "train", f"{i:03}.txt").read_text().splitlines()
        seen[word] = listed.get(int(line.split()[0]))
    right = sum(word == got for word, got in seen.items())
    none = sum(got is None for got in seen.values())
    print(f"  {name}: {right} right, {len(seen) - right - none} another, {none} none",
          f"{seen if len(seen) == 3 else ''}".strip())
    assert len(listed) == len(numbers)
    if numbers == [0, 1, 2]:
        assert seen == {"person": "person", "car": "person", "dog": "car"}
    elif len(numbers) == 80:
        assert right == 11 and none == 9
    else:
        assert right == 3
COUNT = 40

# 3: pictures of one name
print("pictures whose entry in a COCO file is the other source's, with a split into three parts")
together = merge(load_dataset("first/all.json", name="first", format="coco"),
                 load_dataset("third/all.json", name="third", format="coco"))
GREY["third"] = 0
source = {**dict.fromkeys(TOWN.values(), "first"), "dog": "third", "bicycle": "third"}
for naming in ("original", "prefix"):
    export_dataset(together, naming, format="coco", naming=naming, seed=0,
                   split_ratio=SplitRatio(train=0.5, val=0.25, test=0.25))
    wrong, entries, parts = 0, 0, {}
    for part in ("train", "val", "test"):
        file = json.loads(Path(naming, f"annotations_{part}.json").read_text())
        names = {one["id"]: one["name"] for one in file["categories"]}
        files = {one["id"]: one["file_name"] for one in file["images"]}
        for one in file["annotations"]:
            grey = Image.open(Path(naming, "images", files[one["image_id"]])).getpixel((0, 0))
            entries += 1
            wrong += grey != GREY[source[names[one["category_id"]]]]
    written = len(list(Path(naming, "images").iterdir()))
    print(f"  naming {naming}: {wrong} of {entries}, {written} pictures written")
    assert entries == 2 * COUNT
    assert (wrong, written) == (0, entries) if naming == "prefix" else wrong > 10 and written < entries - 10
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   boxlab 0.1.4 pycocotools 2.0.11
#   merged, 20 objects of each class in each file
#     {1: 'person', 2: 'car'} and {1: 'dog', 2: 'bicycle'}: classes {1: 'dog', 2: 'bicycle'},
#       objects {'dog': 40, 'bicycle': 40}
#     {1: 'person', 2: 'car'} and {3: 'dog', 4: 'bicycle'}: classes {1: 'person', 2: 'car', 3: 'dog', 4: 'bicycle'},
#       objects {'person': 20, 'car': 20, 'dog': 20, 'bicycle': 20}
#   YOLO: class of the objects by data.yaml
#     ids 1, 2, 3: 3 right, 0 another, 0 none {'person': 'person', 'car': 'car', 'dog': 'dog'}
#     ids 0, 1, 2: 1 right, 2 another, 0 none {'person': 'person', 'car': 'person', 'dog': 'car'}
#     COCO's 80 ids: 11 right, 60 another, 9 none
#   pictures whose entry in a COCO file is the other source's, with a split into three parts
#     naming original: 26 of 80, 54 pictures written
#     naming prefix: 0 of 80, 80 pictures written
