#!/usr/bin/env bash
# Guess: rectangles, circles and polygons drawn in LabelMe stay where they are when pylabelme2yolo makes YOLO labels of
#   them, and go along with the image when labelme-augmentor mirrors it.
# Really: LabelMe notes a rectangle by two corners, a circle by its middle and a point of its edge. pylabelme2yolo takes
#   them for the whole outline: with --output_format polygon, which its README shows, a rectangle is a line of four
#   numbers, in YOLO centre and size of a box: IoU 0.15. A circle becomes the box between its two points, IoU 0 to 0.12.
#   In labelme2yolo all are right. labelme-augmentor mirrors rectangles, polygons and points alone: circles stay
#   where the thing was before, IoU 0, and what it mirrors lies one pixel aside, IoU 0.82 for a box of 10 pixels.
#   Nothing is said.
# Here: labels are boxes; an augmentation is checked with coloured pixels that must lie in their boxes afterwards.
# (labelme-augmentor asks for opencv-python, which needs a window system's libraries: hence --no-deps.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pillow==12.3.0 tqdm==4.67.1 typer==0.21.0 labelme2yolo==0.4.0 \
  opencv-python-headless==5.0.0.93
venv/bin/pip install --quiet --no-deps pylabelme2yolo==0.1.2 labelme-augmentor==0.1.1
cat > check.py <<'EOF'
import json
import math
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

print(*(f"{name} {version(name)}" for name in ("pylabelme2yolo", "labelme2yolo", "labelme-augmentor")))
WIDTH, HEIGHT = 640, 480


def write(folder, things):
    """A picture with a colour for each thing, and what LabelMe writes for them; the boxes around the colours."""
    Path(folder).mkdir()
    image = Image.new("RGB", (WIDTH, HEIGHT))
    draw, shapes = ImageDraw.Draw(image), []
    for i, (name, (kind, points)) in enumerate(things.items()):
        (x1, y1), (x2, y2) = points[:2]
        r = math.dist((x1, y1), (x2, y2))
        where = {"rectangle": (x1, y1, x2 - 1, y2 - 1), "circle": (x1 - r, y1 - r, x1 + r - 1, y1 + r - 1)}
        paint = {"rectangle": draw.rectangle, "circle": draw.ellipse, "polygon": draw.polygon}[kind]
        paint(where.get(kind, points), fill=(i + 1, 0, 0))
        shapes.append({"label": name, "points": points, "shape_type": kind, "group_id": None, "flags": {}})
    file = "a.png" if folder == "mirror" else "a.jpg"
    image.save(Path(folder, file))
    Path(folder, "a.json").write_text(json.dumps({"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": file,
                                                  "imageData": None, "imageWidth": WIDTH, "imageHeight": HEIGHT}))
    Path(folder, "classes.txt").write_text("".join(f"{i}: {name}\n" for i, name in enumerate(things)))
    return {name: drawn(image, i) for i, name in enumerate(things)}


def drawn(image, i):
    y, x = np.nonzero(np.asarray(image)[..., 0] == i + 1)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def iou(a, b):
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return round(float(inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)), 2)


def run(command, *arguments):
    subprocess.run([f"venv/bin/{command}", *arguments], check=True, capture_output=True)


def yolo(line):
    """The box of a YOLO line: centre and size, or an outline of three points or more."""
    v = [float(part) for part in line.split()[1:]]
    if len(v) == 4:
        v = [v[0] - v[2] / 2, v[1] - v[3] / 2, v[0] + v[2] / 2, v[1] + v[3] / 2]
    return [min(v[::2]) * WIDTH, min(v[1::2]) * HEIGHT, max(v[::2]) * WIDTH, max(v[1::2]) * HEIGHT]


# 1: YOLO
boxes = {"plate": ("rectangle", [(100, 80), (400, 120)]), "door": ("rectangle", [(250, 150), (350, 400)])}
balls = {"ball": ("circle", [(180, 400), (210, 440)]), "wheel": ("circle", [(500, 240), (550, 240)])}
print("IoU of a YOLO label with the thing")
for kind, things in (("rectangles", boxes), ("circles", balls)):
    true = write(kind, things)
    for form in ("bbox", "polygon"):
        run("pylabelme2yolo", "--json_dir", kind, "--output_format", form, "--val_size", "0")
        run("labelme2yolo", "-d", kind, "-o", f"{kind} {form}", "--output_format", form, "--val_size", "0", *things)
        values = []
        for labels in (f"{kind}/data", f"{kind} {form}"):
            (path,) = Path(labels, "labels", "train").glob("*.txt")
            lines = sorted(path.read_text().splitlines())
            values.append([iou(yolo(line), box) for line, box in zip(lines, true.values(), strict=True)])
        print(f"  {kind}, {form}: pylabelme2yolo {values[0]}, labelme2yolo {values[1]}")
        assert min(values[1]) > 0.95
        assert min(values[0]) == 1 if (kind, form) == ("rectangles", "bbox") else max(values[0]) < 0.5

# 2: mirrored images
things = {**boxes, **balls, "kite": ("polygon", [(40, 200), (120, 260), (60, 330)]),
          "nut": ("rectangle", [(600, 20), (610, 30)])}
write("mirror", things)
run("labelme-augmentor", "--src_dir", "mirror", "--dist_dir", "out", "--num_aug", "20")
print("IoU of a label with the thing in the mirrored image")
for path in (Path("out", "a_fliph.json"), Path("out", "a_flipv.json")):
    image, values = Image.open(path.with_suffix(".png")), {}
    for i, shape in enumerate(json.loads(path.read_text())["shapes"]):
        p = np.array(shape["points"])
        p = np.array([p[0] - math.dist(*p), p[0] + math.dist(*p)]) if shape["shape_type"] == "circle" else p
        values[shape["label"]] = iou([*p.min(0), *p.max(0)], drawn(image, i))
    print(f"  {path.stem}: {values}")
    assert values["nut"] < 0.9 and min(values[name] for name in ("plate", "door", "kite")) > 0.9
    assert values["ball"] < 0.1 and (path.stem == "a_flipv" or values["wheel"] < 0.1)  # half-way up for the wheel
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   pylabelme2yolo 0.1.2 labelme2yolo 0.4.0 labelme-augmentor 0.1.1
#   IoU of a YOLO label with the thing
#     rectangles, bbox: pylabelme2yolo [1.0, 1.0], labelme2yolo [1.0, 1.0]
#     rectangles, polygon: pylabelme2yolo [0.15, 0.14], labelme2yolo [1.0, 1.0]
#     circles, bbox: pylabelme2yolo [0.12, 0.0], labelme2yolo [1.0, 1.0]
#     circles, polygon: pylabelme2yolo [0.11, 0.08], labelme2yolo [1.0, 1.0]
#   IoU of a label with the thing in the mirrored image
#     a_fliph: {'plate': 0.99, 'door': 0.98, 'ball': 0.0, 'wheel': 0.0, 'kite': 0.98, 'nut': 0.82}
#     a_flipv: {'plate': 0.95, 'door': 0.99, 'ball': 0.0, 'wheel': 1.0, 'kite': 0.98, 'nut': 0.82}
