import dataclasses
import math

import pytest
import torch
from conftest import close, saw

from lightdet_core import distill
from lightdet_core.assign import atss, cell_boxes, valuable_region
from lightdet_core.boxes import Batch, Logits, level_grid
from lightdet_core.config import DistillConfig, ModelConfig, UserError, load_config
from lightdet_core.losses import detection_loss, object_shares, positive_weight
from lightdet_core.model import LightDet, save_weights

TERMS = ("loss_ld", "loss_ld_vlr", "loss_kd")
GRID = level_grid(96, 96)


def settings(**changes) -> DistillConfig:
    return DistillConfig(**{"ld_weight": 1.0, "vlr_weight": 1.0, "kd_weight": 1.0} | changes)


def random_batch() -> dict[str, torch.Tensor]:
    """Two images of 96 x 96 px with three objects and one, 3 classes, 8 bins."""
    torch.manual_seed(0)
    low = torch.rand(2, 3, 2) * 40
    gt_boxes = torch.cat([low, low + 15 + torch.rand(2, 3, 2) * 40], -1)
    gt_boxes[0, 0] = torch.tensor([2.0, 3, 91, 88])  # positives at a coarse level, too
    batch = {
        "cls_logits": torch.randn(2, 189, 3),
        "box_logits": torch.randn(2, 189, 4, 8) * 3,
        "quality_logits": None,
        "teacher_cls_logits": torch.randn(2, 189, 3),
        "teacher_box_logits": torch.randn(2, 189, 4, 8) * 3,
        "gt_boxes": gt_boxes,
        "gt_mask": torch.tensor([[True, True, True], [True, False, False]]),
        "gt_weights": torch.rand(2, 3),
    }
    return with_matches(batch)


def with_matches(batch: dict) -> dict:
    matched_gt, thresholds = atss(*GRID, batch["gt_boxes"], batch["gt_mask"], 5)
    return batch | {"matched_gt": matched_gt, "thresholds": thresholds}


def logits(batch: dict, of: str = "") -> Logits:
    quality = None if of else batch["quality_logits"]
    return Logits(batch[f"{of}cls_logits"], batch[f"{of}box_logits"], quality)


def targets(batch: dict) -> Batch:
    boxes = batch["gt_boxes"]
    labels = torch.zeros(boxes.shape[:2], dtype=torch.long)
    return Batch(torch.zeros(0), boxes, labels, batch["gt_mask"], batch["gt_weights"])


def loss_of(batch: dict, **changes) -> dict[str, torch.Tensor]:
    both = logits(batch), logits(batch, "teacher_")
    matches = batch["matched_gt"], batch["thresholds"]
    return distill.distillation_loss(*both, GRID, targets(batch), *matches, 5, settings(**changes))


def released(batch: dict) -> dict[str, torch.Tensor]:
    """The terms as LD's released code has them: sums / 4 and / 16, KD by its level's positives."""
    student, teacher = logits(batch), logits(batch, "teacher_")
    matched, weights = batch["matched_gt"], batch["gt_weights"]
    main = positive_weight(student, matched, weights)
    cells = cell_boxes(GRID.points, GRID.strides, 5)
    region = valuable_region(cells, batch["gt_boxes"], batch["gt_mask"], batch["thresholds"], 0.25)
    levels = (matched >= 0).split(GRID.level_sizes, 1)
    positives = torch.cat([x.sum().clamp(min=1).expand(x.shape[1]) for x in levels])
    share = object_shares(matched, weights) / positives
    return {
        "loss_ld": distill.localization_distillation(student.box, teacher.box, main, 10, 1),
        "loss_ld_vlr": distill.localization_distillation(student.box, teacher.box, region, 10, 4),
        "loss_kd": distill.class_distillation(student.cls, teacher.cls, share, 2),
    }


def kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> list:
    """T^2 x mean of p log(p / q) over the last dimension, from the definition, in float64."""
    q, p = ((x.double() / temperature).softmax(-1) for x in (student, teacher))
    return (temperature**2 * (p * (p / q).log()).mean(-1)).tolist()


def test_localization_golden_per_side(golden):
    """Each golden row as one side of one cell, the other sides equal to the teacher's."""
    inputs, expected = golden("kl_ld_T10")
    student, teacher = saw(3, 8, lo=-4, hi=4), saw(3, 8, a=6007, lo=-4, hi=4)
    for row, value in enumerate(expected["per_row_mean_over_bins"]):
        teachers = saw(1, 4, 8, a=4001)
        teachers[0, row] = teacher[row]
        students = teachers.clone()
        students[0, row] = student[row]
        loss = distill.localization_distillation(
            students, teachers, torch.ones(1), inputs["T"], normalizer=0.25
        )
        close(loss, value)
    sides = [x[:, None].expand(3, 4, 8) for x in (student, teacher)]
    weight = torch.tensor(inputs["weight"])
    loss = distill.localization_distillation(*sides, weight, inputs["T"], inputs["avg_factor"])
    close(inputs["loss_weight"] * loss, expected["loss"])  # four equal sides, divided by 4


def test_class_distillation_of_one_class_is_that_of_a_sigmoid():
    """Object against background: the teacher says 3/4 at T = 2, the student 1/2."""
    teacher, weight = torch.full((3, 1), 2 * math.log(3)), torch.tensor([0.5, 0.0, 2.0])
    row = 2**2 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    loss = distill.class_distillation(torch.zeros(3, 1), teacher, weight, 2)
    assert loss.item() == pytest.approx(2.5 * row, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_gradients_in_closed_form(temperature):
    """d/dz = T / R (softmax(z / T) - softmax(z_teacher / T)); nothing for teacher and weight."""
    student, teacher, weight = saw(5, 4, 8), saw(5, 4, 8, a=6007), torch.rand(5)
    student.requires_grad_()
    teacher.requires_grad_()
    difference = (student.detach().double() / temperature).softmax(-1)
    difference -= (teacher.detach().double() / temperature).softmax(-1)
    distill.localization_distillation(student, teacher, weight, temperature, 3).backward()
    expected = temperature / 8 * weight[:, None, None] * difference / (4 * 3)
    torch.testing.assert_close(student.grad.double(), expected, atol=1e-6, rtol=1e-5)
    assert teacher.grad is None

    student.grad = None
    rows = student[:, 0], teacher[:, 0]  # 8 classes
    distill.class_distillation(*rows, weight, temperature).backward()
    expected = temperature / 8 * weight[:, None] * difference[:, 0]
    torch.testing.assert_close(student.grad[:, 0].double(), expected, atol=1e-6, rtol=1e-5)
    assert teacher.grad is None


@pytest.mark.parametrize("quality", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_terms_cell_by_cell(quality, mixed):
    """Against plain loops over images and cells in float64; and the released code's sums."""
    batch = random_batch()
    batch["quality_logits"] = torch.randn(2, 189, 1) if quality else None
    batch["gt_weights"] = batch["gt_weights"] if mixed else None
    cells = cell_boxes(GRID.points, GRID.strides, 5)
    region = valuable_region(cells, batch["gt_boxes"], batch["gt_mask"], batch["thresholds"], 0.25)
    level_of = [level for level, size in enumerate(GRID[2]) for _ in range(size)]
    of_sides = kl(batch["box_logits"], batch["teacher_box_logits"], 10)
    of_classes = kl(batch["cls_logits"], batch["teacher_cls_logits"], 2)
    ld = vlr = kd = weight_sum = region_sum = 0.0
    kd_of_level, count_of_level = [0.0] * 3, [0] * 3
    for b in range(2):
        for p in range(189):
            divergence = sum(of_sides[b][p])
            vlr += region[b, p].item() * divergence
            region_sum += region[b, p].item()
            owner = batch["matched_gt"][b, p].item()
            if owner < 0:
                continue
            share = batch["gt_weights"][b, owner].item() if mixed else 1.0
            weight = share * batch["cls_logits"][b, p].max().sigmoid().item()
            if quality:
                weight *= batch["quality_logits"][b, p].sigmoid().item()
            ld += weight * divergence
            weight_sum += weight
            row = share * of_classes[b][p]
            kd += row
            kd_of_level[level_of[p]] += row
            count_of_level[level_of[p]] += 1
    assert weight_sum > 1 and region_sum > 1 and sum(n > 0 for n in count_of_level) >= 2

    loss = loss_of(batch, ld_weight=2.5, vlr_weight=0.5, kd_weight=3.0)
    positives = sum(count_of_level)  # both images have some
    expected = (2.5 * ld / 4 / weight_sum, 0.5 * vlr / 4 / region_sum, 3.0 * kd / positives)
    assert [loss[k].item() for k in TERMS] == pytest.approx(expected, rel=1e-5)

    loss = released(batch)
    levels = zip(kd_of_level, count_of_level, strict=True)
    expected = (ld / 4, vlr / 16, sum(x / max(n, 1) for x, n in levels))
    assert [loss[k].item() for k in TERMS] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("quality", [False, True])
def test_main_region_is_weighted_as_the_box_losses(quality):
    """W, the ratio to the released sum, is `detection_loss`'s; it is at least 1."""
    batch = random_batch()
    batch["quality_logits"] = torch.randn(2, 189, 1) if quality else None
    found = detection_loss(logits(batch), GRID, targets(batch), batch["matched_gt"])
    total = found["weight_sum"]
    sums, means = released(batch), loss_of(batch)
    assert total > 1
    torch.testing.assert_close(sums["loss_ld"] / means["loss_ld"], total)
    batch["cls_logits"] -= 15
    sums, means = released(batch), loss_of(batch)
    torch.testing.assert_close(sums["loss_ld"], means["loss_ld"])  # W = 1
    assert 0 < means["loss_ld"] < 1e-2


def test_doubling_the_batch():
    """No term changes. As released both sums double, and KD is a mean of its level."""
    batch = random_batch()
    twice = {k: v if v is None else torch.cat([v, v]) for k, v in batch.items()}
    for terms, factors in ((loss_of, (1, 1, 1)), (released, (2, 2, 1))):
        once, doubled = terms(batch), terms(twice)
        for key, factor in zip(TERMS, factors, strict=True):
            assert once[key] > 0
            torch.testing.assert_close(doubled[key], factor * once[key])


def test_which_cells_learn(golden):
    """LD and KD at the positives, VLR in its region, which shares six positives (golden)."""
    inputs, expected = golden("atss_scale5")
    region = golden("vlr_true_diou_scale5")[1]
    batch = {k: v[:1] for k, v in random_batch().items() if v is not None}
    batch |= {"quality_logits": torch.randn(1, 189, 1), "gt_weights": None}
    batch["gt_boxes"] = torch.tensor(inputs["gt_boxes"])[None]
    batch["gt_mask"] = torch.ones(1, 4, dtype=torch.bool)
    batch = with_matches(batch)
    student = [batch[k].requires_grad_() for k in ("box_logits", "cls_logits", "quality_logits")]
    cells = {}
    for key, own in zip(TERMS, (0, 0, 1), strict=True):
        grads = torch.autograd.grad(loss_of(batch)[key], student, allow_unused=True)
        # w_p is detached: class and quality do not learn from LD
        assert [i for i, grad in enumerate(grads) if grad is not None] == [own]
        cells[key] = grads[own][0].flatten(1).abs().sum(1).nonzero().flatten().tolist()
    assert cells["loss_ld"] == cells["loss_kd"] == expected["positive_indices"]
    assert cells["loss_ld_vlr"] == region["vlr_indices"]
    both = set(cells["loss_ld"]) & set(cells["loss_ld_vlr"])
    assert len(both) == region["num_pos_also_in_vlr"]


def test_gamma_and_temperatures_reach_their_terms(monkeypatch):
    base = loss_of(random_batch())
    other = loss_of(random_batch(), temperature=0.9)
    assert {k for k in TERMS if other[k] != base[k]} == {"loss_ld", "loss_ld_vlr"}
    for name, moved in (("KD_TEMPERATURE", "loss_kd"), ("VLR_GAMMA", "loss_ld_vlr")):
        with monkeypatch.context() as patch:
            patch.setattr(distill, name, 0.9)
            other = loss_of(random_batch())
        assert {k for k in TERMS if other[k] != base[k]} == {moved}


def test_without_objects():
    batch = random_batch()
    batch["gt_mask"] &= False
    batch = with_matches(batch)
    for key in ("cls_logits", "box_logits"):
        batch[key].requires_grad_()
    loss = loss_of(batch)
    assert all(loss[k].item() == 0 and loss[k].requires_grad for k in TERMS)
    sum(loss.values()).backward()
    assert all(batch[k].grad.abs().sum() == 0 for k in ("cls_logits", "box_logits"))


def test_without_rows():
    student = torch.zeros(0, 4, 8, requires_grad=True)
    loss = distill.localization_distillation(student, student, torch.zeros(0), 10, 1.0)
    loss = loss + distill.class_distillation(student[:, 0], student[:, 0], torch.zeros(0), 2)
    loss.backward()
    assert loss.item() == 0 and student.grad.shape == student.shape


def test_half_precision_is_computed_in_float32():
    """bfloat16 logits give what the same values give as float32, under autocast, too."""
    full = random_batch() | {"quality_logits": torch.randn(2, 189, 1)}
    half = full | {k: v.bfloat16() for k, v in full.items() if k.endswith("logits")}
    full |= {k: v.float() for k, v in half.items() if k.endswith("logits")}
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_of(half)
    expected = loss_of(full)
    for key in TERMS:
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], expected[key])


def test_a_weight_of_zero_skips_the_term(monkeypatch):
    called = []
    for name in ("localization_distillation", "class_distillation", "valuable_region"):
        function = getattr(distill, name)
        monkeypatch.setattr(
            distill, name, lambda *a, f=function, n=name, **k: called.append(n) or f(*a, **k)
        )
    off = {"ld_weight": 0.0, "vlr_weight": 0.0, "kd_weight": 0.0}
    for weight, term, functions in (
        ("ld_weight", "loss_ld", ["localization_distillation"]),
        ("vlr_weight", "loss_ld_vlr", ["valuable_region", "localization_distillation"]),
        ("kd_weight", "loss_kd", ["class_distillation"]),
    ):
        called.clear()
        loss = loss_of(random_batch(), **off | {weight: 1.0})
        assert called == functions
        assert loss[term] > 0 and all(loss[k] == 0 for k in TERMS if k != term)
    called.clear()
    assert all(v == 0 for v in loss_of(random_batch(), **off).values()) and called == []


CATEGORIES = [{"id": 1, "name": "car"}, {"id": 4, "name": "bus"}]


@pytest.mark.parametrize(
    ("changes", "categories", "message"),
    [
        ({"reg_max": 16}, CATEGORIES, r"teacher's model\.reg_max is 16, the student's 7"),
        ({"input_size": 416}, CATEGORIES, r"teacher's model\.input_size is 416, the student's 64"),
        ({"num_classes": 3}, CATEGORIES, r"teacher's model\.num_classes is 3, the student's 2"),
        ({}, CATEGORIES[::-1], r"label 0 .* \(4, 'bus'\) there, but \(1, 'car'\)"),
        ({}, [CATEGORIES[0], {"id": 4, "name": "tram"}], r"label 1 .* \(4, 'tram'\) there"),
        ({}, [CATEGORIES[0], {"id": 2, "name": "bus"}], r"label 1 .* \(2, 'bus'\) there"),
        ({}, CATEGORIES[:1], r"label 1 .* None there, but \(4, 'bus'\)"),
    ],
)
def test_teachers_that_do_not_fit(monkeypatch, changes, categories, message):
    student = ModelConfig(reg_max=7, input_size=64, num_classes=2)
    settings = {"model": dataclasses.asdict(dataclasses.replace(student, **changes))}
    monkeypatch.setattr(distill, "load_weights", lambda _: (None, settings, categories))
    with pytest.raises(UserError, match=message) as error:
        distill.load_teacher("runs/big/w.safetensors", student, CATEGORIES, "cpu")
    assert "runs/big/w.safetensors" in str(error.value)
    assert ("take weights" if "label" in message else "train a teacher") in str(error.value)


def test_load_teacher(tmp_path):
    """Another backbone, width, depth, activation and head fit; the teacher is frozen."""
    student = ModelConfig("lite1", 64, num_classes=2, channels=16, stacked_convs=1, reg_max=7)
    teacher = dataclasses.replace(
        student, backbone="lite0", channels=24, stacked_convs=2, activation="mish", head="gflv2"
    )
    path = tmp_path / "weights.safetensors"
    with pytest.raises(UserError, match=r"weights\.safetensors: no trained run there"):
        distill.load_teacher(path, student, CATEGORIES, "cpu")
    config = dataclasses.replace(load_config("g1", "demo"), model=teacher)
    trained = LightDet(teacher).eval()
    extended = [c | {"supercategory": "vehicle"} for c in CATEGORIES]
    save_weights(path, trained.state_dict(), config, extended)
    with pytest.raises(distill.UserError, match=r"weights\.safetensors: .*reg_max"):
        distill.load_teacher(path, dataclasses.replace(student, reg_max=8), CATEGORIES, "cpu")

    loaded = distill.load_teacher(path, student, CATEGORIES, torch.device("cpu"))
    assert not any(module.training for module in loaded.modules())
    assert not any(p.requires_grad for p in loaded.parameters())
    conv = next(p for p in loaded.parameters() if p.dim() == 4 and p.shape[1] > 1)
    assert conv.is_contiguous(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 64, 64) * 255
    found = loaded(images)
    torch.testing.assert_close(found, trained(images), atol=1e-4, rtol=1e-4)
    cells = sum(level_grid(64, 64)[2])
    assert [x.shape for x in found] == [(2, cells, 2), (2, cells, 4, 8)]  # as the student's
