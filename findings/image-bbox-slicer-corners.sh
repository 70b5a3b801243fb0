#!/usr/bin/env bash
# Guess: image_bbox_slicer with `keep_partial_labels` gives every tile the part of an object that it shows.
# Really: a tile gets the part only if a corner of the object's box lies in it. A tile in the middle of a large object,
#   or between the ends of a long one, gets nothing: a box as large as 3 x 3 tiles that lies over 16 of them is labelled
#   in four, with a ninth of its pixels. The other twelve show the object without a label; by
#   default they are deleted as empty. Objects smaller than a tile are right wherever they lie, but one that ends at
#   the edge of a tile gives a box of width 0 in the next tile. Nothing is said.
# Here: crops clip every box to the window, wherever its corners lie.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet image-bbox-slicer==0.4 pascal-voc-writer==0.1.4 numpy==2.4.6 matplotlib==3.11.2 \
  pillow==13.0.0
MPLBACKEND=Agg venv/bin/python -W ignore - <<'EOF'
import contextlib
import io
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from image_bbox_slicer import Slicer
from pascal_voc_writer import Writer
from PIL import Image

print(*(f"{name} {version(name)}" for name in ("image-bbox-slicer", "pascal-voc-writer", "pillow")))
SIZE, TILE = 400, 100


def sliced(box, **settings):
    """A white object on black, sliced: the image and the boxes of each tile."""
    with TemporaryDirectory() as room, contextlib.redirect_stdout(io.StringIO()):
        images, truth, image_tiles, truth_tiles = (f"{room}/{name}" for name in ("i", "t", "it", "tt"))
        pixels = np.zeros((SIZE, SIZE), np.uint8)
        left, top, right, bottom = box
        pixels[top:bottom, left:right] = 255
        [Path(folder).mkdir() for folder in (images, truth)]
        Image.fromarray(pixels).save(f"{images}/a.png")
        writer = Writer(f"{images}/a.png", SIZE, SIZE)
        writer.addObject("object", *box)
        writer.save(f"{truth}/a.xml")
        slicer = Slicer()
        slicer.keep_partial_labels = True
        for name, value in settings.items():
            setattr(slicer, name, value)
        slicer.config_dirs(images, truth, image_tiles, truth_tiles)
        slicer.slice_by_size((TILE, TILE))
        tiles = []
        for path in sorted(Path(image_tiles).glob("*.png")):
            root = ET.parse(f"{truth_tiles}/{path.stem}.xml").getroot()
            boxes = [[int(v.text) for v in o.find("bndbox")] for o in root.iter("object")]
            tiles.append((np.asarray(Image.open(path)) > 0, boxes))
        return tiles


CASES = {
    "smaller than a tile, inside of one": [20, 20, 80, 80],
    "smaller than a tile, over four": [160, 160, 240, 240],
    "as long as 1.2 tiles, over three": [90, 20, 210, 80],
    "as long as 3.6 tiles": [20, 120, 380, 180],
    "3 x 3 tiles": [50, 50, 350, 350],
    "all of the image": [0, 0, 400, 400],
    "up to the edge of a tile": [40, 20, 100, 80],
}
seen = {}
for name, box in CASES.items():
    tiles = sliced(box, ignore_empty_tiles=False)
    kept = sliced(box)  # tiles without labels are deleted by default
    showing = [(shown, boxes) for shown, boxes in tiles if shown.any()]
    labelled = [(shown, boxes) for shown, boxes in showing if boxes]
    inside = 0
    for shown, boxes in labelled:
        ((left, top, right, bottom),) = boxes
        rows, columns = np.nonzero(shown)  # the box of the white pixels is the right one
        assert [left, top, right, bottom] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        inside += shown.sum()
    share = inside / sum(shown.sum() for shown, _ in tiles)
    flat = [b for shown, boxes in tiles if not shown.any() for b in boxes]
    seen[name] = len(showing), len(labelled), len(kept), flat
    print(f"{name}: in {len(showing)} tiles, labelled in {len(labelled)}, {share:.0%} of the pixels, {len(kept)} kept")
    if flat:
        print(f"  and in a tile that does not show it {flat}")
shown, labelled, kept, flat = (list(column) for column in zip(*seen.values()))
assert (shown, labelled) == ([1, 4, 3, 4, 16, 16, 1], [1, 4, 2, 2, 4, 4, 1])
assert kept == [1, 4, 2, 2, 4, 4, 2]
assert flat == [[]] * 6 + [[[0, 20, 0, 80]]]
EOF
# Seen (Python 3.11, Linux, x86-64):
#   image-bbox-slicer 0.4 pascal-voc-writer 0.1.4 pillow 13.0.0
#   smaller than a tile, inside of one: in 1 tiles, labelled in 1, 100% of the pixels, 1 kept
#   smaller than a tile, over four: in 4 tiles, labelled in 4, 100% of the pixels, 4 kept
#   as long as 1.2 tiles, over three: in 3 tiles, labelled in 2, 17% of the pixels, 2 kept
#   as long as 3.6 tiles: in 4 tiles, labelled in 2, 44% of the pixels, 2 kept
#   3 x 3 tiles: in 16 tiles, labelled in 4, 11% of the pixels, 4 kept
#   all of the image: in 16 tiles, labelled in 4, 25% of the pixels, 4 kept
#   up to the edge of a tile: in 1 tiles, labelled in 1, 100% of the pixels, 2 kept
#     and in a tile that does not show it [[0, 20, 0, 80]]
