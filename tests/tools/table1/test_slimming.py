import pytest
from conftest import network, use_root

from lightdet_tools.table1 import slimming
from lightdet_tools.table1.comparators import count


def test_gmac_without_those_by_zeros():
    dense = slimming.useful_gmac("hswish-retrain")
    assert dense == pytest.approx(count(network("+hswish"), 416)["gmac"])
    # three quarters of the arithmetic are in layers that 2:4 prunes (chapter 06), half of it goes
    assert slimming.useful_gmac("hswish-prune") / dense == pytest.approx(0.624, abs=0.002)
    assert slimming.useful_gmac("slim-e3") / dense == pytest.approx(0.589, abs=0.002)


def test_rows_have_what_was_trained_and_timed(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    assert slimming.slimming_table("demo", {}).empty
    there = slimming.pd.MultiIndex.from_tuples(
        [("slim-e3", 0), ("hswish-prune", 1), ("hswish-prune", 2)], names=["run", "seed"]
    )
    monkeypatch.setattr(
        slimming, "seed_table", lambda *_: slimming.pd.DataFrame({"AP": 1.0}, index=there)
    )

    def run_table(profile, runs):
        assert profile == "demo" and runs == ["hswish-prune", "slim-e3"]
        return slimming.pd.DataFrame(
            {"experiment": runs, "seeds": [3, 1], "AP": [50.0, 48.0], "AP std": [1.0, None], "x": 1}
        )

    monkeypatch.setattr(slimming, "run_table", run_table)
    row = {"part": "network", "p10_ms": 1.0, "p90_ms": 1.0, "base": "ncnn", "runtime": "ncnn"}
    found = {
        "reference": "yolov4_tiny",
        "systems": [{"key": key, "title": key} for key in ("yolov4_tiny", "slim-e3")],
        "latency": [
            {**row, "system": "yolov4_tiny", "median_ms": 20.0},
            {**row, "system": "slim-e3", "median_ms": 15.0},
        ],
    }
    table = slimming.slimming_table("demo", found)
    assert table["experiment"].tolist() == ["hswish-prune", "slim-e3"]  # by arithmetic
    assert table["ncnn ratio"].isna().tolist() == [True, False]
    assert table["ncnn ratio"][1] == 0.75 and table["onnxruntime ratio"].isna().all()


def test_the_line_through_measured_times_is_found():
    """Of networks that are c0 but for their blocks; others have another rest."""
    macs = {"c0": 1587.4, "+e4": 1058.2, "+e3": 793.7, "slim-relu6": 793.7}  # inside, millions
    moved = {"c0": 49.2, "+e4": 32.8, "+e3": 24.6, "slim-relu6": 37.1}
    row = {"runtime": "ncnn", "part": "network"}
    rows = [
        row | {"system": name, "median_ms": 0.01 * macs[name] + 0.3 * moved[name] + 7}
        for name in macs
    ]
    rows += [row | {"system": name, "median_ms": 99.0} for name in ("g1", "g5", "yolov4_tiny")]
    rows += [{**one, "part": "boxes", "median_ms": 99.0} for one in rows]
    rows += [{**one, "runtime": "onnxruntime"} for one in rows[:3]]  # too few for three unknowns
    table = slimming.time_law({"latency": rows})
    assert table.index.tolist() == ["ncnn"]
    found = table.loc["ncnn"]
    assert found["networks"] == 4
    assert found["ms per 100 million multiply-adds"] == pytest.approx(1.0, rel=0.01)
    assert found["ms per million moved"] == pytest.approx(0.3, rel=0.02)
    assert found["ms of the rest"] == pytest.approx(7, rel=0.02)
    assert found["moved / multiply-add"] == pytest.approx(30, rel=0.03)
    assert found["ms left over"] < 0.02
