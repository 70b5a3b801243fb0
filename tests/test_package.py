"""The wheel, installed where the repository is not: it imports, detects and knows its command."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from conftest import teach
from PIL import Image

from lightdet_core.config import root


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Of a fresh environment with the wheel; the packages that it needs are those of here."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", folder, root()], check=True)
    (wheel,) = folder.glob("lightdet-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", wheel], check=True)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    # a folder named in a .pth file is searched, but its own .pth files (our checkout) are not read
    needed = Path(np.__file__).parents[1]
    (site / "needed.pth").write_text(f"{needed}\n")
    return python


def run(python: Path, *words: object, cwd: Path) -> str:
    done = subprocess.run([python, *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_imports_and_predicts_outside_of_the_repository(python, tmp_path):
    teach(tmp_path, "g3")
    Image.new("RGB", (90, 60), (200, 30, 30)).save(tmp_path / "photo.png")
    code = (
        "import lightdet_core\n"
        "model = lightdet_core.load('g3-s0/weights.safetensors')\n"
        "found = model.predict('photo.png', 0.002)\n"
        "print(lightdet_core.__file__, len(found.boxes), len(found.names))"
    )
    place, boxes, names = run(python, "-c", code, cwd=tmp_path).split()
    assert Path(place).is_relative_to(python.parents[1]) and boxes == names != "0"


def test_its_command_detects(python, tmp_path):
    teach(tmp_path, "g3")
    Image.new("RGB", (90, 60), (200, 30, 30)).save(tmp_path / "photo.png")
    command = python.parent / "lightdet"
    weights = tmp_path / "g3-s0" / "weights.safetensors"
    run(python, command, "detect", weights, "photo.png", "--out", "found", cwd=tmp_path)
    found = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["photo.png"]
