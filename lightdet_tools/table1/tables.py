"""Table 1 and the figures about speed: what is printed and what was measured, each by itself.

Input is the `table1` of paper.yaml, results/speed/latency.json of `latency` and
results/official/*.json of `official`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lightdet_core.config import UserError, root
from lightdet_tools.report.results import read_result
from lightdet_tools.style import COLORS, PRINTED_COLOR

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
LINE = 0.058  # height of a line of labels, as a share of the axes
OFFICIAL_NOTE = (
    "Measured here, by our way from pixels to boxes, on the images named: a part of COCO val2017 "
    "is not its 5,000 images. No number here is printed in the paper. `areas`: what APs, APm and "
    "APl rest on."
)
AUDIT_NOTE = (
    "No row but the last was measured by the paper's authors: accuracies come from other papers at "
    "other sizes and test sets, speeds from other people's hardware. Certainty: `read` in the "
    "primary source, `recalled` from it, `computed` from the architecture."
)


def read_latency(path: Path) -> dict:
    """What `lightdet latency` wrote.

    Raises:
        UserError: it is not there, or is something else.
    """
    try:
        found = json.loads(path.read_text())
        found["systems"], found["latency"], found["not_possible"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not there or not readable; lightdet latency writes it") from None
    return found


def printed_table(paper: dict) -> pd.DataFrame:
    """Table 1 as the paper prints it, whatever the units mean."""
    rows = [
        {"model": row["model"], "backbone": row["backbone"], **row["printed"]}
        for row in paper["table1"].values()
    ]
    return pd.DataFrame(rows)


def audit_table(paper: dict) -> pd.DataFrame:
    """Where each printed number comes from."""
    rows = [
        {
            "model": row["model"],
            "AP printed": row["printed"]["AP"],
            "its source": row["accuracy"]["source"],
            "measured on": row["accuracy"]["protocol"],
            "FPS printed": row["printed"]["FPS"],
            "its source ": row["speed"]["source"],
            "hardware": row["speed"]["hardware"],
            "certainty": row["speed"].get("source_certainty", ""),
            "size printed": row["printed"]["size"],
            "size by count": row.get("true_size", ""),
        }
        for row in paper["table1"].values()
    ]
    return pd.DataFrame(rows)


def speed_table(found: dict) -> pd.DataFrame:
    """One row per runtime, system and part.

    `ratio` is a network's time divided by that of YOLOv4-tiny in the same runtime (int8, bf16 and
    torch.compile: in its plain fp32), so below 1 is faster; NaN where YOLOv4-tiny could not be run,
    and for `boxes`, since decoders differ in how well they are written. `spread` is the middle 80 %
    in percent of the median.
    """
    table = pd.DataFrame(found["latency"])
    reference = table[table["system"] == found["reference"]]
    times = reference.set_index(["runtime", "part"])["median_ms"]
    base = [times.get((row.base, row.part)) for row in table.itertuples()]
    ratio = table["median_ms"] / pd.Series(base, dtype=float)
    table["ratio"] = ratio.where(table["part"] == "network")
    table["spread"] = 100 * (table["p90_ms"] - table["p10_ms"]) / table["median_ms"]
    titles = {system["key"]: system["title"] for system in found["systems"]}
    table.insert(0, "title", table["system"].map(titles))
    return table


def measured_table(found: dict, official: dict[str, dict]) -> pd.DataFrame:
    """Table 1 on this machine: one row per system, all of it measured here.

    `calls, at least`: the fewest that any of the system's times is the median of.

    Args:
        found: of `read_latency`.
        official: `accuracies()`: AP of official weights, each with the images that it is of.
    """
    speed = speed_table(found).set_index(["system", "runtime", "part"])
    rows = []
    for system in found["systems"]:
        row = {
            "model": system["title"],
            "input size": system["size"],
            "parameters": int(system["parameters"]),
            "GMAC": float(system["gmac"]),
        }
        for runtime in ("onnxruntime", "ncnn"):
            size = system["bytes"].get(runtime, float("nan"))
            row[f"{runtime} file, MiB"] = size / 2**20
        for runtime in ("torch", "onnxruntime", "ncnn"):
            for part in ("network", "boxes"):
                place = (system["key"], runtime, part)
                known = place in speed.index
                row[f"{runtime} {part}, ms"] = speed.at[place, "median_ms"] if known else np.nan
            place = (system["key"], runtime, "network")
            row[f"{runtime} ratio"] = speed.at[place, "ratio"] if place in speed.index else np.nan
        calls = speed.loc[[system["key"]], "calls"] if system["key"] in speed.index else [0]
        row["calls, at least"] = int(min(calls))
        sets = official.get(system["key"], {"sets": {}})["sets"]
        texts = [f"{100 * metrics['AP']:.1f} on {images}" for images, metrics in sets.items()]
        row |= {"AP, official weights": "; ".join(texts)}
        row |= {"the paper's row shows": system["in_paper"]}
        rows.append(row)
    return pd.DataFrame(rows)


def accuracies() -> dict[str, dict]:
    """What `lightdet accuracy` measured, by the comparator's key; {} if nothing.

    Each has `title`, `caution` ("" or what to know) and `sets`, entries by the images they are of.
    """
    files = sorted((root() / "results" / "official").glob("*.json"))
    command = "lightdet accuracy"
    return {path.stem: read_result(path, ("title", "caution", "sets"), command) for path in files}


def official_table(official: dict[str, dict]) -> pd.DataFrame:
    """AP in percent of official weights by our own evaluation; nothing printed in it.

    Args:
        official: of `accuracies`.

    Returns:
        One row per comparator, set of images and runtime.
    """
    rows = []
    for found in official.values():
        for images, one in found["sets"].items():
            for runtime, metrics in (("torch", one), ("ncnn", one.get("ncnn"))):
                if metrics:
                    row = {"model": found["title"], "images": images}
                    row |= {"runtime": runtime, "input size": one["input_size"]}
                    row |= {f"{key}, measured": _percent(metrics[key]) for key in METRICS}
                    rows.append(row | {"areas": one["areas"], "caution": found["caution"]})
    return pd.DataFrame(rows)


def _percent(value: float) -> float:
    return np.nan if value < 0 else 100 * value  # -1: the images have no such object


def plot_printed(paper: dict) -> Figure:
    """Fig. 1 from the numbers of Table 1: AP over FPS, both as printed."""
    figure, axis = plt.subplots(figsize=(8, 4.6))
    points = []
    for row in paper["table1"].values():
        x, y = row["printed"]["FPS"], row["printed"]["AP"]
        ours = row["model"] == "Proposed"
        axis.scatter(x, y, s=70, marker="s", color=COLORS[1] if ours else PRINTED_COLOR)
        hardware = "" if ours else f" ({row['speed']['hardware']})"
        points.append((x, y, row["model"] + hardware))
    _label(axis, points)
    axis.set(xlabel="FPS as printed, each on other hardware", ylabel="AP as printed, percent")
    axis.set_title("printed: nothing here was measured by us")
    return figure


def _label(axis: plt.Axes, points: Iterable[tuple[float, float, str]]) -> None:
    """Names of points (x, y, name) in a column right of the axes, with a thin line to each point.

    Placed in shares of the axes, so that it can be done before the figure is laid out.
    """
    axis.margins(0.1)
    axis.autoscale_view()
    points = sorted(points, key=lambda point: (point[1], -point[0]))
    heights, floor, ceiling = [], 0.0, 1.0
    for _, y, _ in points:
        heights.append(max(axis.transLimits.transform((0, y))[1], floor))
        floor = heights[-1] + LINE
    for row in reversed(range(len(points))):
        heights[row] = min(heights[row], ceiling)
        ceiling = heights[row] - LINE
    for (x, y, name), height in zip(points, heights, strict=True):
        axis.annotate(
            name, (x, y), (1.04, height), textcoords="axes fraction", va="center", fontsize=9,
            arrowprops={"arrowstyle": "-", "color": PRINTED_COLOR, "linewidth": 0.6},
        )  # fmt: skip


def plot_measured(found: dict) -> Figure:
    """All systems by their measured time, nothing printed in it."""
    speed = speed_table(found)
    speed = speed[(speed["part"] == "network") & (speed["runtime"] == speed["base"])]
    order = speed.groupby("title")["median_ms"].min().sort_values(ascending=False).index
    place = {title: row for row, title in enumerate(order)}
    figure, axis = plt.subplots(figsize=(9, 1.5 + 0.32 * len(order)))
    markers = zip(speed["runtime"].unique(), "os^Dv", COLORS, strict=False)
    for runtime, marker, color in markers:
        rows = speed[speed["runtime"] == runtime]
        y, x = rows["title"].map(place), rows["median_ms"]
        bars = [x - rows["p10_ms"], rows["p90_ms"] - x]
        axis.errorbar(x, y, xerr=bars, fmt="none", ecolor=color, capsize=2, linewidth=1)
        axis.scatter(x, y, marker=marker, color=color, s=36, label=runtime, zorder=3)
    axis.set_yticks(range(len(order)), order)
    axis.set(xscale="log", xlabel=f"ms of the network alone, batch 1, {found['threads']} threads")
    axis.set_title("measured in one run on one machine; bar: middle 80 %")
    axis.legend(loc="upper right")
    return figure


def variants_table(runs: pd.DataFrame, found: dict, int8: Mapping[str, float]) -> pd.DataFrame:
    """Our variants: accuracy on a profile, and time at the paper's size on this machine.

    Args:
        runs: of `report.run_table`.
        found: of `read_latency`.
        int8: AP in percent of quantized files, by experiment; of seed 0.
    """
    speed = speed_table(found)
    speed = speed[speed["part"] == "network"]
    table = runs[["experiment", "parameters", "seeds", "AP", "AP std"]].copy()
    for experiment, ap in int8.items():
        table.loc[len(table)] = {"experiment": f"{experiment} int8", "seeds": 1, "AP": ap}
    sizes = {system["key"]: system["size"] for system in found["systems"]}
    table["timed at"] = table["experiment"].str.removesuffix(" int8").map(sizes).astype("Int64")
    for runtime in (r for r in ("onnxruntime", "ncnn") if r in set(speed["runtime"])):
        times = speed[speed["runtime"] == runtime].set_index("system")
        small = speed[speed["runtime"] == f"{runtime} int8"].set_index("system")
        times = pd.concat([times, small.rename(index="{} int8".format)])
        table[f"{runtime}, ms"] = table["experiment"].map(times["median_ms"])
        table[f"{runtime} ratio"] = table["experiment"].map(times["ratio"])
    return table.astype({"parameters": "Int64"})


def plot_variants(table: pd.DataFrame, found: dict) -> Figure:
    """Accuracy against latency of our own variants, one panel per runtime.

    Args:
        table: of `variants_table`.
        found: latency at the paper's sizes, with 80 classes, on this machine.
    """
    speed = speed_table(found)
    speed = speed[(speed["part"] == "network") & (speed["system"] == found["reference"])]
    reference = speed.set_index("runtime")["median_ms"]
    names = {system["key"]: f"{system['title']}@{system['size']}" for system in found["systems"]}
    runtimes = [c.removesuffix(", ms") for c in table if c.endswith(", ms")]
    figure, axes = plt.subplots(
        1, max(len(runtimes), 1), figsize=(11, 4.6), sharey=True, squeeze=False
    )
    for axis, runtime in zip(axes[0], runtimes, strict=False):
        shown = table[table[f"{runtime}, ms"].notna()]
        times = shown[f"{runtime}, ms"]
        if runtime in reference.index:
            axis.axvline(reference[runtime], color=PRINTED_COLOR, linestyle=":")
            axis.annotate(
                f" {names[found['reference']]}", (reference[runtime], 0.98), fontsize=9, va="top",
                xycoords=("data", "axes fraction"), color=PRINTED_COLOR,
            )  # fmt: skip
        axis.errorbar(times, shown["AP"], yerr=shown["AP std"], fmt="o", capsize=3)
        parts = shown["experiment"], shown["timed at"], shown["seeds"]
        labels = [f"{name}@{size} ({seeds})" for name, size, seeds in zip(*parts, strict=True)]
        _label(axis, zip(times, shown["AP"], labels, strict=True))
        axis.set(title=runtime, xlabel=f"ms at the size after @, {found['threads']} threads")
    axes[0][0].set_ylabel("AP of this profile (seeds), bar = ± 1 std")
    return figure
