"""What the training of a profile will need: hours, memory, disk.

    lightdet plan --profile coco [--ladder]

It takes some steps with made-up images, so that it can be asked before anything is downloaded.
"""

import dataclasses
import shutil
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lightdet_core.augment import steps_per_epoch
from lightdet_core.boxes import Batch
from lightdet_core.config import (
    Config,
    DataError,
    ModelConfig,
    all_runs,
    load_config,
    read_params,
    root,
)
from lightdet_core.machinery.distributed import best_device
from lightdet_core.machinery.files import split_paths
from lightdet_core.machinery.packs import open_pack, pack_path
from lightdet_core.machinery.precision import cpu_computes_in, exact
from lightdet_core.machinery.provenance import hardware
from lightdet_core.machinery.runs import keep_memory
from lightdet_core.model import LightDet
from lightdet_core.train_state import State
from lightdet_tools.cost.benchmark import learn, untrained
from lightdet_tools.data.annotations import read_annotations
from lightdet_tools.data.sources import COCO_IMAGES, coco_files, minicoco_ids
from lightdet_tools.timing import clock

COCO_CLASSES = 80
BATCH = 4  # images of a step that is timed on a CPU
STEPS = 3  # after WARM_UP
WARM_UP = 2
OBJECTS = 7  # per made-up image; COCO has 7.3


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


def state_bytes(state: State) -> int:
    """Bytes of weights, gradients, the optimizer's state and the moving average after a step."""
    parameters = list(state.model.parameters())
    tensors = [*parameters, *state.model.buffers(), *(state.average or {}).values()]
    tensors += [x.grad for x in parameters if x.grad is not None]
    tensors += [x for slots in state.optimizer.state.values() for x in slots.values()]
    return sum(x.nbytes for x in tensors)


def measure(config: Config, teacher_settings: ModelConfig | None, device: torch.device) -> Cost:
    """Speed and memory of training, from a few steps on made-up batches.

    On a GPU both are measured at the run's batch size. On a CPU the speed is that of BATCH images.
    The memory there is what must be held at once: the state and what autograd keeps for the
    backward pass, for one image and for each further one; work space of the libraries and the
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
    state, teacher = untrained(config, device), None
    if teacher_settings is not None:
        teacher = LightDet(teacher_settings).eval().requires_grad_(False)
        dtype = next(state.model.parameters()).dtype
        teacher = teacher.to(device, dtype, memory_format=torch.channels_last)
    images = batch_size if on_gpu else min(BATCH, batch_size)
    batch = made_up_batch(config, images, device)
    seconds = []
    for step in range(WARM_UP + STEPS):
        start = clock(device)
        learn(state, batch, config, step, teacher)
        seconds.append(clock(device) - start)
    speed = images / statistics.median(seconds[WARM_UP:])
    if on_gpu:
        return Cost(speed, torch.cuda.max_memory_allocated(device) - before)

    weights = [*state.model.parameters(), *state.model.buffers()]
    few = [made_up_batch(config, count, device) for count in (1, 2)]
    one, two = (saved_bytes(partial(learn, state, x, config, 0, teacher), weights) for x in few)
    of_teacher = sum(x.nbytes for x in teacher.state_dict().values()) if teacher else 0
    return Cost(speed, state_bytes(state) + of_teacher + one + (batch_size - 1) * (two - one))


def data_counts(config: Config) -> tuple[int, int, int]:
    """Images to train on, images to evaluate, classes: COCO's, or those of packs or of a folder.

    Raises:
        DataError: neither packs nor a number in params.yaml, or unreadable annotations.
    """
    data, classes = config.data, config.model.num_classes
    if data.source in ("coco", "minicoco"):
        listed = {split: len(ids) for split, ids in minicoco_ids().items()}
        images = listed if data.source == "minicoco" else COCO_IMAGES
        return images["train"], images["val"], len(data.classes) or COCO_CLASSES
    paths = [pack_path(config, split) for split in ("train", "val")]
    if all(path.is_dir() for path in paths):
        train, val = (open_pack(path) for path in paths)
        return len(train.counts), len(val.counts), len(train.categories)
    if data.num_train and data.num_val and classes:
        return data.num_train, data.num_val, classes
    if data.source == "folder":
        paths = (split_paths(config, split)[0] for split in ("train", "val"))
        train, val = (read_annotations(path, True, data.classes) for path in paths)
        return len(train.image_ids), len(val.image_ids), len(train.categories)
    raise DataError(
        f"{config.profile}: how many images there are is known once they are packed; run "
        f"lightdet data --profile {config.profile}, then lightdet pack --profile {config.profile}"
    )


def total_steps(config: Config, images: int) -> int:
    """Of a whole training with `images` to train on."""
    return config.train.epochs * steps_per_epoch(images, config.train.batch_size)


def hours(config: Config, images: int, images_per_second: float) -> float:
    """Of a whole training with `images` to train on."""
    return total_steps(config, images) * config.train.batch_size / images_per_second / 3600


def pack_bytes(configs: list[Config], num_train: int, num_val: int) -> tuple[int, int]:
    """Of the pack to train on, which the runs share, and of those to evaluate, one per size."""
    val = sum(3 * num_val * size**2 for size in {c.model.input_size for c in configs})
    return 3 * num_train * configs[0].data.pack_size ** 2, val


def disk_line(configs: list[Config], packs: int) -> str:
    """What the data of a profile take on disk, `packs` bytes of them packed, and what is free."""
    text, needed, archives = f"{packs / 1e9:.1f} GB of packs", packs, coco_files(configs[0])
    if archives:
        loaded, unpacked = (sum(about[i] for about in archives.values()) for i in (1, 3))
        text = (
            f"{loaded / 1e9:.1f} GB to download, {unpacked / 1e9:.1f} GB when unpacked, and {text}"
        )
        needed += unpacked
    folders = [root() / "data" / configs[0].profile / "packs", *archives]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    there = sum(path.stat().st_size for path in files)  # it takes no more
    free = shutil.disk_usage(root()).free
    verdict = ", which is too little" if needed - there > free else ""
    return f"disk: {text}; {free / 1e9:.1f} GB are free{verdict}"


def as_measured(config: Config, classes: int, device: torch.device) -> Config:
    """The settings with the classes of the data and, on a CPU, a precision that it is made for."""
    train = config.train
    # a CPU's backward pass takes a hundred times as long in fp16
    if device.type == "cpu" and not (train.precision == "bf16" and cpu_computes_in("bf16")):
        train = dataclasses.replace(train, precision="fp32")
    return dataclasses.replace(
        config.with_model(num_classes=config.model.num_classes or classes), train=train
    )


COLUMNS = "{:13} {:22} {:>4} {:>6} {:>10} {:>8} {:>7} {:>9} {:>9} {:>10} {:>10}"
HEADINGS = ("experiment", "network", "px", "batch", "precision", "images", "epochs", "steps")
HEADINGS += ("images/s", "hours", "memory")
NOTES = """\
An estimate from {} steps of {} images per network, with made-up images and objects; augmentation
and evaluation come on top. Memory is that of one process that holds the whole batch.""".format
GPU_LINE = (  # the half is augment.on_device's
    "GPU: the memory below, and {:.1f} GB of packed images if they take at most half of the {:.1f} "
    "GB that are free"
).format


@exact()  # as in training
def estimate(
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
    device = best_device()
    names = all_runs(params) + (params["ladder"] if with_ladder else [])
    configs = [load_config(name, profile, params=params) for name in names]
    num_train, num_val, classes = data_counts(configs[0])
    packs = pack_bytes(configs, num_train, num_val)
    keep_memory()
    progress(f"machine: {hardware(device)}")
    progress(disk_line(configs, sum(packs)))
    progress(NOTES(STEPS, "all" if device.type == "cuda" else BATCH))
    if device.type == "cuda":
        progress(GPU_LINE(packs[0] / 1e9, torch.cuda.mem_get_info(device)[0] / 1e9))
    progress(COLUMNS.format(*HEADINGS))

    costs: dict[tuple, Cost | None] = {}
    total, as_asked = 0.0, True
    for config in configs:
        run, teacher, train = as_measured(config, classes, device), None, config.train
        if config.distill.teacher:
            teacher = load_config(config.distill.teacher, profile, params=params)
            teacher = as_measured(teacher, classes, device).model
        same = run.train.precision == train.precision
        as_asked = as_asked and same
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
        values = (config.experiment, " ".join(about), config.model.input_size, train.batch_size)
        values += (train.precision + ("" if same else "*"), f"{num_train:,}", train.epochs)
        progress(COLUMNS.format(*values, f"{total_steps(config, num_train):,}", *found))
    if not as_asked:
        progress("* measured in fp32: it is made for GPUs, where fp16 halves most of the memory")
    if None in costs.values():
        progress(
            "too large: for this GPU, not in the total; lower train.batch_size or use more GPUs"
        )
    progress(f"total: {total:,.1f} hours on this machine, one process")
    if not with_ladder:
        name = configs[0].profile
        progress(f"and the ladder: python -m lightdet_tools plan --ladder --profile {name}")
    return total
