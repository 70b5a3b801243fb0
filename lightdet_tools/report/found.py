"""What a person would call found; AP is stricter."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightdet_core import boxes
from lightdet_core.boxes import Detections


def found_objects(
    detections: Sequence[Detections],
    gt_boxes: Tensor,
    gt_labels: Tensor,
    gt_mask: Tensor,
    score_threshold: float,
    iou_threshold: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Which objects a person would call found, and how many detections she would call false.

    An object is found if any detection of its class overlaps it enough; one detection may find
    two of them, two may find the same. (AP is stricter; it pairs them.)

    Args:
        detections: of B images, on the canvas of gt_boxes (B, G, 4).
        gt_labels, gt_mask: (B, G); what the mask leaves out is no object.
        score_threshold: detections at or below do not count.

    Returns:
        found (B, G) bool and false alarms (B,) long.
    """
    found, alarms = torch.zeros_like(gt_mask), torch.zeros(len(gt_mask), dtype=torch.long)
    for row, one in enumerate(detections):
        keep = one.scores > score_threshold
        match = boxes.iou(gt_boxes[row][:, None], one.boxes[keep]) >= iou_threshold
        match &= (gt_labels[row][:, None] == one.labels[keep]) & gt_mask[row][:, None]
        found[row] = match.any(1)
        alarms[row] = (~match.any(0)).sum()
    return found, alarms


def clearest(found: Tensor, false_alarms: Tensor, gt_mask: Tensor) -> int:
    """The image with the fewest errors, and of those the one with most objects found.

    Of images with at least three objects, where there are any: an empty one has no errors.

    Args:
        found, gt_mask: (B, G) bool. false_alarms: (B,) long.
    """
    errors = (gt_mask & ~found).sum(1) + false_alarms
    few = (gt_mask.sum(1) < 3) if (gt_mask.sum(1) >= 3).any() else torch.zeros_like(errors)
    most = gt_mask.shape[1] + 1
    return int((found.sum(1) - most * errors - most**3 * few.long()).argmax())
