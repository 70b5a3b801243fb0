#!/usr/bin/env bash
# Guess: fusing the same detections by several methods, one after the other, compares the methods.
# Really: with weights, nms and soft_nms of ensemble-boxes write the weighted scores into the caller's lists. Each
#   later call gets them weighted already and weights them again: the fusion after both, as in the example of the
#   package's README, gives 0.3 in place of 0.9, and a box elsewhere, as the second model counts for less
#   each time. Without weights nothing is changed; NMW and WBF leave the lists alone.
# Here: each call gets a copy of the scores.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 ensemble-boxes==1.0.9 numba==0.68.1 pandas==3.1.1
venv/bin/python - <<'EOF'
from copy import deepcopy
from importlib.metadata import version

import numpy as np
from ensemble_boxes import nms, non_maximum_weighted, soft_nms, weighted_boxes_fusion

print("ensemble-boxes", version("ensemble-boxes"))
# two models, the same object and one of its own each
BOXES = [
    [[0.10, 0.10, 0.50, 0.50], [0.60, 0.60, 0.90, 0.90]],
    [[0.14, 0.10, 0.54, 0.50], [0.10, 0.70, 0.30, 0.90]],
]
SCORES, LABELS = [[0.9, 0.6], [0.9, 0.8]], [[0, 0], [0, 0]]
METHODS = (nms, soft_nms, non_maximum_weighted, weighted_boxes_fusion)


def compare(methods, scores, weights):
    """Each method in turn on the same lists -> the last one's scores and left edge of its best box, the lists then."""
    for method in methods:
        boxes, fused, _ = method(BOXES, scores, LABELS, weights=weights, iou_thr=0.5)
        fused = fused.astype(float).round(3).tolist()
        print(f"  {method.__name__}: scores {fused}, best from {boxes[0, 0]:.3f}")
    return fused, round(float(boxes[0, 0]), 3), [np.round(s, 3).tolist() for s in scores]


seen = {}
for weights in ([2, 1], None):
    print(f"weights {weights}, the fusion alone")
    seen[bool(weights), 1] = compare(METHODS[3:], deepcopy(SCORES), weights)
    print(f"weights {weights}, in the README's order")
    seen[bool(weights), 4] = compare(METHODS, deepcopy(SCORES), weights)
    print(f"  the caller's scores then: {seen[bool(weights), 4][2]}")

assert seen[False, 1] == seen[False, 4] and seen[False, 4][2] == SCORES
alone, after = seen[True, 1], seen[True, 4]
assert alone == ([0.9, 0.4, 0.267], 0.113, SCORES)
assert after == ([0.3, 0.178, 0.03], 0.104, [[0.4, 0.267], [0.1, 0.089]])
EOF
# Seen (Python 3.11, Linux, x86-64):
#   ensemble-boxes 1.0.9
#   weights [2, 1], the fusion alone
#     weighted_boxes_fusion: scores [0.9, 0.4, 0.267], best from 0.113
#   weights [2, 1], in the README's order
#     nms: scores [0.6, 0.4, 0.267], best from 0.100
#     soft_nms: scores [0.4, 0.267, 0.089, 0.1], best from 0.100
#     non_maximum_weighted: scores [0.4, 0.267, 0.044], best from 0.104
#     weighted_boxes_fusion: scores [0.3, 0.178, 0.03], best from 0.104
#     the caller's scores then: [[0.4, 0.267], [0.1, 0.089]]
#   weights None, the fusion alone
#     weighted_boxes_fusion: scores [0.9, 0.4, 0.3], best from 0.120
#   weights None, in the README's order
#     nms: scores [0.9, 0.8, 0.6], best from 0.140
#     soft_nms: scores [0.9, 0.8, 0.6, 0.9], best from 0.100
#     non_maximum_weighted: scores [0.9, 0.8, 0.6], best from 0.122
#     weighted_boxes_fusion: scores [0.9, 0.4, 0.3], best from 0.120
#     the caller's scores then: [[0.9, 0.6], [0.9, 0.8]]
