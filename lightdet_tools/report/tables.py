"""Results and the paper's numbers -> tables.

What was measured here and what others print never share a column or an axis: they come from
other data, other hardware and other protocols. All AP values in tables are percent.
"""

import json
import re
from pathlib import Path

import pandas as pd

from lightdet_core.config import (
    UserError,
    all_runs,
    load_config,
    read_params,
    read_yaml,
    root,
    train_command,
)
from lightdet_core.machinery.files import short_hash, write_text
from lightdet_tools.report.results import read_result

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
OF_CLASS = ("per_class", "per_class_without")
IDENTITY = ("experiment", "seed")  # of a run's settings, what does not change its training


def load_paper(path: Path | None = None) -> dict:
    """paper.yaml: `table1`, `table2` and `nanodet` with source and certainty per row."""
    return read_yaml(path or root() / "paper.yaml")


def tested_class(profile: str) -> str:
    """The class whose AP answers a profile's claims, by design.yaml; "" where that of all does."""
    return read_yaml(root() / "design.yaml").get("tested_class", {}).get(profile, "")


def _metric(tested: str) -> str:
    return f"AP of {tested}" if tested else "AP"


def run_table(profile: str, runs: list[str] | None = None) -> pd.DataFrame:
    """One row per experiment: settings, measured AP over seeds, the paper's printed numbers.

    Only seeds with the settings, data and teacher of the lowest seed are pooled; the column
    `left out` names the others.

    Args:
        profile: whose results to read, below `results`.
        runs: experiments in the order of the rows; None takes `runs` of params.yaml.

    Returns:
        `<metric>` is the mean in percent, `<metric> std` the sample standard deviation (NaN for
        one seed); NaN where the images have no such objects. `AP of <class>`, too, where there is a
        `tested_class`; `attrs["metric"]` is this column then, else AP.

    Raises:
        UserError: a run has no results, or unreadable ones.
    """
    printed, tested = load_paper()["table2"], tested_class(profile)
    runs = all_runs(read_params()) if runs is None else runs
    rows = []
    for run in runs:
        pooled, provenance, others = _pooled(root() / "results" / profile, run, profile)
        model = provenance["config"]["model"]
        network = model.get("network", "lightdet")  # older runs are ours
        row = {
            "experiment": run,
            "profile": profile,
            "backbone": model["backbone"] if network == "lightdet" else network,
            "input size": provenance["input_size"],
            "activation": model["activation"],
            "head": model["head"] if network == "lightdet" else "",
            "parameters": provenance["num_params"],
            "seeds": len(pooled),
        }
        found = {metric: [m[metric] for m in pooled.values()] for metric in METRICS}
        if tested:
            found[_metric(tested)] = [m["per_class"][tested] for m in pooled.values()]
        for metric, aps in found.items():
            values = pd.Series([100 * ap for ap in aps if ap >= 0])
            row |= {metric: values.mean(), f"{metric} std": values.std(ddof=1)}
        paper = printed.get(run, {}).get("printed", {})
        row |= {f"printed {key}": float(paper.get(key, "nan")) for key in ("AP", "FPS")}
        row |= {
            "config": provenance["config_hash"],
            "left out": ", ".join(f"s{seed} ({key})" for seed, key in others.items()),
        }
        rows.append(row)
    table = pd.DataFrame(rows).astype({"printed FPS": "Int64"})
    table.attrs["metric"] = _metric(tested)
    return table


def seed_table(profile: str, runs: list[str] | None = None) -> pd.DataFrame:
    """One row per run and seed: AP in percent, of all images and without each part of them.

    Only what may be compared: seeds that `run_table` pools, of runs whose settings, and those of
    the runs that they learn from or start with, are those of params.yaml, on the images of the
    first one. `attrs["left out"]` says which were left out and why, `attrs["metric"]` what was
    measured; runs without results just have no row.

    Args:
        profile: whose results to read, below `results`.
        runs: None takes all experiments of params.yaml.

    Returns:
        Index run, seed; columns start (ImageNet or scratch), training (equal where two experiments
        have the same settings), AP, then 0, 1, …: `AP_without` of `evaluate.coco_metrics`, NaN
        where no object is left; all of `tested_class` if there is one.

    Raises:
        UserError: unreadable results.
    """
    results = root() / "results" / profile
    rows, left_out, images, tested = [], {}, None, tested_class(profile)
    for run in read_params()["experiments"] if runs is None else runs:
        if not _files(results, run):
            continue
        pooled, provenance, _ = _pooled(results, run, profile)
        start = provenance["config"]["model"]["pretrained"]
        start = {True: "ImageNet", False: "scratch"}.get(start, start)
        seen = provenance["pack_hash"], provenance.get("val_hash")
        if provenance["config_hash"] != _hash_now(run, profile, provenance):
            left_out[run] = "trained with other settings than params.yaml has now"
        elif stale := _stale_source(results, provenance, min(pooled), profile):
            left_out[run] = f"{stale} was trained with other settings than params.yaml has now"
        elif seen != (images := images or seen):
            left_out[run] = "trained or evaluated on other images"
        else:
            # as of today: older runs do not name options that came later
            now = load_config(run, profile).settings
            settings = {k: v for k, v in now.items() if k not in IDENTITY}
            about = {"start": start, "training": short_hash(json.dumps(settings, sort_keys=True))}
            for seed, metrics in pooled.items():
                whole, parts = (metrics[key] for key in ("AP", "AP_without"))
                if tested:
                    whole, parts = (metrics[key][tested] for key in OF_CLASS)
                aps = pd.Series({"AP": whole, **dict(enumerate(parts))})
                aps = (100 * aps).where(aps >= 0)
                rows.append({"run": run, "seed": seed, **about, **aps})
    columns = None if rows else ["run", "seed", "start", "training", "AP"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.dropna(subset="AP").set_index(["run", "seed"])
    table.attrs |= {"left out": left_out, "metric": _metric(tested)}
    return table


def _hash_now(run: str, profile: str, provenance: dict) -> str:
    """The hash of a run's settings as params.yaml has them, with the classes that it found."""
    classes = provenance["config"]["model"].get("num_classes")
    return load_config(run, profile).with_model(num_classes=classes).hash


def _stale_source(results: Path, provenance: dict, seed: int, profile: str) -> str:
    """The run whose weights a run learnt from or began with, if params.yaml now makes another of it
    (or it is not there); "" if not."""
    settings, key = provenance["config"], provenance["key"]
    teacher, init = settings["distill"]["teacher"], settings["train"]["init"]
    wanted = [(run, own) for run, own in ((teacher, 0), (init, seed)) if run]
    for place, (run, own) in enumerate(wanted, 2):  # in the key, after settings and data
        if not (results / "runs" / f"{run}-s{own}.json").is_file():
            return run
        source = _provenance(results, run, own, profile, None)
        made = key[8 * place : 8 * place + 8] == short_hash(source["key"])
        if not made or source["config_hash"] != _hash_now(run, profile, source):
            return run
    return ""


def _pooled(results: Path, run: str, profile: str) -> tuple[dict[int, dict], dict, dict[int, str]]:
    """Metrics by seed of what belongs together, the lowest seed's provenance, keys of the rest."""
    seeds = _seeds(results, run, profile)
    about = {s: _provenance(results, run, s, profile, m["config"]) for s, m in seeds.items()}
    first = about[min(seeds)]
    pooled = {s: m for s, m in seeds.items() if about[s]["key"] == first["key"]}
    return pooled, first, {s: about[s]["key"] for s in seeds if s not in pooled}


def _seeds(results: Path, run: str, profile: str) -> dict[int, dict]:
    """Seed -> metrics of every result of `run`, by rising seed."""
    tested = tested_class(profile)
    keys = ("config", *METRICS, "AP_without", *(OF_CLASS if tested else ()))
    found = {
        seed: read_result(path, keys, train_command(run, profile, seed))
        for seed, path in _files(results, run).items()
    }
    if not found:
        raise UserError(
            f"{results / 'metrics'}: nothing of {run} there; "
            f"`{train_command(run, profile, 0)}` or `dvc repro` makes it"
        )
    if tested and any(tested not in metrics["per_class"] for metrics in found.values()):
        raise UserError(
            f"{results / 'metrics'}: {run} knows no class {tested}, whose AP answers the claims; "
            f"take {profile} out of tested_class in {root() / 'design.yaml'}, or add the class"
        )
    return found


def _files(results: Path, run: str) -> dict[int, Path]:
    """Seed -> metrics file of `run`, by rising seed."""
    pattern = re.compile(re.escape(run) + r"-s(\d+)")
    paths = (results / "metrics").glob("*.json")
    found = {int(m[1]): path for path in paths if (m := pattern.fullmatch(path.stem))}
    return dict(sorted(found.items()))


def _provenance(results: Path, run: str, seed: int, profile: str, config: str | None) -> dict:
    """What run.json says; its settings must be those of the metrics, where these are asked for."""
    path, command = results / "runs" / f"{run}-s{seed}.json", train_command(run, profile, seed)
    keys = ("config", "config_hash", "input_size", "num_params", "key")
    provenance = read_result(path, keys, command)
    if config and provenance["config_hash"] != config:
        raise UserError(
            f"{path}: describes settings {provenance['config_hash']}, but the metrics are of "
            f"{config}; `{command}` writes both anew"
        )
    return provenance


TABLE_NOTE = """AP in percent, mean ± standard deviation over seeds. `printed` columns are the
paper's own numbers: COCO val2017, its hardware. They are not comparable. `left out`: seeds that
were trained with other settings, data or sources of weights than seed 0, with their keys."""


def texts(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells as text: two decimals, and nothing where there is no value."""
    text = frame.map(lambda value: f"{value:.2f}" if isinstance(value, float) else str(value))
    return text.where(frame.notna(), "")


def write_table(frame: pd.DataFrame, path: Path, note: str = TABLE_NOTE) -> None:
    """Write `frame` as `path`.csv and `path`.md, with two decimals; the note goes below the latter.

    In the Markdown file `X` and `X std` become one cell, `mean ± std`.
    """
    text = texts(frame)
    write_text(path.with_suffix(".csv"), text.to_csv(index=False, lineterminator="\n"))

    shown = [name for name in text if not name.endswith(" std")]
    for name in shown:
        if f"{name} std" in text:
            spread = text[f"{name} std"]
            text[name] = text[name] + spread.where(spread == "", " ± " + spread)
    lines = [shown, ["---"] * len(shown), *text[shown].to_numpy().tolist()]
    lines = [[cell.replace("|", "\\|") for cell in cells] for cells in lines]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    write_text(path.with_suffix(".md"), f"{table}\n{note}\n")
