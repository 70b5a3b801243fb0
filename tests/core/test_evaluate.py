import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import as_detections

from lightdet_core import evaluate
from lightdet_core.boxes import Detections
from lightdet_core.evaluate import coco_metrics, detect_pack
from lightdet_tools.report.found import found_objects

TRUTH = {
    "images": [{"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in (7, 9, 11)],
    "categories": [{"id": 3, "name": "car"}, {"id": 90, "name": "dog"}, {"id": 91, "name": "owl"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400},
        {"id": 2, "image_id": 7, "category_id": 90, "bbox": [100, 100, 50, 60], "area": 3000},
        {"id": 3, "image_id": 9, "category_id": 3, "bbox": [0, 0, 300, 200], "area": 60000},
    ],
}


def results():
    return as_detections(TRUTH["annotations"])


def test_truth_as_prediction_is_perfect_and_not_changed(tmp_path):
    """Area and iscrowd are filled in on a copy."""
    path, before = tmp_path / "truth.json", json.dumps(TRUTH)
    path.write_text(before)
    for source in (TRUTH, path, str(path)):
        metrics = coco_metrics(source, results())
        for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"):
            assert metrics[name] == pytest.approx(1.0)
    assert metrics["per_class"] == pytest.approx({"car": 1.0, "dog": 1.0, "owl": -1.0})
    assert json.dumps(TRUTH) == before


def test_ids_from_zero_and_missing_area():
    """pycocotools takes a match with annotation 0 for no match; hand-made files begin there."""
    annotations = [{**a, "id": i, "area": None} for i, a in enumerate(TRUTH["annotations"])]
    assert coco_metrics({**TRUTH, "annotations": annotations}, results())["AP"] == pytest.approx(1)


@pytest.mark.parametrize("area", [-400, 0.01, 1e11, True])
def test_impossible_areas_are_those_of_the_boxes(area):
    """A negative one takes an object out of all sizes: a detector that misses it would get 1."""
    annotations = [{**a, "area": area} for a in TRUTH["annotations"]]
    found, wanted = results()[1:], coco_metrics(TRUTH, results()[1:])
    assert coco_metrics({**TRUTH, "annotations": annotations}, found) == wanted
    assert wanted["AP"] < 0.8 and wanted["APs"] == 0


def test_no_detections_is_zero_and_no_objects_minus_one():
    metrics = coco_metrics(TRUTH, [])
    assert metrics["AP"] == 0 and metrics["per_class"]["car"] == 0 and metrics["AR100"] == 0
    assert coco_metrics({**TRUTH, "annotations": []}, [])["AP"] == -1


def test_hand_computed_ap():
    """One of two cars found, by a box of IoU 0.6 (300x120 of 300x200): 3 of 10 thresholds count."""
    found = {"image_id": 9, "category_id": 3, "bbox": [0, 0, 300, 120], "score": 0.8}
    metrics = coco_metrics(TRUTH, [found])
    half = 51 / 101  # precision 1 up to recall 0.5, on 101 recall points
    assert metrics["per_class"]["car"] == pytest.approx(0.3 * half)
    assert metrics["AP50"] == pytest.approx(half / 2)  # the mean with the dog's 0
    assert metrics["AP75"] == 0


def test_crowd_swallows_detections():
    crowd = {"id": 4, "image_id": 11, "category_id": 3, "bbox": [0, 0, 200, 200], "area": 40000}
    truth = {**TRUTH, "annotations": [*TRUTH["annotations"], {**crowd, "iscrowd": 1}]}
    inside = {"image_id": 11, "category_id": 3, "bbox": [20, 20, 30, 30], "score": 0.99}
    assert coco_metrics(truth, [*results(), inside])["AP"] == pytest.approx(1.0)
    assert coco_metrics(TRUTH, [*results(), inside])["AP"] < 1


def without(truth, images):
    annotations = [a for a in truth["annotations"] if a["image_id"] not in images]
    shown = [image for image in truth["images"] if image["id"] not in images]
    return {**truth, "images": shown, "annotations": annotations}


def jackknife(truth, found):
    return coco_metrics(truth, found, leave_out=True)["AP_without"]


def test_jackknife_is_ap_without_each_part():
    """45 images in 20 parts of three or two, ids with gaps and out of order, some crowds."""
    rng = np.random.default_rng(0)
    ids = [3 * i + 5 for i in range(45)]
    truth = {**TRUTH, "annotations": [], "images": [{**TRUTH["images"][0], "id": i} for i in ids]}
    found = []
    for number in range(150):
        box = [*rng.uniform(0, 300, 2), *rng.uniform(8, 120, 2)]
        one = {"image_id": int(rng.choice(ids)), "category_id": int(rng.choice([3, 90]))}
        truth["annotations"].append({"id": number, "bbox": box, "iscrowd": number % 30 == 0, **one})
        moved = [value + shift for value, shift in zip(box, rng.normal(0, 3, 4), strict=True)]
        found.append({"bbox": moved, "score": float(rng.random()), **one})
    rng.shuffle(truth["images"])
    metrics = coco_metrics(truth, found, leave_out=True)
    parts = metrics["AP_without"]
    assert len(parts) == 20 and len(set(parts)) == 20
    for part, ap in enumerate(parts):
        left_out = set(ids[part::20])
        rest = [one for one in found if one["image_id"] not in left_out]
        alone = coco_metrics(without(truth, left_out), rest)
        assert ap == alone["AP"]
        each = {name: aps[part] for name, aps in metrics["per_class_without"].items()}
        assert each == alone["per_class"]


def test_jackknife_of_few_images_and_lost_classes():
    """Each of three images is a part; without image 7 there are no dogs, and these do not count."""
    found = results()[1:]  # the dog, and one of two cars: AP 1 and 51 / 101
    assert jackknife(TRUTH, found) == pytest.approx([1, 0.5, 0.5 * (51 / 101 + 1)], abs=1e-12)
    assert jackknife(without(TRUTH, {9, 11}), results()) == [-1]
    assert jackknife({**TRUTH, "annotations": []}, []) == [-1, -1, -1]
    assert jackknife({**TRUTH, "annotations": [], "images": []}, []) == []
    dogless = coco_metrics(TRUTH, found, leave_out=True)["per_class_without"]["dog"]
    assert dogless == pytest.approx([-1, 1, 1])


class Oracle(torch.nn.Module):
    """Finds one box per image, at known canvas pixels."""

    def __init__(self, boxes):
        super().__init__()
        self.boxes = list(boxes)

    def detect(self, images, *_):
        assert images.shape[1:] == (3, 416, 416) and images.dtype == torch.float32
        return [
            Detections(torch.tensor([self.boxes.pop(0)]), torch.tensor([0.5]), torch.tensor([1]))
            for _ in images
        ]


def test_boxes_return_to_the_original_pixels(monkeypatch):
    """640x480 sits at scale 0.65 and 52 px down in 416; 300x600 at 0.6933 and 104 px right."""
    pack = SimpleNamespace(
        images=np.zeros((3, 416, 416, 3), np.uint8),
        sizes=np.array([[640, 480], [300, 600], [640, 480]]),
        image_ids=np.array([7, 9, 11]),
        size=416,
        categories=TRUTH["categories"],
    )
    oracle = Oracle([[6.5, 65.0, 65.0, 182.0], [104.0, 0.0, 312.0, 416.0], [0.0, 0.0, 416.0, 60.0]])
    monkeypatch.setattr(evaluate, "BATCH", 2)
    first, second, third = detect_pack(oracle, pack)
    assert first == {"image_id": 7, "category_id": 90, "bbox": [10, 20, 90, 180], "score": 0.5}
    np.testing.assert_allclose(second["bbox"], [0, 0, 300, 600], atol=1e-3)
    np.testing.assert_allclose(third["bbox"], [0, 0, 640, 8 / 0.65], atol=1e-3)  # border cut off


def test_found_objects_and_false_alarms():
    """One object twice, one below the score, one of another class, one shifted to IoU 1/3."""
    gt_boxes = torch.tensor([[[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [0, 0, 0, 0]]])
    gt_labels = torch.tensor([[0, 1, 1, 0]])
    gt_mask = torch.tensor([[True, True, True, False]])
    one = Detections(
        torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [20, 0, 30, 10],
                      [45, 0, 55, 10], [0, 0, 0, 0]]).float(),
        torch.tensor([0.9, 0.8, 0.3, 0.9, 0.7, 0.6]),
        torch.tensor([0, 0, 1, 0, 1, 0]),
    )  # fmt: skip
    found, alarms = found_objects([one], gt_boxes.float(), gt_labels, gt_mask, 0.3)
    assert found.tolist() == [[True, False, False, False]]
    assert alarms.tolist() == [3]  # another class, shifted, nothing there
    found, alarms = found_objects([one], gt_boxes.float(), gt_labels, gt_mask, 0.2, 0.3)
    assert found.tolist() == [[True, True, True, False]] and alarms.tolist() == [2]
