#!/usr/bin/env bash
# Guess: `kwcoco split --factor=5 --num_write=5` writes the five splits of a cross-validation, each image is in one of
#   the small parts; `--rng` gives other ones; with `--balance_categories=False` a fifth is taken at random.
# Really: all files have the first split: train0 to train4 are the same, test0 to test4, too, and 80 of 100 images are
#   never tested. The lines that it prints count on from "split 0 / 5" to "split 4 / 5". `--rng` has no effect: the
#   class behind it takes a random state and never asks it, images are dealt out in order. Without balancing half of the
#   images are in the small part, whatever the factor is, as each image is taken for a class of its own. The class
#   itself, with balancing, makes five parts without a common image, as scikit-learn does.
# Here: a check says that no image is in two parts of a data set; there is no cross-validation.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet kwcoco==0.9.1 kwimage==0.12.0 kwarray==0.7.2 ubelt==1.4.3 scikit-learn==1.9.1 numpy==2.4.6
venv/bin/python -W ignore - <<'EOF'
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from kwcoco.cli.coco_split import CocoSplitCLI
from kwcoco.util.util_sklearn import StratifiedGroupKFold as Theirs
from sklearn.model_selection import StratifiedGroupKFold

print(*(f"{name} {version(name)}" for name in ("kwcoco", "kwarray", "scikit-learn")))
random = np.random.default_rng(0)
IMAGES = range(1, 101)
OBJECTS = [(i, int(c)) for i in IMAGES for c in random.integers(1, 4, random.integers(1, 6))]  # image and class
TRUTH = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in IMAGES],
    "categories": [{"id": c, "name": f"class {c}"} for c in (1, 2, 3)],
    "annotations": [
        {"id": n, "image_id": i, "category_id": c, "bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0}
        for n, (i, c) in enumerate(OBJECTS, start=1)
    ],
}
Path("all.json").write_text(json.dumps(TRUTH))


def split(*options, write=1):
    """The image ids of the large and the small part of each written split, and the lines about them."""
    places = ["--src=all.json", "--dst1=train{}.json", "--dst2=test{}.json", f"--num_write={write}"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        CocoSplitCLI.main(argv=[*places, *options])
    parts = [
        [frozenset(i["id"] for i in json.loads(Path(f"{name}{k}.json").read_text())["images"]) for k in range(write)]
        for name in ("train", "test")
    ]
    return *parts, [line for line in said.getvalue().splitlines() if line.startswith("Build split")]


def by_class(splitter):
    images, classes = (np.array(column) for column in zip(*OBJECTS))
    return [frozenset(images[test].tolist()) for _, test in splitter.split(images, classes, groups=images)]


def told(parts):
    return f"{len(set(parts))} different of {len(parts)}, {len(frozenset().union(*parts))} of 100 images in one of them"


train, test, lines = split("--factor=5", write=5)
print(f"small parts, kwcoco split: {told(test)}")
print(f"  it says: {lines[0]!r} ... {lines[-1]!r}")
assert len(set(train)) == len(set(test)) == 1 and len(lines) == 5
assert all(not a & b and a | b == set(IMAGES) for a, b in zip(train, test))
for name, splitter in (
    ("kwcoco's StratifiedGroupKFold", Theirs(5)), ("scikit-learn's StratifiedGroupKFold", StratifiedGroupKFold(5)),
):
    parts = by_class(splitter)
    print(f"small parts, {name}: {told(parts)}")
    assert len(set(parts)) == 5 and sum(map(len, parts)) == 100
seeds = [split("--factor=5", f"--rng={seed}")[1][0] for seed in range(10)]
print(f"small parts of ten seeds, kwcoco split: {told(seeds)}")
shuffled = [by_class(StratifiedGroupKFold(5, shuffle=True, random_state=seed))[0] for seed in range(10)]
print(f"small parts of ten seeds, scikit-learn: {told(shuffled)}")
assert set(seeds) == set(test) and len(set(shuffled)) == 10
for factor in (2, 5, 10):
    sizes = [len(split(f"--factor={factor}", f"--balance_categories={b}")[1][0]) for b in (True, False)]
    print(f"images in the small part, factor {factor}: {sizes[0]} with balancing, {sizes[1]} without")
    assert abs(sizes[0] - 100 / factor) <= 5 and 45 <= sizes[1] <= 55
EOF
# Seen (Python 3.11, Linux, x86-64):
#   kwcoco 0.9.1 kwarray 0.7.2 scikit-learn 1.9.1
#   small parts, kwcoco split: 1 different of 5, 20 of 100 images in one of them
#     it says: 'Build split 0 / 5 with ratio 256:64' ... 'Build split 4 / 5 with ratio 256:64'
#   small parts, kwcoco's StratifiedGroupKFold: 5 different of 5, 100 of 100 images in one of them
#   small parts, scikit-learn's StratifiedGroupKFold: 5 different of 5, 100 of 100 images in one of them
#   small parts of ten seeds, kwcoco split: 1 different of 10, 20 of 100 images in one of them
#   small parts of ten seeds, scikit-learn: 10 different of 10, 85 of 100 images in one of them
#   images in the small part, factor 2: 50 with balancing, 50 without
#   images in the small part, factor 5: 20 with balancing, 50 without
#   images in the small part, factor 10: 10 with balancing, 50 without
