"""Losses of GFLv1 (Li 2020) and GFLv2 (Li 2021): quality focal, distribution focal, GIoU.

Tensor legend: B images · P cells of all levels · G objects (padded) · C classes ·
R = reg_max + 1 bins. Everything is dense over the cells: weights of zero instead of index
lists, so that a step never waits for the device. Logits are expected in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightdet_core import boxes
from lightdet_core.boxes import Batch, Grid, Logits
from lightdet_core.machinery.distributed import total

WEIGHT_QFL, WEIGHT_GIOU, WEIGHT_DFL = 1.0, 2.0, 0.25


def quality_focal_loss(logits: Tensor, targets: Tensor, beta: float = 2.0) -> Tensor:
    """QFL of GFLv1: BCE(z, y) |y - sigmoid(z)|^beta, the target y being the IoU.

    Logits (…, C), targets (…, C), IoU at the object's class, else 0 -> (…,), summed over C.
    """
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (bce * (targets - logits.sigmoid()).abs().pow(beta)).sum(-1)


def joint_quality_focal_loss(
    cls_logits: Tensor, quality_logits: Tensor, targets: Tensor, beta: float = 2.0
) -> Tensor:
    """QFL of GFLv2 on the joint score s = sigmoid(cls) sigmoid(quality), in log space.

    log s is a sum of two logsigmoids and log(1 - s) = log(-expm1(log s)), so that no
    probability is rounded to 0 or 1.

    Class logits (…, C), quality logits (…, 1), targets (…, C) as above -> (…,), summed over C.
    """
    log_s = F.logsigmoid(cls_logits) + F.logsigmoid(quality_logits)
    one_minus_s = -torch.expm1(log_s)
    bce = -(targets * log_s + (1 - targets) * one_minus_s.clamp(min=1e-12).log())
    return (bce * (targets - log_s.exp()).abs().pow(beta)).sum(-1)


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """DFL: cross-entropy to the two bins next to the target, weighted by nearness.

    Logits (…, R), distances (…,) in strides, within [0, R - 1) -> (…,), unreduced.
    """
    left = distances.floor().clamp(max=logits.shape[-1] - 2)
    share = distances - left  # of the right bin
    index = torch.stack([left, left + 1], -1).long()
    log_p = logits.log_softmax(-1).gather(-1, index)
    return -(log_p[..., 0] * (1 - share) + log_p[..., 1] * share)


@torch.no_grad()
def positive_weight(logits: Logits, matched_gt: Tensor, gt_weights: Tensor | None) -> Tensor:
    """w_p (B, P): the score of a positive cell's best class times its object's share; else 0."""
    scores = boxes.class_scores(logits.cls, logits.quality)
    return scores.amax(-1) * object_shares(matched_gt, gt_weights)


def object_shares(matched_gt: Tensor, gt_weights: Tensor | None) -> Tensor:
    """(B, P): the share of the cell's object in a mixed image, 0 for background."""
    positive = (matched_gt >= 0).float()
    return positive if gt_weights is None else positive * gt_weights.gather(1, matched_gt.clamp(0))


def num_positives(matched_gt: Tensor) -> Tensor:
    """N = sum over images of max(positives, 1), of matched_gt (B, P) of all processes: ()."""
    return total((matched_gt >= 0).sum(1).clamp(min=1).sum())


def detection_loss(
    logits: Logits, grid: Grid, batch: Batch, matched_gt: Tensor, label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """All loss terms of a batch, weighted (1, 2, 0.25) and normalised.

    On many processes both normalisers are those of the global batch: the terms are shares of it.
    QFL is divided by N = sum over images of max(positives, 1); it stays when there is no object,
    so that empty images teach the background. GIoU and DFL weigh a positive by its best class
    score w_p and are divided by W = max(sum of w_p, 1). (NanoDet zeroes every term when W is 0.)

    Args:
        logits, grid: of the network and its cells.
        batch: its targets; gt_weights multiply the quality target and w_p.
        matched_gt: (B, P) index of the cell's object, -1 for background.
        label_smoothing: positives only, y = IoU (1 - label_smoothing).

    Returns:
        loss_qfl, loss_giou, loss_dfl: scalars to be added; num_pos and weight_sum: N and W.
    """
    # in units of the stride; background cells look at object 0 and get the weight 0
    owner, stride = matched_gt.clamp(min=0)[..., None], grid.strides[:, None]
    centers = grid.points / stride  # (P, 2)
    targets = batch.gt_boxes.gather(1, owner.expand(-1, -1, 4)) / stride  # (B, P, 4)
    predicted = boxes.distances_to_boxes(centers, boxes.integral(logits.box))

    share = object_shares(matched_gt, batch.gt_weights)
    iou_target = boxes.iou(predicted.detach(), targets) * share * (1 - label_smoothing)
    labels = batch.gt_labels[..., None].gather(1, owner)  # (B, P, 1)
    cls_targets = torch.zeros_like(logits.cls).scatter_(-1, labels, iou_target[..., None])
    if logits.quality is None:
        qfl = quality_focal_loss(logits.cls, cls_targets)
    else:
        qfl = joint_quality_focal_loss(logits.cls, logits.quality, cls_targets)
    num_pos = num_positives(matched_gt)

    reg_max = logits.box.shape[-1] - 1
    weight = positive_weight(logits, matched_gt, batch.gt_weights)
    weight_sum = total(weight.sum()).clamp(min=1)
    giou = (1 - boxes.giou(predicted, targets)) * weight
    distances = boxes.boxes_to_distances(centers, targets, reg_max)
    dfl = distribution_focal_loss(logits.box, distances).mean(-1) * weight
    return {
        "loss_qfl": WEIGHT_QFL * qfl.sum() / num_pos,
        "loss_giou": WEIGHT_GIOU * giou.sum() / weight_sum,
        "loss_dfl": WEIGHT_DFL * dfl.sum() / weight_sum,
        "num_pos": num_pos,
        "weight_sum": weight_sum,
    }
