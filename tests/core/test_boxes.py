import torch
from conftest import close, saw

from lightdet_core import boxes


def test_overlaps_golden(golden):
    inputs, expected = golden("iou_pairwise")
    a, b = torch.tensor(inputs["boxes1"]), torch.tensor(inputs["boxes2"])
    close(boxes.iou(a[:, None], b), expected["iou"])
    close(boxes.giou(a[:, None], b), expected["giou"])
    close(boxes.intersection(a[:, None], b) / boxes.area(a)[:, None], expected["iof"])
    close(boxes.iou(a, b), expected["iou_aligned"])
    close(boxes.giou(a, b), expected["giou_aligned"])


def test_diou_is_the_published_one(golden):
    inputs, expected = golden("diou_true")
    a, b = torch.tensor(inputs["boxes1"]), torch.tensor(inputs["boxes2"])
    close(boxes.diou(a[:, None], b), expected["diou"])


def test_distances_golden(golden):
    inputs, expected = golden("bbox2distance")
    points, xyxy = torch.tensor(inputs["points"]), torch.tensor(inputs["boxes"])
    close(boxes.boxes_to_distances(points, xyxy, inputs["max_dis"]), expected["distances"])
    close(boxes.boxes_to_distances(points, xyxy), expected["distances_unclamped"])
    inputs, expected = golden("distance2bbox")
    points, distances = torch.tensor(inputs["points"]), torch.tensor(inputs["distances"])
    close(boxes.distances_to_boxes(points, distances), expected["boxes"])


def test_integral_golden(golden):
    close(boxes.integral(saw(2, 32).view(2, 4, 8)), golden("integral")[1]["distances"])


def test_grid_orders_levels_and_rows():
    points, strides, level_sizes = boxes.level_grid(64, 96)
    assert level_sizes == [8 * 12, 4 * 6, 2 * 3]
    assert points[0].tolist() == [4, 4] and points[1].tolist() == [12, 4]
    assert points[12].tolist() == [4, 12]
    assert points[-1].tolist() == [80, 48] and strides[-1] == 32
    assert sum(boxes.level_grid(416, 416)[2]) == 3549
    assert boxes.level_grid(208, 208)[2] == [26 * 26, 13 * 13, 7 * 7]  # odd maps round up


def test_decode_and_nms_golden(golden):
    logits = saw(2, 189, 35, lo=-3, hi=2)[0]
    points, strides, _ = boxes.level_grid(96, 96)
    xyxy = boxes.decode(logits[:, 3:].view(-1, 4, 8), points, strides).clamp(0, 96)
    kept, scores, labels = boxes.detect(logits[:, :3].sigmoid(), xyxy, 0.05, 0.6, 100)
    expected = golden("decode_nms")[1]
    assert len(kept) == expected["num_det"]
    top = torch.cat([kept, scores[:, None]], -1)[:5]
    close(top, expected["top5_boxes_score"], atol=1e-5)
    assert labels[:5].tolist() == expected["top5_labels"]
    close(scores[-1], expected["last_score"])
    close(kept.double().sum(), expected["sum_of_coordinates"], atol=1e-6)


def test_detect_thresholds_strictly_and_separates_classes():
    xyxy = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
    scores = torch.tensor([[0.9, 0.3], [0.8, 0.0], [0.05, 0.0]])
    _, values, labels = boxes.detect(scores, xyxy, 0.05, 0.6, 100)
    # the second box falls to the first one's class; one cell emits two classes; 0.05 is not above
    assert labels.tolist() == [0, 1] and values.tolist() == [scores[0, 0], scores[0, 1]]
    assert len(boxes.detect(scores, xyxy, 0.05, 0.6, 1)[0]) == 1
    assert len(boxes.detect(scores * 0, xyxy, 0.05, 0.6, 100)[0]) == 0


def test_candidates_beyond_the_cap_are_the_lowest(monkeypatch):
    monkeypatch.setattr(boxes, "MAX_CANDIDATES", 3)
    xyxy = torch.arange(6.0)[:, None] * 100 + torch.tensor([0.0, 0, 10, 10])
    scores = torch.tensor([0.2, 0.9, 0.3, 0.8, 0.1, 0.7])[:, None]
    values = boxes.detect(scores, xyxy, 0.05, 0.6, 100)[1]
    torch.testing.assert_close(values, torch.tensor([0.9, 0.8, 0.7]))


def test_boxes_without_area_are_dropped_before_nms():
    """At the edge of the canvas: no other box overlaps them, so that NMS would keep all three."""
    flat = torch.tensor([[0.0, 416, 30, 416]]).repeat(3, 1)
    found = torch.cat([flat, torch.tensor([[10.0, 10, 50, 50]])])
    kept = boxes.detect(torch.tensor([[0.9], [0.8], [0.7], [0.6]]), found, 0.05, 0.6, 2)
    assert kept.boxes.tolist() == [[10, 10, 50, 50]] and kept.labels.tolist() == [0]


def test_what_lies_in_the_border_alone_is_not_on_the_image():
    """640 x 480 in 416: 312 rows from 52 on."""
    found = torch.tensor([[0.0, 0, 416, 51], [0, 365, 416, 416], [13, 0, 26, 65]])
    seen = boxes.Detections(found, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 2]))
    seen = boxes.on_image(seen, 640, 480, 416)
    assert seen.boxes.tolist() == [[20, 0, 40, 20]] and seen.labels.tolist() == [2]
