#!/usr/bin/env bash
# Guess: pycocoedit's sample(n) gives n images, each time others; BoxAreaFilter goes by the area of boxes, as it says;
#   coco_to_yolo puts the asked part of the images into test and val and names both in the data set's YAML file.
# Really: pycocoedit picks n of all images and then removes those without objects (of the classes that a filter left):
#   of 200 images, 60 with dogs, sample(40) of the dogs gives 12. It keeps nothing but the picked ones, so that a second
#   sample, for validation, has the same images as the first. BoxAreaFilter compares "area", that of the outline: a pole
#   that lies aslant, 2000 pixels in a box of 40000, is dropped by min_area=10000. coco_to_yolo picks with repetition:
#   test_ratio 0.5 puts 78 of 200 images into test in place of 100, 0.3 and 0.3 are 54 and 52 in place of 60; without a
#   test part its YAML file has no val, though images are taken from train for it. Nothing is said.
# Here: parts are lists of image ids, whose sizes and overlap are asserted.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet pyyaml==6.0.3 tqdm==4.67.1 typing-extensions==4.15.0 pycocoedit==0.0.1 coco-to-yolo==1.2.1
cat > check.py <<'EOF'
import contextlib
import io
import json
import random
import sys
from importlib.metadata import version
from pathlib import Path

import yaml
from coco_to_yolo import main
from pycocoedit.objectdetection.data import CocoData
from pycocoedit.objectdetection.filter import BoxAreaFilter, CategoryNameFilter, FilterType

print(*(f"{name} {version(name)}" for name in ("pycocoedit", "coco-to-yolo")))
IMAGES, DOGS = 200, 60
images = [{"id": i, "file_name": f"{i:03}.jpg", "width": 640, "height": 480} for i in range(1, IMAGES + 1)]
objects = []
for one in images:  # a person in each image, a dog in the first ones
    for number in (1, 2) if one["id"] <= DOGS else (1,):
        objects.append({"id": len(objects) + 1, "image_id": one["id"], "category_id": number, "iscrowd": 0,
                        "area": 1200, "bbox": [100 * number, 20, 30, 40], "segmentation": []})
classes = [{"id": 1, "name": "person", "supercategory": ""}, {"id": 2, "name": "dog", "supercategory": ""}]
coco = {"images": images, "annotations": objects, "categories": classes}


def ids(data):
    return {one["id"] for one in data["images"]}


# 1: samples
random.seed(0)
print(f"pycocoedit, {IMAGES} images, {DOGS} of them with dogs: images in sample(40)")
whole = ids(CocoData(coco).sample(40))
data = CocoData(coco).add_filter(CategoryNameFilter(FilterType.INCLUSION, ["dog"]))
dogs = ids(data.sample(40))
print(f"  without a filter {len(whole)}, of dogs {len(dogs)}")
assert len(whole) == 40 and 5 < len(dogs) < 20
print("images in two samples of one data set, and in both")
for size in (20, 40):
    data = CocoData(coco)
    train = ids(data.sample(size))
    val = ids(data.sample(size))
    print(f"  sample({size}) twice: {len(train)}, {len(val)}, {len(train & val)}")
    assert train == val and len(train) == size

# 2: areas
pole = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [100, 100, 200, 200], "area": 2000,
        "segmentation": [[100, 100, 110, 100, 300, 300, 290, 300]]}  # a parallelogram, 10 wide and 200 high
data = CocoData({**coco, "annotations": [pole]}).add_filter(BoxAreaFilter(FilterType.INCLUSION, min_area=10000))
left = data.apply_filter().get_dataset()["annotations"]
print(f"a box of 200 x 200 after BoxAreaFilter(min_area=10000): {len(left)} objects")
assert left == [] and pole["bbox"][2] * pole["bbox"][3] == 40000

# 3: parts
Path("in", "annotations").mkdir(parents=True)
Path("in", "images").mkdir()
Path("in", "annotations", "all.json").write_text(json.dumps(coco))
for one in images:
    Path("in", "images", one["file_name"]).touch()  # they are copied, never read
print(f"coco_to_yolo, {IMAGES} images: in the folders train, test, valid; those that the YAML file names, and as what")
for test, val in ((0.1, 0.1), (0.5, 0.0), (0.3, 0.3), (0.0, 0.3)):
    name = f"t{test}v{val}"
    sys.argv = ["coco_to_yolo", "in", ".", "--dataset_name", name, "--test_ratio", str(test), "--val_ratio", str(val)]
    random.seed(0)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main()
    parts = {one: {path.name for path in Path(name, "images", one).glob("*.jpg")} for one in ("train", "test", "valid")}
    file = yaml.safe_load(Path(f"{name}.yaml").read_text())
    named = {key: Path(file[key]).name for key in ("train", "test", "val") if key in file}
    sizes = [len(part) for part in parts.values()]
    print(f"  test_ratio {test}, val_ratio {val}: {sizes}, {named}")
    assert sum(sizes) == len(set.union(*parts.values())) == IMAGES
    assert sizes[1] < test * IMAGES or not test
    assert ("val" in named) == bool(test)
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   pycocoedit 0.0.1 coco-to-yolo 1.2.1
#   pycocoedit, 200 images, 60 of them with dogs: images in sample(40)
#     without a filter 40, of dogs 12
#   images in two samples of one data set, and in both
#     sample(20) twice: 20, 20, 20
#     sample(40) twice: 40, 40, 40
#   a box of 200 x 200 after BoxAreaFilter(min_area=10000): 0 objects
#   coco_to_yolo, 200 images: in the folders train, test, valid; those that the YAML file names, and as what
#     test_ratio 0.1, val_ratio 0.1: [162, 18, 20], {'train': 'train', 'test': 'test', 'val': 'valid'}
#     test_ratio 0.5, val_ratio 0.0: [122, 78, 0], {'train': 'train', 'val': 'test'}
#     test_ratio 0.3, val_ratio 0.3: [94, 54, 52], {'train': 'train', 'test': 'test', 'val': 'valid'}
#     test_ratio 0.0, val_ratio 0.3: [146, 0, 54], {'train': 'train'}
