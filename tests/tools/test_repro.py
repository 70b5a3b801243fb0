"""repro.py: the profile that was asked for runs, alone, and stays only where its run ends well."""

import os
import re
import signal
import subprocess
import sys

import pytest
import yaml
from conftest import use_root

from lightdet_core.config import ConfigError, UserError, root
from lightdet_tools import repro

TEXT = (root() / "params.yaml").read_text()


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A params.yaml that names the demo, with `my-birds` and `Birds`, in a root of its own."""
    path = tmp_path / "params.yaml"
    named = re.sub(r"^profile: \w+", "profile: demo", TEXT, flags=re.M)
    path.write_text(named + "\nmy-birds: {data: {source: folder}}\nBirds: {}\n")
    use_root(monkeypatch, tmp_path)
    return path


@pytest.mark.parametrize(
    "before", ["demo", '"smoke"', "'bccd'", "my-birds", "Birds", "custom  # x"]
)
@pytest.mark.parametrize("name", ["smoke", "my-birds", "Birds"])
def test_the_profile_changes_and_nothing_else(params, before, name):
    text = params.read_text().replace("profile: demo ", f"profile: {before} ", 1)
    params.write_text(text)
    word = before.split()[0]
    assert repro.set_profile(name) == word.strip("\"'")
    same = word.strip("\"'") == name
    assert params.read_text() == text.replace(
        f"profile: {word}", f"profile: {word if same else name}", 1
    )
    assert yaml.safe_load(params.read_text())["profile"] == name


def test_a_name_that_yaml_takes_for_something_else_is_quoted(params):
    params.write_text(params.read_text() + '"on": {}\n')
    repro.set_profile("on")
    assert '\nprofile: "on"  ' in params.read_text()


@pytest.mark.parametrize(
    ("old", "new", "name", "message"),
    [
        ("", "", "dmo", "profile 'dmo': choose one of demo, "),
        ("", "", "adamw", "profile 'adamw': choose one of demo, "),
        ("\nprofile: demo", "\n? profile\n: demo", "smoke", "a line `profile: smoke` is needed"),
        ("\nprofile: demo", "\nprofile: my birds", "smoke", "a line `profile: smoke` is needed"),
    ],
)
def test_what_cannot_be_set_leaves_the_file(params, old, new, name, message):
    params.write_text(params.read_text().replace(old, new, 1))
    before = params.read_bytes()
    with pytest.raises(ConfigError, match=message):
        repro.set_profile(name)
    assert params.read_bytes() == before


def stand_in(folder, code):
    """For DVC: notes its words and the profile, then runs `code`."""
    script = folder / "dvc.py"
    note = "import pathlib, re, sys\nprofile = re.search(r'^profile: (\\S+)', "
    note += "pathlib.Path('params.yaml').read_text(), re.M)[1]\n"
    note += "print(profile, *sys.argv[1:], file=open('asked', 'a'), flush=True)\n"
    script.write_text(note + code)
    return [sys.executable, str(script)]


@pytest.mark.parametrize(("code", "left"), [(0, "smoke"), (1, "demo"), (252, "demo")])
def test_a_run_that_fails_gives_the_profile_back(params, monkeypatch, code, left):
    monkeypatch.setattr(repro, "DVC", stand_in(params.parent, f"sys.exit({code})"))
    assert repro.run_stages("smoke", ["08_table2"]) == code
    assert (params.parent / "asked").read_text() == "smoke 08_table2\n"
    assert yaml.safe_load(params.read_text())["profile"] == left


def test_files_of_ones_own_are_looked_at_first(params, monkeypatch):
    monkeypatch.setattr(repro, "DVC", stand_in(params.parent, ""))
    assert repro.run_stages("my-birds", []) == 0
    wanted = "my-birds --force --single-item data\nmy-birds\n"
    assert (params.parent / "asked").read_text() == wanted


def test_a_failure_of_the_first_stage_is_the_end(params, monkeypatch):
    monkeypatch.setattr(repro, "DVC", stand_in(params.parent, "sys.exit(3)"))
    before = params.read_bytes()
    assert repro.run_stages("my-birds", []) == 3
    assert (params.parent / "asked").read_text().count("\n") == 1
    assert params.read_bytes() == before


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", [False, True])
def test_a_stop_waits_for_dvc_and_gives_the_profile_back(params, kind, stage):
    """Ctrl-C reaches all processes of a terminal; a training then writes its checkpoint.

    SIGTERM reaches this one: it is handed on to what DVC waits for, here a process of its own.
    """
    late = "import signal, time\ndef end(*_):\n  time.sleep(0.7)\n  open('saved', 'w')\n"
    late += "  sys.exit(252)\nfor kind in (2, 15): signal.signal(kind, end)\n"
    late += "print('ready', flush=True)\ntime.sleep(60)"
    if stage:
        (params.parent / "stage.py").write_text("import sys\n" + late)
        late = "import signal, subprocess\nsignal.signal(2, signal.SIG_IGN)\n"
        late += "sys.exit(subprocess.call([sys.executable, 'stage.py']))"
    code = "import sys; from lightdet_tools import repro; "
    code += (
        f"repro.DVC = {stand_in(params.parent, late)!r}; sys.exit(repro.run_stages('smoke', []))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root(),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    before = params.read_text()
    assert run.stdout.readline() == "ready\n"
    assert params.read_text() != before or "profile: smoke" in before
    os.killpg(run.pid, kind) if kind == signal.SIGINT else run.send_signal(kind)
    assert run.wait(30) == 252
    assert (params.parent / "saved").exists()
    assert yaml.safe_load(params.read_text())["profile"] == "demo"


@pytest.mark.parametrize("name", ["runs", "results", "runs/smoke", "results/smoke"])
def test_links_that_dvc_refuses_are_named_before_anything_runs(params, monkeypatch, name):
    monkeypatch.setattr(repro, "DVC", stand_in(params.parent, ""))
    link, before = params.parent / name, params.read_bytes()
    link.parent.mkdir(exist_ok=True)
    (params.parent / "elsewhere").mkdir()
    link.symlink_to(params.parent / "elsewhere")
    with pytest.raises(UserError, match=f"{name}: is a symbolic link.*bind mount.*data/smoke"):
        repro.run_stages("smoke", [])
    assert params.read_bytes() == before and not (params.parent / "asked").exists()
    (params.parent / "data").mkdir()
    link.unlink()
    (params.parent / "data/smoke").symlink_to(params.parent / "elsewhere")
    assert repro.run_stages("smoke", []) == 0
