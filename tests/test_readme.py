"""What README claims: its numbers are those of the committed results, every command that it shows
is run by a test or by .ci/smoke; and its links and those of its neighbours lead somewhere."""

import io
import re
import subprocess
from urllib.parse import unquote

import pandas as pd
import pytest
from conftest import read, teach
from PIL import Image

from lightdet_core.config import read_params, root

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


def test_the_groups_are_those_of_the_table():
    table = committed("table2").set_index("experiment")
    text = re.sub(r"\s+", " ", TEXT["README.md"])
    for run, row in table.iterrows():
        spread = "" if pd.isna(row["AP std"]) else f" ± {row['AP std']:.1f}"
        name = "their teacher" if run == "teacher" else run
        assert re.search(rf"{name} {row['AP']:.1f}{spread}[, ]", text), run
    pattern = r"^\| (\w+) \| demo \|.*?\| (\d) \| ([^|]+) \| ([^|]+) \|"
    last = re.findall(pattern, TEXT["README.md"], re.M)
    for run, seeds, ap, ap50 in last:
        row = table.loc[run]
        for name, cell in (("AP", ap), ("AP50", ap50)):
            spread = "" if pd.isna(row[f"{name} std"]) else f" ± {row[f'{name} std']:.2f}"
            assert cell == f"{row[name]:.2f}{spread}" and int(seeds) == row["seeds"]
    assert len(last) == len(table)


def test_the_run_that_opens_the_first_chapter_is_the_best():
    table = committed("table2").set_index("experiment")
    assert read_params()["show"] == table["AP"].idxmax()


def test_the_verdicts_are_those_of_the_table():
    table = committed("verdicts").set_index("claim")
    head = "| claim | printed | here | verdict |\n| --- | --- | --- | --- |\n"
    rows = TEXT["README.md"].split(head)[1].split("\n\n")[0].splitlines()
    for row in rows:
        claim, *cells = row.strip("| ").split(" | ")
        assert cells == table.loc[claim, ["printed", "demo", "verdict"]].tolist()
    assert len(rows) > 10


def test_eight_bits_are_those_of_the_notebook():
    cells = read(root() / "results/demo/notebooks/09_table1.ipynb")["cells"]
    shown = "\n".join(
        "".join(output.get("data", {}).get("text/plain", []))
        for cell in cells
        for output in cell.get("outputs", [])
    )
    ap = re.search(r"MiB +AP +AP50.*\nrun.*\n(g1 .*\n.*\ng5 .*\n.*)", shown)[1]
    full, g1, fp32, g5 = (float(line.split()[-2]) for line in ap.splitlines())
    words = f"leaves g1 at AP {g1:.1f} after {full:.1f} and takes g5 from {fp32:.1f} to {g5:.1f};"
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
