"""Tables -> figures. Measured and printed numbers never share an axis."""

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from lightdet_core.config import all_runs, read_params, root
from lightdet_core.machinery.files import replacing
from lightdet_tools.report import claims, tables
from lightdet_tools.report.contrasts import contrasts
from lightdet_tools.report.words import GROUPS, words_of_contrast, words_of_run
from lightdet_tools.style import COLORS, PRINTED_COLOR, WIDTH, use_style

LOSSES = {
    "loss": "total",
    "loss_qfl": "quality focal (classes)",
    "loss_giou": "GIoU (boxes)",
    "loss_dfl": "distribution focal (sides)",
}
FEW = 1024  # colours; of lines and letters with soft edges there are 300 to 600
ACTIVATIONS = {
    "relu6": "ReLU6",
    "leakyrelu": "LeakyReLU",
    "mish": "Mish",
    "silu": "SiLU",
    "hswish": "h-swish",
}


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write `figure` as `path`.png and `path`.svg, the same bytes for the same figure.

    One that shows a scene or photograph as the former only: as the latter it is larger, not finer.

    Args:
        path: below the root of the repository, or absolute.
    """
    path = root() / path
    kinds = {"png": {"Software": None}, "svg": {"Date": None}}
    if any(axis.images for axis in figure.axes):
        del kinds["svg"]
    for kind, metadata in kinds.items():
        with replacing(path.with_suffix(f".{kind}")) as aside:
            figure.savefig(aside, format=kind, metadata=metadata)
            if kind == "png":
                _in_few_colours(aside)


def _in_few_colours(path: Path) -> None:
    """A PNG with a palette, a third of its bytes, unless it shows a picture or many shades."""
    with Image.open(path) as image:
        pixels, dpi = image.convert("RGB"), image.info["dpi"]
    if pixels.getcolors(FEW):
        few = pixels.quantize(256, dither=Image.Dither.NONE)
        few.save(path, "PNG", optimize=True, dpi=dpi)


def plot_losses(logs: Mapping[str, Path | pd.DataFrame]) -> Figure:
    """Training losses over steps, one panel per loss.

    Args:
        logs: run name -> its log.csv, as path or frame.
    """
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 5), sharex=True)
    for number, (run, log) in enumerate(logs.items()):
        frame = log if isinstance(log, pd.DataFrame) else pd.read_csv(log)
        style = ("-", "--", ":", "-.")[number % 4]  # overlapping curves stay apart
        for axis, column in zip(axes.flat, LOSSES, strict=True):
            marker = "o" if len(frame) == 1 else None  # a single row makes no line
            axis.plot(
                frame["step"], frame[column], style, marker=marker, label=words_of_run(run),
                linewidth=1.2,
            )  # fmt: skip
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
    metric = frame.attrs.get("metric", "AP")
    aps, spread = frame[metric], frame[f"{metric} std"]
    names = [
        f"{words_of_run(row['experiment'])}: {ACTIVATIONS[row['activation']]},\n"
        f"{row['head'].replace('gfl', 'GFL')}, {row['input size']} px"
        for _, row in frame.iterrows()
    ]
    figure, (measured, printed) = plt.subplots(
        1, 2, figsize=(WIDTH, 1.3 + 0.5 * len(frame)), sharey=True
    )
    rows = range(len(frame))
    # a single seed has no spread (NaN): its dot stands without a bar
    measured.errorbar(aps, rows, xerr=spread, fmt="o", capsize=4, markersize=7)
    seeds = [f"{ap:.1f} ({n})" for ap, n in zip(aps, frame["seeds"], strict=True)]
    _label_points(measured, aps, seeds, spread)
    measured.set(
        title=f"measured here: profile {frame['profile'].iloc[0]}\n(seeds), bar: ± 1 std",
        xlabel=f"{metric}, percent",
    )
    printed.plot(frame["printed AP"], rows, "s", color=PRINTED_COLOR, markersize=7)
    _label_points(printed, frame["printed AP"], [f"{ap:g}" for ap in frame["printed AP"]])
    printed.set(
        title="printed in the paper: COCO val2017\nnot comparable with the left",
        xlabel="AP, percent",
    )
    measured.set_yticks(rows, names)
    measured.set_ylim(len(frame) - 0.5, -0.5)
    for axis in (measured, printed):
        axis.grid(axis="y", visible=False)
    return figure


def plot_contrasts(table: pd.DataFrame) -> Figure:
    """Differences with their intervals, one row each; filled where there is a difference.

    Args:
        table: of `contrasts`.
    """
    names = [_name(words_of_contrast(c), n) for c, n in table[["contrast", "seeds"]].to_numpy()]
    figure, axis = plt.subplots(figsize=(WIDTH, 1.1 + _row_height(names) * max(len(table), 1)))
    _intervals(axis, table)
    axis.set_yticks(range(len(table)), names, fontsize=9)
    if table["within"].notna().any():
        figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    else:
        axis.set_title("one seed each: no interval, nothing shown")
    return figure


def _name(words: str, seeds: int) -> str:
    """A row's name in lines, with its seeds, which stay beside the last word."""
    return "\n".join(textwrap.wrap(f"{words}\N{NO-BREAK SPACE}({seeds})", 40))


def _row_height(names: Iterable[str]) -> float:
    """Inches for a row, so that names of several lines do not touch."""
    return 0.06 + 0.155 * max((name.count("\n") + 1 for name in names), default=1)


def _intervals(axis: plt.Axes, table: pd.DataFrame) -> None:
    """The rows of `contrasts` from the top, without their names."""
    rows = np.arange(len(table))
    clear = table["verdict"].isin(["up", "down"]).to_numpy()
    bars = {"ecolor": "#8a8a8a", "capsize": 3, "fmt": "none", "zorder": 1}
    bars["label"] = "interval, 95 % for all together"
    axis.errorbar(table["difference"], rows, xerr=table["within"], **bars)
    looks = ((clear, COLORS[0], "a difference"), (~clear, "white", "none shown"))
    for chosen, face, label in (look for look in looks if look[0].any()):
        look = {"color": face, "edgecolors": COLORS[0], "s": 45, "zorder": 2, "label": label}
        axis.scatter(table["difference"][chosen], rows[chosen], **look)
    # what few runs leave very wide goes out of the frame, or no other could be read, and so does
    # what is very far off: a number stands at the border for it
    shown = table["within"].clip(upper=3 * table["within"].median()).fillna(0)
    reach = table["difference"].abs() + shown
    edge = 1.05 * max([1.0, *reach[reach <= 4 * reach.median()]])
    axis.set_xlim(-edge, edge)
    for row, far in zip(rows, table["difference"], strict=True):
        if abs(far) > edge:
            text, side = (f"{far:+.1f} →", "right") if far > 0 else (f"← {far:+.1f}", "left")
            axis.text(np.sign(far) * edge, row, text, ha=side, va="center", fontsize=9)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_ylim(len(table) - 0.4, -0.6)
    metric = table.attrs.get("metric", "AP")
    axis.set(xlabel=f"difference in {metric}, percentage points (seeds)")
    axis.grid(axis="y", visible=False)


def overview(profile: str) -> Figure:
    """The style, and `plot_overview` of what a profile's results hold."""
    use_style()
    groups = tables.run_table(profile, all_runs(read_params()))
    design = claims.load_design()
    wanted = claims.comparisons(design, profile)
    seeds = tables.seed_table(profile)
    return plot_overview(groups, contrasts(seeds, wanted, claims.family(design)))


def plot_overview(groups: pd.DataFrame, differences: pd.DataFrame) -> Figure:
    """All in one: the groups as printed and, apart, as measured; the ladder in words.

    Args:
        groups: of `run_table`; runs for which the paper prints nothing are left out.
        differences: of `contrasts`; those that have an `about` in params.yaml, in its order, but
            for what chapter 06 slims.
            Without any the panel stays away.
    """
    profile, metric = groups["profile"].iloc[0], groups.attrs.get("metric", "AP")
    groups = groups[groups["printed AP"].notna()]
    about = [
        f"{run} - {changes.get('against', 'c0')}"
        for run, changes in read_params()["experiments"].items()
        if changes and "about" in changes and run not in read_params()["slim"]  # not the paper's
    ]
    changes = differences[differences["contrast"].isin(about)]
    changes = changes.sort_values("contrast", key=lambda names: names.map(about.index))
    words = [_name(words_of_contrast(c), n) for c, n in changes[["contrast", "seeds"]].to_numpy()]
    rows = range(len(groups))
    names = [f"{group}  {GROUPS.get(group, '')}" for group in groups["experiment"]]
    above = [["printed", "measured"]]
    if len(changes):
        heights = (2.2, 0.8 + _row_height(words) * len(words))
        figure = plt.figure(figsize=(WIDTH, sum(heights) + 0.5))
        panels = [*above, ["ladder", "ladder"]]
        axes = figure.subplot_mosaic(panels, height_ratios=heights)
    else:
        figure = plt.figure(figsize=(WIDTH, 3))
        axes = figure.subplot_mosaic(above)
    for key, title, look in (
        ("printed", "Table 2 as printed: COCO, one run", {"color": PRINTED_COLOR, "fmt": "s"}),
        ("measured", "measured: {}, ± std", {"color": COLORS[0], "fmt": "o"}),
    ):
        axis, here = axes[key], key == "measured"
        values = groups[metric if here else "printed AP"]
        spread = groups[f"{metric} std"] if here else None
        axis.errorbar(values, rows, xerr=spread, capsize=3, markersize=6, **look)
        _label_points(axis, values, [f"{ap:.1f}" if here else f"{ap:g}" for ap in values], spread)
        axis.set(title=title.format(profile), xlabel=f"{metric if here else 'AP'}, percent")
        axis.set_yticks(rows, [""] * len(names) if here else names)
        axis.set_ylim(len(groups) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
    if len(changes):
        axis = axes["ladder"]
        _intervals(axis, changes)
        axis.set_yticks(range(len(changes)), words, fontsize=9)
        axis.set_title("one change at a time, measured here")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _label_points(
    axis: plt.Axes, values: pd.Series, labels: list[str], spread: pd.Series | None = None
) -> None:
    """Numbers right of the points, behind their bars; row i has value i."""
    ends = values if spread is None else values + spread.fillna(0)
    for row, (end, label) in enumerate(zip(ends, labels, strict=True)):
        if pd.notna(end):
            place = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
            axis.annotate(label, (end, row), fontsize=9, **place)
    low, high = axis.get_xlim()
    axis.set_xlim(low, high + 0.28 * (high - low))  # room for them
