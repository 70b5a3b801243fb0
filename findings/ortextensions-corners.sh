#!/usr/bin/env bash
# Guess: the steps that onnxruntime-extensions puts behind a detector (NMS, boxes back to the image) take corners
#   (x1, y1, x2, y2), as the drawing step does by default, or refuse them.
# Really: SelectBestBoundingBoxesByNMS has no setting for the kind of box and always reads centre, width and height: of
#   two objects side by side, which do not touch, one is dropped. ScaleNMSBoundingBoxesAndKeyPoints takes the border of
#   the letterbox from x1 and y1 only: x2 and y2 stay off by the whole border, the box is too large. With centres both
#   are right. It scales x and y alike, by the heights: on an image of 3000 x 200 (640 x 43 in the letterbox) a box at
#   the right end lies 23 pixels aside, with centres, too. Nothing is said.
# Here: judged by arithmetic.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxruntime-extensions==0.15.2
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime_extensions import get_library_path
from onnxruntime_extensions.tools import pre_post_processing as steps

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "onnxruntime-extensions")))
OPTIONS = onnxruntime.SessionOptions()
OPTIONS.register_custom_ops_library(get_library_path())
OPTIONS.log_severity_level = 3


def detector(boxes):
    """A detector of one class that finds these boxes in each image of 640 x 640."""
    stored = {"loc": boxes.astype(np.float32), "prob": np.linspace(0.9, 0.8, len(boxes), dtype=np.float32)[:, None]}
    nodes = [helper.make_node("Constant", [], [k], value=numpy_helper.from_array(v)) for k, v in stored.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, v.shape) for name, v in stored.items()]
    outputs += [helper.make_tensor_value_info("seen", TensorProto.FLOAT, [1, 3, 640, 640])]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 640, 640])]
    graph = helper.make_graph([*nodes, helper.make_node("Identity", ["image"], ["seen"])], "net", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def found(boxes, height, width):
    pipeline = steps.PrePostProcessor([steps.create_named_value("pixels", TensorProto.UINT8, ["h", "w", 3])], 18)
    pipeline.add_pre_processing([
        steps.Identity(name="Image"),
        steps.Resize((640, 640), policy="not_larger"),
        steps.LetterBox((640, 640)),
        steps.ChannelsLastToChannelsFirst(),
        steps.ImageBytesToFloat(),
        steps.Unsqueeze([0]),
    ])
    images = [steps.IoMapEntry(name, 0, i) for i, name in enumerate(("Image", "Resize", "LetterBox"), 1)]
    pipeline.add_post_processing([steps.SelectBestBoundingBoxesByNMS(),
                                  (steps.ScaleNMSBoundingBoxesAndKeyPoints(), images)])
    model = pipeline.run(detector(boxes))
    session = onnxruntime.InferenceSession(model.SerializeToString(), OPTIONS)
    pixels = np.zeros((height, width, 3), np.uint8)
    out = dict(zip((o.name for o in session.get_outputs()), session.run(None, {"pixels": pixels})))
    return next(value for value in out.values() if value.ndim == 2)[:, :4]


def centres(boxes):
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def corners(boxes):
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def show(boxes):
    return boxes.round().astype(int).tolist()


for text, height, width, objects, right in (
    ("480 x 640", 480, 640, [[300, 100, 400, 200], [410, 100, 510, 200]], True),
    ("640 x 640", 640, 640, [[300, 100, 400, 200]], True),
    ("200 x 3000", 200, 3000, [[2700, 50, 3000, 150]], False),
):
    objects = np.array(objects, float)
    sides = np.array([round(width * min(640 / width, 640 / height)), round(height * min(640 / width, 640 / height))])
    inside = objects * np.tile(sides / [width, height], 2) + np.tile((640 - sides) // 2, 2)
    as_centres, as_corners = corners(found(centres(inside), height, width)), found(inside, height, width)
    print(f"{text}, objects {show(objects)}")
    print(f"  centres {show(as_centres)}, corners {show(as_corners)}")
    assert right == (as_centres.shape == objects.shape and abs(as_centres - objects).max() < 1)
    assert (text == "640 x 640") == (as_corners.shape == objects.shape and abs(as_corners - objects).max() < 1)
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 onnxruntime-extensions 0.15.2
#   480 x 640, objects [[300, 100, 400, 200], [410, 100, 510, 200]]
#     centres [[300, 100, 400, 200], [410, 100, 510, 200]], corners [[300, 100, 400, 280]]
#   640 x 640, objects [[300, 100, 400, 200]]
#     centres [[300, 100, 400, 200]], corners [[300, 100, 400, 200]]
#   200 x 3000, objects [[2700, 50, 3000, 150]]
#     centres [[2679, 50, 2977, 150]], corners [[2679, 50, 2977, 1536]]
