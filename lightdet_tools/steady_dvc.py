"""`python -m dvc`, but a Ctrl-C loses nothing of what has ended.

DVC 3.67.1 removes what a stage has made before it runs it again, trained networks too, unless
dvc.lock says that it ended well. But a Ctrl-C after its command and before that is written ends
DVC, and the file itself is emptied and then filled: 0.8 s for ours, 3.5 s beside other work (AMD
EPYC). So here a stop waits until the stage is noted, and the file is written aside. (A plain `dvc
repro` has neither: docs/faq.md. Nothing helps against SIGKILL between command and note.)
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dvc.cli import main
from dvc.stage import run
from dvc.utils.serialize import _common

from lightdet_core.machinery.files import replacing

run_command = run._run  # of a stage; ends with an error where the command does
stops: list[int] = []  # signals that came after a command had ended


def run_steadily(*arguments: Any, **options: Any) -> None:
    """`run_command`; a stop after it waits for the end of `dump_whole`."""
    run_command(*arguments, **options)
    signal.signal(signal.SIGINT, lambda number, _: stops.append(number))


def dump_whole(path: str, data: Any, dumper: Callable, fs: Any = None, **options: Any) -> None:
    """As `dvc.utils.serialize._common._dump_data` of a local file: of dvc.lock, at a stage's end.

    After an error the old one is still there.

    Raises:
        KeyboardInterrupt: a stop that waited for this.
    """
    with replacing(Path(path)) as aside, aside.open("w", encoding="utf-8") as file:
        dumper(data, file, **options)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if stops:
        raise KeyboardInterrupt


if __name__ == "__main__":
    run._run, _common._dump_data = run_steadily, dump_whole
    sys.exit(main(sys.argv[1:]))
