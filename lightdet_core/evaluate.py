"""Evaluation: detections -> COCO results -> pycocotools -> named numbers.

Tensor legend: B images · N detections of one image · C classes. COCO's ids come back here.
"""

import contextlib
import io
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lightdet_core.boxes import LIMITS, DetectionNetwork, on_image
from lightdet_core.machinery import distributed
from lightdet_core.machinery.packs import Pack, coco_results, true_area

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
BATCH = 32  # images per forward pass
PARTS = 20  # of the images, of which each in turn is left out


def detect_pack(
    model: DetectionNetwork,
    pack: Pack,
    device: torch.device | str = "cpu",
    limits: tuple[float, float, int] = LIMITS,
) -> list[dict]:
    """Detections on every packed image as COCO results, in pixels of the original images.

    Many processes take turns, batch by batch, so that every batch is the same as in one process;
    the first of them returns all detections, the others none.

    Args:
        model: in eval mode, on `device`.
        pack: of images of the network's input size.
        limits: of `boxes.detect`.
    """
    batches = []
    starts = range(0, len(pack.images), BATCH)
    for start in starts[distributed.rank() :: distributed.count()]:
        results = []
        rows = slice(start, start + BATCH)
        images = torch.from_numpy(np.array(pack.images[rows])).to(device).permute(0, 3, 1, 2)
        images = images.float().contiguous(memory_format=torch.channels_last)
        batch = model.detect(images, *limits)
        sizes, ids = pack.sizes[rows], pack.image_ids[rows]
        for detections, (width, height), image_id in zip(batch, sizes, ids, strict=True):
            found = on_image(detections, int(width), int(height), pack.size)
            scored = found.scores.tolist(), found.labels.tolist()
            results += coco_results(found.boxes.numpy(), *scored, int(image_id), pack.categories)
        batches.append(results)
    turns = zip_longest(*distributed.gather(batches), fillvalue=[])
    return [found for turn in turns for results in turn for found in results]


def coco_metrics(
    coco_gt: COCO | dict | Path | str, detections: list[dict], leave_out: bool = False
) -> dict:
    """The COCO numbers of a list of detections.

    Args:
        coco_gt: ground truth: a `COCO` object, its dict, or the path of the json file.
        detections: COCO results (image_id, category_id, bbox xywh, score); may be empty.
        leave_out: whether AP_without and per_class_without, {name: the same of one class}, are
            wanted, too, see `_jackknife`.

    Returns:
        AP, AP50, AP75, APs, APm, APl, AR100 in 0..1 and per_class {name: AP}; -1 where the
        ground truth has no such object.
    """
    truth: Any = coco_gt.dataset if isinstance(coco_gt, COCO) else coco_gt
    truth = json.loads(Path(truth).read_text()) if isinstance(truth, (str, Path)) else truth
    results = [{**found, "iscrowd": 0, "area": None} for found in detections]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        # (`loadRes` refuses an empty list)
        evaluation: Any = COCOeval(
            _index(truth, truth["annotations"]), _index(truth, results), "bbox"
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = dict(zip(NAMES, evaluation.stats[:6].tolist(), strict=True))
    metrics["AR100"] = float(evaluation.stats[8])
    # (thresholds, recalls, classes, areas, max detections): all areas, 100 detections
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    names = {category["id"]: category["name"] for category in truth["categories"]}
    classes = [names[category_id] for category_id in evaluation.params.catIds]
    metrics["per_class"] = dict(zip(classes, _each(precision), strict=True))
    if leave_out:
        metrics["AP_without"], *each = _jackknife(evaluation)
        metrics["per_class_without"] = dict(zip(classes, each, strict=True))
    return metrics


def _mean(precision: np.ndarray) -> float:
    """AP; -1 where there is no object."""
    there = precision[precision > -1]
    return float(there.mean()) if there.size else -1.0


def _each(precision: np.ndarray) -> list[float]:
    """AP of each class; precision is (thresholds, recalls, classes)."""
    return [_mean(of_class) for of_class in precision.transpose(2, 0, 1)]


def _jackknife(evaluation: Any) -> list[list[float]]:
    """AP without each of 20 parts of the images: how much it depends on them.

    The images are dealt out in turn, by rising id, the same for every network
    (a delete-a-group jackknife; `report.contrasts` makes intervals of it). Their matches stay.

    Returns:
        AP in 0..1 per part left out, then the same of each class; of fewer than 20 images each is
        a part. A class that has all its objects in it is then missing from the mean; -1 where no
        object is left.
    """
    params, found = evaluation.params, []
    params.areaRng, params.maxDets = params.areaRng[:1], [100]  # all that AP needs
    # by class and size, the images of each; `accumulate` would take imgIds for places in it
    matches, images = evaluation.evalImgs, len(params.imgIds)
    for part in range(min(PARTS, images)):
        evaluation.evalImgs = [
            None if i % images % PARTS == part else match for i, match in enumerate(matches)
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        precision = evaluation.eval["precision"][:, :, :, 0, 0]
        found.append([_mean(precision), *_each(precision)])
    return np.reshape(found, (-1, 1 + len(params.catIds))).T.tolist()


def _index(truth: Any, boxes: list[dict]) -> COCO:
    """COCO's index of boxes on the images of `truth`; crowd and area are optional in them."""
    annotations: list[Any] = []
    for number, box in enumerate(boxes, start=1):  # pycocotools takes a match with id 0 for none
        annotations.append({"iscrowd": 0, **box, "id": number, "area": true_area(box)})
    coco = COCO()
    coco.dataset = {**truth, "annotations": annotations}
    coco.createIndex()
    return coco
