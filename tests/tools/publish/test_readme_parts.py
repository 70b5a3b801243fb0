"""Numbers between markers are those of the tables; the words around them stay."""

import pandas as pd
import pytest
from conftest import use_root

from lightdet_core.config import UserError
from lightdet_tools import cli
from lightdet_tools.publish import readme
from lightdet_tools.report.claims import load_design

GROUPS = pd.DataFrame(
    {
        "experiment": ["g1", "teacher"],
        "profile": "demo",
        "backbone": ["lite0", "lite2"],
        "input size": ["128", "160"],
        "seeds": ["2", "1"],
        "AP": ["49.39", "57.93"],
        "AP std": ["1.52", ""],
        "AP50": ["81.57", "84.78"],
        "AP50 std": ["1.94", ""],
    }
)
TIMES = pd.DataFrame(
    {
        "model": ["YOLOv4-tiny", "LightDet g5"],
        **{f"{runtime} ratio": ["1.00", ratio] for runtime, ratio in
           {"torch": "1.63", "onnxruntime": "1.02", "ncnn": "1.64", "openvino": "1.22"}.items()},
    }
)  # fmt: skip

VARIANTS = pd.DataFrame(
    {
        "experiment": ["dense-retrain", "slim-relu6", "c0", "slim-fast", "slim-fast"],
        "int8 in": ["", "", "", "", "openvino"],
        "seeds": ["2", "3", "3", "4", "3"],
        "AP": ["61.80", "62.01", "55.00", "60.00", "59.90"],
        "AP std": ["0.50", "0.60", "0.70", "0.80", "0.90"],
        **{f"{runtime} ratio at the paper's size": ["0.93", ratio, "0.89", "0.50", small]
           for runtime, ratio, small in
           [("onnxruntime", "0.66", ""), ("ncnn", "0.99", ""), ("openvino", "0.63", "0.25")]},
    }
)  # fmt: skip
LADDERS = {
    "bccd": pd.DataFrame({"experiment": ["c0"], "AP": ["58.00"], "AP std": [""]}),
    "minicoco": pd.DataFrame(
        {"experiment": ["slim-fast"], "AP": ["1.00"], "AP std": ["0.10"],
         "AP of person": ["13.00"], "AP of person std": ["0.20"]}
    ),
}  # fmt: skip
INT8 = pd.DataFrame(
    {"experiment": ["c0", "c0", "g5", "g5"], "runtime": ["onnxruntime", "openvino"] * 2,
     "seeds": ["3", "3", "1", "1"], "AP in torch": ["55.00", "55.00", "50.00", "50.00"],
     "change": ["0.01", "-0.02", "-0.30", "0.40"], "lowest": ["-0.10", "-0.20", "-0.30", "0.40"],
     "highest": ["0.20", "0.10", "-0.30", "0.40"]}
)  # fmt: skip


def verdicts():
    """Nothing has run but two claims on the demo."""
    claims = load_design()["claims"].values()
    rows = [{"claim": c["claim"], "printed": "", "demo": "no runs yet", "bccd": "", "minicoco": "",
             "verdict": "open"} for c in claims]  # fmt: skip
    table = pd.DataFrame(rows).set_index("claim")
    known = load_design()["claims"]
    table.loc[known["group-2"]["claim"]] = ["+2.65", "+3.18 ± 8.11, 2 seeds of 3", "", "", "open"]
    table.loc[known["ld"]["claim"]] = ["+0.98", "+2.00 ± 1.00, 3 seeds", "", "", "supported"]
    return table.reset_index()


@pytest.fixture
def tables():
    found = {"demo/tables/table2": GROUPS, "demo/tables/table1": TIMES, "verdicts": verdicts()}
    found["demo/tables/variants"] = VARIANTS
    found |= {f"{tier}/tables/ladder": table for tier, table in LADDERS.items()}
    return found | {"int8/demo": INT8, "int8/minicoco": INT8[:0]}


def test_parts_are_cells_of_the_tables(tables):
    parts = readme.parts(tables.__getitem__, [])
    assert (parts["AP g1"], parts["AP teacher"]) == ("49.39 ± 1.52", "57.93")
    assert parts["group-2"] == "open (demo +3.18 ± 8.11, 2 seeds of 3)"
    assert (parts["ld"], parts["gflv2"]) == ("supported (demo +2.00 ± 1.00, 3 seeds)", "open")
    ld = load_design()["claims"]["ld"]["claim"]
    assert parts["tally"] == f"1 supported ({ld}), {len(verdicts()) - 1} open"
    times = "1.02 in ONNX Runtime, 1.22 in OpenVINO, 1.64 in ncnn, 1.63 in torch"
    assert parts["times"] == times
    assert parts["slim"] == (
        "AP 62.01 beside 61.80 (3 and 2 seeds), "
        "time 0.66 in ONNX Runtime, 0.63 in OpenVINO, 0.99 in ncnn"
    )
    tables["demo/tables/variants"] = VARIANTS[2:]
    assert readme.parts(tables.__getitem__, [])["slim"] == "no such runs yet"
    assert (
        "\n| g1 | demo | lite0 | 128 | … | 2 | 49.39 ± 1.52 | 81.57 ± 1.94 | …\n"
        in (parts["last lines"])
    )
    head, _, *rows = parts["claims"].strip().splitlines()
    assert head == "| claim | printed | demo | verdict |"  # no other profile has runs
    assert len(rows) == len(readme.CLAIMS)
    assert rows[0].endswith(" | +2.65 | +3.18 ± 8.11, 2 seeds of 3 | open |")


def test_accuracy_on_every_data_set_beside_time(tables):
    head, _, *rows = readme.parts(tables.__getitem__, [])["choice"].strip().splitlines()
    columns = "demo | bccd | people of minicoco | ONNX Runtime | OpenVINO | ncnn"
    assert head == f"| network | {columns} |" and len(rows) == len(readme.CHOICE)
    by_name = {row.split(" | ")[0].strip("| "): row.split(" | ")[1:] for row in rows}
    assert by_name["`c0`, ReLU6"] == ["55.00 ± 0.70", "58.00", "", "0.89", "0.89", "0.89 |"]
    times = ["0.50", "0.50 / 0.25", "0.50 |"]
    assert by_name["`slim-fast`"] == ["60.00 ± 0.80", "", "13.00 ± 0.20", *times]
    assert by_name["`g1`"] == ["", "", "", "", "", " |"]  # nobody trained it


def test_what_8_bits_change(tables):
    assert readme.parts(tables.__getitem__, [])["int8"].splitlines()[3:] == [
        "| demo | `c0` | 3 | 55.00 | +0.01 (-0.10 to +0.20) | -0.02 (-0.20 to +0.10) |",
        "| demo | `g5` | 1 | 50.00 | -0.30 | +0.40 |",
    ]


def test_a_profile_with_runs_has_a_column(tables):
    tables["verdicts"].loc[0, "bccd"] = "-1.00 ± 2.00, 3 seeds"
    parts = readme.parts(tables.__getitem__, [])
    assert parts["claims"].startswith("\n| claim | printed | demo | bccd | verdict |\n")
    assert parts["group-2"].endswith("2 seeds of 3; bccd -1.00 ± 2.00, 3 seeds)")


def test_a_claim_without_a_row_is_an_error(tables):
    tables["verdicts"] = tables["verdicts"].iloc[1:]
    with pytest.raises(UserError, match="no row of group-2; `lightdet verdicts`"):
        readme.parts(tables.__getitem__, [])


def timed(hardware, times):
    """What `lightdet latency` writes, of the median times in ms of each system, in any runtime."""
    rows = [
        {"runtime": runtime, "base": runtime, "system": system, "part": part, "calls": 5,
         "median_ms": ms * factor, "p10_ms": ms, "p90_ms": ms}
        for runtime, factor in {"onnxruntime": 1, "openvino": 1, "ncnn": 1, "torch": 2}.items()
        for part in ("network", "boxes")
        for system, ms in times.items()
    ]  # fmt: skip
    systems = [{"key": key, "title": key} for key in times]
    return {"hardware": hardware, "reference": "yolov4_tiny", "systems": systems, "latency": rows}


def test_time_by_kind_of_node(tables):
    """One row per network, of the first file that has them; the sum is of all kinds."""
    found = timed("one", {"g5": 30.0, "c0": 20.0})
    assert readme.parts(tables.__getitem__, [found])["operators"] == "\n(not measured yet)\n"
    kinds = {"g5": {"Conv": 20.0, "QuickGelu": 5.0, "Add": 1.25}, "c0": {"Conv": 18.0}}
    rows = [
        {"system": system, "operator": kind, "nodes": 1, "ms": ms}
        for system, times in kinds.items()
        for kind, ms in times.items()
    ]
    for system in found["systems"]:
        system["size"] = 416
    speeds = [timed("another", {"g5": 1.0}), found | {"operators": rows}]
    _, _, *lines = readme.parts(tables.__getitem__, speeds)["operators"].strip().splitlines()
    assert [line.split(" | ")[1:] for line in lines] == [
        ["20.0", "5.0", "1.2", "26.2 |"],
        ["18.0", "0.0", "0.0", "18.0 |"],
    ]


def test_each_processor_has_its_own_reference(tables):
    ours = dict.fromkeys(readme.FAST, 30.0)
    del ours["+hswish"]  # somebody timed some of them
    speeds = [
        timed("a fast(R) one, 2 cores", {"yolov4_tiny": 20.0, **ours}),
        timed("a slow one", {"yolov4_tiny": 40.0, **ours, "c0": 10.0}),
    ]
    head, _, *rows = readme.parts(tables.__getitem__, speeds)["processors"].strip().splitlines()
    slim = "slim-e3-layers | slim-relu6 | slim-relu6-third | slim-fast | slim-fastest"
    assert head == f"| processor | runtime | g5 | c0 (ReLU6) | +hswish | {slim} |"
    assert len(rows) == 8
    assert (
        rows[0]
        == "| a fast one | ONNX Runtime | 1.50 | 1.50 |  | 1.50 | 1.50 | 1.50 | 1.50 | 1.50 |"
    )
    assert rows[7] == "| a slow one | torch | 0.75 | 0.25 |  | 0.75 | 0.75 | 0.75 | 0.75 | 0.75 |"


def test_only_what_is_between_markers_changes():
    text = "a <!-- begin: x -->old<!-- end --> b\n<!-- begin: y -->\n| 1 |\n<!-- end -->\n49.4\n"
    new = readme.renewed(text, {"x": "new", "y": "\n| 2 |\n"})
    assert new == text.replace("old", "new").replace("| 1 |", "| 2 |")
    with pytest.raises(UserError, match="begin: y -->: choose one of x"):
        readme.renewed(text, {"x": "new"})
    cut = text.replace("old<!-- end -->", "old<!-- end\n-->")
    with pytest.raises(UserError, match="begin: x -->: without <!-- end -->"):
        readme.renewed(cut, {"x": "new", "y": "new"})  # nothing between the two is lost


def test_the_command_renews_the_pages(tables, tmp_path, monkeypatch, capsys):
    use_root(monkeypatch, tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["readme"])
    assert "table2.csv: not found; `make repro`" in capsys.readouterr().err
    for name, table in tables.items():
        path = tmp_path / f"results/{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
    (tmp_path / "docs").mkdir()
    pages = [tmp_path / "README.md", tmp_path / "docs/a.md", tmp_path / "docs/b.md"]
    for page, name in zip(pages, ("AP g1", "tally", None), strict=True):
        page.write_text(f"it is <!-- begin: {name} --><!-- end -->\n" if name else "words\n")
    cli.main(["readme"])
    assert capsys.readouterr().out == "reading results …\nrenewed README.md, docs/a.md\n"
    assert pages[0].read_text() == "it is <!-- begin: AP g1 -->49.39 ± 1.52<!-- end -->\n"
    cli.main(["readme"])
    assert "renewed nothing" in capsys.readouterr().out
