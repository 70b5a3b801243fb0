#!/usr/bin/env bash
# Guess: coco_merge puts COCO data sets together, each picture with its licence, and leaves the data sets alone.
# Really: licences are numbered anew, but the pictures' numbers are looked for under `license_id`; COCO's field, and
#   that of the package's own writer, is `license`: pictures of the second set get other licences, a non-commercial one
#   became plain attribution, one of which none is known became non-commercial. Two pictures of one name, 000001.jpg of
#   each set, become one, with the size of the first and the objects of both. And the data sets that are handed over are
#   changed: their objects get the new numbers of the classes, their lists of classes only where a class is new. A set
#   with a dog has a person afterwards, and a set with three cats that is merged with another one later brings three
#   persons. Copies handed over are merged right.
# Here: judged by names: the licence of each picture and the classes of the objects, before and after.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pillow==13.0.0 pycocotools==2.0.11 pycocowriter==0.5.6
venv/bin/python - <<'EOF'
from collections import Counter
from copy import deepcopy
from importlib.metadata import version

from pycocowriter.coco import COCOImage
from pycocowriter.cocomerge import coco_merge

print("pycocowriter", version("pycocowriter"))


def data_set(licences, classes, pictures, objects):
    """COCO: licences and classes by name, pictures as (name, width, height, licence), objects as (picture, class)."""
    return {
        "licenses": [{"id": i, "name": name, "url": ""} for i, name in enumerate(licences, start=1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, start=1)],
        "images": [
            {"id": i, "file_name": name, "width": width, "height": height, "license": licences.index(licence) + 1}
            for i, (name, width, height, licence) in enumerate(pictures, start=1)
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": classes.index(name) + 1, "bbox": [0, 0, 9, 9], "area": 81}
            for i, (image, name) in enumerate(objects, start=1)
        ],
    }


def licences(data):
    names = {one["id"]: one["name"] for one in data["licenses"]}
    return {image["file_name"]: names[image["license"]] for image in data["images"]}


def classes(data):
    names = {one["id"]: one["name"] for one in data["categories"]}
    return dict(Counter(names.get(one["category_id"], f"none ({one['category_id']})") for one in data["annotations"]))


FIRST = data_set(
    ["attribution", "non-commercial"],
    ["person", "dog"],
    [("000001.jpg", 640, 480, "attribution"), ("a.jpg", 640, 480, "non-commercial")],
    [(1, "person"), (2, "dog")],
)
SECOND = data_set(
    ["non-commercial", "none known"],
    ["cat", "dog", "person"],
    [
        ("000001.jpg", 200, 100, "non-commercial"),
        ("b.jpg", 640, 480, "non-commercial"),
        ("c.jpg", 640, 480, "none known"),
    ],
    [(1, "cat"), (2, "cat"), (3, "cat")],
)
DOGS = data_set(["attribution"], ["cat", "dog", "person"], [("d.jpg", 640, 480, "attribution")], [(1, "dog")])
own = COCOImage(1, "a.jpg", width=9, height=9, license=2).to_dict()
print("the field that its own writer uses:", [key for key in own if "license" in key])

both = coco_merge(deepcopy(FIRST), deepcopy(SECOND))
before = licences(FIRST) | {name: licence for name, licence in licences(SECOND).items() if name not in licences(FIRST)}
for name, licence in licences(both).items():
    print(f"{name}: licence was {before[name]!r}, is {licence!r}")
same = next(image for image in both["images"] if image["file_name"] == "000001.jpg")
on_it = sum(one["image_id"] == same["id"] for one in both["annotations"])
size = f"{same['width']} x {same['height']}"
print(f"000001.jpg of 640 x 480 with one object, of 200 x 100 with one: {size} with {on_it} objects")

handed = deepcopy(SECOND)
coco_merge(deepcopy(FIRST), handed)
again = {"a copy": coco_merge(deepcopy(SECOND), deepcopy(DOGS)), "the same": coco_merge(handed, deepcopy(DOGS))}
after = {title: classes(data) for title, data in again.items()}
print(f"the second set merged with a third afterwards: a copy {after['a copy']}, itself {after['the same']}")
dogs = deepcopy(DOGS)
two = data_set(["attribution"], ["person", "cat", "dog"], [("e.jpg", 640, 480, "attribution")], [(1, "cat")])
coco_merge(deepcopy(two), dogs)
print(f"a set with one dog, after a merge: {classes(dogs)}")

assert before["b.jpg"] == "non-commercial" and licences(both)["b.jpg"] == "attribution"
assert before["c.jpg"] == "none known" and licences(both)["c.jpg"] == "non-commercial"
assert on_it == 2 and size == "640 x 480" and [key for key in own if "license" in key] == ["license"]
assert after["a copy"] == {"cat": 3, "dog": 1} and after["the same"] != after["a copy"]
assert after["the same"] == {"person": 3, "dog": 1} and classes(dogs) == {"person": 1}
EOF
# Seen (Python 3.11, Linux, x86-64):
#   pycocowriter 0.5.6
#   the field that its own writer uses: ['license']
#   000001.jpg: licence was 'attribution', is 'attribution'
#   a.jpg: licence was 'non-commercial', is 'non-commercial'
#   b.jpg: licence was 'non-commercial', is 'attribution'
#   c.jpg: licence was 'none known', is 'non-commercial'
#   000001.jpg of 640 x 480 with one object, of 200 x 100 with one: 640 x 480 with 2 objects
#   the second set merged with a third afterwards: a copy {'cat': 3, 'dog': 1}, itself {'person': 3, 'dog': 1}
#   a set with one dog, after a merge: {'person': 1}
