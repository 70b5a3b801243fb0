#!/usr/bin/env bash
# Guess: Model API, OpenVINO's wrapper for detectors, gives boxes in pixels of the picture for each `resize_type` it
#   offers; `nms_max_predictions` is, as its description says, how many are kept after non-max suppression.
# Really: with "crop", which shows the network the middle of the picture, boxes are brought back as if the whole picture
#   had been stretched: on one twice as wide as high a thing beside the middle comes back twice as wide and up to a
#   quarter of the width aside, IoU 0.07. For a network that is itself wider than high the cut is wrong as well, height
#   and width are exchanged in its aspect: of a picture with the network's own aspect, 2 to 1, of which all should be
#   seen, it gets the middle quarter, stretched to four times its width, and what stands beside that is never found.
#   With `agnostic_nms` the limit counts candidates before the suppression: with 20, and eight candidates on each thing,
#   three of 16 things are left, with 100 it is 13; without agnostic_nms all are. Nothing is said. The three other ways
#   to resize are right.
# Here: the letterbox of images and its way back are one function each, tested against each other.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 openvino==2026.4.1 openvino-model-api==0.4.7
cat > check.py <<'EOF'
import logging
from importlib.metadata import version

import numpy as np
import openvino
from model_api.adapters import OpenvinoAdapter
from model_api.models import SSD
from model_api.models.yolo import YOLO11
from openvino import opset13 as op

logging.disable(logging.INFO)
print(*(f"{name} {version(name)}" for name in ("openvino-model-api", "openvino")))


def save(output, image):
    image.output(0).get_tensor().set_names({"image"})
    output.output(0).get_tensor().set_names({"found"})
    openvino.save_model(openvino.Model([output], [image], "net"), "net.xml", compress_to_fp16=False)
    return OpenvinoAdapter(openvino.Core(), "net.xml", device="CPU")


def finds_white(width, height):
    """A network that finds what is white in its input: one row (image, class, score, left, top, right, bottom)."""
    image = op.parameter([1, 3, height, width], np.float32)
    light = op.reduce_max(image, [0, 1])

    def ends(line, size):
        white = op.greater(line, np.float32(127))
        places = np.arange(size, dtype=np.float32)
        first = op.reduce_min(op.select(white, places, np.full(size, size, np.float32)), [0])
        last = op.reduce_max(op.select(white, places + 1, np.zeros(size, np.float32)), [0])
        return [op.divide(end, np.float32(size)) for end in (first, last)]

    (left, right), (top, bottom) = ends(op.reduce_max(light, [0]), width), ends(op.reduce_max(light, [1]), height)
    score = op.divide(op.reduce_max(light, [0, 1]), np.float32(255))
    numbers = [op.unsqueeze(value, 0) for value in (score, left, top, right, bottom)]
    row = op.concat([op.constant(np.float32([0, 0])), *numbers], 0)
    return save(op.reshape(row, [1, 1, 1, 7], False), image)


def iou(a, b):
    both = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return both / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both)


# Pictures of 400 x 200 with one thing each.
THINGS = {"middle": [180, 60, 220, 140], "beside it": [240, 60, 290, 140], "far left": [20, 60, 80, 140]}
seen = {}
for width, height in ((100, 100), (200, 100)):
    for kind in ("standard", "fit_to_window", "fit_to_window_letterbox", "crop"):
        model = SSD(finds_white(width, height), {"resize_type": kind, "labels": ["thing"]}, preload=True)
        told = []
        for name, box in THINGS.items():
            picture = np.zeros((200, 400, 3), np.uint8)
            picture[box[1] : box[3], box[0] : box[2]] = 255
            boxes = model(picture).bboxes
            same = iou(np.array(box), boxes[0]) if len(boxes) else None
            if kind == "crop":
                seen[width, name] = (boxes[0].tolist(), round(float(same), 2)) if len(boxes) else None
                told.append(f"{name} {boxes[0].tolist()} IoU {same:.2f}" if len(boxes) else f"{name} none")
            else:
                told.append(f"{name} IoU {same:.2f}")
                assert same > 0.9
        print(f"network {width} x {height}, {kind}: {'; '.join(told)}")
# Square: columns 100 to 300 are seen; what is at column x lies at (x - 100) / 200 of what is seen, not of the picture.
back = {name: [2 * (box[0] - 100), box[1], 2 * (box[2] - 100), box[3]] for name, box in THINGS.items()}
assert [seen[100, name][0] for name in ("middle", "beside it")] == [back["middle"], back["beside it"]]
assert [seen[100, name][1] for name in ("middle", "beside it")] == [0.5, 0.07] and seen[100, "far left"] is None
# Twice as wide as high: columns 150 to 250.
assert seen[200, "middle"] == ([120, 60, 280, 140], 0.25)
assert seen[200, "beside it"] == ([360, 60, 400, 140], 0.0) and seen[200, "far left"] is None

# 16 things apart from each other, eight candidates for each; two classes.
rows = []
for thing in range(16):
    for i in range(8):
        where = [40 + 80 * (thing % 4) + i % 3, 40 + 80 * (thing // 4) + i // 3, 50, 50]
        score = 0.95 - 0.02 * thing - 0.001 * i
        rows.append([*where, *([score, 0] if thing % 2 else [0, score])])
image = op.parameter([1, 3, 320, 320], np.float32)
nothing = op.multiply(op.reduce_mean(image, [0, 1, 2, 3]), np.float32(0))
adapter = save(op.add(op.constant(np.array(rows, np.float32).T[None]), nothing), image)
for agnostic in (False, True):
    for most in (30000, 100, 20):
        setting = {"agnostic_nms": agnostic, "nms_max_predictions": most}
        adapter = OpenvinoAdapter(openvino.Core(), "net.xml", device="CPU")
        left = len(YOLO11(adapter, setting, preload=True)(np.zeros((320, 320, 3), np.uint8)).bboxes)
        print(f"agnostic_nms {agnostic}, nms_max_predictions {most}: {left} of 16 things")
        assert left == ({30000: 16, 100: 13, 20: 3}[most] if agnostic else 16)
print(YOLO11.parameters()["nms_max_predictions"].description)
assert "after NMS" in YOLO11.parameters()["nms_max_predictions"].description
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   openvino-model-api 0.4.7 openvino 2026.4.1
#   network 100 x 100, standard: middle IoU 1.00; beside it IoU 0.96; far left IoU 1.00
#   network 100 x 100, fit_to_window: middle IoU 1.00; beside it IoU 0.96; far left IoU 1.00
#   network 100 x 100, fit_to_window_letterbox: middle IoU 1.00; beside it IoU 0.96; far left IoU 1.00
#   network 100 x 100, crop: middle [160, 60, 240, 140] IoU 0.50; beside it [280, 60, 380, 140] IoU 0.07; far left none
#   network 200 x 100, standard: middle IoU 1.00; beside it IoU 1.00; far left IoU 1.00
#   network 200 x 100, fit_to_window: middle IoU 1.00; beside it IoU 1.00; far left IoU 1.00
#   network 200 x 100, fit_to_window_letterbox: middle IoU 1.00; beside it IoU 1.00; far left IoU 1.00
#   network 200 x 100, crop: middle [120, 60, 280, 140] IoU 0.25; beside it [360, 60, 400, 140] IoU 0.00; far left none
#   agnostic_nms False, nms_max_predictions 30000: 16 of 16 things
#   agnostic_nms False, nms_max_predictions 100: 16 of 16 things
#   agnostic_nms False, nms_max_predictions 20: 16 of 16 things
#   agnostic_nms True, nms_max_predictions 30000: 16 of 16 things
#   agnostic_nms True, nms_max_predictions 100: 13 of 16 things
#   agnostic_nms True, nms_max_predictions 20: 3 of 16 things
#   Maximum number of predictions to keep after NMS filtering. Zero means no limit.
