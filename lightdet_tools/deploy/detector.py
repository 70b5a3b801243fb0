"""A detector of a trained run or of an exported file: one decoder for all of them.

Tensor legend: P cells of all levels · C classes · R bins · N cells that are decoded · H, W.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import lightdet_core
from lightdet_core import boxes
from lightdet_core.boxes import Detections
from lightdet_core.config import UserError
from lightdet_core.machinery.images import letterbox
from lightdet_core.machinery.runs import refuse_run_folder
from lightdet_core.predict import check_share, to_pixels
from lightdet_tools.deploy.runtime import ENTRIES, Exported, open_exported

# canvases (B, S, S, 3) uint8, three limits -> boxes on each canvas
Find = Callable[..., list[Detections]]


class Detector(NamedTuple):
    """A network that is ready to use.

    `detect(image, score_threshold)` takes (H, W, 3) uint8 RGB and gives `Detections` in pixels of
    that image, clipped to it; with the NMS of the run's own evaluation.
    """

    detect: Callable[[np.ndarray, float], Detections]
    categories: list[dict]  # {"id", "name"} by label
    size: int  # side of the network's canvas in pixels


def open_detector(path: Path | str, threads: int = 1) -> Detector:
    """A detector from a run's .safetensors, or from an exported .onnx, .param or .xml file.

    Args:
        threads: that the network may use. They are set for all of torch, to one with exported
            files: a second thread of torch would wait for those of the other runtime.

    Raises:
        UserError: missing, damaged, or not written by LightDet.
        From `detect`, UserError: a threshold outside of 0..1, or no (H, W, 3) uint8 image.
    """
    path = Path(path)
    refuse_run_folder(path)
    if threads < 1:
        raise UserError(f"threads {threads}: at least 1 is needed")
    if path.suffix == ".safetensors":
        predictor = lightdet_core.load(path)
        torch.set_num_threads(threads)
        found = lambda *given: Detections(*predictor.predict(*given)[:3])  # noqa: E731
        return Detector(found, predictor.categories, predictor.size)
    if path.suffix not in ENTRIES:
        raise UserError(
            f"{path}: weights are a .safetensors, .onnx, ncnn's .param or OpenVINO's .xml file"
        )
    exported = open_exported(path, threads)
    find, config = exported_find(exported), exported.about["config"]
    torch.set_num_threads(1)
    size, limits = config["model"]["input_size"], (boxes.IOU_THRESHOLD, boxes.MAX_DETECTIONS)

    def detect(image: np.ndarray, score_threshold: float) -> Detections:
        check_share("score_threshold", score_threshold)
        height, width = (pixels := to_pixels(image)).shape[:2]
        canvas = letterbox(pixels, size, quick=True)
        (found,) = find(canvas[None], score_threshold, *limits)
        return boxes.on_image(found, width, height, size)

    return Detector(detect, exported.about["categories"], size)


def exported_find(exported: Exported) -> Find:
    """`LightDet.detect` for an exported network, raw or decoded.

    Cells without a class above the threshold go first, by their logits: the quality of GFLv2 is
    at most 1, so that none of them can come back. Only what is left is decoded.
    """
    size, decoded = exported.about["input"]["size"], exported.about["form"] == "decoded"
    quality = _quality(exported.about["quality"])
    points, strides, _ = boxes.level_grid(size, size)

    def decode(outputs: tuple, score_threshold: float, *limits: float) -> Detections:
        limit = score_threshold if decoded else _logit(score_threshold)
        left = np.flatnonzero((outputs[0] > limit).any(1))
        scores, xyxy = (torch.from_numpy(output[left]) for output in outputs)
        if not decoded:
            edges, cells = _softmax(xyxy), torch.from_numpy(left)
            at = points[cells], strides[cells]
            scores, xyxy = boxes.scores_and_boxes(scores, edges, quality(edges), *at)
        return boxes.detect(scores, xyxy.clamp(0, size), score_threshold, *limits)

    def find(canvases: np.ndarray, *limits: float) -> list[Detections]:
        return [decode(each, *limits) for each in zip(*exported.run(canvases), strict=True)]

    return find


def _logit(share: float) -> float:
    """A little lower than exact: where rounding matters, `boxes.detect` decides."""
    return float(torch.tensor(share, dtype=torch.float64).logit()) - 1e-3


def _softmax(logits: Tensor) -> Tensor:
    """Along the last axis; torch's own takes five times as long where that is short."""
    exponentials = (logits - logits.amax(-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(-1, keepdim=True)


def _quality(layers: list[dict] | None) -> Callable[[Tensor], Tensor | None]:
    """Edge distributions (N, 4, R) -> GFLv2's quality logits (N, 1) by a description's layers."""
    if layers is None:
        return lambda edges: None
    first, second = ([torch.tensor(layer[k]) for k in ("weight", "bias")] for layer in layers)

    def quality(edges: Tensor) -> Tensor:
        hidden = F.linear(boxes.edge_shape(edges), *first).relu()
        return F.linear(hidden, *second)

    return quality
