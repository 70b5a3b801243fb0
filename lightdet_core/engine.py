"""One training step, and the loop that `train` calls.

Every random number is keyed by (seed, step) and nothing else is carried along, so that a run goes
on from a checkpoint of its `State` to the same weights (bit for bit on a CPU).
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightdet_core import slim
from lightdet_core.assign import atss
from lightdet_core.augment import on_device, steps_per_epoch, training_batch, training_batches
from lightdet_core.boxes import Batch, Logits, level_grid
from lightdet_core.config import Config, TrainConfig, UserError
from lightdet_core.distill import distillation_loss
from lightdet_core.losses import detection_loss
from lightdet_core.machinery import checkpoint, distributed
from lightdet_core.machinery.log import Log
from lightdet_core.machinery.packs import Pack
from lightdet_core.machinery.precision import forward
from lightdet_core.machinery.weights import Weights
from lightdet_core.model import LightDet, build, freeze_batch_norm, load_state
from lightdet_core.train_state import (
    State,
    final_weights,
    follow,
    keep_pruned,
    learning_rate,
    new_state,
    prune,
    restore,
    tensors_of,
)

LOG_STEPS = 10  # between two rows of log.csv: each waits for the device
FRESH_BATCHES = 500_009  # added to the seed that draws them
TAYLOR_BATCHES = 32  # that say which channels matter
SMALLEST_SCALE = 1.0  # of the fp16 loss, from 65,536: each overflow halves it


# -------------------------------------------------------------------------------------- one step


def batch_loss(
    student: Logits, batch: Batch, config: Config, teacher: Logits | None = None
) -> dict[str, Tensor]:
    """Assignment and losses of one batch, by name; `total_loss` adds those named loss_…."""
    scale = config.model.cell_scale
    grid = level_grid(*batch.images.shape[-2:], device=batch.images.device)
    matched_gt, thresholds = atss(*grid, batch.gt_boxes, batch.gt_mask, scale)
    terms = detection_loss(student, grid, batch, matched_gt, config.train.label_smoothing)
    if teacher is None:
        return terms
    return terms | distillation_loss(
        student, teacher, grid, batch, matched_gt, thresholds, scale, config.distill
    )


def total_loss(terms: dict[str, Tensor]) -> Tensor:
    """The sum of the losses of `batch_loss`."""
    return sum((v for name, v in terms.items() if name.startswith("loss_")), torch.zeros(()))


def train_step(
    state: State,
    batch: Batch,
    config: Config,
    teacher: LightDet | None = None,
    part: Callable[[str], AbstractContextManager] = nullcontext,
    loss: Callable[..., dict[str, Tensor]] = batch_loss,
) -> dict[str, Tensor]:
    """One optimizer step; returns its loss terms, their sum `loss`, and `grad_norm`.

    On many processes each has its share of the losses; they add up to those of the batch.

    Args:
        part: for benchmarks: each part of the step runs inside of `part(name)`.
        loss: of another network, or another way to the same.
    """
    train, model = config.train, state.model
    with part("forward"):
        logits, taught = model.logits(batch.images, train.precision), None
        if teacher is not None:
            with torch.no_grad():
                cls_logits, box_logits = forward(teacher, batch.images, train.precision)
                taught = Logits(cls_logits, box_logits, None)  # nobody learns from its quality
    with part("assignment and loss"):
        terms = loss(logits, batch, config, taught)
        terms["loss"] = total_loss(terms)
    with part("backward"):
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(terms["loss"]).backward()
        distributed.sum_gradients(model)
    with part("optimizer"):
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


# -------------------------------------------------------------------------------------- the loop


class Network(NamedTuple):
    """What is trained: LightDet, or a network that `train.fit` is given."""

    name: str  # `model.network` of the settings
    build: Callable[[Config], Any]  # a DetectionNetwork with `logits`, which the loss understands
    loss: Callable[..., dict[str, Tensor]]  # as `batch_loss`
    losses: tuple[str, ...]  # what it gives beside num_pos, without a teacher


LIGHTDET = Network("lightdet", build, batch_loss, ("loss_qfl", "loss_giou", "loss_dfl"))


class Run(NamedTuple):
    """What the training of one run is given."""

    config: Config  # with the number of classes that the data have
    pack: Pack
    checkpoint: Path
    teacher: LightDet | None
    init: LightDet | None  # of another run, to begin with its weights
    device: torch.device
    progress: Callable[[str], None]
    network: Network = LIGHTDET


def learn(run: Run, evaluate: Callable[[Weights], dict]) -> tuple[Weights, dict]:
    """The loop: from first weights, or a checkpoint, to final weights and facts about the run.

    With `evaluate_epochs` it notes on its way what `evaluate` says of the weights.

    Raises:
        UserError: a loss that is not finite, a checkpoint that cannot be used.
        KeyboardInterrupt: stopped after a step; a checkpoint of it is there.
    """
    config, train = run.config, run.config.train
    state, start = begin(run)
    pack, where = on_device(run.pack, run.device)
    epoch_steps = steps_per_epoch(len(pack.images), train.batch_size)
    steps, prune_at = train.epochs * epoch_steps, config.sparsity.prune_at
    prune_step = None if prune_at is None else int(prune_at * steps)
    evaluate_steps = train.evaluate_epochs * epoch_steps  # 0: at the end only
    # a run that goes on from another one's weights must not see that one's batches again
    seed = config.seed + (FRESH_BATCHES if train.init else 0)
    rows = distributed.own_rows(train.batch_size)
    batches = training_batches(pack, config, seed, range(start, steps), run.device, rows)
    log = Log(run.checkpoint, config, run.network.losses, start, steps, run.progress)
    for notice in filter(None, (where, *_notices(train, start, steps, run.device))):
        log.say(notice)
    with distributed.interruptible(distributed.count() > 1) as stop:
        for step in range(start, steps):
            if step == prune_step:
                prune(state, config)
                log.say(f"pruned {len(state.masks)} layers to 2:4 at step {step}")
                if train.evaluate_epochs:
                    log.accuracy(step, True, lambda: evaluate(final_weights(state)))
            torch.manual_seed(config.seed * 1_000_003 + step)  # stochastic depth
            lr = learning_rate(train, step, epoch_steps)
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            terms = train_step(state, next(batches), config, run.teacher, loss=run.network.loss)
            follow(state, train, step)
            done, epoch, last = step + 1, step // epoch_steps, step + 1 == steps
            stopping = distributed.any_of(stop.is_set())
            saving = done % train.checkpoint_steps == 0 or last or stopping
            if done % LOG_STEPS == 0 or saving:
                # losses are shares of the batch's, the other numbers are the batch's already
                terms |= {k: distributed.total(v) for k, v in terms.items() if k.startswith("loss")}
                values = {k: terms[k].item() for k in log.columns[3:]}
                _check_finite(config.run_name, done, values["loss"], state, run.checkpoint)
                if done % LOG_STEPS == 0 or last:
                    log.row([done, epoch, lr, *values.values()])
                skipped = int(state.skipped)  # fp16 alone skips steps
                after = f"  {skipped} steps skipped" if skipped else ""
                log.line(done, f"{epoch + 1}/{train.epochs}", {"lr": lr, **values}, after)
            if evaluate_steps and not last and (done % evaluate_steps == 0 or done == prune_step):
                log.accuracy(done, bool(state.masks), lambda: evaluate(final_weights(state)))
            if saving and log.writes:
                checkpoint.save(run.checkpoint, done, tensors_of(state))
            if stopping and not last:
                raise KeyboardInterrupt(
                    f"{config.run_name}: stopped at step {done} of {steps}; "
                    "run the same command to continue"
                )
    return final_weights(state), _facts(run, state, log)


def _facts(run: Run, state: State, log: Log) -> dict:
    """What run.json says of the training."""
    noted = run.config.train.evaluate_epochs and log.writes
    return {
        "steps": log.steps,
        "resumed_at": log.start,
        "skipped_steps": int(state.skipped),
        "pruned_layers": len(state.masks),
        "train_seconds": round(time.monotonic() - log.began, 1),
        "images_per_second": round(log.rate(log.steps), 2) if log.start < log.steps else None,
        **({"evaluations": log.accuracies()} if noted else {}),
    }


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


def _check_finite(name: str, step: int, loss: float, state: State, checkpoint: Path) -> None:
    """`UserError` when a run has diverged; in fp16 also when no loss scale is small enough."""
    scale = state.scaler.get_scale()
    if math.isfinite(loss) and scale >= SMALLEST_SCALE:
        return
    found = f"the loss scale is {scale}" if math.isfinite(loss) else f"the loss is {loss}"
    counted = ""
    if state.scaler.is_enabled():  # nothing else counts them
        counted = f", after {int(state.skipped)} without a finite gradient"
    raise UserError(
        f"{name}: {found} at step {step}{counted}; lower train.lr, raise train.warmup_steps or "
        "change train.precision. The last good checkpoint, if any, is at "
        f"{checkpoint}; delete it to start again"
    )


# ------------------------------------------------------------------------------------- beginning


def begin(run: Run) -> tuple[State, int]:
    """The state that a run begins or goes on with, and the steps that it has done."""
    config, init, train = run.config, run.init, run.config.train
    torch.manual_seed(config.seed)
    # other machines need not have the file
    found = checkpoint.read(run.checkpoint, run.progress) if distributed.rank() == 0 else None
    resumed = distributed.from_first(found)
    # a resumed run takes every tensor from its checkpoint
    model = run.network.build(config.with_model(pretrained=False) if resumed or init else config)
    if init and not resumed:
        said = f"train.init {train.init}: not the same network as {config.experiment}"
        load_state(model, _cut_to_fit(run, init, model), said)
    model = model.to(run.device, memory_format=torch.channels_last).train()  # type: ignore
    model = distributed.connect(model, train)
    if train.frozen_bn:
        freeze_batch_norm(model.backbone)
    state, step = new_state(model, train, run.device), 0
    if resumed:
        step, tensors = resumed
        restore(tensors, state)
    if state.masks:
        keep_pruned(state, config)
    return state, step


def _cut_to_fit(run: Run, init: LightDet, model: LightDet) -> Weights:
    """The first weights; where the blocks of `model` are narrower, those that matter most."""
    state, wanted = init.state_dict(), model.state_dict()
    if all(wanted[k].shape == v.shape for k, v in state.items() if k in wanted):
        return state
    # processes that compute them each for itself might choose differently
    scores = distributed.from_first(channel_scores(init, run.config, run.pack, run.device))
    train = run.config.train
    run.progress(f"{run.config.run_name}: blocks of {train.init} cut by {train.importance}")
    return slim.narrowed(state, wanted, scores)


def channel_scores(
    network: LightDet, config: Config, pack: Pack, device: torch.device
) -> dict[str, Tensor]:
    """How much each block's inner channels matter, by `train.importance`: block -> (I,).

    Taylor's looks at the losses of `TAYLOR_BATCHES` batches of the pack. The network, which is in
    eval mode, comes back on the CPU.
    """
    chosen_by = config.train.importance
    if chosen_by != "taylor":
        return slim.by_weights(network.state_dict(), chosen_by == "projection")
    pack, _ = on_device(pack, device)
    network.to(device)

    def losses() -> Iterator[Tensor]:
        for step in range(TAYLOR_BATCHES):
            batch = training_batch(pack, config, config.seed, step, device)
            yield total_loss(batch_loss(network.logits(batch.images), batch, config))

    scores = {block: score.cpu() for block, score in slim.by_taylor(network, losses()).items()}
    network.cpu()
    return scores
