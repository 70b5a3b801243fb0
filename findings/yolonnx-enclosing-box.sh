#!/usr/bin/env bash
# Guess: yolonnx runs a YOLO file as Ultralytics exports it: of boxes of one class that overlap by more than
#   `iou_threshold` (0.7) the best one is kept, all others stay.
# Really: its overlap is that of the wrong rectangle: in place of what two boxes share it takes the box around both,
#   and takes that off the union, too. The result is 1 or more as soon as the box around both is smaller than the two
#   together, below 0 otherwise: `iou_threshold` has no effect, 0.1 and 0.99 give the same. Neighbours that only touch
#   (IoU 0) suppress each other, as do two that share a tenth, a plate and its car, and all of that whatever the class:
#   a rider is lost with the horse, a bag with its bearer. Of 14 people in a row, whose boxes share a tenth,
#   six are left. A file whose `args` have no "nms", as Ultralytics 8.3.66 writes them, is read as one with suppression
#   in it, since the default is the text "False", which is true: an empty picture has four objects, with scores of 36,
#   4, 20 and 20. Boxes apart and true doubles are right.
# Here: suppression is compared with one by hand, on boxes that touch, overlap and lie within others.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 pillow==13.0.0 aau-label==0.4.1 \
  yolonnx==0.6.2
cat > check.py <<'EOF'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from yolonnx.services import Detector
from yolonnx.to_tensor_strategies import PillowToTensorContainStrategy

print(*(f"{name} {version(name)}" for name in ("yolonnx", "onnxruntime", "onnx", "pillow")))
SIZE, CLASSES = 640, 80  # 0 person, 1 horse, 3 plate
NEW = {"batch": 1, "half": False, "dynamic": False, "simplify": True, "opset": None, "nms": False}
OLD = {key: value for key, value in NEW.items() if key != "nms"}


# what a network says of an empty picture, at each eighth pixel: middle, width and height, and a score of 0 per class
middles = np.arange(SIZE // 8) * 8 + 4
EMPTY = np.zeros((1, 4 + CLASSES, len(middles) ** 2), np.float32)
EMPTY[0, 0], EMPTY[0, 1], EMPTY[0, 2:4] = np.tile(middles, len(middles)), np.repeat(middles, len(middles)), 20


def found(things, args=NEW, **options):
    """What yolonnx finds with a file that sees these things in each picture: x, y, width, height, class, score."""
    rows = EMPTY.copy()
    for i, (x, y, width, height, kind, score) in enumerate(things):
        rows[0, :4, i] = x + width / 2, y + height / 2, width, height  # the middle, as YOLOv8 gives it
        rows[0, 4 + kind, i] = score
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "none"], ["nothing"]),
            helper.make_node("Add", ["rows", "nothing"], ["output0"]),
        ],
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, rows.shape)],
        [numpy_helper.from_array(np.float32(0), "none"), numpy_helper.from_array(rows, "rows")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    names = {i: f"class {i}" for i in range(CLASSES)}
    helper.set_model_props(model, {"task": "detect", "names": str(names), "args": str(args)})
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return Detector(session, PillowToTensorContainStrategy(), **options).run(Image.new("RGB", (SIZE, SIZE)))


def iou(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def by_hand(things, threshold=0.7):
    kept = []
    for thing in sorted(things, key=lambda thing: -thing[5]):
        if all(thing[4] != other[4] or iou(thing, other) < threshold for other in kept):
            kept.append(thing)
    return kept


man = (100, 100, 100, 200, 0, 0.9)
for text, other in (
    ("the same again", (104, 102, 100, 200, 0, 0.8)),
    ("far away", (400, 100, 100, 200, 0, 0.8)),
    ("touching", (200, 100, 100, 200, 0, 0.8)),
    ("sharing a tenth", (182, 100, 100, 200, 0, 0.8)),
    ("a horse below its rider", (90, 160, 120, 200, 1, 0.8)),
    ("a plate on his shirt", (130, 150, 40, 20, 3, 0.8)),
):
    count = {options: len(found([man, other], iou_threshold=options)) for options in (0.1, 0.5, 0.7, 0.99)}
    print(f"two boxes, {text}: IoU {iou(man, other):.2f}, kept {len(by_hand([man, other]))} by hand, {count} here")
    assert len(set(count.values())) == 1  # whatever the threshold
    right = text in ("the same again", "far away")
    assert (count[0.7] == len(by_hand([man, other]))) == right

rng = np.random.default_rng(0)
crowd = [(4 + 45 * i, 200, 50, 150, 0, round(float(score), 2)) for i, score in enumerate(rng.uniform(0.5, 0.9, 14))]
count = len(found(crowd))
print(f"14 people in a row, each pair with IoU {iou(*crowd[:2]):.2f}: {len(by_hand(crowd))} by hand, {count} here")
assert len(by_hand(crowd)) == 14 and count <= 7

for text, things in (("nothing", []), ("a person", [man])):
    new, old = found(things), found(things, OLD)
    print(f"picture with {text}: {len(new)} found, without \"nms\" in args", *(f"{o.name}: {o.score:g}," for o in old))
    assert len(new) == len(things) and len(old) == 4 and min(thing.score for thing in old) > 1
EOF
OMP_NUM_THREADS=1 venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   yolonnx 0.6.2 onnxruntime 1.32.0 onnx 1.23.2 pillow 13.0.0
#   two boxes, the same again: IoU 0.91, kept 1 by hand, {0.1: 1, 0.5: 1, 0.7: 1, 0.99: 1} here
#   two boxes, far away: IoU 0.00, kept 2 by hand, {0.1: 2, 0.5: 2, 0.7: 2, 0.99: 2} here
#   two boxes, touching: IoU 0.00, kept 2 by hand, {0.1: 1, 0.5: 1, 0.7: 1, 0.99: 1} here
#   two boxes, sharing a tenth: IoU 0.10, kept 2 by hand, {0.1: 1, 0.5: 1, 0.7: 1, 0.99: 1} here
#   two boxes, a horse below its rider: IoU 0.47, kept 2 by hand, {0.1: 1, 0.5: 1, 0.7: 1, 0.99: 1} here
#   two boxes, a plate on his shirt: IoU 0.04, kept 2 by hand, {0.1: 1, 0.5: 1, 0.7: 1, 0.99: 1} here
#   14 people in a row, each pair with IoU 0.05: 14 by hand, 6 here
#   picture with nothing: 0 found, without "nms" in args class 44: 36, class 4: 4, class 20: 20, class 20: 20,
#   picture with a person: 1 found, without "nms" in args class 44: 36, class 4: 4, class 20: 20, class 20: 20,
