"""Tables pool the right seeds; printed numbers stay apart; files are the same twice."""

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import use_root
from PIL import Image

from lightdet_core.config import UserError, load_config, read_params, root
from lightdet_core.machinery.files import short_hash, write_json
from lightdet_tools import style
from lightdet_tools.report import figures, tables
from lightdet_tools.report.contrasts import contrasts

MODEL = {"backbone": "lite1", "activation": "mish", "head": "gflv1"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)


def add_result(
    run,
    seed,
    ap,
    config="a" * 12,
    key="d" * 8,
    teacher="",
    init="",
    pack="p",
    profile="demo",
    **metrics,
):
    values = {**dict.fromkeys(tables.METRICS, ap), "AP_without": [ap, ap / 2, -1], **metrics}
    model = MODEL | {"pretrained": not run.endswith("-scratch")}
    run_json = {
        "config_hash": config,
        "config": {"model": model, "distill": {"teacher": teacher}, "train": {"init": init}},
        "key": config[:8] + key,
        "input_size": 208,
        "num_params": 3_994_740,
        "pack_hash": pack,
    }
    for folder, content in {"metrics": {"config": config, **values}, "runs": run_json}.items():
        write_json(root() / "results" / profile / folder / f"{run}-s{seed}.json", content)


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
    assert row("g5")["left out"] == f"s2 (aaaaaaaa{'d' * 8}{'u' * 8})"


def test_names_that_begin_alike_are_other_runs():
    add_result("g2", 0, 0.30)
    add_result("g2-s", 0, 0.90)
    add_result("g22", 0, 0.90)
    assert row()["AP"] == pytest.approx(30.0)


def test_a_missing_run_says_which_command_makes_it(tmp_path):
    command = "lightdet train --experiment g3 --profile demo --seed 0"
    with pytest.raises(UserError, match=command):
        tables.run_table("demo", ["g3"])
    add_result("g3", 1, 0.3)
    (tmp_path / "results/demo/runs/g3-s1.json").unlink()
    with pytest.raises(UserError, match=r"g3-s1\.json: not found.*--seed 1"):
        tables.run_table("demo", ["g3"])


def test_results_that_do_not_belong_together_are_refused(tmp_path):
    add_result("g2", 0, 0.3)
    metrics = tmp_path / "results/demo/metrics/g2-s0.json"
    other = metrics.read_text().replace("a" * 12, "c" * 12)
    for content, message in (
        (other, "settings aaaaaaaaaaaa, but the metrics are of c"),
        ('{"AP": 0.3', r"g2-s0\.json: not JSON"),
        ('{"config": "a"}', "without AP, AP50, .*AP_without"),
    ):
        metrics.write_text(content)
        with pytest.raises(UserError, match=message):
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
    with Image.open(tmp_path / "table2.png") as image:
        assert image.mode == "P"  # few colours
        few = np.asarray(image.convert("RGB")).astype(int)
    table.savefig(tmp_path / "full.png")
    with Image.open(tmp_path / "full.png") as image:
        assert np.abs(few - np.asarray(image.convert("RGB"))).mean() < 0.1  # of 255
    losses.axes[0].imshow(np.zeros((2, 2, 3), np.uint8))
    figures.save_figure(losses, tmp_path / "scene")
    assert [path.name for path in tmp_path.glob("scene.*")] == ["scene.png"]
    measured, printed = ([text.get_text() for text in axis.texts] for axis in table.axes[:2])
    assert measured == ["25.0 (1)", "33.0 (2)"] and printed == ["24.7", "27.35"]
    assert losses.axes[0].lines[1].get_xydata().tolist() == [[10, 2], [20, 1]]


@pytest.fixture
def as_trained(monkeypatch):
    """params.yaml has the settings that the results name, but for the run `+old`."""
    now = {"+old": "b" * 12}
    monkeypatch.setattr(tables, "_hash_now", lambda run, *_: now.get(run, "a" * 12))


def test_seed_table_holds_what_may_be_compared(as_trained):
    for run, aps in {"c0": (0.20, 0.24, 0.30), "c0-scratch": (0.21, -1), "+old": (0.9,)}.items():
        for seed, ap in enumerate(aps):
            add_result(run, seed, ap)
    add_result("+silu", 0, 0.3, pack="q")
    seeds = tables.seed_table("demo", ["c0", "c0-scratch", "+old", "+silu", "+never"])
    assert seeds.index.tolist() == [("c0", 0), ("c0", 1), ("c0", 2), ("c0-scratch", 0)]
    assert seeds["AP"].tolist() == pytest.approx([20, 24, 30, 21])
    assert seeds["start"].tolist() == 3 * ["ImageNet"] + ["scratch"]
    assert seeds["training"].nunique() == 2
    assert seeds[0].tolist() == pytest.approx([20, 24, 30, 21])
    assert seeds[1].tolist() == pytest.approx([10, 12, 15, 10.5])
    assert seeds[2].isna().all()  # no object is left
    assert seeds.attrs["left out"] == {
        "+old": "trained with other settings than params.yaml has now",
        "+silu": "trained or evaluated on other images",
    }
    assert tables.seed_table("demo", ["+never"]).empty
    assert len(tables.seed_table("demo")) == 4  # of the experiments of params.yaml


def test_one_class_answers_where_the_design_says_so(as_trained, monkeypatch):
    """minicoco's people: their AP in each table and on the axis; the others have AP of all."""
    assert tables.tested_class("minicoco") == "person" and tables.tested_class("demo") == ""
    for seed, ap in enumerate((0.2, 0.3)):
        each = {"per_class": {"person": ap}, "per_class_without": {"person": [ap, ap / 2]}}
        add_result("c0", seed, 0.9, profile="minicoco", **each)
    seeds = tables.seed_table("minicoco", ["c0"])
    assert seeds[["AP", 0, 1]].to_numpy().tolist() == [[20, 20, 10], [30, 30, 15]]
    table = contrasts(seeds, ["c0"], 1)
    assert table["difference"].tolist() == [25.0]
    (axis,) = figures.plot_contrasts(table[table["seeds"] > 1]).axes
    assert axis.get_xlabel() == "difference in AP of person, percentage points (seeds)"
    found = tables.run_table("minicoco", ["c0"])
    assert found[["AP", "AP of person"]].to_numpy().tolist() == [[90, 25]]
    assert found["AP of person std"][0] == pytest.approx(50**0.5)
    measured, _ = figures.plot_table2(found).axes
    assert measured.get_xlabel() == "AP of person, percent"
    assert [text.get_text() for text in measured.texts] == ["25.0 (2)"]
    none = {"per_class": {"person": -1}, "per_class_without": {"person": [-1, -1]}}
    add_result("+silu", 0, 0.9, profile="minicoco", **none)
    assert math.isnan(tables.run_table("minicoco", ["+silu"])["AP of person"][0])
    assert tables.seed_table("minicoco", ["+silu"]).empty
    other = {"per_class": {"car": 0.1}, "per_class_without": {"car": [0.1, 0.1]}}
    add_result("c0", 0, 0.9, profile="minicoco", **other)
    with pytest.raises(
        UserError, match=r"c0 knows no class person, .*tested_class in .*design\.yaml"
    ):
        tables.run_table("minicoco", ["c0"])
    add_result("c0", 0, 0.9, profile="minicoco")
    with pytest.raises(UserError, match="without per_class, per_class_without; `lightdet train"):
        tables.seed_table("minicoco", ["c0"])


def test_students_of_another_teacher_are_left_out(as_trained):
    add_result("teacher", 0, 0.5)
    made = short_hash("a" * 8 + "d" * 8)  # of the teacher's key
    add_result("g5", 0, 0.4, key="d" * 8 + made, teacher="teacher")
    assert tables.seed_table("demo", ["g5"]).attrs["left out"] == {}
    add_result("g5", 0, 0.4, key="d" * 8 + "e" * 8, teacher="teacher")
    add_result("self-ld", 0, 0.4, key="d" * 8 + made, teacher="c0")  # which is not there
    assert tables.seed_table("demo", ["g5", "self-ld"]).attrs["left out"] == {
        "g5": "teacher was trained with other settings than params.yaml has now",
        "self-ld": "c0 was trained with other settings than params.yaml has now",
    }


def test_what_is_taught_and_cut_out_of_another_needs_both(as_trained):
    """`slim-e3-taught`: its key names the teacher of seed 0, then the wide run of its own seed."""
    for run, seed in (("teacher", 0), ("+hswish", 0), ("+hswish", 1)):
        add_result(run, seed, 0.5, key=f"{run:.7}{seed}")
    taught, wide, other = (
        short_hash("a" * 8 + key) for key in ("teacher0", "+hswish1", "+hswish0")
    )
    key = {"teacher": "teacher", "init": "+hswish", "key": "d" * 8 + taught + wide}
    add_result("slim-e3-taught", 1, 0.4, **key)
    assert tables.seed_table("demo", ["slim-e3-taught"]).attrs["left out"] == {}
    for made, source in ((taught + other, "+hswish"), (other + wide, "teacher")):
        add_result("slim-e3-taught", 1, 0.4, **{**key, "key": "d" * 8 + made})
        found = tables.seed_table("demo", ["slim-e3-taught"]).attrs["left out"]
        assert found["slim-e3-taught"].startswith(f"{source} was trained with other settings")


def test_settings_of_now_are_those_of_a_run_with_its_classes():
    config = load_config("g3", "custom")  # takes the classes from the data
    provenance = {"config": {"model": {"num_classes": 4}}}
    found = tables._hash_now("g3", "custom", provenance)
    assert found != config.hash
    filled = dataclasses.replace(config.model, num_classes=4)
    assert found == dataclasses.replace(config, model=filled).hash


def test_figure_of_contrasts_fills_what_differs():
    rows = {"contrast": ["+a", "+b"], "difference": [2.0, 0.1], "within": [1.0, 1.0]}
    table = pd.DataFrame(rows | {"seeds": [3, 1], "verdict": ["up", "none shown"]})
    (axis,) = figures.plot_contrasts(table).axes
    filled, hollow = axis.collections[-2:]
    assert filled.get_offsets().tolist() == [[2.0, 0.0]]
    assert hollow.get_offsets().tolist() == [[0.1, 1.0]]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["+a\xa0(3)", "+b\xa0(1)"]
    assert axis.get_xlim() == pytest.approx((-3.15, 3.15))  # 2 + 1 and a margin
    figure = figures.plot_contrasts(table[table["verdict"] == "none shown"])
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["none shown", "interval, 95 % for all together"]  # there is no difference


def test_one_very_wide_interval_does_not_hide_the_others():
    rows = {"contrast": ["+a", "+b", "+c"], "difference": [2.0, 0.1, 1.0], "within": [1, 600, 1]}
    table = pd.DataFrame(rows | {"seeds": 1, "verdict": "none shown"})
    (axis,) = figures.plot_contrasts(table).axes
    assert axis.get_xlim() == pytest.approx((-3.255, 3.255))  # 0.1 + three usual ones


def test_what_is_very_far_off_is_a_number_at_the_border():
    far = [2.0, 0.1, -42.0, 41.7]
    rows = {"contrast": ["+a", "+b", "+c", "+d"], "difference": far, "within": 1.0}
    table = pd.DataFrame(rows | {"seeds": 3, "verdict": "up"})
    (axis,) = figures.plot_contrasts(table.iloc[[0, 1, 1, 0, 1, 2, 3]]).axes
    assert axis.get_xlim() == pytest.approx((-3.15, 3.15))
    said = {text.get_text(): text.get_position() for text in axis.texts}
    assert said == {"← -42.0": pytest.approx((-3.15, 5)), "+41.7 →": pytest.approx((3.15, 6))}


def overview(experiments, printed, contrasts):
    groups = {"experiment": experiments, "profile": "demo", "printed AP": printed}
    groups |= {"AP": range(len(printed)), "AP std": 1.0}
    differences = {"contrast": contrasts, "difference": range(len(contrasts)), "within": 1.0}
    differences |= {"seeds": 3, "verdict": "up"}
    figure = figures.plot_overview(pd.DataFrame(groups), pd.DataFrame(differences))
    figure.canvas.draw()
    return [[text.get_text() for text in axis.get_yticklabels()] for axis in figure.axes]


def test_overview_keeps_printed_and_measured_apart_and_says_the_ladder_in_words():
    printed, measured, ladder = overview(
        ["g1", "g9", "teacher"], [24.7, 1.0, math.nan], ["g9 - g1", "+wide - c0", "+silu - c0"]
    )
    assert printed == ["g1  Lite0, ReLU6", "g9  "] and measured == ["", ""]  # side by side
    assert ladder == ["SiLU instead of ReLU6\xa0(3)"]  # the other is no change of one thing
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
