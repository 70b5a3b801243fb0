#!/usr/bin/env bash
# Guess: `yolo_detection` of onnxruntime-extensions, made for YOLOv3 to v8, puts in front of such a file what it was
#   trained with: red, green, blue.
# Really: the picture is decoded as blue, green, red and stays so; `mobilenet` of the same module turns the channels. A
#   detector of coloured things calls red blue, and blue red; green is right. Boxes with a score of 0.67 or less are
#   dropped, and neither the function nor its command line has a setting for it: with 0.6 the picture is empty. What
#   is detected and drawn looks plausible otherwise. Only a comment inside of the function tells the order.
# Here: a file of four nodes, with the output of YOLOv5, gives a box whose class is the channel with the most light.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxruntime-extensions==0.15.2
venv/bin/python - <<'EOF'
import struct
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime_extensions import get_library_path
from onnxruntime_extensions.tools import add_pre_post_processing_to_model as tool

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "onnxruntime-extensions")))
NAMES = ["red", "green", "blue"]
OPTIONS = onnxruntime.SessionOptions()
OPTIONS.register_custom_ops_library(get_library_path())
OPTIONS.log_severity_level = 3


def file(steps, stored, y, name):
    graph = helper.make_graph(
        [helper.make_node(op, i, o, **a) for op, i, o, a in steps],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(v, k) for k, v in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8), name)
    return Path(name)


def png(rgb):
    """A picture of 224 x 224 in one colour."""
    rows = b"".join(b"\0" + bytes(rgb) * 224 for _ in range(224))
    blocks = (b"IHDR", struct.pack(">IIBBBBB", 224, 224, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    text = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in blocks)
    return np.frombuffer(b"\x89PNG\r\n\x1a\n" + text, np.uint8)


def run(path, rgb):
    return onnxruntime.InferenceSession(str(path), OPTIONS).run(None, {"image": png(rgb)})


# 100 boxes (x, y, w, h, objectness, classes): the first has the three means as scores of its classes, the others none
boxes = np.tile(np.array([112, 112, 40, 40, 1, 1, 1, 1], np.float32), (1, 100, 1))
boxes[:, 1:, 4] = 0
detector = file(
    [("GlobalAveragePool", ["x"], ["a"], {}), ("Reshape", ["a", "row"], ["b"], {}),
     ("Pad", ["b", "five", "one"], ["c"], {}), ("Mul", ["boxes", "c"], ["y"], {})],
    {"row": np.array([1, 1, 3]), "five": np.array([0, 0, 5, 0, 0, 0]), "one": np.array(1, np.float32), "boxes": boxes},
    [1, 100, 8], "detector.onnx")
classifier = file(
    [("GlobalAveragePool", ["x"], ["a"], {}), ("Flatten", ["a"], ["b"], {}), ("Softmax", ["b"], ["y"], {})],
    {}, [1, 3], "classifier.onnx")
tool.yolo_detection(detector, Path("yolo.onnx"), num_classes=3, output_as_image=False)
tool.mobilenet(classifier, Path("mobilenet.onnx"), tool.ModelSource.PYTORCH)

for i, name in enumerate(NAMES):
    for light in (255, 153):
        rgb = [light if k == i else 0 for k in range(3)]
        found = run("yolo.onnx", rgb)[0]
        told = [f"{NAMES[int(row[5])]} {row[4]:.2f}" for row in found] or ["nothing"]
        other = NAMES[int(run("mobilenet.onnx", rgb)[0].argmax())]
        print(f"{rgb}: yolo_detection {', '.join(told)}; mobilenet {other}")
        assert other == name and told == ([f"{NAMES[2 - i]} 1.00"] if light == 255 else ["nothing"])
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnxruntime-extensions 0.15.2
#   [255, 0, 0]: yolo_detection blue 1.00; mobilenet red
#   [153, 0, 0]: yolo_detection nothing; mobilenet red
#   [0, 255, 0]: yolo_detection green 1.00; mobilenet green
#   [0, 153, 0]: yolo_detection nothing; mobilenet green
#   [0, 0, 255]: yolo_detection red 1.00; mobilenet blue
#   [0, 0, 153]: yolo_detection nothing; mobilenet blue
