"""Trained runs as files to attach to a release: weights, model cards, checksums, the licence.

lightdet card runs/demo/g5-s0 --out release
"""

import hashlib
from pathlib import Path

from lightdet_core.config import UserError, root, train_command
from lightdet_core.model import load_weights
from lightdet_tools.report.results import read_result
from lightdet_tools.report.tables import METRICS

FACTS = ("command", "commit", "dirty", "config", "config_hash", "hardware", "versions", "steps")
FACTS += ("train_seconds", "num_params", "train_images", "val_images", "pack_hash", "val_hash")
CARD = """# LightDet {name}

A trained run of LightDet, a replication of *A Light-Weight CNN for Object Detection with Sparse
Model and Knowledge Distillation* (https://doi.org/10.3390/electronics11040575), whose authors had
no part in it.

| | |
|---|---|
| weights | `{name}.safetensors`, {size:,} bytes |
| sha256 | `{sha256}` |
| network | {network} |
| classes | {classes} |
| licence | Apache-2.0 (LICENSE); that of the data is below |

## Data

{train_images:,} images to train on, {val_images:,} to evaluate; {licence}.
{start}

## Accuracy

AP in percent on the {val_images:,} images of the evaluation, by pycocotools; of one seed, and
another one ends elsewhere.

{accuracy}

{per_class}

## How it was made

```
{command}
```

Commit {commit}, {steps:,} steps in {train_seconds:,.0f} s on {hardware}; {versions}.
On another processor the same command gives other last digits.

## Limits

- It knows the classes above, on images like those it learnt from; on others nothing was measured.
- The AP above is of those {val_images:,} images; it compares with no other set's.
- A score estimates how far box and object overlap; it is no probability. The threshold is yours.

## Use

```python
import lightdet_core

model = lightdet_core.load("{name}.safetensors")
found = model.predict("photo.jpg")  # boxes, scores, labels, names
```
"""


def write_release(runs: list[Path], out: Path) -> list[Path]:
    """Weights and a model card of each run, LICENSE and SHA256SUMS, in a new folder.

    Args:
        runs: run folders, `runs/<profile>/<experiment>-s<seed>`.
        out: must not exist, or be empty.

    Returns:
        The files.

    Raises:
        UserError: a folder with something in it; a run that is not finished, or whose parts or data
            do not belong together. Nothing is written then.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already; take another --out, or empty it")
    contents = {"LICENSE": (root() / "LICENSE").read_bytes()}
    for run in runs:
        name, weights, card = _release(run)
        contents |= {f"{name}.safetensors": weights, f"{name}.md": card.encode()}
    sums = (f"{hashlib.sha256(data).hexdigest()}  {x}\n" for x, data in sorted(contents.items()))
    contents["SHA256SUMS"] = "".join(sums).encode()
    out.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (out / name).write_bytes(data)
    return [out / name for name in contents]


def _release(run: Path) -> tuple[str, bytes, str]:
    """A run's name in the release, its weights, its card."""
    path = run / "weights.safetensors"
    _, config, categories = load_weights(path)
    profile, made = config["profile"], f"{config['experiment']}-s{config['seed']}"
    again = train_command(config["experiment"], profile, config["seed"])
    about = read_result(run / "run.json", FACTS, again)
    metrics = read_result(run / "metrics.json", ("config", *METRICS, "per_class"), again)
    if metrics["config"] != about["config_hash"] or about["config"]["model"] != config["model"]:
        raise UserError(f"{run}: weights, metrics.json and run.json are of different trainings")
    data = root() / "data" / profile / "manifest.json"
    manifest = read_result(data, ("licence", "splits"), f"lightdet data --profile {profile}")
    seen = {"train": about["pack_hash"], "val": about["val_hash"]}
    if seen != {split: counts["sha256"] for split, counts in manifest["splits"].items()}:
        raise UserError(f"{data}: describes other images than {made} has seen; train it anew")
    weights, name = path.read_bytes(), f"{profile}-{made}"
    facts = {
        **about,
        "name": name,
        "size": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "network": _network(about),
        "classes": ", ".join(category["name"] for category in categories),
        "licence": manifest["licence"],
        "start": _start(about),
        "accuracy": _table({name: metrics[name] for name in METRICS}),
        "per_class": _table(metrics["per_class"]),
        "commit": _commit(about),
        "versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    }
    return name, weights, CARD.format(**facts)


def _network(about: dict) -> str:
    model = about["config"]["model"]
    words = f"EfficientNet-{model['backbone'].title()}, {model['activation']}, {model['head']}, "
    words += f"{model['input_size']} px, {about['num_params']:,} parameters"
    pruned = about.get("pruned_layers")
    return f"{words}, 2:4 zeros in {pruned} layers" if pruned else words


def _commit(about: dict) -> str:
    if not about["commit"]:
        return "unknown (no git checkout)"
    return about["commit"] + (", from which code or settings differed" if about["dirty"] else "")


def _start(about: dict) -> str:
    """What the run began with and learnt from."""
    distill, init = about["config"]["distill"]["teacher"], about["config"]["train"]["init"]
    source = about.get("imagenet") or about.get("pretrained")
    source = source or (f"the run {init}" if init else "random weights")
    return f"Began with {source}" + (f"; learnt from the run {distill}." if distill else ".")


def _table(shares: dict[str, float]) -> str:
    """Shares of 1 in percent, one row; -1 means that the images have no such objects."""
    cells = [f"{100 * share:.1f}" if share >= 0 else "no objects" for share in shares.values()]
    return "\n".join(f"| {' | '.join(x)} |" for x in (shares, ["---"] * len(shares), cells))
