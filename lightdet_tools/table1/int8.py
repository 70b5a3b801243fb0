"""What 8 bits cost: AP of trained runs, exported in int8, beside torch's.

    lightdet int8 --experiment c0 --experiment g5 --seed 0 --seed 1 --seed 2

One file per run, results/int8/<profile>/<run>.json, and results/int8/<profile>.csv and .md, a table
of all that are there. In one run an AP moves by some tenths either way, so that only several seeds
say what a network loses.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from lightdet_core.config import Config, UserError, load_config, read_params, root
from lightdet_core.machinery.files import write_json
from lightdet_core.machinery.provenance import git_state, hardware, rounded
from lightdet_core.machinery.runs import finished_key
from lightdet_tools.deploy import export
from lightdet_tools.report.results import read_result
from lightdet_tools.report.tables import tested_class, write_table

FORMS = {"onnxruntime": "onnx", "openvino": "openvino"}  # by runtime
KEPT = ("AP", "AP50", "per_class")
COMMAND = "lightdet int8"
COLUMNS = ["experiment", "runtime", "seeds", "AP", "AP std", "AP in torch", "change"]
COLUMNS += ["lowest", "highest"]
NOTE = "Measured by `lightdet int8`: AP in percent; a change is from torch to int8 of one run."


def measure(config: Config) -> dict[str, dict]:
    """`KEPT` of a run's evaluation in torch and of its int8 files by runtime, these with the bytes
    of the network, too; AP in 0..1.

    Raises:
        UserError: the run is not there, its images are not packed, or its outputs in 8 bits are too
            far from torch's.
    """
    folder = root() / "runs" / config.profile / config.run_name
    own = read_result(folder / "metrics.json", KEPT, "lightdet train")
    found = {"torch": {key: own[key] for key in KEPT}}
    for runtime, form in FORMS.items():
        with tempfile.TemporaryDirectory() as place:
            weights = folder / "weights.safetensors"
            made = export.export(form, weights, place, precision="int8")
            entry = next(file for file in made["files"] if file.suffix in export.ENTRIES)
            metrics = export.accuracy(entry, config)
            found[runtime] = {"bytes": made["sizes"]["int8"], **{key: metrics[key] for key in KEPT}}
    return found


def write_costs(configs: list[Config], progress: Callable[[str], None] = print) -> list[Path]:
    """`measure` of each run into its file, with what it was measured with, then the tables.

    Returns:
        The files of the runs.

    Raises:
        UserError: of the runs that cannot be measured, after all others.
    """
    written, failed = [], []
    for number, config in enumerate(configs, start=1):
        name = f"{number}/{len(configs)} {config.run_name}"
        progress(f"{name}: exporting and evaluating")
        try:
            found = measure(config)
        except (UserError, OSError) as error:
            failed.append(f"{config.run_name}: {error}")
            progress(f"{name}: not measured")
            continue
        about = {
            "command": f"{COMMAND} --experiment {config.experiment} --profile {config.profile} "
            f"--seed {config.seed}",
            **git_state(),
            "hardware": hardware(torch.device("cpu")),
            "versions": {"torch": str(torch.__version__), **{k: version(k) for k in FORMS}},
            "experiment": config.experiment,
            "key": finished_key(root() / "runs" / config.profile / config.run_name),
            "calibration_images": export.CALIBRATION,
        }
        path = root() / "results" / "int8" / config.profile / f"{config.run_name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, about | rounded(found), indent=1)
        written.append(path)
        tested = tested_class(config.profile)
        aps = ", ".join(f"{k} {_ap(metrics, tested):.2f}" for k, metrics in found.items())
        progress(f"{name}: AP{tested and f' of {tested}'} in {aps}")
    for profile in {config.profile for config in configs}:
        if len(table := costs_table(profile)):
            old = ", ".join(table.attrs["left out"])
            note = f"{NOTE} Left out, of other settings than today's: {old}." if old else NOTE
            write_table(table, root() / "results" / "int8" / profile, note)
    if failed:
        raise UserError("\n  ".join([f"{len(failed)} of {len(configs)} not measured:", *failed]))
    return written


def costs_table(profile: str) -> pd.DataFrame:
    """What was measured: a row per experiment and runtime; AP in percent, of `tested_class`.

    Returns:
        experiment, runtime, seeds; AP, AP std, AP in torch, and change from there, the mean over
        the seeds, with the lowest and the highest. `attrs["left out"]` names runs with other
        settings than those of params.yaml.
    """
    found, tested, rows, old = defaultdict(list), tested_class(profile), [], []
    for path in sorted((root() / "results" / "int8" / profile).glob("*.json")):
        one = read_result(path, ("experiment", "key", "torch", *FORMS), COMMAND)
        if _of_today(one, profile):
            found[one["experiment"]].append(one)
        else:
            old.append(path.stem)
    for run in (name for name in read_params()["experiments"] if name in found):
        for runtime in FORMS:
            aps = [[_ap(one[where], tested) for where in ("torch", runtime)] for one in found[run]]
            table = pd.DataFrame(aps, columns=["torch", "int8"])
            change = table["int8"] - table["torch"]
            row = {"experiment": run, "runtime": runtime, "seeds": len(table)}
            row |= {"AP": table["int8"].mean(), "AP std": table["int8"].std()}
            row |= {"AP in torch": table["torch"].mean(), "change": change.mean()}
            rows.append(row | {"lowest": change.min(), "highest": change.max()})
    costs = pd.DataFrame(rows, columns=COLUMNS)
    costs.attrs["left out"] = old
    return costs


def _of_today(one: dict, profile: str) -> bool:
    """Whether the settings of a run are those of params.yaml, which may leave the classes to the
    data."""
    if one["experiment"] not in read_params()["experiments"]:
        return False
    config = load_config(one["experiment"], profile)
    config = config.with_model(num_classes=len(one["torch"]["per_class"]))
    return one["key"].startswith(config.hash[:8])


def _ap(metrics: dict, tested: str) -> float:
    return 100 * (metrics["per_class"][tested] if tested else metrics["AP"])
