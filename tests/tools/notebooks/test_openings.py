"""The pictures that chapters open with: what is on them is what the chapter is about."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import teach, use_root

from lightdet_core import sparsity
from lightdet_core.config import UserError
from lightdet_core.model import load_weights
from lightdet_tools.notebooks import openings


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setattr(openings.draw, "notebook_style", lambda: None)  # its format is IPython's
    yield
    plt.close("all")


def test_curves_are_the_activations_and_their_slopes():
    openings.curves()
    left, right = plt.gcf().axes
    lines = dict(zip([line.get_label() for line in left.lines], right.lines, strict=True))
    assert list(lines) == ["ReLU6", "LeakyReLU", "Mish", "SiLU", "h-swish"]
    slope = dict(zip(*lines["ReLU6"].get_data(), strict=True))
    at = {x: slope[min(slope, key=lambda known, x=x: abs(known - x))] for x in (-3, 3, 8)}
    assert at == {-3: 0, 3: 1, 8: 0}


def test_pattern_shows_a_layer_and_what_is_left_of_it(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    teach(tmp_path / "runs/demo", "g3")
    categories = load_weights(openings.weights_of("demo", "g3"))[2]
    monkeypatch.setattr(openings, "open_pack", lambda _: SimpleNamespace(categories=categories))
    openings.pattern("demo", "g3")
    dense, pruned = (np.asarray(axis.images[0].get_array()) for axis in plt.gcf().axes)
    state = load_weights(openings.weights_of("demo", "g3"))[0].state_dict()
    name = next(key for key, value in state.items() if sparsity.eligible(key, value))
    assert np.array_equal(dense, state[name][:6, :16, 0, 0])
    assert ((pruned != 0).reshape(6, 4, 4).sum(-1) == 2).all()
    assert name.removesuffix(".weight") in plt.gcf().axes[1].get_xlabel()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("opening", [openings.pattern, openings.detector])
def test_weights_of_other_classes_open_no_chapter(tmp_path, monkeypatch, opening):
    use_root(monkeypatch, tmp_path)
    teach(tmp_path / "runs/demo", "g3")
    others = [{"id": 1, "name": "cell"}]
    monkeypatch.setattr(openings, "open_pack", lambda _: SimpleNamespace(categories=others))
    message = r"g3-s0/weights\.safetensors: label 0 .*\(1, 'cell'\) in the data"
    with pytest.raises(UserError, match=message):
        opening("demo", "g3")
