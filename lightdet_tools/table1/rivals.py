"""Table 1's rivals, trained by our loop on our data: YOLOv4-tiny, NanoDet-m.

From random weights, on the same images, in the same order, with the same optimizer as ours: what
differs is the network with its input size, and of YOLOv4-tiny the losses, which are darknet's.
Tensor legend: B images · G objects (padded) · N anchors at their cells · C classes.
"""

from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss

from lightdet_core.boxes import Batch, iou
from lightdet_core.config import Config, ConfigError, ModelConfig, load_config
from lightdet_core.engine import LIGHTDET, Network
from lightdet_core.losses import object_shares
from lightdet_core.machinery.distributed import total
from lightdet_tools.table1.darknet import Raw, Yolo, build_yolo
from lightdet_tools.table1.nanodet import NanoDet

# of yolov4-tiny.cfg: input, anchors (no output has the first one), weight of the box, threshold
SIZE = 416
ANCHORS = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))
WEIGHT_CIOU, IGNORED, SCALE_XY = 0.07, 0.7, 1.05
SAYS = 0.25  # the least score of a class (darknet's compare_yolo_class)


@torch.no_grad()
def owners(raw: Raw, batch: Batch) -> Tensor:
    """The object that each anchor learns, as darknet has it: (B, N), -1 for background.

    An object belongs to the cell that holds its centre and there to the one anchor, of the six,
    whose shape is nearest by IoU. Those nearest to the anchor that no output has are learnt by
    none; of several objects at one anchor the last is (darknet adds all of them up).
    """
    scale = batch.images.shape[-1] / SIZE
    shapes = raw.anchors.new_tensor(ANCHORS) * scale  # (6, 2)
    sides = batch.gt_boxes[..., 2:] - batch.gt_boxes[..., :2]
    common = torch.minimum(sides[:, :, None], shapes).prod(-1)  # (B, G, 6)
    every = sides.prod(-1, keepdim=True) + shapes.prod(-1) - common
    nearest = shapes[(common / every.clamp(min=1e-6)).argmax(-1)]  # (B, G, 2)
    centers = (batch.gt_boxes[..., :2] + batch.gt_boxes[..., 2:]) / 2
    cells = centers[:, :, None].div(raw.strides[:, None], rounding_mode="floor")  # (B, G, N, 2)
    fits = (cells == raw.cells).all(-1) & (nearest[:, :, None] == raw.anchors).all(-1)
    numbers = torch.arange(1, sides.shape[1] + 1, device=sides.device)[:, None]
    return ((fits & batch.gt_mask[..., None]) * numbers).amax(1) - 1


def _darknet_steps(raw: Raw, positive: Tensor, size: int) -> Tensor:
    """The boxes of the anchors that learn (K, 4), with the gradients that darknet gives them.

    It differentiates CIoU by centre and sides in shares of the image and takes the gradient of a
    centre for that of its logit (without sigmoid, cell and scale), that of a side times exp(t) for
    that of its logit. So 0.07 weighs more than by the chain rule, for a centre some 30 times. (Its
    doubling of one part for the sides is left out.) Values stay the same.
    """
    boxes = raw.boxes[positive]
    places = positive.nonzero()[:, 1]
    stride, anchor, cell = (x[places] for x in (raw.strides, raw.anchors, raw.cells))
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    with torch.no_grad():
        inside = centers / stride[:, None] - cell  # scale_xy (sigmoid(t) - 1/2) + 1/2
        sigmoid = ((inside - 0.5) / SCALE_XY + 0.5).clamp(1e-3, 1 - 1e-3)
        of_center = size / (stride[:, None] * SCALE_XY * sigmoid * (1 - sigmoid))
        of_side = size / anchor
    centers, sides = (
        x.detach() + (x - x.detach()) * factor
        for x, factor in ((centers, of_center), (sides, of_side))
    )
    return torch.cat([centers - sides / 2, centers + sides / 2], -1)


def yolo_loss(raw: Raw, batch: Batch, config: Config, teacher: None = None) -> dict[str, Tensor]:
    """The losses of YOLOv4-tiny as its cfg sets them: CIoU, objectness, classes; summed, per image.

    Background is pushed down but where a box that says a class at all reaches an IoU of 0.7 with an
    object. An object's share of a mixed image weighs its CIoU and its classes.

    Returns:
        loss_ciou, loss_objectness, loss_class: scalars to be added; num_pos: anchors that learn.
    """
    owner = owners(raw, batch)
    positive = owner >= 0
    targets = batch.gt_boxes.gather(1, owner.clamp(0)[..., None].expand(-1, -1, 4))[positive]
    with torch.no_grad():
        says = (raw.logits[..., 1:].sigmoid() > SAYS).any(-1)
        overlaps = iou(raw.boxes[:, None], batch.gt_boxes[:, :, None])  # (B, G, N)
        near = overlaps.masked_fill(~batch.gt_mask[..., None], 0).amax(1) > IGNORED
        near &= says
    share = object_shares(owner, batch.gt_weights)[positive]
    labels = F.one_hot(
        batch.gt_labels.gather(1, owner.clamp(0))[positive], raw.logits.shape[-1] - 1
    )
    wrong = F.binary_cross_entropy_with_logits
    size = batch.images.shape[-1]
    ciou = complete_box_iou_loss(_darknet_steps(raw, positive, size), targets) * share
    objectness = wrong(raw.logits[..., 0], positive.float(), reduction="none")[positive | ~near]
    classes = wrong(raw.logits[..., 1:][positive], labels.float(), reduction="none").sum(-1) * share
    images = total(share.new_tensor(len(batch.images)))
    return {
        "loss_ciou": WEIGHT_CIOU * ciou.sum() / images,
        "loss_objectness": objectness.sum() / images,
        "loss_class": classes.sum() / images,
        "num_pos": total(positive.sum()),
    }


def _yolo(model: ModelConfig) -> Yolo:
    return build_yolo("yolov4-tiny", model.num_classes, model.input_size / SIZE)


MAKERS = {"yolov4_tiny": _yolo, "nanodet_m": NanoDet}  # by `model.network`; for `load_weights`, too


def build(config: Config) -> Yolo | NanoDet:
    """The untrained network of a rival's run."""
    return MAKERS[config.model.network](config.model)


YOLO_LOSSES = ("loss_ciou", "loss_objectness", "loss_class")
NETWORKS = {
    "lightdet": LIGHTDET,
    "yolov4_tiny": Network("yolov4_tiny", build, yolo_loss, YOLO_LOSSES),
    "nanodet_m": LIGHTDET._replace(name="nanodet_m", build=build),
}


def that_fit(profile: str) -> list[str]:
    """The rivals that a profile's settings allow: YOLOv4-tiny takes multiples of 32 px alone."""
    found = []
    for name in MAKERS:
        with suppress(ConfigError):
            found.append(load_config(name, profile).experiment)
    return found
