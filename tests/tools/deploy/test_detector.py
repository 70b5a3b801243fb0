"""detector.py: a run and every form of its exports find the same boxes."""

import json

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from conftest import CATEGORIES, small_run
from PIL import Image
from torch import nn

from lightdet_core.config import UserError
from lightdet_core.evaluate import detect_pack
from lightdet_core.machinery.images import letterbox
from lightdet_core.machinery.packs import Pack, coco_results
from lightdet_core.model import PAN, LightDet, save_weights
from lightdet_tools import cli
from lightdet_tools.data.scenes import draw_scene
from lightdet_tools.deploy import convert, export
from lightdet_tools.deploy.detector import exported_find, open_detector
from lightdet_tools.deploy.runtime import KEY, Exported

SIZE = 96  # 12, 6 and 3 cells per side


def picture(width=150, height=80) -> np.ndarray:
    return np.asarray(Image.fromarray(draw_scene(0, 0)[0]).resize((width, height)))


def tuned(net: LightDet) -> LightDet:
    """The heads say something, and something else for every cell."""
    with torch.no_grad():
        for layer in net.head.towers.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    layer.bias.zero_()
        image = torch.from_numpy(letterbox(picture(), SIZE)).permute(2, 0, 1)[None].float()
        spread = net.eval()(image)[0].std()
        for tower in net.head.towers:
            tower[-1].weight *= 2 / spread
            tower[-1].bias[:3] = -2.0
        for layer in (net.head.quality or [])[::2]:
            layer.weight.normal_(0, 0.5)
            layer.bias.fill_(1.0)
    return net


class Stub(nn.Module):
    """A backbone of three convolutions, which exports in no time."""

    def __init__(self):
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 8, 8, stride=8)
        self.down = nn.ModuleList(nn.Conv2d(8, 8, 2, stride=2) for _ in range(2))

    def forward(self, x):
        maps = [self.conv_stem(x)]
        for conv in self.down:
            maps.append(conv(F.relu(maps[-1])))
        return maps


def stub(head: str) -> LightDet:
    torch.manual_seed(0)
    net = LightDet(small_run(SIZE, head=head).model)
    net.backbone.net, net.neck = Stub(), PAN([8, 8, 8], 16)
    return tuned(net)


def write(net, folder, kind, decoded):
    """The stub as an exported file: `export` needs a run of its own."""
    uint8 = kind.endswith("-uint8")
    form = {"uint8": uint8} if kind != "ncnn" else {"mish": nn.Mish}
    module = export.deployable(net, SIZE, decoded, **form)
    about = export.describe(module, small_run(SIZE).settings, CATEGORIES)
    example = torch.from_numpy(export.example_images(SIZE)[:1])
    example = example if uint8 else example.permute(0, 3, 1, 2).float()
    if kind == "ncnn":
        about["input"]["name"] = "in0"
        param, values = convert.convert_ncnn(module, example)["fp32"]
        (folder / "x.param").write_text(param)
        (folder / "x.bin").write_bytes(values)
        (folder / "x.json").write_text(json.dumps(about))
        return folder / "x.param"
    model = convert.convert_onnx(module, example, list(module.outputs))
    onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    if kind.startswith("openvino"):
        text, values = convert.convert_openvino(model)
        (folder / "x.xml").write_bytes(text)
        (folder / "x.bin").write_bytes(values)
        return folder / "x.xml"
    onnx.save(model, folder / "x.onnx")
    return folder / "x.onnx"


def gap(net: LightDet, canvas: np.ndarray) -> float:
    """A threshold that no score is near, so that rounding does not count."""
    scores = np.sort(export.expected(net, canvas[None], decoded=True)[0].ravel())[-90:-60]
    widest = np.diff(scores).argmax()
    return float(scores[widest : widest + 2].mean())


# ------------------------------------------------------------------------------------ the door


@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize("head", ["gflv1", "gflv2"])
@pytest.mark.parametrize("kind", ["onnx", "onnx-uint8", "ncnn", "openvino", "openvino-uint8"])
def test_exported_files_find_what_the_evaluation_finds(tmp_path, kind, head, decoded):
    """`LightDet.detect` on the letterboxed image, brought back to the original by `detect_pack`."""
    net, image = stub(head), picture()
    canvas = letterbox(image, SIZE, quick=True)
    threshold = gap(net, canvas)
    pack = Pack(canvas[None], None, None, None, None, np.array([5]), np.array([[150, 80]]), SIZE,
                CATEGORIES, "", "", None)  # fmt: skip
    wanted = detect_pack(net, pack, limits=(threshold, 0.6, 100))
    detector = open_detector(write(net, tmp_path, kind, decoded))
    assert (detector.size, detector.categories) == (SIZE, CATEGORIES)
    found = detector.detect(image, threshold)
    assert 20 < len(wanted) == len(found.scores) and len(set(found.labels.tolist())) > 1
    scored = found.scores.tolist(), found.labels.tolist()
    results = coco_results(found.boxes.double().numpy(), *scored, 5, CATEGORIES)
    for one, other in zip(results, wanted, strict=True):
        assert one["category_id"] == other["category_id"] and one["image_id"] == 5
        assert one["score"] == pytest.approx(other["score"], abs=3e-5)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.02)


@pytest.mark.parametrize("head", ["gflv1", "gflv2"])
@pytest.mark.parametrize("decoded", [False, True])
def test_no_cell_is_lost_before_decoding(head, decoded):
    """The network behind the door for exported files: any threshold, number and overlap; at 0
    every score is above."""
    net, canvas = stub(head), letterbox(picture(), SIZE)
    both = np.stack([canvas, np.ascontiguousarray(canvas[:, ::-1])])
    module, config = export.deployable(net, SIZE, decoded), small_run(SIZE, head=head)
    about = export.describe(module, config.settings, CATEGORIES)
    find = exported_find(Exported(about, lambda x: export.expected(net, x, decoded)))
    images = torch.from_numpy(both).permute(0, 3, 1, 2).float()
    scores = export.expected(net, canvas[None], True)[0]
    exact = float(scores[0, 40, 1])  # a score of its own is not above itself
    counts = []
    for limits in [(t, 0.6, 100) for t in (0, 0.05, 0.15, exact, 0.9, 1)] + [(0.1, 0.3, 7)]:
        found, wanted = find(both, *limits), net.detect(images, *limits)
        for a, b in zip(sum(found, ()), sum(wanted, ()), strict=True):
            # coordinates are differences of numbers up to the canvas: two units of their last place
            torch.testing.assert_close(a, b, rtol=1.3e-6, atol=2**-16)
        counts.append(len(found[0].scores))
    assert counts[0] == 100 and counts[-1] == 7 and counts[-2] == 0 < counts[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    net = tuned(LightDet(small_run(SIZE).model))
    path = tmp_path_factory.mktemp("run") / "weights.safetensors"
    save_weights(path, net.state_dict(), small_run(SIZE), CATEGORIES)
    return path, net


def test_a_run_is_a_detector(weights):
    path, net = weights
    detector, image = open_detector(path), picture(96, 96)
    batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    for a, b in zip(detector.detect(image, 0.1), net.detect(batch, 0.1)[0], strict=True):
        assert len(a) > 5
        torch.testing.assert_close(a, b)
    for wrong in (1.5, float("nan")):
        with pytest.raises(UserError, match=rf"score_threshold {wrong}: a number from 0 to 1"):
            detector.detect(image, wrong)
    for wrong in (image / 255, image[..., 0], image[:0], image[..., :2]):
        with pytest.raises(UserError, match=r"image: .*(\(H, W, 3\) uint8 is needed|no pixels)"):
            detector.detect(wrong, 0.3)


def test_weights_that_cannot_be_used(weights, tmp_path):
    for name, message in {
        "none.safetensors": "no trained run there",
        "none.onnx": "not found",
        "none.param": "not found; ncnn needs .param, .bin and .json",
        "none.xml": "not found; OpenVINO needs .xml and .bin",
        "net.pt": "weights are a .safetensors, .onnx, ncnn's .param or OpenVINO's .xml file",
    }.items():
        with pytest.raises((ValueError, OSError), match=f"{name}: .*{message}"):
            open_detector(tmp_path / name)
    with pytest.raises(UserError, match=r"is a folder; the weights are .*/weights\.safetensors"):
        open_detector(weights[0].parent)
    with pytest.raises(UserError, match="threads 0: at least 1"):
        open_detector(weights[0], threads=0)


def test_from_a_run_to_its_detections(weights, tmp_path):
    """The command with a real network: its file says what the door says."""
    Image.fromarray(picture()).save(tmp_path / "a.png")
    arguments = [str(weights[0]), str(tmp_path / "a.png"), "--score", "0.1", "--threads", "1"]
    cli.run("detect", *arguments, "--out", str(tmp_path / "out"))
    coco = json.loads((tmp_path / "out" / "detections.json").read_text())
    found = open_detector(weights[0]).detect(picture(), 0.1)
    assert len(coco["annotations"]) == len(found.scores) > 5
    x0, y0, x1, y1 = found.boxes[0].tolist()
    assert coco["annotations"][0]["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-3)
