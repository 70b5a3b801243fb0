#!/usr/bin/env bash
# Guess: the `area` of an object in the COCO file that image-dataset-converter writes is that of its outline or its box.
# Really: it is width times height of the whole image (`to-coco-od`; idc/writer/objdet/_coco.py), also if the file that
#   it read was COCO with the right areas. So all objects are large in images of more than 96 x 96 pixels: AP and AR of
#   small and of medium objects are -1 ("none there"), and those of large ones are a mixture of all: a detector that
#   finds all large objects and no other has 0.34 in place of 1, one that finds nothing but small ones 0.34 in place of
#   0. In tiles of 90 x 90 pixels all are medium, in those of 30 x 30 small. Boxes, and AP over all sizes, are right.
# Here: pycocotools by the file that it read and by the one that it wrote. A package that it asks for (pyzfp, for depth
#   maps) could not be built here, so the others are named one by one; it leaves those formats out.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet setuptools==80.9.0 wheel==0.45.1 numpy==2.4.6 opencv-python-headless==5.0.0.93 \
    matplotlib==3.11.2 shapely==2.2.0 pillow==13.0.0 imagesize==2.0.1 defusedxml==0.7.1 platformdirs==4.14.8 \
    javaproperties==0.8.2 typing-inspect==0.9.0 python-dotenv==1.2.4 watchdog==7.1.0 croniter==7.0.0 pycocotools==2.0.11
venv/bin/pip install --quiet --no-deps --no-build-isolation image-dataset-converter==0.1.0 seppl==0.3.1 \
    kasperl==0.0.3 wai_logging==0.0.8 wai_common==0.0.46 python_image_complete==0.0.6 simple_palette_utils==0.0.4 \
    fast_opex==0.0.4
# it keeps a folder in the home folder
HOME="$room" PATH="$room/venv/bin:$PATH" python - <<'EOF'
import contextlib
import io
import json
import subprocess
from importlib.metadata import version
from pathlib import Path

from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("image-dataset-converter", "pycocotools")))
SIDES = {"small": 20, "medium": 60, "large": 150}


def convert(name, width, height, sides):
    """A COCO file of four images with a row of square objects in each, and what is made of it."""
    Path(name).mkdir()
    data = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "car"}],
            "licenses": [{"id": 1, "name": "none", "url": "none"}]}
    for i in range(1, 5):
        Image.new("RGB", (width, height)).save(f"{name}/{i}.png")
        data["images"].append({"id": i, "file_name": f"{i}.png", "width": width, "height": height, "license": 1})
        x = 5
        for side in sides:
            outline = [x, 5, x + side, 5, x + side, 5 + side, x, 5 + side]
            data["annotations"].append({
                "id": len(data["annotations"]) + 1, "image_id": i, "category_id": 1, "iscrowd": 0,
                "bbox": [x, 5, side, side], "area": side**2, "segmentation": [outline]})
            x += side + 5
    Path(name, "truth.json").write_text(json.dumps(data))
    command = ["idc-convert", "from-coco-od", "-i", f"{name}/truth.json", "to-coco-od", "-o", f"{name}/out"]
    subprocess.run(command, check=True, capture_output=True)


def by_size(path, kind):
    """AP over all, and that of small, medium and large objects, if those of one kind are found, all of them."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        found = [{"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.9}
                 for a in truth.dataset["annotations"] if a["bbox"][2] == SIDES[kind]]
        run = COCOeval(truth, truth.loadRes(found), "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
    return [round(float(run.stats[k]), 2) for k in (0, 3, 4, 5)]


convert("street", 400, 300, SIDES.values())
for k, kind in enumerate(SIDES):
    read, written = (by_size(path, kind) for path in ("street/truth.json", "street/out/annotations.json"))
    print(f"{kind} ones found: AP, small, medium, large {read}; as written {written}")
    assert read == [0.34] + [float(k == n) for n in range(3)] and written == [0.34, -1, -1, 0.34]

convert("tile", 90, 90, [20])
convert("stamp", 30, 30, [20])
for name, size in (("street", (400, 300)), ("tile", (90, 90)), ("stamp", (30, 30))):
    first = json.loads(Path(name, "out", "annotations.json").read_text())["annotations"][0]
    print(f"{size[0]} x {size[1]}: box {first['bbox']}, area {first['area']}")
    assert first["bbox"] == [5, 5, 20, 20] and first["area"] == size[0] * size[1]
EOF
# Seen (Python 3.11, Linux, x86-64):
#   image-dataset-converter 0.1.0 pycocotools 2.0.11
#   small ones found: AP, small, medium, large [0.34, 1.0, 0.0, 0.0]; as written [0.34, -1.0, -1.0, 0.34]
#   medium ones found: AP, small, medium, large [0.34, 0.0, 1.0, 0.0]; as written [0.34, -1.0, -1.0, 0.34]
#   large ones found: AP, small, medium, large [0.34, 0.0, 0.0, 1.0]; as written [0.34, -1.0, -1.0, 0.34]
#   400 x 300: box [5, 5, 20, 20], area 120000.0
#   90 x 90: box [5, 5, 20, 20], area 8100.0
#   30 x 30: box [5, 5, 20, 20], area 900.0
