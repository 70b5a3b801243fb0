"""Training one experiment: the loop, schedule, moving average, checkpoint and resume.

`fit(config)` leaves a run folder with weights.safetensors, metrics.json, log.csv, run.json and
detections.json. Until then the run lives in `.checkpoints/` beside it, keyed by its settings and
data, and continues from there after any interruption, to the same weights (bit for bit on a CPU):
every random number is keyed by (seed, step) and nothing else is carried along.

    lightdet train --experiment g1 --profile demo --seed 0

takes all visible GPUs, one process each (`distributed.py`); `torchrun` starts it on several
machines.
"""

import csv
import ctypes
import dataclasses
import hashlib
import json
import math
import platform
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightdet_core import activations, distill, sparsity
from lightdet_core.assign import atss
from lightdet_core.augment import Batch, on_device, steps_per_epoch, training_batches
from lightdet_core.boxes import level_grid
from lightdet_core.config import (
    Config,
    TrainConfig,
    UserError,
    root,
)
from lightdet_core.evaluate import coco_metrics, detect_pack
from lightdet_core.losses import detection_loss
from lightdet_core.machinery import distributed
from lightdet_core.machinery.checkpoint import (
    State,
    evaluations_path,
    log_path,
    log_writer,
    read,
    restore,
    save,
)
from lightdet_core.machinery.files import file_hash, write_json
from lightdet_core.machinery.packs import Pack, open_split, read_truth, with_classes
from lightdet_core.machinery.precision import check_precision, exact, forward
from lightdet_core.machinery.provenance import provenance, rounded
from lightdet_core.machinery.runs import (
    alone,
    finished_key,
    move_aside,
    publish,
    run_key,
    sources_of,
)
from lightdet_core.model import LightDet, build, load_weights, save_weights

LOG_COLUMNS = ("step", "epoch", "lr", "loss", "loss_qfl", "loss_giou", "loss_dfl", "num_pos")
LOG_COLUMNS += ("grad_norm",)  # of the weights that are not masked, before clipping
DISTILL_COLUMNS = ("loss_ld", "loss_ld_vlr", "loss_kd")  # after those, where there is a teacher
EVALUATION_COLUMNS = ("step", "pruned", "AP", "AP50", "AP75")  # of evaluate_epochs
SECONDS_BETWEEN_LINES = 5.0
FRESH_BATCHES = 500_009  # added to the seed that draws them
SMALLEST_SCALE = 1.0  # of the fp16 loss, from 65,536: each overflow halves it


class Run(NamedTuple):
    """What the training of one run is given."""

    config: Config  # with the number of classes that the data have
    packs: dict[str, Pack]  # train and val
    checkpoint: Path
    teacher: LightDet | None
    init: dict[str, Tensor] | None  # weights to begin with, of another run
    device: torch.device
    progress: Callable[[str], None]


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
    """SGD (momentum 0.9, no Nesterov) or AdamW; decay on every parameter, as NanoDet has it.

    Fused, but for parameters in half precision: on a CPU fused SGD (torch 2.11) leaves most of
    those as they are.
    """
    if train.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=train.lr,
            momentum=0.9,
            weight_decay=train.weight_decay,
            fused=train.precision != "fp16-pure",
        )
        for parameter in model.parameters():
            # torch allocates it unfilled in the first step, and leaves it so if that one overflows
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    return torch.optim.AdamW(
        model.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True
    )


def batch_loss(
    model: LightDet,
    cls_logits: Tensor,
    box_logits: Tensor,
    batch: Batch,
    config: Config,
    taught: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Assignment and losses of one batch; see `losses.detection_loss`.

    `taught` are a teacher's logits of the same batch: they add the terms of
    `distill.distillation_loss`.
    """
    height, width = batch.images.shape[-2:]
    points, strides, level_sizes = level_grid(height, width, batch.images.device)
    matched_gt, _ = atss(
        points, strides, level_sizes, batch.gt_boxes, batch.gt_mask, config.model.cell_scale
    )
    quality_logits = model.head.quality_logits(box_logits)
    terms = detection_loss(
        cls_logits,
        box_logits,
        quality_logits,
        points,
        strides,
        matched_gt,
        batch.gt_boxes,
        batch.gt_labels,
        batch.gt_weights,
        config.train.label_smoothing,
    )
    if taught is None:
        return terms
    return terms | distill.distillation_loss(
        cls_logits,
        box_logits,
        quality_logits,
        *taught,
        points,
        strides,
        level_sizes,
        matched_gt,
        batch.gt_boxes,
        batch.gt_mask,
        batch.gt_weights,
        config.model.cell_scale,
        config.distill,
    )


def total_loss(terms: dict[str, Tensor]) -> Tensor:
    """The sum of the losses of `batch_loss`."""
    return sum(value for name, value in terms.items() if name.startswith("loss_"))


def fit(
    config: Config,
    runs: Path | None = None,
    progress: Callable[[str], None] = print,
    device: str | None = None,
    num_processes: int | None = None,
) -> Path:
    """Train, evaluate and write one run.

    A finished run with the same settings and data is returned as it is. One with others is moved
    aside, never overwritten. (DVC removes a stage's outputs before it runs the stage; its cache
    keeps them.) Ctrl-C ends after the current step and keeps a checkpoint.

    Args:
        config: of `load_config`.
        runs: where run folders (and `.checkpoints`) go; None is `runs/<profile>` in the repository.
        progress: takes one line of text at a time.
        device: "cpu", "cuda" (one process per visible GPU) or "cuda:1"; None takes the GPUs where
            there are some.
        num_processes: to start on this machine, if `torchrun` has not done so; None: as
            `distributed.wanted` says.

    Returns:
        The run folder.

    Raises:
        UserError: classes that do not fit, or a loss that is not finite.
        UserError: weights that it starts from are missing, or another process trains this run now.
        FileNotFoundError, DataError: no packs, or damaged ones.
        UserError: what the device or apex cannot do.
        UserError: a teacher, or weights to start from, that do not fit.
        UserError: none that can be read, or no room to write one.
        UserError: one of many processes failed; see `distributed.launch`.
    """
    runs = runs or root() / "runs" / config.profile
    wanted = torch.device(device) if device else distributed.best_device()
    with distributed.joined(wanted) as own:
        many = 1
        if not distributed.started():
            many = num_processes or distributed.wanted(wanted, config.train.batch_size)
        if many == 1:
            return _fit(config, runs, progress if distributed.rank() == 0 else _silent, own)
    if wanted.index is not None:
        raise UserError(f"device {device}: one GPU, but {many} processes; leave its number out")
    progress(f"{config.run_name}: starting {many} processes")
    distributed.launch(partial(fit, config, runs, device=wanted.type), many, progress)
    return runs / config.run_name


def _silent(line: str) -> None:
    """What processes but the first report."""


def _fit(config: Config, runs: Path, progress: Callable[[str], None], device: torch.device) -> Path:
    """`fit` in one process, or in one of many."""
    folder, first = runs / config.run_name, distributed.rank() == 0
    packs = {split: open_split(config, split) for split in ("train", "val")}
    config = with_classes(config, packs["train"])
    check_precision(config.train.precision, device)
    if config.sparsity.prune_at is not None and config.sparsity.backend == "apex":
        sparsity.nvidia_asp()  # it is needed later; say now if it is not there
    sources = sources_of(config, runs)
    key = run_key(config, packs, sources)
    every = hashlib.sha256(repr(config).encode()).hexdigest()[:8]  # how often they meet, too
    distributed.check_agreement(
        f"{key}-{_code_hash()}-{every}-torch{torch.__version__}",
        "torch, code, settings, data/ and runs/ must be the same on all machines; copy one's",
    )
    if distributed.from_first(folder.exists() and finished_key(folder) == key):
        progress(f"{folder.name}: finished already, nothing to train ({folder})")
        return folder

    keep_memory()
    checkpoint = runs / ".checkpoints" / f"{config.run_name}-{key}-{_code_hash()}.safetensors"
    teacher, init = _learn_from(config, sources, packs["train"].categories, device)
    run = Run(config, packs, checkpoint, teacher, init, device, progress)
    with alone(checkpoint.with_name(f"{config.run_name}.lock")) if first else nullcontext():
        _train_and_write(run, folder, key)
        distributed.from_first(None)  # the others wait until everything is written
    return folder


def _train_and_write(run: Run, folder: Path, key: str) -> None:
    """Train, evaluate, and put the run folder into its place."""
    config, packs, device, progress = run.config, run.packs, run.device, run.progress
    truth = read_truth(packs["val"])

    def evaluate(weights: dict[str, Tensor]) -> tuple[LightDet, list[dict], dict]:
        model = build(_untrained(config))
        model.load_state_dict(weights)
        model = model.to(device, memory_format=torch.channels_last).eval()
        progress(f"{config.run_name}: evaluating {len(packs['val'].images)} images")
        detections = detect_pack(model, packs["val"], config.evaluate, device)
        found = coco_metrics(truth, detections) if distributed.rank() == 0 else None
        return model, detections, distributed.from_first(found)

    with exact():
        state, facts = _train(run, lambda weights: evaluate(weights)[2])
        model, detections, metrics = evaluate(state)
        if distributed.rank():
            return
        images = torch.from_numpy(np.array(packs["val"].images[:16])).to(device).permute(0, 3, 1, 2)
        layers = activations.report(model, images.float())
    facts["activations"] = rounded(activations.summary(layers))

    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_weights(unfinished / "weights.safetensors", state, config, packs["train"].categories)
    write_json(unfinished / "metrics.json", {"config": config.hash, **rounded(metrics)}, indent=2)
    (unfinished / "detections.json").write_text(json.dumps(detections))
    shutil.copy(log_path(run.checkpoint), unfinished / "log.csv")
    about = provenance(config, model, packs, device) | {"processes": distributed.count()}
    write_json(unfinished / "run.json", about | facts | {"key": key}, indent=2)
    if folder.exists():
        aside = move_aside(folder)
        progress(f"{folder.name}: the run with other settings is kept as {aside.name}")
    unfinished.rename(folder)
    for leftover in run.checkpoint.parent.glob(f"{config.run_name}-{key}-*"):
        leftover.unlink()
    progress(
        f"{config.run_name}: AP {metrics['AP']:.3f}  AP50 {metrics['AP50']:.3f}  "
        f"AP75 {metrics['AP75']:.3f}  ({folder})"
    )


def _learn_from(
    config: Config, sources: dict[str, Path], categories: list[dict], device: torch.device
) -> tuple[LightDet | None, dict[str, Tensor] | None]:
    """The teacher and the first weights, where the run has them."""
    teacher = init = None
    if "distill.teacher" in sources:
        teacher = distill.load_teacher(sources["distill.teacher"], config.model, categories, device)
        if config.train.precision == "fp16-pure":
            teacher = teacher.half()
    if "train.init" in sources:
        init = load_weights(sources["train.init"])[0].state_dict()
    return teacher, init


def _start(run: Run) -> tuple[State, int]:
    """The state that a run begins or goes on with, and the steps that it has done."""
    config, init, train = run.config, run.init, run.config.train
    torch.manual_seed(config.seed)
    resumed = distributed.from_first(
        read(run.checkpoint, run.progress) if distributed.rank() == 0 else None
    )  # other machines need not have the file
    # a resumed run takes every tensor from its checkpoint
    model = build(_untrained(config) if resumed or init else config)
    if init and not resumed:
        try:
            model.load_state_dict(init)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"train.init {train.init}: not the same network as {config.experiment}: {reason}"
            ) from None
    model = model.to(run.device, memory_format=torch.channels_last).train()
    model = distributed.connect(model, train)
    if train.compile:
        model.compile()  # in place: names of weights stay
    state, step = new_state(model, train, run.device), 0
    if resumed:
        step, tensors = resumed
        restore(tensors, state)
    if state.masks:
        _keep_pruned(state, config)
    return state, step


def new_state(model: LightDet, train: TrainConfig, device: torch.device) -> State:
    """The state before the first step, of a network that is on its device and in train mode."""
    average = None
    if train.ema_decay:
        average = {k: _full(v).clone() for k, v in model.state_dict().items()}
    if train.precision == "fp16-pure":
        model = model.half()
    return State(
        model=model,
        optimizer=make_optimizer(model, train),
        scaler=torch.amp.GradScaler(device.type, enabled=train.precision == "fp16"),
        average=average,
        masks={},
        skipped=torch.zeros((), device=device),
    )


def _prune(state: State, config: Config) -> None:
    """Set the 2:4 masks from the weights of now; from here on the optimizer keeps them."""
    state.masks = sparsity.make_masks(state.model)
    sparsity.apply_masks(dict(state.model.named_parameters()), state.masks)
    if state.average is not None:
        # both copies are zero there from now on, and so is every average of them
        sparsity.apply_masks(state.average, state.masks)
    _keep_pruned(state, config)


def _keep_pruned(state: State, config: Config) -> None:
    """Hook the masks into the optimizer, or let apex do it with the masks that it finds itself."""
    if config.sparsity.backend == "apex":
        state.masks = sparsity.prune_with_apex(state.model, state.optimizer)
    else:
        sparsity.attach(state.optimizer, state.model, state.masks)


def train_step(
    state: State, batch: Batch, config: Config, teacher: LightDet | None = None
) -> dict[str, Tensor]:
    """One optimizer step; returns its loss terms, their sum `loss`, and `grad_norm`.

    On many processes each has its share of the losses; they add up to those of the batch.
    """
    train, model = config.train, state.model
    logits = forward(model, batch.images, train.precision)
    taught = None
    if teacher is not None:
        with torch.no_grad():
            taught = forward(teacher, batch.images, train.precision)
    terms = batch_loss(model, *logits, batch, config, taught)
    terms["loss"] = total_loss(terms)
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(terms["loss"]).backward()
    distributed.sum_gradients(model, average_buffers=not train.sync_bn)
    state.scaler.unscale_(state.optimizer)
    terms["grad_norm"] = _gradient_norm(state)
    if train.grad_clip:
        nn.utils.clip_grads_with_norm_(model.parameters(), train.grad_clip, terms["grad_norm"])
    if state.scaler.is_enabled():
        state.skipped += ~terms["grad_norm"].isfinite()
    state.scaler.step(state.optimizer)  # in fp16 not where a gradient overflowed
    state.scaler.update()
    return terms


def _gradient_norm(state: State) -> Tensor:
    """Norm, in float32, of the gradient of the weights that still learn: not the masked ones."""
    gradients = []
    for name, parameter in state.model.named_parameters():
        if parameter.grad is not None:
            gradient = parameter.grad.float()
            gradients.append(gradient * state.masks[name] if name in state.masks else gradient)
    return nn.utils.get_total_norm(gradients)


def _train(
    run: Run, evaluate: Callable[[dict[str, Tensor]], dict]
) -> tuple[dict[str, Tensor], dict]:
    """The loop. Returns the final weights (averaged if asked) and facts about the run."""
    config, checkpoint, teacher, progress = run.config, run.checkpoint, run.teacher, run.progress
    train, name = config.train, config.run_name
    state, start = _start(run)
    rows = distributed.own_rows(train.batch_size)
    first = distributed.rank() == 0
    pack, line = on_device(run.packs["train"], run.device)
    if line:
        progress(f"{name}: {line}")
    epoch_steps = steps_per_epoch(len(pack.images), train.batch_size)
    steps = train.epochs * epoch_steps
    prune_at = config.sparsity.prune_at
    prune_step = None if prune_at is None else int(prune_at * steps)
    columns = LOG_COLUMNS + (DISTILL_COLUMNS if teacher is not None else ())
    # a run that goes on from another one's weights must not see that one's batches again
    sampling_seed = config.seed + (FRESH_BATCHES if train.init else 0)
    for notice in _notices(train, start, steps, run.device):
        progress(f"{name}: {notice}")
    began = shown = time.monotonic()
    evaluating = 0.0
    batches = training_batches(pack, config, sampling_seed, range(start, steps), run.device, rows)
    with (
        _writer(log_path(checkpoint), columns, start) as write_row,
        _writer(evaluations_path(checkpoint), EVALUATION_COLUMNS, start) as write_evaluation,
        _interruptible(distributed.count() > 1) as stop,
    ):

        def note_accuracy(step: int) -> None:
            nonlocal evaluating
            before = time.monotonic()
            found = evaluate(_weights(state))
            pruned = int(bool(state.masks))
            write_evaluation([step, pruned, *(found[k] for k in EVALUATION_COLUMNS[2:])])
            evaluating += time.monotonic() - before

        for step in range(start, steps):
            if step == prune_step:
                _prune(state, config)
                progress(f"{name}: pruned {len(state.masks)} layers to 2:4 at step {step}")
                if train.evaluate_epochs:
                    note_accuracy(step)
            torch.manual_seed(config.seed * 1_000_003 + step)  # stochastic depth
            lr = learning_rate(train, step, epoch_steps)
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            terms = train_step(state, next(batches), config, teacher)
            follow(state, train, step)

            done, now, last = step + 1, time.monotonic(), step + 1 == steps
            stopping = distributed.any_of(stop.is_set())
            saving = done % train.checkpoint_steps == 0 or last or stopping
            if done % train.log_steps == 0 or saving:
                values = {k: _of_batch(k, terms[k]) for k in columns[3:]}
                _check_finite(name, done, values["loss"], state, checkpoint)
                if done % train.log_steps == 0 or last:
                    write_row([done, step // epoch_steps, lr, *values.values()])
                if now - shown > SECONDS_BETWEEN_LINES or last:
                    shown = now
                    rate = (done - start) / (now - began - evaluating)
                    place = f"step {done}/{steps}  epoch {step // epoch_steps + 1}/{train.epochs}"
                    speed = f"{rate * train.batch_size:.1f} images/s"
                    left = f"{_clock((steps - done) / rate)} left{_skipped(state)}"
                    progress(f"{name}: {place}  lr {lr:.2e}  {_losses(values)}  {speed}  {left}")
            if _evaluates_after(done, train, epoch_steps, prune_step) and not last:
                note_accuracy(done)
            if saving and first:
                save(checkpoint, done, state)
            if stopping and not last:
                raise KeyboardInterrupt(
                    f"{name}: stopped at step {done} of {steps}; run the same command to continue"
                )
    seconds = time.monotonic() - began - evaluating
    images = (steps - start) * train.batch_size
    facts = {
        "steps": steps,
        "resumed_at": start,
        "skipped_steps": int(state.skipped),
        "pruned_layers": len(state.masks),
        "train_seconds": round(seconds, 1),
        "images_per_second": round(images / seconds, 2) if images else None,
    }
    if train.evaluate_epochs and first:
        facts["evaluations"] = _evaluations(checkpoint)
    return _weights(state), facts


def _notices(train: TrainConfig, start: int, steps: int, device: torch.device) -> Iterator[str]:
    """What a person should know before the first step."""
    if start:
        yield f"continuing at step {start} of {steps}"
    if 3 * train.warmup_steps > steps:
        yield (
            f"the warm-up takes {train.warmup_steps} of {steps} steps, so that little is learnt; "
            "raise train.epochs or lower train.warmup_steps"
        )
    if device.type == "cpu" and train.precision.startswith("fp16"):
        yield f"{train.precision} is very slow on a CPU; fp32 is train.precision for it"


def _skipped(state: State) -> str:
    """The end of a line of progress; fp16 alone skips steps."""
    skipped = int(state.skipped)  # one wait for the device, not two
    return f"  {skipped} steps skipped" if skipped else ""


def _writer(
    path: Path, columns: tuple[str, ...], start: int
) -> AbstractContextManager[Callable[[list], None]]:
    """`log_writer` in the first process; the others write nothing."""
    if distributed.rank() == 0:
        return log_writer(path, columns, start)
    return nullcontext(lambda row: None)


def _of_batch(name: str, term: Tensor) -> float:
    """A logged number of the whole batch: losses are shares of it, the others are it already."""
    return (distributed.total(term) if name.startswith("loss") else term).item()


def _weights(state: State) -> dict[str, Tensor]:
    """What a run evaluates and writes: the average, where there is one; float32, on the CPU."""
    weights = state.average if state.average is not None else state.model.state_dict()
    return {k: _full(v).detach().cpu().contiguous() for k, v in weights.items()}


def _evaluations(checkpoint: Path) -> list[dict]:
    """Accuracy along the run; a resumed one may have noted the pruned network twice."""
    with evaluations_path(checkpoint).open(newline="") as file:
        rows = {(int(row["step"]), int(row["pruned"])): row for row in csv.DictReader(file)}
    return [
        {"step": step, "pruned": bool(pruned)}
        | {k: round(float(row[k]), 6) for k in EVALUATION_COLUMNS[2:]}
        for (step, pruned), row in sorted(rows.items())
    ]


def _check_finite(name: str, step: int, loss: float, state: State, checkpoint: Path) -> None:
    """`UserError` when a run has diverged; in fp16 also when no loss scale is small enough."""
    scale = state.scaler.get_scale()
    if math.isfinite(loss) and scale >= SMALLEST_SCALE:
        return
    found = f"the loss is {loss}" if not math.isfinite(loss) else f"the loss scale is {scale}"
    raise UserError(
        f"{name}: {found} at step {step}, after {int(state.skipped)} steps without a finite "
        "gradient; lower train.lr, raise train.warmup_steps or take another train.precision. The "
        f"last good checkpoint, if any, is kept at {checkpoint}; delete it to start again"
    )


def _full(value: Tensor) -> Tensor:
    """Half precision as float32; everything else as it is."""
    return value.float() if value.dtype == torch.float16 else value


def follow(state: State, train: TrainConfig, step: int) -> None:
    """The moving average, where there is one, goes towards the weights after a step."""
    if state.average is not None:
        update_average(state.average, state.model, ema_decay(train.ema_decay, step, train.ema_ramp))


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Exponential moving average of weights and of batch-norm statistics; counters are copied."""
    now = {key: _full(value) for key, value in model.state_dict().items()}
    floating = [key for key, value in now.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[k] for k in floating], [now[k] for k in floating], 1 - decay)
    for key in now.keys() - set(floating):
        average[key].copy_(now[key])


def _untrained(config: Config) -> Config:
    """The settings without the ImageNet weights, for when others are loaded anyway."""
    model = dataclasses.replace(config.model, pretrained=False)
    return dataclasses.replace(config, model=model)


def _code_hash() -> str:
    """8 characters of the whole core: a checkpoint of other code is not used."""
    code = "".join(map(file_hash, sorted(Path(__file__).parent.rglob("*.py"))))
    return hashlib.sha256(code.encode()).hexdigest()[:8]


@contextmanager
def _interruptible(one_of_many: bool) -> Iterator[threading.Event]:
    """Ctrl-C (or a polite kill) sets an event instead of ending in the middle of a step.

    A second one ends at once, but for one of many processes: these get it from the terminal and
    from their launcher, which waits half a minute for them.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals belong to the main thread
        return

    def on_signal(*_: object) -> None:
        if stop.is_set() and not one_of_many:
            raise KeyboardInterrupt("stopped at once; the last checkpoint is kept")
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def keep_memory(keep: bool = True) -> None:
    """Ask glibc to keep freed memory: large activations come and go at every step (1.1-1.3x).

    `keep=False` goes back to what it does by itself, for comparison.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        # M_MMAP_MAX: no separate mapping per large block
        libc.mallopt(-4, 0 if keep else 65_536)
        # M_TRIM_THRESHOLD: do not return the top of the heap
        libc.mallopt(-1, 2**31 - 1 if keep else 131_072)


def _evaluates_after(
    done: int, train: TrainConfig, epoch_steps: int, prune_step: int | None
) -> bool:
    """Whether accuracy is noted after so many steps: after epochs as asked, and before pruning."""
    if not train.evaluate_epochs:
        return False
    epochs, rest = divmod(done, epoch_steps)
    return done == prune_step or (rest == 0 and epochs % train.evaluate_epochs == 0)


def _losses(values: dict[str, float]) -> str:
    """The sum, and its terms in brackets."""
    terms = [f"{k[5:]} {v:.3f}" for k, v in values.items() if k.startswith("loss_")]
    return f"loss {values['loss']:.3f} ({' '.join(terms)})"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def train_and_publish(config: Config) -> None:
    """The command `lightdet train`: `fit`, on several machines if `torchrun` has started it.

    What may go into git (settings, metrics, log) is copied to `results/<profile>`.
    """
    with distributed.joined(distributed.best_device()):
        folder = fit(config, progress=partial(print, flush=True))
        if distributed.rank() == 0:
            publish(folder, config)
