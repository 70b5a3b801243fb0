"""Results and the paper's numbers -> tables and figures.

What was measured here and what others print never share a column or an axis: they come from
other data, other hardware and other protocols. All AP values in tables are percent.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import yaml
from matplotlib.figure import Figure

from lightdet_core.config import ROOT, UserError, all_runs, read_params

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


class ReportError(UserError):
    """A result is missing or does not fit; the message names the file and the command."""


# --- tables ----------------------------------------------------------------------------------


def load_paper(path: Path | None = None) -> dict:
    """paper.yaml: `table1`, `table2` and `nanodet` with source and certainty per row."""
    return yaml.safe_load((path or ROOT / "paper.yaml").read_text(encoding="utf-8"))


def run_table(profile: str, runs: list[str] | None = None, root: Path = ROOT) -> pd.DataFrame:
    """One row per experiment: settings, measured AP over seeds, the paper's printed numbers.

    Only seeds with the settings, data and teacher of the lowest seed are pooled; the column
    `left out` names the others.

    Args:
        profile: whose results to read, below `root/results`.
        runs: experiments in the order of the rows; None takes `runs` of params.yaml.
        root: a repository root.

    Returns:
        `<metric>` is the mean in percent, `<metric> std` the sample standard deviation (NaN for
        one seed); NaN where the images have no such objects.

    Raises:
        ReportError: a run has no results, or unreadable ones.
    """
    printed = load_paper()["table2"]
    runs = all_runs(read_params()) if runs is None else runs
    rows = []
    for run in runs:
        seeds = _seeds(root / "results" / profile, run, profile)
        lowest = min(seeds)
        config = seeds[lowest]["config"]
        runs_of = {
            seed: _provenance(root / "results" / profile, run, seed, profile, metrics["config"])
            for seed, metrics in seeds.items()
        }
        provenance = runs_of[lowest]
        alike = _common_key(provenance)
        pooled = {s: m for s, m in seeds.items() if _common_key(runs_of[s]) == alike}
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
        others = sorted(set(seeds) - set(pooled))
        row |= {
            "config": config,
            "left out": ", ".join(f"s{s} ({runs_of[s]['key']})" for s in others),
        }
        rows.append(row)
    return pd.DataFrame(rows).astype({"printed FPS": "Int64"})


def _seeds(results: Path, run: str, profile: str) -> dict[int, dict]:
    """Seed -> metrics of every result of `run`, by rising seed."""
    found = {}
    for path in (results / "metrics").glob(f"{run}-s*.json"):
        if name := re.fullmatch(re.escape(run) + r"-s(\d+)", path.stem):
            found[int(name[1])] = _read(path, ("config", *METRICS), _command(run, profile, name[1]))
    if not found:
        raise ReportError(
            f"{results / 'metrics'}: nothing of {run} there; "
            f"`{_command(run, profile, 0)}` or `dvc repro` makes it"
        )
    return dict(sorted(found.items()))


def _provenance(results: Path, run: str, seed: int, profile: str, config: str) -> dict:
    path, command = results / "runs" / f"{run}-s{seed}.json", _command(run, profile, seed)
    keys = ("config", "config_hash", "input_size", "num_params", "key")
    provenance = _read(path, keys, command)
    if provenance["config_hash"] != config:
        raise ReportError(
            f"{path}: describes settings {provenance['config_hash']}, but the metrics are of "
            f"{config}; `{command}` writes both anew"
        )
    return provenance


def _common_key(provenance: dict) -> str:
    """Settings, data and teacher of a run; its first weights differ from seed to seed."""
    taught = provenance["config"].get("distill", {}).get("teacher")  # early runs had no section
    return provenance["config_hash"] + provenance["key"][8 : 24 if taught else 16]


def _command(run: str, profile: str, seed: int | str) -> str:
    return f"python -m lightdet_core.train --experiment {run} --profile {profile} --seed {seed}"


def _read(path: Path, keys: tuple[str, ...], command: str) -> dict:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ReportError(f"{path}: not found; `{command}` makes it") from None
    except ValueError as error:
        raise ReportError(f"{path}: not JSON ({error}); `{command}` makes it anew") from None
    if missing := [key for key in keys if key not in content]:
        raise ReportError(f"{path}: without {', '.join(missing)}; `{command}` makes it anew")
    return content


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write `frame` as `path`.csv and `path`.md, with two decimals.

    In the Markdown file `X` and `X std` become one cell, `mean ± std`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = frame.map(lambda value: f"{value:.2f}" if isinstance(value, float) else str(value))
    text = text.where(frame.notna(), "")
    _replace(path.with_suffix(".csv"), text.to_csv(index=False, lineterminator="\n"))

    shown = [name for name in text if not name.endswith(" std")]
    for name in shown:
        if f"{name} std" in text:
            spread = text[f"{name} std"]
            text[name] = text[name] + spread.where(spread == "", " ± " + spread)
    lines = [shown, ["---"] * len(shown), *text[shown].to_numpy().tolist()]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    note = "\nAP in percent, mean ± standard deviation over seeds. `printed` columns are the\n"
    note += "paper's own numbers: COCO val2017, its hardware. They are not comparable.\n"
    _replace(path.with_suffix(".md"), table + note)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind, metadata in {"png": {"Software": None}, "svg": {"Date": None}}.items():
        target = path.with_suffix(f".{kind}")
        partial = target.with_name(f".{target.name}.partial")
        figure.savefig(partial, format=kind, metadata=metadata)
        os.replace(partial, target)


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


def _label_points(axis: plt.Axes, values: pd.Series, labels: list[str]) -> None:
    for row, (value, label) in enumerate(zip(values, labels, strict=True)):
        if pd.notna(value):
            place = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
            axis.annotate(label, (value, row), **place)
