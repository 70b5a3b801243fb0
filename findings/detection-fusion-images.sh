#!/usr/bin/env bash
# Guess: detection-fusion fuses what several models find in each image; fused boxes keep their image; "majority_vote"
#   keeps what at least `min_votes` models agree on.
# Really: `merge_detections`, `DetectionPipeline` and the command `merge` fuse the boxes of all images as if they were
#   of one: things in about the same place of different images become one box, in the image that comes first. Of two
#   models that are right on 100 images, 300 objects on three lanes of a road, 13 boxes are left, recall 0.04, AP 0.02
#   in place of 1, with each of its ways to fuse; image by image, with its own `group_by_image`, all 300 are. But
#   "soft_voting", "bayesian" and "confidence_weighted_nms" return fused boxes without the name of their image, so that
#   its own `evaluate_detections` finds none of them, image by image, too. And min_votes counts boxes, not models: one
#   model with two boxes on a thing is a majority of two, though no other model sees it.
# Here: suppression goes image by image; a test gives two images an object in the same place.
# (It imports torch and torchvision, but uses them only in the strategies "nms" and "affirmative_nms" and in one helper
#  that none of these calls: empty modules stand for them here.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pandas==2.3.3 scikit-learn==1.9.1 pyyaml==6.0.3 tqdm==4.67.1 \
  pydantic==2.14.4 click==8.3.1 pycocotools==2.0.11
venv/bin/pip install --quiet detection-fusion==1.1.0
cat > check.py <<'EOF'
import contextlib
import io
import json
import random
import sys
import types
from importlib.metadata import version
from pathlib import Path

torch, torchvision = types.ModuleType("torch"), types.ModuleType("torchvision")
torch.Tensor, torchvision.ops = object, types.ModuleType("torchvision.ops")
sys.modules |= {"torch": torch, "torchvision": torchvision, "torchvision.ops": torchvision.ops}
from detection_fusion import Detection, evaluate_detections, merge_detections
from detection_fusion.data import FileDetectionLoader
from detection_fusion.pipeline import DetectionPipeline
from detection_fusion.strategies import create_strategy
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(*(f"{name} {version(name)}" for name in ("detection-fusion", "pycocotools")))
IMAGES, SIZE = 100, 1000
place = random.Random(0)
truth = {}  # three things per image, one to each third of it, as cars on three lanes
for i in range(IMAGES):
    truth[f"{i:03}"] = [(round((lane + 0.5) / 3, 3), round(place.uniform(0.2, 0.8), 3), 0.2, 0.2) for lane in range(3)]


def write(folder, score=None):
    Path(folder).mkdir(parents=True)
    for name, boxes in truth.items():
        end = "" if score is None else f" {score}"
        Path(folder, f"{name}.txt").write_text("".join(f"0 {' '.join(map(str, box))}{end}\n" for box in boxes))


write("GT")
write("labels/a", 0.9)
write("labels/b", 0.8)


def ap(found):
    """COCO's AP of detections."""
    ids = {name: i for i, name in enumerate(truth, 1)}

    def pixels(x, y, w, h):
        return [(x - w / 2) * SIZE, (y - h / 2) * SIZE, w * SIZE, h * SIZE]

    objects = [(ids[name], pixels(*box)) for name, boxes in truth.items() for box in boxes]
    Path("coco.json").write_text(json.dumps({
        "images": [{"id": i, "file_name": f"{name}.jpg", "width": SIZE, "height": SIZE} for name, i in ids.items()],
        "annotations": [{"id": i, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3],
                         "iscrowd": 0} for i, (image, box) in enumerate(objects, 1)],
        "categories": [{"id": 1, "name": "car"}],
    }))
    rows = [{"image_id": ids[one.image_name], "category_id": 1, "bbox": pixels(*one.bbox), "score": one.confidence}
            for one in found if one.image_name in ids]
    if not rows:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO("coco.json")
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 2)


# 1: fused over all images
data = FileDetectionLoader("labels", format="yolo").load_as_set()
assert ap(data.by_model("a")) == ap(data.by_model("b")) == 1
print(f"{IMAGES} images, {3 * IMAGES} objects, two models that are right: boxes, recall, COCO's AP")
lost = []
for name in ("weighted_vote", "majority_vote", "distance_weighted", "soft_voting", "bayesian",
             "confidence_weighted_nms"):
    at_once = merge_detections("labels", strategy=name, format="yolo")
    single = [one for group in data.group_by_image().values()
              for one in create_strategy(name).merge(group.raw_data)]
    recalls = [round(evaluate_detections(found, "GT").recall, 2) for found in (at_once, single)]
    print(f"  {name}: {len(at_once)}, {recalls[0]}, {ap(at_once)};",
          f"image by image {len(single)}, {recalls[1]}, {ap(single)}")
    assert len(at_once) < 0.15 * len(single) and recalls[0] < 0.15 and len(single) == 3 * IMAGES
    if {one.image_name for one in single} == {""}:
        lost.append(name)
        assert recalls == [0, 0]
    else:
        assert recalls[1] == 1 and ap(single) == 1
print("  without the image's name:", *lost)
assert lost == ["soft_voting", "bayesian", "confidence_weighted_nms"]
with contextlib.redirect_stderr(io.StringIO()):
    context = DetectionPipeline().load("labels", format="yolo").ensemble("weighted_vote").evaluate("GT").run()
assert len(context.ensemble_result) == len(merge_detections("labels", format="yolo"))

# 2: who agrees
box = dict(class_id=0, x=0.5, y=0.5, w=0.2, h=0.2, image_name="000")
twice = {"a": [Detection(**box, confidence=score, model_source="a") for score in (0.9, 0.7)], "b": []}
once = {"a": twice["a"][:1], "b": []}
votes = [len(create_strategy("majority_vote", min_votes=2).merge(found)) for found in (once, twice)]
print("majority_vote, min_votes=2, only model a finds a thing: with one box", votes[0], "kept, with two", votes[1])
assert votes == [0, 1]
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   detection-fusion 1.1.0 pycocotools 2.0.11
#   100 images, 300 objects, two models that are right: boxes, recall, COCO's AP
#     weighted_vote: 13, 0.04, 0.02; image by image 300, 1.0, 1.0
#     majority_vote: 12, 0.03, 0.02; image by image 300, 1.0, 1.0
#     distance_weighted: 13, 0.04, 0.02; image by image 300, 1.0, 1.0
#     soft_voting: 13, 0.0, 0.0; image by image 300, 0.0, 0.0
#     bayesian: 13, 0.0, 0.0; image by image 300, 0.0, 0.0
#     confidence_weighted_nms: 20, 0.0, 0.0; image by image 300, 0.0, 0.0
#     without the image's name: soft_voting bayesian confidence_weighted_nms
#   majority_vote, min_votes=2, only model a finds a thing: with one box 0 kept, with two 1
