import torch
from conftest import close

from lightdet_core.assign import atss, cell_boxes, valuable_region
from lightdet_core.boxes import iou, level_grid


def golden_set_up(golden):
    inputs, expected = golden("atss_scale5")
    gt_boxes = torch.tensor(inputs["gt_boxes"])[None]
    return (*level_grid(96, 96), gt_boxes, torch.ones(1, 4, dtype=torch.bool)), expected


def test_atss_golden(golden):
    arguments, expected = golden_set_up(golden)
    matched, thresholds = atss(*arguments, cell_scale=5)
    positives = (matched[0] >= 0).nonzero().flatten()
    assert positives.tolist() == expected["positive_indices"]
    assert (matched[0][positives] + 1).tolist() == expected["positive_gt_1based"]
    close(thresholds[0], expected["iou_threshold_per_gt"])
    cells = cell_boxes(arguments[0], arguments[1], 5)
    close(cells[0], expected["first_cell"])
    close(cells[-1], expected["last_cell"])
    own = arguments[3][0][matched[0][positives]]
    close(iou(cells[positives], own), expected["positive_overlaps"])


def test_valuable_region_golden(golden):
    (points, strides, *rest), _ = golden_set_up(golden)
    _, thresholds = atss(points, strides, *rest, cell_scale=5)
    weights = valuable_region(cell_boxes(points, strides, 5), *rest[1:], thresholds, 0.25)[0]
    expected = golden("vlr_true_diou_scale5")[1]
    members = weights.nonzero().flatten()
    assert members.tolist() == expected["vlr_indices"]
    close(weights[members], expected["vlr_weights_iou"])


def test_batch_and_padding_change_nothing(golden):
    """Each image of a padded batch is assigned as it would be alone."""
    (points, strides, sizes, *_), _ = golden_set_up(golden)
    torch.manual_seed(0)
    low = torch.rand(3, 6, 2) * 60
    batch = torch.cat([low, low + 4 + torch.rand(3, 6, 2) * 30], -1)
    mask = torch.arange(6) < torch.tensor([6, 2, 0])[:, None]
    cells = cell_boxes(points, strides, 5)
    together, thresholds = atss(points, strides, sizes, batch, mask, 5)
    region = valuable_region(cells, batch, mask, thresholds, 0.25)
    for i, count in enumerate((6, 2)):
        alone_mask = torch.ones(1, count, dtype=torch.bool)
        objects = batch[i : i + 1, :count], alone_mask
        matched, own = atss(points, strides, sizes, *objects, 5)
        assert torch.equal(together[i], matched[0])
        assert torch.equal(region[i], valuable_region(cells, *objects, own, 0.25)[0])
    assert (together[2] == -1).all() and (region[2] == 0).all()  # no object: all background


def test_contested_cell_goes_to_the_highest_overlap():
    points, strides, sizes = level_grid(64, 64)
    gt_boxes = torch.tensor([[[8.0, 8, 56, 56], [10.0, 10, 50, 50]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    matched, _ = atss(points, strides, sizes, gt_boxes, mask, 5)
    cells = cell_boxes(points, strides, 5)
    alone = [atss(points, strides, sizes, gt_boxes[:, [i]], mask[:, :1], 5)[0][0] for i in (0, 1)]
    contested = (torch.stack(alone) >= 0).all(0)
    assert contested.any()
    best = iou(cells[contested][:, None], gt_boxes[0]).argmax(-1)
    assert torch.equal(matched[0][contested], best)


def test_positives_lie_inside_and_thin_boxes_get_none():
    points, strides, sizes = level_grid(64, 64)
    gt_boxes = torch.tensor([[[8.0, 8, 40, 30], [5.0, 5, 5, 50]]])  # the second has no width
    mask = torch.ones(1, 2, dtype=torch.bool)
    matched, _ = atss(points, strides, sizes, gt_boxes, mask, 5)
    inside = points[matched[0] == 0]
    assert len(inside) and (inside > torch.tensor([8.0, 8])).all()
    assert (inside < torch.tensor([40.0, 30])).all()
    assert not (matched == 1).any()


def test_fewer_cells_than_candidates():
    """A 32 px canvas has one cell at stride 32 and four at stride 16."""
    gt_boxes, mask = torch.tensor([[[2.0, 2, 30, 30]]]), torch.ones(1, 1, dtype=torch.bool)
    matched, thresholds = atss(*level_grid(32, 32), gt_boxes, mask, 5)
    assert thresholds.isfinite().all() and (matched >= 0).any()
