"""Tables of what a GPU measured, on made-up files; and that what is absent is said to be."""

import pandas as pd
import pytest
from conftest import use_root

from lightdet_core.config import UserError, root
from lightdet_core.machinery.files import write_json
from lightdet_tools.report import gpu

MADE = {"hardware": "one GPU", "torch": "2.11.0", "date": "2026-01-02", "commit": "abc"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)


def write(root, step, **found):
    write_json(root / "results" / "gpu" / f"{step}.json", MADE | found)


@pytest.mark.parametrize("step", ["speed", "latency", "sparse", "training"])
def test_what_is_absent_is_said_to_be(tmp_path, step):
    assert getattr(gpu, f"{step}_table")() is None
    line = gpu.gpu_line(step)
    assert f"nothing was measured, for no machine with one was at hand (results/gpu/{step}" in line


def test_it_is_said_which_machine_measured(tmp_path):
    write(tmp_path, "speed", **{"images/s": {"fp16": {"images/s": 5.0, "batch": 2}}})
    assert gpu.gpu_line("speed") == "On a GPU: one GPU, 2.11.0, 2026-01-02, abc"
    assert gpu.speed_table().loc["fp16", "images/s"] == 5
    (tmp_path / "results" / "gpu" / "speed.json").write_text("{")
    with pytest.raises(UserError, match=r"speed\.json: not JSON"):
        gpu.speed_table()
    write(tmp_path, "sparse", products=[])
    with pytest.raises(UserError, match=r"sparse\.json: without sums; `make gpu`"):
        gpu.sparse_table()


def test_latency_has_ratios_and_gaps(tmp_path):
    systems = {
        "g5": {"size": 416, "fp32": {"ms": 2.0, "ratio": 2.0}, "fp16": {"error": "no kernel"}},
        "yolov4_tiny": {"size": 416, "fp32": {"ms": 1.0, "ratio": 1.0}},
    }
    write(tmp_path, "latency", systems=systems)
    table = gpu.latency_table()
    assert table.loc["g5", "fp32 ratio"] == 2 and pd.isna(table.loc["g5", "fp16 ms"])


def test_sparse_products_are_compared_with_dense_ones(tmp_path):
    sums = [{"images": 1, "kind": "fp16", "layers": 46, "dense": 4.0, "CUSPARSELT": 3.0}]
    write(tmp_path, "sparse", sums=sums)
    (row,) = gpu.sparse_table().to_dict("records")
    assert row["CUSPARSELT / dense"] == 0.75 and row["dense, ms"] == 4


def test_runs_are_averaged_over_seeds(tmp_path):
    def run(experiment, seed, ap, **per_class):
        shared = {"profile": "minicoco416", "AP50": 0.5, "AP75": 0.25, "images_per_second": 100.0}
        return shared | {"experiment": experiment, "seed": seed, "AP": ap, "per_class": per_class}

    runs = [run("g1", 0, 0.1, person=0.2), run("g1", 1, 0.3, person=0.4)]
    runs += [run("g2", 1, 0.5), run("g2", 0, 0.6), run("g1", 2, 0.9)]  # no g2 of seed 2
    row = {"runs of a row": ["g1", "g2"], "side by side": 6}
    write(tmp_path, "training", runs=runs, **row)
    table = gpu.training_table()
    first = table.loc["minicoco416", "g1"]
    assert first["AP"] == pytest.approx(20) and first["AP std"] == pytest.approx(200**0.5)
    assert first["person"] == pytest.approx(30) and first["seeds"] == 2
    assert first["images/s, 6 side by side"] == 100
    assert table.loc["minicoco416", "g2"]["AP"] == pytest.approx(55)
    assert list(gpu.training_table("g2").index) == [("minicoco416", "g2")]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("FULL_SCALE.md", "No GPU has run any of this yet"),
        ("FULL_SCALE.md", "They are absent: no\nGPU was at hand"),
        ("results/gpu/README.md", "Nothing yet"),
        ("README.md", "or on a GPU**"),
    ],
)
def test_pages_say_what_the_folder_holds(monkeypatch, page, words):
    """Numbers of a GPU stand there as soon as there are some, and not before."""
    monkeypatch.delenv("LIGHTDET_ROOT")
    absent = words in (root() / page).read_text()
    assert absent == (gpu.gpu_result("speed") is None)
