"""How long things take, as shares of one run on the reader's own machine.

    python -m lightdet_core.benchmark --experiment c0 --profile demo --batch-size 8

prints where a training step goes and writes it to results/<profile>/benchmarks/step.json.
Times are medians; only the shares are meant to be compared between machines.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch
from torch import nn

from lightdet_core.augment import training_batch
from lightdet_core.config import ROOT, Config, load_config, run_cli
from lightdet_core.datasets import split_paths
from lightdet_core.model import build
from lightdet_core.pack import open_pack, pack_paths
from lightdet_core.precision import forward
from lightdet_core.provenance import hardware
from lightdet_core.train import (
    batch_loss,
    ema_decay,
    keep_memory,
    make_optimizer,
    update_average,
    with_classes,
)

PARTS = ("augmentation", "forward", "assignment and loss", "backward", "optimizer")


def step_times(config: Config, steps: int = 20, warm_up: int = 3) -> dict[str, list[float]]:
    """Seconds that each part of a training step takes, per step, on the CPU.

    Dense and without a teacher, whatever the experiment says.

    "assignment and loss" holds the loss's own backward pass to the logits; "backward" is that of
    the network. "optimizer" holds the step, with clipping and moving average if any.
    """
    keep_memory()
    torch.manual_seed(config.seed)
    annotations = split_paths(config, "train")[0]
    pack = open_pack(pack_paths(config, "train", config.model.input_size), annotations)
    config = with_classes(config, pack)
    model = build(config).to(memory_format=torch.channels_last).train()
    train = config.train
    optimizer = make_optimizer(model, train)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    times: dict[str, list[float]] = {part: [] for part in PARTS}

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        times[part].append(time.perf_counter() - start)

    for step in range(warm_up + steps):
        optimizer.zero_grad(set_to_none=True)
        with timed("augmentation"):
            batch = training_batch(pack, config, config.seed, step, "cpu")
        with timed("forward"):
            logits = forward(model, batch.images, train.precision)
        with timed("assignment and loss"):
            leaves = [x.detach().requires_grad_() for x in logits]
            terms = batch_loss(model, *leaves, batch, config)
            (terms["loss_qfl"] + terms["loss_giou"] + terms["loss_dfl"]).backward()
        with timed("backward"):
            torch.autograd.backward(logits, [leaf.grad for leaf in leaves])
        with timed("optimizer"):
            if train.grad_clip:
                nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip)
            optimizer.step()
            if train.ema_decay:
                update_average(average, model, ema_decay(train.ema_decay, step, train.ema_ramp))
    return {part: values[warm_up:] for part, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Where a training step goes, on the CPU.")
    parser.add_argument("--experiment", default="c0")
    parser.add_argument("--profile", help="default: params.yaml's")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    if min(args.steps, args.batch_size) < 1:
        parser.error("--steps and --batch-size must be at least 1")
    config = load_config(args.experiment, args.profile)
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, batch_size=args.batch_size)
    )
    medians = {k: statistics.median(v) for k, v in step_times(config, args.steps).items()}
    total = sum(medians.values())
    for part, seconds in medians.items():
        print(f"{part:20} {1000 * seconds:8.1f} ms {100 * seconds / total:6.1f} %")
    print(f"{'step':20} {1000 * total:8.1f} ms   {args.batch_size / total:.1f} images/s")
    path = ROOT / "results" / config.profile / "benchmarks" / "step.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "command": f"python -m lightdet_core.benchmark --experiment {config.experiment} "
        f"--profile {config.profile} --batch-size {args.batch_size} --steps {args.steps}",
        "hardware": hardware(torch.device("cpu")),
        "torch": version("torch"),
        "backbone": config.model.backbone,
        "input_size": config.model.input_size,
        "precision": config.train.precision,
        "milliseconds": {k: round(1000 * v, 2) for k, v in medians.items()},
        "share": {k: round(v / total, 4) for k, v in medians.items()},
        "images_per_second": round(args.batch_size / total, 2),
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    run_cli(main)
