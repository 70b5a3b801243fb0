"""The other systems of the paper's Table 1, untrained or with their official weights, in one form.

Each takes RGB images (B, 3, H, W), 0..255, and normalises them itself. `forward` is the network
alone: tensors in, tensors out, no control flow that depends on values, so that it can be traced and
exported. `detect` is `LightDet.detect`: boxes on the canvas, labels 0..79 of COCO's classes.
SSD300 and RetinaNet come from torchvision, EfficientDet-D0 from effdet, DETR from transformers,
the YOLOs and NanoDet-m from `darknet` and `nanodet`; where official weights can be had says
data/weights/README.md. effdet and transformers take seconds to import and are imported where
they are needed.

Libraries number classes as COCO does, 1..90 with gaps; those ids end here.
Tensor legend: B images · P anchors, cells or queries · K class outputs · N detections · H, W.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import nn

from lightdet_core.config import UserError
from lightdet_tools.deploy.widths import macs_by_module
from lightdet_tools.table1.networks import (
    detr_r50,
    efficientdet_d0,
    nanodet_m,
    retinanet_r101,
    ssd300,
    yolo,
)


class Comparator(NamedTuple):
    """One system of Table 1, or of its figures."""

    title: str
    make: Callable[..., nn.Module]  # untrained without arguments, else from the files `weights`
    size: int  # pixels: side of the square canvas that it is timed on
    score_threshold: float  # both thresholds: of its published evaluation
    iou_threshold: float
    weights: tuple[str, ...]  # names in data/weights; none: nobody publishes any that fit
    printed: str  # what the paper's row shows in place of this network at this size
    border: int = 0  # grey level of the letterbox in its published training and evaluation


COMPARATORS = {  # by their keys in paper.yaml's table1, and two that only the figures show
    "ssd": Comparator(
        "SSD300", ssd300, 300, 0.01, 0.45, ("ssd300_vgg16_coco-b556d3b4.pth",),
        "AP of SSD512*, size of SSD300 with VOC's 21 classes",
    ),
    "detr": Comparator(
        "DETR-R50", detr_r50, 800, 0.0, 1.0, ("detr-resnet-50.safetensors",),
        "this network at a short side of 800 and a long one of up to 1333",
    ),
    "efficientdet_d0": Comparator(
        "EfficientDet-D0", efficientdet_d0, 512, 0.0, 0.5, ("efficientdet_d0-f3276ba8.pth",),
        "this network, trained by Google; milliseconds in place of FPS",
    ),
    "retinanet_r101": Comparator(
        "RetinaNet-R101", retinanet_r101, 512, 0.05, 0.5, (),
        "this network with P6 from C5, at a short side of 500; size unexplained",
    ),
    "yolov3": Comparator(
        "YOLOv3", partial(yolo, "yolov3"), 416, 0.005, 0.45, ("yolov3.weights",),
        "AP at 608, FPS at 416", 127,  # darknet's 0.5
    ),
    "yolov3_tiny": Comparator(
        "YOLOv3-tiny", partial(yolo, "yolov3-tiny"), 416, 0.005, 0.45, ("yolov3-tiny.weights",),
        "this network at 416", 127,
    ),
    "yolov4": Comparator(
        "YOLOv4", partial(yolo, "yolov4"), 416, 0.001, 0.6, ("yolov4.weights",),
        "nothing in the tables, a point without numbers in Fig. 1",
    ),
    "yolov4_tiny": Comparator(
        "YOLOv4-tiny", partial(yolo, "yolov4-tiny"), 416, 0.001, 0.6, ("yolov4-tiny.weights",),
        "this network at 416, AP and AP50 of two sources",
    ),
    "nanodet_m": Comparator(
        "NanoDet-m", nanodet_m, 320, 0.05, 0.6, ("nanodet-m.param", "nanodet-m.bin"),
        "nothing in the tables, \"NanoDet-320\" in Figs. 6 and 7",
    ),
}  # fmt: skip


def build(name: str, weights: Path | str | None = None) -> nn.Module:
    """A comparator in eval mode, untrained, or with its official weights.

    Args:
        name: a key of COMPARATORS.
        weights: the folder of official weights (data/weights); nothing is ever downloaded.

    Raises:
        UserError: there is no such comparator, or nobody publishes weights that fit it.
        UserError: a file is missing, damaged or of another network.
    """
    if name not in COMPARATORS:
        raise UserError(f"{name}: no such comparator; take one of {', '.join(COMPARATORS)}")
    comparator = COMPARATORS[name]
    if weights is None:
        return comparator.make().eval()
    if not comparator.weights:
        raise UserError(f"{name}: there are no official weights that fit this network")
    return comparator.make(*(Path(weights, file) for file in comparator.weights)).eval()


def count(model: nn.Module, size: int) -> dict[str, float]:
    """Parameters (frozen batch norm has none), and gmac of one image as `macs_by_module` counts.

    Args:
        model: takes images (B, 3, H, W).
        size: side of the image in pixels.
    """
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "gmac": macs_by_module(model, size)[""] / 1e9}
