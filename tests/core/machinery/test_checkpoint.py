from pathlib import Path

import pytest
from conftest import Stopped, same, silent, stop_at, tiny, weights
from safetensors import SafetensorError
from safetensors.torch import save_file

from lightdet_core import train
from lightdet_core.config import UserError
from lightdet_core.machinery import checkpoint


def stopped(here, monkeypatch) -> tuple[Path, bytes]:
    """The checkpoint that a training left in its third step, and its bytes."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(3, patch)
        train.fit(tiny(), here, silent, "cpu")
    (before,) = here.glob(".checkpoints/*.safetensors")
    return before, before.read_bytes()


def test_full_disk_keeps_the_checkpoint_before(here, monkeypatch):
    before, content = stopped(here, monkeypatch)

    def full(*_, **__):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"cannot be written .*No space left"):
        train.fit(tiny(), here, silent, "cpu")
    assert before.read_bytes() == content


def test_damaged_checkpoint_is_named(here, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(3, patch)
        train.fit(tiny(), here, silent, "cpu")
    (checkpoint,) = here.glob(".checkpoints/*.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"damaged checkpoint .*delete it to start again"):
        train.fit(tiny(), here, silent, "cpu")
    assert checkpoint.exists()


def test_damaged_checkpoint_falls_back_to_the_one_before(here, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(5, patch)
        train.fit(tiny(), here, silent, "cpu")
    (last,) = (p for p in here.glob(".checkpoints/*.safetensors") if ".previous" not in p.name)
    content = bytearray(last.read_bytes())
    last.write_bytes(content[: len(content) // 2])
    lines = []
    resumed = train.fit(tiny(), here, lines.append, "cpu")
    assert any(f"{last}: damaged" in x and "taking the one before" in x for x in lines)
    assert any("continuing at step 2 of" in x for x in lines)
    undisturbed = train.fit(tiny(), here.with_name("undisturbed"), silent, "cpu")
    assert same(weights(resumed), weights(undisturbed))
    assert (resumed / "log.csv").read_bytes() == (undisturbed / "log.csv").read_bytes()


def test_a_checkpoint_that_reads_back_differently_is_refused(here, monkeypatch):
    before, content = stopped(here, monkeypatch)

    def lossy(tensors, path, **more):
        changed = next(k for k, v in tensors.items() if v.is_floating_point() and v.numel())
        save_file(tensors | {changed: tensors[changed] + 1}, path, **more)

    monkeypatch.setattr(checkpoint, "save_file", lossy)
    with pytest.raises(UserError, match="reads back as other numbers"):
        train.fit(tiny(), here, silent, "cpu")
    assert before.read_bytes() == content and not list(here.glob(".checkpoints/*.partial"))
