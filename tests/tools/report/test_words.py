"""Runs and comparisons in words."""

import math

import pandas as pd
import pytest

from lightdet_core.config import read_params
from lightdet_tools.report import claims, words


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("g1", "group 1"),
        ("c0", "baseline"),
        ("+silu", "SiLU"),
        ("+hswish", "h-swish"),
        ("+e3", "blocks 3 times as wide inside"),
        ("teacher", "teacher"),
        ("my-own", "my-own"),
    ],
)
def test_runs(run, said):
    assert words.words_of_run(run) == said


@pytest.mark.parametrize(
    ("contrast", "said"),
    [
        ("+silu - c0", "SiLU instead of ReLU6"),
        ("+silu - +mish", "SiLU against Mish"),
        ("g2 - g1", "group 2 against group 1"),
        ("prune-retrain - dense-retrain",
         "2:4 pruning before a second training instead of that alone"),
        ("silu-prune - +silu - +prune + c0",
         "2:4 pruning half-way, with SiLU, against 2:4 pruning half-way, with ReLU6"),
        ("+a", "+a"),
        ("a - b - c", "a - b - c"),
    ],
)  # fmt: skip
def test_contrasts(contrast, said):
    assert words.words_of_contrast(contrast) == said


def test_every_comparison_of_the_design_has_words_of_its_own():
    known = read_params()["experiments"]
    contrasts = claims.comparisons(claims.load_design(), "custom")
    said = [words.words_of_contrast(contrast) for contrast in contrasts]
    assert len(set(said)) == len(said)
    names = {name for name in known if name.startswith("+") or "-" in name}
    assert not [text for text in said if set(text.split()) & names]


def test_sentences_say_what_the_interval_allows():
    rows = {
        "contrast": ["g2 - g1", "+silu - c0", "+mish - c0"],
        "difference": [3.0, 1.5, -2.0],
        "within": [1.0, 2.0, math.nan],
        "seeds": [3, 3, 1],
        "verdict": ["up", "none shown", "unknown"],
    }
    assert words.sentences(pd.DataFrame(rows)).splitlines() == [
        "group 2 against group 1: AP +3.00 ± 1.00, 3 seeds: a gain.",
        "SiLU instead of ReLU6: AP +1.50 ± 2.00, 3 seeds: none shown, for the interval holds zero.",
        "Mish instead of ReLU6: AP -2.00, 1 seed: without an interval, so that nothing is shown.",
    ]
    assert words.sentences(pd.DataFrame(rows)[:0]) == (
        "no such runs yet: `make ladder` trains them."
    )
