"""What a training says on its way: log.csv, accuracies, and lines for a person to read.

The first of many processes alone writes and speaks.
"""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from lightdet_core.config import Config, UserError
from lightdet_core.machinery import distributed
from lightdet_core.machinery.files import replacing

COLUMNS = ("step", "epoch", "lr", "loss")  # then its parts
LAST_COLUMNS = ("num_pos", "grad_norm")  # the norm is of weights that are not masked, unclipped
DISTILL_COLUMNS = ("loss_ld", "loss_ld_vlr", "loss_kd")  # after those, where there is a teacher
ACCURACY_COLUMNS = ("step", "pruned", "AP", "AP50", "AP75")
SECONDS_BETWEEN_LINES = 5.0
SLOWER = 3.0  # times as long between two lines as at the fastest: worth a word
BUSY = (
    "other work on these cores? Threads then wait for each other; stop it, or stop this command "
    "and start it again: it goes on from here, and shares the cores better"
)


@dataclass
class Log:
    """The log of one run, which begins at a step or goes on there."""

    checkpoint: Path  # beside which the files lie
    config: Config  # of the run, whose name begins every line
    losses: tuple[str, ...]  # the parts of the loss that no teacher gives
    start: int  # steps done already
    steps: int  # in all
    progress: Callable[[str], None]  # takes one line of text at a time

    def __post_init__(self) -> None:
        self.columns = COLUMNS + self.losses + LAST_COLUMNS
        self.columns += DISTILL_COLUMNS if self.config.distill.teacher else ()
        self.path = self.checkpoint.with_suffix(".csv")
        self.accuracy_path = self.checkpoint.with_suffix(".evaluations.csv")
        self.writes = distributed.rank() == 0
        if self.writes:
            _begin(self.path, self.columns, self.start)
            _begin(self.accuracy_path, ACCURACY_COLUMNS, self.start)
        self.began = self.shown = time.monotonic()
        self.told, self.fastest = self.start, 0.0  # step of the last line; images per second

    def say(self, line: str) -> None:
        self.progress(f"{self.config.run_name}: {line}")

    def row(self, values: list) -> None:
        """One row of log.csv, in the order of `columns`."""
        if self.writes:
            _append(self.path, values)

    def accuracy(self, step: int, pruned: bool, evaluate: Callable[[], dict]) -> None:
        """Notes the accuracy after a step; the time that it takes does not count."""
        before = time.monotonic()
        found = evaluate()
        if self.writes:
            numbers = (found[k] for k in ACCURACY_COLUMNS[2:])
            _append(self.accuracy_path, [step, int(pruned), *numbers])
        took = time.monotonic() - before
        self.began, self.shown = self.began + took, self.shown + took

    def accuracies(self) -> list[dict]:
        """Those of the whole run; a resumed one may have noted the pruned network twice."""
        with self.accuracy_path.open(newline="") as file:
            rows = {(int(row["step"]), int(row["pruned"])): row for row in csv.DictReader(file)}
        return [
            {"step": step, "pruned": bool(pruned)}
            | {k: round(float(row[k]), 6) for k in ACCURACY_COLUMNS[2:]}
            for (step, pruned), row in sorted(rows.items())
        ]

    def line(self, done: int, epoch: str, values: dict[str, float], after: str = "") -> None:
        """Where the run is, every few seconds and at its end; `values` by column."""
        if (now := time.monotonic()) - self.shown <= SECONDS_BETWEEN_LINES and done < self.steps:
            return
        recent = self._images(done - self.told) / (now - self.shown)
        if recent * SLOWER < self.fastest < math.inf and done < self.steps:  # no single last step
            self.say(f"a step takes {self.fastest / recent:.1f} times as long as before: {BUSY}")
            self.fastest = math.inf  # said once
        self.fastest = max(self.fastest, recent)
        self.shown, self.told, rate = now, done, self.rate(done)
        terms = " ".join(f"{k[5:]} {v:.3f}" for k, v in values.items() if k.startswith("loss_"))
        left = timedelta(seconds=int(self._images(self.steps - done) / rate))
        self.say(
            f"step {done}/{self.steps}  epoch {epoch}  lr {values['lr']:.2e}  "
            f"loss {values['loss']:.3f} ({terms})  {rate:.1f} images/s  {left} left{after}"
        )

    def rate(self, done: int) -> float:
        """Images per second until now."""
        return self._images(done - self.start) / (time.monotonic() - self.began)

    def _images(self, steps: int) -> int:
        return steps * self.config.train.batch_size


def _begin(path: Path, columns: tuple[str, ...], start: int) -> None:
    """Writes the heads; rows beyond the checkpoint that a resume starts from are cut."""
    rows = []
    if start:
        try:
            with path.open(newline="") as file:
                rows = list(csv.reader(file))[1:]
        except FileNotFoundError:
            raise UserError(
                f"{path}: the log beside the checkpoint is gone; delete the checkpoint, too, to "
                "start again"
            ) from None
        whole = [row for row in rows if len(row) == len(columns) and row[0].isdigit()]
        rows = [row for row in whole if int(row[0]) <= start]
    with replacing(path) as aside, aside.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def _append(path: Path, row: list) -> None:
    with path.open("a", newline="") as file:
        values = [f"{x:.6g}" if isinstance(x, float) else x for x in row]
        csv.writer(file, lineterminator="\n").writerow(values)
