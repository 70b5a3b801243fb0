#!/usr/bin/env bash
# Guess: a darknet file that is written from a list of anchors has all of them, and `get_yolov3(num_anchors=6)` is a
#   network for six.
# Really: of an even number of anchors the last, the one for the largest objects, is left out: YOLOv3-tiny's six become
#   five, above "num=6"; of two one is left. `num_anchors` sets the filters before each [yolo] layer alone: with six
#   they fit two anchors per scale, the masks still name three, and those of the coarsest scale, 6, 7 and 8, are none of
#   the six. With nine (the default), one, three and five the list is whole. Nothing is said; OpenCV refuses the file.
# Here: judged by counting the pairs, and by what OpenCV says of the file.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 opencv-python-headless==4.13.0.92 absl-py==2.3.1 \
  darknet-config-generator==1.0.1
cat > check.py <<'EOF'
import io
from importlib.metadata import version
from pathlib import Path

import cv2
from darknet_config_generator.yolo_darknet import YOLONetwork
from darknet_config_generator.yolo_layers import YOLOLayer
from darknet_config_generator.yolo_network import get_yolov3

print(*(f"{name} {version(name)}" for name in ("darknet-config-generator", "opencv-python-headless")))
TINY = [10, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319]  # YOLOv3-tiny's six anchors, width and height
CLASSES = 2


def layers(text):
    """(kind, settings) of each layer of a darknet file."""
    found = []
    for line in filter(None, (line.split("#")[0].strip() for line in text.splitlines())):
        if line.startswith("["):
            found.append((line.strip("[]"), {}))
        else:
            key, value = line.split("=")
            found[-1][1][key] = value
    return found


def numbers(text):
    return [int(part) for part in text.split(",")]


kept = {}
for count in range(1, 7):
    file = io.StringIO()
    YOLOLayer(anchors=TINY[: 2 * count], num_classes=CLASSES, masks=[0]).export(file)
    ((_, yolo),) = layers(file.getvalue())
    kept[count] = numbers(yolo["anchors"])
    print(f"{count} anchors: num={yolo['num']}, anchors={yolo['anchors']}")
    assert int(yolo["num"]) == count
    assert kept[count] == TINY[: 2 * (count - (count % 2 == 0))]

for name, more in {"nine": {}, "six": {"anchors": TINY, "num_anchors": 6}}.items():
    network = YOLONetwork(input_dim=(416, 416, 3), layers=get_yolov3(num_classes=CLASSES, **more))
    network.generate_config(f"{name}.cfg")
    network = layers(Path(f"{name}.cfg").read_text())
    heads = []
    for (kind, before), (_, yolo) in zip(network, network[1:], strict=False):
        if "mask" in yolo:
            assert kind == "convolutional"
            fit = int(before["filters"]) // (5 + CLASSES)
            heads.append((fit, numbers(yolo["mask"]), len(numbers(yolo["anchors"])) // 2))
    try:
        cv2.dnn.readNetFromDarknet(f"{name}.cfg")
        verdict = "reads it"
    except cv2.error as error:
        verdict = "refuses it:\n  " + str(error).split("failed) ")[1].split(" in function")[0]
    print(f"get_yolov3, {name} anchors, by scale: (filters fit how many, mask, anchors written)")
    print(f"  {heads}; OpenCV {verdict}")
    masks = [[6, 7, 8], [3, 4, 5], [0, 1, 2]]
    if name == "nine":
        assert heads == [(3, mask, 9) for mask in masks] and verdict == "reads it"
    else:
        assert heads == [(2, mask, 5) for mask in masks] and verdict.startswith("refuses it")
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   darknet-config-generator 1.0.1 opencv-python-headless 4.13.0.92
#   1 anchors: num=1, anchors=10,14
#   2 anchors: num=2, anchors=10,14
#   3 anchors: num=3, anchors=10,14, 23,27, 37,58
#   4 anchors: num=4, anchors=10,14, 23,27, 37,58
#   5 anchors: num=5, anchors=10,14, 23,27, 37,58, 81,82, 135,169
#   6 anchors: num=6, anchors=10,14, 23,27, 37,58, 81,82, 135,169
#   get_yolov3, nine anchors, by scale: (filters fit how many, mask, anchors written)
#     [(3, [6, 7, 8], 9), (3, [3, 4, 5], 9), (3, [0, 1, 2], 9)]; OpenCV reads it
#   get_yolov3, six anchors, by scale: (filters fit how many, mask, anchors written)
#     [(2, [6, 7, 8], 5), (2, [3, 4, 5], 5), (2, [0, 1, 2], 5)]; OpenCV refuses it:
#     classes > 0 && num_of_anchors > 0 && (num_of_anchors * 2) == anchors_vec.size()
