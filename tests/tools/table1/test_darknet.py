import math
import re
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import same
from torch import nn

from lightdet_core.evaluate import detect_pack
from lightdet_tools.table1 import darknet

# The published cfg files, layer by layer. c and m: convolution with batch norm and LeakyReLU or
# Mish, filters, k size (3), s stride (1); o: 1x1, bias, linear; y: yolo; p size/stride: maximum;
# r: route, negative from here, else absolute; h: route, second half of the group; a: shortcut.
NECK = "c{0}k1 c{1} c{0}k1 c{1} c{0}k1 c{1} o y ".format
CFG = {
    "yolov3": "c32 "
    + ("c64s2 " + "c32k1 c64 a-3 ")
    + ("c128s2 " + "c64k1 c128 a-3 " * 2)
    + ("c256s2 " + "c128k1 c256 a-3 " * 8)
    + ("c512s2 " + "c256k1 c512 a-3 " * 8)
    + ("c1024s2 " + "c512k1 c1024 a-3 " * 4)
    + (NECK(512, 1024) + "r-4 c256k1 u r-1,61 ")
    + (NECK(256, 512) + "r-4 c128k1 u r-1,36 " + NECK(128, 256)),
    "yolov3-tiny": "c16 p2/2 c32 p2/2 c64 p2/2 c128 p2/2 c256 p2/2 c512 p2/1 c1024 "
    "c256k1 c512 o y r-4 c128k1 u r-1,8 c256 o y",
    "yolov4": "m32 "
    + ("m64s2 m64k1 r-2 m64k1 " + "m32k1 m64 a-3 " + "m64k1 r-1,-7 m64k1 ")
    + ("m128s2 m64k1 r-2 m64k1 " + "m64k1 m64 a-3 " * 2 + "m64k1 r-1,-10 m128k1 ")
    + ("m256s2 m128k1 r-2 m128k1 " + "m128k1 m128 a-3 " * 8 + "m128k1 r-1,-28 m256k1 ")
    + ("m512s2 m256k1 r-2 m256k1 " + "m256k1 m256 a-3 " * 8 + "m256k1 r-1,-28 m512k1 ")
    + ("m1024s2 m512k1 r-2 m512k1 " + "m512k1 m512 a-3 " * 4 + "m512k1 r-1,-16 m1024k1 ")
    + "c512k1 c1024 c512k1 p5/1 r-2 p9/1 r-4 p13/1 r-1,-3,-5,-6 c512k1 c1024 c512k1 "
    + "c256k1 u r85 c256k1 r-1,-3 c256k1 c512 c256k1 c512 c256k1 "
    + ("c128k1 u r54 c128k1 r-1,-3 " + NECK(128, 256))
    + ("r-4 c256s2 r-1,-16 " + NECK(256, 512) + "r-4 c512s2 r-1,-37 " + NECK(512, 1024)),
    "yolov4-tiny": "c32s2 c64s2 c64 h c32 c32 r-1,-2 c64k1 r-6,-1 p2/2 "
    "c128 h c64 c64 r-1,-2 c128k1 r-6,-1 p2/2 c256 h c128 c128 r-1,-2 c256k1 r-6,-1 p2/2 "
    "c512 c256k1 c512 o y r-4 c128k1 u r-1,23 c256 o y",
}
# Bytes of the published .weights files, 80 classes, header of version 0.2.
FILES = {
    "yolov3": 248_007_048,
    "yolov3-tiny": 35_434_956,
    "yolov4": 257_717_640,
    "yolov4-tiny": 24_251_276,
}


def on_meta(name: str) -> darknet.Yolo:
    """Shapes without memory."""
    with torch.device("meta"):
        return darknet.build_yolo(name, 80).eval()


class Reference:
    """Interprets CFG, an eighth as wide; draws its weights as it goes, in the file's order."""

    def __init__(self, name: str, classes: int):
        self.layers = [re.findall(r"[a-z]|-?\d+", word) for word in CFG[name].split()]
        self.random, self.classes, self.drawn = np.random.default_rng(0), classes, []

    def draw(self, low: float, high: float, *shape: int) -> torch.Tensor:
        values = self.random.random(shape, np.float32) * np.float32(high - low) + np.float32(low)
        self.drawn.append(values)
        return torch.from_numpy(values)

    def convolution(self, x: torch.Tensor, kind: str, filters: int, k=1, s=1) -> torch.Tensor:
        beta = self.draw(-0.5, 0.5, filters)
        if kind != "o":
            gamma, mean, var = (self.draw(*r, filters) for r in ((0.5, 1.5), (-0.5, 0.5), (0.5, 2)))
        bound = math.sqrt(6 / (x.shape[1] * k * k))
        x = F.conv2d(x, self.draw(-bound, bound, filters, x.shape[1], k, k), None, s, k // 2)
        if kind == "o":
            return x + beta[:, None, None]
        scale = gamma / (var + 1e-5).sqrt()
        x = x * scale[:, None, None] + (beta - mean * scale)[:, None, None]
        return torch.where(x > 0, x, 0.1 * x) if kind == "c" else x * F.softplus(x).tanh()

    def __call__(self, image: torch.Tensor) -> list[torch.Tensor]:
        done, maps = [], []
        for kind, *values in self.layers:
            x = done[-1] if done else image / 255
            if kind in "cm":
                size = dict(zip(values[1::2], map(int, values[2::2]), strict=True))
                x = self.convolution(x, kind, int(values[0]) // 8, **{"k": 3, **size})
            elif kind == "o":
                x = self.convolution(x, kind, 3 * (5 + self.classes))
            elif kind == "y":
                maps.append(x)
            elif kind == "p":  # darknet pads size - 1 in all, the smaller half first
                size, stride = map(int, values)
                left = (size - 1) // 2
                x = F.pad(x, (left, size - 1 - left) * 2, value=-math.inf)
                x = F.max_pool2d(x, size, stride)
            elif kind == "r":
                x = torch.cat([done[int(v)] for v in values], 1)
            elif kind == "h":
                x = x[:, x.shape[1] // 2 :]
            elif kind == "a":
                x = x + done[int(values[0])]
            elif kind == "u":
                x = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
            done.append(x)
        return maps


HEADER = struct.pack("<3iq", 0, 2, 5, 32013312)
OLD_HEADER = struct.pack("<4i", 0, 1, 0, 64)


def thin(monkeypatch, name: str) -> None:
    """An eighth of the channels: the same paths in a fraction of the time."""
    rows = [
        ("conv", row[1] // 8, *row[2:]) if row[0] == "conv" else row
        for section in darknet.TABLES[name]
        for row in section
    ]
    monkeypatch.setitem(darknet.TABLES, name, [rows])


@pytest.mark.parametrize("name", CFG)
def test_network_and_file_equal_the_cfg(tmp_path, monkeypatch, name):
    """All paths, the order of channels and the order in the file, against the published cfg."""
    thin(monkeypatch, name)
    image = torch.rand(1, 3, 64, 256, generator=torch.Generator().manual_seed(0)) * 255
    reference = Reference(name, classes=3)
    with torch.no_grad():
        expected = reference(image)
    path = tmp_path / f"{name}.weights"
    header = OLD_HEADER if name == "yolov3" else HEADER
    path.write_bytes(header + b"".join(values.tobytes() for values in reference.drawn))
    net = darknet.build_yolo(name, 3).eval()
    for tensor in net.state_dict().values():
        tensor.fill_(7)  # so that whatever the file does not set is seen
    darknet.load_darknet_weights(net, str(path))
    with torch.no_grad():
        maps = net(image)
    for actual, wanted in zip(maps, expected, strict=True):
        size = wanted.abs().mean().item()
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4 * size)


@pytest.mark.parametrize("name", CFG)
def test_file_sizes(name):
    """The published weights would fill the network to the last byte."""
    state = on_meta(name).state_dict()
    floats = sum(t.numel() for key, t in state.items() if "num_batches" not in key)
    assert len(HEADER) + 4 * floats == FILES[name]


def test_anchors_and_scales():
    """As the cfg files list them, by mask; the tiny ones' finer output has masks 1, 2, 3."""
    lists = {
        "yolov3": "10,13 16,30 33,23 30,61 62,45 59,119 116,90 156,198 373,326",
        "yolov4": "12,16 19,36 40,28 36,75 76,55 72,146 142,110 192,243 459,401",
        "tiny": "10,14 23,27 37,58 81,82 135,169 344,319",
    }
    lists = {k: [tuple(map(int, a.split(","))) for a in v.split()] for k, v in lists.items()}
    for name, anchors, first_masks, scales in (
        ("yolov3", lists["yolov3"], (6, 3, 0), (1, 1, 1)),
        ("yolov3-tiny", lists["tiny"], (3, 1), (1, 1)),
        ("yolov4", lists["yolov4"], (0, 3, 6), (1.2, 1.1, 1.05)),
        ("yolov4-tiny", lists["tiny"], (3, 1), (1.05, 1.05)),
    ):
        wanted = [[tuple(anchors[m : m + 3]), s] for m, s in zip(first_masks, scales, strict=True)]
        assert on_meta(name).outputs == wanted


def test_decode_closed_form():
    """Anchor 1, row 1, column 2 of 2 x 3 cells with 2 classes; the other boxes stay at t = 0."""
    output = torch.zeros(1, 3, 7, 2, 3)
    # sigmoid 1/2 and 3/4; sides x 2 and x 1; objectness 4/5, classes 1/2 and 1/4
    output[0, 1, :, 1, 2] = torch.tensor([1, 3, 2, 1, 4, 1, 1 / 3]).log()
    anchors = torch.tensor([[10.0, 14], [23, 27], [37, 58]])
    decoded, logits = darknet.decode(output.flatten(1, 2), anchors, stride=16, scale_xy=1.2)
    cell = 1 * 6 + 1 * 3 + 2
    x, y = 16 * (2 + 0.5), 16 * (1 + 0.75 * 1.2 - 0.1)
    wanted = torch.tensor([x - 23, y - 13.5, x + 23, y + 13.5])
    torch.testing.assert_close(decoded[0, cell], wanted)
    torch.testing.assert_close(logits[0, cell].sigmoid(), torch.tensor([0.8, 0.5, 0.25]))
    # anchor 2, row 0, column 1
    wanted = torch.tensor([24 - 18.5, 8 - 29, 24 + 18.5, 8 + 29])
    torch.testing.assert_close(decoded[0, 13], wanted)
    assert decoded.shape == (1, 18, 4) and (logits[0, 13] == 0).all()


def constant(monkeypatch, logits: list[float]) -> darknet.Yolo:
    """A thin YOLOv4-tiny that says `logits` at anchor 0 of every coarse cell, nothing elsewhere."""
    thin(monkeypatch, "yolov4-tiny")
    net = darknet.build_yolo("yolov4-tiny", num_classes=2).eval()
    outputs = [layer for layer in net.convs if isinstance(layer, nn.Conv2d)]
    for output in outputs:
        nn.init.zeros_(output.weight)
        nn.init.constant_(output.bias, -20)
    outputs[0].bias.data[:7] = torch.tensor(logits)
    return net


def test_detect(monkeypatch):
    """Anchors stay in pixels whatever the input; boxes are clipped to it; a cell has a class."""
    net = constant(monkeypatch, [0, 0, 0, 0, 20, -20, 20])  # 81 x 82 at each centre, class 1
    images = torch.rand(2, 3, 64, 96) * 255
    for found in net.detect(images, iou_threshold=1.0):
        wanted = [
            [max(0.0, x - 40.5), max(0.0, y - 41), min(96, x + 40.5), min(64.0, y + 41)]
            for x in (16, 48, 80)
            for y in (16, 48)
        ]
        torch.testing.assert_close(torch.tensor(sorted(found.boxes.tolist())), torch.tensor(wanted))
        assert found.labels.tolist() == [1] * 6
        assert found.scores.min() > 0.999
    (few, _) = net.detect(images, iou_threshold=1.0, max_detections=4)
    assert len(few.boxes) == 4
    assert len(net.detect(images, score_threshold=0.99999999)[0].boxes) == 0


def test_detect_pack(monkeypatch):
    """A 128 x 64 image on a canvas of 64: back in its own pixels, with the category's id."""
    net = constant(monkeypatch, [0, 0, math.log(20 / 81), math.log(10 / 82), 20, 20, -20])
    pack = SimpleNamespace(
        images=np.zeros((1, 64, 64, 3), np.uint8),
        sizes=np.array([[128, 64]]),
        image_ids=np.array([9]),
        size=64,
        categories=[{"id": 3, "name": "car"}, {"id": 90, "name": "dog"}],
    )
    results = detect_pack(net, pack)
    # centres 16 and 48 of the canvas; the image is half its size there, and 16 below the edge
    wanted = [[x, y, 40, 10] for x in (12, 76) for y in (0, 54)]
    np.testing.assert_allclose(sorted(r["bbox"] for r in results), wanted, atol=2e-3)
    assert {(r["image_id"], r["category_id"]) for r in results} == {(9, 3)}


def test_what_cannot_be_built_or_run():
    with pytest.raises(darknet.UserError, match=r"yolov5: no such .* yolov3, yolov3-tiny, yol"):
        darknet.build_yolo("yolov5")
    with pytest.raises(darknet.UserError, match=r"yolov3-tiny: .*400 x 416.* multiples of 32"):
        on_meta("yolov3-tiny")(torch.zeros(1, 3, 416, 400, device="meta"))


def test_files_that_do_not_fit(tmp_path, monkeypatch):
    """Short, long, foreign, of other classes, damaged, missing: the file, found and expected."""
    thin(monkeypatch, "yolov4-tiny")
    net = darknet.build_yolo("yolov4-tiny", 2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    floats = sum(t.numel() for key, t in before.items() if "num_batches" not in key)
    size, path = len(HEADER) + 4 * floats, tmp_path / "some.weights"
    good = HEADER + np.full(floats, 0.5, "<f4").tobytes()
    page = b"<!DOCTYPE html><title>Quota exceeded</title>"
    old = OLD_HEADER + good[len(HEADER) :] + bytes(4)  # as long as a new one, yet 4 bytes too long
    for data, expected in (
        (b"", size),
        (HEADER[:10], size),
        (good[:-4], size),
        (good[:-1], size),
        (good + bytes(4), size),
        (page, size),
        (old, size - 4),
    ):
        path.write_bytes(data)
        message = rf"some\.weights: {len(data):,} bytes, but .*yolov4-tiny with 2 .* {expected:,};"
        with pytest.raises(darknet.UserError, match=message):
            darknet.load_darknet_weights(net, path)
    path.write_bytes(good)
    with pytest.raises(darknet.UserError, match=f"{size:,} bytes, but .* with 3 classes"):
        darknet.load_darknet_weights(darknet.build_yolo("yolov4-tiny", 3), path)
    path.write_bytes(good[:-4] + np.array(np.nan, "<f4").tobytes())
    with pytest.raises(darknet.UserError, match=r"some\.weights: .*not finite"):
        darknet.load_darknet_weights(net, path)
    for missing in (tmp_path / "none.weights", tmp_path):  # and a folder
        with pytest.raises(darknet.UserError, match=f"{missing}: cannot be read"):
            darknet.load_darknet_weights(net, missing)
    assert same(net.state_dict(), before)  # none of them has touched the network
