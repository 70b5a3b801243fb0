"""repro.py: the profile that was asked for runs, alone, and stays only where its run ends well.
What is due runs side by side, the rest not at all."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import use_root

from lightdet_core.config import ConfigError, UserError, parse_yaml, root
from lightdet_tools import repro, side_by_side

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")
HERE = root()
TEXT = (HERE / "params.yaml").read_text()


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
    assert parse_yaml(params.read_text())["profile"] == name


@pytest.mark.parametrize("name", ["my birds", "my.birds", "vögel"])
def test_a_name_that_dvc_cannot_look_up_is_refused_first(params, monkeypatch, name):
    params.write_text(params.read_text() + f'"{name}": {{}}\n')
    before = params.read_bytes()
    monkeypatch.setattr(repro, "DVC", stand_in(params.parent, ""))
    with pytest.raises(ConfigError, match=f"profile '{name}': .*DVC take letters.*params.yaml"):
        repro.run_stages(name, [], print)
    assert params.read_bytes() == before and not (params.parent / "asked").exists()


def test_a_name_that_yaml_takes_for_something_else_is_quoted(params):
    params.write_text(params.read_text() + '"2e3": {}\n')
    repro.set_profile("2e3")
    assert '\nprofile: "2e3"  ' in params.read_text()


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
    script = folder / "stand_in.py"
    note = "import pathlib, re, sys\nprofile = re.search(r'^profile: (\\S+)', "
    note += "pathlib.Path('params.yaml').read_text(), re.M)[1]\n"
    note += "print(profile, *sys.argv[1:], file=open('asked', 'a'), flush=True)\n"
    script.write_text(note + code)
    return [sys.executable, str(script)]


def test_a_run_that_ends_well_keeps_the_profile(params, monkeypatch):
    monkeypatch.setattr(repro, "DVC", stand_in(params.parent, ""))
    repro.run_stages("smoke", ["08_table2"], print)
    assert (params.parent / "asked").read_text() == "smoke repro 08_table2\n"
    assert parse_yaml(params.read_text())["profile"] == "smoke"


def test_a_run_that_fails_gives_the_profile_back(params, monkeypatch):
    code = "print('ERROR: no such stage')\nsys.exit(255)"
    monkeypatch.setattr(repro, "DVC", stand_in(params.parent, code))
    with pytest.raises(UserError, match="1 of 1 failed:\n  dvc repro: ERROR: no such stage"):
        repro.run_stages("smoke", ["08_table2"], print)
    assert parse_yaml(params.read_text())["profile"] == "demo"


@pytest.mark.parametrize(
    ("profile", "pictures", "looks"),
    [
        ("my-birds", "", True),
        ("minicoco", "data/minicoco/raw/val2017", True),
        ("bccd", "data/bccd/raw/BCCD/JPEGImages", True),
        ("coco", "data/coco/val2017", True),
        ("coco", "data/coco/train2017", False),  # only packs are left: nothing is downloaded
        ("smoke", "data/smoke/images/val", False),
    ],
)
def test_pictures_that_may_have_changed_are_looked_at_first(
    params, monkeypatch, profile, pictures, looks
):
    """Behind a variable or in a folder of one's own: DVC knows of neither."""
    for name in ("BCCD", "COCO", "MINICOCO"):
        monkeypatch.delenv(f"LIGHTDET_{name}", raising=False)
    (params.parent / pictures).mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(repro, "DVC", stand_in(params.parent, ""))
    repro.run_stages(profile, ["08_table2"], print)
    words = ["--force --single-item data", "--force --single-item pack"] if looks else []
    wanted = "".join(f"{profile} repro {asked}\n" for asked in [*words, "08_table2"])
    assert (params.parent / "asked").read_text() == wanted


def test_a_failure_of_the_first_stage_is_the_end(params, monkeypatch):
    monkeypatch.setattr(repro, "DVC", stand_in(params.parent, "sys.exit(3)"))
    before = params.read_bytes()
    with pytest.raises(UserError, match="data: exit code 3"):
        repro.run_stages("my-birds", [], print)
    assert (params.parent / "asked").read_text().count("\n") == 1
    assert params.read_bytes() == before


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", [False, True])
def test_a_stop_waits_for_dvc_and_gives_the_profile_back(params, kind, stage):
    """It is handed on, as Ctrl-C, to DVC and to what that waits for, here a process of its own."""
    late = "import signal, sys, time\ndef end(*_):\n  time.sleep(0.7)\n  open('saved', 'w')\n"
    late += "  sys.exit(252)\nfor kind in (2, 15): signal.signal(kind, end)\n"
    late += "print('ready', flush=True)\ntime.sleep(60)"
    if stage:
        (params.parent / "stage.py").write_text(late)
        late = "import signal, subprocess\nstage = subprocess.Popen([sys.executable, 'stage.py'])\n"
        late += "signal.signal(2, signal.SIG_IGN)\nsys.exit(stage.wait())"  # as DVC does it
    code = "from lightdet_tools import cli, repro\n"
    code += f"repro.DVC = {stand_in(params.parent, late)!r}\n"
    code += "cli.main(['repro', '--profile', 'smoke'])"
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root(),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout.readline() == "looking for what is due …\n"
    assert run.stdout.readline() == "dvc repro: ready\n"
    assert parse_yaml(params.read_text())["profile"] == "smoke"
    os.killpg(run.pid, kind) if kind == signal.SIGINT else run.send_signal(kind)
    assert run.wait(120) == 130
    assert (params.parent / "saved").exists()
    assert parse_yaml(params.read_text())["profile"] == "demo"


@pytest.mark.parametrize(
    ("line", "worth"),
    [
        ("", False),
        ("> python -m lightdet_tools data --profile smoke", False),
        ("Updating lock file 'dvc.lock'", False),
        ("Stage 'pack@smoke' didn't change, skipping", False),
        ("Use `dvc push` to send your updates to remote storage.", False),
        ("Running stage 'pack@smoke':", True),
        ("g1-s0: step 3/6  epoch 1/2", True),
        ("ERROR: failed to reproduce 'pack@smoke'", True),
        ("error: data/custom: not found", True),
        ("Data and pipelines are up to date.", True),
    ],
)
def test_lines_that_nobody_needs_are_left_out(line, worth):
    assert repro.worth_telling(line) == worth


# ------------------------------------------------------------------------ with DVC, side by side

STAGE = """
import os, sys, time
name, out, *needs = sys.argv[1:]
note = open("noted", "a")
print("begin", name, file=note, flush=True)
text = name + "".join(open(path).read() for path in needs)
end = time.monotonic() + 120
while name in "bc" and os.path.exists("meet"):  # until both have begun
  if all(f"begin {other}" in open("noted").read() for other in "bc"): break
  if time.monotonic() > end: sys.exit("error: alone")
  time.sleep(0.1)
if "bad" in text: sys.exit("error: a bad word")
open(out, "w").write(text.split("!")[0])  # what stands after ! makes no difference
print("end", name, file=note, flush=True)
"""
PIPELINE = {"a": ["in"], "b": ["a.txt"], "c": ["a.txt", "other"], "d": ["b.txt", "c.txt"]}
NOTHING = ["dvc repro: Data and pipelines are up to date.", "[1 of 1 done] dvc repro"]


@pytest.fixture
def pipeline(params, monkeypatch):
    """a, then b and c, then d: each writes what it reads."""
    monkeypatch.setattr(side_by_side, "on_gpu", lambda: False)
    monkeypatch.setattr(repro, "slots", lambda: 2)
    folder = params.parent
    (folder / "stage.py").write_text(STAGE)
    (folder / "in").write_text("1")
    (folder / "other").write_text("2")
    stages = {
        name: {
            "cmd": f"{sys.executable} stage.py {name} {name}.txt {' '.join(needs)}",
            "deps": ["stage.py", *needs],
            "outs": [{f"{name}.txt": {"cache": False}}],
        }
        for name, needs in PIPELINE.items()
    }
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    subprocess.run([*repro.DVC, "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    return folder


def noted(folder):
    """What the stages have noted since the last look."""
    lines = (folder / "noted").read_text().splitlines() if (folder / "noted").exists() else []
    (folder / "noted").unlink(missing_ok=True)
    return lines


def test_stages_that_do_not_need_each_other_run_at_the_same_time(pipeline):
    told = []
    (pipeline / "meet").touch()
    repro.run_stages("smoke", [], told.append)
    (pipeline / "meet").unlink()
    lines = noted(pipeline)
    assert lines[:2] == ["begin a", "end a"] and lines[6:] == ["begin d", "end d"]
    assert sorted(lines[2:4]) == ["begin b", "begin c"]
    assert parse_yaml((pipeline / "dvc.lock").read_text())["stages"].keys() == set("abcd")
    assert told[0] == "stages that are due or need one that is: 4, 2 at a time"
    begun = [line for line in told if line.startswith("Running stage")]
    assert sorted(begun) == [f"Running stage '{name}':" for name in "abcd"]
    assert told[-2:] == [NOTHING[0], "[5 of 5 done] dvc repro"]

    told.clear()
    repro.run_stages("smoke", [], told.append)
    assert noted(pipeline) == [] and told == NOTHING

    (pipeline / "other").write_text("3")
    (pipeline / "in").write_text("1!")  # a comes out as it was, so that b is not due
    repro.run_stages("smoke", [], print)
    lines = noted(pipeline)
    assert lines == ["begin a", "end a", "begin c", "end c", "begin d", "end d"]


def test_a_stage_that_fails_is_named_and_the_others_go_on(pipeline):
    (pipeline / "other").write_text("bad")
    with pytest.raises(UserError) as failed:
        repro.run_stages("smoke", [], print)
    assert {"end a", "end b"} <= set(noted(pipeline))
    assert str(failed.value).splitlines() == [
        "1 of 5 failed:",
        "  c: a bad word",
        "  d: not begun, for it needs what failed",
        "  dvc repro: not begun, for it needs what failed",
    ]
    assert parse_yaml((pipeline / "params.yaml").read_text())["profile"] == "demo"
    (pipeline / "other").write_text("good")
    repro.run_stages("smoke", ["c"], print)
    assert noted(pipeline) == ["begin c", "end c"]


def test_an_unknown_stage_is_named_with_the_way_to_train_it(pipeline):
    message = "Stage 'train@demo-c0-0' not found .*trainings there: g1, .*by `lightdet train`"
    with pytest.raises(UserError, match=message):
        repro.run_stages("smoke", ["train@demo-c0-0"], print)
    assert parse_yaml((pipeline / "params.yaml").read_text())["profile"] == "demo"


def test_an_unknown_stage_is_named_before_pictures_are_looked_at(pipeline, monkeypatch):
    monkeypatch.setattr(repro, "_looks", lambda config: True)
    with pytest.raises(UserError, match="Stage '08_tabel2' not found"):
        repro.run_stages("smoke", ["08_tabel2"], print)


def test_of_several_trainings_and_of_notebooks_each_has_one_thread(params, monkeypatch):
    shutil.copy(HERE / "dvc.yaml", params.parent)
    subprocess.run([*repro.DVC, "init", "--no-scm", "--quiet"], cwd=params.parent, check=True)
    monkeypatch.chdir(params.parent)
    jobs = {job.name: job for job in repro.due_stages([])[0]}
    one = {name for name, job in jobs.items() if job.one_thread}
    assert jobs.keys() - one == {"source", "data@demo", "pack@demo"}
    assert jobs["train_taught@demo-g5-0"].after == {"pack@demo", "train@demo-teacher-0"}
    assert list(jobs)[1:11] == [
        *("data@demo", "pack@demo"),
        *(f"train@demo-{run}-0" for run in ("teacher", "g1", "g2", "g3", "g4")),
        "train_taught@demo-g5-0",
        *("06_sparsity@demo", "09_table1@demo"),  # the longest chapters
    ]

    def asked(*stages):
        return {job.name: job.one_thread for job in repro.due_stages(list(stages))[0]}

    before = {"data@demo": False, "pack@demo": False}
    assert asked("train@demo-g3-0") == before | {"train@demo-g3-0": False}
    two = ("train@demo-teacher-0", "train_taught@demo-g5-0")
    assert asked("train_taught") == before | dict.fromkeys(two, True)
    with pytest.raises(UserError, match="Stage 'no-such-stage' not found"):
        asked("no-such-stage")


@pytest.mark.parametrize("name", ["runs", "results", "runs/smoke", "results/smoke"])
def test_links_that_dvc_refuses_are_named_before_anything_runs(params, monkeypatch, name):
    monkeypatch.setattr(repro, "DVC", stand_in(params.parent, ""))
    link, before = params.parent / name, params.read_bytes()
    link.parent.mkdir(exist_ok=True)
    (params.parent / "elsewhere").mkdir()
    link.symlink_to(params.parent / "elsewhere")
    with pytest.raises(UserError, match=f"{name}: is a symbolic link.*bind mount.*data/smoke"):
        repro.run_stages("smoke", [], print)
    assert params.read_bytes() == before and not (params.parent / "asked").exists()
    (params.parent / "data").mkdir()
    link.unlink()
    (params.parent / "data/smoke").symlink_to(params.parent / "elsewhere")
    repro.run_stages("smoke", [], print)


def test_a_run_that_begins_with_what_is_replaced_is_refused_before_dvc_empties_it(
    params, monkeypatch
):
    monkeypatch.setattr(repro, "DVC", stand_in(params.parent, ""))
    start = "{experiments: {g2: {model: {pretrained: runs/mine/%s/weights.safetensors}}}}\n"
    blocks = {"mine": "g2-s0", "others": "../others/g3-s0", "yours": "g2-s0", "aside": "c0-s0"}
    text = "".join(f"{name}: {start % run}" for name, run in blocks.items())
    params.write_text(params.read_text() + text)
    before = params.read_bytes()
    for name, run in (("mine", "g2"), ("others", "g3")):
        with pytest.raises(UserError, match=f"of g2: training {run}-s0 replaces .*block {name} of"):
            repro.run_stages(name, [], print)
    assert params.read_bytes() == before and not (params.parent / "asked").exists()
    for name in ("yours", "aside"):  # of another profile, or of no stage's run: a start
        repro.run_stages(name, ["08_table2"], print)
