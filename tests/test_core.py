"""The core can be read from top to bottom: CONTRIBUTING's table is in the order of the imports."""

import ast
import re

import pytest
from test_pipeline import imports

from lightdet_core.config import root

TABLE = re.findall(
    r"^\| `(\w+)` \| [^|]+ \| (\d+) \|(.*)\|$", (root() / "CONTRIBUTING.md").read_text(), re.M
)
ORDER = [module for module, *_ in TABLE]


def test_every_module_is_listed_once():
    modules = {path.stem for path in (root() / "lightdet_core").glob("*.py")} - {"__init__"}
    assert sorted(ORDER) == sorted(modules)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_those_above_it(module):
    tree = ast.parse((root() / f"lightdet_core/{module}.py").read_text())
    assert imports(tree, everywhere=True) <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize(("module", "stated", "why"), TABLE, ids=ORDER)
def test_its_size_is_as_stated_and_a_large_one_has_a_reason(module, stated, why):
    lines = len((root() / f"lightdet_core/{module}.py").read_text().splitlines())
    assert abs(int(stated) - lines) <= 20, "set the number in CONTRIBUTING.md"
    assert lines <= 300 or len(why.split()) > 5


def test_the_package_itself_imports_nothing():
    assert not imports(
        ast.parse((root() / "lightdet_core/__init__.py").read_text()), everywhere=True
    )
