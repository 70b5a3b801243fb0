"""Random mutations of a COCO file: one clear error, or the truth of an independent reading."""

import contextlib
import copy
import io
import json
import random

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lightdet_core.config import UserError
from lightdet_core.evaluate import coco_metrics
from lightdet_core.machinery.packs import read_truth
from lightdet_tools.data.annotations import read_annotations
from lightdet_tools.data.pack import build

MUTATIONS = 2000
PACKED = 300  # of these, with pictures
VALUES = [None, True, False, 0, 1, 2, -1, 7, 0.5, 1e-9, 1e9, 1e300, float("nan"), float("inf"), "1",
          "", "x", [], [1, 2, 3, 4], {}, 2**63, -(2**70), [0, 0, 0.2, 0.3], [-30, -20, 60, 50],
          [40, 30, 90, 90], [64, 0, 5, 5], [3, 3, 0, 9]]  # fmt: skip


def valid(rng: random.Random) -> dict:
    """Four images of 64 x 48 px with up to four objects of three classes, some of them crowds."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in (5, 3, 8, 1)]
    annotations = []
    for number in range(rng.randint(1, 12)):
        box = [rng.randint(0, 40), rng.randint(0, 30), rng.randint(1, 24), rng.randint(1, 18)]
        annotations.append({
            "id": number, "image_id": rng.choice(images)["id"],
            "category_id": rng.choice((2, 4, 9)), "bbox": box, "area": box[2] * box[3],
            "iscrowd": int(rng.random() < 0.1),
        })  # fmt: skip
    categories = [{"id": i, "name": f"class {i}"} for i in (9, 2, 4)]
    return {"images": images, "annotations": annotations, "categories": categories}


def mutate(coco: dict, rng: random.Random) -> None:
    records = coco[rng.choice(["images", "annotations", "annotations", "categories"])]
    if not records:
        return
    record = rng.choice(records)
    kinds = "value value value delete repeat order drop extra box"
    match rng.choice(kinds.split()):
        case "value":
            record[rng.choice(list(record))] = copy.deepcopy(rng.choice(VALUES))
        case "delete":
            record.pop(rng.choice(list(record)))
        case "repeat":
            records.append(copy.deepcopy(record))
        case "order":
            rng.shuffle(records)
        case "drop":
            records.remove(record)
        case "extra":
            record[rng.choice(["ignore", "score", "segmentation", "note"])] = rng.choice(VALUES)
        case "box" if isinstance(record.get("bbox"), list) and len(record["bbox"]) == 4:
            record["bbox"][rng.randrange(4)] = rng.choice([-8, 0, 0.25, 70, 500.5])


def cleaned(coco: dict) -> dict:
    """The rules of data/README.md, written down once more, for a file that is accepted."""
    sizes = {i["id"]: (i["width"], i["height"]) for i in coco["images"]}
    used = {a["category_id"] for a in coco["annotations"]}
    names = [c["name"] for c in coco["categories"]]
    kept = []
    for one in coco["annotations"]:
        x, y, w, h = one["bbox"]
        width, height = sizes[one["image_id"]]
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if x >= width or y >= height or x + w <= 0 or y + h <= 0 or w == 0 or h == 0:
            continue
        box = [left, top, right - left, bottom - top]
        area = one.get("area")
        sound = type(area) in (int, float) and 0.1 * max(box[2:]) <= area
        if not sound or not area <= 1.01 * box[2] * box[3] + 1:
            area = box[2] * box[3]
        crowd = int(bool(one.get("iscrowd", 0) or one.get("ignore", 0)))
        kept.append({"id": len(kept) + 1, "image_id": one["image_id"], "bbox": box, "area": area,
                     "category_id": one["category_id"], "iscrowd": crowd})  # fmt: skip
    categories = [c for c in coco["categories"] if names.count(c["name"]) == 1 or c["id"] in used]
    return {"images": coco["images"], "annotations": kept, "categories": categories}


def by_pycocotools(truth: dict, found: list[dict]) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def test_mutations_are_refused_in_words_or_packed_whole(tmp_path):
    """What a pack holds is the truth of its file, read once more: every picture, every object."""
    rng, path, refused = random.Random(1), tmp_path / "coco.json", 0
    for name in (5, 3, 8, 1):
        Image.fromarray(np.full((48, 64, 3), 20 * name, np.uint8)).save(tmp_path / f"{name}.png")
    for _ in range(PACKED):
        coco = valid(rng)
        mutate(coco, rng)
        path.write_text(json.dumps(coco))
        try:
            pack = build(path, tmp_path, tmp_path / "pack", 32, progress=str)
        except UserError as error:
            assert str(tmp_path) in str(error)
            refused += 1
            continue
        wanted = cleaned(json.loads(path.read_text()))
        truth, thin = read_truth(pack), 0
        assert [i["id"] for i in truth["images"]] == [i["id"] for i in wanted["images"]]
        for one, two in zip(truth["annotations"], wanted["annotations"], strict=True):
            assert one["bbox"] == pytest.approx(two["bbox"]) and one["area"] == two["area"]
            assert all(one[key] == two[key] for key in ("image_id", "category_id", "iscrowd"))
            thin += min(two["bbox"][2:]) < 1
        assert pack.counts.sum() == len(wanted["annotations"]) - thin
        shades = [20 * int(i["file_name"][0]) for i in wanted["images"]]
        assert pack.images[:, 16, 16, 0].tolist() == shades
    assert 0.1 * PACKED < refused < 0.8 * PACKED


def test_mutations_are_refused_in_words_or_mean_what_they_say(tmp_path):
    rng, path, refused = random.Random(0), tmp_path / "coco.json", 0
    for _ in range(MUTATIONS):
        coco = valid(rng)
        for _ in range(rng.randint(1, 3)):
            mutate(coco, rng)
        path.write_text(json.dumps(coco))
        try:
            read = read_annotations(path)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        lost = len(coco["annotations"]) - len(read.truth["annotations"])
        rules = "boxes outside of the image dropped", "boxes without extent dropped"
        assert lost == sum(read.drops.get(rule, 0) for rule in rules)
        assert len(read.image_ids) == len(coco["images"])
        small = read.drops.get("boxes under 1 px, evaluated but not learnt", 0)
        assert len(read.boxes) == len(read.truth["annotations"]) - small
        wanted = cleaned(json.loads(path.read_text()))
        found = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "score": rng.random(),
             "bbox": [v + rng.choice([0, 0, 2]) for v in a["bbox"]]}
            for a in wanted["annotations"] if rng.random() < 0.8
        ]  # fmt: skip
        if found:
            ap = coco_metrics(read.truth, found)["AP"]
            assert ap == pytest.approx(by_pycocotools(wanted, found), abs=1e-9)
            assert np.isfinite(ap)
    assert 0.2 * MUTATIONS < refused < 0.8 * MUTATIONS
