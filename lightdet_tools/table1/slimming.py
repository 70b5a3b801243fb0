"""Narrower blocks beside 2:4 zeros: accuracy, arithmetic, measured time."""

from dataclasses import replace

import numpy as np
import pandas as pd

from lightdet_core.config import load_config, read_params
from lightdet_core.model import LightDet
from lightdet_core.slim import LAST
from lightdet_core.sparsity import eligible
from lightdet_tools.deploy.widths import channel_costs, macs_by_module
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


def time_law(found: dict) -> pd.DataFrame:
    """What the time of c0, +hswish and the networks cut out of them is made of, by runtime.

    time = a x multiply-adds + b x numbers moved inside the blocks + what is common to all, the line
    of least squares through the measured medians.

    Args:
        found: of `read_latency`, at the paper's size.

    Returns:
        Index runtime: networks; ms per 100 million multiply-adds, per million numbers moved, and of
        the rest; `moved / multiply-add`, how many of these one number moved takes as long as; the
        root mean square of what the line leaves over, ms.
    """
    inside = {}
    for name in {row["system"] for row in found["latency"]} & read_params()["experiments"].keys():
        config = load_config(name, "coco").model
        if (config.input_size, config.channels, config.head) == (416, 128, "gflv1") and (
            config.backbone.startswith("lite1") and config.activation in ("relu6", "hswish")
        ):
            model = LightDet(replace(config, pretrained=False))
            costs, state = channel_costs(model, 416), model.state_dict()
            widths = {block: state[block + LAST].shape[1] for block in costs}
            inside[name] = [sum(costs[b][i] * widths[b] for b in costs) / 1e6 for i in (0, 1)]
    rows = {}
    for runtime in EXPORTED:
        times = {
            row["system"]: row["median_ms"]
            for row in found["latency"]
            if (row["runtime"], row["part"]) == (runtime, "network") and row["system"] in inside
        }
        if len(times) > 3:
            known = np.array([[*inside[name], 1.0] for name in times])
            law = np.linalg.lstsq(known, np.array([*times.values()]), rcond=None)[0]
            left = known @ law - [*times.values()]
            rows[runtime] = {
                "networks": len(times),
                "ms per 100 million multiply-adds": 100 * law[0],
                "ms per million moved": law[1],
                "ms of the rest": law[2],
                "moved / multiply-add": law[1] / law[0],
                "ms left over": float(np.sqrt(np.mean(left**2))),
            }
    return pd.DataFrame(rows).T
