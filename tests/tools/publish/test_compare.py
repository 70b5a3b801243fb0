import json
import shutil
import subprocess

import numpy as np
import pytest
from conftest import use_root

from lightdet_core.config import UserError
from lightdet_tools.publish.compare import compare, report

PUBLISHED = {"g1": (0.50, 0.52, 0.51), "g2": (0.60, 0.62), "g3": (0.40, 0.44), "+silu": (0.1, 0.9)}


def git(folder, *words):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost", *words]
    subprocess.run(git, cwd=folder, check=True, capture_output=True)


def train(root, name, ap, config="now"):
    """What `lightdet train` leaves: a run, and its metrics in results/."""
    metrics = json.dumps({"AP": ap, "config": config})
    for path in (
        root / f"runs/demo/{name}/metrics.json",
        root / f"results/demo/metrics/{name}.json",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(metrics)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone of a repository with results."""
    origin = tmp_path / "origin"
    for run, seeds in PUBLISHED.items():
        for seed, ap in enumerate(seeds):
            train(origin, f"{run}-s{seed}", ap)
    shutil.rmtree(origin / "runs")
    git(origin, "init", "--quiet")
    git(origin, "add", "results")
    git(origin, "commit", "--quiet", "-m", "results")
    git(tmp_path, "clone", "--quiet", "origin", "clone")
    use_root(monkeypatch, tmp_path / "clone")
    return tmp_path / "clone"


def test_within_the_spread_of_the_published_seeds(clone):
    spread = (1 + 0 + 1 + 1 + 1 + 4 + 4) / 4  # 3 + 2 + 2 seeds, a mean each
    wanted = 2.7764 * spread**0.5 * np.sqrt(1 + 1 / 3)  # Student's t, 4 degrees of freedom
    for ap, reproduced in ((51 + 0.99 * wanted, "yes"), (51 - 1.01 * wanted, "no")):
        train(clone, "g1-s0", ap / 100)
        found = compare("demo").set_index("run").loc["g1-s0"]
        assert found["within"] == pytest.approx(wanted, rel=1e-4)
        assert found[["published", "seeds"]].tolist() == [pytest.approx(51), 3]
        assert found["reproduced"] == reproduced
    git(clone, "commit", "--quiet", "--all", "--message", "my runs")
    assert compare("demo")["reproduced"].tolist() == ["no"]  # not held against themselves


def test_what_was_not_published_is_said(clone):
    train(clone, "g1-s0", 0.5, "other settings")
    train(clone, "g2-s0", 0.6)
    train(clone, "g4-s0", 0.5)
    lines = []
    report("demo", lines.append)
    assert lines == [
        "g1-s0: AP 50.0; nothing published with these settings",
        "g2-s0: AP 60.0, published 61.0 (2 seeds), within ± 5.9",
        "g4-s0: AP 50.0; nothing published with these settings",
        "reproduced: 1 of 3",
    ]
    lines.clear()
    report("smoke", lines.append)
    assert lines == ["no results of smoke are in git to compare with"]


def test_nothing_is_trained_yet(clone):
    """The published files in results/ are nobody's own."""
    with pytest.raises(UserError, match="runs/demo: nothing is trained"):
        compare("demo")


def test_without_two_seeds_no_spread_is_known(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    train(tmp_path, "g1-s0", 0.5)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "results")
    git(tmp_path, "commit", "--quiet", "-m", "results")
    assert compare("demo")["reproduced"].tolist() == ["no spread is known: no run has two seeds"]


def test_without_git(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="no git checkout"):
        compare("demo")
