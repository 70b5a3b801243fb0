#!/usr/bin/env bash
# Guess: labelimgobb2DOTA-cli turns the four corners of an oriented box into labelImg_OBB's centre, width, height and
#   angle, and back, without changing the box.
# Really: from corners the height is measured from the middle to one side only: every box comes out half as high, IoU
#   0.50, there and back 0.50 again, twice there and back 0.25, three times 0.12. Of a square that is turned the
#   direction cannot be told from its corners' spread, so that some other square or rectangle comes out: at 45 degrees
#   one that lies straight, 1.41 times as wide, IoU 0.60. Nothing is said. From labelImg_OBB to corners alone it is
#   right.
# Here: boxes are not turned; a conversion of labels is checked by going there and back.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pillow==12.3.0 shapely==2.1.2 labelimgobb2dota-converter==0.1.3
cat > check.py <<'EOF'
import math
import subprocess
from importlib.metadata import version
from pathlib import Path

from shapely.geometry import Polygon

print(*(f"{name} {version(name)}" for name in ("labelimgobb2dota-converter", "shapely")))
WIDTH, HEIGHT = 1000, 800  # of the image
BOXES = {  # width, height, degrees clockwise
    "200 x 80, straight": (200, 80, 0), "200 x 80, turned by 30": (200, 80, 30),
    "80 x 200, turned by 30": (80, 200, 30), "square, turned by 45": (100, 100, 45),
}


def corners(x, y, w, h, degrees):
    """The four corners of a box that is turned about its middle, in pixels; x to the right, y downwards."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    halves = ((-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2))
    return [(x + c * a - s * b, y + s * a + c * b) for a, b in halves]


def convert(mode, source, target):
    """All label files of a folder, with the package's own command."""
    subprocess.run(["venv/bin/labelimgobb2DOTA-cli", "--mode", mode, "--input", source, "--output", target, "--width",
                    str(WIDTH), "--height", str(HEIGHT)], check=True, capture_output=True)


def write_corners(folder):
    Path(folder).mkdir()
    lines = []
    for box in TRUTH.values():
        parts = (f"{x / WIDTH:.8f} {y / HEIGHT:.8f}" for x, y in box)
        lines.append(f"0 {' '.join(parts)}\n")
    Path(folder, "image.txt").write_text("".join(lines))


def read_corners(folder):
    for line in Path(folder, "image.txt").read_text().splitlines():
        v = [float(part) for part in line.split()[1:]]
        yield [(v[i] * WIDTH, v[i + 1] * HEIGHT) for i in range(0, 8, 2)]


def read_turned(folder):
    first, *lines = Path(folder, "image.txt").read_text().splitlines()
    assert first == "YOLO_OBB"
    for line in lines:
        yield [float(part) for part in line.split()[1:]]


def ious(boxes):
    """IoU of each box with the true one."""
    pairs = zip(map(Polygon, TRUTH.values()), map(Polygon, boxes), strict=True)
    return [round(true.intersection(box).area / true.union(box).area, 2) for true, box in pairs]


TRUTH = {name: corners(500, 400, *box) for name, box in BOXES.items()}

# 1: corners to labelImg_OBB
write_corners("corners")
convert("yolo2labelimg", "corners", "turned")
turned = list(read_turned("turned"))
print("corners to labelImg_OBB: width, height, angle; IoU with the true box")
for name, (x, y, w, h, angle), iou in zip(BOXES, turned, ious(corners(*box) for box in turned), strict=True):
    print(f"  {name}: {w:.1f}, {h:.1f}, {angle:.0f}; {iou}")
    assert abs(x - 500) < 0.01 and abs(y - 400) < 0.01
    if name == "square, turned by 45":
        assert abs(h - w / 2) < 0.1 and iou < 0.65
    else:
        assert abs(h - min(BOXES[name][:2]) / 2) < 0.01 and abs(w - max(BOXES[name][:2])) < 0.01 and iou == 0.5

# 2: there and back, several times
last = "turned"
print("there and back: IoU of the four boxes")
for times in (1, 2, 3):
    convert("labelimg2yolo", last, f"back{times}")
    found = ious(read_corners(f"back{times}"))
    print(f"  {times} times: {found}")
    assert all(abs(one - 0.5**times) < 0.01 for one in found[:3]) and found[3] < 0.7**times
    convert("yolo2labelimg", f"back{times}", f"turned{times}")
    last = f"turned{times}"

# 3: the other way alone
Path("made").mkdir()
Path("made", "image.txt").write_text("\n".join(["YOLO_OBB", *(f"0 500 400 {w} {h} {a}" for w, h, a in BOXES.values())]))
convert("labelimg2yolo", "made", "right")
found = ious(read_corners("right"))
print(f"labelImg_OBB to corners: IoU {found}")
assert found == [1.0] * 4
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   labelimgobb2dota-converter 0.1.3 shapely 2.1.2
#   corners to labelImg_OBB: width, height, angle; IoU with the true box
#     200 x 80, straight: 200.0, 40.0, 0; 0.5
#     200 x 80, turned by 30: 200.0, 40.0, 30; 0.5
#     80 x 200, turned by 30: 200.0, 40.0, -60; 0.5
#     square, turned by 45: 141.4, 70.7, 0; 0.6
#   there and back: IoU of the four boxes
#     1 times: [0.5, 0.5, 0.5, 0.6]
#     2 times: [0.25, 0.25, 0.25, 0.41]
#     3 times: [0.12, 0.12, 0.13, 0.23]
#   labelImg_OBB to corners: IoU [1.0, 1.0, 1.0, 1.0]
