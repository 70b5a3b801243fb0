"""Tables pool the right seeds; printed numbers stay apart; files are the same twice."""

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import use_root

from lightdet_core.config import load_config, read_params, root
from lightdet_core.machinery.files import write_json
from lightdet_tools import style
from lightdet_tools.report import figures, tables

MODEL = {"backbone": "lite1", "activation": "mish", "head": "gflv1"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)


def add_result(run, seed, ap, config="a" * 12, key="d" * 8, teacher="", pack="p", **metrics):
    values = dict.fromkeys(tables.METRICS, ap) | metrics
    run_json = {
        "config_hash": config,
        "config": {"model": MODEL, "distill": {"teacher": teacher}},
        "key": config[:8] + key,
        "input_size": 208,
        "num_params": 3_994_740,
        "pack_hash": pack,
    }
    for folder, content in {"metrics": {"config": config, **values}, "runs": run_json}.items():
        write_json(root() / "results/demo" / folder / f"{run}-s{seed}.json", content)


def row(run="g2"):
    return tables.run_table("demo", [run]).iloc[0]


def test_mean_and_sample_deviation_over_seeds():
    for seed, ap in enumerate((0.30, 0.33, 0.36)):
        add_result("g2", seed, ap, AP50=0.5 + ap)
    found = row()
    assert found["seeds"] == 3 and found["left out"] == ""
    assert found["AP"] == pytest.approx(33.0) and found["AP std"] == pytest.approx(3.0)
    assert found["AP50"] == pytest.approx(83.0) and found["AP50 std"] == pytest.approx(3.0)
    about = found["activation"], found["input size"], found["parameters"]
    assert about == ("mish", 208, 3_994_740)


def test_one_seed_has_no_deviation_and_absent_sizes_no_value():
    add_result("g2", 0, 0.3, APs=-1)
    found = row()
    assert found["AP"] == pytest.approx(30.0)
    assert math.isnan(found["AP std"]) and math.isnan(found["APs"])


def test_seeds_with_other_settings_are_left_out_and_named():
    add_result("g2", 0, 0.30)
    add_result("g2", 2, 0.34)
    add_result("g2", 10, 0.90, config="b" * 12)
    found = row()
    assert found["AP"] == pytest.approx(32.0) and found["seeds"] == 2
    assert found["left out"] == "s10 (bbbbbbbbdddddddd)" and found["config"] == "a" * 12


def test_only_seeds_with_the_same_data_and_teacher_are_pooled():
    add_result("g2", 0, 0.30)
    add_result("g2", 1, 0.90, key="e" * 8)
    assert row()["AP"] == pytest.approx(30.0) and row()["seeds"] == 1
    for seed, taught_by in enumerate("ttu"):
        key = "d" * 8 + taught_by * 8
        add_result("g5", seed, 0.3, key=key, teacher="teacher")
        add_result("g4", seed, 0.3, key="d" * 8 + str(seed) * 8)  # its first weights
    assert row("g5")["left out"] == f"s2 (aaaaaaaa{'d' * 8}{'u' * 8})"
    assert row("g4")["seeds"] == 3


def test_names_that_begin_alike_are_other_runs():
    add_result("g2", 0, 0.30)
    add_result("g2-s", 0, 0.90)
    add_result("g22", 0, 0.90)
    assert row()["AP"] == pytest.approx(30.0)


def test_a_missing_run_says_which_command_makes_it(tmp_path):
    command = "lightdet train --experiment g3 --profile demo --seed 0"
    with pytest.raises(tables.UserError, match=command):
        tables.run_table("demo", ["g3"])
    add_result("g3", 1, 0.3)
    (tmp_path / "results/demo/runs/g3-s1.json").unlink()
    with pytest.raises(tables.UserError, match=r"g3-s1\.json: not found.*--seed 1"):
        tables.run_table("demo", ["g3"])


def test_results_that_do_not_belong_together_are_refused(tmp_path):
    add_result("g2", 0, 0.3)
    metrics = tmp_path / "results/demo/metrics/g2-s0.json"
    other = metrics.read_text().replace("a" * 12, "c" * 12)
    for content, message in (
        (other, "settings aaaaaaaaaaaa, but the metrics are of c"),
        ('{"AP": 0.3', r"g2-s0\.json: not JSON"),
        ('{"config": "a"}', "without AP, AP50"),
    ):
        metrics.write_text(content)
        with pytest.raises(tables.UserError, match=message):
            row()


def test_printed_numbers_stay_in_columns_of_their_own():
    add_result("g2", 0, 0.3)
    add_result("c0", 0, 0.2)
    frame = tables.run_table("demo", ["g2", "c0"])
    assert frame["printed AP"].tolist()[0] == 27.35 and frame["printed FPS"].tolist()[0] == 330
    assert frame["AP"].tolist() == pytest.approx([30.0, 20.0])
    assert frame["printed AP"].isna().tolist() == [False, True]
    others = [name for name in frame if not name.startswith("printed")]
    assert 27.35 not in frame[others].to_numpy().ravel().tolist()


def test_table_files(tmp_path):
    add_result("g2", 0, 0.30, APs=-1)
    add_result("g2", 1, 0.36, APs=-1)
    frame = tables.run_table("demo", ["g2"])
    tables.write_table(frame, tmp_path / "out" / "table2")
    csv = (tmp_path / "out" / "table2.csv").read_text()
    markdown = (tmp_path / "out" / "table2.md").read_text()
    read = pd.read_csv(tmp_path / "out" / "table2.csv").iloc[0]
    assert read["AP"] == 33.0 and read["AP std"] == 4.24 and math.isnan(read["APs"])
    assert read["printed AP"] == 27.35 and read["parameters"] == 3_994_740
    header, _, cells, *_ = (line.split(" | ") for line in markdown.splitlines())
    assert cells[header.index("AP")] == "33.00 ± 4.24" and "AP std" not in header
    assert cells[header.index("APs")] == "" and cells[header.index("printed FPS")] == "330"
    tables.write_table(frame, tmp_path / "out" / "table2")
    assert (tmp_path / "out" / "table2.csv").read_text() == csv
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["table2.csv", "table2.md"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_a_bar_in_a_cell_starts_no_column(tmp_path):
    tables.write_table(pd.DataFrame({"a|b": ["<x|y>"], "c": [1.5]}), tmp_path / "t", "note")
    assert (tmp_path / "t.md").read_text().splitlines()[:3] == [
        r"| a\|b | c |", "| --- | --- |", r"| <x\|y> | 1.50 |"
    ]  # fmt: skip
    assert (tmp_path / "t.csv").read_text() == "a|b,c\n<x|y>,1.50\n"


def test_figures_show_the_numbers_and_are_the_same_twice(tmp_path):
    add_result("g1", 0, 0.25)
    add_result("g2", 0, 0.30)
    add_result("g2", 1, 0.36)
    frame = tables.run_table("demo", ["g1", "g2"])
    log = pd.DataFrame({"step": [10, 20], **{name: [2.0, 1.0] for name in figures.LOSSES}})
    log.to_csv(tmp_path / "log.csv")
    style.use_style()
    found = []
    for _ in range(2):
        table = figures.plot_table2(frame)
        losses = figures.plot_losses({"g1-s0": tmp_path / "log.csv", "g2-s0": log})
        for name, figure in {"table2": table, "losses": losses}.items():
            figures.save_figure(figure, tmp_path / name)
        files = [tmp_path / f"{n}.{kind}" for n in ("table2", "losses") for kind in ("png", "svg")]
        found.append([file.read_bytes() for file in files])
    assert found[0] == found[1]
    measured, printed = ([text.get_text() for text in axis.texts] for axis in table.axes[:2])
    assert measured == ["25.0 (1)", "33.0 (2)"] and printed == ["24.7", "27.35"]
    assert losses.axes[0].lines[1].get_xydata().tolist() == [[10, 2], [20, 1]]


@pytest.fixture
def as_trained(monkeypatch):
    """params.yaml has the settings that the results name, but for the run `+old`."""
    now = {"+old": "b" * 12}
    monkeypatch.setattr(tables, "_hash_now", lambda run, *_: now.get(run, "a" * 12))


def test_seed_table_holds_what_may_be_compared(as_trained):
    for run, aps in {"c0": (0.20, 0.24, 0.30), "+a": (0.21, 0.27), "+old": (0.9,)}.items():
        for seed, ap in enumerate(aps):
            add_result(run, seed, ap, APs=-1 if seed else ap)
    add_result("+silu", 0, 0.3, pack="q")
    runs = ["c0", "+a", "+old", "+silu", "+never"]
    seeds = tables.seed_table("demo", runs)
    assert seeds.loc["c0"].tolist() == pytest.approx([20, 24, 30])
    assert seeds.index.tolist() == ["c0", "+a"] and math.isnan(seeds.loc["+a", 2])
    assert seeds.attrs["left out"] == {
        "+old": "trained with other settings than params.yaml has now",
        "+silu": "trained on other images",
    }
    small = tables.seed_table("demo", ["c0"], "APs")
    assert small.loc["c0"].tolist() == pytest.approx([20])  # -1: no such objects


def test_settings_of_now_are_those_of_a_run_with_its_classes():
    config = load_config("g3", "custom")  # takes the classes from the data
    provenance = {"config": {"model": {"num_classes": 4}}}
    found = tables._hash_now("g3", "custom", provenance)
    assert found != config.hash
    filled = dataclasses.replace(config.model, num_classes=4)
    assert found == dataclasses.replace(config, model=filled).hash


def test_contrasts_by_hand():
    """Residuals of run and seed effects: (+-0.5, +-0.5) x 2: s^2 = 1 with one degree of freedom."""
    seeds = pd.DataFrame([[20.0, 24.0], [21.0, 27.0]], index=["c0", "+a"])
    found = tables.contrasts(seeds, {"a": {"+a": 1, "c0": -1}, "never": {"+b": 1, "c0": -1}})
    (row,) = found.to_dict("records")
    assert row["difference"] == pytest.approx(2) and row["seeds"] == 2
    assert row["difference std"] == pytest.approx(2**0.5)
    assert row["within"] == pytest.approx(12.706 * 1.0 * (2 / 2) ** 0.5, rel=1e-3)
    assert row["verdict"] == "none shown"
    four = tables.contrasts(seeds, {"x": {"+a": 2, "c0": -2}}).iloc[0]
    assert four["within"] == pytest.approx(2 * row["within"])


def test_verdicts():
    spread = pd.DataFrame([[20.0, 20.1, 20.0], [25.0, 25.0, 25.1], [18.0, 18.0, 18.1]])
    spread.index = ["c0", "+up", "+down"]
    spread.loc["+one"] = [20.02, float("nan"), float("nan")]
    wanted = {x: {x: 1, "c0": -1} for x in ("+up", "+down", "+one")}
    found = tables.contrasts(spread, wanted).set_index("contrast")
    assert found["verdict"].tolist() == ["up", "down", "none shown"]
    assert found.loc["+one", "seeds"] == 1 and math.isnan(found.loc["+one", "difference std"])
    alone = tables.contrasts(spread[[0]], wanted)
    assert alone["verdict"].eq("unknown").all() and alone["within"].isna().all()
    same = pd.DataFrame([[20.0, 21.0], [20.0, 21.0]], index=["c0", "+a"])
    assert tables.contrasts(same, {"a": {"+a": 1, "c0": -1}})["verdict"].tolist() == ["none shown"]


def test_false_differences_are_as_rare_as_they_say():
    """Noise only, shared shifts per seed: five percent, for sums of two runs and of four."""
    generator = np.random.default_rng(0)
    names = [f"r{i}" for i in range(10)]
    wanted = {"two": {"r1": 1, "r0": -1}, "four": {"r1": 1, "r0": -1, "r3": -1, "r2": 1}}
    called = pd.Series(0, index=list(wanted))
    for _ in range(600):
        values = generator.normal(size=(10, 3)) + generator.normal(size=3)
        found = tables.contrasts(pd.DataFrame(values, index=names), wanted)
        called += found.set_index("contrast")["verdict"].ne("none shown")
    assert (called / 600).between(0.025, 0.08).all()


@pytest.mark.parametrize(("freedom", "known"), [(1, 12.706), (2, 4.303), (5, 2.571), (30, 2.042)])
def test_student_quantile(freedom, known):
    assert tables._t_quantile(freedom) == pytest.approx(known, abs=2e-3)


def test_figure_of_contrasts_fills_what_differs():
    rows = {"contrast": ["+a", "+b"], "difference": [2.0, 0.1], "within": [1.0, 1.0]}
    table = pd.DataFrame(rows | {"seeds": [3, 1], "verdict": ["up", "none shown"]})
    (axis,) = figures.plot_contrasts(table).axes
    filled, hollow = axis.collections[-2:]
    assert filled.get_offsets().tolist() == [[2.0, 0.0]]
    assert hollow.get_offsets().tolist() == [[0.1, 1.0]]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["+a (3)", "+b (1)"]


def overview(experiments, printed, contrasts):
    groups = {"experiment": experiments, "profile": "demo", "printed AP": printed}
    groups |= {"AP": range(len(printed)), "AP std": 1.0}
    differences = {"contrast": contrasts, "difference": range(len(contrasts)), "within": 1.0}
    differences |= {"seeds": 3, "verdict": "up"}
    figure = figures.plot_overview(pd.DataFrame(groups), pd.DataFrame(differences))
    figure.canvas.draw()
    return [[text.get_text() for text in axis.get_yticklabels()] for axis in figure.axes]


def test_overview_keeps_printed_and_measured_apart_and_says_the_ladder_in_words():
    printed, ladder, measured = overview(
        ["g1", "g9", "teacher"], [24.7, 1.0, math.nan], ["g9 - g1", "+wide - c0", "+silu - c0"]
    )
    assert printed == measured == ["g1  Lite0, ReLU6", "g9  "]
    assert ladder == ["SiLU instead of ReLU6 (3)", "+wide - c0 (3)"]
    assert len(overview(["g1"], [24.7], ["g2 - g1"])) == 2  # no ladder, no panel
    assert overview(["c0"], [math.nan], []) == [[], []]


def test_paper_agrees_with_the_settings_and_marks_what_it_infers():
    paper = tables.load_paper()
    experiments = read_params()["experiments"]
    for name, row in paper["table2"].items():
        assert set(row.get("certainty", {}).values()) <= {"printed", "inferred", "open"}
        assert set(row.get("certainty", {})) <= set(row) | set(row["printed"])
        if name in experiments:
            model = load_config(name, "coco").model
            for key in ("backbone", "input_size", "activation", "head"):
                assert getattr(model, key) == row[key], (name, key)
    assert len(paper["table1"]) == 8 and len(paper["table2"]) == 5
    assert paper["table1"]["proposed"]["printed"]["AP"] == paper["table2"]["g5"]["printed"]["AP"]
    for row in paper["table1"].values():
        assert {"source", "protocol"} == set(row["accuracy"])
        assert {"source", "hardware", "source_certainty"} == set(row["speed"])
    assert paper["nanodet"]["models"]["lite1_416"]["printed"]["AP"] == 30.3
