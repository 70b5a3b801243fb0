"""NanoDet-m and ncnn's files. With LIGHTDET_NANODET (the folder of nanodet-m.param and .bin) and
LIGHTDET_COCO_MINI (a folder in COCO 2017's form), the public network runs on real images."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from ncnn_networks import run_ncnn, three_convs, write_ncnn
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lightdet_core.config import UserError
from lightdet_core.evaluate import coco_metrics, detect_pack
from lightdet_core.machinery.packs import read_truth
from lightdet_tools.data.pack import build
from lightdet_tools.table1.nanodet import MEAN, STD, build_nanodet, load_nanodet

WEIGHTS, COCO_MINI = os.environ.get("LIGHTDET_NANODET"), os.environ.get("LIGHTDET_COCO_MINI")
needs_weights = pytest.mark.skipif(not WEIGHTS, reason="LIGHTDET_NANODET names no folder")


def random_nanodet() -> nn.Module:
    """Batch norms with statistics and scales of their own, so that folding them matters."""
    torch.manual_seed(2)
    model = build_nanodet().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.2)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.1)
    return model


def folded(model: nn.Module) -> list[nn.Conv2d]:
    """The convolutions with batch norm folded in; the first one takes BGR, as the public one."""
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    pairs = zip(layers, [*layers[1:], None], strict=True)
    convs = [
        fuse_conv_bn_eval(one, after) if isinstance(after, nn.BatchNorm2d) else one
        for one, after in pairs
        if isinstance(one, nn.Conv2d)
    ]
    convs[0].weight.data = convs[0].weight.data.flip(1)
    return convs


def test_folded_weights_give_the_same_network(tmp_path):
    model = random_nanodet()
    loaded = load_nanodet(*write_ncnn(tmp_path, folded(model), half=False))
    assert not loaded.training
    images = torch.rand(2, 3, 96, 64) * 255
    with torch.no_grad():
        for ours, expected in zip(loaded(images), model(images), strict=True):
            spread = expected.std().item()
            assert spread > 0.1  # the random network says something
            torch.testing.assert_close(ours, expected, atol=1e-4 * spread, rtol=0)


def test_other_networks_are_refused(tmp_path):
    convs = folded(build_nanodet().eval())
    with pytest.raises(UserError, match=r"net\.param: not NanoDet-m: 3 convolutions, expected 7"):
        load_nanodet(*write_ncnn(tmp_path, three_convs(), half=False))
    convs[1].stride = (1, 1)  # same shapes, other network
    expected = r"\(24, 1, 3, 3, 1, 1, 24, True\), expected \(24, 1, 3, 3, 2, 1, 24, True\)"
    with pytest.raises(UserError, match=rf"conv1 has .* {expected}"):
        load_nanodet(*write_ncnn(tmp_path, convs, half=True))


def test_counts():
    """0.95 M parameters; test_comparators.py counts the MACs."""
    model = build_nanodet().eval()
    rooms = (model.backbone, model.neck, model.head)
    parts = [sum(p.numel() for p in room.parameters()) for room in rooms]
    # torchvision's 2,278,604 less its last convolution and classifier; test_model.py's head of g1
    assert parts == [2_278_604 - 464 * 1024 - 2048 - 1025 * 1000, 812 * 96 + 3 * 96, 95_376]
    with torch.no_grad():
        cls_logits, box_logits = model(torch.zeros(1, 3, 320, 320))
    assert cls_logits.shape == (1, 2100, 80) and box_logits.shape == (1, 2100, 4, 8)
    assert not any(isinstance(x, nn.ReLU) for x in model.modules())


def test_normalisation_and_detections():
    """The mean colour is a zero input; `detect` is LightDet's."""
    model = random_nanodet()
    seen = []
    model.backbone.stem.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    colours = torch.tensor([MEAN, (MEAN[0] + STD[0], MEAN[1], 0)])
    detections = model.detect(colours[..., None, None].expand(2, 3, 64, 96), 0.0001)
    expected = torch.tensor([[0, 0, 0], [1, 0, -103.53 / 57.375]])  # red is 123.675 and 58.395
    torch.testing.assert_close(seen[0][:, :, 5, 7], expected)
    assert len(detections) == 2 and all(len(d.boxes) == 100 for d in detections)
    assert detections[0].boxes[:, 2].max() <= 96 and detections[0].boxes[:, 3].max() <= 64


@needs_weights
def test_public_weights_agree_with_the_ncnn_runtime():
    files = [Path(WEIGHTS) / f"nanodet-m.{suffix}" for suffix in ("param", "bin")]
    model = load_nanodet(*files)
    torch.manual_seed(0)
    images = F.interpolate(torch.rand(1, 3, 20, 20), size=320, mode="bilinear") * 255
    bgr = ((images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)).flip(1)
    names = [f"{kind}_pred_stride_{s}" for kind in ("cls", "dis") for s in (8, 16, 32)]
    outputs = run_ncnn(*files, bgr[0].contiguous().numpy(), "input.1", names)
    with torch.no_grad():
        cls_logits, box_logits = model(images)
    scores = torch.cat(outputs[:3])
    assert scores.max() > 0.1
    torch.testing.assert_close(cls_logits[0].sigmoid(), scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(box_logits[0].flatten(1), torch.cat(outputs[3:]), atol=1e-4, rtol=0)


@needs_weights
@pytest.mark.skipif(not COCO_MINI, reason="LIGHTDET_COCO_MINI names no folder")
def test_accuracy_on_real_images(tmp_path):
    """The published 20.6 is that of 5,000 images; a draw of 215 has a spread of 1.5 points."""
    annotations = Path(COCO_MINI) / "annotations" / "instances_val2017.json"
    pack = build(annotations, Path(COCO_MINI) / "val2017", tmp_path / "val-320", 320)
    model = load_nanodet(*(Path(WEIGHTS) / f"nanodet-m.{suffix}" for suffix in ("param", "bin")))
    metrics = coco_metrics(read_truth(pack), detect_pack(model, pack))
    assert metrics["AP"] == pytest.approx(0.2296, abs=0.003)
    assert metrics["AP50"] == pytest.approx(0.388, abs=0.004)
