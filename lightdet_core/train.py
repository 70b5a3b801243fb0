"""Training one experiment: the loop, schedule, moving average, checkpoint and resume.

`fit(config)` leaves a run folder with weights.safetensors, metrics.json, log.csv, run.json and
detections.json. Until then the run lives in `.checkpoints/` beside it, keyed by its settings and
data, and continues from there after any interruption, to the same weights (bit for bit on a CPU):
every random number is keyed by (seed, step) and nothing else is carried along.

    python -m lightdet_core.train --experiment g1 --profile demo --seed 0
"""

import argparse
import csv
import ctypes
import dataclasses
import hashlib
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightdet_core.assign import atss
from lightdet_core.augment import Batch, steps_per_epoch, training_batch
from lightdet_core.boxes import level_grid
from lightdet_core.config import ROOT, Config, TrainConfig, UserError, load_config, run_cli
from lightdet_core.datasets import split_paths
from lightdet_core.evaluate import coco_metrics, detect_pack, truth_of
from lightdet_core.losses import detection_loss
from lightdet_core.model import LightDet, build, save_weights
from lightdet_core.pack import Pack, open_pack, pack_paths

LOG_COLUMNS = ("step", "epoch", "lr", "loss", "loss_qfl", "loss_giou", "loss_dfl", "num_pos")
LIBRARIES = ("torchvision", "timm", "numpy", "pycocotools", "safetensors")
SECONDS_BETWEEN_LINES = 5.0


class TrainError(UserError):
    """Training cannot start or go on; the message says what to do."""


def learning_rate(train: TrainConfig, step: int, epoch_steps: int) -> float:
    """Learning rate of a step (counted from 0): linear warm-up, then multistep or cosine.

    The warm-up is k = 1 - (1 - step / warmup_steps) (1 - warmup_lr / lr), as in NanoDet; the
    paper's is 0.0003 -> 0.16 in 500 steps.
    """
    if step < train.warmup_steps:
        ratio = train.warmup_lr / train.lr
        return train.lr * (1 - (1 - step / train.warmup_steps) * (1 - ratio))
    if train.schedule == "multistep":
        return train.lr * 0.1 ** sum(step // epoch_steps >= m for m in train.milestones)
    span = max(train.epochs * epoch_steps - train.warmup_steps, 1)
    share = (step - train.warmup_steps) / span
    return train.final_lr + (train.lr - train.final_lr) * (1 + math.cos(math.pi * share)) / 2


def ema_decay(decay: float, step: int, ramp: int) -> float:
    """Decay of the moving average, growing from near 0: d (1 - exp(-(1 + step) / ramp))."""
    return decay * (1 - math.exp(-(1 + step) / ramp))


def make_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """SGD (momentum 0.9, no Nesterov) or AdamW; decay on every parameter, as NanoDet has it."""
    if train.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=train.lr,
            momentum=0.9,
            weight_decay=train.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(
        model.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True
    )


def batch_loss(
    model: LightDet, cls_logits: Tensor, box_logits: Tensor, batch: Batch, config: Config
) -> dict[str, Tensor]:
    """Assignment and losses of one batch; see `losses.detection_loss`."""
    height, width = batch.images.shape[-2:]
    points, strides, level_sizes = level_grid(height, width, batch.images.device)
    matched_gt, _ = atss(
        points, strides, level_sizes, batch.gt_boxes, batch.gt_mask, config.model.cell_scale
    )
    return detection_loss(
        cls_logits,
        box_logits,
        model.head.quality_logits(box_logits),
        points,
        strides,
        matched_gt,
        batch.gt_boxes,
        batch.gt_labels,
        batch.gt_weights,
        config.train.label_smoothing,
    )


def fit(
    config: Config,
    runs: Path | None = None,
    progress: Callable[[str], None] = print,
    device: str | None = None,
) -> Path:
    """Train, evaluate and write one run.

    A finished run with the same settings and data is returned as it is. One with others is moved
    aside, never overwritten. (DVC removes a stage's outputs before it runs the stage; its cache
    keeps them.) Ctrl-C ends after the current step and keeps a checkpoint.

    Args:
        config: of `load_config`.
        runs: where run folders (and `.checkpoints`) go; None is `runs/<profile>` in the repository.
        progress: takes one line of text at a time.
        device: "cpu" or "cuda"; None takes the GPU where there is one.

    Returns:
        The run folder.

    Raises:
        TrainError: no data to train on, classes that do not fit, a loss that is not finite.
    """
    runs = runs or ROOT / "runs" / config.profile
    folder = runs / config.run_name
    packs = {
        split: open_pack(
            pack_paths(config, split, config.model.input_size), split_paths(config, split)[0]
        )
        for split in ("train", "val")
    }
    config = with_classes(config, packs["train"])
    key = _run_key(config, packs)
    if folder.exists():
        found = _finished_key(folder)
        if found == key:
            progress(f"{folder.name}: finished already, nothing to train ({folder})")
            return folder
        aside, number = folder.with_name(f"{folder.name}.{found}"), 1
        while aside.exists():
            aside, number = folder.with_name(f"{folder.name}.{found}.{number}"), number + 1
        folder.rename(aside)
        progress(f"{folder.name}: the run with other settings is kept as {aside.name}")

    keep_memory()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    checkpoint = runs / ".checkpoints" / f"{config.run_name}-{key}.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # fp32 is fp32
        state, speed = _train(config, packs["train"], checkpoint, device, progress)

    model = build(dataclasses.replace(config, model=_untrained(config)))
    model.load_state_dict(state)
    model = model.to(device, memory_format=torch.channels_last)
    progress(f"{config.run_name}: evaluating {len(packs['val'].images)} images")
    detections = detect_pack(model, packs["val"], config.evaluate, device)
    metrics = coco_metrics(truth_of(split_paths(config, "val")[0], packs["val"]), detections)

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_weights(partial / "weights.safetensors", state, config, packs["train"].categories)
    _write_json(partial / "metrics.json", {"config": config.hash, **_rounded(metrics)})
    (partial / "detections.json").write_text(json.dumps(detections))
    shutil.copy(_log_path(checkpoint), partial / "log.csv")
    run = _provenance(config, model, packs, device) | speed | {"key": key}
    _write_json(partial / "run.json", run)
    partial.rename(folder)
    for leftover in (checkpoint, _log_path(checkpoint)):
        leftover.unlink(missing_ok=True)
    progress(
        f"{config.run_name}: AP {metrics['AP']:.3f}  AP50 {metrics['AP50']:.3f}  "
        f"AP75 {metrics['AP75']:.3f}  ({folder})"
    )
    return folder


def _train(
    config: Config,
    pack: Pack,
    checkpoint: Path,
    device: torch.device,
    progress: Callable[[str], None],
) -> tuple[dict[str, Tensor], dict]:
    """The loop. Returns the final weights (averaged if asked) and the speed of this process."""
    train, name = config.train, config.run_name
    torch.manual_seed(config.seed)
    resumed = checkpoint.is_file()
    # a resumed run takes every tensor from its checkpoint
    model = build(dataclasses.replace(config, model=_untrained(config)) if resumed else config)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, train)
    average = {k: v.clone() for k, v in model.state_dict().items()} if train.ema_decay else None
    start = _load_checkpoint(checkpoint, model, optimizer, average) if resumed else 0

    epoch_steps = steps_per_epoch(len(pack.images), train.batch_size)
    steps = train.epochs * epoch_steps
    if start:
        progress(f"{name}: continuing at step {start} of {steps}")
    began = shown = time.monotonic()
    with _log_writer(_log_path(checkpoint), start) as write_row, _interruptible() as stop:
        for step in range(start, steps):
            torch.manual_seed(config.seed * 1_000_003 + step)  # stochastic depth
            lr = learning_rate(train, step, epoch_steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            batch = training_batch(pack, config, config.seed, step, device)
            terms = batch_loss(model, *model(batch.images), batch, config)
            loss = terms["loss_qfl"] + terms["loss_giou"] + terms["loss_dfl"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if train.grad_clip:
                nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip)
            optimizer.step()
            if average is not None:
                update_average(average, model, ema_decay(train.ema_decay, step, train.ema_ramp))

            done, now, last = step + 1, time.monotonic(), step + 1 == steps
            save = done % train.checkpoint_steps == 0 or last or stop.is_set()
            if done % train.log_steps == 0 or save:
                value = loss.item()
                if not math.isfinite(value):
                    raise TrainError(
                        f"{name}: the loss is {value} at step {done}; lower train.lr or raise "
                        "train.warmup_steps. The last good checkpoint, if any, is kept at "
                        f"{checkpoint}; delete it to start again"
                    )
                parts = [terms[k].item() for k in LOG_COLUMNS[4:]]
                if done % train.log_steps == 0 or last:
                    write_row([done, step // epoch_steps, lr, value, *parts])
                if now - shown > SECONDS_BETWEEN_LINES or last:
                    shown = now
                    rate = (done - start) / (now - began)
                    progress(
                        f"{name}: step {done}/{steps}  epoch {step // epoch_steps + 1}"
                        f"/{train.epochs}  lr {lr:.2e}  loss {value:.3f}"
                        f" (qfl {parts[0]:.3f} giou {parts[1]:.3f} dfl {parts[2]:.3f})"
                        f"  {rate * train.batch_size:.1f} images/s"
                        f"  {_clock((steps - done) / rate)} left"
                    )
            if save:
                _save_checkpoint(checkpoint, done, model, optimizer, average)
            if stop.is_set() and not last:
                raise KeyboardInterrupt(
                    f"{name}: stopped at step {done} of {steps}; run the same command to continue"
                )
    seconds = time.monotonic() - began
    images = (steps - start) * train.batch_size
    speed = {
        "steps": steps,
        "resumed_at": start,
        "train_seconds": round(seconds, 1),
        "images_per_second": round(images / seconds, 2) if images else None,
    }
    state = average if average is not None else model.state_dict()
    return {k: v.detach().cpu().contiguous() for k, v in state.items()}, speed


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Exponential moving average of weights and of batch-norm statistics; counters are copied."""
    now = model.state_dict()
    floating = [key for key, value in now.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[k] for k in floating], [now[k] for k in floating], 1 - decay)
    for key in now.keys() - set(floating):
        average[key].copy_(now[key])


def with_classes(config: Config, pack: Pack) -> Config:
    """Fill in `num_classes: null`; refuse a number that the annotations contradict."""
    found = len(pack.categories)
    wanted = config.model.num_classes
    if wanted not in (None, found):
        raise TrainError(
            f"{config.profile}: model.num_classes is {wanted}, but the annotations have {found} "
            f"categories; set it to {found} or null"
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=found))


def _untrained(config: Config):
    """Model settings without the ImageNet weights, for when others are loaded anyway."""
    return dataclasses.replace(config.model, pretrained=False)


def _run_key(config: Config, packs: dict[str, Pack]) -> str:
    """Settings and data in 16 characters: what a checkpoint must agree with."""
    data = "".join(pack.hash + pack.pixels for pack in packs.values())
    return config.hash[:8] + hashlib.sha256(data.encode()).hexdigest()[:8]


def _finished_key(folder: Path) -> str:
    """The key of the finished run in `folder`; "incomplete" if it is none."""
    try:
        key = json.loads((folder / "run.json").read_text())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return "incomplete"
    return key if (folder / "weights.safetensors").is_file() else "incomplete"


# --- checkpoints -----------------------------------------------------------------------------


def _save_checkpoint(
    path: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor] | None,
) -> None:
    """Everything that the next step needs, as .safetensors, written aside and then renamed.

    Raises:
        TrainError: a weight is not finite; the checkpoint before stays.
    """
    if not all(torch.isfinite(v).all() for v in model.state_dict().values()):
        raise TrainError(
            f"{path}: a weight is not finite after step {step}; lower train.lr. The checkpoint "
            "before, if any, is kept there; delete it to start again"
        )
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    if average is not None:
        tensors |= {f"average.{k}": v for k, v in average.items()}
    aside = path.with_suffix(".partial")
    save_file(
        {k: v.detach().contiguous() for k, v in tensors.items()},
        aside,
        metadata={"step": str(step)},
    )
    os.replace(aside, path)


def _load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor] | None,
) -> int:
    """Put a checkpoint back; returns the number of steps done."""
    try:
        with safe_open(path, "pt") as file:
            step = int(file.metadata()["step"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise TrainError(
            f"{path}: damaged checkpoint ({error}); delete it to start again"
        ) from None
    parts: dict[str, dict] = {"model": {}, "optimizer": {}, "average": {}}
    for key, tensor in tensors.items():
        part, name = key.split(".", 1)
        parts[part][name] = tensor
    model.load_state_dict(parts["model"])
    state: dict[int, dict] = {}
    for name, tensor in parts["optimizer"].items():
        index, slot = name.split(".", 1)
        state.setdefault(int(index), {})[slot] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, slots in optimizer.state.items():
        for slot, tensor in slots.items():
            # the fused optimizers pair raw memory: the layout must be the parameter's
            if tensor.shape == parameter.shape:
                slots[slot] = torch.empty_like(parameter).copy_(tensor)
    if average is not None:
        for key, tensor in parts["average"].items():
            average[key].copy_(tensor)
    return step


def _log_path(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".csv")


@contextmanager
def _log_writer(path: Path, start: int) -> Iterator[Callable[[list], None]]:
    """Append rows to log.csv; rows beyond the checkpoint that a resume starts from are cut."""
    rows = []
    if start:
        try:
            with path.open(newline="") as file:
                rows = list(csv.reader(file))[1:]
        except FileNotFoundError:
            raise TrainError(
                f"{path}: the log beside the checkpoint is gone; delete the checkpoint, too, to "
                "start again"
            ) from None
        rows = [row for row in rows if len(row) == len(LOG_COLUMNS) and int(row[0]) <= start]
    aside = path.with_suffix(".partial")
    with aside.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([LOG_COLUMNS, *rows])
    os.replace(aside, path)
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")

        def write(row: list) -> None:
            writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in row])
            file.flush()

        yield write


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C (or a polite kill) sets an event instead of ending in the middle of a step."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals belong to the main thread
        return

    def on_signal(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt("stopped at once; the last checkpoint is kept")
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def keep_memory() -> None:
    """Ask glibc to keep freed memory: large activations come and go at every step (1.1-1.3x)."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no separate mapping per large block
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: do not return the top of the heap


# --- what a result needs to be believed ------------------------------------------------------


def _provenance(
    config: Config, model: nn.Module, packs: dict[str, Pack], device: torch.device
) -> dict:
    return {
        "command": "python -m lightdet_core.train "
        f"--experiment {config.experiment} --profile {config.profile} --seed {config.seed}",
        "experiment": config.experiment,
        "profile": config.profile,
        "seed": config.seed,
        "config_hash": config.hash,
        "config": dataclasses.asdict(config),
        **_git_state(),
        "hardware": hardware(device),
        "versions": {
            "python": platform.python_version(),
            **{k: version(k) for k in LIBRARIES},
            "torch": str(torch.__version__),  # with the build: +cu130
        },
        "num_params": sum(p.numel() for p in model.parameters()),
        "input_size": config.model.input_size,
        "train_images": len(packs["train"].images),
        "val_images": len(packs["val"].images),
        "pack_hash": packs["train"].hash,
    }


def hardware(device: torch.device) -> str:
    """The machine in words: GPU if one was used, processor, threads."""
    info = Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.is_file() else [])
        if line.startswith("model name")
    ]
    cpu = models[0] if models else platform.processor() or platform.machine()
    text = f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(device)}; {text}" if device.type == "cuda" else text


def _git_state() -> dict:
    """Commit, and whether code or settings differ from it; None outside of a git checkout."""

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain", "-uno", "--", "lightdet_core", "params.yaml")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def publish(folder: Path, config: Config) -> None:
    """Copy the small files of a run to results/<profile>/, where git keeps them."""
    results = ROOT / "results" / config.profile
    for source, target in {
        "metrics.json": f"metrics/{config.run_name}.json",
        "log.csv": f"logs/{config.run_name}.csv",
        "run.json": f"runs/{config.run_name}.json",
    }.items():
        (results / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / source, results / target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and evaluate one experiment.")
    parser.add_argument("--experiment", required=True, help="a key of experiments in params.yaml")
    parser.add_argument("--profile", help="demo, bccd, custom or coco (default: params.yaml's)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = load_config(args.experiment, args.profile, args.seed)
    publish(fit(config, progress=lambda line: print(line, flush=True)), config)


if __name__ == "__main__":
    run_cli(main)
