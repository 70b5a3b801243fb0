"""Which cells learn which object: ATSS (Zhang 2020), and the valuable localization region.

Tensor legend: B images · G objects (padded) · P cells of all levels · K candidates.
All objects of all images are treated at once; nothing leaves the device.
"""

from torch import Tensor, cat

from lightdet_core.boxes import diou, iou

INSIDE = 0.01  # px by which a positive cell's centre must lie within the object


def cell_boxes(points: Tensor, strides: Tensor, cell_scale: float) -> Tensor:
    """The square cell around each centre, `cell_scale` strides wide: (P, 4) xyxy."""
    half = (strides * cell_scale / 2)[:, None]
    return cat([points - half, points + half], -1)


def _candidates(
    points: Tensor,
    cells: Tensor,
    level_sizes: list[int],
    gt_boxes: Tensor,
    topk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Per object the nearest cells of every level, their IoU, and mean + deviation of it.

    Returns:
        indices (B, G, K), their IoU (B, G, K), thresholds (B, G); the deviation is unbiased.
    """
    centers = (gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2  # (B, G, 2)
    nearest, start = [], 0
    for size in level_sizes:
        offset = centers[:, :, None] - points[start : start + size]  # (B, G, size, 2)
        distance = offset.square().sum(-1)
        nearest.append(distance.topk(min(topk, size), largest=False).indices + start)
        start += size
    indices = cat(nearest, -1)  # (B, G, K)
    overlaps = iou(cells[indices], gt_boxes[:, :, None])  # (B, G, K)
    return indices, overlaps, overlaps.mean(-1) + overlaps.std(-1)


def atss(
    points: Tensor,
    strides: Tensor,
    level_sizes: list[int],
    gt_boxes: Tensor,
    gt_mask: Tensor,
    cell_scale: float,
    topk: int = 9,
) -> tuple[Tensor, Tensor]:
    """Adaptive training sample selection for a padded batch.

    A candidate is positive if its IoU reaches the object's threshold (mean + standard deviation
    of all its candidates) and its centre lies inside the object. A cell that several objects
    claim goes to the one with the highest IoU.

    Args:
        points: (P, 2) xy of the cell centres, pixels.
        strides: (P,) pixels.
        level_sizes: cells per level, in the order of `points`.
        gt_boxes: (B, G, 4) xyxy, pixels.
        gt_mask: (B, G) bool, False for padding.
        cell_scale: side of a cell in strides.
        topk: candidates per level.

    Returns:
        matched_gt (B, P) long, -1 for background; thresholds (B, G).
    """
    cells = cell_boxes(points, strides, cell_scale)
    indices, overlaps, thresholds = _candidates(points, cells, level_sizes, gt_boxes, topk)
    candidate_points = points[indices]  # (B, G, K, 2)
    low = candidate_points - gt_boxes[:, :, None, :2]
    high = gt_boxes[:, :, None, 2:] - candidate_points
    inside = cat([low, high], -1).amin(-1) > INSIDE
    positive = (overlaps >= thresholds[..., None]) & inside & gt_mask[..., None]
    claims = overlaps.new_full((*gt_boxes.shape[:2], len(points)), -1.0)  # (B, G, P)
    claims.scatter_(-1, indices, overlaps.masked_fill(~positive, -1.0))
    best, owner = claims.max(1)
    return owner.masked_fill(best < 0, -1), thresholds


def valuable_region(
    points: Tensor,
    strides: Tensor,
    level_sizes: list[int],
    gt_boxes: Tensor,
    gt_mask: Tensor,
    cell_scale: float,
    gamma: float = 0.25,
    topk: int = 9,
) -> Tensor:
    """Weights of the valuable localization region (Zheng 2022): cells around the positives.

    A cell belongs to an object's region if gamma x threshold <= DIoU < threshold, with the
    threshold of `atss` and the published DIoU.

    Returns:
        (B, P): the largest IoU of the cell with an object in whose region it lies, else 0.
    """
    cells = cell_boxes(points, strides, cell_scale)
    _, _, thresholds = _candidates(points, cells, level_sizes, gt_boxes, topk)
    return region_weights(cells, gt_boxes, gt_mask, thresholds, gamma)


def region_weights(
    cells: Tensor, gt_boxes: Tensor, gt_mask: Tensor, thresholds: Tensor, gamma: float
) -> Tensor:
    """`valuable_region` of cells (P, 4) whose thresholds (B, G) `atss` has found already."""
    distance_iou = diou(cells, gt_boxes[:, :, None])  # (B, G, P)
    upper = thresholds[..., None]
    vlr_mask = (distance_iou >= gamma * upper) & (distance_iou < upper) & gt_mask[..., None]
    return iou(cells, gt_boxes[:, :, None]).masked_fill(~vlr_mask, 0).amax(1)
