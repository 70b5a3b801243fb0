"""What has ended is in dvc.lock, and that is whole, whenever DVC is stopped."""

import subprocess
import sys

import pytest

from lightdet_tools.repro import DVC

PLAIN = [*DVC[:-1], "dvc"]
STAGES = """
stages:
  first: {cmd: cp from to, deps: [from], outs: [to]}
  second: {cmd: cp to end, deps: [to], outs: [end]}
"""
CODE = """
import os, runpy, signal, sys
from dvc.stage import Stage
from dvc.utils.serialize import _yaml

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
dump, save, remove = _yaml._dump, Stage.save, Stage.remove_outs

def half(data, stream):
    if "schema" not in data:  # not dvc.lock
        return dump(data, stream)
    stream.write("half")
    stream.flush()
    raise KeyboardInterrupt

def stopped(stage, *arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)
    save(stage, *arguments, **options)

def between(stage, *arguments, **options):
    if stage.name == "second":
        os.kill(os.getpid(), signal.SIGINT)
    remove(stage, *arguments, **options)

{change}
sys.argv[0] = "dvc"
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def run(tmp_path):
    """Runs a command; in a repository where both stages ran, and `from` has changed since."""

    def run(*command):
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).returncode

    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "from").write_text("1")
    assert run(*DVC, "init", "--no-scm", "--quiet") == run(*DVC, "repro", "--quiet") == 0
    (tmp_path / "from").write_text("2")
    return run


@pytest.mark.parametrize("dvc", [DVC, PLAIN])
def test_a_stop_while_the_lock_is_written_leaves_the_one_before(run, tmp_path, dvc):
    before = (tmp_path / "dvc.lock").read_text()
    code = CODE.format(change="_yaml._dump = half", module=dvc[-1])
    assert run(sys.executable, "-c", code, "repro", "--quiet")
    assert (tmp_path / "to").read_text() == "2"
    assert (tmp_path / "dvc.lock").read_text() == ("half" if dvc is PLAIN else before)
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.parametrize("dvc", [DVC, PLAIN])
def test_a_stop_after_a_command_waits_until_it_is_noted(run, tmp_path, dvc):
    """And what comes after it does not begin."""
    code = CODE.format(change="Stage.save = stopped", module=dvc[-1])
    assert run(sys.executable, "-c", code, "repro", "--quiet")
    assert [(tmp_path / name).read_text() for name in ("to", "end")] == ["2", "1"]
    noted = "md5: c81e728d9d4c2f636f067f89cc14862c" in (tmp_path / "dvc.lock").read_text()  # of "2"
    assert noted == (dvc is not PLAIN)
    assert run(*dvc, "repro", "--quiet") == 0
    assert (tmp_path / "end").read_text() == "2"


def test_a_stop_between_two_stages_ends_it_at_once(run, tmp_path):
    code = CODE.format(change="Stage.remove_outs = between", module=DVC[-1])
    assert run(sys.executable, "-c", code, "repro", "--quiet")
    assert [(tmp_path / name).read_text() for name in ("to", "end")] == ["2", "1"]
