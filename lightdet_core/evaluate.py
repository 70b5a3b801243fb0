"""Evaluation: detections -> COCO results -> pycocotools -> named numbers.

Tensor legend: B images · N detections of one image · C classes. COCO's ids come back here.
"""

import contextlib
import copy
import io
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lightdet_core.boxes import DetectionNetwork
from lightdet_core.config import EvaluateConfig
from lightdet_core.machinery import distributed
from lightdet_core.machinery.images import boxes_on_image
from lightdet_core.machinery.packs import Pack, coco_results

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def detect_pack(
    model: DetectionNetwork, pack: Pack, config: EvaluateConfig, device: torch.device | str = "cpu"
) -> list[dict]:
    """Detections on every packed image as COCO results, in pixels of the original images.

    Many processes take turns, batch by batch, so that every batch is the same
    as in one process; the first of them returns all detections, the others none.

    Args:
        model: in eval mode, on `device`.
        pack: of images of the network's input size.
        config: of the thresholds, and how many images go through the network at a time.
    """
    batches = []
    starts = range(0, len(pack.images), config.batch_size)
    for start in starts[distributed.rank() :: distributed.count()]:
        results = []
        rows = slice(start, start + config.batch_size)
        images = torch.from_numpy(np.array(pack.images[rows])).to(device).permute(0, 3, 1, 2)
        batch = model.detect(
            images.float().contiguous(memory_format=torch.channels_last),
            config.score_threshold,
            config.iou_threshold,
            config.max_detections,
        )
        sizes, ids = pack.sizes[rows], pack.image_ids[rows]
        for detections, (width, height), image_id in zip(batch, sizes, ids, strict=True):
            xyxy = detections.boxes.cpu().double().numpy()
            xyxy = boxes_on_image(xyxy, int(width), int(height), pack.size)
            scored = detections.scores.tolist(), detections.labels.tolist()
            results += coco_results(xyxy, *scored, int(image_id), pack.categories)
        batches.append(results)
    turns = zip_longest(*distributed.gather(batches), fillvalue=[])
    return [found for turn in turns for results in turn for found in results]


def coco_metrics(coco_gt: COCO | dict | Path | str, detections: list[dict]) -> dict:
    """The COCO numbers of a list of detections.

    Args:
        coco_gt: ground truth: a `COCO` object, its dict, or the path of the json file.
        detections: COCO results (image_id, category_id, bbox xywh, score); may be empty.

    Returns:
        AP, AP50, AP75, APs, APm, APl, AR100 in 0..1 and per_class {name: AP}; -1 where the
        ground truth has no such object.
    """
    if isinstance(coco_gt, COCO):
        truth = coco_gt.dataset
    else:
        truth = coco_gt if isinstance(coco_gt, dict) else json.loads(Path(coco_gt).read_text())
    truth = copy.deepcopy(truth)
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number  # pycocotools takes a match with id 0 for none
        annotation.setdefault("iscrowd", 0)  # optional in hand-made files, as is the area
        if not isinstance(annotation.get("area"), (int, float)):
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_index(truth), _index(_as_dataset(truth, detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = dict(zip(NAMES, evaluation.stats[:6].tolist(), strict=True))
    metrics["AR100"] = float(evaluation.stats[8])
    # (thresholds, recalls, classes, areas, max detections): all areas, 100 detections
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    names = {category["id"]: category["name"] for category in truth["categories"]}
    metrics["per_class"] = {
        names[category_id]: float(ap[ap > -1].mean()) if (ap > -1).any() else -1.0
        for category_id, ap in zip(
            evaluation.params.catIds, np.moveaxis(precision, 2, 0), strict=True
        )
    }
    return metrics


def _as_dataset(truth: Any, detections: list[dict]) -> dict:
    """Results in the form of a COCO file (`loadRes` refuses an empty list)."""
    annotations = [
        {**d, "id": i, "iscrowd": 0, "area": d["bbox"][2] * d["bbox"][3]}
        for i, d in enumerate(detections, start=1)
    ]
    return {**truth, "annotations": annotations}


def _index(dataset: Any) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
