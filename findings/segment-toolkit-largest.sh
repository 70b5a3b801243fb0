#!/usr/bin/env bash
# Guess: segment-toolkit's mask-to-yolo writes a box for each object of a mask, with --rotated one that fits an object
#   that lies aslant; an image takes its own mask, and its class from --ground-truth, be it a CSV or a JSON file.
# Really: it writes one box, that of the largest object: of 58 objects on 20 images 20 are left (mask-to-polygon beside
#   it writes all). With --rotated the sides of the turned box are written without its angle, so that an upright box of
#   another shape comes out: IoU 0.05 to 0.15 for a bar, straight or not, in place of 0.98 to 1. An image without a mask
#   takes that of another one whose name begins with its own: img_1 gets the object of img_10. Class names of one's own
#   are classes 0, 1, 2 in a CSV file, all 0 in JSON. Nothing is said.
# Here: labels are read from COCO files only; the number of objects before and after a conversion is compared.
# (It asks for opencv-python, which needs a window system's libraries: hence --no-deps and the headless one.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
export HOME="$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pandas==2.3.3 matplotlib==3.10.7 pillow==12.3.0 typer==0.21.0
venv/bin/pip install --quiet --no-deps opencv-python-headless==5.0.0.93 segment-toolkit==1.2.0
cat > check.py <<'EOF'
import json
import math
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

print(*(f"{name} {version(name)}" for name in ("segment-toolkit", "opencv-python-headless")))
WIDTH, HEIGHT = 640, 480
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]


def save(folder, masks, without=()):
    """A grey image for each mask, and the mask unless it is left out."""
    Path(folder, "images").mkdir(parents=True)
    Path(folder, "masks").mkdir()
    for name, mask in masks.items():
        Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(Path(folder, "images", f"{name}.png"))
        if name not in without:
            Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(Path(folder, "masks", f"{name}.png"))


def convert(folder, command="mask-to-yolo", *options):
    """Lines of the labels that the package's own command writes, by image."""
    out = Path(folder, "_".join(["labels", command, *options]))
    subprocess.run(["venv/bin/segment-toolkit", command, "--image-dir", f"{folder}/images", "--mask-dir",
                    f"{folder}/masks", "--output-dir", str(out), *options], check=True, capture_output=True)
    return {path.stem: [line.split() for line in path.read_text().splitlines()] for path in sorted(out.glob("*.txt"))}


def iou(line, mask):
    """IoU of a YOLO box with the box around all of a mask."""
    y, x = np.nonzero(mask)
    a = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    cx, cy, w, h = (float(v) * n for v, n in zip(line[1:], (WIDTH, HEIGHT, WIDTH, HEIGHT), strict=True))
    inner = max(0, min(a[2], cx + w / 2) - max(a[0], cx - w / 2))
    inner *= max(0, min(a[3], cy + h / 2) - max(a[1], cy - h / 2))
    return round(float(inner / ((a[2] - a[0]) * (a[3] - a[1]) + w * h - inner)), 2)


# 1: several objects
pick = np.random.default_rng(0)
masks, count = {f"m{i:02}": np.zeros((HEIGHT, WIDTH), bool) for i in range(20)}, 0
for mask in masks.values():
    for place in pick.permutation(6)[: pick.integers(1, 6)]:  # six places that do not touch
        x, y, size = 20 + place % 3 * 210, 20 + place // 3 * 230, pick.integers(30, 181)
        mask[y : y + size, x : x + size] = True
        count += 1
save("several", masks)
lines = {command: convert("several", command) for command in ("mask-to-yolo", "mask-to-polygon")}
print(f"20 masks, {count} objects:", *(f"{name} {sum(map(len, one.values()))}" for name, one in lines.items()))
assert [len(one) for one in lines["mask-to-yolo"].values()] == [1] * 20
assert sum(map(len, lines["mask-to-polygon"].values())) == count > 40

# 2: a bar that lies aslant
bars = {}
for degrees in (0, 30, 45, 60):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    along, across = (COLUMNS - 320) * c + (ROWS - 240) * s, (ROWS - 240) * c - (COLUMNS - 320) * s
    bars[f"at{degrees:02}"] = (abs(along) < 150) & (abs(across) < 12)
save("bars", bars)
print("a bar of 300 x 24: IoU with the box around it, without and with --rotated")
upright, rotated = convert("bars"), convert("bars", "mask-to-yolo", "--rotated")
for name, mask in bars.items():
    values = [iou(found[name][0], mask) for found in (upright, rotated)]
    print(f"  {name[2:]} degrees: {values}, {len(rotated[name][0])} numbers")
    assert values[0] > 0.97 and len(rotated[name][0]) == 5 and values[1] < 0.2

# 3: masks and classes by name
box = np.zeros((HEIGHT, WIDTH), bool)
box[200:300, 100:250] = True
save("names", {"img_1": box, "img_10": box, "img_2": box}, without=("img_1",))
found = convert("names")
print("masks for img_10 and img_2: labels", {name: len(one) for name, one in found.items()})
assert found["img_1"] == found["img_10"] and len(found) == 3
truth = {"img_10": "dog", "img_2": "bird"}
rows = [{"image": name, **{word: int(word == own) for word in ("cat", "dog", "bird")}} for name, own in truth.items()]
Path("rows.csv").write_text("\n".join(",".join(map(str, line)) for line in (rows[0], *(row.values() for row in rows))))
Path("rows.json").write_text(json.dumps(rows))
Path("names.json").write_text(json.dumps(truth))
for file in ("rows.csv", "rows.json", "names.json"):
    found = convert("names", "mask-to-yolo", "--ground-truth", file)
    classes = {name: int(found[name][0][0]) for name in truth}
    print(f"  {truth} in {file}: {classes}")
    assert list(classes.values()) == ([1, 2] if file == "rows.csv" else [0, 0])
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   segment-toolkit 1.2.0 opencv-python-headless 5.0.0.93
#   20 masks, 58 objects: mask-to-yolo 20 mask-to-polygon 58
#   a bar of 300 x 24: IoU with the box around it, without and with --rotated
#     00 degrees: [0.98, 0.05], 5 numbers
#     30 degrees: [1.0, 0.11], 5 numbers
#     45 degrees: [1.0, 0.11], 5 numbers
#     60 degrees: [1.0, 0.15], 5 numbers
#   masks for img_10 and img_2: labels {'img_1': 1, 'img_10': 1, 'img_2': 1}
#     {'img_10': 'dog', 'img_2': 'bird'} in rows.csv: {'img_10': 1, 'img_2': 2}
#     {'img_10': 'dog', 'img_2': 'bird'} in rows.json: {'img_10': 0, 'img_2': 0}
#     {'img_10': 'dog', 'img_2': 'bird'} in names.json: {'img_10': 0, 'img_2': 0}
