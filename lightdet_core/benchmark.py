"""How long things take, as shares of one run on the reader's own machine.

    python -m lightdet_core.benchmark --experiment c0 --profile demo --batch-size 8

prints where a training step goes and writes it to results/<profile>/benchmarks/step.json. With
`--compare` it times whole steps against the usual way of doing things, in turns, and writes
compare.json. Times are medians; only shares and ratios are meant to be compared between machines.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lightdet_core.augment import Batch, batch_indices, training_batch
from lightdet_core.config import ROOT, Config, load_config, run_cli
from lightdet_core.datasets import split_paths
from lightdet_core.model import LightDet, build
from lightdet_core.pack import Pack, open_pack, pack_paths
from lightdet_core.precision import forward
from lightdet_core.provenance import git_state, hardware
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


def loss_at_once(
    model: LightDet, logits: tuple[Tensor, Tensor], batch: Batch, config: Config
) -> Tensor:
    """The sum of the losses of a batch, as in training."""
    return sum(v for k, v in batch_loss(model, *logits, batch, config).items() if k[:5] == "loss_")


def loss_by_image(
    model: LightDet, logits: tuple[Tensor, Tensor], batch: Batch, config: Config
) -> Tensor:
    """The same, image by image, as NanoDet assigns targets."""
    ones = zip(*(x.split(1) for x in (*logits, *batch)), strict=True)
    losses = [loss_at_once(model, one[:2], Batch(*one[2:]), config) for one in ones]
    return sum(losses) / len(losses)


def augment_by_image(pack: Pack, config: Config, seed: int, step: int) -> Batch:
    """Warp, flip and colour with Pillow and numpy, image by image; no Mosaic, no MixUp, no CutMix.

    The kind of work of `augment.training_batch`, not its random numbers.
    """
    settings, size = config.augment, config.model.input_size
    random, samples = np.random.default_rng((seed, step)), []
    for row in batch_indices(len(pack.counts), config.train.batch_size, seed, step).tolist():
        zoom = random.uniform(*settings.scale) * size / pack.size
        mirror = -1 if random.random() < settings.flip else 1
        shift = random.uniform(-settings.translate, settings.translate, 2) * size
        scale = np.array([mirror * zoom, zoom])
        offset = size / 2 + shift - scale * pack.size / 2
        inverse = (1 / scale[0], 0, -offset[0] / scale[0], 0, 1 / scale[1], -offset[1] / scale[1])
        image = Image.fromarray(pack.images[row]).transform(
            (size, size), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR
        )
        pixels = np.asarray(image, np.float32)
        pixels = pixels + 255 * random.uniform(-settings.brightness, settings.brightness)
        pixels = pixels * random.uniform(*settings.contrast)
        highest = pixels.max(-1, keepdims=True)
        pixels = highest + (pixels - highest) * random.uniform(*settings.saturation)
        boxes = np.asarray(pack.gt_boxes[row]) * np.tile(scale, 2) + np.tile(offset, 2)
        low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
        boxes = np.concatenate([low, high], 1).clip(0, size).astype(np.float32)
        mask = (np.arange(len(boxes)) < pack.counts[row]) & ~np.asarray(pack.gt_crowd[row])
        mask &= (boxes[:, 2:] - boxes[:, :2]).min(1) >= 2
        samples.append((pixels.transpose(2, 0, 1), boxes, np.array(pack.gt_labels[row]), mask))
    images, boxes, labels, mask = (
        torch.from_numpy(np.stack(x)) for x in zip(*samples, strict=True)
    )
    return Batch(images, boxes * mask[..., None], labels * mask, mask, mask.float())


def compare_ways(config: Config, steps: int = 20, warm_up: int = 3) -> dict[str, list[float]]:
    """Seconds per training step on the CPU: ours, then each shortcut taken out after the other.

    The ways take turns within one run. Dense, without a teacher and without a moving average.
    """
    keep_memory()
    annotations = split_paths(config, "train")[0]
    pack = open_pack(pack_paths(config, "train", config.model.input_size), annotations)
    config = with_classes(config, pack)

    def way(memory: torch.memory_format, loss: Callable, augmented: Callable) -> Callable:
        torch.manual_seed(config.seed)
        model = build(config).to(memory_format=memory).train()
        optimizer = make_optimizer(model, config.train)

        def run(step: int) -> None:
            batch = augmented(pack, config, config.seed, step)
            batch = batch._replace(images=batch.images.contiguous(memory_format=memory))
            optimizer.zero_grad(set_to_none=True)
            logits = forward(model, batch.images, config.train.precision)
            loss(model, logits, batch, config).backward()
            if config.train.grad_clip:
                nn.utils.clip_grad_norm_(model.parameters(), config.train.grad_clip)
            optimizer.step()

        return run

    ours = partial(training_batch, device="cpu")
    last, plain = torch.channels_last, torch.contiguous_format
    ways = {
        "ours": way(last, loss_at_once, ours),
        "default memory format": way(plain, loss_at_once, ours),
        "and loss image by image": way(plain, loss_by_image, ours),
        "and augmentation image by image": way(plain, loss_by_image, augment_by_image),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(warm_up + steps):
        for name, run in ways.items():
            start = time.perf_counter()
            run(step)
            times[name].append(time.perf_counter() - start)
    return {name: values[warm_up:] for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Where a training step goes, on the CPU.")
    parser.add_argument("--experiment", default="c0")
    parser.add_argument("--profile", help="default: params.yaml's")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--input-size", type=int, help="pixels; default: the experiment's")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compare", action="store_true", help="whole steps, against the usual way")
    args = parser.parse_args()
    if min(args.steps, args.batch_size) < 1:
        parser.error("--steps and --batch-size must be at least 1")
    config = load_config(args.experiment, args.profile)
    size = args.input_size or config.model.input_size
    if size < 32 or size % 16:
        parser.error("--input-size must be a multiple of 16, at least 32")
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, batch_size=args.batch_size),
        model=dataclasses.replace(config.model, input_size=size),
    )
    measure = compare_ways if args.compare else step_times
    medians = {k: statistics.median(v) for k, v in measure(config, args.steps).items()}
    total = medians["ours"] if args.compare else sum(medians.values())
    for part, seconds in medians.items():
        print(f"{part:32} {1000 * seconds:8.1f} ms {100 * seconds / total:6.1f} %")
    print(f"{'a step of ours':32} {1000 * total:8.1f} ms   {args.batch_size / total:.1f} images/s")
    name = "compare" if args.compare else "step"
    path = ROOT / "results" / config.profile / "benchmarks" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "command": f"python -m lightdet_core.benchmark --experiment {config.experiment} "
        f"--profile {config.profile} --batch-size {args.batch_size} --input-size {size} "
        f"--steps {args.steps}{' --compare' if args.compare else ''}",
        **git_state(),
        "hardware": hardware(torch.device("cpu")),
        "torch": version("torch"),
        "backbone": config.model.backbone,
        "input_size": size,
        "precision": config.train.precision,
        "milliseconds": {k: round(1000 * v, 2) for k, v in medians.items()},
        "share": {k: round(v / total, 4) for k, v in medians.items()},
        "images_per_second": round(args.batch_size / total, 2),
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    run_cli(main)
