"""What a release holds is the run's, and belongs together."""

import hashlib

import pytest
from conftest import read, use_root

import lightdet_core
from lightdet_core.config import UserError
from lightdet_core.machinery.files import write_json
from lightdet_tools import cli
from lightdet_tools.publish.card import write_release


@pytest.fixture
def run(trained, data_root, monkeypatch):
    """A trained run, of which nothing may be changed."""
    use_root(monkeypatch, data_root)
    if not (data_root / "LICENSE").exists():
        (data_root / "LICENSE").write_text("free\n")
    return trained


@pytest.fixture
def own(run, tmp_path):
    """A copy of it."""
    folder = tmp_path / "g1-s0"
    folder.mkdir()
    for path in run.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_weights_sums_licence_and_card(own, tmp_path):
    run, out = own, tmp_path / "release"
    write_json(run / "run.json", read(run / "run.json") | {"commit": "c0ffee", "dirty": True})
    cli.main(["card", str(run), "--out", str(out)])
    name = f"smoke-{run.name}"
    assert {path.name for path in out.iterdir()} == {
        "LICENSE", "SHA256SUMS", f"{name}.safetensors", f"{name}.md"
    }  # fmt: skip
    lines = (out / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == 3
    for total, file in (line.split("  ") for line in lines):
        assert hashlib.sha256((out / file).read_bytes()).hexdigest() == total
    assert lightdet_core.load(out / f"{name}.safetensors").size == 64

    card, about = (out / f"{name}.md").read_text(), read(run / "run.json")
    metrics = read(run / "metrics.json")
    row = card.split("| AP | AP50 | AP75 | APs | APm | APl |\n")[1].splitlines()[1]
    assert row.split(" | ")[0] == f"| {100 * metrics['AP']:.1f}"
    for text in (
        about["command"],
        "Commit c0ffee, from which code or settings differed, ",
        about["hardware"],
        f"torch {about['versions']['torch']}",
        "16 images to train on, 4 to evaluate; ",
        "(CC0-1.0)",
        "Began with random weights.",
        "person, bicycle, car",
        f"{(run / 'weights.safetensors').stat().st_size:,} bytes",
    ):
        assert text in card


def test_sizes_without_objects_have_no_number(own, tmp_path):
    metrics = read(own / "metrics.json")
    write_json(own / "metrics.json", {**metrics, "APl": -1})
    write_release([own], tmp_path / "release")
    card = (tmp_path / "release/smoke-g1-s0.md").read_text()
    assert " | no objects |\n" in card
    assert "Commit unknown (no git checkout), " in card  # as the test's own run is


@pytest.mark.parametrize(
    ("file", "key", "message"),
    [
        ("metrics.json", "config", "are of different trainings"),
        ("run.json", "val_hash", "describes other images than g1-s0 has seen"),
    ],
)
def test_what_does_not_belong_together_is_refused(own, tmp_path, file, key, message):
    write_json(own / file, read(own / file) | {key: "0" * 12})
    with pytest.raises(UserError, match=message):
        write_release([own], tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_a_folder_with_something_in_it_stays(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already; take another --out"):
        write_release([run], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
