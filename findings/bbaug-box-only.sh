#!/usr/bin/env bash
# Guess: bbaug's `Fliplr_BBox` mirrors what is in a box, and its shears are those of the TensorFlow policies that it
#   names as their equivalents: 0.3 pixels per row at magnitude 10.
# Really: the whole image is mirrored, and the part of it that comes to lie at the box is laid over it
#   (augmentations/augmentations.py: Fliplr inside of imgaug's BlendAlphaBoundingBoxes). So the box gets what is on the
#   other side of the image: of an object that does not cross the middle no pixel is left, its box and its class stay.
#   `Translate_X_BBox` brings in the neighbour in the same way. If a box covers more than half of the image, the
#   box itself is mirrored, though nothing around it is. And the shears give their 0.3 to imgaug, which takes degrees:
#   57 times less, half a pixel at the border of 200 rows in place of 30, in all four policies. An object in the middle
#   is mirrored as it should be, and `Rotate` and `Translate_X` do what they say.
# Here: counted in pixels of one colour. The built-in policies use the shears and `Translate_Y_BBox`; the flip is for
#   own ones (version 1 lists it with a probability of 0).
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==1.26.4 scipy==1.15.3 opencv-python-headless==4.11.0.86 scikit-image==0.24.0 \
    imageio==2.37.0 pillow==11.3.0 shapely==2.1.2 matplotlib==3.10.3 six==1.17.0
venv/bin/pip install --quiet --no-deps imgaug==0.4.0 bbaug==0.4.2
MPLBACKEND=Agg MPLCONFIGDIR="$room" venv/bin/python -W ignore - <<'EOF'
import math
from importlib.metadata import version

import numpy as np
from bbaug.policies import policies_v0, policies_v1, policies_v2, policies_v3
from bbaug.policies.policies import POLICY_TUPLE, PolicyContainer

print(*(f"{name} {version(name)}" for name in ("bbaug", "imgaug")))
WIDTH, HEIGHT = 400, 200
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (90, 90, 90)}
container = PolicyContainer(policies_v0(), random_state=3)


def apply(name, image, box, magnitude=10):
    """The image after one step that is certainly taken, the box, and that the class is still 7."""
    policy = [POLICY_TUPLE(name, 1.0, magnitude)]
    image, rows = container.apply_augmentation(policy, image.copy(), [box], [7])
    ((label, *box),) = rows.tolist()
    assert label == 7
    return image, box


def shares(image, box):
    """Which part of the box has which colour."""
    pixels = image[box[1]:box[3], box[0]:box[2]]
    found = {name: (pixels == colour).all(axis=2).mean() for name, colour in COLOURS.items()}
    return {name: round(float(share), 2) for name, share in found.items() if share}


def scene(box):
    """A grey image, blue from column 320 on, and an object in the box: its left half red, its right half green."""
    image = np.full((HEIGHT, WIDTH, 3), COLOURS["grey"], np.uint8)
    image[:, 320:] = COLOURS["blue"]
    left, top, right, bottom = box
    image[top:bottom, left:right] = COLOURS["red"]
    image[top:bottom, (left + right) // 2:right] = COLOURS["green"]
    return image


CASES = {
    "at the left": ([20, 60, 80, 140], {"blue": 1.0}, [20, 60, 80, 140]),
    "before the middle": ([120, 60, 180, 140], {"grey": 1.0}, [120, 60, 180, 140]),
    "over the middle": ([160, 60, 220, 140], {"red": 0.17, "green": 0.5, "grey": 0.33}, [160, 60, 220, 140]),
    "in the middle": ([170, 60, 230, 140], {"red": 0.5, "green": 0.5}, [170, 60, 230, 140]),
    "60% of the image": ([10, 0, 250, 199], {"green": 0.42, "blue": 0.29, "grey": 0.29}, [150, 0, 390, 199]),
}
print("Fliplr_BBox of an object half red, half green")
for where, (box, inside, moved) in CASES.items():
    before = scene(box)
    after, box_after = apply("Fliplr_BBox", before, box)
    seen = shares(after, box)
    rows, columns = np.nonzero((after != before).any(axis=2))  # nothing changes outside of the box
    assert box[0] <= columns.min() and columns.max() < box[2] and box[1] <= rows.min() and rows.max() < box[3]
    print(f"  {where}: {seen} in its box, which becomes {box_after}")
    assert (seen, box_after) == (inside, moved)

places = {}
for name in ("Translate_X_BBox", "Translate_X"):
    before = scene([150, 60, 200, 140])
    before[60:140, :150] = before[60:140, 200:350] = COLOURS["blue"]  # neighbours at both sides
    after, box = apply(name, before, [150, 60, 200, 140], magnitude=5)
    places[name] = shares(after, box)
    print(f"{name} of an object between two blue ones: {places[name]} in its box, which is {box}")
assert places == {"Translate_X_BBox": {"blue": 1.0}, "Translate_X": {"red": 0.5, "green": 0.5}}

image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
image[:, 190:210] = 255  # an upright bar
for name, magnitude, expected in (("Shear_X", 4, 0.0021), ("Shear_X", 10, 0.0052), ("Rotate", 10, 0.5774)):
    after, box = apply(name, image, [190, 0, 210, HEIGHT], magnitude)
    rows = after[50:150, :, 0].astype(float)
    columns = (rows * np.arange(WIDTH)).sum(axis=1) / rows.sum(axis=1)
    slope = abs(np.polyfit(np.arange(100), columns, 1)[0])
    print(f"{name} {magnitude}: {slope:.4f} pixels per row, {math.degrees(math.atan(slope)):.2f} degrees")
    assert abs(slope - expected) < 3e-4
POLICIES = policies_v0, policies_v1, policies_v2, policies_v3
used = [sum("Shear" in step.name for policy in p() for step in policy) for p in POLICIES]
print("shears in the four policies:", used)
assert all(used)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   bbaug 0.4.2 imgaug 0.4.0
#   Fliplr_BBox of an object half red, half green
#     at the left: {'blue': 1.0} in its box, which becomes [20, 60, 80, 140]
#     before the middle: {'grey': 1.0} in its box, which becomes [120, 60, 180, 140]
#     over the middle: {'red': 0.17, 'green': 0.5, 'grey': 0.33} in its box, which becomes [160, 60, 220, 140]
#     in the middle: {'red': 0.5, 'green': 0.5} in its box, which becomes [170, 60, 230, 140]
#     60% of the image: {'green': 0.42, 'blue': 0.29, 'grey': 0.29} in its box, which becomes [150, 0, 390, 199]
#   Translate_X_BBox of an object between two blue ones: {'blue': 1.0} in its box, which is [150, 60, 200, 140]
#   Translate_X of an object between two blue ones: {'red': 0.5, 'green': 0.5} in its box, which is [25, 60, 75, 140]
#   Shear_X 4: 0.0021 pixels per row, 0.12 degrees
#   Shear_X 10: 0.0052 pixels per row, 0.30 degrees
#   Rotate 10: 0.5773 pixels per row, 30.00 degrees
#   shears in the four policies: [2, 6, 3, 1]
