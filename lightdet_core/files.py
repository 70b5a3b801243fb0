"""Files that appear whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
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


def write_json(path: Path, data: dict, indent: int | None = None) -> None:
    """JSON and a line end."""
    write_text(path, json.dumps(data, indent=indent) + "\n")
