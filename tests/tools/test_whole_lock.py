"""dvc.lock is whole, whenever DVC is stopped."""

import subprocess
import sys

from lightdet_tools.repro import DVC

STOPPED = """
import runpy, sys
from dvc.utils.serialize import _yaml

dump = _yaml._dump

def stop(data, stream):
    if "schema" not in data:  # not dvc.lock
        return dump(data, stream)
    stream.write("half")
    stream.flush()
    raise KeyboardInterrupt

_yaml._dump = stop
sys.argv[0] = "dvc"
runpy.run_module({module!r}, run_name="__main__")
"""


def test_a_stop_while_it_is_written_leaves_the_one_before(tmp_path):
    def run(*command):
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert run(*DVC, "init", "--no-scm", "--quiet").returncode == 0
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: cp from to\n    deps: [from]\n    outs: [to]\n"
    )
    (tmp_path / "from").write_text("1")
    assert run(*DVC, "repro", "--quiet").returncode == 0
    lock = tmp_path / "dvc.lock"
    before = lock.read_text()
    assert "md5: c4ca4238a0b923820dcc509a6f75849b" in before  # of "1"
    (tmp_path / "from").write_text("2")
    for module in (DVC[-1], "dvc"):
        code = STOPPED.format(module=module)
        assert run(sys.executable, "-c", code, "repro", "--quiet").returncode
        assert (tmp_path / "to").read_text() == "2"
        assert lock.read_text() == (before if module == DVC[-1] else "half")  # DVC by itself
        assert not list(tmp_path.glob(".partial*"))
