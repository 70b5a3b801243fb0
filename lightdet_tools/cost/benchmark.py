"""Where the time of a training step goes, as shares of one run on the reader's own machine.

    lightdet benchmark --experiment c0 --profile demo --batch-size 8

times the parts of a step and writes results/<profile>/benchmarks/step-c0.json. With `--compare` it
times whole steps against the usual way of doing things, in turns, and writes compare-c0.json. Where
there is a GPU it is the one measured, and "-cuda" is added to the names. Times are medians; only
shares and ratios are meant to be compared between machines. No masks, no teacher.
"""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightdet_core import engine
from lightdet_core.augment import (
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    batch_indices,
    on_device,
    training_batch,
)
from lightdet_core.boxes import Batch, Logits
from lightdet_core.config import Config, UserError, root
from lightdet_core.machinery.distributed import best_device
from lightdet_core.machinery.files import split_paths, write_json
from lightdet_core.machinery.images import read_image
from lightdet_core.machinery.packs import open_split, with_classes
from lightdet_core.machinery.precision import check_precision, exact
from lightdet_core.machinery.provenance import git_state, hardware
from lightdet_core.machinery.runs import keep_memory
from lightdet_core.model import LightDet, freeze_batch_norm
from lightdet_core.train_state import State, follow, new_state
from lightdet_tools.data.annotations import Annotations, read_annotations
from lightdet_tools.timing import timed

WARM_UP = 3  # steps that do not count


# --------------------------------------------------------------------------------------- a step


def untrained(
    config: Config,
    device: torch.device,
    memory: torch.memory_format = torch.channels_last,
    fused: bool = True,
) -> State:
    """A network with random weights and its optimizer; not fused: torch's default kernels."""
    if config.model.network != "lightdet":
        raise UserError(f"{config.experiment}: only LightDet's steps are timed; name one of ours")
    torch.manual_seed(config.seed)
    model = LightDet(config.model).to(device, memory_format=memory).train()
    if config.train.frozen_bn:
        freeze_batch_norm(model.backbone)
    state = new_state(model, config.train, device)
    if not fused:
        for group in state.optimizer.param_groups:
            group["fused"] = None
    return state


def learn(
    state: State,
    batch: Batch,
    config: Config,
    step: int,
    teacher: LightDet | None = None,
    **hooks: Callable,
) -> None:
    """One step as training takes it, with its moving average; `hooks` of `engine.train_step`."""
    engine.train_step(state, batch, config, teacher, **hooks)
    follow(state, config.train, step)


def loss_by_image(logits: Logits, batch: Batch, config: Config, _: None) -> dict[str, Tensor]:
    """`batch_loss`, image by image, as NanoDet assigns targets."""
    several = range(len(batch.images))
    found = [
        engine.batch_loss(_rows(logits, slice(i, i + 1)), _rows(batch, slice(i, i + 1)), config)
        for i in several
    ]
    return {name: sum(terms[name] for terms in found) / len(found) for name in found[0]}


def _rows(bundle: NamedTuple, rows: slice) -> NamedTuple:
    return bundle._replace(**{k: v[rows] for k, v in bundle._asdict().items() if v is not None})


def augment_from_files(
    truth: Annotations, folder: Path, config: Config, seed: int, step: int
) -> Batch:
    """Each image decoded from its file, then letterbox and warp as one Pillow transform, colour.

    The kind of work of a plain pipeline, with the chances but not the random numbers of
    `augment.training_batch`; no Mosaic, no MixUp, no CutMix. In this process, on the CPU.

    Args:
        truth: of the images in `folder`, with boxes in pixels of the original images.
    """
    settings, size = config.augment, config.model.input_size
    random, images, targets = np.random.default_rng((seed, step)), [], []
    starts = np.cumsum(truth.counts) - truth.counts
    most = max(1, int(truth.counts.max()))
    for row in batch_indices(len(truth.counts), config.train.batch_size, seed, step).tolist():
        sides = truth.sizes[row]
        original = read_image(folder / truth.file_names[row], *sides.tolist())
        scaled, shifted = random.random(2) < settings.warp_probability
        brightened, contrasted, saturated = random.random(3) < settings.color_probability
        fit = (size / sides).min()
        zoom = fit * (random.uniform(*settings.scale) if scaled else 1)
        shift = shifted * fit * sides * random.uniform(-settings.translate, settings.translate, 2)
        scale = np.array([-zoom if random.random() < settings.flip else zoom, zoom])
        offset = size / 2 + shift - scale * sides / 2
        inverse = (1 / scale[0], 0, -offset[0] / scale[0], 0, 1 / scale[1], -offset[1] / scale[1])
        image = Image.fromarray(original).transform(
            (size, size), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR
        )
        pixels = np.asarray(image, np.float32)
        if brightened:
            pixels = pixels + 255 * random.uniform(*BRIGHTNESS)
        if contrasted:
            pixels = pixels * random.uniform(*CONTRAST)
        if saturated:
            highest = pixels.max(-1, keepdims=True)
            pixels = highest + (pixels - highest) * random.uniform(*SATURATION)
        images.append(np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32))

        own = slice(starts[row], starts[row] + truth.counts[row])
        corners = (truth.boxes[own].reshape(-1, 2, 2) * scale + offset).clip(0, size)
        low, high = corners.min(1), corners.max(1)
        kept = ~truth.crowd[own] & ((high - low).min(1) >= 2)
        padded = np.zeros((most, 6), np.float32)  # box, label, whether it is one
        objects = np.column_stack([low, high, truth.labels[own], kept])[kept]
        padded[: len(objects)] = objects
        targets.append(padded)
    boxes, labels, mask = torch.from_numpy(np.stack(targets)).split([4, 1, 1], -1)
    labels, mask = labels[..., 0].long(), mask[..., 0].bool()
    return Batch(torch.from_numpy(np.stack(images)), boxes, labels, mask, mask.float())


# -------------------------------------------------------------------------------- what is timed


def step_times(config: Config, device: torch.device, steps: int) -> dict[str, list[float]]:
    """Seconds that each part of a training step takes, per step.

    "backward" is that of loss and network; "optimizer" holds the step, with clipping if asked. On a
    GPU each part waits for the one before, so that their sum is more than a step takes.
    """
    pack = open_split(config, "train")
    config, (pack, _) = with_classes(config, pack), on_device(pack, device)
    state, times = untrained(config, device), defaultdict(list)
    part = partial(timed, times, device)
    for step in range(steps):
        with part("augmentation"):
            batch = training_batch(pack, config, config.seed, step, device)
        learn(state, batch, config, step, part=part)
    return times


def compare_ways(config: Config, device: torch.device, steps: int) -> dict[str, list[float]]:
    """Seconds per training step: ours, then each shortcut taken out after the other.

    Each way is the one before it and one thing more; they take turns within one run. All but ours
    are in fp32, which is a way of its own where the experiment asks for another precision. The one
    from files reads in the training process, where NanoDet's own loader has processes of its own:
    on a GPU with idle cores beside it they would hide that time.
    """
    annotations, folder = split_paths(config, "train")
    pack = open_split(config, "train")
    config, (pack, _) = with_classes(config, pack), on_device(pack, device)
    truth = read_annotations(annotations, True, config.data.classes)

    def ours(step: int) -> Batch:
        return training_batch(pack, config, config.seed, step, device)

    def usual(step: int) -> Batch:
        batch = augment_from_files(truth, folder, config, config.seed, step)
        return Batch(*(x.to(device) for x in batch))

    last, plain = torch.channels_last, torch.contiguous_format
    by_image = partial(learn, loss=loss_by_image)
    full = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="fp32"))
    ways = {  # memory format, batches, step, whether the optimizer is fused, memory is kept
        "ours": (last, ours, learn, True, True),
        "in fp32": (last, ours, learn, True, True),
        "and default memory format": (plain, ours, learn, True, True),
        "and loss image by image": (plain, ours, by_image, True, True),
        "and augmentation image by image, from files": (plain, usual, by_image, True, True),
        "and optimizer not fused": (plain, usual, by_image, False, True),
        "and freed memory given back": (plain, usual, by_image, False, False),
    }
    if config == full:
        del ways["in fp32"]
    states = {
        k: untrained(config if k == "ours" else full, device, way[0], way[3])
        for k, way in ways.items()
    }
    times = defaultdict(list)
    for step in range(steps):
        for name, (memory, batches, take, _, keep) in ways.items():
            keep_memory(keep)
            with timed(times, device, name):
                batch = batches(step)
                images = batch.images.contiguous(memory_format=memory)
                own = config if name == "ours" else full
                take(states[name], batch._replace(images=images), own, step)
    return times


def write_times(
    config: Config,
    batch_size: int,
    input_size: int | None,
    steps: int,
    compare: bool,
    progress: Callable[[str], None] = print,
) -> Path:
    """The file that `step_times` or `compare_ways` go to.

    Args:
        input_size: pixels; None is the experiment's.

    Raises:
        UserError: impossible values.
    """
    size = input_size or config.model.input_size
    if min(steps, batch_size) < 1:
        raise UserError(f"--steps {steps}, --batch-size {batch_size}: at least 1 is needed")
    if size < 32 or size % 16:
        raise UserError(f"--input-size {size}: a multiple of 16, at least 32, is needed")
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, batch_size=batch_size),
        model=dataclasses.replace(config.model, input_size=size),
    )
    device = best_device()
    check_precision(config.train.precision, device)
    keep_memory()
    measure, name = (compare_ways, "compare") if compare else (step_times, "step")
    with exact():  # as in training
        times = measure(config, device, WARM_UP + steps)
    medians = {k: statistics.median(v[WARM_UP:]) for k, v in times.items()}
    total = medians["ours"] if compare else sum(medians.values())
    for way, seconds in medians.items():
        progress(f"{way:44} {1000 * seconds:8.1f} ms {100 * seconds / total:6.1f} %")
    progress(f"{'a step of ours':44} {1000 * total:8.1f} ms   {batch_size / total:.1f} images/s")
    name += f"-{config.experiment}" + ("" if device.type == "cpu" else f"-{device.type}")
    path = root() / "results" / config.profile / "benchmarks" / f"{name}.json"
    result = {
        "command": f"lightdet benchmark --experiment {config.experiment} "
        f"--profile {config.profile} --batch-size {batch_size} --input-size {size} "
        f"--steps {steps}{' --compare' if compare else ''}",
        **git_state(),
        "hardware": hardware(device),
        "torch": version("torch"),
        "backbone": config.model.backbone,
        "input_size": size,
        "precision": config.train.precision,
        "milliseconds": {k: round(1000 * v, 2) for k, v in medians.items()},
        "share": {k: round(v / total, 4) for k, v in medians.items()},
        "images_per_second": round(batch_size / total, 2),
    }
    write_json(path, result, indent=2)
    return path
