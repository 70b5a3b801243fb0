"""Table 1 and the figures about speed: what is printed and what was measured, each by itself.

Input is the `table1` of paper.yaml, results/speed/latency.json of `latency` and
results/official/*.json of `official`.
"""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightdet_core.config import UserError, load_config, root
from lightdet_tools.report.figures import ACTIVATIONS
from lightdet_tools.report.results import read_result
from lightdet_tools.report.words import words_of_run
from lightdet_tools.style import (
    COLORS,
    PRINTED_COLOR,
    WIDTH,
    label_points,
    side_by_side,
    use_style,
)
from lightdet_tools.table1.comparators import count
from lightdet_tools.table1.rivals import NETWORKS
from lightdet_tools.table1.systems import timed_as

WIDE_GAP = 15.0  # AP, percent
EXPORTED = ("onnxruntime", "ncnn", "openvino")  # in tables and figures, where they were timed
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
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

    `ratio` is a network's time divided by that of YOLOv4-tiny in the same runtime (int8 and bf16:
    in its plain fp32), so below 1 is faster; NaN where YOLOv4-tiny could not be run, and for
    `boxes`, since decoders differ in how well they are written. `spread` is the middle 80 % in
    percent of the median.
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
    exported = [r for r in EXPORTED if r in speed.index.unique("runtime")]
    rows = []
    for system in found["systems"]:
        row = {
            "model": system["title"],
            "input size": system["size"],
            "parameters": int(system["parameters"]),
            "GMAC": float(system["gmac"]),
        }
        for runtime in exported:
            size = system["bytes"].get(runtime, float("nan"))
            row[f"{runtime} file, MiB"] = size / 2**20
        for runtime in ("torch", *exported):
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
    figure, axis = plt.subplots(figsize=(WIDTH, 4.4))
    rows = pd.DataFrame(
        [
            {**row["printed"], "model": row["model"], "on": row["speed"]["hardware"]}
            for row in paper["table1"].values()
        ]
    )
    ours = rows["model"] == "Proposed"
    for chosen, color, label in (
        (ours, COLORS[1], "the paper's network"),
        (~ours, PRINTED_COLOR, "others (hardware)"),
    ):
        look = {"s": 60, "marker": "s", "color": color, "label": label}
        axis.scatter(rows["FPS"][chosen], rows["AP"][chosen], **look)
    axis.margins(0.2)
    axis.set_xlim(left=0)
    axis.set(xlabel="FPS as printed, each on other hardware", ylabel="AP as printed, percent")
    axis.set_title("printed: nothing here was measured by us")
    axis.legend(loc="lower left")
    on = rows["on"].replace({name: f"hardware {name}" for name in ("unknown", "not given here")})
    names = rows["model"].where(ours, rows["model"] + " (" + on + ")")
    label_points(axis, rows["FPS"], rows["AP"], names)
    return figure


def opening() -> Figure:
    """The style, and `plot_measured` of results/speed/latency.json."""
    use_style()
    return plot_measured(read_latency(root() / "results" / "speed" / "latency.json"))


def plot_measured(found: dict) -> Figure:
    """All systems by their measured time, nothing printed in it."""
    speed = speed_table(found)
    speed = speed[(speed["part"] == "network") & (speed["runtime"] == speed["base"])]
    order = speed.groupby("system")["median_ms"].min().sort_values(ascending=False).index
    place = {key: row for row, key in enumerate(order)}
    figure, axis = plt.subplots(figsize=(WIDTH, 1.4 + 0.36 * len(order)))  # two lines each
    markers = zip(speed["runtime"].unique(), "os^Dv", COLORS, strict=False)
    for runtime, marker, color in markers:
        rows = speed[speed["runtime"] == runtime]
        y, x = rows["system"].map(place), rows["median_ms"]
        bars = [x - rows["p10_ms"], rows["p90_ms"] - x]
        axis.errorbar(x, y, xerr=bars, fmt="none", ecolor=color, capsize=2, linewidth=1)
        axis.scatter(x, y, marker=marker, color=color, s=30, label=runtime, zorder=3)
    titles = ["\n".join(textwrap.wrap(title_of(found, key), 40)) for key in order]
    axis.set_yticks(range(len(order)), titles, fontsize=9)
    for key, label in zip(order, axis.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if is_ours(found, key) else "normal")
    threads = f"{found['threads']} threads"
    axis.set(xscale="log")
    look = {"fontsize": axis.title.get_fontsize()}  # of the figure: wider than the axis
    figure.supxlabel(f"ms of the network alone at its size, batch 1, {threads}", **look)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
             if speed["p10_ms"].min() / 1.5 < t < speed["p90_ms"].max() * 1.5]  # fmt: skip
    axis.set_xticks(ticks, ticks)
    axis.minorticks_off()
    figure.suptitle("measured in one run; bar: middle 80 %; bold: ours", **look)
    axis.legend(loc="upper right", frameon=True, edgecolor="none")
    return figure


def is_ours(found: dict, key: str) -> bool:
    """Whether a system of `read_latency` is one of our experiments."""
    return any(s["key"] == key and s["title"].startswith("LightDet") for s in found["systems"])


def title_of(found: dict, key: str) -> str:
    """A system of `read_latency` in words, with its input size."""
    (system,) = (system for system in found["systems"] if system["key"] == key)
    words = f"LightDet, {words_of_run(key)}" if is_ours(found, key) else system["title"]
    return f"{words}, {system['size']} px"


def cost(run: str, profile: str) -> dict[str, float]:
    """Input size of a run in pixels, and GMAC of an image in it; of 80 classes, as it is timed."""
    config = load_config(run, profile).with_model(pretrained=False, num_classes=80)
    size, network = config.model.input_size, NETWORKS[config.model.network].build(config)
    return {"input, px": size, "GMAC": count(network.eval(), size)["gmac"]}


def variants_table(
    runs: pd.DataFrame, found: dict, int8: pd.DataFrame, own: dict | None
) -> pd.DataFrame:
    """Our variants: AP of a profile, and arithmetic and time at the input size that it has there.

    Args:
        runs: of `report.run_table`, of one profile.
        found: of `read_latency`: the ratios at the paper's size.
        int8: of `int8.costs_table`: quantized files, each runtime's a network of its own.
        own: of `read_latency`: times at the profile's sizes; None where nobody measured any.
    """
    profile = runs["profile"].iloc[0]
    table = runs[["experiment", "parameters", "seeds", "AP", "AP std"]].copy()
    table.insert(1, "int8 in", "")
    small = int8[int8["experiment"].isin(table["experiment"])]
    small = small.rename(columns={"runtime": "int8 in"})
    kept = [name for name in table if name in small]
    table = pd.concat([table, small[kept]], ignore_index=True)
    names = table["experiment"]
    table.insert(1, "in words", names.map(words_of_run))
    keys = names.map(timed_as) + table["int8 in"].map(lambda name: name and f" int8 {name}")
    costs = pd.DataFrame([cost(run, profile) for run in names], index=table.index)
    table = table.join(costs)
    for where, columns in ((own, {"median_ms": "ms"}), (found, {"ratio": "ratio at the paper's"})):
        speed = speed_table(where) if where else pd.DataFrame(columns=["part", "runtime"])
        speed = speed[speed["part"] == "network"]
        for runtime in (r for r in EXPORTED if r in set(speed["runtime"])):
            times = speed[speed["runtime"] == runtime].set_index("system")
            small = speed[speed["runtime"] == f"{runtime} int8"].set_index("system")
            times = pd.concat([times, small.rename(index=f"{{}} int8 {runtime}".format)])
            for column, name in columns.items():
                title = f"{runtime}, ms" if name == "ms" else f"{runtime} {name} size"
                table[title] = keys.map(times[column])
    return table.astype({"parameters": "Int64", "seeds": int, "AP": float, "AP std": float})


def plot_variants(table: pd.DataFrame, profile: str) -> Figure:
    """AP against arithmetic, and against time where it was measured, all at one input size.

    Points have numbers, by falling AP, that the list below explains. Where a wide gap parts those
    above from those below, each side has an axis of its own.

    Args:
        table: of `variants_table`, of `profile`.
    """
    times = [name for name in table if name.endswith(", ms")]
    pointed = (table["int8 in"] == "") | table[times].notna().any(axis=1)  # what was timed
    table = table[pointed].sort_values("AP", ascending=False, kind="stable", ignore_index=True)
    usual = table["input, px"].mode()[0]
    costs = {"GMAC": f"arithmetic of an image of {usual} px, GMAC"}
    costs |= {name: f"time in {name.removesuffix(', ms')} at {usual} px, ms" for name in times}
    looks, marks = _looks(table, profile)
    sides = _parted(table["AP"])
    height = 0.8 + 2.9 * len(costs) + 0.13 * len(table)
    shape = {"height_ratios": [3, 1][: len(sides)] * len(costs)}
    figure, axes = plt.subplots(len(costs) * len(sides), 1, figsize=(WIDTH, height), squeeze=False,
                                gridspec_kw=shape)  # fmt: skip
    for row, (column, title) in enumerate(costs.items()):
        pair = axes[row * len(sides) : (row + 1) * len(sides), 0]
        shown = table[column].notna()
        if column == "GMAC":  # 8 bits are as many
            shown &= table["int8 in"] == ""
        low, high = table[column][shown].min(), table[column][shown].max()
        wide = 0.08 * (high - low or high)
        for axis, side in zip(pair, sides, strict=True):
            axis.set_xlim(low - wide, high + wide)
            half = table["AP std"][side].fillna(0)
            ends = (table["AP"][side] - half).min(), (table["AP"][side] + half).max()
            axis.set_ylim(ends[0] - 0.1 * np.ptp(ends) - 1, ends[1] + 0.1 * np.ptp(ends) + 1)
            _points(axis, table[shown & side], column, looks)
        for axis in pair[:-1]:  # its x axis is that of the one below
            axis.spines["bottom"].set_visible(False)
            axis.tick_params(bottom=False, labelbottom=False)
        pair[-1].set_xlabel(title)
    figure.supylabel("AP, percent", fontsize=axes[0, 0].title.get_fontsize())
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks))
    names = [f"{row + 1}  {name}" for row, name in enumerate(_listed(table, usual))]
    names = [textwrap.fill(name, 48, subsequent_indent="     ") for name in names]
    points = [Line2D([], [], linestyle="", label=name, **look)
              for name, look in zip(names, looks, strict=True)]  # fmt: skip
    figure.legend(handles=points, loc="outside lower left", ncols=2, columnspacing=1.0)
    title = f"profile {profile}, {usual} px but where named (seeds); bar: ± 1 std"
    axes[0, 0].set_title(f"{title}; equal costs side by side")
    return figure


def _looks(table: pd.DataFrame, profile: str) -> tuple[list[dict], list[Line2D]]:
    """Colour (activation) and marker of each point, and what a legend says of them."""
    models = [load_config(run, profile).model for run in table["experiment"]]
    small, other = table["int8 in"] != "", [model.network != "lightdet" for model in models]
    order = (COLORS[0], COLORS[3], COLORS[1], COLORS[2], COLORS[4])
    colors = dict(zip(ACTIVATIONS, order, strict=True))
    looks = [
        {"color": colors[model.activation], "marker": "D" if bits else "s" if theirs else "o"}
        for model, bits, theirs in zip(models, small, other, strict=True)
    ]
    kinds = {model.activation for model in models}
    meant = [(colors[k], "o", ACTIVATIONS[k]) for k in colors if k in kinds]
    meant += [("black", "D", "in 8 bits")] if any(small) else []
    meant += [("black", "s", "not ours")] if any(other) else []
    marks = [Line2D([], [], color=color, marker=marker, linestyle="", label=label)
             for color, marker, label in meant]  # fmt: skip
    return looks, marks


def _parted(values: pd.Series) -> list[pd.Series]:
    """Which are above the widest gap and which below it; all of them where none is wide."""
    ordered = np.sort(values)
    gaps = np.diff(ordered)
    if gaps.max(initial=0) < WIDE_GAP:
        return [values == values]
    above = values > ordered[gaps.argmax()]
    return [above, ~above]


def _points(axis: Axes, table: pd.DataFrame, column: str, looks: list[dict]) -> None:
    """Points of these rows, numbered from 1."""
    places = side_by_side(axis, table[column], table["AP"])
    for row, place in zip(table.index, places, strict=True):
        axis.errorbar(place, table["AP"][row], yerr=table["AP std"][row], capsize=3, **looks[row])
    numbers = [str(row + 1) for row in table.index]
    label_points(axis, places, table["AP"], numbers, table["AP std"])


def _listed(table: pd.DataFrame, usual: int) -> Iterator[str]:
    """Each row in words: name, and what it is or in which runtime it has 8 bits; size, seeds."""
    for _, row in table.iterrows():
        runtime, size = row["int8 in"], row["input, px"]
        what = f"{row['experiment']} in 8 bits, {runtime}" if runtime else row["in words"]
        if not runtime and row["experiment"] != what:
            what = f"{row['experiment']}: {what}"
        yield f"{what}{'' if size == usual else f', {size} px'} ({row['seeds']})"
