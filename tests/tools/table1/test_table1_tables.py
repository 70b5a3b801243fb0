"""Tables and figures of speed from made-up measurements with known ratios."""

import json
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from lightdet_core.config import UserError
from lightdet_tools.report.tables import load_paper
from lightdet_tools.table1 import tables

PAPER = load_paper()
PERSON = "300 images of val2017 (minicoco's val)"


def row(runtime: str, system: str, part: str, ms: float, calls: int = 9) -> dict:
    return {
        "runtime": runtime, "base": runtime.removesuffix(" int8"), "system": system,
        "part": part, "calls": calls,
        "median_ms": ms, "p10_ms": 0.9 * ms, "p90_ms": 1.2 * ms,
    }  # fmt: skip


@pytest.fixture
def found() -> dict:
    keys = ("key", "title", "parameters", "gmac", "bytes")
    systems = [
        {"size": 416, "in_paper": "", **dict(zip(keys, values, strict=True))}
        for values in (
            ("yolov4_tiny", "YOLOv4-tiny", 6_056_606, 3.45, {"onnxruntime": 2**20, "ncnn": 2**21}),
            ("ssd", "SSD300", 35_641_826, 34.9, {"onnxruntime": 3 * 2**20}),
            ("g5", "LightDet g5", 4_015_000, 1.93, {"onnxruntime": 2**22}),
        )
    ]
    latency = [
        row("onnxruntime", "yolov4_tiny", "network", 20.0),
        row("onnxruntime", "ssd", "network", 300.0),
        row("onnxruntime", "g5", "network", 10.0),
        row("onnxruntime int8", "g5", "network", 5.0),
        row("ncnn", "g5", "network", 30.0),
        row("torch", "yolov4_tiny", "boxes", 50.0),
        row("torch", "g5", "boxes", 40.0, calls=7),
    ]
    return {
        "systems": systems, "latency": latency, "not_possible": [], "reference": "yolov4_tiny",
        "threads": 2, "hardware": "a machine",
    }  # fmt: skip


def test_ratios_are_to_the_reference_of_the_same_runtime(found):
    table = tables.speed_table(found).set_index(["runtime", "system", "part"])
    assert table.at[("onnxruntime", "g5", "network"), "ratio"] == 0.5
    assert table.at[("onnxruntime", "yolov4_tiny", "network"), "ratio"] == 1
    # int8 has no reference of its own: that of fp32
    assert table.at[("onnxruntime int8", "g5", "network"), "ratio"] == 0.25
    assert np.isnan(table.at[("ncnn", "g5", "network"), "ratio"])  # no reference in this runtime
    assert np.isnan(table.at[("torch", "g5", "boxes"), "ratio"])  # decoders are no networks
    np.testing.assert_allclose(table["spread"], 30)


def official() -> dict:
    """Two sets of images, one of them also in ncnn."""
    metrics = {"AP": 0.251, "AP50": 0.4, "AP75": 0.3, "APs": 0.1, "APm": -1.0, "APl": 0.5}
    about = {"input_size": 300, "areas": "2 of 3 are the box's, not the mask's"}
    sets = {
        PERSON: about | metrics | {"ncnn": metrics | {"AP": 0.25}},
        "5,000 images of val2017": about | metrics | {"AP": 0.2349},
    }
    return {"ssd": {"title": "SSD300", "caution": "has seen them", "sets": sets}}


def test_measured_table(found):
    table = tables.measured_table(found, official()).set_index("model")
    text = "25.1 on 300 images of val2017 (minicoco's val); 23.5 on 5,000 images of val2017"
    assert table.loc["SSD300", "AP, official weights"] == text
    assert table.loc["LightDet g5", "AP, official weights"] == ""
    assert table.loc["SSD300", "onnxruntime file, MiB"] == 3
    assert table.loc["SSD300", "onnxruntime ratio"] == 15
    assert np.isnan(table.loc["SSD300", "ncnn file, MiB"])
    assert table["calls, at least"].tolist() == [9, 9, 7]
    assert table.loc["LightDet g5", "torch boxes, ms"] == 40
    assert not set(table.columns) & set(tables.printed_table(PAPER).columns) - {"model"}


def test_official_table():
    """A row per set and runtime, each with its images, no printed number beside it."""
    table = tables.official_table(official())
    where = [(row.images, row.runtime) for row in table.itertuples()]
    whole = "5,000 images of val2017"
    assert where == [(PERSON, "torch"), (PERSON, "ncnn"), (whole, "torch")]
    np.testing.assert_allclose(table["AP, measured"], [25.1, 25, 23.49])
    np.testing.assert_allclose(table["APs, measured"], 10)
    assert table["APm, measured"].isna().all()  # no such object in the images
    assert set(table["model"]) == {"SSD300"} and set(table["caution"]) == {"has seen them"}
    assert set(table["input size"]) == {300} and (table["areas"].str.startswith("2 of 3")).all()
    assert not set(table.columns) & set(tables.printed_table(PAPER).columns) - {"model"}
    assert tables.official_table({}).empty


def test_accuracies_are_read_by_the_comparators_key(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "root", lambda: tmp_path)
    assert tables.accuracies() == {}
    path = tmp_path / "results" / "official" / "ssd.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(official()["ssd"]))
    assert tables.accuracies() == official()
    path.write_text(json.dumps({"AP": 0.25, "images": 215}))  # as 0.1.0 wrote it
    with pytest.raises(UserError, match=r"ssd\.json: without title, caution, sets; .lightdet acc"):
        tables.accuracies()


def quantized(aps):
    """As `int8.costs_table`: of g5, two seeds."""
    rows = [{"experiment": "g5", "runtime": runtime, "seeds": 2, "AP": ap, "AP std": 0.1}
            for runtime, ap in aps.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=["experiment", "runtime", "seeds", "AP", "AP std"])


def test_openvino_is_shown_where_it_was_timed(found):
    before = tables.measured_table(found, {})
    assert not [column for column in before if "openvino" in column]
    found["latency"] += [
        row("openvino", "yolov4_tiny", "network", 16.0),
        row("openvino", "g5", "network", 4.0),
        row("openvino int8", "g5", "network", 2.0),
    ]
    after = tables.measured_table(found, {})
    pd.testing.assert_frame_equal(after[before.columns], before)
    assert after.set_index("model").loc["LightDet g5", "openvino ratio"] == 0.25
    runs = pd.DataFrame([{"experiment": "g5", "AP": 30.0, "AP std": 1.0, "seeds": 3}])
    runs["parameters"], runs["profile"] = 1, "demo"
    int8 = quantized({"onnxruntime": 29.5, "openvino": 29.9})
    table = tables.variants_table(runs, found, int8, found).fillna(0)
    assert table["AP"].tolist() == [30, 29.5, 29.9]
    assert table["openvino, ms"].tolist() == [4, 0, 2]  # AP and time of one network
    assert table["onnxruntime, ms"].tolist() == [10, 5, 0]
    table = tables.variants_table(runs, found, int8, found)
    figure = tables.plot_variants(table, "demo")
    assert [axis.get_xlabel() for axis in figure.axes][-1] == "time in openvino at 160 px, ms"
    plt.close("all")


def test_printed_numbers_are_all_in_the_audit():
    printed, audit = tables.printed_table(PAPER), tables.audit_table(PAPER)
    assert len(printed) == len(audit) == 8
    assert (printed["AP"] == audit["AP printed"]).all()
    assert (printed["FPS"] == audit["FPS printed"]).all()
    assert (audit["its source"] != "").all() and (audit["its source "] != "").all()


def test_figures_show_every_point(found):
    figure = tables.plot_printed(PAPER)
    ours, others = (c.get_offsets().tolist() for c in figure.axes[0].collections)
    assert ours == [[362, 30.7]] and len(others) == 7
    figure = tables.plot_measured(found)
    points = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    assert sorted(x for p in points for x in p.get_offsets()[:, 0]) == [10, 20, 30, 300]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["SSD300, 416 px", "YOLOv4-tiny, 416 px", "LightDet, group 5, 416 px"]
    accuracy = pd.DataFrame(
        {"experiment": ["g5", "+silu"], "AP": [30.0, 1.0], "AP std": [1.0, 1.0], "seeds": [3, 3],
         "profile": ["demo", "demo"]}
    )  # fmt: skip
    accuracy["parameters"] = 1
    table = tables.variants_table(accuracy, found, quantized({"onnxruntime": 29.5}), found)
    assert table["onnxruntime, ms"].tolist()[0] == 10 and np.isnan(table["ncnn, ms"].tolist()[1])
    small = table.iloc[-1]
    said = [small[column] for column in ("experiment", "int8 in", "AP", "onnxruntime, ms")]
    assert said == ["g5", "onnxruntime", 29.5, 5]
    assert table["onnxruntime ratio at the paper's size"].tolist()[0] == 0.5
    assert table["in words"].tolist() == ["group 5", "SiLU", "group 5"]
    assert table["input, px"].tolist() == [160, 160, 160]  # where its AP is from
    figure = tables.plot_variants(table, "demo")
    costs = [axis.get_xlabel() for axis in figure.axes]  # above 29 and below 2 have axes
    times = ["time in onnxruntime at 160 px, ms", "time in ncnn at 160 px, ms"]
    assert costs[1::2] == ["arithmetic of an image of 160 px, GMAC", *times]
    assert set(costs[::2]) == {""}
    named = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert named == [["1"], ["3"], ["1", "2"], [], ["1"], []]  # 8 bits are no less arithmetic
    listed = [text.get_text() for text in figure.legends[1].get_texts()]
    assert listed[:2] == ["1  g5: group 5 (3)", "2  g5 in 8 bits, onnxruntime (2)"]
    assert listed[2:] == ["3  +silu: SiLU (3)"]
    marks = [text.get_text() for text in figure.legends[0].get_texts()]
    assert marks == ["SiLU", "in 8 bits"]
    accuracy["experiment"] = ["g5-scratch", "yolov4_tiny"]  # timed as g5, and as the system itself
    table = tables.variants_table(accuracy, found, quantized({}), found)
    assert table["onnxruntime, ms"].tolist() == [10, 20]
    assert table["GMAC"][1] == pytest.approx(3.45 * (160 / 416) ** 2, rel=0.01)
    figure = tables.plot_variants(table, "demo")
    marks = [text.get_text() for text in figure.legends[0].get_texts()]
    assert marks == ["LeakyReLU", "SiLU", "not ours"]
    untimed = tables.variants_table(accuracy, found, quantized({}), None)
    untimed["AP"] = [30.0, 30.5]  # no gap, one axis
    (axis,) = tables.plot_variants(untimed, "demo").axes  # arithmetic is known without
    assert axis.get_ylim()[0] < 28 and len(axis.texts) == 2
    plt.close("all")


def test_the_cost_of_a_run_is_that_at_its_input_size():
    small, large = tables.cost("c0", "demo"), tables.cost("c0", "coco")
    assert (small["input, px"], large["input, px"]) == (160, 416)
    assert large["GMAC"] == pytest.approx(1.933, abs=0.001)  # of 80 classes, not of the demo's 7
    # the same network: the demo's has 7 classes, but 80 are what is timed
    assert small["GMAC"] / large["GMAC"] == pytest.approx((160 / 416) ** 2, rel=1e-3)


def test_missing_measurements_are_an_error(tmp_path):
    path = tmp_path / "latency.json"
    with pytest.raises(UserError, match=r"latency\.json: not there .* lightdet lat"):
        tables.read_latency(path)
    path.write_text(json.dumps({"systems": []}))
    with pytest.raises(UserError, match="not there or not readable"):
        tables.read_latency(path)


def test_no_name_of_a_system_covers_the_next():
    figure = tables.opening()
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) > 20 and all(low.y1 < high.y0 for low, high in pairwise(boxes))
    plt.close(figure)
