"""How long things take, as shares of one run on the reader's own machine.

    python -m lightdet_core.benchmark --experiment c0 --profile demo --batch-size 8

prints where a training step goes and writes it to results/<profile>/benchmarks/step.json. With
`--compare` it times whole steps against the usual way of doing things, in turns, and writes
compare.json. Where there is a GPU it is the one measured, and "-cuda" is added to the names. Times
are medians; only shares and ratios are meant to be compared between machines.

    python -m lightdet_core.benchmark --plan --profile coco

says before anything is downloaded what the training of a profile will need: hours, memory, disk.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lightdet_core.augment import Batch, batch_indices, steps_per_epoch, training_batch
from lightdet_core.config import (
    ROOT,
    Config,
    ModelConfig,
    all_runs,
    load_config,
    read_params,
    run_cli,
)
from lightdet_core.datasets import COCO_FILES, DataError, split_paths
from lightdet_core.model import LightDet
from lightdet_core.pack import Annotations, open_pack, pack_paths, read_annotations, read_image
from lightdet_core.precision import check_precision, cpu_computes_in, forward
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
COCO_DATA = (118_287, 5_000, 80)  # images of train2017 and val2017, classes
PLAN_BATCH = 4  # images of a step that the plan times on a CPU
PLAN_STEPS = 3  # after PLAN_WARM_UP
PLAN_WARM_UP = 2
OBJECTS = 7  # per made-up image; COCO has 7.3


# ---------------------------------------------------------------------------------------- a step


class Learner(NamedTuple):
    """What a training step changes."""

    model: LightDet
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of the fp16 loss; switched off in other precisions
    average: dict[str, Tensor]  # empty without a moving average


def make_learner(
    config: Config,
    device: torch.device,
    memory: torch.memory_format = torch.channels_last,
    fused: bool = True,
) -> Learner:
    """An untrained network and its optimizer; `fused=False` takes torch's default kernels."""
    torch.manual_seed(config.seed)
    train = config.train
    model = LightDet(config.model).to(device, memory_format=memory).train()
    average = {k: v.clone() for k, v in model.state_dict().items()} if train.ema_decay else {}
    if train.precision == "fp16-pure":
        model = model.half()
    optimizer = make_optimizer(model, train)
    if not fused:
        optimizer._step_supports_amp_scaling = False  # the scaler itself skips an overflow then
        for group in optimizer.param_groups:
            group["fused"] = None
    scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
    return Learner(model, optimizer, scaler, average)


def learn(learner: Learner, batch: Batch, config: Config, step: int, loss: Callable) -> None:
    """One training step; `loss(model, logits, batch, config)` is a scalar."""
    learner.optimizer.zero_grad(set_to_none=True)
    logits = forward(learner.model, batch.images, config.train.precision)
    learner.scaler.scale(loss(learner.model, logits, batch, config)).backward()
    update(learner, config, step)


def update(learner: Learner, config: Config, step: int) -> None:
    """What follows the backward pass: clipping, the optimizer's step, the moving average."""
    train = config.train
    learner.scaler.unscale_(learner.optimizer)
    if train.grad_clip:
        nn.utils.clip_grad_norm_(learner.model.parameters(), train.grad_clip)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    if train.ema_decay:
        decay = ema_decay(train.ema_decay, step, train.ema_ramp)
        update_average(learner.average, learner.model, decay)


def clock(device: torch.device) -> float:
    """Seconds, when all that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def step_times(
    config: Config, device: torch.device, steps: int = 20, warm_up: int = 3
) -> dict[str, list[float]]:
    """Seconds that each part of a training step takes, per step.

    Dense and without a teacher, whatever the experiment says.

    "assignment and loss" holds the loss's own backward pass to the logits; "backward" is that of
    the network. "optimizer" holds the step, with clipping and moving average if any. On a GPU each
    part waits for the one before, so that their sum is more than a step takes.
    """
    annotations = split_paths(config, "train")[0]
    pack = open_pack(pack_paths(config, "train", config.model.input_size), annotations)
    config = with_classes(config, pack)
    learner = make_learner(config, device)
    times: dict[str, list[float]] = {part: [] for part in PARTS}

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        start = clock(device)
        yield
        times[part].append(clock(device) - start)

    for step in range(warm_up + steps):
        learner.optimizer.zero_grad(set_to_none=True)
        with timed("augmentation"):
            batch = training_batch(pack, config, config.seed, step, device)
        with timed("forward"):
            logits = forward(learner.model, batch.images, config.train.precision)
        with timed("assignment and loss"):
            leaves = [x.detach().requires_grad_() for x in logits]
            learner.scaler.scale(loss_at_once(learner.model, leaves, batch, config)).backward()
        with timed("backward"):
            torch.autograd.backward(logits, [leaf.grad for leaf in leaves])
        with timed("optimizer"):
            update(learner, config, step)
    return {part: values[warm_up:] for part, values in times.items()}


def loss_at_once(
    model: LightDet,
    logits: tuple[Tensor, Tensor],
    batch: Batch,
    config: Config,
    teacher: LightDet | None = None,
) -> Tensor:
    """The sum of the losses of a batch, as in training."""
    taught = None
    if teacher is not None:
        with torch.no_grad():
            taught = forward(teacher, batch.images, config.train.precision)
    terms = batch_loss(model, *logits, batch, config, taught)
    return sum(value for name, value in terms.items() if name.startswith("loss_"))


# ------------------------------------------------------------------------------ the usual way


def loss_by_image(
    model: LightDet, logits: tuple[Tensor, Tensor], batch: Batch, config: Config
) -> Tensor:
    """The same, image by image, as NanoDet assigns targets."""
    ones = zip(*(x.split(1) for x in (*logits, *batch)), strict=True)
    losses = [loss_at_once(model, one[:2], Batch(*one[2:]), config) for one in ones]
    return sum(losses) / len(losses)


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
    random, samples = np.random.default_rng((seed, step)), []
    starts = np.cumsum(truth.counts) - truth.counts
    most = max(1, int(truth.counts.max()))
    for row in batch_indices(len(truth.counts), config.train.batch_size, seed, step).tolist():
        sides = truth.sizes[row]
        original = read_image(folder / truth.file_names[row], *sides.tolist())
        fit, zoom, shift = (size / sides).min(), 1.0, np.zeros(2)
        if random.random() < settings.warp_probability:
            zoom = random.uniform(*settings.scale)
        if random.random() < settings.warp_probability:
            shift = random.uniform(-settings.translate, settings.translate, 2) * sides * fit
        mirror = -1 if random.random() < settings.flip else 1
        scale = np.array([mirror * zoom * fit, zoom * fit])
        offset = size / 2 + shift - scale * sides / 2
        inverse = (1 / scale[0], 0, -offset[0] / scale[0], 0, 1 / scale[1], -offset[1] / scale[1])
        image = Image.fromarray(original).transform(
            (size, size), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR
        )
        pixels = np.asarray(image, np.float32)
        if random.random() < settings.color_probability:
            pixels = pixels + 255 * random.uniform(-settings.brightness, settings.brightness)
        if random.random() < settings.color_probability:
            pixels = pixels * random.uniform(*settings.contrast)
        if random.random() < settings.color_probability:
            highest = pixels.max(-1, keepdims=True)
            pixels = highest + (pixels - highest) * random.uniform(*settings.saturation)

        own = slice(starts[row], starts[row] + truth.counts[row])
        corners = (truth.boxes[own].reshape(-1, 2, 2) * scale + offset).clip(0, size)
        boxes, labels = np.zeros((most, 4), np.float32), np.zeros(most, np.int64)
        mask = np.zeros(most, bool)
        boxes[: len(corners)] = np.concatenate([corners.min(1), corners.max(1)], 1)
        labels[: len(corners)] = truth.labels[own]
        mask[: len(corners)] = ~truth.crowd[own]
        mask &= (boxes[:, 2:] - boxes[:, :2]).min(1) >= 2
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
        samples.append((pixels, boxes * mask[:, None], labels * mask, mask))
    images, boxes, labels, mask = (
        torch.from_numpy(np.stack(x)) for x in zip(*samples, strict=True)
    )
    return Batch(images, boxes, labels, mask, mask.float())


def compare_ways(
    config: Config, device: torch.device, steps: int = 20, warm_up: int = 3
) -> dict[str, list[float]]:
    """Seconds per training step: ours, then each shortcut taken out after the other.

    Each way is the one before it and one thing more; they take turns within one run. Dense and
    without a teacher. The last but one reads files in the training process, where NanoDet's own
    loader has processes of its own: on a GPU with idle cores beside it they would hide that time.
    """
    annotations, folder = split_paths(config, "train")
    pack = open_pack(pack_paths(config, "train", config.model.input_size), annotations)
    config = with_classes(config, pack)
    truth = read_annotations(annotations, config.data.skip_broken)

    def ours(step: int) -> Batch:
        return training_batch(pack, config, config.seed, step, device)

    def usual(step: int) -> Batch:
        batch = augment_from_files(truth, folder, config, config.seed, step)
        return Batch(*(x.to(device) for x in batch))

    def way(memory: torch.memory_format, loss: Callable, batches: Callable, fused=True) -> Callable:
        learner = make_learner(config, device, memory, fused)

        def run(step: int) -> None:
            batch = batches(step)
            batch = batch._replace(images=batch.images.contiguous(memory_format=memory))
            learn(learner, batch, config, step, loss)

        return run

    last, plain = torch.channels_last, torch.contiguous_format
    ways = {
        "ours": way(last, loss_at_once, ours),
        "default memory format": way(plain, loss_at_once, ours),
        "and loss image by image": way(plain, loss_by_image, ours),
        "and augmentation image by image, from files": way(plain, loss_by_image, usual),
        "and optimizer not fused": way(plain, loss_by_image, usual, fused=False),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(warm_up + steps):
        for name, run in ways.items():
            start = clock(device)
            run(step)
            times[name].append(clock(device) - start)
    return {name: values[warm_up:] for name, values in times.items()}


# --------------------------------------------------------------------------------------- the plan


class Cost(NamedTuple):
    """Of training with one network, batch size and precision, in one process."""

    images_per_second: float
    memory: int  # bytes at the run's own batch size


def made_up_batch(config: Config, batch_size: int, device: torch.device) -> Batch:
    """Noise with OBJECTS random boxes per image: what a step costs needs no data."""
    size, random = config.model.input_size, torch.Generator().manual_seed(config.seed)
    images = torch.randint(256, (batch_size, 3, size, size), generator=random).float()
    corners = torch.rand(batch_size, OBJECTS, 2, 2, generator=random).sort(2).values
    labels = torch.randint(config.model.num_classes, (batch_size, OBJECTS), generator=random)
    mask = torch.ones(batch_size, OBJECTS, dtype=torch.bool)
    images = images.to(device, memory_format=torch.channels_last)
    targets = (size * corners.flatten(2), labels, mask, mask.float())
    return Batch(images, *(x.to(device) for x in targets))


def saved_bytes(compute: Callable[[], object], known: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of `compute()`, without those of `known`."""
    without = {x.untyped_storage().data_ptr() for x in known}
    kept = {}  # holds the storages, so that no address is used twice

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in without:
            kept[storage.data_ptr()] = storage
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        compute()
    return sum(storage.nbytes() for storage in kept.values())


def state_bytes(learner: Learner) -> int:
    """Bytes of weights, gradients, the optimizer's state and the moving average after a step."""
    parameters = list(learner.model.parameters())
    slots = [x for state in learner.optimizer.state.values() for x in state.values()]
    tensors = [
        *parameters,
        *learner.model.buffers(),
        *(x.grad for x in parameters if x.grad is not None),
        *(x for x in slots if isinstance(x, Tensor)),
        *learner.average.values(),
    ]
    return sum(x.nbytes for x in tensors)


def measure(config: Config, teacher_settings: ModelConfig | None, device: torch.device) -> Cost:
    """Speed and memory of training, from a few steps on made-up batches.

    On a GPU both are measured at the run's batch size. On a CPU the speed is that of PLAN_BATCH
    images. The memory there is what must be held at once: the state and what autograd keeps for
    the backward pass, for one image and for each further one; work space of the libraries and the
    batch itself come on top.

    Raises:
        torch.OutOfMemoryError: the batch does not fit on the GPU.
    """
    on_gpu, batch_size = device.type == "cuda", config.train.batch_size
    before = 0
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    teacher = None
    if teacher_settings is not None:
        teacher = LightDet(teacher_settings).eval().requires_grad_(False)
        teacher = teacher.to(device, memory_format=torch.channels_last)
        if config.train.precision == "fp16-pure":
            teacher = teacher.half()
    loss = partial(loss_at_once, teacher=teacher)
    learner = make_learner(config, device)
    timed_images = batch_size if on_gpu else min(PLAN_BATCH, batch_size)
    batch = made_up_batch(config, timed_images, device)
    seconds = []
    for step in range(PLAN_WARM_UP + PLAN_STEPS):
        start = clock(device)
        learn(learner, batch, config, step, loss)
        seconds.append(clock(device) - start)
    speed = timed_images / statistics.median(seconds[PLAN_WARM_UP:])
    if on_gpu:
        return Cost(speed, torch.cuda.max_memory_allocated(device) - before)

    def compute(images: int) -> Tensor:
        some = made_up_batch(config, images, device)
        logits = forward(learner.model, some.images, config.train.precision)
        return loss(learner.model, logits, some, config)

    weights = [*learner.model.parameters(), *learner.model.buffers()]
    one, two = (saved_bytes(partial(compute, images), weights) for images in (1, 2))
    of_teacher = sum(x.nbytes for x in teacher.state_dict().values()) if teacher else 0
    return Cost(speed, state_bytes(learner) + of_teacher + one + (batch_size - 1) * (two - one))


def data_counts(config: Config) -> tuple[int, int, int]:
    """Images to train on, images to evaluate, classes: known for COCO, else those of the packs.

    Raises:
        DataError: neither packs nor a number in params.yaml.
    """
    data, classes = config.data, config.model.num_classes
    if data.source == "coco":
        return COCO_DATA
    paths = [pack_paths(config, split, config.model.input_size) for split in ("train", "val")]
    if all(path.is_dir() for path in paths):
        train, val = (open_pack(path) for path in paths)
        return len(train.counts), len(val.counts), len(train.categories)
    if data.num_train and data.num_val and classes:
        return data.num_train, data.num_val, classes
    raise DataError(
        f"{config.profile}: how many images there are is known once they are packed; run "
        f"python -m lightdet_core.datasets --profile {config.profile}, then "
        f"python -m lightdet_core.pack --profile {config.profile}"
    )


def hours(config: Config, images: int, images_per_second: float) -> float:
    """Of a whole training with `images` to train on."""
    train = config.train
    steps = train.epochs * steps_per_epoch(images, train.batch_size)
    return steps * train.batch_size / images_per_second / 3600


def pack_bytes(configs: list[Config], num_train: int, num_val: int) -> int:
    """Of the packs that the runs need: one to train, one to evaluate per input size."""
    val = sum(3 * num_val * size**2 for size in {c.model.input_size for c in configs})
    return 3 * num_train * configs[0].data.pack_size ** 2 + val


def disk_line(configs: list[Config], num_train: int, num_val: int) -> str:
    """What the data of a profile take on disk, and what is free."""
    text = f"{pack_bytes(configs, num_train, num_val) / 1e9:.1f} GB of packs"
    if configs[0].data.source == "coco" and not os.environ.get("LIGHTDET_COCO"):
        loaded, unpacked = (sum(about[i] for about in COCO_FILES.values()) / 1e9 for i in (1, 3))
        text = f"{loaded:.1f} GB to download, {unpacked:.1f} GB when unpacked, and {text}"
    return f"disk: {text}; {shutil.disk_usage(ROOT).free / 1e9:.1f} GB are free"


def as_measured(config: Config, classes: int, device: torch.device) -> Config:
    """The settings with the classes of the data and, on a CPU, a precision that it is made for."""
    model = dataclasses.replace(config.model, num_classes=config.model.num_classes or classes)
    train = config.train
    # a CPU's backward pass takes a hundred times as long in fp16
    if device.type == "cpu" and not (train.precision == "bf16" and cpu_computes_in("bf16")):
        train = dataclasses.replace(train, precision="fp32")
    return dataclasses.replace(config, model=model, train=train)


COLUMNS = "{:13} {:22} {:>4} {:>6} {:>10} {:>8} {:>7} {:>9} {:>9} {:>10} {:>10}"
HEADINGS = ("experiment", "network", "px", "batch", "precision", "images", "epochs", "steps")
HEADINGS += ("images/s", "hours", "memory")
NOTES = """\
An estimate from {} steps of {} images per network, with made-up images and objects; augmentation
and evaluation come on top. Memory is that of one process that holds the whole batch.""".format
NOTE_PRECISION = "* measured in fp32: it is made for GPUs, where fp16 halves most of the memory"


def plan(
    profile: str | None, with_ladder: bool = False, progress: Callable[[str], None] = print
) -> float:
    """Print what training will need, per experiment and for one seed of each.

    Args:
        profile: None takes params.yaml's.
        with_ladder: the experiments of `make ladder`, too.
        progress: takes one line of text at a time.

    Returns:
        The hours of all.

    Raises:
        DataError: see `data_counts`.
    """
    params = read_params()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = all_runs(params) + (params["ladder"] if with_ladder else [])
    configs = [load_config(name, profile, params=params) for name in names]
    num_train, num_val, classes = data_counts(configs[0])
    keep_memory()
    progress(f"machine: {hardware(device)}")
    progress(disk_line(configs, num_train, num_val))
    progress(NOTES(PLAN_STEPS, "all" if device.type == "cuda" else PLAN_BATCH))
    progress(COLUMNS.format(*HEADINGS))

    costs: dict[tuple, Cost | None] = {}
    total, exact = 0.0, True
    for config in configs:
        run, teacher, train = as_measured(config, classes, device), None, config.train
        if config.distill.teacher:
            teacher = load_config(config.distill.teacher, profile, params=params)
            teacher = as_measured(teacher, classes, device).model
        same = run.train.precision == train.precision
        exact = exact and same
        key = (run.model, run.train.precision, train.batch_size, train.optimizer)
        key += (train.ema_decay > 0, teacher)
        if key not in costs:
            try:
                costs[key] = measure(run, teacher, device)
            except torch.OutOfMemoryError:
                costs[key] = None
        found = ("", "", "too large")
        if costs[key]:
            speed, memory = costs[key]
            needed = hours(config, num_train, speed)
            total += needed
            digits = 2 if needed < 10 else 0
            found = (f"{speed:.1f}", f"{needed:,.{digits}f}", f"{memory / 1e9:.2f} GB")
        about = (config.model.backbone, config.model.activation, config.model.head)
        steps = train.epochs * steps_per_epoch(num_train, train.batch_size)
        values = (config.experiment, " ".join(about), config.model.input_size, train.batch_size)
        values += (train.precision + ("" if same else "*"), f"{num_train:,}", train.epochs)
        progress(COLUMNS.format(*values, f"{steps:,}", *found))
    if not exact:
        progress(NOTE_PRECISION)
    if None in costs.values():
        progress("too large: for this GPU's memory and not in the total; lower train.batch_size")
    progress(f"total: {total:,.1f} hours on this machine, one process")
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description="Where a training step goes; what training needs.")
    parser.add_argument("--experiment", default="c0")
    parser.add_argument("--profile", help="default: params.yaml's")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--input-size", type=int, help="pixels; default: the experiment's")
    parser.add_argument("--steps", type=int, default=20)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--compare", action="store_true", help="whole steps, against the usual way")
    what.add_argument("--plan", action="store_true", help="hours, memory, disk of all experiments")
    parser.add_argument("--ladder", action="store_true", help="with --plan: the ladder's, too")
    args = parser.parse_args()
    if args.ladder and not args.plan:
        parser.error("--ladder goes with --plan")
    if min(args.steps, args.batch_size) < 1:
        parser.error("--steps and --batch-size must be at least 1")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # as in training
        if args.plan:
            plan(args.profile, args.ladder, partial(print, flush=True))
        else:
            time_steps(args, parser)


def time_steps(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Time steps of one experiment, print the medians and write them to results/."""
    config = load_config(args.experiment, args.profile)
    size = args.input_size or config.model.input_size
    if size < 32 or size % 16:
        parser.error("--input-size must be a multiple of 16, at least 32")
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, batch_size=args.batch_size),
        model=dataclasses.replace(config.model, input_size=size),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_precision(config.train.precision, device)
    keep_memory()
    timed = compare_ways if args.compare else step_times
    medians = {k: statistics.median(v) for k, v in timed(config, device, args.steps).items()}
    total = medians["ours"] if args.compare else sum(medians.values())
    for part, seconds in medians.items():
        print(f"{part:44} {1000 * seconds:8.1f} ms {100 * seconds / total:6.1f} %")
    print(f"{'a step of ours':44} {1000 * total:8.1f} ms   {args.batch_size / total:.1f} images/s")
    name = "compare" if args.compare else "step"
    name += "" if device.type == "cpu" else f"-{device.type}"
    path = ROOT / "results" / config.profile / "benchmarks" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "command": f"python -m lightdet_core.benchmark --experiment {config.experiment} "
        f"--profile {config.profile} --batch-size {args.batch_size} --input-size {size} "
        f"--steps {args.steps}{' --compare' if args.compare else ''}",
        **git_state(),
        "hardware": hardware(device),
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
