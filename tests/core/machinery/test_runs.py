import json

import pytest
from conftest import fit, teach, tiny, use_root

from lightdet_core.config import UserError, load_config
from lightdet_core.machinery import runs


def finished(folder, key):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"key": key}))
    (folder / "weights.safetensors").touch()
    return folder


def test_a_run_that_another_process_trains_is_refused(here):
    lock = here / ".checkpoints" / "g1-s0.lock"
    with runs.alone(lock), pytest.raises(UserError, match=r"process \d+ on .* trains"):
        fit(tiny(), here)
    fit(tiny(epochs=1), here)  # the lock is free again


def test_other_teacher_is_another_run(tmp_path):
    """The teacher is always seed 0; its weights belong to the key, those of its name do not."""
    config = tiny(seed=1, distill={"teacher": "g2", "ld_weight": 1.0})
    keys = set()
    for place, seed in enumerate((1, 1, 2)):
        teach(tmp_path / str(place), "g2", weights_of=seed)
        keys.add(runs.run_key(config, {}, runs.sources_of(config, tmp_path / str(place))))
    assert len(keys) == 2


@pytest.mark.parametrize("damage", ["run.json", "weights.safetensors", "text", "other json"])
def test_a_damaged_folder_is_no_finished_run(tmp_path, damage):
    folder = finished(tmp_path / "g1-s0", "abc")
    assert runs.finished_key(folder) == "abc"
    if damage in ("text", "other json"):
        (folder / "run.json").write_text("[]" if damage == "other json" else "{")
    else:
        (folder / damage).unlink()
    assert runs.finished_key(folder) == "incomplete"


def test_no_run_is_overwritten_by_another_moved_aside(tmp_path):
    names = [runs.move_aside(finished(tmp_path / "g1-s0", "abc")).name for _ in range(3)]
    assert names == ["g1-s0.abc", "g1-s0.abc.1", "g1-s0.abc.2"]
    assert all(runs.finished_key(tmp_path / name) == "abc" for name in names)


def test_published_files_are_those_of_the_run(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    folder = finished(tmp_path / "run", "abc")
    (folder / "metrics.json").write_text("metrics")
    (folder / "log.csv").write_text("log")
    for _ in range(2):  # a second time replaces
        runs.publish(folder, tiny())
    results = tmp_path / "results" / tiny().profile
    found = {str(p.relative_to(results)): p.read_text() for p in results.rglob("*.*")}
    name = tiny().run_name
    assert found == {
        f"metrics/{name}.json": "metrics",
        f"logs/{name}.csv": "log",
        f"runs/{name}.json": (folder / "run.json").read_text(),
    }


def test_a_teacher_counts_by_what_made_it(tmp_path):
    """Other bytes of one run are one teacher; a file without a run counts by its bytes."""
    config, weights = load_config("g5", "demo"), tmp_path / "teacher-s0" / "weights.safetensors"
    weights.parent.mkdir()

    def key(content, made=None):
        weights.write_bytes(content)
        (weights.parent / "run.json").write_text(json.dumps({"key": made} if made else {}))
        return runs.run_key(config, {}, {"distill.teacher": weights})

    assert key(b"here", "a" * 16) == key(b"elsewhere", "a" * 16) != key(b"here", "b" * 16)
    assert key(b"here") != key(b"elsewhere")


def test_a_run_does_not_begin_with_what_it_would_replace(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    folder = tmp_path / "runs/demo"
    for run, allowed in (("g1-s0", False), ("g1-s1", True), ("g1-s0.old", True)):
        config = tiny().with_model(pretrained=f"runs/demo/{run}/weights.safetensors")
        if allowed:
            assert list(runs.sources_of(config, folder)) == ["model.pretrained"]
        else:
            with pytest.raises(UserError, match=r"weights\.safetensors of g1: training g1-s0 rep"):
                runs.sources_of(config, folder)
