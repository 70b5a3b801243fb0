"""Narrower blocks beside 2:4 zeros: accuracy, arithmetic, measured time."""

from dataclasses import replace

import pandas as pd

from lightdet_core.config import load_config, read_params
from lightdet_core.model import LightDet
from lightdet_core.sparsity import eligible
from lightdet_tools.deploy.widths import macs_by_module
from lightdet_tools.report.tables import run_table, seed_table
from lightdet_tools.report.words import words_of_run
from lightdet_tools.table1.systems import timed_as
from lightdet_tools.table1.tables import EXPORTED, speed_table


def slimming_table(profile: str, found: dict) -> pd.DataFrame:
    """The runs of params.yaml's `slim` that a profile has, by their multiply-adds.

    Args:
        profile: whose AP.
        found: of `read_latency`: times at the paper's size, of the networks that it has.

    Returns:
        One row per run: in words, seeds, AP and its std; GMAC at the paper's size without those
        by the zeros of 2:4, which need a sparse matrix unit to be saved; `<runtime> ratio` to
        YOLOv4-tiny's time, where it was measured.
    """
    there = seed_table(profile, read_params()["slim"]).index.unique("run")
    runs = [run for run in read_params()["slim"] if run in there]
    if not runs:
        return pd.DataFrame()
    table = run_table(profile, runs)[["experiment", "seeds", "AP", "AP std"]]
    table.insert(1, "in words", table["experiment"].map(words_of_run))
    table["GMAC"] = table["experiment"].map(useful_gmac)
    speed = speed_table(found)
    for runtime in EXPORTED:
        rows = speed[(speed["runtime"] == runtime) & (speed["part"] == "network")]
        ratios = rows.set_index("system")["ratio"]
        table[f"{runtime} ratio"] = table["experiment"].map(timed_as).map(ratios)
    return table.sort_values("GMAC", ascending=False, ignore_index=True)


def useful_gmac(run: str) -> float:
    """Multiply-adds of an image of the paper's size, in 10^9, without those by 2:4's zeros."""
    config = load_config(run, "coco")
    model = LightDet(replace(config.model, pretrained=False))
    macs = macs_by_module(model, config.model.input_size)
    if config.sparsity.prune_at is None:
        return macs[""] / 1e9
    pruned = (name for name, weight in model.named_parameters() if eligible(name, weight))
    return (macs[""] - sum(macs[name.removesuffix(".weight")] for name in pruned) / 2) / 1e9
