"""What README claims: its numbers are those of the committed results, every command that it shows
is run by a test or by .ci/smoke; and its links and those of its neighbours lead somewhere."""

import io
import json
import re
import subprocess
from urllib.parse import unquote

import pandas as pd
import pytest
from conftest import teach
from PIL import Image

from lightdet_core.config import root

PAGES = ["README.md", "FULL_SCALE.md", "CONTRIBUTING.md", "DEVIATIONS.md"]
PAGES += ["results/README.md", "data/README.md", "data/weights/README.md"]
TEXT = {page: (root() / page).read_text() for page in PAGES}
# A command -> the line of .ci/smoke, .ci/run that runs it in small, or the test that does.
COMMANDS = {
    "make repro": ".ci/smoke: make repro PROFILE=smoke",
    "make test": ".ci/run: make --no-print-directory test",
    "make site": 'tests/test_site.py: done = make(f"SITE={folder}", "PROFILE=demo")',
    "make lab": ".ci/smoke: make lab",
    'git commit --all --message "my runs"': '.ci/smoke: commit --quiet --message "my runs"',
    "dvc exp run -S experiments.g5.distill.temperature=4 08_table2":
    ".ci/smoke: dvc exp run -S experiments.g5.distill.temperature=4 08_table2",
    "dvc metrics show": ".ci/smoke: dvc metrics show",
    "dvc metrics diff": ".ci/smoke: dvc metrics diff",
    "git checkout HEAD -- params.yaml dvc.lock results && dvc checkout train train_taught":
    ".ci/smoke: git checkout --quiet HEAD -- params.yaml dvc.lock results "
    "dvc checkout --quiet train train_taught",
    "make seeds": ".ci/smoke: make seeds PROFILE=smoke",
    "make ladder": ".ci/smoke: make ladder PROFILE=smoke",
    "lightdet train --experiment g3 --profile demo --seed 1":
    ".ci/smoke: python -m lightdet_tools train --experiment g3",
    "mkdir -p data/custom/annotations data/custom/images": ".ci/smoke: mkdir -p data/custom",
    "make repro PROFILE=custom STAGES=train@custom-g3-0":
    ".ci/smoke: make repro PROFILE=custom STAGES=train@custom-g3-0",
    "make repro PROFILE=custom": ".ci/smoke: make repro PROFILE=custom STAGES=",
    "make repro STAGES=08_table2": ".ci/smoke: make repro PROFILE=smoke STAGES=08_table2",
    "lightdet detect exported/g5-s0.param photos --out found-ncnn":
    ".ci/smoke: python -m lightdet_tools detect exported/g5-s0.param",
    "lightdet detect runs/demo/g5-s0/weights.safetensors photos --out found":
    ".ci/smoke: python -m lightdet_tools detect runs/smoke/g5-s0/weights.safetensors",
    "lightdet export runs/demo/g5-s0/weights.safetensors --format onnx --uint8 --out exported":
    ".ci/smoke: --format onnx --uint8 --out exported",
    "lightdet export runs/demo/g5-s0/weights.safetensors --format ncnn --out exported":
    ".ci/smoke: --format ncnn --out exported",
    "lightdet detect exported/g5-s0-uint8.onnx photos --out found-onnx":
    ".ci/smoke: python -m lightdet_tools detect exported/g5-s0-uint8.onnx",
    "make latency": ".ci/smoke: python -m lightdet_tools latency --systems",
    "source .venv/bin/activate": ".ci/smoke: ln -s ../../.venv .venv",
    "make plan PROFILE=coco": ".ci/smoke: make plan PROFILE=smoke",
    "make repro PROFILE=coco": "tests/tools/data/test_sources.py: def test_coco_download(",
    "LIGHTDET_COCO=/data/coco make repro PROFILE=coco":
    "tests/tools/data/test_sources.py: def test_coco_in_a_folder_of_ones_own(",
    "make controls PROFILE=coco": ".ci/smoke: make controls PROFILE=smoke",
}  # fmt: skip


def shown():
    """The commands in README's bash blocks, without their comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", TEXT["README.md"], re.S | re.M)
    return [re.sub(r"\s+#.*", "", line) for line in "".join(blocks).splitlines()]


def committed(table):
    """A table of the demo as git has it: one's own run on another machine gives other numbers."""
    path = f"results/demo/tables/{table}.csv"
    found = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=root(), capture_output=True)
    return pd.read_csv(io.BytesIO(found.stdout or (root() / path).read_bytes()))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = (root() / page).parent
    text = re.sub(r"``.*?``", "", TEXT[page])  # examples
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            assert (folder / unquote(path)).exists(), f"{page}: {target}"
            assert not anchor or path.endswith(".py"), f"{page}: {target}"


def test_every_command_is_run_somewhere():
    assert sorted(set(shown())) == sorted(COMMANDS)
    for command, where in COMMANDS.items():
        path, line = where.split(": ", 1)
        text = re.sub(r"(\\\n|\s)\s*", " ", (root() / path).read_text())
        assert line in text, f"{command}: {where}"


def test_deviations_name_tests_that_exist():
    files = {path.name: path.read_text() for path in (root() / "tests").rglob("test_*.py")}
    named = re.findall(r"(test_\w+\.py)(?:::(\w+))?", TEXT["DEVIATIONS.md"])
    assert [f"{file}::{name}" for file, name in named if f"def {name}" not in files[file]] == []


def number(text):
    return float(text.replace("−", "-"))


def test_the_groups_are_those_of_the_table():
    table = committed("table2").set_index("experiment")
    found = re.findall(r"(g\d) (\d+\.\d) ± (\d+\.\d)", TEXT["README.md"])
    assert [group for group, *_ in found] == ["g1", "g2", "g3", "g4", "g5"]
    for group, mean, spread in found:
        row = table.loc[group]
        assert f"{row['AP']:.1f} ± {row['AP std']:.1f}" == f"{mean} ± {spread}"
    assert f"their teacher {table.loc['teacher', 'AP']:.1f}" in TEXT["README.md"]
    pattern = r"^\| (\w+) \| demo \|.*?\| (\d) \| ([^|]+) \| ([^|]+) \|"
    last = re.findall(pattern, TEXT["README.md"], re.M)
    for run, seeds, ap, ap50 in last:
        row = table.loc[run]
        for name, cell in (("AP", ap), ("AP50", ap50)):
            spread = "" if pd.isna(row[f"{name} std"]) else f" ± {row[f'{name} std']:.2f}"
            assert cell == f"{row[name]:.2f}{spread}" and int(seeds) == row["seeds"]
    assert len(last) == len(table)


CLAIMS = {  # words before the number -> row of differences.csv
    "1 to 2 (": "g2 - g1",
    "2 to 3 (": "g3 - g2",
    "Mish\n  ": "+mish - c0",
    "SiLU ": "+silu - c0",
    "LeakyReLU ": "+leakyrelu - c0",
    "gains nothing here: ": "+prune - c0",
    "with ReLU6, ": "silu-prune - +silu",
    "with SiLU, ": "mish-prune - +mish",
    "it costs: ": "prune-retrain - dense-retrain",
    "shows nothing (": "+ld - c0",
    "it gains ": "+ld+vlr+kd - c0",
    "brings ": "dense-retrain - c0",
}


def test_the_differences_are_those_of_the_table():
    table = committed("differences").set_index("contrast")
    text = TEXT["README.md"]
    found = re.findall(r"[+−]\d+\.\d ± \d+\.\d", text)
    expected = []
    for words, contrast in CLAIMS.items():
        row = table.loc[contrast]
        value = f"{row['difference']:+.1f} ± {row['within']:.1f}".replace("-", "−")
        expected.append(value)
        assert words + value in text, (words, value)
    assert sorted(found) == sorted(expected)  # and no number without a row
    for name in ("+gflv2", "+smoothing", "+amp"):
        assert table.loc[f"{name} - c0", "verdict"] == "none shown"
    costs = [-table.loc[f"{name} - c0", "difference"] for name in ("+mosaic", "+mixup", "+cutmix")]
    assert f"cost {min(costs):.1f} to {max(costs):.1f}" in text


def test_the_photographs_are_those_of_the_run():
    found = json.loads((root() / "results/minicoco/metrics/g1-s0.json").read_text())
    words = f"g1 reaches AP {100 * found['AP']:.1f}, and {100 * found['per_class']['person']:.1f}"
    assert words in re.sub(r"\s+", " ", TEXT["README.md"])


def test_the_times_are_those_of_the_table():
    table = committed("table1").set_index("model").loc["LightDet g5"]
    ratios = [table[f"{runtime} ratio"] for runtime in ("onnxruntime", "ncnn", "torch")]
    words = "takes {:.2f} of YOLOv4-tiny's time in ONNX Runtime, {:.2f} in ncnn, {:.2f} in torch"
    assert words.format(*ratios) in re.sub(r"\s+", " ", TEXT["README.md"])


def test_what_it_shows_in_python_runs(tmp_path, monkeypatch):
    teach(tmp_path / "runs/demo", "g5")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (90, 60), (200, 30, 30)).save(tmp_path / "photos/1.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", TEXT["README.md"], re.S | re.M):
        exec(block, names)
    assert len(names["found"].boxes) == len(names["found"].names)
    assert {"loss_qfl", "loss_giou", "loss_dfl"} <= set(names["terms"])
    assert all(p.grad is not None for p in names["network"].head.towers.parameters())
