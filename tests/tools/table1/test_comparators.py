"""Counts on the meta device, where nothing is computed; the few real passes are small."""

import math

import effdet
import pytest
import torch
from conftest import count_macs, network, same
from torch import nn
from torchvision.models.detection import SSD300_VGG16_Weights
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from transformers import DetrImageProcessor

from lightdet_core.config import UserError, parse_yaml, root
from lightdet_tools.table1 import comparators as c
from lightdet_tools.table1 import networks

TABLE1 = parse_yaml((root() / "paper.yaml").read_text())["table1"]
SSD_META = SSD300_VGG16_Weights.COCO_V1.meta
# parameters, then MACs per image at the comparator's own size or at the one given
COUNTS = [
    ("ssd", None, 35_641_826, 34_858_153_472),
    ("efficientdet_d0", None, 3_877_763, 2_492_331_520),
    ("yolov3", None, 61_949_149, 65_864_075_264 // 2),
    ("yolov3", 608, 61_949_149, 140_691_900_416 // 2),
    ("yolov3_tiny", None, 8_852_366, 5_564_961_792 // 2),
    ("yolov4", 608, 64_363_101, 128_389_482_496 // 2),
    ("yolov4_tiny", None, 6_056_606, 6_907_876_352 // 2),
    ("nanodet_m", None, 950_036, 342_223_200),  # published: 0.72 GFLOPs, 5 % are not convolutions
]
# class logits, boxes
SHAPES = {
    "ssd": [(1, 8732, 91), (1, 8732, 4)],
    "detr": [(1, 100, 92), (1, 100, 4)],
    "efficientdet_d0": [(1, 49104, 90), (1, 49104, 4)],
    "retinanet_r101": [(1, 9 * (64**2 + 32**2 + 16**2 + 8**2 + 4**2), n) for n in (91, 4)],
}


def on_meta(name: str) -> nn.Module:
    """Shapes without memory."""
    with torch.device("meta"):
        return c.build(name)


def within(detections: list, height: int, width: int, limit: int) -> None:
    """At most `limit`, on the canvas, falling, with labels of COCO's 80 classes; not none."""
    for boxes, scores, labels in detections:
        assert 0 < len(boxes) == len(scores) == len(labels) <= limit
        assert boxes.isfinite().all() and boxes.min() >= 0
        assert boxes[:, 0::2].max() <= width and boxes[:, 1::2].max() <= height
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
        assert (scores.diff() <= 0).all() and labels.min() >= 0 and labels.max() < 80


class Fixed(nn.Module):
    """In the place of a part of a network: always the same."""

    def __init__(self, value: object):
        super().__init__()
        self.value = value

    def forward(self, *_: object) -> object:
        return self.value


# ---------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(("name", "size", "parameters", "macs"), COUNTS)
def test_published_counts(name, size, parameters, macs):
    found = c.count(on_meta(name), size or c.COMPARATORS[name].size)
    assert found == {"parameters": parameters, "gmac": pytest.approx(macs / 1e9, rel=1e-12)}


def test_counts_agree_with_torchvision_and_with_the_golden_network(golden):
    found = c.count(on_meta("ssd"), 300)
    assert found["parameters"] == SSD_META["num_params"]
    assert round(found["gmac"], 3) == SSD_META["_ops"]
    expected = golden("model_counts")[1]["lite1_416_gflv1_c128_s3_r10"]
    found = c.count(network("c0"), 416)
    assert found["parameters"] == expected["params"]
    assert found["gmac"] == pytest.approx(expected["conv_macs"] / 1e9, rel=1e-12)


def test_count_of_every_layer_by_hand():
    """Grouped, strided and dilated convolutions, a linear layer, a layer used twice; no change."""
    twice = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.SiLU(), twice, twice,
        nn.Conv2d(8, 16, 5, dilation=2, groups=4, bias=False), nn.Flatten(2), nn.Linear(64, 10),
    )  # fmt: skip
    convolutions = 27 * 8 * 16**2 + 2 * 72 * 8 * 16**2 + 25 * 2 * 16 * 8**2
    parameters = 27 * 8 + 8 + 16 + 72 * 8 + 8 + 25 * 2 * 16 + 650
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = c.count(model, 32)
    assert found == {"parameters": parameters, "gmac": (convolutions + 16 * 640) / 1e9}
    assert same(model.state_dict(), before)


def layer_macs(model: nn.Module, size: int) -> int:
    return count_macs(model.to("meta"), torch.empty(1, 3, size, size, device="meta"))[0]


@pytest.mark.parametrize("size", [800, 416])
def test_detr_counts_layers_and_attention(size):
    model = on_meta("detr")
    found, cells = c.count(model, size), math.ceil(size / 32) ** 2
    # queries times keys, and shares times values, in 256 channels: 6 layers in either half
    attention = 2 * 256 * 6 * (cells**2 + 100 * 100 + 100 * cells)
    # golden.json's 41,501,895 is the library's default of 2 classes
    assert found["parameters"] == 41_501_895 + (91 - 2) * 257
    assert found["gmac"] * 1e9 == pytest.approx(layer_macs(model, size) + attention, rel=1e-9)


def test_retinanet_counts_layers_and_leaves_frozen_norms_out():
    model = on_meta("retinanet_r101")
    found = c.count(model, 512)
    assert found["parameters"] == 52_954_903
    assert found["gmac"] * 1e9 == pytest.approx(layer_macs(model, 512), rel=1e-12)


# ----------------------------------------------------------------------------------------- table


def test_table_has_every_row_of_the_paper_and_every_network_is_built_untrained():
    assert set(TABLE1) - {"proposed"} == set(c.COMPARATORS) - {"yolov4", "nanodet_m"}
    for name, comparator in c.COMPARATORS.items():
        assert 0 <= comparator.score_threshold < comparator.iou_threshold <= 1
        model = on_meta(name)
        assert not model.training and callable(model.detect), name
        with torch.no_grad():
            images = torch.empty(1, 3, comparator.size, comparator.size, device="meta")
            outputs = model.to("meta")(images)
        if name in SHAPES:
            assert [tuple(x.shape) for x in outputs] == SHAPES[name]


def test_labels_are_cocos_classes_in_the_order_of_ids():
    names = SSD_META["categories"]
    assert len(networks.COCO_IDS) == 80 and "N/A" not in [names[i] for i in networks.COCO_IDS]
    assert (names[networks.COCO_IDS[0]], names[networks.COCO_IDS[79]]) == ("person", "toothbrush")
    ids, scores = torch.tensor([0, 13, 12, 1, 90]), torch.tensor([0.9, 0.2, 0.8, 0.3, 0.4])
    boxes = torch.tensor([[-5.0, 1.0, 70.0, 99.0]]).repeat(5, 1)
    size = (50, 60)
    found = networks._labelled(boxes, scores, ids, size, 100)
    assert found.labels.tolist() == [79, 0, 11]
    assert found.scores.tolist() == pytest.approx([0.4, 0.3, 0.2])
    assert found.boxes.tolist() == [[0, 1, 60, 50]] * 3
    assert networks._labelled(boxes, scores, ids, size, 2).labels.tolist() == [79, 0]
    assert len(networks._labelled(boxes[:0], scores[:0], ids[:0], size, 2).labels) == 0


def test_mistakes_are_named(tmp_path):
    with pytest.raises(c.UserError, match="yolov9: no such comparator; take one of ssd, "):
        c.build("yolov9")
    with pytest.raises(c.UserError, match="retinanet_r101: there are no official weights"):
        c.build("retinanet_r101", tmp_path)
    for name, file in (("efficientdet_d0", "f3276ba8.pth"), ("detr", "detr-resnet-50.safetensors")):
        with pytest.raises(UserError, match=f"{file}: cannot be read"):
            c.build(name, tmp_path)
    with pytest.raises(UserError, match=r"yolov4-tiny\.weights: cannot be read"):
        c.build("yolov4_tiny", tmp_path)
    for name, size, rule in (
        ("ssd", 320, "SSD: an input of 320 x 320 pixels; both sides must be 300"),
        ("efficientdet_d0", 416, "EfficientDet: .* 416 x 416 pixels; both sides must be 512"),
        ("retinanet_r101", 500, "RetinaNet: .* 500 x 500 pixels; .* multiples of 32"),
    ):
        model, images = on_meta(name), torch.empty(1, 3, size, size, device="meta")
        for use in (model, model.detect):
            with pytest.raises(c.UserError, match=rule):
                use(images)


# ------------------------------------------------------------------------------------- detection


def test_ssd_finds_the_object_that_its_head_sees():
    """One confident default box; torchvision's deltas are in tenths and fifths."""
    model = c.build("ssd")
    sides = (38, 19, 10, 5, 3, 1)
    logits, deltas = torch.zeros(1, 8732, 91), torch.zeros(1, 8732, 4)
    logits[..., 0] = 9  # background
    # level of 5 x 5 cells 64 px apart, 6 boxes each: cell (row 1, column 2), the first square
    row = 4 * 38**2 + 6 * (19**2 + 10**2) + 6 * (1 * 5 + 2)
    logits[0, row, 0], logits[0, row, 18] = 0, 5  # id 18: dog, label 16
    deltas[0, row] = torch.tensor([1.0, 0, 0, 5 * math.log(1.5)])
    model.net.backbone = Fixed({i: torch.zeros(1, 1, n, n) for i, n in enumerate(sides)})
    model.net.head = Fixed({"cls_logits": logits, "bbox_regression": deltas})
    images = torch.rand(1, 3, 300, 300) * 255
    (found,) = model.detect(images, 0.05)
    side, x, y = 0.51 * 300, 2.5 * 64, 1.5 * 64  # its scale and its cell's centre
    x += 0.1 * side
    expected = [x - side / 2, y - 0.75 * side, x + side / 2, y + 0.75 * side]
    assert found.labels.tolist() == [16]
    assert found.scores.item() == pytest.approx(math.exp(5) / (math.exp(5) + 90))
    expected = torch.tensor([expected]).clamp(0, 300)
    torch.testing.assert_close(found.boxes, expected, atol=1e-3, rtol=0)
    assert len(model.detect(images, 0.7)[0].boxes) == 0
    # the constants that torchvision states for pixels in 0..1
    theirs = GeneralizedRCNNTransform(300, 300, [0.48235, 0.45882, 0.40784], [1 / 255] * 3)
    normalized = model.normalize(images)[0]
    torch.testing.assert_close(normalized, theirs.normalize(images[0] / 255), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("name", "size"), [("ssd", (300, 300)), ("retinanet_r101", (32, 64))])
def test_torchvisions_equal_the_librarys_own_path(name, size):
    """From pixels to boxes, and with each image's outputs from elsewhere."""
    torch.manual_seed(0)
    model, images = c.build(name), torch.rand(2, 3, *size) * 255
    last = model.net.head.classification_head
    last = last.module_list[3] if name == "ssd" else last.cls_logits
    with torch.no_grad():
        last.weight.mul_(30)  # so that the classes differ
        model.net.transform.min_size, model.net.transform.max_size = (min(size),), max(size)
        ours = model.detect(images, 0.05, 0.5, 20)
        outputs = [x.flip(0) for x in model(images)]
        turned = model.postprocess(outputs, size, 0.05, 0.5, 20)
        theirs = model.net(list(images / 255))
    within(ours, *size, 20)
    for one, other, again in zip(ours, theirs, turned[::-1], strict=True):
        known = torch.isin(other["labels"], torch.tensor(networks.COCO_IDS))
        torch.testing.assert_close(one.scores, other["scores"][known], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.boxes, other["boxes"][known], atol=1e-2, rtol=1e-4)
        assert [networks.COCO_IDS[i] for i in one.labels] == other["labels"][known].tolist()
        torch.testing.assert_close(one.scores, again.scores)
        torch.testing.assert_close(one.boxes, again.boxes)


def test_detr_equals_the_librarys_own_path():
    """From pixels to boxes: its processor, its forward pass with masks, its post-processing."""
    torch.manual_seed(0)
    model, images = c.build("detr"), torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    processor = DetrImageProcessor(do_resize=False)
    with torch.no_grad():
        model.net.class_labels_classifier.weight.mul_(100)  # so that the classes differ
        outputs = model.net(**processor(list(images), return_tensors="pt"))
        logits, relative = model(images.float())
    torch.testing.assert_close(logits, outputs.logits, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(relative, outputs.pred_boxes, atol=1e-5, rtol=1e-4)
    theirs = processor.post_process_object_detection(outputs, 0.1, [(64, 96)] * 2)
    ours = model.detect(images.float(), 0.1)
    within(ours, 64, 96, 100)
    for one, other in zip(ours, theirs, strict=True):
        known = torch.isin(other["labels"], torch.tensor(networks.COCO_IDS))
        scores, order = other["scores"][known].sort(descending=True)
        torch.testing.assert_close(one.scores, scores, atol=1e-4, rtol=1e-3)
        assert {networks.COCO_IDS[i] for i in one.labels} == set(other["labels"][known].tolist())
        limits = torch.tensor([96.0, 64, 96, 64])
        expected = other["boxes"][known][order].clamp(min=0).minimum(limits)
        torch.testing.assert_close(one.boxes.sum(0), expected.sum(0), atol=1e-2, rtol=1e-3)


def test_efficientdet_equals_the_librarys_own_path():
    torch.manual_seed(0)
    net = effdet.create_model(
        "efficientdet_d0", pretrained=False, pretrained_backbone=False, image_size=(128, 128)
    )
    predict = net.class_net.predict.conv_pw
    with torch.no_grad():
        predict.weight.mul_(3e4)  # so that scores differ, and none is of an id without a class
        predict.bias.view(9, 90)[:, [i - 1 for i in networks.NO_CLASS if i]] = -1e4
        net.box_net.predict.conv_pw.weight.mul_(1e4)
    model, images = networks.EfficientDet(net).eval(), torch.rand(2, 3, 128, 128) * 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    normalized = model.normalize(images)
    torch.testing.assert_close(normalized, (images / 255 - mean) / std, atol=1e-5, rtol=0)
    about = {"img_scale": torch.ones(2), "img_size": torch.full((2, 2), 128.0)}
    with torch.no_grad():
        theirs = effdet.DetBenchPredict(net)(normalized, about)
    ours = model.detect(images, 0.0, 0.5, 100)
    within(ours, 128, 128, 100)
    for one, other in zip(ours, theirs, strict=True):
        other = other[(other[:, 2:4] > other[:, :2]).all(1)]  # without area at the edge: not ours
        assert len(other) > 50
        one = one._make(values[: len(other)] for values in one)
        torch.testing.assert_close(one.scores, other[:, 4], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.boxes, other[:, :4], atol=1e-2, rtol=1e-3)
        assert [networks.COCO_IDS[i] for i in one.labels] == other[:, 5].long().tolist()


# --------------------------------------------------------------------------------------- weights


def test_official_files_are_read_or_refused(tmp_path):
    first = c.build("efficientdet_d0")
    path = tmp_path / c.COMPARATORS["efficientdet_d0"].weights[0]
    torch.save(first.net.state_dict(), path)
    again = c.build("efficientdet_d0", tmp_path)
    assert not again.training and same(first.state_dict(), again.state_dict())
    torch.save({"conv_stem.weight": torch.zeros(1)}, path)
    for damage in (lambda data: data, lambda data: data[:100], lambda data: b""):
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(UserError, match=r"f3276ba8\.pth: damaged, or not the weights of"):
            c.build("efficientdet_d0", tmp_path)


def test_detr_reads_the_names_of_the_published_file(tmp_path, monkeypatch):
    """The library has renamed layers since. A missing tensor is an error and not a random one."""
    first = c.build("detr")
    old = {}
    for name, tensor in first.net.state_dict().items():
        name = name.replace("backbone.model", "backbone.conv_encoder.model")
        old[name.replace("o_proj", "out_proj").replace("mlp.fc", "fc")] = tensor
    assert "model.encoder.layers.0.self_attn.out_proj.bias" in old
    assert "model.decoder.layers.5.fc1.weight" in old
    monkeypatch.setattr(networks, "load_file", lambda path: dict(old))
    again = c.build("detr", tmp_path)
    assert same(first.net.state_dict(), again.net.state_dict())
    del old["bbox_predictor.layers.2.bias"]
    old["class_labels_classifier.bias"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"detr-resnet-50\.safetensors: not DETR's: 2 tensors"):
        c.build("detr", tmp_path)
