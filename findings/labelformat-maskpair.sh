#!/usr/bin/env bash
# Guess: labelformat's `maskpair` reads pictures of masks, and the COCO file that it writes of them shows these masks.
# Really: it has two ways, and neither gives objects to find. With polygons (the default) the outline is followed twice
#   round, so that each point stands in it two times: inside and outside cancel out, and pycocotools (which COCO's
#   evaluation uses) makes a mask of 0 pixels of every polygon. With `rle` the masks are right, but each one is written
#   as a crowd, which evaluation passes over. Right masks then score 0 or -1 in place of 1, and nothing is said. The box
#   of a polygon is a pixel short in width and height; the one of `rle` is right.
# Here: judged by pycocotools; ids and areas of objects, which labelformat does not write, are added by hand.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
mkdir images masks
python3 -m venv venv
venv/bin/pip install --quiet labelformat==0.1.17 numpy==2.4.6 pillow==13.0.0 pycocotools==2.0.11
venv/bin/python - <<'EOF'
import contextlib
import copy
import io
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from labelformat.formats import COCOInstanceSegmentationOutput, MaskPairInstanceSegmentationInput
from PIL import Image
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("labelformat", "pycocotools", "numpy")))
SIZE = 64
y, x = np.mgrid[:SIZE, :SIZE]
real = {
    "rectangle": (x >= 10) & (x < 40) & (y >= 10) & (y < 30),
    "disc": (x - 30) ** 2 + (y - 30) ** 2 <= 20**2,
    "corner": (x >= 10) & (x < 50) & (y >= 10) & (y < 50) & ((x < 20) | (y >= 40)),
}
for name, mask in real.items():
    Image.new("RGB", (SIZE, SIZE)).save(f"images/{name}.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(f"masks/{name}.png")


def written(kind):
    """The COCO file that labelformat makes of the masks."""
    source = MaskPairInstanceSegmentationInput(
        image_glob="images/*.png", mask_glob="masks/*.png", category_names="thing", segmentation_type=kind)
    COCOInstanceSegmentationOutput(output_file=Path("out.json")).save(label_input=source)
    return json.loads(Path("out.json").read_text())


def ap(data):
    """AP of the right masks against the file."""
    data = copy.deepcopy(data)  # pycocotools writes into it
    names = {image["id"]: Path(image["file_name"]).stem for image in data["images"]}
    truth, found = COCO(), COCO()
    for i, one in enumerate(data["annotations"], start=1):
        one.update(id=i, area=int(real[names[one["image_id"]]].sum()))
    truth.dataset = data
    found.dataset = dict(data, annotations=[
        {"id": i, "image_id": image, "category_id": 0, "score": 1, "iscrowd": 0, "area": int(real[name].sum()),
         "segmentation": masks.encode(np.asfortranarray(real[name].astype(np.uint8)))}
        for i, (image, name) in enumerate(names.items(), start=1)])
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        judge = COCOeval(truth, found, "segm")
        for step in (judge.evaluate, judge.accumulate, judge.summarize):
            step()
    return judge.stats[0], {names[one["image_id"]]: truth.annToMask(one) for one in data["annotations"]}


polygons, runs = written("polygon"), written("rle")
score, drawn = ap(polygons)
for one, name in zip(polygons["annotations"], sorted(real), strict=True):
    points = np.array(one["segmentation"][0]).reshape(-1, 2)
    half = len(points) // 2
    once = masks.decode(masks.merge(masks.frPyObjects([points[:half].ravel().tolist()], SIZE, SIZE))).astype(bool)
    share = (once & real[name]).sum() / (once | real[name]).sum()
    print(f"{name}: {real[name].sum()} pixels; {len(points)} points draw {drawn[name].sum()}, the first {half} draw "
          f"{once.sum()} (IoU {share:.2f}); box {one['bbox']}")
    assert drawn[name].sum() == 0 and (points[:half] == points[half:]).all() and share > 0.8
print(f"polygons: AP of the right masks {score:.2f}")
assert score == 0
crowds, (score, drawn) = [one["iscrowd"] for one in runs["annotations"]], ap(runs)
same = [bool((drawn[name] == real[name]).all()) for name in sorted(real)]
print(f"rle: iscrowd {crowds}, masks right {same}, AP of the right masks {score:.2f}")
assert all(crowds) and all(same) and score == -1
score, _ = ap(dict(runs, annotations=[dict(one, iscrowd=0) for one in runs["annotations"]]))
print(f"rle with iscrowd set to 0 by hand: AP of the right masks {score:.2f}; box {runs['annotations'][2]['bbox']}")
assert score > 0.999
EOF
# Seen (Python 3.11, Linux, x86-64):
#   labelformat 0.1.17 pycocotools 2.0.11 numpy 2.4.6
#   corner: 700 pixels; 310 points draw 0, the first 155 draw 622 (IoU 0.89); box [10.0, 10.0, 39.0, 39.0]
#   disc: 1257 pixels; 224 points draw 0, the first 112 draw 1200 (IoU 0.94); box [10.0, 10.0, 40.0, 40.0]
#   rectangle: 600 pixels; 192 points draw 0, the first 96 draw 551 (IoU 0.92); box [10.0, 10.0, 29.0, 19.0]
#   polygons: AP of the right masks 0.00
#   rle: iscrowd [True, True, True], masks right [True, True, True], AP of the right masks -1.00
#   rle with iscrowd set to 0 by hand: AP of the right masks 1.00; box [10.0, 10.0, 30.0, 20.0]
