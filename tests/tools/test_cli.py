"""The command `lightdet`: quick help, and one line for every mistake."""

import os
import subprocess
import sys

import psutil
import pytest
from conftest import raising, use_root

from lightdet_core.config import ConfigError, root
from lightdet_tools import cli

GROUPS = {"gpu": ["run", "bundle"], "notebook": ["check", "link", "extract", "run"]}
COMMANDS = ["data", "pack", "train", "detect", "export", "plan", "latency", "accuracy", "int8"]
COMMANDS += ["benchmark", "site", "repro", "profile", "verdicts", "card", "readme", *GROUPS]
NO_ONNX = ModuleNotFoundError(name="onnx")


def ended(capsys, *words):
    """Exit code, stdout and stderr of a command that ends by itself."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(words))
    return end.value.code, *capsys.readouterr()


def test_help_lists_the_commands_and_loads_nothing_large():
    """Typing `lightdet COMMAND --help` must not take the seconds that torch takes to import."""
    code = "import sys; from lightdet_tools import cli\n"
    code += "for words in sys.argv[1:]:\n  try: cli.main([*words.split(), '--help'])\n"
    code += "  except SystemExit as end: assert not end.code\n"
    code += "assert not sys.modules.keys() & {'torch', 'numpy', 'PIL', 'nbformat', 'onnx'}"
    below = [f"{group} {name}" for group, names in GROUPS.items() for name in names]
    command = [sys.executable, "-c", code, "", *COMMANDS, *below]
    done = subprocess.run(command, cwd=root(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *pages = done.stdout.split("Usage: lightdet ")[1:]
    assert len(pages) == len(COMMANDS + below)
    for name in COMMANDS:
        assert f"\n  {name} " in first
    sections = [line for line in first.splitlines() if line.endswith(":") and line[0] != " "]
    assert sections == ["Options:", "Learn:", "Use:", "Measure:", "Build:"]


@pytest.mark.parametrize(
    ("busy", "threads", "given", "policy"),
    [
        (80, "", None, "passive"),
        (80, "2", None, "passive"),
        (80, "1", None, None),  # it waits for nobody
        (5, "", None, None),
        (80, "", "active", "active"),
    ],
)
def test_what_runs_beside_other_work_does_not_spin(
    monkeypatch, capsys, busy, threads, given, policy
):
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds: busy)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if not given:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    cli.share_cores()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    assert ("80 % of the cores" in capsys.readouterr().out) == (policy == "passive")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "Missing command (see lightdet --help)"),
        ("trian", "No such command 'trian'. Did you mean 'train'? (see lightdet --help)"),
        ("gpu", "Missing command (see lightdet gpu --help)"),
        ("train", "Missing option '--experiment' (see lightdet train --help)"),
        ("train --sead 1", "No such option: --sead"),
        ("detect net.onnx --out x", "Missing argument 'images' (see lightdet detect --help)"),
        ("export w --out x --format tf", "'tf' is not one of 'onnx', 'ncnn', 'openvino'"),
        ("train --experiment g1 --seed x", "'--seed': Input should be a valid integer"),
        ("train --experiment g1 --profile dmo", "profile 'dmo': choose one of demo, "),
        ("train --experiment g7", "error: experiment 'g7': choose one of g1, "),
        ("export none.safetensors --format onnx --out x", "no trained run there"),
        ("train --experiment g1 --seed 20261128023045", "seed: 20261128023045: should be less"),
        ("profile dmo", "profile 'dmo': choose one of demo, "),
        ("repro --profile dmo", "profile 'dmo': choose one of demo, "),
        ("latency --seconds 0", "--seconds 0, --threads "),
        ("latency --runtimes z", "--runtimes z: choose from torch, "),
        ("latency --systems nanodet --out x", "none of the comparators, which are ssd, detr"),
        ("latency --systems g1 --out .", "--out .: is a folder; name a file"),
        ("latency --systems g1", "a part of the table does not replace the whole: add --out"),
        ("benchmark --steps 0", "--steps 0, --batch-size 8: at least 1 is needed"),
        ("benchmark --input-size 40", "--input-size 40: a multiple of 16"),
        ("notebook run a.ipynb b.ipynb -p x", "Option '-p' requires 2 arguments"),
    ],
)
def test_a_mistake_is_one_line(capsys, words, line):
    code, out, err = ended(capsys, *words.split())
    assert code == 2 and err.count("\n") == 1
    assert not out or (out.count("\n") == 1 and out.endswith(" …\n"))  # what was begun
    assert err.startswith("error: ") and line in err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("params.yaml: x"), 2, "error: params.yaml: x\n"),
        (OSError(28, "No space left on device", "pack"), 2, "error: [Errno 28] No space left"),
        (KeyboardInterrupt("stopped at step 3"), 130, "stopped at step 3\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            ModuleNotFoundError(name="onnx"),
            2,
            "error: onnx is not installed; in the repository, pip",
        ),
    ],
)
def test_what_stops_a_command_is_told_without_a_stack_trace(capsys, monkeypatch, error, code, text):
    monkeypatch.setattr(cli, "load_config", raising(error))
    found, _, err = ended(capsys, "train", "--experiment", "g1")
    assert found == code and err.startswith(text)


def test_a_stage_looks_for_links_before_it_trains(capsys, monkeypatch, tmp_path):
    use_root(monkeypatch, tmp_path)
    (tmp_path / "runs").symlink_to("elsewhere")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    code, out, err = ended(capsys, "train", "--experiment", "g1", "--profile", "smoke")
    assert (code, out) == (2, "") and f"{tmp_path}/runs: is a symbolic link" in err
    monkeypatch.delenv("DVC_ROOT")  # a training by hand needs no DVC
    code, out, err = ended(capsys, "train", "--experiment", "g1", "--profile", "smoke")
    assert (code, out) == (
        2,
        "g1-s0 of smoke …\n",
    ) and "no pack here; run lightdet pack --profile smoke" in err


@pytest.mark.parametrize("error", [ZeroDivisionError(), ModuleNotFoundError(name="lightdet_x")])
def test_a_mistake_of_ours_gives_its_stack_trace(monkeypatch, error):
    monkeypatch.setattr(cli, "load_config", raising(error))
    with pytest.raises(type(error)):
        cli.main(["train", "--experiment", "g1"])


@pytest.mark.parametrize(("module", "text"), [("typer", ""), ("torch", "interrupted\n")])
def test_ctrl_c_while_modules_load_leaves_no_trace(tmp_path, module, text):
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt")
    command = [sys.executable, "-m", "lightdet_tools", "latency"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=root(), env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, text)


def test_who_reads_no_more_gets_no_error():
    """As `lightdet detect … | head -1`."""
    command = [sys.executable, "-m", "lightdet_tools", "--help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=root(), text=True, **pipes) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 141)


def test_parameters_of_a_notebook_come_in_pairs(monkeypatch, capsys):
    from lightdet_tools.notebooks import run

    found = []
    monkeypatch.setattr(run, "execute", lambda *given: found.append(given))
    cli.run("notebook", "run", "a.ipynb", "b.ipynb", "-p", "x", "1", "-p", "y", "a b=c")
    cli.run("notebook", "run", "a.ipynb", "b.ipynb")
    assert [given for *_, given in found] == [{"x": "1", "y": "a b=c"}, {}]
    assert capsys.readouterr().out.splitlines()[-1] == "written to b.ipynb"
