"""Boxes: cells per level, distances <-> boxes, overlaps, decoding, non-maximum suppression.

Tensor legend: B images · P cells of all levels · G objects (padded) · C classes ·
R = reg_max + 1 bins · H, W. Boxes are xyxy in pixels of the input canvas; distances are
left, top, right, bottom from the cell centre in units of the cell's stride.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from lightdet_core.machinery.images import boxes_on_image

STRIDES = (8, 16, 32)
EPS = 1e-6  # floor of the denominators
QUALITY_TOPK = 4  # GFLv2's setting
MAX_CANDIDATES = 5000  # per image into NMS; a trained network stays far below
# of `detect`, for every AP here; COCO counts no more than 100 boxes of an image
SCORE_THRESHOLD, IOU_THRESHOLD, MAX_DETECTIONS = LIMITS = (0.05, 0.6, 100)


class Grid(NamedTuple):
    """The cells of all levels, stride 8 first, row by row."""

    points: Tensor  # (P, 2) xy of the centres, pixels
    strides: Tensor  # (P,) pixels
    level_sizes: list[int]  # cells per level


class Logits(NamedTuple):
    """What a network says of each cell, float32."""

    cls: Tensor  # (B, P, C)
    box: Tensor  # (B, P, 4, R)
    quality: Tensor | None  # (B, P, 1) of GFLv2, None of GFLv1


class Batch(NamedTuple):
    """Images and their objects on a device; padded entries of the targets are 0 or False."""

    images: Tensor  # (B, 3, H, W) float32 RGB on the 0..255 scale
    gt_boxes: Tensor  # (B, G, 4) float32 xyxy, pixels of the canvas
    gt_labels: Tensor  # (B, G) long
    gt_mask: Tensor  # (B, G) bool: real objects, neither padding nor crowd nor dropped
    gt_weights: Tensor | None = None  # (B, G) the object's share of a mixed image; None: all 1


class Detections(NamedTuple):
    """Detections of one image, by falling score."""

    boxes: Tensor  # (N, 4) xyxy
    scores: Tensor  # (N,)
    labels: Tensor  # (N,)


def level_grid(height: int, width: int, device: torch.device | str = "cpu") -> Grid:
    """The cells of a canvas.

    A level has ceil(size / stride) cells per side; cell (i, j) is centred at ((i + 0.5) stride,
    (j + 0.5) stride).
    """
    points, strides = [], []
    for stride in STRIDES:
        y, x = (torch.arange(0, n, stride, device=device) + stride / 2 for n in (height, width))
        points.append(torch.cartesian_prod(y, x).flip(-1))
        strides.append(torch.full_like(points[-1][:, 0], stride))
    return Grid(torch.cat(points), torch.cat(strides), [len(level) for level in points])


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """points (…, 2) and distances (…, 4) in the same unit -> xyxy (…, 4)."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def boxes_to_distances(points: Tensor, boxes: Tensor, reg_max: int | None = None) -> Tensor:
    """points (…, 2) and xyxy (…, 4) in the same unit -> distances (…, 4).

    With `reg_max` they are clamped to [0, reg_max - 0.1], so that the upper bin exists.
    """
    distances = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)
    return distances if reg_max is None else distances.clamp(0, reg_max - 0.1)


def _mean(edges: Tensor) -> Tensor:
    return edges @ torch.arange(edges.shape[-1], dtype=edges.dtype, device=edges.device)


def integral(box_logits: Tensor) -> Tensor:
    """Expected distance of each edge distribution: (…, R) logits -> (…,) strides."""
    return _mean(box_logits.softmax(-1))


def decode(box_logits: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Edge logits (…, P, 4, R), points (P, 2), strides (P,) -> xyxy pixels (…, P, 4)."""
    return distances_to_boxes(points, integral(box_logits) * strides[:, None])


def edge_shape(edges: Tensor) -> Tensor:
    """What GFLv2 judges edge distributions (…, 4, R) by: (…, 4 (QUALITY_TOPK + 1)).

    Per side the largest probabilities and their mean; a sharp edge has a high peak.
    """
    top = edges.topk(QUALITY_TOPK, -1).values
    return torch.cat([top, top.mean(-1, keepdim=True)], -1).flatten(-2)


def class_scores(cls_logits: Tensor, quality_logits: Tensor | None) -> Tensor:
    """(…, P, C) in 0..1, float32; GFLv2 lowers them by its quality (…, P, 1)."""
    scores = cls_logits.float().sigmoid()
    return scores if quality_logits is None else scores * quality_logits.float().sigmoid()


def scores_and_boxes(
    cls_logits: Tensor, edges: Tensor, quality: Tensor | None, points: Tensor, strides: Tensor
) -> tuple[Tensor, Tensor]:
    """`class_scores`, and xyxy pixels (…, P, 4) of edge distributions (…, P, 4, R)."""
    xyxy = distances_to_boxes(points, _mean(edges) * strides[:, None])
    return class_scores(cls_logits, quality), xyxy


def area(boxes: Tensor) -> Tensor:
    """xyxy (…, 4) -> (…,), zero for inverted boxes."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Overlap area of two broadcastable sets of boxes (…, 4) -> (…,)."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    return (high - low).clamp(min=0).prod(-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of two broadcastable sets of boxes (…, 4) -> (…,)."""
    overlap = intersection(a, b)
    return overlap / (area(a) + area(b) - overlap).clamp(min=EPS)


def enclosing(a: Tensor, b: Tensor) -> Tensor:
    """The smallest boxes that hold both: (…, 4)."""
    low = torch.minimum(a[..., :2], b[..., :2])
    return torch.cat([low, torch.maximum(a[..., 2:], b[..., 2:])], -1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi 2019): IoU less the empty share of the enclosing box."""
    overlap = intersection(a, b)
    union = (area(a) + area(b) - overlap).clamp(min=EPS)
    hull = area(enclosing(a, b)).clamp(min=EPS)
    return overlap / union - (hull - union) / hull


def diou(a: Tensor, b: Tensor) -> Tensor:
    """Distance IoU (Zheng 2020): IoU less squared centre distance over squared hull diagonal.

    The released distillation code divides the overlap by the area of `a` instead of the union;
    this is the published definition.
    """
    shift = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    hull = enclosing(a, b)
    diagonal = (hull[..., 2:] - hull[..., :2]).square().sum(-1).clamp(min=EPS)
    return iou(a, b) - shift.square().sum(-1) / diagonal


def detect(
    scores: Tensor, boxes: Tensor, score_threshold: float, iou_threshold: float, max_detections: int
) -> Detections:
    """Detections of one image: threshold first, then class-wise NMS. A cell may emit many classes.

    Args:
        scores, boxes: (P, C) in 0..1 and (P, 4) xyxy; boxes without area, which no other box
            overlaps, are dropped.
        score_threshold: scores at or below are dropped; of more than MAX_CANDIDATES above it only
            the best enter NMS.
        iou_threshold, max_detections: of NMS, and how many of the highest scores are kept.
    """
    solid = (boxes[:, 2:] > boxes[:, :2]).all(1, keepdim=True)
    cells, labels = ((scores > score_threshold) & solid).nonzero(as_tuple=True)
    scores = scores[cells, labels]
    if len(scores) > MAX_CANDIDATES:
        best = scores.topk(MAX_CANDIDATES).indices
        cells, labels, scores = cells[best], labels[best], scores[best]
    boxes = boxes[cells]
    keep = batched_nms(boxes, scores, labels, iou_threshold)[:max_detections]
    return Detections(boxes[keep], scores[keep], labels[keep])


def on_image(found: Detections, width: int, height: int, size: int) -> Detections:
    """Detections on a canvas of this size -> on the image, float64, on the CPU, clipped to it.

    What lies in the borders of the canvas alone is dropped.
    """
    boxes = boxes_on_image(found.boxes.cpu().double().numpy(), width, height, size)
    inside = torch.from_numpy((boxes[:, 2:] - boxes[:, :2] >= 1e-3).all(1))  # as results round
    return Detections(
        torch.from_numpy(boxes)[inside], found.scores.cpu()[inside], found.labels.cpu()[inside]
    )


def detect_batch(
    scores: Tensor, boxes: Tensor, size: tuple[int, int], *limits: Any
) -> list[Detections]:
    """`detect` for each image: scores (B, P, C), boxes (B, P, 4) clipped to (height, width)."""
    clipped = clip_boxes_to_image(boxes, size)
    return [detect(s, b, *limits) for s, b in zip(scores, clipped, strict=True)]


class DetectionNetwork(nn.Module):
    """A network and its way from raw outputs to boxes: ours, and the other systems of Table 1."""

    def postprocess(
        self, outputs: Sequence[Tensor], size: tuple[int, int], *limits: Any
    ) -> list[Detections]:
        """Detections of each image, of the outputs of `forward`, float32, wherever computed.

        Boxes are clipped to the size, height and width in pixels; `limits` are those of `detect`.
        """
        raise NotImplementedError

    @torch.no_grad()
    def detect(
        self,
        images: Tensor,
        score_threshold: float = SCORE_THRESHOLD,
        iou_threshold: float = IOU_THRESHOLD,
        max_detections: int = MAX_DETECTIONS,
    ) -> list[Detections]:
        """Detections of each image (B, 3, H, W), RGB 0..255; boxes are clipped to the canvas."""
        outputs, size = [x.float() for x in self(images)], (images.shape[-2], images.shape[-1])
        return self.postprocess(outputs, size, score_threshold, iou_threshold, max_detections)
