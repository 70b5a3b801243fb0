import pytest
from conftest import fit, fit_until, raising, same_run, tiny
from safetensors import SafetensorError
from safetensors.torch import save_file

from lightdet_core.config import UserError
from lightdet_core.machinery import checkpoint


@pytest.fixture
def before(here):
    """The checkpoint that a training left in its third step."""
    fit_until(3, tiny(), here)
    (path,) = here.glob(".checkpoints/*.safetensors")
    return path


def test_full_disk_keeps_the_checkpoint_before(here, before, monkeypatch):
    content, full = before.read_bytes(), SafetensorError("No space left on device")
    monkeypatch.setattr(checkpoint, "save_file", raising(full))
    with pytest.raises(UserError, match=r"cannot be written .*No space left"):
        fit(tiny(), here)
    assert before.read_bytes() == content


def test_damaged_checkpoint_is_named(here, before):
    before.write_bytes(before.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"damaged checkpoint .*delete it to start again"):
        fit(tiny(), here)
    assert before.exists()


def test_damaged_checkpoint_falls_back_to_the_one_before(here, trained):
    fit_until(5, tiny(), here)
    (last,) = (p for p in here.glob(".checkpoints/*.safetensors") if ".previous" not in p.name)
    content = bytearray(last.read_bytes())
    last.write_bytes(content[: len(content) // 2])
    lines = []
    resumed = fit(tiny(), here, lines.append)
    assert any(f"{last}: damaged" in x and "taking the one before" in x for x in lines)
    assert any("continuing at step 2 of" in x for x in lines)
    assert same_run(resumed, trained)


def test_a_checkpoint_that_reads_back_differently_is_refused(here, before, monkeypatch):
    content = before.read_bytes()

    def lossy(tensors, path, **more):
        changed = next(k for k, v in tensors.items() if v.is_floating_point() and v.numel())
        save_file(tensors | {changed: tensors[changed] + 1}, path, **more)

    monkeypatch.setattr(checkpoint, "save_file", lossy)
    with pytest.raises(UserError, match="reads back as other numbers"):
        fit(tiny(), here)
    assert before.read_bytes() == content and not list(here.glob(".checkpoints/*.partial"))
