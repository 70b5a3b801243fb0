"""Own runs beside the published ones: reproduced, where they lie within the spread of the seeds."""

import json
import subprocess
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pandas as pd

from lightdet_core.config import UserError, all_runs, read_params, root
from lightdet_tools.report.contrasts import t_quantile
from lightdet_tools.report.results import read_result

CONFIDENCE = 0.95  # that one more seed lies within


def compare(profile: str) -> pd.DataFrame:
    """The runs that `dvc repro` makes, as they lie in runs/ and as git has their results.

    Another processor, thread or library rounds otherwise, and training makes of that what another
    seed makes: the spread of the published seeds is what may be expected. Published is what the
    repository has that this one was cloned from, else the last commit.

    Returns:
        One row per run: AP and `published`, the mean over its seeds, in percent; seeds; `within`,
        how far one more training may lie from it (95 %, each; from the spread of these runs
        together), and whether it is reproduced: yes, no, or why nothing can be said. Empty where
        nothing is published.

    Raises:
        UserError: no git checkout, nothing trained, unreadable results.
    """
    params, folder = read_params(), root() / "runs" / profile
    runs = all_runs(params)
    published = {key: seeds for key, seeds in _published(profile).items() if key[0] in runs}
    spread, freedom = _spread([[m["AP"] for m in seeds] for seeds in published.values()])
    rows = []
    for run in runs if published else ():
        for seed in params["seeds"]:
            path = folder / f"{run}-s{seed}" / "metrics.json"
            if not path.is_file():
                continue
            own = read_result(path, ("config", "AP"), f"lightdet repro --profile {profile}")
            others = [100 * m["AP"] for m in published.get((run, own["config"]), [])]
            row = {"run": path.parent.name, "AP": 100 * own["AP"], "seeds": len(others)}
            if not others:
                rows.append({**row, "reproduced": "nothing published with these settings"})
                continue
            row["published"] = mean = float(np.mean(others))
            if not freedom:
                rows.append({**row, "reproduced": "no spread is known: no run has two seeds"})
                continue
            row["within"] = t_quantile(freedom, CONFIDENCE) * spread * (1 + 1 / len(others)) ** 0.5
            inside = abs(row["AP"] - mean) <= row["within"]
            rows.append({**row, "reproduced": "yes" if inside else "no"})
    if published and not rows:
        raise UserError(f"{folder}: nothing is trained; lightdet repro --profile {profile} does it")
    columns = ["run", "AP", "published", "seeds", "within", "reproduced"]
    return pd.DataFrame(rows, columns=columns)


def _published(profile: str) -> dict[tuple[str, str], list[dict]]:
    """(experiment, hash of its settings) -> metrics of every seed in git."""
    folder = f"results/{profile}/metrics"
    found: dict[tuple[str, str], list[dict]] = {}
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD").strip()
    with suppress(UserError):  # no clone has no origin
        commit = _git("rev-parse", "--verify", "--quiet", "origin/HEAD").strip()
    for path in _git("ls-tree", "-r", "--name-only", commit, folder).splitlines():
        metrics = json.loads(_git("show", f"{commit}:{path}"))
        run = path.removeprefix(f"{folder}/").removesuffix(".json").rpartition("-s")[0]
        found.setdefault((run, metrics["config"]), []).append(metrics)
    return found


def _git(*words: str) -> str:
    try:
        return subprocess.check_output(
            ["git", *words], cwd=root(), text=True, stderr=subprocess.DEVNULL
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        raise UserError(
            f"{root()}: no git checkout, so that there are no published results to compare with"
        ) from None


def _spread(runs: list[list[float]]) -> tuple[float, int]:
    """Standard deviation over the seeds of a run, in percent, of all runs together; freedom."""
    rest = [100 * (ap - np.mean(run)) for run in runs for ap in run]
    freedom = sum(len(run) - 1 for run in runs)
    return (float(np.square(rest).sum() / freedom) ** 0.5 if freedom else float("nan")), freedom


def report(profile: str, tell: Callable[[str], None]) -> None:
    """Says `compare` in lines, the count last."""
    table = compare(profile)
    if table.empty:
        return tell(f"no results of {profile} are in git to compare with")
    for row in table.itertuples():
        line = f"{row.run}: AP {row.AP:.1f}"
        if row.seeds:
            plural = "s" if row.seeds > 1 else ""
            line += f", published {row.published:.1f} ({row.seeds} seed{plural})"
        if row.reproduced in ("yes", "no"):
            line += f", {'within' if row.reproduced == 'yes' else 'beyond'} ± {row.within:.1f}"
        else:
            line += f"; {row.reproduced}"
        tell(line)
    tell(f"reproduced: {(table['reproduced'] == 'yes').sum()} of {len(table)}")
