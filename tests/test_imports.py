"""The house as CONTRIBUTING.md has it: who may import whom, and how large things may get."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import lightdet_core
from lightdet_core.config import root

ORDER = re.findall(r"^(\w+) +\S", lightdet_core.__doc__.split("\n\n")[1], re.M)
SHARED = {"style", "timing"}
ROOMS = {  # of the tools, and the rooms that each may import
    "data": set(),
    "report": set(),
    "deploy": {"data"},
    "table1": {"data", "deploy", "report"},
    "cost": {"data", "deploy", "report", "table1"},
    "notebooks": {"data", "deploy", "report", "table1"},
    "publish": {"report", "table1"},
}
CORE = {"lightdet_core", "machinery", *ORDER, "predict"}
MAY = {  # place: what it may import
    "lightdet_core": {"config", "model", "predict"},  # its doors
    "predict": {"config", "machinery", *ORDER},
    "lightdet_tools": set(),
    "machinery": {"config", "machinery"},
    **{name: {"config", "machinery", *ORDER[:i]} - {name} for i, name in enumerate(ORDER)},
    "config": set(),
    **dict.fromkeys(SHARED, CORE),
    **{name: CORE | SHARED | {name} | rooms for name, rooms in ROOMS.items()},
    "side_by_side": {"config", "machinery"},
    "repro": {"config", "machinery", "side_by_side"},
    "steady_dvc": {"machinery"},
    "cli_groups": CORE | set(ROOMS),
    "cli": CORE | SHARED | set(ROOMS) | {"cli_groups", "repro", "side_by_side"},
    "__main__": {"cli"},
}
FILES = sorted(
    path.relative_to(root()).as_posix()
    for package in ("lightdet_core", "lightdet_tools")
    for path in (root() / package).rglob("*.py")
)


def place(module: str) -> str:
    """lightdet_core.machinery.files -> machinery, lightdet_tools.data.pack -> data."""
    return [*module.split("."), module][1]


def imports(tree: ast.AST) -> set[str]:
    """The modules of both packages that code imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inside if _file(name)} or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("lightdet_core", "lightdet_tools")}


def _file(module: str) -> Path | None:
    path = root() / module.replace(".", "/")
    found = path.with_suffix(".py"), path / "__init__.py"
    return next((path for path in found if path.is_file()), None)


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def tree_of(file: str) -> ast.Module:
    """A module's code; of a tool's without what runs as a script only, which may be a command."""
    tree = ast.parse((root() / file).read_text())
    if file.startswith("lightdet_tools"):
        script = [node for node in tree.body if ast.unparse(node).startswith("if __name__ ==")]
        tree.body = [node for node in tree.body if node not in script]
    return tree


def test_every_module_has_its_place():
    found = {place(module_of(file)) for file in FILES}
    beside = {"side_by_side", "repro", "steady_dvc", "cli", "cli_groups", "__main__"}
    assert found - beside == CORE | SHARED | set(ROOMS) | {"lightdet_tools"}
    shown = (root() / "CONTRIBUTING.md").read_text()
    assert ", ".join(f"`{name}`" for name in ORDER) in re.sub(r"\s+", " ", shown)
    for room, others in ROOMS.items():
        (line,) = re.findall(rf"^\| `{room}` \|.*\| ([^|]*) \|$", shown, re.M)
        assert set(re.findall(r"`(\w+)`", line)) == others, room


@pytest.mark.parametrize("file", FILES)
def test_a_module_imports_what_its_place_may(file):
    own, wanted = place(module_of(file)), {place(name) for name in imports(tree_of(file))}
    assert wanted <= MAY[own], f"{own} may not import {wanted - MAY[own]}"


@pytest.mark.parametrize("file", [file for file in FILES if not file.endswith("data/scenes.py")])
def test_a_module_is_short(file):
    """(What draws the demo's scenes is data as much as code, and must draw the same for ever.)"""
    lines = len((root() / file).read_text().splitlines())
    assert lines <= 450


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("lightdet_core")])
def test_a_function_of_the_core_is_short_and_asks_for_little(file):
    too_large = []
    for node in ast.walk(tree_of(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            named = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            number = len([one for one in named if one.arg not in ("self", "cls")])
            number += bool(node.args.vararg) + bool(node.args.kwarg)
            lines = node.end_lineno - node.lineno + 1
            if lines > 60 or number > 8:
                too_large.append(f"{node.name}: {lines} lines, {number} parameters")
    assert not too_large


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("lightdet_core", {"torch", "lightdet_tools"}),
        ("lightdet_core.config", {"torch", "lightdet_tools"}),
        ("lightdet_core.train", {"lightdet_tools"}),
        ("lightdet_tools.data.pack", {"torch"}),
        ("lightdet_tools.cli", {"torch"}),
    ],
)
def test_an_import_loads_no_more_than_it_must(module, unwanted):
    code = f"import sys, {module}; print(*(x.split('.')[0] for x in sys.modules))"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=True).stdout
    assert not unwanted & set(loaded.split())
