#!/usr/bin/env bash
# Guess: rtmlib's detectors YOLOX and RTMDet, of one interface, return the boxes whose score is above `score_thr`;
#   det_mode="human" are the people among them.
# Really: if the ONNX file brings its own suppression and gives boxes with a score, five columns, YOLOX never looks at
#   score_thr: it cuts at 0.3, so that with its default of 0.7 boxes of 0.31 come back, with 0.1 those from 0.1 to 0.3
#   do not, with 0.95 as many come back as before. With a file of all of COCO's classes det_mode="human", the default,
#   returns the boxes of every class, those of dogs and cars, too. RTMDet does both as its arguments say, with the same
#   files.
# Here: `predict` drops scores at or below its `score_threshold` and returns all classes with their names.
# (rtmlib asks for two builds of OpenCV with windows; the one without does: hence --no-deps.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 opencv-python-headless==5.0.0.93 tqdm==4.67.1
venv/bin/pip install --quiet --no-deps rtmlib==0.0.16
cat > check.py <<'EOF'
import contextlib
import io
from importlib.metadata import version

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rtmlib import YOLOX, RTMDet

print(*(f"{name} {version(name)}" for name in ("rtmlib", "onnxruntime", "onnx")))
SIZE = 64
IMAGE = np.full((SIZE, SIZE, 3), 114, np.uint8)
PERSON, CAR, DOG = 0, 2, 16  # COCO's classes, as YOLOX.COCO_CLASSES has them
assert [YOLOX.COCO_CLASSES[i] for i in (PERSON, CAR, DOG)] == ["person", "car", "dog"]


def save(name, rows):
    """A network whose output is these rows, whatever the image shows."""
    rows = np.asarray(rows, np.float32)[None]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
            helper.make_node("Mul", ["top", "zero"], ["nothing"]),
            helper.make_node("Add", ["rows", "nothing"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, rows.shape)],
        [numpy_helper.from_array(rows, "rows"), numpy_helper.from_array(np.float32(0), "zero")],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(net, full_check=True)
    onnx.save(net, name)


def detect(kind, name, **more):
    with contextlib.redirect_stdout(io.StringIO()):  # it says which file it loads
        return kind(name, (SIZE, SIZE), **more)(IMAGE)


# with suppression in the file: one row per box, corners and score
SCORES = [0.9, 0.6, 0.31, 0.29, 0.15]
save("boxes.onnx", [[12 * i, 10, 12 * i + 8, 30, score] for i, score in enumerate(SCORES)])
print("scores in the file's output:", *SCORES)
counts = {}
for threshold in (None, 0.1, 0.5, 0.95):
    more = {} if threshold is None else {"score_thr": threshold}
    counts[threshold] = [len(detect(kind, "boxes.onnx", **more)) for kind in (YOLOX, RTMDet)]
    print(f"  {f'score_thr={threshold}' if more else 'by default'}: YOLOX {counts[threshold][0]} boxes,",
          f"RTMDet {counts[threshold][1]}")

# without: a row per cell of the strides 8, 16 and 32: centre and size, objectness, 80 classes
rows = np.zeros((sum((SIZE // stride) ** 2 for stride in (8, 16, 32)), 85), np.float32)
things = {PERSON: (0, 16, 16, 0.9), CAR: (2, 48, 16, 0.8), DOG: (4, 16, 48, 0.85)}
for label, (cell, x, y, score) in things.items():
    rows[cell, :4] = x / 8 - cell, y / 8, np.log(2), np.log(2)  # cells of the first row; 16 x 16 pixels
    rows[cell, 4], rows[cell, 5 + label] = 1, score
save("cells.onnx", rows)
kept = {}
for kind in (YOLOX, RTMDet):
    boxes, labels = detect(kind, "cells.onnx", det_mode="multiclass", score_thr=0.5)
    people = detect(kind, "cells.onnx", det_mode="human", score_thr=0.5)
    kept[kind] = labels.tolist(), people.round().astype(int).tolist()
    print(f"{kind.__name__}: multiclass {[YOLOX.COCO_CLASSES[i] for i in labels]}, human {kept[kind][1]}")
    assert labels.tolist() == [PERSON, CAR, DOG]
    assert np.allclose(boxes, [[8, 8, 24, 24], [40, 8, 56, 24], [8, 40, 24, 56]], atol=1e-3)

assert counts == {None: [3, 3], 0.1: [3, 5], 0.5: [3, 2], 0.95: [3, 0]}  # 0.7 and 0.3 are the two defaults
assert kept[RTMDet][1] == [[8, 8, 24, 24]] and len(kept[YOLOX][1]) == 3
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   rtmlib 0.0.16 onnxruntime 1.32.0 onnx 1.23.2
#   scores in the file's output: 0.9 0.6 0.31 0.29 0.15
#     by default: YOLOX 3 boxes, RTMDet 3
#     score_thr=0.1: YOLOX 3 boxes, RTMDet 5
#     score_thr=0.5: YOLOX 3 boxes, RTMDet 2
#     score_thr=0.95: YOLOX 3 boxes, RTMDet 0
#   YOLOX: multiclass ['person', 'car', 'dog'], human [[8, 8, 24, 24], [40, 8, 56, 24], [8, 40, 24, 56]]
#   RTMDet: multiclass ['person', 'car', 'dog'], human [[8, 8, 24, 24]]
