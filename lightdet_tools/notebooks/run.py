"""Notebooks: check the sources, extract their text for DVC, execute them reproducibly.

    lightdet notebook check
    lightdet notebook link       # sets the line numbers in links to the core
    lightdet notebook extract build/source
    lightdet notebook run notebooks/X.ipynb OUT.ipynb -p experiment g1

An executed copy holds nothing that differs between two runs or two machines: no times, no
random cell ids, no absolute paths. `dvc repro -f` therefore leaves `git status` empty.
"""

import ast
import os
import re
import sys
from pathlib import Path

import nbformat

from lightdet_core.config import UserError, all_runs, read_params, root
from lightdet_core.machinery.files import write_text

MAX_DEF_LINES = 10  # longer functions belong in a package, where they are tested
MAX_CELL_LINES = 30
CODE_LINK = re.compile(r"\[`(\w+)`\]\((?:\.\./)+(lightdet_(?:core|tools)/[\w/]+\.py)#L(\d+)\)")
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")  # relative ones: others have a colon
WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sources() -> list[Path]:
    """All notebooks."""
    return sorted((root() / "notebooks").glob("*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path`; `UserError` when it is missing or no notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; the sources are notebooks/*.ipynb") from None
    except Exception as error:  # nbformat raises several unrelated types
        raise UserError(f"{path}: not a notebook: {error}") from error


def parameters(notebook: nbformat.NotebookNode) -> dict[str, object]:
    """Names and default values in the first code cell, which must be tagged `parameters`.

    Raises:
        UserError: another cell comes first, or something but `name = literal` stands in it.
    """
    cell = next((cell for cell in notebook.cells if cell.cell_type == "code"), None)
    if cell is None or "parameters" not in cell.metadata.get("tags", []):
        raise UserError("the first code cell needs the tag `parameters`")
    values = {}
    for statement in ast.parse(cell.source).body:
        try:
            (target,) = statement.targets
            values[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            line = ast.unparse(statement)
            raise UserError(f"parameters: `{line}` is not a plain `name = literal`") from None
    return values


def check(path: Path) -> list[str]:
    """The rules that a notebook source breaks, in words; empty when it is in order."""
    try:
        notebook = read(path)
        names = parameters(notebook)
    except (UserError, SyntaxError) as error:
        return [str(error)]
    problems = []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        problems.append("its kernelspec must be python3")
    used = set()
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            problems += [
                f"cell {number}: {problem}" for problem in _broken_links(cell.source, path)
            ]
            continue
        lines = len(cell.source.splitlines())
        if lines > MAX_CELL_LINES:
            problems.append(f"cell {number} has {lines} lines, not <= {MAX_CELL_LINES}")
        if cell.outputs or cell.execution_count is not None:
            problems.append(f"cell {number} has outputs; clear them before saving")
        try:
            nodes = list(ast.walk(ast.parse(cell.source)))
        except SyntaxError as error:
            problems.append(f"cell {number} is not plain Python: {error}")
            continue
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                problems.append(f"cell {number}: class {node.name} belongs in a package")
            elif isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_DEF_LINES:
                    problems.append(
                        f"cell {number}: def {node.name} has {lines} lines, not <= {MAX_DEF_LINES}"
                    )
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used.add(node.id)
    problems += [f"parameter {name} is never used" for name in names if name not in used]
    return problems


def check_all() -> int:
    """How many sources there are; `UserError` with the rules that they break."""
    if found := [f"{path.name}: {problem}" for path in sources() for problem in check(path)]:
        raise UserError("\n".join(found))
    return len(sources())


def _broken_links(text: str, path: Path) -> list[str]:
    problems = [
        f"link to {target}, which is not there"
        for target, _ in LINK.findall(text)
        if not (path.parent / target).exists()
    ]
    for name, module, line in CODE_LINK.findall(text):
        found = lines_of(module).get(name)
        if found is None:
            problems.append(f"link to {name}, which {module} does not define")
        elif found != int(line):
            problems.append(f"link to {name}: line {line}, now {found}; `make format` sets it")
    return problems


def lines_of(module: str) -> dict[str, int]:
    """The top-level names of a module, such as lightdet_core/model.py, and the lines of them."""
    path = root() / module
    lines = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            lines[node.name] = node.lineno
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            lines |= {t.id: node.lineno for t in targets if isinstance(t, ast.Name)}
    return lines


def set_links(path: Path) -> bool:
    """Write today's lines into the notebook's links to code; says whether any has changed."""

    def now(match: re.Match) -> str:
        name, module, line = match.groups()
        return match[0].replace(f"#L{line}", f"#L{lines_of(module).get(name, line)}")

    before = path.read_text(encoding="utf-8")
    after = CODE_LINK.sub(now, before)
    if after != before:
        write_text(path, after)
    return after != before


def extract(notebook: nbformat.NotebookNode) -> str:
    """Text, code and tags as one script: what an execution depends on, and nothing else.

    Lines of code, which move at every edit, are left out.
    """
    parts = []
    for cell in notebook.cells:
        source = cell.source.rstrip()
        if cell.cell_type != "code":
            source = CODE_LINK.sub(lambda match: match[0].split("#L")[0] + ")", source)
            source = "\n".join(f"# {line}".rstrip() for line in source.splitlines())
        tags = " ".join([f"[{cell.cell_type}]", *sorted(cell.metadata.get("tags", []))])
        parts.append(f"# %% {tags}\n{source}\n")
    return "\n".join(parts)


def extract_all(folder: Path) -> None:
    """The text of each source as a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sources():
        write_text(folder / f"{path.stem}.py", extract(read(path)))


def execute(source: Path, out: Path, given: dict[str, str] | None = None) -> None:
    """Run the notebook `source` from the repository root and write its clean copy to `out`.

    Args:
        source: notebook without outputs.
        out: replaced once every cell has run; untouched when one fails.
        given: parameter -> text; read as a Python literal where the default is not text.

    Raises:
        UserError: unknown parameter, value of the wrong type, failing cell.
    """
    import papermill  # here, for `extract` must stay quick
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from papermill.exceptions import PapermillExecutionError

    class ThisPython(AsyncKernelManager):
        """Starts the Python that runs here, whatever kernels a machine calls python3."""

        def __init__(self, **settings: object) -> None:
            super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **settings)

    notebook = read(source)
    defaults = parameters(notebook)
    values = {name: _typed(name, text, defaults) for name, text in (given or {}).items()}
    try:
        executed = papermill.execute_notebook(
            notebook,
            None,
            values,
            kernel_name="python3",
            kernel_manager_class=ThisPython,
            cwd=root(),
            progress_bar=False,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # it warns about local TCP
        )
    except PapermillExecutionError as error:
        cell = error.cell_index - bool(values)  # papermill inserts a cell for given parameters
        raise UserError(
            f"{source}: cell {cell} failed with {error.ename}: {error.evalue}\n"
            + "\n".join(f"    {line}" for line in error.source.splitlines())
        ) from None
    for cell in executed.cells:
        if cell.cell_type == "markdown":
            cell.source = _moved_links(cell.source, source.parent, out.parent)
    write_text(out, nbformat.writes(clean(executed)) + "\n")


def _moved_links(text: str, source: Path, out: Path) -> str:
    """The links of a source as its executed copy needs them, which lies in another folder."""
    first = f"05_train_{all_runs(read_params())[0]}-s0.ipynb"  # one copy per run

    def moved(match: re.Match) -> str:
        target, anchor = match.groups(default="")
        if not target.startswith("../"):
            return f"]({first if target == '05_train.ipynb' else target}{anchor})"
        wanted = (source / target).resolve()
        return f"]({Path(os.path.relpath(wanted, out.resolve())).as_posix()}{anchor})"

    return LINK.sub(moved, text)


def _typed(name: str, text: str, defaults: dict[str, object]) -> object:
    if name not in defaults:
        raise UserError(f"parameter {name!r}: unknown; known are {', '.join(defaults)}")
    kind = type(defaults[name])
    if kind is str:
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"parameter {name}: {text!r} is no {kind.__name__}")
    return value


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The executed notebook without what differs between runs and machines."""
    cells = []
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        kept = {**cell, "id": f"cell-{number:02d}", "metadata": {"tags": tags} if tags else {}}
        if cell.cell_type == "code":
            kept["outputs"] = [_without_machine(output) for output in cell.outputs]
        cells.append(kept)
    content = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return nbformat.from_dict(content)


def _without_machine(value: object, key: str = "") -> object:
    """`value` with every text in it free of absolute paths and memory addresses."""
    if isinstance(value, dict) and WIDGET in value:
        return {"text/plain": "[a control to move: open the notebook in JupyterLab]"}
    if isinstance(value, dict):
        return {k: _without_machine(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_machine(item, key) for item in value]
    if not isinstance(value, str) or (key.startswith("image/") and key != "image/svg+xml"):
        return value
    value = re.sub(r"[^\s\"'(<]*ipykernel_\d+[/\\]\d+\.py", "cell", value)
    for path, name in ((root(), "."), (Path(sys.prefix), "$PREFIX"), (Path.home(), "~")):
        value = value.replace(f"{path}{os.sep}", f"{name}/" if name != "." else "")
        value = re.sub(re.escape(str(path)) + r"(?![\w.-])", lambda _, name=name: name, value)
    return re.sub(r" at 0x[0-9a-f]+", "", value)
