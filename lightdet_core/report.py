"""Results and the paper's numbers -> tables and figures.

What was measured here and what others print never share a column or an axis: they come from
other data, other hardware and other protocols. All AP values in tables are percent.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from lightdet_core.config import UserError, all_runs, load_config, read_params, root, train_command
from lightdet_core.files import replacing, write_text

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
LOSSES = {
    "loss": "total",
    "loss_qfl": "quality focal (classes)",
    "loss_giou": "GIoU (boxes)",
    "loss_dfl": "distribution focal (sides)",
}
# Okabe and Ito: told apart with any colour vision, and by brightness in print
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PRINTED_COLOR = "#767676"
GROUPS = {  # what a group of Table 2 has that the one before has not
    "g1": "Lite0, ReLU6",
    "g2": "Lite1, Mish",
    "g3": "SiLU",
    "g4": "GFLv2, 2:4 pruned",
    "g5": "distilled",
}
CHANGES = {  # the ladder in words, by contrast
    "+silu - c0": "SiLU instead of ReLU6",
    "+mish - c0": "Mish instead of ReLU6",
    "+leakyrelu - c0": "LeakyReLU instead of ReLU6",
    "+gflv2 - c0": "GFLv2",
    "+amp - c0": "mixed precision (bf16 on a CPU)",
    "+prune - c0": "2:4 pruning half-way, with ReLU6",
    "silu-prune - +silu": "the same with SiLU",
    "mish-prune - +mish": "the same with Mish",
    "dense-retrain - c0": "a second training alone",
    "prune-retrain - dense-retrain": "pruning before a second training,\nagainst that alone",
    "+ld - c0": "localization distillation (LD)",
    "+ld+vlr+kd - c0": "LD, also around the objects,\nand of the classes",
    "self-ld - c0": "LD from a teacher of its own kind",
    "+mosaic - c0": "Mosaic",
    "+mixup - c0": "MixUp",
    "+cutmix - c0": "CutMix",
    "+smoothing - c0": "label smoothing",
    "g3-lite0 - g3": "group 3 with Lite0 instead of Lite1",
}


# --- tables ----------------------------------------------------------------------------------


def load_paper(path: Path | None = None) -> dict:
    """paper.yaml: `table1`, `table2` and `nanodet` with source and certainty per row."""
    return yaml.safe_load((path or root() / "paper.yaml").read_text(encoding="utf-8"))


def run_table(profile: str, runs: list[str] | None = None) -> pd.DataFrame:
    """One row per experiment: settings, measured AP over seeds, the paper's printed numbers.

    Only seeds with the settings, data and teacher of the lowest seed are pooled; the column
    `left out` names the others.

    Args:
        profile: whose results to read, below `results`.
        runs: experiments in the order of the rows; None takes `runs` of params.yaml.

    Returns:
        `<metric>` is the mean in percent, `<metric> std` the sample standard deviation (NaN for
        one seed); NaN where the images have no such objects.

    Raises:
        UserError: a run has no results, or unreadable ones.
    """
    printed = load_paper()["table2"]
    runs = all_runs(read_params()) if runs is None else runs
    rows = []
    for run in runs:
        pooled, provenance, others = _pooled(root() / "results" / profile, run, profile)
        model = provenance["config"]["model"]
        row = {
            "experiment": run,
            "profile": profile,
            "backbone": model["backbone"],
            "input size": provenance["input_size"],
            "activation": model["activation"],
            "head": model["head"],
            "parameters": provenance["num_params"],
            "seeds": len(pooled),
        }
        for metric in METRICS:
            values = pd.Series([100 * m[metric] for m in pooled.values() if m[metric] >= 0])
            row |= {metric: values.mean(), f"{metric} std": values.std(ddof=1)}
        paper = printed.get(run, {}).get("printed", {})
        row |= {f"printed {key}": float(paper.get(key, "nan")) for key in ("AP", "FPS")}
        row |= {
            "config": provenance["config_hash"],
            "left out": ", ".join(f"s{seed} ({key})" for seed, key in others.items()),
        }
        rows.append(row)
    return pd.DataFrame(rows).astype({"printed FPS": "Int64"})


def seed_table(profile: str, runs: list[str] | None = None, metric: str = "AP") -> pd.DataFrame:
    """One row per experiment, one column per seed: a metric in percent, NaN where it is missing.

    Only what may be compared: seeds that `run_table` pools, of runs whose settings are those of
    params.yaml and that saw the same training images as the first one. `attrs["left out"]` says
    which were left out and why; runs without results just have no row.

    Args:
        profile: whose results to read, below `results`.
        runs: None takes `runs`, `taught` and `ladder` of params.yaml.

    Raises:
        UserError: unreadable results.
    """
    params = read_params()
    if runs is None:
        runs = list(dict.fromkeys([*all_runs(params), *params["ladder"]]))
    rows, left_out, images = {}, {}, None
    for run in runs:
        if not _files(root() / "results" / profile, run):
            continue
        pooled, provenance, _ = _pooled(root() / "results" / profile, run, profile)
        images = images or provenance["pack_hash"]
        if provenance["config_hash"] != _hash_now(run, profile, provenance):
            left_out[run] = "trained with other settings than params.yaml has now"
        elif provenance["pack_hash"] != images:
            left_out[run] = "trained on other images"
        else:
            values = {seed: 100 * metrics[metric] for seed, metrics in pooled.items()}
            rows[run] = {seed: value for seed, value in values.items() if value >= 0}
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=float).sort_index(axis=1)
    table.attrs["left out"] = left_out
    return table


def _hash_now(run: str, profile: str, provenance: dict) -> str:
    """The hash of a run's settings as params.yaml has them, with the classes that it found."""
    classes = provenance["config"]["model"].get("num_classes")
    return load_config(run, profile).with_classes(classes).hash


def contrasts(seeds: pd.DataFrame, wanted: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    """Differences between runs, seed by seed, and whether the spread allows to call them so.

    Runs of one seed share the order of the images and, where the network is the same, their first
    weights. The spread s is that of all runs together, after a mean per run and a shift per seed:
    a few seeds of one run say little. The interval is mean +- t s sqrt(sum of w^2 / seeds), 95 %.

    Args:
        seeds: of `seed_table`, with every run that there is, not only the wanted ones.
        wanted: name of a row -> weight w of each run, such as {"+silu": 1, "c0": -1}.

    Returns:
        One row per contrast whose runs are all there: difference, its own std (NaN for one seed),
        seeds, `within` (half of the interval, NaN where no run has two seeds) and verdict: up,
        down, none shown (the interval holds 0) or unknown (no interval).
    """
    spread, freedom = _spread(seeds)
    found = []
    for name, weights in wanted.items():
        if not set(weights) <= set(seeds.index):
            continue
        each = sum(weight * seeds.loc[run] for run, weight in weights.items()).dropna()
        if each.empty:
            continue
        noise = (sum(weight**2 for weight in weights.values()) / len(each)) ** 0.5
        within = spread * noise * _t_quantile(freedom) if freedom else float("nan")
        mean = each.mean()
        verdict = "up" if mean > 0 else "down"
        if not freedom:
            verdict = "unknown"
        elif abs(mean) <= within:
            verdict = "none shown"
        found.append((name, mean, each.std(ddof=1), len(each), within, verdict))
    columns = ["contrast", "difference", "difference std", "seeds", "within", "verdict"]
    return pd.DataFrame(found, columns=columns)


def _spread(seeds: pd.DataFrame) -> tuple[float, int]:
    """Standard deviation of what a mean per run and a shift per seed leave, and its freedom."""
    rows, columns = np.nonzero(seeds.notna().to_numpy())
    design = np.zeros((len(rows), sum(seeds.shape)))
    design[np.arange(len(rows)), rows] = 1
    design[np.arange(len(rows)), seeds.shape[0] + columns] = 1
    values = seeds.to_numpy()[rows, columns]
    freedom = len(rows) - int(np.linalg.matrix_rank(design)) if len(rows) else 0
    if not freedom:
        return float("nan"), 0
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float((rest @ rest / freedom) ** 0.5), freedom


def _t_quantile(freedom: int) -> float:
    """97.5 percent quantile of Student's t, by bisection on its density's integral."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    scale /= math.sqrt(freedom * math.pi)
    low, high = 0.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        x = np.linspace(0, middle, 2001)
        inside = np.trapezoid(scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2), x)
        low, high = (middle, high) if inside < 0.475 else (low, middle)
    return low


def _pooled(results: Path, run: str, profile: str) -> tuple[dict[int, dict], dict, dict[int, str]]:
    """Metrics by seed of what belongs together, the lowest seed's provenance, keys of the rest."""
    seeds = _seeds(results, run, profile)
    about = {s: _provenance(results, run, s, profile, m["config"]) for s, m in seeds.items()}
    first = about[min(seeds)]
    pooled = {s: m for s, m in seeds.items() if _common_key(about[s]) == _common_key(first)}
    return pooled, first, {s: about[s]["key"] for s in seeds if s not in pooled}


def _seeds(results: Path, run: str, profile: str) -> dict[int, dict]:
    """Seed -> metrics of every result of `run`, by rising seed."""
    found = {
        seed: read_result(path, ("config", *METRICS), train_command(run, profile, seed))
        for seed, path in _files(results, run).items()
    }
    if not found:
        raise UserError(
            f"{results / 'metrics'}: nothing of {run} there; "
            f"`{train_command(run, profile, 0)}` or `dvc repro` makes it"
        )
    return found


def _files(results: Path, run: str) -> dict[int, Path]:
    """Seed -> metrics file of `run`, by rising seed."""
    pattern = re.compile(re.escape(run) + r"-s(\d+)")
    paths = (results / "metrics").glob("*.json")
    found = {int(m[1]): path for path in paths if (m := pattern.fullmatch(path.stem))}
    return dict(sorted(found.items()))


def _provenance(results: Path, run: str, seed: int, profile: str, config: str) -> dict:
    path, command = results / "runs" / f"{run}-s{seed}.json", train_command(run, profile, seed)
    keys = ("config", "config_hash", "input_size", "num_params", "key")
    provenance = read_result(path, keys, command)
    if provenance["config_hash"] != config:
        raise UserError(
            f"{path}: describes settings {provenance['config_hash']}, but the metrics are of "
            f"{config}; `{command}` writes both anew"
        )
    return provenance


def _common_key(provenance: dict) -> str:
    """Settings, data and teacher of a run; its first weights differ from seed to seed."""
    taught = provenance["config"]["distill"]["teacher"]
    return provenance["config_hash"] + provenance["key"][8 : 24 if taught else 16]


def read_result(path: Path, keys: tuple[str, ...], command: str) -> dict:
    """A file of results; `UserError` names `command` if it is missing, damaged or incomplete."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `{command}` makes it") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); `{command}` makes it anew") from None
    if missing := [key for key in keys if key not in content]:
        raise UserError(f"{path}: without {', '.join(missing)}; `{command}` makes it anew")
    return content


TABLE_NOTE = """AP in percent, mean ± standard deviation over seeds. `printed` columns are the
paper's own numbers: COCO val2017, its hardware. They are not comparable. `left out`: seeds that
were trained with other settings, data or teacher than seed 0, with the key of these."""
CONTRAST_NOTE = """Differences in AP, percentage points, seed by seed: mean ± standard deviation.
`within` is half of the 95 % interval, from the spread of all runs together; a difference inside it
is none shown. Of twenty rows without any effect one would still be called a difference; rows that
share a run err together."""


def write_table(frame: pd.DataFrame, path: Path, note: str = TABLE_NOTE) -> None:
    """Write `frame` as `path`.csv and `path`.md, with two decimals; the note goes below the latter.

    In the Markdown file `X` and `X std` become one cell, `mean ± std`.
    """
    text = frame.map(lambda value: f"{value:.2f}" if isinstance(value, float) else str(value))
    text = text.where(frame.notna(), "")
    write_text(path.with_suffix(".csv"), text.to_csv(index=False, lineterminator="\n"))

    shown = [name for name in text if not name.endswith(" std")]
    for name in shown:
        if f"{name} std" in text:
            spread = text[f"{name} std"]
            text[name] = text[name] + spread.where(spread == "", " ± " + spread)
    lines = [shown, ["---"] * len(shown), *text[shown].to_numpy().tolist()]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    write_text(path.with_suffix(".md"), f"{table}\n{note}\n")


# --- figures ---------------------------------------------------------------------------------


def use_style() -> None:
    """The one look of all figures; call it once per notebook, before plotting."""
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 150,
            "svg.hashsalt": "lightdet",  # ids in the svg are random without it
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.prop_cycle": plt.cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e0e0e0",
            "lines.linewidth": 1.6,
            "legend.frameon": False,
        }
    )


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
    title = "bar: 95 % interval; filled: a difference, hollow: none shown"
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
        differences: of `contrasts`, those between the groups excepted; without any the panel
            stays away. What CHANGES does not name comes last, under its own name.
    """
    profile = groups["profile"].iloc[0]
    groups = groups[groups["printed AP"].notna()]
    order = [name for name in differences["contrast"] if name not in CHANGES]
    order = [*CHANGES, *(name for name in order if not re.fullmatch(r"g\d - g\d", name))]
    changes = differences[differences["contrast"].isin(order)]
    changes = changes.sort_values("contrast", key=lambda names: names.map(order.index))
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
        words = [CHANGES.get(name, name) for name in changes["contrast"]]
        words = [f"{text} ({n})" for text, n in zip(words, changes["seeds"], strict=True)]
        axes["ladder"].set_yticks(range(len(changes)), words)
        axes["ladder"].set_title(
            "one change at a time, measured here\nbar: 95 % interval; hollow: no difference shown"
        )
    return figure


def _label_points(axis: plt.Axes, values: pd.Series, labels: list[str]) -> None:
    for row, (value, label) in enumerate(zip(values, labels, strict=True)):
        if pd.notna(value):
            place = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
            axis.annotate(label, (value, row), **place)
