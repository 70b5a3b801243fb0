"""Which cells learn which object: ATSS (Zhang 2020), and the valuable localization region.

Tensor legend: B images · G objects (padded) · P cells of all levels · K candidates.
All objects of all images are treated at once; nothing leaves the device.
"""

from torch import Tensor, cat

from lightdet_core.boxes import boxes_to_distances, diou, iou

INSIDE = 0.01  # px by which a positive cell's centre must lie within the object


def cell_boxes(points: Tensor, strides: Tensor, cell_scale: float) -> Tensor:
    """The square cell around each centre, `cell_scale` strides wide: (P, 4) xyxy."""
    half = (strides * cell_scale / 2)[:, None]
    return cat([points - half, points + half], -1)


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

    An object's candidates are the nearest cells of every level. One is positive if its IoU reaches
    the object's threshold (mean + standard deviation, unbiased, of all candidates) and its centre
    lies inside the object. A cell that several objects claim goes to the one with the highest IoU.

    Args:
        points, strides, level_sizes: the cells, as in `boxes.Grid`.
        gt_boxes: (B, G, 4) xyxy, pixels.
        gt_mask: (B, G) bool, False for padding.
        cell_scale: side of a cell in strides.
        topk: candidates per level.

    Returns:
        matched_gt (B, P) long, -1 for background; thresholds (B, G).
    """
    targets = gt_boxes[:, :, None]  # (B, G, 1, 4)
    centers = (targets[..., :2] + targets[..., 2:]) / 2
    nearest, start = [], 0
    for level in points.split(level_sizes):
        distance = (centers - level).square().sum(-1)  # (B, G, cells of the level)
        nearest.append(distance.topk(min(topk, len(level)), largest=False).indices + start)
        start += len(level)
    indices = cat(nearest, -1)  # (B, G, K)
    overlaps = iou(cell_boxes(points, strides, cell_scale)[indices], targets)  # (B, G, K)
    thresholds = overlaps.mean(-1) + overlaps.std(-1)
    inside = boxes_to_distances(points[indices], targets).amin(-1) > INSIDE
    positive = (overlaps >= thresholds[..., None]) & inside & gt_mask[..., None]
    claims = overlaps.new_full((*gt_boxes.shape[:2], len(points)), -1.0)  # (B, G, P)
    claims.scatter_(-1, indices, overlaps.masked_fill(~positive, -1.0))
    best, owner = claims.max(1)
    return owner.masked_fill(best < 0, -1), thresholds


def valuable_region(
    cells: Tensor, gt_boxes: Tensor, gt_mask: Tensor, thresholds: Tensor, gamma: float
) -> Tensor:
    """Weights of the valuable localization region (Zheng 2022): cells around the positives.

    A cell belongs to an object's region if gamma x threshold <= DIoU < threshold, with the
    published DIoU.

    Args:
        cells: (P, 4), of `cell_boxes`.
        gt_boxes, gt_mask, thresholds: (B, G, 4) and (B, G), the last of `atss` with these cells.

    Returns:
        (B, P): the largest IoU of the cell with an object in whose region it lies, else 0.
    """
    targets, upper = gt_boxes[:, :, None], thresholds[..., None]
    distance_iou = diou(cells, targets)  # (B, G, P)
    region = (distance_iou >= gamma * upper) & (distance_iou < upper) & gt_mask[..., None]
    return iou(cells, targets).masked_fill(~region, 0).amax(1)
