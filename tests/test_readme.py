"""What README and the guides claim: their numbers are those of the committed results, every command
that they show is run by a test or by .ci/smoke; and their links, and others', lead somewhere."""

import dataclasses
import io
import json
import os
import re
import subprocess
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import teach, tiny
from PIL import Image

import lightdet_core
from lightdet_core.config import root
from lightdet_core.machinery.images import letterbox
from lightdet_core.model import save_weights
from lightdet_tools.data.scenes import draw_scene
from lightdet_tools.deploy.export import export
from lightdet_tools.publish import readme
from lightdet_tools.report.tables import load_paper
from lightdet_tools.report.zeros import measure_batch_norm
from lightdet_tools.table1 import systems

GUIDES = [path.relative_to(root()).as_posix() for path in readme.pages()]
SHOWING = [*GUIDES, "FULL_SCALE.md", "data/README.md"]  # commands
PAGES = [*SHOWING, "CONTRIBUTING.md", "DEVIATIONS.md", "findings/README.md"]
PAGES += ["results/README.md", "data/weights/README.md"]
METRICS = "results/demo/metrics/{}-s0.json"
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
    "make repro PROFILE=custom STAGES=05_train@custom-g3-0":
    ".ci/smoke: make repro PROFILE=custom STAGES=05_train@custom-g3-0",
    "make repro PROFILE=custom": ".ci/smoke: make repro PROFILE=custom STAGES=",
    "make repro STAGES=08_table2": ".ci/smoke: make repro PROFILE=smoke STAGES=08_table2",
    "lightdet detect exported/g5-s0.param photos --out found-ncnn":
    ".ci/smoke: python -m lightdet_tools detect exported/g5-s0.param",
    "lightdet detect runs/demo/g5-s0/weights.safetensors photos --out found":
    ".ci/smoke: python -m lightdet_tools detect runs/smoke/g5-s0/weights.safetensors",
    "lightdet export runs/demo/g5-s0/weights.safetensors --format onnx --uint8 --out exported":
    ".ci/smoke: --format onnx --uint8 --out exported",
    "lightdet export runs/demo/slim-relu6-s0/weights.safetensors --format onnx --precision int8"
    " --accuracy --out exported":
    'tests/tools/deploy/test_export.py: "--format", "onnx", "--precision", "int8", "--accuracy")',
    "lightdet detect exported/g5-s0-openvino.xml photos --out found-openvino":
    ".ci/smoke: python -m lightdet_tools detect exported/g5-s0-openvino.xml",
    "lightdet export runs/demo/g5-s0/weights.safetensors --format openvino --out exported":
    ".ci/smoke: --format openvino --out exported",
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
    # (of make's lists .ci/smoke runs two; the recipe is one)
    "make slim": "Makefile: $(call train,read_params()['slim'],0 $(SEEDS))",
    "make rivals": "Makefile: $(call train,read_params()['rivals'],0 $(SEEDS))",
    "make controls PROFILE=coco": "Makefile: $(call train,read_params()['controls'],0)",
    "make repro PROFILE=bccd": "tests/tools/data/test_sources.py: def test_bccd_download(",
    "make gpu": "tests/tools/cost/test_gpu_bundle.py: gpu_bundle.bundle(tmp_path",
    "lightdet plan --ladder --profile coco":
    'tests/tools/cost/test_plan.py: plan.estimate("coco", with_ladder=True',
    "lightdet gpu run --rehearse": ".ci/run: python -m lightdet_tools gpu run --rehearse",
    "lightdet benchmark --experiment c0 --batch-size 8":
    "tests/tools/cost/test_benchmark.py: cli.run(*command.split(),",
    "lightdet benchmark --compare --input-size 208":
    'tests/tools/cost/test_benchmark.py: ["--compare"]',
    "lightdet data --profile demo": "dvc.yaml: python -m lightdet_tools data --profile",
    "lightdet pack --profile demo": "dvc.yaml: python -m lightdet_tools pack --profile",
    "LIGHTDET_BCCD=~/BCCD_Dataset lightdet data --profile bccd":
    "tests/tools/data/test_sources.py: def test_bccd_local_copy(",
    "LIGHTDET_COCO=/data/coco lightdet data --profile minicoco":
    "tests/tools/data/test_sources.py: def test_minicoco_out_of_a_coco_that_is_there(",
    "LIGHTDET_COCO=/data/coco lightdet data --profile coco":
    "tests/tools/data/test_sources.py: def test_coco_in_a_folder_of_ones_own(",
    "lightdet compare --profile demo": "Makefile: lightdet_tools compare --profile $(PROFILE)",
    "lightdet int8 --experiment g5 --profile demo --seed 0 --seed 1 --seed 2":
    'tests/tools/table1/test_int8.py: cli.run("int8", "--experiment"',
    "lightdet verdicts": 'tests/tools/report/test_claims.py: cli.main(["verdicts"])',
    "git checkout HEAD -- results dvc.lock":
    ".ci/smoke: git checkout --quiet HEAD -- params.yaml dvc.lock results",
    "lightdet detect runs/custom/g3-s0/weights.safetensors photos --out found":
    ".ci/smoke: python -m lightdet_tools detect runs/smoke/g5-s0/weights.safetensors",
    "lightdet card runs/demo/g1-s0 runs/demo/g5-s0 --out release":
    ".ci/smoke: python -m lightdet_tools card runs/smoke/g1-s0 runs/smoke/g5-s0 --out release",
}  # fmt: skip


def blocks(language, pages):
    """The blocks of pages in a language."""
    pattern = rf"^```{language}\n(.*?)^```"
    return [block for page in pages for block in re.findall(pattern, TEXT[page], re.S | re.M)]


def in_git(path):
    """A file as git has it: one's own run on another machine gives other numbers."""
    found = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=root(), capture_output=True)
    return found.stdout or (root() / path).read_bytes()


def committed(name):
    content = io.BytesIO(in_git(f"results/{name}.csv"))
    return pd.read_csv(content, dtype=str, keep_default_na=False)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = (root() / page).parent
    text = re.sub(r"``.*?``", "", TEXT[page])  # examples
    headings = re.findall(r"^#+ +(.+)", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", x).lower().replace(" ", "-") for x in headings}  # GitHub's
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            assert (folder / unquote(path)).exists(), f"{page}: {target}"
            followed = path.endswith(".py") or page == "docs/index.md"  # by tests/test_site.py
            followed |= not path and anchor in anchors
            assert not anchor or followed, f"{page}: {target}"


def test_every_command_is_run_somewhere():
    shown = {
        re.sub(r"\s+#.*", "", line)
        for block in blocks("bash", SHOWING)
        for line in block.splitlines()
    }
    assert shown == set(COMMANDS)
    for command, where in COMMANDS.items():
        path, line = where.split(": ", 1)
        text = re.sub(r"(\\\n|\s)\s*", " ", (root() / path).read_text())
        assert line in text, f"{command}: {where}"


def test_deviations_name_tests_that_exist():
    files = {path.name: path.read_text() for path in (root() / "tests").rglob("test_*.py")}
    named = re.findall(r"(test_\w+\.py)(?:::(\w+))?", TEXT["DEVIATIONS.md"])
    assert [f"{file}::{name}" for file, name in named if f"def {name}" not in files[file]] == []


@pytest.fixture(scope="module")
def parts():
    listed = subprocess.run(
        ["git", "ls-files", *(f"results/{name}.json" for name in readme.SPEEDS)],
        cwd=root(), capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    speeds = [json.loads(in_git(name)) for name in sorted(listed, key=lambda name: "demo" in name)]
    return readme.parts(committed, speeds)


@pytest.mark.parametrize("page", GUIDES)
def test_numbers_between_markers_are_those_of_the_tables(page, parts):
    """`lightdet readme` renews them."""
    assert readme.renewed(TEXT[page], parts) == TEXT[page]
    assert not re.search(r"^ *<!-- begin: [^>]+-->.", TEXT[page], re.M)  # no Markdown in that line


def test_the_other_processor_is_that_of_its_runs():
    """Six runs of all three, each claim that is clear on one side only, the run that is far off."""
    other = json.loads(in_git("results/demo/benchmarks/another-processor.json"))
    page, six = TEXT["docs/reproduce.md"], ("g1", "g2", "g3", "g4", "g5", "teacher")
    for name, aps in (
        ("in git: EPYC, AVX-512", [ap_of(run) for run in six]),
        ("there: EPYC, AVX2", [other["replaced"]["AP"][run][0] for run in six]),
        ("there: Xeon", [other["AP"][run][0] for run in six]),
    ):
        assert f"| AP {name} | {' | '.join(f'{ap:.2f}' for ap in aps)} |" in page
    now = committed("verdicts").set_index("claim")["demo"]
    both = {claim: (there, now[claim]) for claim, there in other["claims"].items()}
    unlike = {claim: cells for claim, cells in both.items() if len({*map(clear, cells)}) == 2}
    rows = [f"| {claim} | {there} | {here} |" for claim, (there, here) in unlike.items()]
    assert re.findall(r"^\| .* ± .* ± .* seeds \|$", page, re.M) == rows
    assert f"{len(unlike)} of {len(both)} claims" in " ".join(page.split())

    others = sorted(ap_of("g4", seed) for seed in range(4))
    words = (
        f"seed 4, has AP {ap_of('g4', 4):.2f}, its other four {others[0]:.2f} to {others[3]:.2f}"
    )
    assert words in " ".join(page.split())


def ap_of(run, seed=0):
    return 100 * json.loads(in_git(METRICS.format(run).replace("-s0", f"-s{seed}")))["AP"]


def clear(cell):
    """Whether a cell "+1.23 ± 0.50, 3 seeds" shows a difference."""
    effect, within = map(float, re.match(r"([+-][\d.]+) ± ([\d.]+)", cell).groups())
    return abs(effect) > within


def test_readme_is_short_and_shows_every_group():
    assert len(TEXT["README.md"].splitlines()) <= 120
    rows = re.findall(
        r"^\| (g\d) \| .+ \| ([\d.]+) \| <!-- begin: AP (g\d) -->", TEXT["README.md"], re.M
    )
    printed = {run: row["printed"]["AP"] for run, row in load_paper()["table2"].items()}
    assert [(run, float(ap), run) for run, ap, _ in rows] == [(*x, x[0]) for x in printed.items()]
    assert [run for run, _, _ in rows] == [named for _, _, named in rows]


def test_messages_in_the_questions_are_those_of_the_code():
    files = [x for package in ("core", "tools") for x in root().glob(f"lightdet_{package}/**/*.py")]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text() for path in files))
    heads = re.findall(r"^## (.*`.*)", TEXT["docs/faq.md"], re.M)
    messages = [text for head in heads for text in re.findall(r"`([a-z][^`]+ [^`]+)`", head)]
    assert len(messages) > 4
    for message in messages:
        assert re.search(re.sub(r"\b(nan|N)\b", r"\\{[^}]+\\}", message), code), message


def test_what_they_show_in_python_runs(tmp_path, monkeypatch):
    teach(tmp_path / "runs/demo", "g5")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (90, 60), (200, 30, 30)).save(tmp_path / "photos/1.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python", GUIDES):
        if "onnxruntime" not in block:  # the host by itself, below
            exec(block, names)
    assert len(names["found"].boxes) == len(names["boxes"]) == len(names["found"].names)
    assert {"loss_qfl", "loss_giou", "loss_dfl"} <= set(names["terms"])
    assert all(p.grad is not None for p in names["network"].head.towers.parameters())


def test_the_host_that_they_show_finds_what_detect_finds(tmp_path, monkeypatch):
    """By a network that has learnt nothing, but says so with scores that lie apart."""
    teach(tmp_path / "runs/demo", "g5")
    file = tmp_path / "runs/demo/g5-s0/weights.safetensors"
    model = lightdet_core.load(file)
    network = systems.settle(model.network, model.size)
    scenes = [letterbox(draw_scene(0, index)[0], model.size) for index in range(8)]
    scene = scenes[0]
    # of two scenes, 8 values of a channel, deep layers multiply rounding; of eight they do not
    images = torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).float()
    measure_batch_norm(network, [images])
    monkeypatch.setattr(systems, "SPREAD", 3.0)
    systems._spread(network, systems.to_tensor(scene))
    config = dataclasses.replace(tiny(), experiment="g5")
    save_weights(file, network.state_dict(), config, model.categories)
    (tmp_path / "photos").mkdir()  # of a size that no resizing changes
    Image.fromarray(scene[: model.size - 9]).save(tmp_path / "photos/1.jpg", "PNG")
    monkeypatch.chdir(tmp_path)
    export("onnx", file, "exported", decoded=True, uint8=True)
    (block,) = (block for block in blocks("python", GUIDES) if "onnxruntime" in block)
    names = {}
    exec(block, names)
    found = lightdet_core.load(file).predict("photos/1.jpg", 0.3)
    assert len(found.names) > 5
    assert [name for _, name, _ in names["objects"]] == found.names
    ours = torch.tensor([corners for *_, corners in names["objects"]])
    torch.testing.assert_close(ours, found.boxes, rtol=0, atol=0.05)


def test_findings_can_be_run_are_listed_and_pin_what_they_install():
    scripts = sorted((root() / "findings").glob("*.sh"))
    listed = (root() / "findings/README.md").read_text()
    for script in scripts:
        text = script.read_text()
        assert os.access(script, os.X_OK) and f"({script.name})" in listed, script.name
        assert 'cd "$room"' in text and 'room="$(mktemp -d)"' in text, script.name
        for line in re.findall(r"(?m)^[^#\n]*pip install ([^#\n]+)", text.replace("\\\n", " ")):
            packages = [word for word in line.split() if not word.startswith("-")]
            assert packages and all("==" in word for word in packages), (script.name, line)
