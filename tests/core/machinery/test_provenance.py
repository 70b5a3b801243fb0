import subprocess

import pytest
import torch
from conftest import use_root

from lightdet_core.machinery.provenance import git_state, hardware


@pytest.mark.parametrize("file", ["lightdet_core/a.py", "lightdet_tools/b/c.py", "params.yaml"])
def test_what_differs_from_the_commit_is_said(tmp_path, monkeypatch, file):
    use_root(monkeypatch, tmp_path)
    (tmp_path / "params.yaml").unlink()
    for name in ("lightdet_core/a.py", "lightdet_tools/b/c.py", "params.yaml", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    commit = "-c user.name=a -c user.email=a@b.c commit --quiet --message a"
    for command in ("init --quiet", "add .", commit):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    (tmp_path / "README.md").write_text("other")
    state = git_state()
    assert len(state["commit"]) == 40 and state["dirty"] is False
    (tmp_path / file).write_text("other")
    assert git_state() == {**state, "dirty": True}


@pytest.mark.parametrize("kind", ["AVX2", "AVX512"])
def test_processors_of_one_name_are_told_apart(monkeypatch, kind):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kind)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    processor, cores, threads = hardware(torch.device("cpu")).rsplit(", ", 2)
    assert processor.endswith(f" with {kind}") and cores.endswith(" cores")
    assert threads == "3 threads"
