"""Tables pool the right seeds; printed numbers stay apart; files are the same twice."""

import json
import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from lightdet_core import report
from lightdet_core.config import load_config, read_params

MODEL = {"backbone": "lite1", "activation": "mish", "head": "gflv1"}


def add_result(
    root,
    run,
    seed,
    ap,
    config="a" * 12,
    provenance_config=None,
    key="",
    teacher="",
    pack="p",
    **metrics,
):
    results = root / "results" / "demo"
    values = dict.fromkeys(report.METRICS, ap) | metrics
    run_json = {
        "config_hash": provenance_config or config,
        "config": {"model": MODEL, "distill": {"teacher": teacher}},
        "key": config[:8] + (key or "d" * 8),
        "input_size": 208,
        "num_params": 3_994_740,
        "pack_hash": pack,
    }
    files = {"metrics": {"config": config, **values}, "runs": run_json}
    for folder, content in files.items():
        (results / folder).mkdir(parents=True, exist_ok=True)
        (results / folder / f"{run}-s{seed}.json").write_text(json.dumps(content))


def row(root, run="g2"):
    return report.run_table("demo", [run], root).iloc[0]


def test_mean_and_sample_deviation_over_seeds(tmp_path):
    for seed, ap in enumerate((0.30, 0.33, 0.36)):
        add_result(tmp_path, "g2", seed, ap, AP50=0.5 + ap)
    found = row(tmp_path)
    assert found["seeds"] == 3 and found["left out"] == ""
    assert found["AP"] == pytest.approx(33.0) and found["AP std"] == pytest.approx(3.0)
    assert found["AP50"] == pytest.approx(83.0) and found["AP50 std"] == pytest.approx(3.0)
    assert (found["activation"], found["input size"], found["parameters"]) == (
        "mish",
        208,
        3_994_740,
    )


def test_one_seed_has_no_deviation_and_absent_sizes_no_value(tmp_path):
    add_result(tmp_path, "g2", 0, 0.3, APs=-1)
    found = row(tmp_path)
    assert found["AP"] == pytest.approx(30.0)
    assert math.isnan(found["AP std"]) and math.isnan(found["APs"])


def test_seeds_with_other_settings_are_left_out_and_named(tmp_path):
    add_result(tmp_path, "g2", 0, 0.30)
    add_result(tmp_path, "g2", 2, 0.34)
    add_result(tmp_path, "g2", 10, 0.90, config="b" * 12)
    found = row(tmp_path)
    assert found["AP"] == pytest.approx(32.0) and found["seeds"] == 2
    assert found["left out"] == "s10 (bbbbbbbbdddddddd)" and found["config"] == "a" * 12


def test_only_seeds_with_the_same_data_and_teacher_are_pooled(tmp_path):
    add_result(tmp_path, "g2", 0, 0.30)
    add_result(tmp_path, "g2", 1, 0.90, key="e" * 8)
    assert row(tmp_path)["AP"] == pytest.approx(30.0) and row(tmp_path)["seeds"] == 1
    for seed, taught_by in enumerate("ttu"):
        key = "d" * 8 + taught_by * 8
        add_result(tmp_path, "g5", seed, 0.3, key=key, teacher="teacher")
        add_result(tmp_path, "g4", seed, 0.3, key="d" * 8 + str(seed) * 8)  # its first weights
    assert row(tmp_path, "g5")["left out"] == f"s2 (aaaaaaaa{'d' * 8}{'u' * 8})"
    assert row(tmp_path, "g4")["seeds"] == 3


def test_names_that_begin_alike_are_other_runs(tmp_path):
    add_result(tmp_path, "g2", 0, 0.30)
    add_result(tmp_path, "g2-s", 0, 0.90)
    add_result(tmp_path, "g22", 0, 0.90)
    assert row(tmp_path)["AP"] == pytest.approx(30.0)


def test_a_missing_run_says_which_command_makes_it(tmp_path):
    command = "python -m lightdet_core.train --experiment g3 --profile demo --seed 0"
    with pytest.raises(report.ReportError, match=command):
        report.run_table("demo", ["g3"], tmp_path)
    add_result(tmp_path, "g3", 1, 0.3)
    (tmp_path / "results/demo/runs/g3-s1.json").unlink()
    with pytest.raises(report.ReportError, match=r"g3-s1\.json: not found.*--seed 1"):
        report.run_table("demo", ["g3"], tmp_path)


def test_results_that_do_not_belong_together_are_refused(tmp_path):
    add_result(tmp_path, "g2", 0, 0.3, provenance_config="c" * 12)
    with pytest.raises(report.ReportError, match="settings cccccccccccc, but the metrics are of a"):
        row(tmp_path)
    (tmp_path / "results/demo/metrics/g2-s0.json").write_text('{"AP": 0.3')
    with pytest.raises(report.ReportError, match=r"g2-s0\.json: not JSON"):
        row(tmp_path)
    (tmp_path / "results/demo/metrics/g2-s0.json").write_text('{"config": "a"}')
    with pytest.raises(report.ReportError, match="without AP, AP50"):
        row(tmp_path)


def test_printed_numbers_stay_in_columns_of_their_own(tmp_path):
    add_result(tmp_path, "g2", 0, 0.3)
    add_result(tmp_path, "c0", 0, 0.2)
    frame = report.run_table("demo", ["g2", "c0"], tmp_path)
    assert frame["printed AP"].tolist()[0] == 27.35 and frame["printed FPS"].tolist()[0] == 330
    assert frame["AP"].tolist() == pytest.approx([30.0, 20.0])
    assert frame["printed AP"].isna().tolist() == [False, True]
    others = [name for name in frame if not name.startswith("printed")]
    assert 27.35 not in frame[others].to_numpy().ravel().tolist()


def test_table_files(tmp_path):
    add_result(tmp_path, "g2", 0, 0.30, APs=-1)
    add_result(tmp_path, "g2", 1, 0.36, APs=-1)
    frame = report.run_table("demo", ["g2"], tmp_path)
    report.write_table(frame, tmp_path / "out" / "table2")
    csv = (tmp_path / "out" / "table2.csv").read_text()
    markdown = (tmp_path / "out" / "table2.md").read_text()
    read = pd.read_csv(tmp_path / "out" / "table2.csv").iloc[0]
    assert read["AP"] == 33.0 and read["AP std"] == 4.24 and math.isnan(read["APs"])
    assert read["printed AP"] == 27.35 and read["parameters"] == 3_994_740
    header, _, cells, *_ = (line.split(" | ") for line in markdown.splitlines())
    assert cells[header.index("AP")] == "33.00 ± 4.24" and "AP std" not in header
    assert cells[header.index("APs")] == "" and cells[header.index("printed FPS")] == "330"
    report.write_table(frame, tmp_path / "out" / "table2")
    assert (tmp_path / "out" / "table2.csv").read_text() == csv
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["table2.csv", "table2.md"]


def test_figures_show_the_numbers_and_are_the_same_twice(tmp_path):
    add_result(tmp_path, "g1", 0, 0.25)
    add_result(tmp_path, "g2", 0, 0.30)
    add_result(tmp_path, "g2", 1, 0.36)
    frame = report.run_table("demo", ["g1", "g2"], tmp_path)
    log = pd.DataFrame({"step": [10, 20], **{name: [2.0, 1.0] for name in report.LOSSES}})
    log.to_csv(tmp_path / "log.csv")
    report.use_style()
    found = []
    for _ in range(2):
        table = report.plot_table2(frame)
        losses = report.plot_losses({"g1-s0": tmp_path / "log.csv", "g2-s0": log})
        for name, figure in {"table2": table, "losses": losses}.items():
            report.save_figure(figure, tmp_path / name)
            plt.close(figure)
        files = [tmp_path / f"{n}.{kind}" for n in ("table2", "losses") for kind in ("png", "svg")]
        found.append([file.read_bytes() for file in files])
    assert found[0] == found[1]
    measured, printed = (
        [text.get_text() for text in axis.texts] for axis in (table.axes[0], table.axes[1])
    )
    assert measured == ["25.0 (1)", "33.0 (2)"] and printed == ["24.7", "27.35"]
    assert losses.axes[0].lines[1].get_xydata().tolist() == [[10, 2], [20, 1]]


def test_contrasts_pair_the_seeds_and_pool_the_spread(tmp_path):
    """By hand: differences 1, 3 and 5, 5: pooled variance (2 + 0) / 2, t of two degrees 4.303."""
    values = {"c0": (0.20, 0.24, 0.30), "+a": (0.21, 0.27), "+b": (0.25, 0.29), "+c": (0.9,)}
    for run, aps in values.items():
        for seed, ap in enumerate(aps):
            add_result(tmp_path, run, seed, ap)
    seeds = report.seed_table("demo", ["c0", "+a", "+b", "+c", "+never"], root=tmp_path)
    assert seeds.loc["c0"].tolist() == pytest.approx([20, 24, 30]) and "+never" not in seeds.index
    assert math.isnan(seeds.loc["+a", 2])
    wanted = {x: {x: 1, "c0": -1} for x in ("+a", "+b", "+c", "+never")}
    found = report.contrasts(seeds, wanted | {"b - a": {"+b": 1, "+a": -1}}).set_index("contrast")
    assert found.index.tolist() == ["+a", "+b", "+c", "b - a"]
    assert found["difference"].tolist() == pytest.approx([2, 5, 70, 3])
    assert found["seeds"].tolist() == [2, 2, 1, 2] and math.isnan(found.loc["+c", "difference std"])
    pooled = ((2 + 0 + 2) / 3) ** 0.5
    assert found.loc["+a", "within"] == pytest.approx(3.1824 * pooled / 2**0.5, rel=1e-3)
    assert found["verdict"].tolist() == ["none shown", "up", "up", "up"]
    only = report.contrasts(seeds, {"+c": wanted["+c"]}).iloc[0]
    assert only["verdict"] == "one seed" and math.isnan(only["within"])
    down = report.contrasts(seeds, {"c": {"c0": 1, "+b": -1}, "a": wanted["+a"]})
    assert down["verdict"].tolist() == ["down", "none shown"]


@pytest.mark.parametrize(("freedom", "known"), [(1, 12.706), (2, 4.303), (5, 2.571), (30, 2.042)])
def test_student_quantile(freedom, known):
    assert report._t_quantile(freedom) == pytest.approx(known, abs=2e-3)


def test_runs_on_other_images_are_not_compared(tmp_path):
    add_result(tmp_path, "c0", 0, 0.2)
    add_result(tmp_path, "+silu", 0, 0.3, pack="q")
    with pytest.raises(report.ReportError, match=r"c0 and \+silu saw other images.*\+silu"):
        report.seed_table("demo", ["c0", "+silu"], root=tmp_path)


def test_figure_of_contrasts_fills_what_differs(tmp_path):
    rows = {"contrast": ["+a", "+b"], "difference": [2.0, 0.1], "within": [1.0, 1.0]}
    table = pd.DataFrame(rows | {"seeds": [3, 1], "verdict": ["up", "none shown"]})
    (axis,) = report.plot_contrasts(table).axes
    filled, hollow = axis.collections[-2:]
    assert filled.get_offsets().tolist() == [[2.0, 0.0]]
    assert hollow.get_offsets().tolist() == [[0.1, 1.0]]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["+a (3)", "+b (1)"]
    plt.close("all")


def test_paper_agrees_with_the_settings_and_marks_what_it_infers():
    paper = report.load_paper()
    experiments = read_params()["experiments"]
    for name, row in paper["table2"].items():
        assert set(row.get("certainty", {}).values()) <= {"printed", "inferred", "open"}
        assert set(row.get("certainty", {})) <= set(row) | set(row["printed"])
        if name in experiments:
            assert experiments[name]["printed"] == row["printed"]
            model = load_config(name, "coco").model
            for key in ("backbone", "input_size", "activation", "head"):
                assert getattr(model, key) == row[key], (name, key)
    assert len(paper["table1"]) == 8 and len(paper["table2"]) == 5
    assert paper["table1"]["proposed"]["printed"]["AP"] == paper["table2"]["g5"]["printed"]["AP"]
    for row in paper["table1"].values():
        assert {"source", "protocol"} == set(row["accuracy"])
        assert {"source", "hardware", "source_certainty"} == set(row["speed"])
    assert paper["nanodet"]["models"]["lite1_416"]["printed"]["AP"] == 30.3
