"""Files: written whole or not at all, and where a profile's data lie."""

import hashlib
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from lightdet_core.config import Config, DataError, root


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A path beside `path` to write to; at the end it takes its place, after an error it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".partial-{path.name}")  # the ending stays: it decides on the format
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """UTF-8, with line ends as they are."""
    with replacing(path) as aside:
        aside.write_bytes(text.encode())


def write_json(path: Path, data: object, indent: int | None = None) -> None:
    """JSON and a line end."""
    write_text(path, json.dumps(data, indent=indent) + "\n")


def short_hash(text: str) -> str:
    """8 hex digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def file_hash(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise DataError(f"{path}: file not found{how_to_get(path)}") from None


def how_to_get(path: Path) -> str:
    """The end of an error about a profile's annotation file; nothing for files elsewhere."""
    folder = path.parent.parent
    if path.parent.name != "annotations" or folder.parent != root() / "data":
        return ""
    profile = f"--profile {folder.name}"
    return f"; run lightdet data {profile}, then lightdet pack {profile}"


def split_paths(config: Config, split: str) -> tuple[Path, Path]:
    """Annotation file and image folder of a split (train or val).

    All but folders have fixed places under `data/<profile>/`; images of BCCD and COCO stay in the
    unpacked download or in a local copy (LIGHTDET_MINICOCO: one with the annotations).
    """
    if split not in ("train", "val"):
        raise ValueError(f"split {split!r}: choose train or val")
    data, folder = config.data, root() / "data" / config.profile
    if data.source == "folder":
        images = root() / data.images.replace("{split}", split)
        return root() / getattr(data, f"{split}_annotations"), images
    if data.source == "coco":
        folder = coco_folder(config)
        return folder / f"annotations/instances_{split}2017.json", folder / f"{split}2017"
    if data.source == "minicoco" and (copy := os.environ.get("LIGHTDET_MINICOCO")):
        local = Path(copy).expanduser()
        return local / "annotations" / f"{split}.json", local / "images"
    annotations = folder / "annotations" / f"{split}.json"
    if data.source == "bccd":
        return annotations, bccd_folder() / "JPEGImages"
    if data.source == "minicoco":
        return annotations, coco_folder(config) / "val2017"
    return annotations, folder / "images" / split


def bccd_folder() -> Path:
    """The folder with Annotations, JPEGImages and ImageSets: in LIGHTDET_BCCD or the download."""
    return Path(os.environ.get("LIGHTDET_BCCD") or root() / "data/bccd/raw").expanduser() / "BCCD"


def coco_folder(config: Config) -> Path:
    """The folder with annotations, val2017 and perhaps train2017: LIGHTDET_COCO or the download."""
    if local := os.environ.get("LIGHTDET_COCO"):
        return Path(local).expanduser()
    data = root() / "data"  # every profile that takes minicoco shares its download
    return data / config.profile if config.data.source == "coco" else data / "minicoco" / "raw"
