import torch
from conftest import close, same, saw

from lightdet_core import losses
from lightdet_core.assign import atss
from lightdet_core.boxes import Batch, Logits, giou, level_grid


def one_hot_targets(labels: list[int], scores: list[float], classes: int) -> torch.Tensor:
    """Golden cases give a label per row; the label `classes` is background."""
    padded = torch.zeros(len(labels), classes + 1)
    padded[range(len(labels)), labels] = torch.tensor(scores)
    return padded[:, :classes]


def test_quality_focal_loss_golden(golden):
    inputs, expected = golden("qfl_logits")
    logits = torch.linspace(-3, 3, 15).view(5, 3)
    rows = losses.quality_focal_loss(logits, one_hot_targets(inputs["labels"], inputs["scores"], 3))
    close(rows, expected["per_row"])
    weighted = (rows * torch.tensor(inputs["weight"])).sum() / inputs["avg_factor"]
    close(weighted, expected["loss"])


def test_distribution_focal_loss_golden(golden):
    inputs, expected = golden("dfl")
    rows = losses.distribution_focal_loss(saw(6, 8), torch.tensor(inputs["targets"]))
    close(rows, expected["per_row"])
    weighted = (rows * torch.tensor(inputs["weight"])).sum() / inputs["avg_factor"]
    close(weighted * losses.WEIGHT_DFL, expected["loss"])


def test_giou_loss_golden(golden):
    inputs, expected = golden("giou_loss")
    rows = 1 - giou(torch.tensor(inputs["pred"]), torch.tensor(inputs["target"]))
    close(rows, expected["per_box"])
    close((rows * torch.tensor(inputs["weight"])).sum() * losses.WEIGHT_GIOU, expected["loss"])


def test_joint_form_equals_the_probability_form():
    """Against BCE on s = sigmoid(z) sigmoid(u) in float64, value and gradient."""
    z = torch.linspace(-12, 12, 25).repeat(5)[:, None].requires_grad_()
    u = torch.linspace(-6, 10, 5).repeat_interleave(25)[:, None].requires_grad_()
    y = torch.rand(125, 1, generator=torch.Generator().manual_seed(0))
    loss = losses.joint_quality_focal_loss(z, u, y)
    grads = torch.autograd.grad(loss.sum(), (z, u))
    z64, u64 = (x.detach().double().requires_grad_() for x in (z, u))
    s = z64.sigmoid() * u64.sigmoid()
    expected = -(y * s.log() + (1 - y) * (-s).log1p()) * (y - s).abs() ** 2
    expected_grads = torch.autograd.grad(expected.sum(), (z64, u64))
    torch.testing.assert_close(loss.double(), expected[:, 0], atol=6.4e-5, rtol=1e-5)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad.double(), wanted, atol=1.9e-5, rtol=1e-5)


def test_joint_form_is_finite_at_extremes():
    z = torch.tensor([[100.0], [-100.0], [100.0]], requires_grad=True)
    u = torch.tensor([[100.0], [-100.0], [-100.0]])
    loss = losses.joint_quality_focal_loss(z, u, torch.tensor([[0.0], [1.0], [0.5]]))
    loss.sum().backward()
    assert loss.isfinite().all() and z.grad.isfinite().all()


def reference_batch(golden):
    inputs, expected = golden("nanodet_head_loss")
    preds = saw(2, 189, 35, lo=-3, hi=2)
    gt_boxes, gt_labels = torch.zeros(2, 4, 4), torch.zeros(2, 4, dtype=torch.long)
    gt_mask = torch.zeros(2, 4, dtype=torch.bool)
    for i, (xyxy, labels) in enumerate(zip(inputs["gt_boxes"], inputs["gt_labels"], strict=True)):
        gt_boxes[i, : len(xyxy)] = torch.tensor(xyxy)
        gt_labels[i, : len(xyxy)] = torch.tensor(labels)
        gt_mask[i, : len(xyxy)] = True
    return (preds, gt_boxes, gt_labels, gt_mask), expected


def batch_loss(
    preds, gt_boxes, gt_labels, gt_mask, gt_weights=None, quality_logits=None, label_smoothing=0.0
):
    grid = level_grid(96, 96)
    matched, _ = atss(*grid, gt_boxes, gt_mask, 5)
    logits = Logits(preds[..., :3], preds[..., 3:].unflatten(-1, (4, 8)), quality_logits)
    batch = Batch(torch.zeros(len(preds), 3, 96, 96), gt_boxes, gt_labels, gt_mask, gt_weights)
    return losses.detection_loss(logits, grid, batch, matched, label_smoothing)


def test_detection_loss_golden(golden):
    batch, expected = reference_batch(golden)
    loss = batch_loss(*batch)
    close(loss["loss_qfl"], expected["loss_qfl"])
    close(loss["loss_giou"], expected["loss_bbox"])
    close(loss["loss_dfl"], expected["loss_dfl"])
    assert loss["num_pos"] == expected["num_total_pos"]
    close(loss["weight_sum"], expected["sum_weight_targets"])


def test_images_without_objects_teach_the_background(golden):
    """NanoDet returns 0 here; we keep the quality loss (its value is in the golden case)."""
    preds, gt_boxes, gt_labels, gt_mask = (x[:1].clone() for x in reference_batch(golden)[0])
    loss = batch_loss(preds.requires_grad_(), gt_boxes, gt_labels, gt_mask & False)
    close(loss["loss_qfl"], golden("nanodet_head_loss_empty")[1]["qfl_if_kept"])
    assert loss["loss_giou"] == 0 and loss["loss_dfl"] == 0
    sum(v for k, v in loss.items() if k.startswith("loss_")).backward()
    assert preds.grad.isfinite().all() and preds.grad[..., :3].abs().sum() > 0
    assert preds.grad[..., 3:].abs().sum() == 0


def test_doubling_the_batch_changes_nothing(golden):
    batch, _ = reference_batch(golden)
    once, twice = batch_loss(*batch), batch_loss(*(torch.cat([x, x]) for x in batch))
    for key in ("loss_qfl", "loss_giou", "loss_dfl"):
        torch.testing.assert_close(once[key], twice[key])


def test_box_weights(golden):
    """Weight 1 is no weight; weight 0 leaves the cell as background; W scales with the weight."""
    batch, _ = reference_batch(golden)
    plain, empty = batch_loss(*batch), batch_loss(*batch[:3], batch[3] & False)
    none, half, ones = (
        batch_loss(*batch, gt_weights=torch.full((2, 4), weight)) for weight in (0.0, 0.5, 1.0)
    )
    assert same(plain, ones)
    torch.testing.assert_close(half["weight_sum"], plain["weight_sum"] / 2)
    torch.testing.assert_close(half["loss_giou"], plain["loss_giou"])  # a mean stays a mean
    sums = [loss["loss_qfl"] * loss["num_pos"] for loss in (none, empty)]
    torch.testing.assert_close(*sums)
    assert none["loss_dfl"] == 0


def test_label_smoothing_touches_positives_only(golden):
    batch, _ = reference_batch(golden)
    smooth = batch_loss(*batch, label_smoothing=0.05)
    weighted = batch_loss(*batch, gt_weights=torch.full((2, 4), 0.95))
    torch.testing.assert_close(smooth["loss_qfl"], weighted["loss_qfl"])  # y = 0.95 IoU
    plain = batch_loss(*batch)
    assert torch.equal(smooth["loss_dfl"], plain["loss_dfl"])
    assert smooth["loss_qfl"] != plain["loss_qfl"]


def test_gflv2_with_certain_quality_is_gflv1(golden):
    """u -> +inf means q = 1: the joint loss becomes the logit loss."""
    batch, expected = reference_batch(golden)
    loss = batch_loss(*batch, quality_logits=torch.full((2, 189, 1), 40.0))
    close(loss["loss_qfl"], expected["loss_qfl"], atol=1e-5)
    close(loss["loss_giou"], expected["loss_bbox"])
