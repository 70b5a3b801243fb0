#!/usr/bin/env bash
# Guess: `coco-split --seed 5` of echo1-coco-split draws other images than its default, 11, into the same three parts.
# Really: with any `--seed` all images are in the train file, and no valid or test file is written. The option makes 5 a
#   5.0, which scikit-learn refuses, and a bare `except` takes that for "no such part wanted"
#   (echo1_coco_split/echo1_coco_split.py). It says only what it saved, and ends with 0. Files of a run before stay: all
#   of their images are then in the train file, too, and a test by them is one on training images. Without `--seed` it
#   is right, and so is its Python function with a whole number as seed.
# Here: the parts are counted by their image ids, with pycocotools.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet echo1-coco-split==0.1.5 funcy==1.18 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1 \
    pycocotools==2.0.11
venv/bin/python - <<'EOF'
import contextlib
import io
import json
import subprocess
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path

from echo1_coco_split.echo1_coco_split import main
from pycocotools.coco import COCO

print(*(f"{name} {version(name)}" for name in ("echo1-coco-split", "scikit-learn", "pycocotools")))
NAMES = {part: f"{part}.json" for part in ("train", "valid", "test")}
IDS = range(1, 101)
Path("all.json").write_text(json.dumps({
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 80, "height": 60} for i in IDS],
    "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 30, 20], "area": 600, "iscrowd": 0}
                    for i in IDS],
    "categories": [{"id": 1, "name": "car"}]}))


def parts():
    """The image ids in the files that are there."""
    with contextlib.redirect_stdout(io.StringIO()):
        return {part: set(COCO(name).getImgIds()) for part, name in NAMES.items() if Path(name).exists()}


def split(*options, test=0.1, keep=False):
    """The parts after one call; files of the one before are removed unless they are to be kept."""
    if not keep:
        [Path(name).unlink(missing_ok=True) for name in NAMES.values()]
    command = ["venv/bin/coco-split", "--annotations_file=all.json", "--valid_ratio=0.2", f"--test_ratio={test}"]
    done = subprocess.run(command + list(options), check=True, capture_output=True, text=True)
    assert not done.stderr and all(line.startswith("Saved ") for line in done.stdout.splitlines())
    return parts()


def sizes(found):
    return {part: len(ids) for part, ids in found.items()}


RIGHT, ALL = {"train": 70, "valid": 20, "test": 10}, {"train": 100}
default = split()
print(f"no seed: {sizes(default)}")
assert sizes(default) == RIGHT and split() == default
for seed in (0, 5, 11):
    found = split(f"--seed={seed}")
    print(f"--seed {seed}: {sizes(found)}")
    assert sizes(found) == ALL
for options in ((), ("--seed=5",)):
    found = split(*options, test=0)
    print(f"without a test part, {' '.join(options) or 'no seed'}: {sizes(found)}")
    assert sizes(found) == (ALL if options else {"train": 80, "valid": 20})

split()
found = split("--seed=5", keep=True)
shared = {part: len(found["train"] & found[part]) for part in ("valid", "test")}
print(f"no seed, then --seed 5 beside it: {sizes(found)}, also in train {shared}")
assert shared == {"valid": 20, "test": 10}

for seed in (5, 11):
    with contextlib.redirect_stdout(io.StringIO()):
        main(Namespace(annotations_file="all.json", valid_ratio=0.2, test_ratio=0.1, has_annotations=False, seed=seed,
                       **{f"{part}_name": name for part, name in NAMES.items()}))
    found = parts()
    print(f"its function with the seed {seed}: {sizes(found)}, the default's parts: {found == default}")
    assert sizes(found) == RIGHT and (found == default) == (seed == 11)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   echo1-coco-split 0.1.5 scikit-learn 1.9.1 pycocotools 2.0.11
#   no seed: {'train': 70, 'valid': 20, 'test': 10}
#   --seed 0: {'train': 100}
#   --seed 5: {'train': 100}
#   --seed 11: {'train': 100}
#   without a test part, no seed: {'train': 80, 'valid': 20}
#   without a test part, --seed=5: {'train': 100}
#   no seed, then --seed 5 beside it: {'train': 100, 'valid': 20, 'test': 10}, also in train {'valid': 20, 'test': 10}
#   its function with the seed 5: {'train': 70, 'valid': 20, 'test': 10}, the default's parts: False
#   its function with the seed 11: {'train': 70, 'valid': 20, 'test': 10}, the default's parts: True
