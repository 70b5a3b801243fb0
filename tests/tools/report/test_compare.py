import json
import subprocess

import numpy as np
import pytest
from conftest import use_root

from lightdet_core.config import UserError
from lightdet_tools.report.compare import compare, report

COMMITTED = {"g1": (0.50, 0.52, 0.51), "g2": (0.60, 0.62), "+silu": (0.40, 0.44)}


def write(folder, name, ap, config="now"):
    (folder / f"{name}.json").write_text(json.dumps({"AP": ap, "config": config}))


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A checkout with committed metrics, whose working tree may change."""
    use_root(monkeypatch, tmp_path)
    folder = tmp_path / "results/demo/metrics"
    folder.mkdir(parents=True)
    for run, seeds in COMMITTED.items():
        for seed, ap in enumerate(seeds):
            write(folder, f"{run}-s{seed}", ap)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost"]
    for words in (["init", "--quiet"], ["add", "results"], ["commit", "--quiet", "-m", "results"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    return folder


def test_within_the_spread_of_all_committed_seeds(results):
    spread = (1 + 0 + 1 + 1 + 1 + 4 + 4) / 4  # 3 + 2 + 2 seeds, a mean each
    wanted = 2.7764 * spread**0.5 * np.sqrt(1 + 1 / 3)  # Student's t, 4 degrees of freedom
    for ap, reproduced in ((51 + 0.99 * wanted, "yes"), (51 - 1.01 * wanted, "no")):
        write(results, "g1-s0", ap / 100)
        found = compare("demo").set_index("run").loc["g1-s0"]
        assert found["within"] == pytest.approx(wanted, rel=1e-4)
        assert found[["committed", "seeds"]].tolist() == [pytest.approx(51), 3]
        assert found["reproduced"] == reproduced


def test_what_was_not_committed_is_said(results):
    write(results, "g1-s0", 0.5, "other settings")
    write(results, "g3-s0", 0.5)
    lines = []
    report("demo", lines.append)
    assert lines == [
        "g1-s0: AP 50.0; nothing committed with these settings",
        "g2-s0: AP 60.0, committed 61.0 (2 seeds), within ± 5.9",
        "g3-s0: AP 50.0; nothing committed with these settings",
        "reproduced: 1 of 3",
    ]


def test_without_two_seeds_no_spread_is_known(tmp_path, results):
    for path in results.glob("*-s[12].json"):
        path.unlink()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "-qam", "one"]
    subprocess.run(git, cwd=tmp_path, check=True)
    assert compare("demo")["reproduced"].unique().tolist() == [
        "no spread is known: no run has two seeds"
    ]


def test_without_git_or_runs(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="no git checkout"):
        compare("demo")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    with pytest.raises(UserError, match="no git checkout"):
        report("demo", print)
