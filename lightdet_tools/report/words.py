"""Runs and comparisons in words, for readers of figures and tables who do not know their names."""

import re

import pandas as pd

from lightdet_core.config import read_params
from lightdet_tools.report.contrasts import in_words, weights_of

GROUPS = {  # what a group of Table 2 has that the one before has not
    "g1": "Lite0, ReLU6",
    "g2": "Lite1, Mish",
    "g3": "SiLU",
    "g4": "GFLv2, 2:4 pruned",
    "g5": "distilled",
}


def words_of_run(run: str) -> str:
    """`+silu` is "SiLU", `g1` "group 1": `about` up to " instead of", or the name."""
    if run in GROUPS:
        return f"group {run[1:]}"
    about = (read_params()["experiments"].get(run) or {}).get("about", run)
    return " ".join(re.split(r",?\s+instead of\s", about)[0].split())


def words_of_contrast(contrast: str) -> str:
    """`+silu - c0` is "SiLU instead of ReLU6", `g2 - g1` "group 2 against group 1".

    Four runs are one effect against another: `a - b - c + d`.

    Args:
        contrast: as `weights_of` reads it.
    """
    runs = list(weights_of(contrast))
    if len(runs) == 4:
        first, second = words_of_contrast(contrast.rsplit(" ", 4)[0]), f"{runs[2]} - {runs[3]}"
        return f"{first}, against {words_of_contrast(second)}"
    if len(runs) != 2:
        return " ".join(words_of_run(run) for run in runs) if len(runs) == 1 else contrast
    changes = read_params()["experiments"].get(runs[0]) or {}
    if "about" in changes and runs[1] == changes.get("against", "c0"):
        return " ".join(changes["about"].split())
    return f"{words_of_run(runs[0])} against {words_of_run(runs[1])}"


SAYS = {
    "up": "a gain",
    "down": "a loss",
    "none shown": "none shown, for the interval holds zero",
    "unknown": "without an interval, so that nothing is shown",
}


def sentences(differences: pd.DataFrame) -> str:
    """What each row of `contrasts` says, a line each; one line where there is none."""
    lines = [
        f"{words_of_contrast(row['contrast'])}: AP {in_words(row)}: {SAYS[row['verdict']]}."
        for _, row in differences.iterrows()
    ]
    return "\n".join(lines) or "no such runs yet: `make ladder` trains them."
