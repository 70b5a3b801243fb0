"""Tables -> figures. Measured and printed numbers never share an axis."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lightdet_core.config import read_params
from lightdet_core.machinery.files import replacing
from lightdet_tools.style import COLORS, PRINTED_COLOR

LOSSES = {
    "loss": "total",
    "loss_qfl": "quality focal (classes)",
    "loss_giou": "GIoU (boxes)",
    "loss_dfl": "distribution focal (sides)",
}
GROUPS = {  # what a group of Table 2 has that the one before has not
    "g1": "Lite0, ReLU6",
    "g2": "Lite1, Mish",
    "g3": "SiLU",
    "g4": "GFLv2, 2:4 pruned",
    "g5": "distilled",
}


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` as `path`.png and `path`.svg, the same bytes for the same figure."""
    for kind, metadata in {"png": {"Software": None}, "svg": {"Date": None}}.items():
        with replacing(path.with_suffix(f".{kind}")) as aside:
            figure.savefig(aside, format=kind, metadata=metadata)


def plot_losses(logs: Mapping[str, Path | pd.DataFrame]) -> Figure:
    """Training losses over steps, one panel per loss.

    Args:
        logs: run name -> its log.csv, as path or frame.
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 5.5), sharex=True)
    for number, (run, log) in enumerate(logs.items()):
        frame = log if isinstance(log, pd.DataFrame) else pd.read_csv(log)
        style = ("-", "--", ":", "-.")[number % 4]  # overlapping curves stay apart
        for axis, column in zip(axes.flat, LOSSES, strict=True):
            marker = "o" if len(frame) == 1 else None  # a single row makes no line
            axis.plot(frame["step"], frame[column], style, marker=marker, label=run)
    for axis, title in zip(axes.flat, LOSSES.values(), strict=True):
        axis.set(title=title, ylim=(0, None))
    for axis in axes[1]:
        axis.set_xlabel("step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=max(len(labels), 1))
    return figure


def plot_table2(frame: pd.DataFrame) -> Figure:
    """Measured AP with its spread over seeds, and apart from it what the paper prints.

    Args:
        frame: of `run_table`.
    """
    names = [
        f"{row['experiment']}: {row['activation']}, {row['head']}, {row['input size']} px"
        for _, row in frame.iterrows()
    ]
    figure, (measured, printed) = plt.subplots(
        1, 2, figsize=(9, 1.6 + 0.5 * len(frame)), sharey=True
    )
    rows = range(len(frame))
    # a single seed has no spread (NaN): its dot stands without a bar
    measured.errorbar(frame["AP"], rows, xerr=frame["AP std"], fmt="o", capsize=5, markersize=8)
    seeds = [f"{ap:.1f} ({n})" for ap, n in zip(frame["AP"], frame["seeds"], strict=True)]
    _label_points(measured, frame["AP"], seeds)
    measured.set(
        title=f"measured here: profile {frame['profile'].iloc[0]}\n(seeds), bar = ± 1 std",
        xlabel="AP, percent",
    )
    printed.plot(frame["printed AP"], rows, "s", color=PRINTED_COLOR, markersize=8)
    _label_points(printed, frame["printed AP"], [f"{ap:g}" for ap in frame["printed AP"]])
    printed.set(
        title="printed in the paper: COCO val2017\nnot comparable with the left",
        xlabel="AP, percent",
    )
    measured.set_yticks(rows, names)
    measured.set_ylim(len(frame) - 0.4, -0.7)
    for axis in (measured, printed):
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.2)
    return figure


def plot_contrasts(table: pd.DataFrame, metric: str = "AP") -> Figure:
    """Differences with their intervals, one row each; filled where there is a difference.

    Args:
        table: of `contrasts`.
        metric: its name, for the axis.
    """
    figure, axis = plt.subplots(figsize=(9, 1.2 + 0.36 * max(len(table), 1)))
    _intervals(axis, table, metric)
    names = [f"{c} ({n})" for c, n in zip(table["contrast"], table["seeds"], strict=True)]
    axis.set_yticks(range(len(table)), names)
    known = table["within"].notna().any()
    title = "bar: interval, 95 % for all together; filled: a difference, hollow: none shown"
    axis.set_title(title if known else "one seed each: no interval, nothing shown")
    return figure


def _intervals(axis: plt.Axes, table: pd.DataFrame, metric: str) -> None:
    """The rows of `contrasts` from the top, without their names."""
    rows = np.arange(len(table))
    clear = table["verdict"].isin(["up", "down"]).to_numpy()
    bars = {"ecolor": "#8a8a8a", "capsize": 4, "fmt": "none", "zorder": 1}
    axis.errorbar(table["difference"], rows, xerr=table["within"], **bars)
    for chosen, face in ((clear, COLORS[0]), (~clear, "white")):
        look = {"color": face, "edgecolors": COLORS[0], "s": 60, "zorder": 2}
        axis.scatter(table["difference"][chosen], rows[chosen], **look)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_ylim(len(table) - 0.4, -0.6)
    axis.set(xlabel=f"difference in {metric}, percentage points (seeds in brackets)")
    axis.grid(axis="y", visible=False)


def plot_overview(groups: pd.DataFrame, differences: pd.DataFrame) -> Figure:
    """All in one: the groups as printed and, apart, as measured; the ladder in words.

    Args:
        groups: of `run_table`; runs for which the paper prints nothing are left out.
        differences: of `contrasts`; those that have an `about` in params.yaml, in its order.
            Without any the panel stays away.
    """
    profile = groups["profile"].iloc[0]
    groups = groups[groups["printed AP"].notna()]
    about = {
        f"{run} - {changes.get('against', 'c0')}": changes["about"]
        for run, changes in read_params()["experiments"].items()
        if changes and "about" in changes
    }
    changes = differences[differences["contrast"].isin(about)]
    changes = changes.sort_values("contrast", key=lambda names: names.map(list(about).index))
    rows = range(len(groups))
    names = [f"{group}  {GROUPS.get(group, '')}" for group in groups["experiment"]]
    if len(changes):
        figure = plt.figure(figsize=(12, max(5, 0.9 + 0.36 * len(changes))))
        panels = [["printed", "ladder"], ["measured", "ladder"]]
        axes = figure.subplot_mosaic(panels, width_ratios=(2, 3))
    else:
        figure = plt.figure(figsize=(7, 5))
        axes = figure.subplot_mosaic([["printed"], ["measured"]])
    for key, title, look in (
        ("printed", "Table 2 as printed: COCO, one run each", {"color": PRINTED_COLOR, "fmt": "s"}),
        ("measured", "measured here: profile {}, ± std", {"color": COLORS[0], "fmt": "o"}),
    ):
        axis, here = axes[key], key == "measured"
        values = groups["AP" if here else "printed AP"]
        spread = groups["AP std"] if here else None
        axis.errorbar(values, rows, xerr=spread, capsize=4, markersize=7, **look)
        _label_points(axis, values, [f"{ap:.1f}" for ap in values])
        axis.set(title=title.format(profile), xlabel="AP, percent")
        axis.set_yticks(rows, names)
        axis.set_ylim(len(groups) - 0.5, -0.8)
        axis.margins(x=0.15)
        axis.grid(axis="y", visible=False)
    if len(changes):
        _intervals(axes["ladder"], changes, "AP")
        words = changes["contrast"].map(about)
        words = [f"{text} ({n})" for text, n in zip(words, changes["seeds"], strict=True)]
        axes["ladder"].set_yticks(range(len(changes)), words)
        axes["ladder"].set_title(
            "one change at a time, measured here\nbar: 95 % for all together; hollow: none shown"
        )
    return figure


def _label_points(axis: plt.Axes, values: pd.Series, labels: list[str]) -> None:
    for row, (value, label) in enumerate(zip(values, labels, strict=True)):
        if pd.notna(value):
            place = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
            axis.annotate(label, (value, row), **place)
