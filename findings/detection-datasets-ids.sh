#!/usr/bin/env bash
# Guess: detection-datasets reads a COCO data set of two files, train and val, and writes it again with the same images
#   and objects in each.
# Really: images are told apart by their id alone. Where both files count from 1, as many tools write them, the val
#   images are gone and their objects lie on the train images of the same number: a dog where there is none; there is
#   one part left, nothing is said. With ids of their own the images stay, but `to_disk("coco", ...)` writes all images
#   and objects into the file of each part: whoever trains on its train file has seen all of val, and both files name
#   the images as they were called before, while they lie there by number. Written as YOLO the parts are right.
# Here: each part's names of images are compared with the other parts', and the objects with the file they are from.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
export HOME="$room"  # it makes a folder there
python3 -m venv venv
venv/bin/pip install --quiet numpy==1.26.4 pandas==1.5.3 pyarrow==17.0.0 datasets==2.21.0 huggingface-hub==0.36.0 \
  pillow==13.0.0 pycocotools==2.0.11 detection-datasets==0.3.8
cat > check.py <<'EOF'
import contextlib
import io
import json
import warnings
from importlib.metadata import version
from pathlib import Path

from detection_datasets import DetectionDataset
from PIL import Image
from pycocotools.coco import COCO

warnings.filterwarnings("ignore")
print(*(f"{name} {version(name)}" for name in ("detection-datasets", "pycocotools")))


def part(name, count, first, category):
    """A COCO file of `count` images from the id `first` on with one object each; the images, too."""
    Path(name).mkdir(exist_ok=True)
    images = [{"id": first + i, "file_name": f"{name}{i}.jpg", "width": 640, "height": 480} for i in range(count)]
    for image in images:
        Image.new("RGB", (640, 480)).save(f"{name}/{image['file_name']}")
    objects = [
        {"id": first + i, "image_id": first + i, "category_id": category, "bbox": [10 * category, 20, 50 + i, 40],
         "area": 40 * (50 + i), "iscrowd": 0}
        for i in range(count)
    ]
    classes = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    Path(f"{name}.json").write_text(json.dumps({"images": images, "annotations": objects, "categories": classes}))


def objects(path):
    """What a COCO file says, by pycocotools: (name of the image, class, box) of each object, and all names."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(path)
    rows = [(data.imgs[one["image_id"]]["file_name"], data.cats[one["category_id"]]["name"], tuple(one["bbox"]))
            for one in data.dataset["annotations"]]
    return sorted(rows), {image["file_name"] for image in data.imgs.values()}


seen = {}
for title, first in {"val from 1, too": 1, "val from 101": 101}.items():
    part("train", 6, 1, 1)
    part("val", 3, first, 2)
    read = {name: objects(f"{name}.json") for name in ("train", "val")}
    out = Path("out") / title.replace(" ", "-").replace(",", "")
    out.mkdir(parents=True)
    with contextlib.redirect_stdout(io.StringIO()):
        data = DetectionDataset().from_disk(
            dataset_format="coco", path=".", splits={"train": ("train.json", "train"), "val": ("val.json", "val")}
        )
        counts = data.n_images, data.n_bbox, data.splits
        data.to_disk("coco", "coco", str(out))
        data.to_disk("yolo", "yolo", str(out))
        del data  # it prints a line then
    print(f"{title}: of 9 images with 9 objects {counts[0]} with {counts[1]}, parts {counts[2]}")
    kept = {}
    for name in counts[2]:
        rows, names = objects(out / f"coco/annotations/instances_{name}.json")
        alien = [row for row in rows if row not in read[name][0]]
        lying = {path.name for path in (out / "coco" / name).iterdir()}
        yolo = len(list((out / "yolo/labels" / name).iterdir()))
        kept[name] = len(names), len(rows), len(alien), len(names & lying), yolo
        print(f"  {name}: {len(names)} images, {len(rows)} objects, not in the {name} file before {len(alien)}, "
              f"images there under their names {len(names & lying)}; YOLO: {yolo} images")
    print("  one of them:", alien[0])
    seen[title] = counts, kept, alien[0]

assert seen["val from 1, too"][:2] == ((6, 9, ["train"]), {"train": (6, 9, 3, 0, 6)})
assert seen["val from 1, too"][2] == ("train0.jpg", "dog", (20, 20, 50, 40))
both = {"train": (9, 9, 3, 0, 6), "val": (9, 9, 6, 0, 3)}
assert seen["val from 101"][:2] == ((9, 9, ["train", "val"]), both)
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   detection-datasets 0.3.8 pycocotools 2.0.11
#   val from 1, too: of 9 images with 9 objects 6 with 9, parts ['train']
#     train: 6 images, 9 objects, not in the train file before 3, images there under their names 0; YOLO: 6 images
#     one of them: ('train0.jpg', 'dog', (20, 20, 50, 40))
#   val from 101: of 9 images with 9 objects 9 with 9, parts ['train', 'val']
#     train: 9 images, 9 objects, not in the train file before 3, images there under their names 0; YOLO: 6 images
#     val: 9 images, 9 objects, not in the val file before 6, images there under their names 0; YOLO: 3 images
#     one of them: ('train0.jpg', 'person', (10, 20, 50, 40))
