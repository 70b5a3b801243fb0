"""results/gpu -> tables for the notebooks; what is not there is said to be absent.

The files are those of `lightdet_tools.cost.gpu`; a machine with a GPU makes them.
"""

import pandas as pd

from lightdet_core.config import root
from lightdet_tools.report.results import read_result

ABSENT = (
    "On a GPU: nothing was measured, for no machine with one was at hand ({file} is not there). "
    "`make gpu` prepares it; the command that it prints then runs on such a machine."
)


KEYS = {"speed": "images/s", "latency": "systems", "sparse": "sums", "training": "runs"}


def gpu_result(step: str) -> dict | None:
    """What a step of `lightdet_tools.cost.gpu` wrote; None where no GPU was at hand.

    Raises:
        UserError: unreadable, or without what the step is for.
    """
    path = root() / "results" / "gpu" / f"{step}.json"
    return read_result(path, (KEYS[step],), "make gpu") if path.is_file() else None


def gpu_line(step: str) -> str:
    """Which machine measured it and when, or that it is absent."""
    found = gpu_result(step)
    if found is None:
        return ABSENT.format(file=f"results/gpu/{step}.json")
    keys = ("hardware", "torch", "date", "commit")
    return "On a GPU: " + ", ".join(str(found[key]) for key in keys)


def speed_table() -> pd.DataFrame | None:
    """Images/s of training by precision and way; None where absent."""
    found = gpu_result("speed")
    return None if found is None else pd.DataFrame(found["images/s"]).T


def latency_table() -> pd.DataFrame | None:
    """Milliseconds of each network and its ratio to the reference's; None where absent."""
    found = gpu_result("latency")
    if found is None:
        return None
    rows = {
        name: {"input, px": one["size"]}
        | {
            f"{kind} {key}": one.get(kind, {}).get(key, float("nan"))
            for kind in ("fp32", "fp16")
            for key in ("ms", "ratio")
        }
        for name, one in found["systems"].items()
    }
    return pd.DataFrame(rows).T


def sparse_table() -> pd.DataFrame | None:
    """All pruned layers together: milliseconds dense and in 2:4 form; None where absent."""
    found = gpu_result("sparse")
    if found is None:
        return None
    table = pd.DataFrame(found["sums"])
    for library in ("CUSPARSELT", "CUTLASS"):
        if library in table:
            table[f"{library} / dense"] = (table[library] / table["dense"]).round(3)
    return table.rename(columns={"dense": "dense, ms", "CUSPARSELT": "CUSPARSELT, ms",
                                 "CUTLASS": "CUTLASS, ms"})  # fmt: skip


def training_table(experiment: str | None = None) -> pd.DataFrame | None:
    """AP in percent by profile and run, mean and standard deviation over seeds; None where absent.

    Only seeds of which every run of the row has ended.

    Args:
        experiment: this one's rows only.
    """
    found = gpu_result("training")
    if found is None:
        return None
    metrics, speed = ["AP", "AP50", "AP75", "person"], "images_per_second"
    ended = pd.DataFrame(found["runs"], columns=["profile", "seed", "experiment"])
    sizes = ended.groupby(["profile", "seed"])["experiment"].nunique()
    whole = set(sizes.index[sizes == len(found["runs of a row"])])
    rows = [
        {key: run[key] for key in ("profile", "experiment", "seed", speed)}
        | {key: 100 * run[key] for key in metrics[:3]}
        | {"person": 100 * run["per_class"].get("person", float("nan"))}
        for run in found["runs"]
        if experiment in (None, run["experiment"]) and (run["profile"], run["seed"]) in whole
    ]
    columns = ["profile", "experiment", "seed", speed, *metrics]
    groups = pd.DataFrame(rows, columns=columns).groupby(["profile", "experiment"], sort=False)
    table = groups[metrics].mean().join(groups["AP"].std(ddof=1).rename("AP std"))
    beside = f"images/s, {found['side by side']} side by side"
    return table.assign(seeds=groups.size(), **{beside: groups[speed].mean()})
