"""Knowledge distillation: a larger teacher shows how sure each edge and each class is.

Localization distillation (LD; Zheng 2022) in the main region, the positives of ATSS, and in the
valuable localization region around it; class distillation (KD; Hinton 2015) in the main region.
Teacher and student see the same images and must have the same cells, bins and classes.

Tensor legend: B images · P cells of all levels · G objects (padded) · C classes ·
R = reg_max + 1 bins. Everything is dense over the cells, with weights of zero, as in losses.py.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightdet_core.assign import cell_boxes, valuable_region
from lightdet_core.boxes import Batch, Grid, Logits
from lightdet_core.config import DistillConfig, ModelConfig, UserError
from lightdet_core.losses import num_positives, object_shares, positive_weight
from lightdet_core.machinery.distributed import total
from lightdet_core.machinery.packs import check_categories
from lightdet_core.model import LightDet, load_weights

VLR_GAMMA = 0.25  # the region: gamma x threshold <= DIoU < threshold; as released
KD_TEMPERATURE = 2.0  # of the classes; the released code's for COCO


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 x mean over the last dimension of the terms of KL(teacher || student): (…, K) -> (…,).

    The softmaxes are softened by T. T^2 makes up for the gradient's 1 / T^2; the mean (not the
    sum) is the released code's. Computed in float32 whatever comes in.
    """
    log_student = (student.float() / temperature).log_softmax(-1)
    log_teacher = (teacher.detach().float() / temperature).log_softmax(-1)
    terms = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return temperature**2 * terms.mean(-1)


def localization_distillation(
    student: Tensor, teacher: Tensor, weight: Tensor, temperature: float, normalizer: Tensor | float
) -> Tensor:
    """LD: the student's edge distributions are drawn to the teacher's.

    Args:
        student, teacher: (…, 4, R) logits; the teacher gets no gradient.
        weight: (…,) of the cells.
        temperature: T.
        normalizer: the sum over cells and sides is divided by 4 times this number.

    Returns:
        Scalar; without cells a zero that has a graph.
    """
    cells = _divergence(student, teacher, temperature).sum(-1)  # (…,)
    return (weight * cells).sum() / (4 * normalizer)


def class_distillation(
    student: Tensor, teacher: Tensor, weight: Tensor, temperature: float
) -> Tensor:
    """KD in the released form: a softmax over the classes, though they are trained as sigmoids.

    Over a single class that is constant: there it is over object and background, the sigmoid's
    form of the same.

    Class logits (…, C), in GFLv2 without the quality; weights (…,) of the cells, with what the sum
    is to be divided by -> scalar, without cells a zero that has a graph.
    """
    if student.shape[-1] == 1:
        student, teacher = (F.pad(logits, (0, 1)) for logits in (student, teacher))
    return (weight * _divergence(student, teacher, temperature)).sum()


def distillation_loss(
    student: Logits,
    teacher: Logits,
    grid: Grid,
    batch: Batch,
    matched_gt: Tensor,
    thresholds: Tensor,
    cell_scale: float,
    settings: DistillConfig,
) -> dict[str, Tensor]:
    """The distillation terms of a batch, weighted, to be added to those of `detection_loss`.

    Cells weigh as follows: LD in the main region w_p, as in GIoU and DFL; LD in the valuable
    region (VLR) the cell's IoU; KD the object's share of the image. Some positives belong to the
    VLR, too, and count in both, as released.

    No term changes with the batch size: LD is divided by W = max(sum of w_p, 1), VLR by
    max(sum of its weights, 1), so that both are weighted means, and KD by N = sum over images of
    max(positives, 1). (In the released code LD and VLR are sums / 4 and / 16 that grow with the
    batch, and KD is divided by its level's positives: D40.)

    Args:
        student, teacher, grid, batch: of the same images, cells, bins and classes.
        matched_gt, thresholds: (B, P) and (B, G), of `assign.atss` with this cell_scale.
        settings: a term of weight 0 is not computed; temperature is of LD and VLR.

    Returns:
        loss_ld, loss_ld_vlr, loss_kd: scalars; a constant 0 for a term that is switched off.
    """
    share = object_shares(matched_gt, batch.gt_weights)

    def localization(weight: Tensor) -> Tensor:
        by = total(weight.sum()).clamp(min=1)
        edges = student.box, teacher.box
        return localization_distillation(*edges, weight, settings.temperature, by)

    loss = dict.fromkeys(("loss_ld", "loss_ld_vlr", "loss_kd"), share.new_zeros(()))
    if settings.ld_weight:
        weight = positive_weight(student, matched_gt, batch.gt_weights)  # as DFL
        loss["loss_ld"] = settings.ld_weight * localization(weight)
    if settings.vlr_weight:
        cells = cell_boxes(grid.points, grid.strides, cell_scale)
        weight = valuable_region(cells, batch.gt_boxes, batch.gt_mask, thresholds, VLR_GAMMA)
        loss["loss_ld_vlr"] = settings.vlr_weight * localization(weight)
    if settings.kd_weight:
        softened = student.cls, teacher.cls, share / num_positives(matched_gt), KD_TEMPERATURE
        loss["loss_kd"] = settings.kd_weight * class_distillation(*softened)
    return loss


def load_teacher(
    path: Path | str, student: ModelConfig, categories: list[dict], device: torch.device | str
) -> LightDet:
    """A trained network as a teacher: in eval mode, frozen, channels_last on `device`.

    Its logits must be, element by element, about the same as the student's. Backbone, widths,
    depth, activation and head (GFLv1, GFLv2) may differ.

    Args:
        path: weights.safetensors of a finished run.
        student: settings of the run, num_classes filled in.
        categories: id and name by label, of the run's data.

    Raises:
        UserError: missing, damaged, not written by training; or other bins, input size (and with it
            other cells), or classes.
    """
    teacher, config, teacher_categories = load_weights(path)
    learned = ModelConfig(**config["model"])
    for key in ("reg_max", "input_size", "num_classes"):
        wanted, found = getattr(student, key), getattr(learned, key)
        if wanted != found:
            raise UserError(
                f"{path}: the teacher's model.{key} is {found}, the student's {wanted}; "
                f"train a teacher with model.{key} {wanted}"
            )
    check_categories(path, teacher_categories, categories)
    return teacher.requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore
