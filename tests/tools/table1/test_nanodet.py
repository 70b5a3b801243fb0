"""NanoDet-m and ncnn's files. With LIGHTDET_NANODET (the folder of nanodet-m.param and .bin) and
LIGHTDET_COCO_MINI (a folder in COCO 2017's form), the public network runs on real images."""

import os
import struct
from pathlib import Path

import ncnn
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lightdet_core.config import EvaluateConfig, UserError
from lightdet_core.evaluate import coco_metrics, detect_pack
from lightdet_core.machinery.packs import read_truth
from lightdet_tools.data.pack import build
from lightdet_tools.table1.nanodet import MEAN, STD, build_nanodet, load_nanodet, read_ncnn

WEIGHTS, COCO_MINI = os.environ.get("LIGHTDET_NANODET"), os.environ.get("LIGHTDET_COCO_MINI")
needs_weights = pytest.mark.skipif(not WEIGHTS, reason="LIGHTDET_NANODET names no folder")


def write(folder: Path, convs: list[nn.Conv2d], half: bool) -> tuple[Path, Path]:
    """A chain of convolutions as an ncnn pair, each followed by LeakyReLU 0.1 as ncnn folds it."""
    lines, data = ["Input            in               0 1 x0"], b""
    for i, conv in enumerate(convs):
        (height, width), weight = conv.kernel_size, conv.weight.detach().numpy()
        kind = "ConvolutionDepthWise" if conv.groups > 1 else "Convolution"
        lines.append(
            f"{kind} conv{i} 1 1 x{i} x{i + 1} 0={conv.out_channels} 1={width} 11={height} "
            f"3={conv.stride[0]} 4={conv.padding[0]} 5={int(conv.bias is not None)} "
            f"6={weight.size} 7={conv.groups} 9=2 -23310=1,1.000000e-01"
        )
        data += struct.pack("<I", 0x01306B47 if half else 0)
        raw = weight.astype("<f2" if half else "<f4").tobytes()
        data += raw + b"\0" * (-len(raw) % 4)
        if conv.bias is not None:
            data += conv.bias.detach().numpy().astype("<f4").tobytes()
    param, weights = folder / "net.param", folder / "net.bin"
    param.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n")
    weights.write_bytes(data)
    return param, weights


def tiny() -> list[nn.Conv2d]:
    """An odd number of values in the first (16 bits need padding), groups in the second."""
    torch.manual_seed(1)
    convs = [nn.Conv2d(1, 3, 3, 2, 1), nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)]
    return [*convs, nn.Conv2d(3, 5, 1)]


def run_ncnn(param: Path, weights: Path, x: np.ndarray, blob: str, outputs: list[str]) -> list:
    """ncnn's own runtime, in float32. `x` lives until the end: ncnn.Mat does not copy it."""
    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, option, False)
    assert net.load_param(str(param)) == 0 and net.load_model(str(weights)) == 0
    extractor = net.create_extractor()
    extractor.input(blob, ncnn.Mat(x))
    return [torch.from_numpy(np.array(extractor.extract(name)[1])) for name in outputs]


@pytest.mark.parametrize("half", [False, True])
def test_reader_agrees_with_the_ncnn_runtime(tmp_path, half):
    convs = tiny()
    param, weights = write(tmp_path, convs, half)
    image, *layers = read_ncnn(param, weights)
    assert (image.kind, image.name, image.outputs, image.weight) == ("Input", "in", ["x0"], None)
    x = torch.rand(1, 1, 9, 7)
    (expected,) = run_ncnn(param, weights, x[0].numpy(), "x0", ["x3"])
    for i, (layer, conv) in enumerate(zip(layers, convs, strict=True)):
        assert (layer.inputs, layer.outputs) == ([f"x{i}"], [f"x{i + 1}"])
        assert layer.params[10] == [0.1] and (layer.bias is None) == (conv.bias is None)
        tolerance = 1e-3 if half else 0
        torch.testing.assert_close(layer.weight, conv.weight.data, rtol=tolerance, atol=tolerance)
        stride, padding, groups = (layer.params[key] for key in (3, 4, 7))
        x = F.conv2d(x, layer.weight, layer.bias, stride, padding, groups=groups)
        x = F.leaky_relu(x, layer.params[10][0])
    torch.testing.assert_close(x[0], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_linear_layers_and_constants_agree_with_the_ncnn_runtime(tmp_path, half):
    """As pnnx writes them; an odd number of weights, which 16 bits have to fill up."""
    param, weights = tmp_path / "net.param", tmp_path / "net.bin"
    linear = "10=4 2=0 3=1 4=0 5=1 6=1 7=2 8=5 9=3"
    param.write_text(
        "7767517\n4 4\nInput in 0 1 x\nMemoryData m 0 1 y 0=3 1=2\n"
        f"Gemm a 1 1 x z {linear}\nGemm b 1 1 y w {linear.replace('10=4', '10=-1')}\n"
    )
    torch.manual_seed(3)
    constant, *factors = torch.rand(2, 3), torch.rand(5, 3), torch.rand(5), torch.rand(5, 3)
    data = constant.numpy().tobytes()
    for values in factors:
        raw = values.numpy().astype("<f2" if half else "<f4").tobytes()
        data += struct.pack("<I", 0x01306B47 if half else 0) + raw + b"\0" * (-len(raw) % 4)
    weights.write_bytes(data)
    _, m, a, b = read_ncnn(param, weights)
    assert torch.equal(m.weight, constant) and m.bias is None and b.bias is None
    for found, wanted in zip((a.weight, a.bias, b.weight), factors, strict=True):
        assert torch.equal(found, wanted.half().float() if half else wanted)
    x = torch.rand(2, 3)
    z, w = run_ncnn(param, weights, x.numpy(), "x", ["z", "w"])
    torch.testing.assert_close(z, F.linear(x, a.weight, a.bias), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(w, F.linear(constant, b.weight), atol=1e-6, rtol=1e-5)
    param.write_text(param.read_text().replace("8=5", "8=-5"))
    with pytest.raises(UserError, match=r"net\.param: damaged: a has shapes \[\(-5, 3\)"):
        read_ncnn(param, weights)


def test_damaged_files_are_named(tmp_path):
    param, weights = write(tmp_path, tiny(), half=False)
    text, data = param.read_text(), weights.read_bytes()
    size = len(data)
    longer = rf"{size + 4} bytes, but the layers of .*net\.param have {size}"
    for wrong, message in [
        (data[:-4], "ends within the weights of conv2: 16 bytes left, 20 expected"),
        (b"", "ends within the weights of conv0: 0 bytes left, 4 expected"),
        (data + b"1234", longer),
        (b"\x01" + data[1:], "conv0 is stored as 0x00000001, expected 0 .* 0x01306b47"),
    ]:
        weights.write_bytes(wrong)
        with pytest.raises(UserError, match=rf"net\.bin: {message}"):
            read_ncnn(param, weights)
    weights.write_bytes(data)
    for wrong, message in [
        (data.decode("latin-1"), "begins with .*, expected 7767517"),
        ("", "begins with ''"),
        ("7767517", "damaged: 0 layers, expected some"),
        (text.replace("4 4", "5 4", 1), "damaged: 4 layers, expected 5"),
        (text.replace("Input    ", "Input x  "), "damaged: line 3 is 'Input x"),
        (text.replace("6=27", "6=26"), r"damaged: conv0 has 26 weights, .* \(3, 3, 3\)"),
        (text.replace("0=3 1=3", "0=0 1=3"), r"damaged: conv0 has 27 weights, .* \(0, 3, 3\)"),
        (text.replace("0=3 1=3", "0=3.0 1=3"), r"damaged: conv0 .* \(3\.0, 3, 3\)"),
    ]:
        param.write_text(wrong)
        with pytest.raises(UserError, match=rf"net\.param: {message}"):
            read_ncnn(param, weights)
    with pytest.raises(UserError, match=r"none\.param: cannot be read .*No such file"):
        read_ncnn(tmp_path / "none.param", weights)


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
    loaded = load_nanodet(*write(tmp_path, folded(model), half=False))
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
        load_nanodet(*write(tmp_path, tiny(), half=False))
    convs[1].stride = (1, 1)  # same shapes, other network
    expected = r"\(24, 1, 3, 3, 1, 1, 24, True\), expected \(24, 1, 3, 3, 2, 1, 24, True\)"
    with pytest.raises(UserError, match=rf"conv1 has .* {expected}"):
        load_nanodet(*write(tmp_path, convs, half=True))


def test_counts():
    """0.95 M parameters; 0.72 GFLOPs are 2 x MAC with norms and activations (5 % on top)."""
    model = build_nanodet().eval()
    parts = [
        sum(p.numel() for p in x.parameters()) for x in (model.backbone, model.neck, model.head)
    ]
    # torchvision's 2,278,604 less its last convolution and classifier; test_model.py's head of g1
    assert parts == [2_278_604 - 464 * 1024 - 2048 - 1025 * 1000, 812 * 96 + 3 * 96, 95_376]
    assert sum(parts) == 950_036
    macs = []
    for conv in (x for x in model.modules() if isinstance(x, nn.Conv2d)):
        conv.register_forward_hook(
            lambda c, _, out: macs.append(c.weight.numel() * out[0, 0].numel())
        )
    with torch.no_grad():
        cls_logits, box_logits = model(torch.zeros(1, 3, 320, 320))
    assert sum(macs) == 342_223_200
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
    metrics = coco_metrics(read_truth(pack), detect_pack(model, pack, EvaluateConfig()))
    assert metrics["AP"] == pytest.approx(0.2296, abs=0.003)
    assert metrics["AP50"] == pytest.approx(0.388, abs=0.004)
