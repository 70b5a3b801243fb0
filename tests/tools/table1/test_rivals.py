"""Table 1's rivals in our loop: darknet's assignment and losses, and runs from packs to weights."""

import csv
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import read, silent, tiny, use_root, weights

from lightdet_core import train
from lightdet_core.boxes import Batch
from lightdet_core.config import (
    ConfigError,
    ModelConfig,
    UserError,
    load_config,
    read_params,
    root,
)
from lightdet_core.model import load_weights
from lightdet_tools.table1 import rivals
from lightdet_tools.table1.comparators import COMPARATORS
from lightdet_tools.table1.nanodet import SETTINGS

SMALL = {"network": "yolov4_tiny", "num_classes": 3, "input_size": 64}


def yolo(size: int = 416):
    torch.manual_seed(0)
    config = tiny(model=SMALL | {"input_size": size})
    return config, rivals.build(config).train()


def batch_of(boxes: list, size: int = 416, images: int = 1, **more) -> Batch:
    """Boxes as centre and sides, in pixels; labels 0, 1, 2 in turn."""
    x, y, w, h = torch.tensor(boxes, dtype=torch.float32).T
    found = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).expand(images, -1, -1)
    labels = (torch.arange(len(boxes)) % 3).expand(images, -1)
    pixels = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(1)) * 255
    return Batch(pixels, found, labels, torch.ones(images, len(boxes), dtype=torch.bool), **more)


@pytest.mark.parametrize("size", [416, 224])
def test_an_object_belongs_to_its_cell_and_the_nearest_shape(size):
    """Coarse output first: 13 x 13 cells of anchors 81x82, 135x169, 344x319; then 26 x 26 of
    23x27, 37x58 and 81x82 again; at another input the anchors are as much smaller."""
    factor, coarse = size / 416, size // 32
    fine = 2 * coarse
    _, net = yolo(size)
    objects = [
        (50, 60, 23, 27),  # fine, first anchor, column 3, row 3
        (100, 40, 80, 80),  # both outputs
        (200, 200, 140, 170),  # coarse, second anchor
        (300, 300, 9, 12),  # nearest to 10x14, which no output has
        (51, 61, 24, 26),  # in the place of the first, after it
        (400, 400, 37, 58),  # padding
    ]
    batch = batch_of([[value * factor for value in one] for one in objects], size)
    batch.gt_mask[0, 5] = False
    owner = rivals.owners(net.logits(batch.images), batch)[0]
    assert owner.shape == (3 * coarse**2 + 3 * fine**2,)

    def cell(x: float, y: float, stride: int) -> int:
        return int(y * factor // stride) * (size // stride) + int(x * factor // stride)

    start = 3 * coarse**2
    wanted = {
        start + cell(50, 60, 16): 4,
        cell(100, 40, 32): 1,
        start + 2 * fine**2 + cell(100, 40, 16): 1,
        coarse**2 + cell(200, 200, 32): 2,
    }
    assert {i: int(owner[i]) for i in (owner >= 0).nonzero()[:, 0].tolist()} == wanted


def ciou(a: list[float], b: list[float], alpha: float | None = None) -> tuple[float, float]:
    """Zheng 2020: IoU, less the distance of the centres and of the shapes; and the weight alpha of
    the latter, of which there is no gradient."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    (aw, ah), (bw, bh) = ((box[2] - box[0], box[3] - box[1]) for box in (a, b))
    overlap = width * height / (aw * ah + bw * bh - width * height)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    apart = (a[0] + a[2] - b[0] - b[2]) ** 2 / 4 + (a[1] + a[3] - b[1] - b[3]) ** 2 / 4
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    alpha = v / (1 - overlap + v) if alpha is None else alpha
    return overlap - apart / hull - alpha * v, alpha


def iou(a: list[float], b: list[float]) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    sides = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(sides) - width * height)


def test_losses_as_darknet_adds_them_up():
    """One anchor after the other, in plain Python; the second image is a mix of two."""
    config, net = yolo(64)
    weights = torch.tensor([[1.0, 1.0], [0.75, 0.25]])
    batch = batch_of([(20, 30, 22, 24), (40, 40, 12, 13)], 64, 2, gt_weights=weights)
    with torch.no_grad():
        raw = net.logits(batch.images)
        found = rivals.yolo_loss(raw, batch, config)
    # a background box that lies on an object: nobody pushes it down
    spare = int((rivals.owners(raw, batch)[0] < 0).nonzero()[0, 0])
    raw.boxes[0, spare] = batch.gt_boxes[0, 0] + 1
    with torch.no_grad():
        spared = rivals.yolo_loss(raw, batch, config)
    pushed = math.log1p(math.exp(raw.logits[0, spare, 0].item()))
    assert found["loss_objectness"] - spared["loss_objectness"] == pytest.approx(pushed / 2, 1e-3)

    sums, owner = [0.0, 0.0, 0.0], rivals.owners(raw, batch)
    for image in range(2):
        objects = batch.gt_boxes[image].tolist()
        for n, box in enumerate(raw.boxes[image].tolist()):
            p = raw.logits[image, n].double().sigmoid().tolist()
            of = int(owner[image, n])
            if of < 0:
                if max(iou(box, one) for one in objects) <= 0.7 or max(p[1:]) <= 0.25:
                    sums[1] -= math.log(1 - p[0])
                continue
            share = weights[image, of].item()
            sums[0] += 0.07 * (1 - ciou(box, objects[of])[0]) * share
            sums[1] -= math.log(p[0])
            right = int(batch.gt_labels[image, of])
            for c in range(3):
                sums[2] -= share * math.log(p[1 + c] if c == right else 1 - p[1 + c])
    names = ("loss_ciou", "loss_objectness", "loss_class")
    assert [spared[name].item() for name in names] == pytest.approx([x / 2 for x in sums], 1e-4)
    assert spared["num_pos"] == (owner >= 0).sum() > 0


def test_gradients_of_boxes_are_darknets():
    """Those of CIoU by centre and sides in shares of the image, for the sides times exp(t)."""
    size, config = 64, tiny(model=SMALL)
    batch = batch_of([(20, 30, 22, 24)], size)
    torch.manual_seed(3)
    maps = [torch.randn(1, 24, size // s, size // s, requires_grad=True) for s in (32, 16)]
    net = yolo(size)[1]
    net.forward = lambda images: maps
    raw = net.logits(batch.images)
    rivals.yolo_loss(raw, batch, config)["loss_ciou"].backward()
    (n,) = (rivals.owners(raw, batch)[0] >= 0).nonzero()[:, 0].tolist()
    x1, y1, x2, y2 = raw.boxes[0, n].tolist()
    shares = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) / size
    target = (batch.gt_boxes[0, 0] / size).tolist()

    _, alpha = ciou([x / size for x in (x1, y1, x2, y2)], target)

    def loss(values):
        x, y, w, h = values
        return 0.07 * (1 - ciou([x - w / 2, y - h / 2, x + w / 2, y + h / 2], target, alpha)[0])

    step, wanted = 1e-5, []
    for i in range(4):
        sides = []
        for sign in (1, -1):
            values = shares.double().tolist()
            values[i] += sign * step
            sides.append(loss(values))
        wanted.append((sides[0] - sides[1]) / (2 * step))
    anchor = raw.anchors[n]
    wanted = [*wanted[:2], wanted[2] * (x2 - x1) / anchor[0], wanted[3] * (y2 - y1) / anchor[1]]
    coarse = 3 * (size // 32) ** 2  # anchors of the first map come first
    start = 0 if n < coarse else coarse
    grad = maps[int(n >= coarse)].grad[0].unflatten(0, (3, 8)).movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(grad[n - start, :4], torch.tensor(wanted), rtol=1e-3, atol=1e-6)
    assert (grad[:, :4] != 0).any(1).sum() == 1


def config_of(about: dict):
    return SimpleNamespace(model=ModelConfig(**about["model"]))


@pytest.mark.parametrize("name", rivals.MAKERS)
def test_a_run_from_packs_to_weights_that_others_refuse(tmp_path, data_root, monkeypatch, name):
    use_root(monkeypatch, data_root)
    shape = {"network": name, "channels": 16, "stacked_convs": 1, "num_classes": None}
    config, runs = tiny(epochs=1, model=shape), tmp_path / "runs"
    with pytest.raises(UserError, match=rf"model\.network {name}: `lightdet train` trains it"):
        train.fit(config, runs, silent, "cpu")
    network = rivals.NETWORKS[name]
    folder = train.fit(config, runs, silent, "cpu", network=network)
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(network.losses) < set(rows[0]) and len(rows) == 2
    net, about, _ = load_weights(folder / "weights.safetensors", rivals.MAKERS)
    assert about["model"]["network"] == name and type(net) is type(rivals.build(config_of(about)))
    with pytest.raises(UserError, match=f"weights of {name}, which is .* lightdet is needed here"):
        load_weights(folder / "weights.safetensors")


def in_double(config):
    """In float64: what is compared is no rounding."""
    net = rivals.build(config).double()
    net.register_forward_pre_hook(lambda _, images: images[0].double())
    return net


def test_two_processes_compute_what_one_does(tmp_path, data_root, monkeypatch):
    """With darknet's losses (NanoDet-m has ours), and by SGD."""
    use_root(monkeypatch, data_root)
    shape = {"network": "yolov4_tiny", "num_classes": None}
    config = tiny(epochs=1, optimizer="sgd", lr=0.01, warmup_lr=0.001, model=shape)
    network = rivals.NETWORKS["yolov4_tiny"]._replace(build=in_double)
    one, two = (
        train.fit(config, tmp_path / f"{count}", silent, "cpu", count, network) for count in (1, 2)
    )
    assert read(two / "run.json")["processes"] == 2
    torch.testing.assert_close(weights(two), weights(one), rtol=1e-5, atol=1e-6)
    rows = [list(csv.reader((folder / "log.csv").open(newline=""))) for folder in (one, two)]
    assert rows[0][0] == rows[1][0] and len(rows[0]) == len(rows[1]) == 3
    found, wanted = (torch.tensor([list(map(float, row)) for row in log[1:]]) for log in rows)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_settings():
    """Experiments have the comparators' names; whatever would help them is refused."""
    published, nanodet = SETTINGS, load_config("nanodet_m", "coco").model
    for name in ("input_size", "activation", "channels", "stacked_convs", "reg_max", "cell_scale"):
        assert getattr(published, name) == getattr(nanodet, name)
    assert rivals.that_fit("demo") == rivals.that_fit("bccd") == list(rivals.MAKERS)
    params = read_params()
    assert set(params["rivals"]) == set(rivals.MAKERS) < set(COMPARATORS)
    for name in params["rivals"]:
        for profile in ("demo", "minicoco", "coco"):
            model = load_config(name, profile).model
            assert model.network == name and not model.pretrained
    assert load_config("yolov4_tiny", "minicoco").model.input_size % 32 == 0
    sizes = params["demo"]["experiments"]["yolov4_tiny"]["model"]
    sizes["input_size"] = 448
    with pytest.raises(ConfigError, match=r"input_size: 176: a multiple of 32 for yolov4_tiny"):
        load_config("yolov4_tiny", "demo", params=params)
    sizes["input_size"] = 416
    params["experiments"]["yolov4_tiny"]["model"]["pretrained"] = True
    with pytest.raises(
        ConfigError, match=r"model\.network: 'yolov4_tiny': from random weights alone"
    ):
        load_config("yolov4_tiny", "demo", params=params)
    with pytest.raises(ConfigError, match=r"label_smoothing: 0\.05: 0 for yolov4_tiny"):
        load_config("yolov4_tiny", "demo", params=smoothed(read_params()))


def smoothed(params: dict) -> dict:
    params["experiments"]["yolov4_tiny"]["train"] = {"label_smoothing": 0.05}
    return params


def test_the_pipeline_trains_none(tmp_path):
    """Its stages depend on the core alone."""
    path = tmp_path / "params.yaml"
    text = (root() / "params.yaml").read_text()
    path.write_text(text.replace("runs: [teacher,", "runs: [nanodet_m, teacher,"))
    with pytest.raises(
        ConfigError, match=r"nanodet_m is a nanodet_m: move it from `runs` to `rivals`"
    ):
        read_params(path)
