"""Shared by all tests: golden numbers of the reference implementations, and their inputs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lightdet_core.config import load_config
from lightdet_core.config import root as repository
from lightdet_core.model import LightDet, save_weights
from lightdet_tools.data import pack, scenes, sources

torch.set_num_threads(2)
HERE = repository()
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


@pytest.fixture
def golden():
    """`golden("name")` -> inputs, outputs of one case."""
    return lambda name: (GOLDEN[name]["inputs"], GOLDEN[name]["outputs"])


@pytest.fixture(autouse=True, scope="module")
def threads_as_before():
    """Opening a detector sets them for all of torch; the last digits of a training depend on it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def silent(_: str) -> None:
    pass


def tiny(**changes):
    """The smoke profile at 64 px with 16 + 4 scenes and 6 steps."""
    config = load_config("g1", "smoke", seed=changes.pop("seed", 0))
    data = dataclasses.replace(
        config.data, num_train=16, num_val=4, pack_size=96, image_width=128, image_height=96
    )
    model = dataclasses.replace(
        config.model, input_size=64, drop_path=0.1, **changes.pop("model", {})
    )
    sections = {
        name: dataclasses.replace(getattr(config, name), **changes.pop(name, {}))
        for name in ("augment", "sparsity", "distill")
    }
    settings = {"epochs": 3, "batch_size": 8, "checkpoint_steps": 2, "log_steps": 1}
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
    for name in ("params.yaml", "paper.yaml"):
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
