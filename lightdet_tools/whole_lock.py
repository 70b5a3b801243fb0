"""`python -m dvc`, but dvc.lock is written aside and then put in its place.

DVC 3.67.1 empties the file and takes a second or more to fill it, on busy cores four: who stops it
meanwhile has half a file, and with it goes what DVC knew of every run of every profile. (A plain
`dvc repro` still does so: docs/faq.md.)
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dvc.cli import main
from dvc.utils.serialize import _common

from lightdet_core.machinery.files import replacing


def dump_whole(path: str, data: Any, dumper: Callable, fs: Any = None, **options: Any) -> None:
    """As `dvc.utils.serialize._common._dump_data`; after an error the old file is still there."""
    with replacing(Path(path)) as aside, aside.open("w", encoding="utf-8") as file:
        dumper(data, file, **options)


if __name__ == "__main__":
    _common._dump_data = dump_whole
    sys.exit(main(sys.argv[1:]))
