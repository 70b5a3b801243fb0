"""Shared by all tests: golden numbers of the reference implementations, and their inputs."""

import dataclasses
import functools
import json
import os
from pathlib import Path
from types import SimpleNamespace

# two of these files run at a time; what tests start has one thread, too, for equal last digits
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from lightdet_core import augment, engine, train
from lightdet_core.augment import training_batch
from lightdet_core.config import AugmentConfig, load_config
from lightdet_core.config import root as repository
from lightdet_core.machinery import precision
from lightdet_core.model import LightDet, save_weights
from lightdet_tools.data import pack, scenes, sources

torch.set_num_threads(1)
engine.LOG_STEPS = 1  # trainings here have few steps
HERE = repository()
# these take minutes: begun last, one of them would run alone at the end
LONG = ("test_train.py", "test_site.py", "test_distributed.py", "test_gpu_bundle.py",
        "test_repro.py", "test_pipeline.py")  # fmt: skip
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())["cases"]


def saw(*shape: int, a: int = 7919, m: int = 10007, lo: float = -2, hi: float = 2) -> torch.Tensor:
    """The inputs of the golden cases: a deterministic saw-tooth over the row-major index."""
    index = np.arange(int(np.prod(shape)), dtype=np.float64)
    values = lo + (hi - lo) * ((index * a) % m) / (m - 1)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def close(actual: torch.Tensor, expected: object, atol: float = 2e-6) -> None:
    """Equal to the precision that golden.json states: atol 2e-6 max(1, |x|)."""
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, rtol=atol, atol=atol)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, each as it is."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture
def golden():
    """`golden("name")` -> inputs, outputs of one case."""
    return lambda name: (GOLDEN[name]["inputs"], GOLDEN[name]["outputs"])


@pytest.fixture(autouse=True, scope="module")
def one_thread_again():
    """Opening a detector sets them for all of torch; the last digits of a training depend on it."""
    yield
    torch.set_num_threads(1)


def silent(_: str) -> None:
    pass


def tiny(**changes):
    """The smoke profile at 64 px with 16 + 4 scenes and 6 steps."""
    config = load_config("g1", "smoke", seed=changes.pop("seed", 0))
    data = dataclasses.replace(config.data, num_train=16, num_val=4, pack_size=96, image_size=128)
    model = dataclasses.replace(
        config.model,
        **{"input_size": 64, "drop_path": 0.1, "pretrained": False, **changes.pop("model", {})},
    )
    sections = {
        name: dataclasses.replace(getattr(config, name), **changes.pop(name, {}))
        for name in ("augment", "sparsity", "distill")
    }
    settings = {"epochs": 3, "batch_size": 8, "checkpoint_steps": 2}
    settings |= {"warmup_steps": 2} | changes
    return dataclasses.replace(
        config,
        data=data,
        model=model,
        train=dataclasses.replace(config.train, **settings),
        **sections,
    )


def use_root(patch, folder):
    """Data, runs and results in this folder instead of the repository; its settings stay."""
    for name in ("params.yaml", "paper.yaml", "design.yaml"):
        if not (folder / name).exists():
            (folder / name).symlink_to(HERE / name)
    patch.setenv("LIGHTDET_ROOT", str(folder))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """Scenes and packs of `tiny`, made once."""
    root = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        use_root(patch, root)
        sources.prepare(tiny(), silent)
        pack.prepare_packs([tiny()], silent)
    return root


@pytest.fixture
def here(data_root, tmp_path, monkeypatch):
    """Runs land in a fresh folder, data come from the shared one."""
    use_root(monkeypatch, data_root)
    return tmp_path / "runs" / "smoke"


def teach(runs, name, weights_of=1, **model):
    """A run to learn from or to start with: untrained, for what matters here is who reads it."""
    config = dataclasses.replace(tiny(model=model), experiment=name)
    torch.manual_seed(weights_of)
    folder = runs / f"{name}-s0"
    folder.mkdir(parents=True)
    names = sorted(scenes.CLASSES, key=scenes.CLASSES.get)
    categories = [{"id": scenes.CLASSES[name], "name": name} for name in names]
    state = LightDet(config.model).state_dict()
    save_weights(folder / "weights.safetensors", state, config, categories)


def weights(folder):
    return load_file(folder / "weights.safetensors")


def kept(runs):
    """What is left of a training that was not finished."""
    return [path for path in runs.glob(".checkpoints/*") if path.suffix != ".lock"]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def fit(config, runs, progress=silent):
    return train.fit(config, runs, progress, "cpu")


def fit_until(step, config, runs):
    """Fails in the middle of a step, as a kill would."""

    class Stopped(Exception):
        pass

    def batch(pack, config, seed, now, device, **rows):
        if now == step:
            raise Stopped
        return training_batch(pack, config, seed, now, device, **rows)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(augment, "training_batch", batch)
        fit(config, runs)


def raising(error):
    """A function that only raises."""

    def fail(*_, **__):
        raise error

    return fail


def read(path):
    return json.loads(path.read_text())


def same_run(a, b):
    files = [[(x / name).read_bytes() for name in ("metrics.json", "log.csv")] for x in (a, b)]
    return same(weights(a), weights(b)) and files[0] == files[1]


@pytest.fixture(scope="session")
def undisturbed(data_root, tmp_path_factory):
    """`undisturbed(config)` is the folder of its run, trained once and not to be changed."""

    @functools.cache
    def train_once(config):
        runs = tmp_path_factory.mktemp("undisturbed")
        if config.distill.teacher:
            teach(runs, config.distill.teacher)
        with pytest.MonkeyPatch.context() as patch:
            use_root(patch, data_root)
            return fit(config, runs)

    return train_once


@pytest.fixture
def trained(undisturbed):
    return undisturbed(tiny())


def small_run(size, **changes):
    """The config of a run with the smallest backbone; its head is eligible for 2:4."""
    config = load_config("g5", "smoke", seed=4)
    settings = {"backbone": "lite0", "input_size": size, "num_classes": 3, "channels": 16}
    settings |= {"stacked_convs": 1, "reg_max": 7} | changes
    return config.with_model(**settings)


CATEGORIES = [{"id": 3, "name": "car"}, {"id": 7, "name": "zebra"}, {"id": 9, "name": "ü"}]


def network(experiment, **changes):
    """An experiment's network as it is for COCO, untrained."""
    config = load_config(experiment, "coco").model
    return LightDet(dataclasses.replace(config, pretrained=False, **changes)).eval()


def count_macs(model, images):
    """Multiply-adds of the convolutions and linear layers in a pass, per image; its outputs."""
    macs = []

    def add(layer, _, out):
        cells = out[0, 0] if isinstance(layer, nn.Conv2d) else out[0, ..., 0]
        macs.append(layer.weight.numel() * cells.numel())

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(add)
    with torch.no_grad():
        outputs = model(images)
    return sum(macs), outputs


def needs(half):
    return pytest.mark.skipif(not precision.cpu_computes_in(half), reason=f"this CPU has no {half}")


def make_coco() -> dict:
    """Three images (one without objects), category ids with a gap, one crowd, out of order."""
    return {
        "images": [
            {"id": 30, "file_name": "sub/a.png", "width": 64, "height": 48},
            {"id": 10, "file_name": "b.png", "width": 32, "height": 64},
            {"id": 20, "file_name": "c.png", "width": 20, "height": 20},
        ],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 90, "bbox": [2, 4, 8, 16], "iscrowd": 1},
            {"id": 2, "image_id": 30, "category_id": 3, "bbox": [0, 0, 64, 48], "iscrowd": 0},
            {"id": 3, "image_id": 10, "category_id": 3, "bbox": [0.5, 1, 10, 10]},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
    }


def as_detections(annotations: list[dict]) -> list[dict]:
    """What agrees with these annotations."""
    keys = ("image_id", "category_id", "bbox")
    return [{key: one[key] for key in keys} | {"score": 0.9} for one in annotations]


def write_coco(folder: Path, coco: dict) -> Path:
    """The annotation file and a picture for every image entry that states a size."""
    for image in coco["images"]:
        path = folder / "images" / str(image.get("file_name"))
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image.get("width"), int) and isinstance(image.get("height"), int):
            color = (image["id"] if isinstance(image.get("id"), int) else 0, 100, 200)
            Image.new("RGB", (image["width"], image["height"]), color).save(path)
    (folder / "coco.json").write_text(json.dumps(coco))
    return folder / "coco.json"


def tree(folder: Path) -> dict[str, bytes]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


@pytest.fixture
def made(tmp_path):
    """Annotations, image folder and the folder of a pack that is there already."""
    annotations = write_coco(tmp_path, make_coco())
    images, out = tmp_path / "images", tmp_path / "packs" / "train-32"
    pack.build(annotations, images, out, 32, progress=silent)
    return annotations, images, out


STILL = AugmentConfig(warp_probability=0.0, flip=0.0, color_probability=0.0)  # changes nothing


def make_pack(images, boxes=None, sizes=None, crowd=None):
    """A pack of square images (N, P, P, 3) with a list of boxes per image."""
    count, side = images.shape[:2]
    boxes = boxes or [[]] * count
    most = max(1, *(len(b) for b in boxes))
    gt_boxes = np.zeros((count, most, 4), np.float32)
    gt_labels = np.zeros((count, most), np.int64)
    for i, own in enumerate(boxes):
        gt_boxes[i, : len(own)] = np.reshape(own, (-1, 4))
        gt_labels[i, : len(own)] = i
    return SimpleNamespace(
        images=images.astype(np.uint8),
        gt_boxes=gt_boxes,
        gt_labels=gt_labels,
        gt_crowd=np.zeros((count, most), bool) if crowd is None else np.array(crowd),
        counts=np.array([len(b) for b in boxes]),
        sizes=np.full((count, 2), side) if sizes is None else np.array(sizes),
        size=side,
    )


def painted(count, side, seed):
    """Black images, each with one bright rectangle, its box, and a wide or tall original."""
    rng = np.random.default_rng(seed)
    images, boxes, sizes = np.zeros((count, side, side, 3)), [], []
    for image in images:
        wide = rng.random() < 0.5
        sizes.append([640, 480] if wide else [300, 400])
        margin = np.array([0, side // 8] if wide else [side // 8, 0])
        low = rng.integers(margin + 2, side // 2)
        high = low + rng.integers(side // 6, side // 2 - margin - 2)
        image[low[1] : high[1], low[0] : high[0]] = 250
        boxes.append([[*low, *high]])
    return make_pack(images, boxes, sizes)
