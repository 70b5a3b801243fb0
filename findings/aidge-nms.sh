#!/usr/bin/env bash
# Guess: NonMaxSuppression of an ONNX file gives the same rows in Aidge's runtime as in ONNX Runtime: as many as there
#   are boxes left.
# Really: Aidge gives `max_output_boxes_per_class` rows for each class and image, always. Those that are left come
#   first, and are the same as in ONNX Runtime; the others are what was in the memory: zeros on the first image, that is
#   the first box of the first class, and on the next ones rows of the images before. An empty street has the cars of
#   the street before, though the scores of those boxes are far below the threshold now. How many rows hold is told in
#   a second output that the operator of ONNX does not have, so that no file can read it. Aidge says when it reads the
#   file that sizes depend on data, and nothing of this. An image on which all rows are filled is right.
# Here: judged by ONNX Runtime.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 aidge-core==0.10.1 aidge-onnx==0.10.1 \
  aidge-backend-cpu==0.10.1
venv/bin/python - >all.txt <<'EOF'
from importlib.metadata import version

import aidge_backend_cpu  # noqa: F401 (makes the backend known)
import aidge_core
import aidge_onnx
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print("=", *(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "aidge-onnx", "aidge-backend-cpu")))
BOXES = np.array([[0, 0, 9, 9], [20, 20, 60, 60], [22, 20, 62, 60], [90, 10, 120, 40], [50, 80, 70, 100]], np.float32)
STORED = {"boxes": BOXES[None], "most": [3], "iou": np.float32([0.5]), "score": np.float32([0.4])}
PICTURES = {
    "one object": [0.1, 0.2, 0.1, 0.6, 0.1],
    "three objects": [0.1, 0.9, 0.8, 0.7, 0.6],
    "no object": [0.1, 0.1, 0.1, 0.1, 0.1],
    "another three": [0.7, 0.1, 0.9, 0.1, 0.5],
}


graph = helper.make_graph(
    [helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "score"], ["rows"], "nms")],
    "net",
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, 5])],
    [helper.make_tensor_value_info("rows", TensorProto.INT64, ["n", 3])],
    [numpy_helper.from_array(np.array(value), name) for name, value in STORED.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "net.onnx")
session = onnxruntime.InferenceSession("net.onnx")
aidge = aidge_onnx.load_onnx("net.onnx")
aidge.set_backend("cpu")
aidge.forward_dims([[1, 1, 5]], True)
scheduler = aidge_core.SequentialScheduler(aidge)
nms = next(node for node in aidge.get_nodes() if node.type() == "NonMaxSuppression").get_operator()
before = np.zeros((3, 3), int)
for name, scores in PICTURES.items():
    scores = np.array(scores, np.float32).reshape(1, 1, 5)
    right = session.run(None, {"scores": scores})[0]
    scheduler.forward(data=[aidge_core.Tensor(scores)])
    found = np.array(nms.get_output(0))
    told = [f"box {box}, score {scores[0, 0, box]:.1f}" for box in found[len(right) :, 2]]
    print(f"= {name}: ONNX Runtime {right[:, 2].tolist()}, Aidge {found[:, 2].tolist()}", end="")
    print(f" (too many: {'; '.join(told)})" if told else "")
    assert found.shape == (3, 3) and (found[: len(right)] == right).all()
    assert (found[len(right) :] == before[len(right) :]).all()  # what was there
    assert int(np.array(nms.get_output(1)).reshape(-1)[0]) == len(right)  # the second output, not one of ONNX's
    before = found.copy()
EOF
grep "^=" all.txt | cut -c3-  # the rest is what Aidge tells of the file that it reads
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 aidge-onnx 0.10.1 aidge-backend-cpu 0.10.1
#   one object: ONNX Runtime [3], Aidge [3, 0, 0] (too many: box 0, score 0.1; box 0, score 0.1)
#   three objects: ONNX Runtime [1, 3, 4], Aidge [1, 3, 4]
#   no object: ONNX Runtime [], Aidge [1, 3, 4] (too many: box 1, score 0.1; box 3, score 0.1; box 4, score 0.1)
#   another three: ONNX Runtime [2, 0, 4], Aidge [2, 0, 4]
