"""One lock serves pip and conda, names no host, and holds everything that is asked for."""

import ast
import re
import sys
import tomllib

from setuptools import find_packages

from lightdet_core.config import parse_yaml, root


def pins(text: str) -> dict[str, str]:
    """Normalised package name -> what follows it, comments dropped."""
    found = {}
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if line:
            name = re.match(r"[A-Za-z0-9._-]+", line)[0]
            found[re.sub(r"[-_.]+", "-", name).lower()] = line[len(name) :]
    return found


PYPROJECT = tomllib.loads((root() / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOCK = pins((root() / "requirements.txt").read_text())
WANTED = pins((root() / "requirements.in").read_text())


def test_lock_holds_what_requirements_in_asks_for():
    for name, pin in WANTED.items():
        assert name in LOCK, f"{name}: run `make lock`"
        assert LOCK[name].split(";")[0].strip().startswith(pin or "==")


def test_every_package_of_the_lock_has_one_exact_version():
    for line in (root() / "requirements.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,-]+\])?==[^ ;]+( ; .+)?", line), line


def test_lock_names_no_index_host_or_local_path():
    text = (root() / "requirements.txt").read_text()
    assert not re.search(r"://|--|^/|\.whl|@ ", text, re.MULTILINE)


def test_conda_takes_the_same_lock_and_python():
    environment = parse_yaml((root() / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.11.*", "pip"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}
    assert PROJECT["requires-python"] == ">=3.11"


DECLARED = {
    name: set(pins("\n".join(lines)))
    for name, lines in {"core": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items()
}


def test_the_package_declares_what_the_lock_is_made_of():
    assert set().union(*DECLARED.values()) == set(WANTED)
    assert sum(map(len, DECLARED.values())) == len(WANTED)  # each of them once


def imported(*packages: str) -> set[str]:
    """Distributions of what the modules of packages import, wherever in them."""
    modules = {"PIL": "pillow", "ruamel": "ruamel-yaml", "pydantic_core": "pydantic"}
    found = set()
    for path in (p for package in packages for p in (root() / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    optional = {"apex", "cv2"}  # NVIDIA's, which must be built from source; videos
    others = found - set(sys.stdlib_module_names) - {"lightdet_core", "lightdet_tools"} - optional
    return {modules.get(name, name.replace("_", "-")) for name in others}


def test_what_is_imported_is_declared():
    assert imported("lightdet_core") <= DECLARED["core"]
    assert imported("lightdet_core", "lightdet_tools") <= set(WANTED)


def test_an_installation_has_every_package():
    (found,) = PYPROJECT["tool"]["setuptools"]["packages"].values()
    packages = find_packages(str(root()), **found)
    folders = {path.parent.relative_to(root()) for path in root().glob("lightdet_*/**/*.py")}
    assert sorted(packages) == sorted(".".join(folder.parts) for folder in folders)
