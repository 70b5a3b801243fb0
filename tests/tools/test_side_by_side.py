"""side_by_side.py: how many at once, in which order, with one thread each; a failure, a stop."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import teach, tiny, use_root

from lightdet_core.config import UserError, load_config
from lightdet_core.machinery import runs
from lightdet_core.machinery.files import write_json
from lightdet_core.machinery.packs import open_split, with_classes
from lightdet_tools import cli, side_by_side
from lightdet_tools.side_by_side import Job, conduct, slots, train_all

# NAME SECONDS CODE: notes its beginning and its end in the file `noted`
WORK = """
import sys, time
def note(word):
    with open("noted", "a") as file: file.write(f"{word} {sys.argv[1]}\\n")
note("begin"); time.sleep(float(sys.argv[2])); note("end"); sys.exit(int(sys.argv[3]))
"""


@pytest.fixture(autouse=True)
def cpu(monkeypatch, tmp_path):
    """A machine without GPUs, in a folder of its own."""
    monkeypatch.setattr(side_by_side, "on_gpu", lambda: False)
    monkeypatch.chdir(tmp_path)


def job(name, *after, seconds=0.1, code=0, work=WORK):
    command = [sys.executable, "-c", work, name, str(seconds), str(code)]
    return Job(name, command, frozenset(after))


def noted():
    return Path("noted").read_text().splitlines()


def test_as_many_as_there_are_slots_in_the_given_order():
    told = []
    conduct([job(name, seconds=0.5) for name in "abcde"], 2, told.append)
    begun = [line[-1] for line in noted() if line.startswith("begin")]
    assert sorted(begun[:2]) == ["a", "b"] and sorted(begun) == list("abcde")
    now = most = 0
    for line in noted():
        now += 1 if line.startswith("begin") else -1
        most = max(most, now)
    assert most == 2
    assert [line[:13] for line in told] == [f"[{i} of 5 done]" for i in range(1, 6)]


def test_what_comes_after_waits_and_the_next_takes_its_place():
    conduct([job("student", "teacher"), job("teacher"), job("other")], 1, print)
    begun = [line for line in noted() if line.startswith("begin")]
    assert begun == ["begin teacher", "begin student", "begin other"]


def test_what_is_not_needed_counts_as_done():
    told = []
    jobs = [job("a"), job("b", "a"), job("c", "b")]
    conduct(jobs, 2, told.append, needed=lambda job: job.name != "b")
    assert noted() == ["begin a", "end a", "begin c", "end c"]
    assert told == ["[1 of 3 done] a", "[3 of 3 done] c"]


def test_after_a_failure_the_others_go_on_and_it_is_named(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    bad = "print('one'); print('error: no such thing'); print('more'); raise SystemExit(2)"
    trace = "print('x'); 1 / 0"
    jobs = [job("a", work=bad), job("b", "a"), job("c", "b"), job("d", work=trace), job("e")]
    with pytest.raises(UserError) as failed:
        conduct(jobs, 2, print)
    assert noted() == ["begin e", "end e"]
    assert str(failed.value).splitlines() == [
        "2 of 5 failed:",
        "  a: no such thing",
        "  b: not begun, for it needs what failed",
        "  c: not begun, for it needs what failed",
        "  d: ZeroDivisionError: division by zero",
    ]


def test_python_is_the_interpreter_that_started(monkeypatch, tmp_path):
    other = tmp_path / "python"  # as where the environment is not activated
    other.write_text("#!/bin/sh\nexit 3\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    told = []
    code = "import sys; print(sys.executable)"
    conduct([Job("a", ["sh", "-c", f"python -c '{code}'"])], 1, told.append)
    assert Path(told[0].removeprefix("a: ")).parent == Path(sys.executable).parent


def test_lines_come_whole_and_say_whose_they_are():
    work = """
import sys, time
for text in ("g1-s0: 1", "23", "\\nx", "y\\n\\nRunning stage 1\\n"):
  print(text, end="", flush=True)
  time.sleep(0.1)
print("bad", file=sys.stderr)
"""
    told = []
    conduct([job("a", work=work), job("b", work=work)], 2, told.append)
    both = ["g1-s0: 123", "Running stage 1"] * 2
    wanted = [*both, *(f"{name}: {line}" for name in "ab" for line in ("xy", "bad"))]
    assert sorted(line for line in told if line[0] != "[") == sorted(wanted)


@pytest.mark.parametrize(("gpu", "asked", "threads"), [(0, True, 1), (0, False, 2), (1, True, 2)])
def test_each_has_one_thread_in_torch(monkeypatch, gpu, asked, threads):
    monkeypatch.setattr(side_by_side, "on_gpu", lambda: bool(gpu))
    for name in side_by_side.ONE_THREAD:
        monkeypatch.setenv(name, "2")
    told, code = [], "import torch; print(torch.get_num_threads())"
    conduct([Job("a", [sys.executable, "-c", code], one_thread=asked)], 1, told.append)
    assert told[0] == f"a: {threads}"


def test_slots_are_cores_as_far_as_memory_goes(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory()._replace(available=100 * 3e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert slots() == cores
    memory = memory._replace(available=1e9)
    assert slots() == 1
    memory = memory._replace(available=6.5e9)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    assert slots() == 2
    monkeypatch.setattr(side_by_side, "on_gpu", lambda: True)
    assert slots() == 1


# ---------------------------------------------------------------------------------------- a stop

# Ends after a while, or at once where it is told so twice
PATIENT = """
import signal, sys, time
came = []
for kind in (2, 15): signal.signal(kind, lambda number, _: came.append(number))
print("ready", flush=True)
while not came: time.sleep(0.05)
print("told", flush=True)
wanted = time.monotonic() + (60 if TWICE else 0.5)
while time.monotonic() < wanted and len(came) < 2: time.sleep(0.05)
open(f"{sys.argv[1]}.came", "w").write(" ".join(map(str, came)))
print("saved", flush=True)
sys.exit(130)
"""
CONDUCT = """
import sys
from lightdet_core.machinery import runs
from lightdet_core.machinery.files import write_json
from lightdet_core.machinery.packs import open_split, with_classes
from lightdet_tools import cli, side_by_side
side_by_side.on_gpu = lambda: False
jobs = [side_by_side.Job(name, [sys.executable, "-c", sys.argv[1], name]) for name in "abc"]
cli.run_cli(lambda: side_by_side.conduct(jobs, 2, lambda line: print(line, flush=True)))
"""


def conductor(work):
    """A process that runs a, b and c, two at a time; a and b are ready."""
    run = subprocess.Popen(
        [sys.executable, "-c", CONDUCT, work],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert sorted(run.stdout.readline() for _ in "ab") == ["a: ready\n", "b: ready\n"]
    return run


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_reaches_each_once_and_waits_for_it(kind, group):
    """Of a terminal, which tells the whole group, or of somebody who knows this process."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started the tests
    try:
        run = conductor(PATIENT.replace("TWICE", "False"))
    finally:
        signal.signal(signal.SIGHUP, before)
    os.killpg(run.pid, kind) if group else run.send_signal(kind)
    out, _ = run.communicate(timeout=120)
    assert run.returncode == 130
    assert out.endswith("stopped, 3 left; run the same command to continue\n")
    assert out.count("saved") == 2 and "c: ready" not in out
    assert [Path(f"{name}.came").read_text() for name in "ab"] == ["2", "2"]


def test_a_second_stop_reaches_them_too():
    run = conductor(PATIENT.replace("TWICE", "True"))
    run.send_signal(signal.SIGINT)
    assert sorted(run.stdout.readline() for _ in "ab") == ["a: told\n", "b: told\n"]
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=120)
    assert [Path(f"{name}.came").read_text() for name in "ab"] == ["2 2", "2 2"]


def test_a_stop_reaches_what_a_shell_started_in_the_background():
    """There Ctrl-C is ignored, and what is started there would ignore it, too."""
    plain = "import time\nprint('ready', flush=True)\ntime.sleep(60)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = conductor(plain)
    finally:
        signal.signal(signal.SIGINT, before)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) == 130


def test_nothing_lingers_after_a_hard_kill():
    work = "import os, time\nprint('ready', flush=True)\n"
    work += "open(f'{os.getpid()}.pid', 'w').close()\n"
    work += "while True:\n  time.sleep(0.3)\n  print('a line', flush=True)"
    run = conductor(work)
    while len(pids := list(Path().glob("*.pid"))) < 2:
        time.sleep(0.05)
    run.kill()
    run.communicate(timeout=120)  # until nobody can write there
    deadline = time.monotonic() + 120
    while any(psutil.pid_exists(int(path.stem)) for path in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_output_that_is_closed_stops_them():
    def closed(line):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        conduct([job("a", work=PATIENT.replace("TWICE", "False"))], 1, closed)
    assert Path("a.came").read_text() == "2"


# ------------------------------------------------------------------------------------- trainings


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What `train_all` asks of `conduct`."""
    found = []
    monkeypatch.setattr(side_by_side, "conduct", lambda *given: found.extend(given[:2]))
    monkeypatch.setattr(side_by_side, "slots", lambda: 4)
    use_root(monkeypatch, tmp_path)
    return found


def test_runs_are_trained_seed_by_seed_and_students_after_their_teacher(asked, capsys):
    names = ["g5", "g1", "teacher", "dense-retrain", "c0"]
    words = [f"--experiment={name}" for name in [*names, "g5"]]
    cli.run("train", "--profile=smoke", "--seed=0", "--seed=1", *words)
    jobs, at_once = asked
    assert [job.name for job in jobs] == [f"{name}-s{seed}" for seed in (0, 1) for name in names]
    wanted = {"g5-s0": "teacher-s0", "g5-s1": "teacher-s0"}
    wanted |= {f"dense-retrain-s{seed}": f"c0-s{seed}" for seed in (0, 1)}
    assert {job.name: next(iter(job.after)) for job in jobs if job.after} == wanted
    command = [sys.executable, "-m", "lightdet_tools", "train"]
    command += ["--experiment", "g1", "--profile", "smoke", "--seed", "1"]
    assert jobs[6].command == command and all(job.one_thread for job in jobs)
    assert at_once == 4
    assert capsys.readouterr().out == "10 runs of smoke …\nruns: 10, 4 at a time\n"


def test_a_teacher_that_is_neither_listed_nor_there_is_named_first(asked, tmp_path):
    configs = [load_config(name, "smoke") for name in ("g1", "g5")]
    message = "g5-s0 needs teacher-s0, and .*list teacher, too, or train it first: lightdet train"
    with pytest.raises(UserError, match=message):
        train_all(configs, print)
    assert not asked
    teach(tmp_path / "runs/smoke", "teacher")
    train_all(configs, print)
    assert [job.after for job in asked[0]] == [frozenset()] * 2


def test_what_is_finished_is_published_and_not_begun_again(
    asked, data_root, tmp_path, monkeypatch, capsys
):
    (tmp_path / "data").symlink_to(data_root / "data")
    folder, published = tmp_path / "runs/smoke", []
    monkeypatch.setattr(runs, "publish", lambda folder, config: published.append(folder.name))
    g1, teacher, g5 = (dataclasses.replace(tiny(), experiment=x) for x in ("g1", "teacher", "g5"))
    g5 = dataclasses.replace(g5, distill=dataclasses.replace(g5.distill, teacher="teacher"))
    packs = {split: open_split(g1, split) for split in ("train", "val")}
    teach(folder, "teacher")
    for config in (teacher, g1, g5):
        (folder / config.run_name).mkdir(exist_ok=True)
        (folder / config.run_name / "weights.safetensors").touch()
        config = with_classes(config, packs["train"])
        key = runs.run_key(config, packs, runs.sources_of(config, folder))
        write_json(folder / config.run_name / "run.json", {"key": key})
    train_all([g1, g5, teacher], print)
    assert capsys.readouterr().out == "finished already: 3; nothing to train\n"
    assert published == ["g1-s0", "g5-s0", "teacher-s0"] and asked == [[], 0]
    asked.clear()
    # a teacher that will be trained anew makes its student due
    teacher = dataclasses.replace(teacher, train=dataclasses.replace(teacher.train, epochs=4))
    train_all([g1, g5, teacher], print)
    assert capsys.readouterr().out == "finished already: 1; runs: 2, 2 at a time\n"
    after = {job.name: job.after for job in asked[0]}
    assert after == {"g5-s0": {"teacher-s0"}, "teacher-s0": frozenset()}


def test_a_mistake_in_any_of_them_is_found_before_the_first_begins(asked, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--profile", "smoke", "--experiment", "g1", "--experiment", "g7"])
    assert "experiment 'g7': choose one of" in capsys.readouterr().err and not asked


def test_one_run_is_trained_in_this_process(asked, monkeypatch):
    found, networks = [], []

    def fit(config, progress, network):
        found.append(config)
        networks.append(network.name)

    monkeypatch.setattr("lightdet_core.train.fit", fit)
    monkeypatch.setattr("lightdet_core.machinery.runs.publish", lambda folder, config: None)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    cli.run("train", "--profile=smoke", "--experiment=g1", "--seed=3", "--experiment=g1")
    cli.run("train", "--profile=demo", "--experiment=yolov4_tiny")
    cli.run("train", "--profile=demo", "--experiment=nanodet_m")
    assert [config.run_name for config in found] == ["g1-s3", "yolov4_tiny-s0", "nanodet_m-s0"]
    assert networks == ["lightdet", "yolov4_tiny", "nanodet_m"] and not asked


def test_torchrun_takes_one_run(asked, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(UserError, match="torchrun trains one run at a time"):
        train_all([load_config("g1", "smoke", seed) for seed in (0, 1)], print)
