#!/usr/bin/env bash
# Guess: sahi cuts a COCO data set into tiles for training on small objects, crowds and areas included; or it leaves the
#   crowds out, since it logs of each that it "is skipped".
# Really: what is skipped is the mask (RLE, as all of COCO's crowds have it). The crowd's box stays and becomes an
#   ordinary object, iscrowd 0, one in each tile that it touches, and of the tile's whole size where it covers it. Single
#   objects inside of it, which an evaluation passes over, now are false detections: AP 1 becomes 0.1. Without
#   a polygon `area` is replaced by that of the box, so that an object with an area of 800 counts as medium, not small.
# Here: crowds are kept as such until the evaluation and never are targets; `area` is the file's own.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 opencv-python-headless==5.0.0.93 shapely==2.1.2 pycocotools==2.0.11 \
  click==8.5.1 fire==0.7.1 matplotlib==3.10.8 pillow==12.2.0 pyyaml==6.0.4 requests==2.34.2 tqdm==4.70.1
venv/bin/pip install --quiet --no-deps sahi==0.12.8 # it asks for an OpenCV with windows
venv/bin/python - 2> log <<'END' || { cat log; exit 1; }
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sahi.slicing import slice_coco
from sahi.utils.coco import Coco

print(*(f"{name} {version(name)}" for name in ("sahi", "shapely", "pycocotools")))
KEYS = ("image_id", "bbox", "area", "iscrowd")
Path("images").mkdir()
Image.new("RGB", (128, 128)).save("images/street.jpg")
# A crowd in the lower half, as a mask; a dog at the top whose mask fills half of its box.
rest = {"image_id": 1, "category_id": 1}
given = {
    "images": [{"id": 1, "file_name": "street.jpg", "width": 128, "height": 128}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [
        {
            **rest, "id": 1, "bbox": [0, 64, 128, 64], "area": 8192, "iscrowd": 1,
            "segmentation": {"size": [128, 128], "counts": [64] * 256},
        },
        {**rest, "id": 2, "bbox": [10, 10, 40, 40], "area": 800, "iscrowd": 0, "segmentation": []},
    ],
}
Path("given.json").write_text(json.dumps(given))


def shown(annotations):
    return [{key: a[key] for key in KEYS} for a in annotations]


def ap(truth, detections):
    """AP, and those of small and medium objects, of boxes by image and score."""
    Path("truth.json").write_text(json.dumps(truth))
    found = [
        {"image_id": i, "category_id": 1, "bbox": list(box), "score": score} for i, box, score in detections
    ]
    Path("found.json").write_text(json.dumps(found))
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO("truth.json")
        evaluation = COCOeval(gt, gt.loadRes("found.json"), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [round(float(evaluation.stats[i]), 4) for i in (0, 3, 4)]


read = Coco.from_coco_dict_or_path("given.json").json
found = [(1, (10, 10, 40, 40), 0.8), *((1, (10 + 20 * i, 80, 16, 30), 0.9) for i in range(4))]
before, after = ap(given, found), ap(read, found)
print("given:          ", shown(given["annotations"]), "AP, small, medium", before)
print("read and written:", shown(read["annotations"]), "AP, small, medium", after)
assert [a["iscrowd"] for a in read["annotations"]] == [0, 0] and read["annotations"][1]["area"] == 1600
assert before == [1, 1, -1] and after == [0.101, -1, 0.505]

with contextlib.redirect_stdout(io.StringIO()):
    tiles, _ = slice_coco(
        "given.json", "images", output_coco_annotation_file_name="tiles", output_dir="tiles",
        slice_height=64, slice_width=64, overlap_height_ratio=0, overlap_width_ratio=0,
    )
print("tiles:", shown(tiles["annotations"]))
whole = [a for a in tiles["annotations"] if a["bbox"] == [0, 0, 64, 64]]
assert len(whole) == 2 and not any(a["iscrowd"] for a in tiles["annotations"])
assert "is skipped since RLE segmentation format is not supported" in Path("log").read_text()
END
grep -m 1 -o 'Segmentation annotation.*supported' log
# Seen (Python 3.11, Linux, x86-64):
#   sahi 0.12.8 shapely 2.1.2 pycocotools 2.0.11
#   given:           [{'image_id': 1, 'bbox': [0, 64, 128, 64], 'area': 8192, 'iscrowd': 1}, {'image_id': 1, 'bbox': [10, 10, 40, 40], 'area': 800, 'iscrowd': 0}] AP, small, medium [1.0, 1.0, -1.0]
#   read and written: [{'image_id': 1, 'bbox': [0.0, 64.0, 128.0, 64.0], 'area': 8192, 'iscrowd': 0}, {'image_id': 1, 'bbox': [10.0, 10.0, 40.0, 40.0], 'area': 1600, 'iscrowd': 0}] AP, small, medium [0.101, -1.0, 0.505]
#   tiles: [{'image_id': 1, 'bbox': [10.0, 10.0, 40.0, 40.0], 'area': 1600, 'iscrowd': 0}, {'image_id': 3, 'bbox': [0.0, 0.0, 64.0, 64.0], 'area': 4096, 'iscrowd': 0}, {'image_id': 4, 'bbox': [0.0, 0.0, 64.0, 64.0], 'area': 4096, 'iscrowd': 0}]
#   Segmentation annotation for id 1 is skipped since RLE segmentation format is not supported
