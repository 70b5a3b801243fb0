"""dvc.yaml lists what its stages use, nothing heavy is in git, every profile has its settings."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from test_imports import imports, module_of, place, tree_of

from lightdet_core.config import ConfigError, all_runs, parse_yaml, profiles, read_params, root

STAGES = parse_yaml((root() / "dvc.yaml").read_text())["stages"]
PARAMS = parse_yaml((root() / "params.yaml").read_text())
PROFILES = profiles(PARAMS)
# pass words on; of them a stage needs what its own command imports
CLI = ("lightdet_tools/cli.py", "lightdet_tools/cli_groups.py")


def filled(text: str, profile: str = "demo", run: str = "g1", seed: int = 0) -> str:
    """`text` of dvc.yaml with its ${...} filled in."""
    values = {"profile": profile, "item.run": run, "item.seed": str(seed)}
    values["show"] = PARAMS["show"]
    return re.sub(r"\$\{([^}]+)\}", lambda match: values[match[1]], text)


def names(entries: list) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def used_files(stage: dict) -> set[str]:
    """The modules of both packages that a stage's command runs, its notebook's included."""
    words = shlex.split(stage["cmd"])
    assert words[:3] == ["python", "-m", "lightdet_tools"]
    name = "_".join(words[3 : 5 if words[3] == "notebook" else 4])
    bodies = [node for file in CLI for node in tree_of(file).body]
    commands = {node.name: node for node in bodies if hasattr(node, "name")}
    found, due = set(), {"lightdet_core.config", *imports(commands[name])}
    for word in words:
        if word.startswith("notebooks/"):
            cells = nbformat.read(root() / word, 4).cells
            code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
            due |= imports(ast.parse(code))
    while due:
        file = f"{due.pop().replace('.', '/')}.py"
        if file not in found and (root() / file).is_file():
            found.add(file)
            due |= imports(tree_of(file))
    return found


def code_of(stage: dict) -> set[str]:
    """What a stage depends on: rooms, the core, or those files of it that are not the method."""
    files = used_files(stage) - {"lightdet_tools/side_by_side.py"}  # for several runs, not for one
    core = {file for file in files if file.startswith("lightdet_core/")}
    small = all(place(module_of(file)) in ("config", "machinery") for file in core)
    tools = {file if file.count("/") == 1 else str(Path(file).parent) for file in files - core}
    return tools | (core if small else {"lightdet_core"})


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_code_it_uses_and_no_other(name):
    code = [dep for dep in STAGES[name]["deps"] if dep.startswith("lightdet_")]
    assert sorted(code) == sorted(code_of(STAGES[name]))


def test_no_tool_makes_a_training_due():
    """Drawing another scene does not, where packs stay as they are."""
    for name in ("train", "train_taught"):
        assert not any(dep.startswith("lightdet_tools") for dep in STAGES[name]["deps"])


def test_what_python_leaves_behind_makes_nothing_due():
    assert "__pycache__" in (root() / ".dvcignore").read_text().split()


@pytest.mark.parametrize("name", STAGES)
def test_what_a_stage_depends_on_exists_or_is_made_by_another(name):
    made = [
        filled(out, run=run, seed=seed)
        for stage in STAGES.values()
        for kind in ("outs", "metrics", "plots")
        for out in names(stage.get(kind, []))
        for run in all_runs(PARAMS)
        for seed in PARAMS["seeds"]
    ]
    for dep in map(filled, STAGES[name]["deps"]):
        by_stage = any(out == dep or f"{out}/".startswith(f"{dep}/") for out in made)
        assert by_stage or dep.startswith("build/source/") or (root() / dep).exists(), dep
        if dep.startswith("build/source/"):
            assert (root() / "notebooks" / f"{Path(dep).stem}.ipynb").exists(), dep


def test_every_notebook_has_its_stage_and_text():
    for path in (root() / "notebooks").glob("*.ipynb"):
        stage = STAGES[path.stem]
        if "open_pack(" in path.read_text():
            assert "data/${profile}/packs.json" in stage["deps"], path
        if "load_weights(" in path.read_text():
            assert any(dep.startswith("runs/") for dep in stage["deps"]), path
        assert f"notebooks/{path.name}" in stage["cmd"]
        assert f"build/source/{path.stem}.py" in stage["deps"]


@pytest.mark.parametrize("name", [n for n, s in STAGES.items() if "notebooks/" in s["cmd"]])
def test_a_stage_gives_its_notebook_parameters_that_it_has(name):
    from lightdet_tools.notebooks.run import parameters

    words = shlex.split(STAGES[name]["cmd"])
    given = {words[i + 1] for i, word in enumerate(words) if word == "-p"}
    (path,) = (word for word in words if word.startswith("notebooks/"))
    known = parameters(nbformat.read(root() / path, 4))
    assert "profile" in given and given <= set(known)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_the_settings_that_stages_name(profile):
    for stage in STAGES.values():
        for param in stage.get("params", []):
            section = PARAMS
            for key in filled(param, profile).split("."):
                assert key in section, param
                section = section[key]


def test_what_is_in_git_is_small_and_the_rest_is_ignored():
    for name, stage in STAGES.items():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, []):
                path = filled(names([out])[0])
                cached = isinstance(out, str) or next(iter(out.values())).get("cache", True)
                ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=root())
                if ignored.returncode > 1:
                    pytest.skip("not a git checkout")
                in_git = ignored.returncode == 1
                assert in_git == path.startswith("results/"), (name, path)
                assert cached == path.startswith("runs/"), (name, path)


def test_runs_and_seeds_of_params_fan_out():
    profile = {"profile": ["${profile}"]}
    assert STAGES["train"]["matrix"] == profile | {"run": "${runs}", "seed": "${seeds}"}
    assert STAGES["train_taught"]["matrix"] == profile | {"run": "${taught}", "seed": "${seeds}"}
    for kind in ("", "_taught"):
        assert STAGES[f"05_train{kind}"]["matrix"] == STAGES[f"train{kind}"]["matrix"]
    assert all_runs(PARAMS) == ["g1", "g2", "g3", "g4", "g5", "teacher"]
    assert set(PARAMS["ladder"]) <= set(PARAMS["experiments"])


def test_taught_runs_wait_for_their_teacher_and_differ_in_nothing_else():
    plain, taught = STAGES["train"], STAGES["train_taught"]
    assert "runs/${profile}/teacher-s0" in taught["deps"]
    assert set(taught["deps"]) - set(plain["deps"]) == {"runs/${profile}/teacher-s0"}
    assert taught == plain | {key: taught[key] for key in ("deps", "matrix")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": ["g3", "g5", "teacher"]}, "g5 needs the run of teacher: .* `runs` to `taught`"),
        ({"taught": ["g4"]}, "g4 needs no other run: .* `taught` to `runs`"),
        ({"runs": ["g3"]}, "g5 under `taught`: add `teacher` to `runs`"),
        ({"runs": ["g3", "self-ld", "teacher"]}, "self-ld needs the run of c0: .* to `ladder`"),
        ({"runs": ["g3", "prune-retrain", "teacher"]}, "prune-retrain needs .* to `ladder`"),
        ({"show": "g9"}, "notebooks show g9-s0"),
    ],
)
def test_runs_in_the_wrong_list_are_named(tmp_path, changes, message):
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(PARAMS | {"show": "g3"} | changes))
    with pytest.raises(ConfigError, match=message):
        read_params(path)
    path.write_text(json.dumps(PARAMS | {"show": "g3", "runs": ["g3"], "taught": []}))
    assert all_runs(read_params(path)) == ["g3"]


def test_results_name_no_machine_and_stay_small():
    results = [p for p in (root() / "results").rglob("*") if p.is_file()]
    for path in results:
        assert path.stat().st_size < 1_500_000, path
        if path.suffix == ".ipynb":
            for cell in json.loads(path.read_text())["cells"]:
                for output in cell.get("outputs", []):
                    shown = (output.get("data") or output).items()
                    text = json.dumps({k: v for k, v in shown if not k.startswith("image/")})
                    assert not re.search(r"/(home|root|Users|tmp)/|site-packages", text), path


def test_what_differs_by_profile_has_the_profile_in_its_name():
    """Else dvc.lock, which knows stages by name, would forget one profile's for another's."""
    for name, stage in STAGES.items():
        if "${profile}" in json.dumps({k: v for k, v in stage.items() if k != "matrix"}):
            assert next(iter(stage["matrix"].items())) == ("profile", ["${profile}"]), name
    locked = parse_yaml((root() / "dvc.lock").read_text())["stages"]
    for name in locked.keys() - {"source"}:
        group, key = name.split("@")
        (profile,) = re.findall(r"-p(?:rofile)? (?:profile )?(\S+)", locked[name]["cmd"])[:1]
        assert group in STAGES and f"{key}-".startswith(f"{profile}-"), name


def test_another_profile_makes_nothing_due_and_takes_no_weights(tmp_path):
    """demo, smoke, demo with stand-ins for the commands: the last one runs nothing. The way back
    that README shows brings weights again and leaves those of the other profile."""
    for name in ("dvc.yaml", "params.yaml", "lightdet_core", "data/minicoco.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(root() / name)
    (tmp_path / "params.yaml").unlink()
    folder = tmp_path / "lightdet_tools"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text(STAND_IN)

    def dvc(*words):
        env = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        }
        command = [sys.executable, "-m", "dvc", *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return re.findall("Running stage '(.+)'", done.stdout)

    def under(profile):
        few = PARAMS | {"profile": profile, "runs": ["teacher"], "taught": ["g5"]}
        (tmp_path / "params.yaml").write_text(json.dumps(few))
        return dvc("repro", "train_taught")

    stages = ["data@{}", "pack@{}", "train@{}-teacher-0", "train_taught@{}-g5-0"]
    dvc("init", "--no-scm", "--quiet")
    for profile in ("demo", "custom", "smoke"):
        assert under(profile) == [stage.format(profile) for stage in stages]
    assert under("demo") == []
    shutil.rmtree(tmp_path / "runs/demo")
    dvc("checkout", "train", "train_taught")
    found = {path.parts[-3] for path in tmp_path.glob("runs/*/g5-s0/weights.safetensors")}
    assert found == {"demo", "custom", "smoke"}


STAND_IN = """
import sys
from pathlib import Path
command, *words = sys.argv[1:]
given = dict(zip(words[::2], words[1::2]))
profile = given["--profile"]
if command == "train":
    run = f"{given['--experiment']}-s{given['--seed']}"
    outs = [f"runs/{profile}/{run}/weights.safetensors", f"results/{profile}/logs/{run}.csv"]
    outs += [f"results/{profile}/{kind}/{run}.json" for kind in ("runs", "metrics")]
else:
    outs = [f"data/{profile}/{dict(data='manifest', pack='packs')[command]}.json"]
for out in map(Path, outs):
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("{}")
"""


def test_dvc_reads_the_pipeline():
    command = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    done = subprocess.run(command, cwd=root(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    listed = {name.split("@")[0] for name in done.stdout.decode().split()}
    assert listed == set(STAGES)
