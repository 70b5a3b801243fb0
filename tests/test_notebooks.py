"""The notebooks' sources keep the rules; the runner gives the same bytes twice or nothing."""

import ast
import importlib.util
import subprocess
import sys

import nbformat
import psutil
import pytest
from conftest import use_root
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lightdet_core.config import root
from lightdet_tools.notebooks import run

SOURCES = sorted((root() / "notebooks").glob("*.ipynb"))


def write(path, *code, parameters='name = "a"\ncount = 3'):
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(new_code_cell, code),
    ]
    nbformat.write(new_notebook(cells=cells, metadata=run.METADATA), path)
    return path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_sources_keep_the_rules(path):
    assert run.check(path) == []


def test_check_accepts_a_notebook_in_order(tmp_path):
    assert run.check(write(tmp_path / "a.ipynb", "print(name, count)")) == []


@pytest.mark.parametrize(
    ("code", "count", "problem"),
    [
        ("class A:\n    pass\nname, count", "= 3", "class A"),
        ("name, count\n" * 31, "= 3", "31 lines, not <= 30"),
        ("def f():\n" + "    x = 1\n" * 10 + "name, count", "= 3", "11 lines"),
        ("print(name)", "= 3", "count is never used"),
        ("name, count", "= 2 * 3", "plain"),
        ("name, count", ": int = 3", "plain"),
        ("%matplotlib inline\nname, count", "= 3", "not plain Python"),
    ],
)
def test_check_names_what_is_wrong(tmp_path, code, count, problem):
    path = write(tmp_path / "a.ipynb", code, parameters=f'name = "a"\ncount {count}')
    assert problem in run.check(path)[0]


def linked(tmp_path, text, folder="notebooks"):
    source = new_notebook(cells=[new_markdown_cell(text)], metadata=run.METADATA)
    source.cells += nbformat.read(write(tmp_path / "x.ipynb", "name, count"), 4).cells[1:]
    (tmp_path / folder).mkdir(exist_ok=True)
    nbformat.write(source, tmp_path / folder / "a.ipynb")
    return tmp_path / folder / "a.ipynb"


@pytest.mark.parametrize(
    "module", ["lightdet_core/losses.py", "lightdet_core/machinery/a.py", "lightdet_tools/b/c.py"]
)
def test_links_to_code_are_checked_set_and_moved(tmp_path, monkeypatch, module):
    use_root(monkeypatch, tmp_path)
    (tmp_path / module).parent.mkdir(parents=True)
    code = "A = 1\nB: int = 2\n\n\nclass C:\n    pass\n\n\ndef giou():\n    pass\n"
    (tmp_path / module).write_text(code)
    assert run.lines_of(module) == {"A": 1, "B": 2, "C": 5, "giou": 9}
    text = f"[`giou`](../{module}#L1) of `a` [web](https://a.b/c.py) [top](#top)"
    path = linked(tmp_path, text)
    (problem,) = run.check(path)
    assert "cell 0: link to giou: line 1, now 9" in problem
    before = run.extract(nbformat.read(path, 4))
    assert run.set_links(path) and not run.set_links(path)
    assert run.check(path) == [] and f"{module}#L9" in path.read_text()
    assert run.extract(nbformat.read(path, 4)) == before  # DVC does not run it for a line

    moved = tmp_path / "results" / "demo" / "notebooks"
    text += " [05](05_train.ipynb) [08](08_table2.ipynb) [D1](../DEVIATIONS.md)"
    monkeypatch.setattr(run, "read_params", lambda: {"runs": ["teacher", "g1"], "taught": []})
    assert run._moved_links(text, path.parent, moved) == (
        f"[`giou`](../../../{module}#L1) of `a` [web](https://a.b/c.py) [top](#top) "
        "[05](05_train_g1-s0.ipynb) [08](08_table2.ipynb) [D1](../../../DEVIATIONS.md)"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[`gone`](../lightdet_core/losses.py#L1)", "link to gone, which lightdet_core/losses.py"),
        ("[02](02_gone.ipynb)", "link to 02_gone.ipynb, which is not there"),
        ("[it](../lightdet_core/gone.py#L1)", "link to ../lightdet_core/gone.py, which is not"),
    ],
)
def test_dead_links_are_found(tmp_path, text, problem):
    (tmp_path / "lightdet_core").mkdir()
    (tmp_path / "lightdet_core" / "losses.py").touch()
    assert problem in " ".join(run.check(linked(tmp_path, text)))


def test_a_control_becomes_words():
    data = {run.WIDGET: {"model_id": "3f"}, "text/plain": "interactive(children=(Float…"}
    shown = run._without_machine({"data": data})
    assert shown == {"data": {"text/plain": "[a control to move: open the notebook in JupyterLab]"}}


def test_check_finds_outputs_counts_kernels_and_a_missing_tag(tmp_path):
    path = write(tmp_path / "a.ipynb", "print(name, count)")
    source = nbformat.read(path, 4)
    source.cells[2].execution_count = 1
    source.metadata.kernelspec.name = "my-env"
    nbformat.write(source, path)
    problems = " ".join(run.check(path))
    assert "cell 2 has outputs" in problems and "python3" in problems
    source.cells[1].metadata.tags = []
    nbformat.write(source, path)
    assert "tag `parameters`" in run.check(path)[0]


def test_extract_ignores_outputs_and_ids_but_no_text(tmp_path):
    path = write(tmp_path / "a.ipynb", "print(name, count)")
    source = nbformat.read(path, 4)
    before = run.extract(source)
    assert "# # Title" in before and "[code] parameters" in before and 'name = "a"' in before
    source.cells[2].outputs = [nbformat.v4.new_output("stream", text="hi")]
    source.cells[2].execution_count = 7
    source.cells[2].id = "other"
    assert run.extract(source) == before
    source.cells[0].source = "# Other title"
    assert run.extract(source) != before


def test_execution_is_reproducible_and_names_no_machine(tmp_path):
    code = (
        "import sys, warnings\n"
        "from lightdet_core.config import root\n"
        "print(name, count + 1, root() / 'params.yaml', root(), object())\n"
        "print(sys.prefix, sys.executable)\n"
        "warnings.warn('careful')"
    )
    source = write(tmp_path / "a.ipynb", code)
    out = tmp_path / "deep" / "out.ipynb"
    run.execute(source, out, {"name": "7", "count": "41"})
    first = out.read_bytes()
    run.execute(source, out, {"name": "7", "count": "41"})
    assert out.read_bytes() == first
    executed = nbformat.read(out, 4)
    nbformat.validate(executed)
    text = "".join(output.text for output in executed.cells[-1].outputs)
    assert text.startswith("7 42 params.yaml . <object object>\n")
    assert "cell:5: UserWarning: careful" in text
    for trace in (str(root()), sys.prefix, "/tmp/", "papermill"):
        assert trace not in first.decode()
    assert [path.name for path in out.parent.iterdir()] == ["out.ipynb"]


def test_the_kernel_is_the_python_that_started(tmp_path, monkeypatch):
    """Not what another installation calls python3: Jupyter looks into folders of all of them."""
    kernel = tmp_path / "jup/kernels/python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        '{"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jup"))
    code = "import sys\nfrom pathlib import Path\nname, count\n"
    source = write(tmp_path / "a.ipynb", code + f"assert sys.executable == {sys.executable!r}")
    run.execute(source, tmp_path / "out.ipynb")
    commands = [child.cmdline() for child in psutil.Process().children()]
    assert not any("ipykernel_launcher" in command for command in commands)  # it has ended, too


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("-2.5", -2.5)])
def test_a_float_may_be_given_as_a_whole_number(text, value):
    found = run._typed("x", text, {"x": 0.3})
    assert (found, type(found)) == (value, float)


def test_a_failing_cell_is_shown_and_leaves_the_last_good_copy(tmp_path):
    out = tmp_path / "out.ipynb"
    out.write_text("the last good copy")
    source = write(tmp_path / "a.ipynb", "name, count", "denominator = 0\n1 / denominator")
    command = f"-m lightdet_tools notebook run {source} {out} -p name b".split()
    done = subprocess.run([sys.executable, *command], cwd=root(), capture_output=True, text=True)
    assert done.returncode != 0
    assert "cell 3 failed with ZeroDivisionError: division by zero" in done.stderr
    assert "    1 / denominator" in done.stderr and "Traceback" not in done.stderr
    assert out.read_text() == "the last good copy"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"nmae": "b"}, "'nmae': unknown; known are name, count, share"),
        ({"count": "many"}, "'many' is no int"),
        ({"count": "1.5"}, "'1.5' is no int"),
        ({"count": "True"}, "'True' is no int"),
        ({"share": "True"}, "'True' is no float"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(tmp_path, given, problem):
    parameters = 'name = "a"\ncount = 3\nshare = 0.5'
    source = write(tmp_path / "a.ipynb", "name, count, share", parameters=parameters)
    with pytest.raises(run.UserError, match=problem):
        run.execute(source, tmp_path / "out.ipynb", given)
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_what_a_notebook_imports_is_there(path):
    cells = nbformat.read(path, 4).cells
    tree = ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lightdet"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                there = hasattr(module, alias.name) or importlib.util.find_spec(inside)
                assert there, f"{path.name}: {inside}"
