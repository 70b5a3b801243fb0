"""int8.py: files of runs in 8 bits, and the table of what they cost."""

import json
from pathlib import Path

import pytest
from conftest import use_root

from lightdet_core.config import UserError, load_config
from lightdet_tools import cli
from lightdet_tools.deploy import export
from lightdet_tools.table1 import int8


def note(folder, run, seed, torch, others, profile="demo", key=None):
    """A file as `lightdet int8` writes it; AP in 0..1, of people half as much."""
    config = load_config(run, profile).with_model(num_classes=1)
    found = {"experiment": run, "key": key or config.hash[:8] + "0" * 8}
    for where, ap in {"torch": torch, **others}.items():
        found[where] = {"AP": ap, "AP50": ap, "per_class": {"person": ap / 2}}
    path = folder / "results" / "int8" / profile / f"{run}-s{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))


def test_the_table_is_of_the_same_seeds(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    assert int8.costs_table("demo").empty
    note(tmp_path, "g5", 0, 0.50, {"onnxruntime": 0.49, "openvino": 0.50})
    note(tmp_path, "g5", 1, 0.52, {"onnxruntime": 0.53, "openvino": 0.50})
    note(tmp_path, "c0", 0, 0.40, {"onnxruntime": 0.40, "openvino": 0.41}, key="of other settings")
    table = int8.costs_table("demo")
    assert table[["experiment", "runtime"]].to_numpy().tolist() == [
        ["g5", "onnxruntime"], ["g5", "openvino"]]  # fmt: skip
    assert table.attrs["left out"] == ["c0-s0"]
    first, second = table.iloc[0], table.iloc[1]
    assert (first["seeds"], first["AP in torch"]) == (2, pytest.approx(51))
    assert first["AP"] == pytest.approx(51) and first["AP std"] == pytest.approx(2 * 2**0.5)
    assert first["change"] == pytest.approx(0, abs=1e-9)
    assert (first["lowest"], first["highest"]) == (pytest.approx(-1), pytest.approx(1))
    assert second["change"] == pytest.approx(-1)


def test_a_profile_is_judged_by_its_tested_class(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    note(tmp_path, "c0", 0, 0.40, {"onnxruntime": 0.44, "openvino": 0.4}, profile="minicoco")
    table = int8.costs_table("minicoco")
    assert table["AP in torch"].tolist() == [20, 20] and table["change"][0] == pytest.approx(2)


def test_runs_are_measured_and_the_others_named(tmp_path, monkeypatch, capsys):
    """How export and evaluation do it, their own tests say."""
    use_root(monkeypatch, tmp_path)
    metrics = {"AP": 0.5, "AP50": 0.8, "AP75": 0.6, "per_class": {"person": 0.4}}
    folder = tmp_path / "runs" / "demo" / "c0-s1"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    key = load_config("c0", "demo").with_model(num_classes=1).hash[:8] + "12345678"
    (folder / "run.json").write_text(json.dumps({"key": key}))
    (folder / "weights.safetensors").touch()

    def exported(form, weights, place, precision):
        assert (weights, precision) == (folder / "weights.safetensors", "int8")
        names = {"onnx": ["a.onnx"], "openvino": ["a.bin", "a.xml"]}[form]
        return {"files": [Path(place, name) for name in names], "sizes": {"fp32": 8, "int8": 2}}

    def accuracy(entry, config):
        assert (config.run_name, entry.name) in {("c0-s1", "a.onnx"), ("c0-s1", "a.xml")}
        return metrics | {"AP": {".onnx": 0.49, ".xml": 0.51}[entry.suffix]}

    monkeypatch.setattr(export, "export", exported)
    monkeypatch.setattr(export, "accuracy", accuracy)
    runs = ["--experiment", "c0", "--experiment", "g1", "--seed", "1", "--profile", "demo"]
    with pytest.raises(
        UserError, match=r"1 of 2 not measured:\n  g1-s1: .*g1-s1.metrics.json: not"
    ):
        cli.run("int8", *runs)
    assert (
        "1/2 c0-s1: AP in torch 50.00, onnxruntime 49.00, openvino 51.00" in capsys.readouterr()[0]
    )
    found = json.loads((tmp_path / "results/int8/demo/c0-s1.json").read_text())
    assert found["command"] == "lightdet int8 --experiment c0 --profile demo --seed 1"
    assert (found["key"], found["onnxruntime"]["bytes"]) == (key, 2)
    assert found["torch"] == {k: metrics[k] for k in ("AP", "AP50", "per_class")}
    table = (tmp_path / "results/int8/demo.md").read_text().splitlines()
    assert table[2] == "| c0 | onnxruntime | 1 | 49.00 | 50.00 | -1.00 | -1.00 | -1.00 |"
    assert table[-1] == int8.NOTE
    cli.run("int8", "--experiment", "c0", "--seed", "1", "--profile", "demo")
    assert capsys.readouterr()[0].splitlines()[-1] == "results/int8/demo/c0-s1.json"
