"""Training one experiment, from packs to a run folder.

`fit(config)` leaves weights.safetensors, metrics.json, log.csv, run.json and detections.json. Until
then the run lives in `.checkpoints/` beside its folder, keyed by its settings and data, and
continues from there after any interruption. All visible GPUs take part, one process each
(`machinery/distributed.py`); `torchrun` starts it on several machines.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightdet_core import activations, distill, sparsity
from lightdet_core.augment import check_sizes
from lightdet_core.boxes import DetectionNetwork
from lightdet_core.config import Config, UserError, root
from lightdet_core.engine import LIGHTDET, Network, Run, learn
from lightdet_core.evaluate import coco_metrics, detect_pack
from lightdet_core.machinery import distributed
from lightdet_core.machinery.files import file_hash, short_hash, write_json
from lightdet_core.machinery.packs import Pack, check_categories, read_truth
from lightdet_core.machinery.precision import check_precision, exact
from lightdet_core.machinery.provenance import first_weights, provenance, rounded
from lightdet_core.machinery.runs import alone, finished_key, identify, keep_memory, move_aside
from lightdet_core.model import load_weights, save_weights


def fit(
    config: Config,
    runs: Path | None = None,
    progress: Callable[[str], None] = print,
    device: str | None = None,
    num_processes: int | None = None,
    network: Network = LIGHTDET,
) -> Path:
    """Train, evaluate and write one run.

    A finished run with the same settings and data is returned as it is. One with others is moved
    aside, never overwritten. (DVC removes a stage's outputs before it runs the stage; its cache
    keeps them.) Ctrl-C ends after the current step and keeps a checkpoint.

    Args:
        config: of `load_config`.
        runs: where run folders (and `.checkpoints`) go; None is `runs/<profile>` in the repository.
        progress: takes one line of text at a time.
        device: "cpu", "cuda" (one process per visible GPU) or "cuda:1"; None: GPUs, if there are.
        num_processes: to start on this machine, if `torchrun` has not done so; None: as
            `distributed.wanted` says.
        network: where `model.network` names another than ours, this one.

    Returns:
        The run folder.

    Raises:
        UserError: what does not fit or is missing (classes, packs, a teacher, what the device or
            apex cannot do), a loss that is not finite, a process that was lost.
        KeyboardInterrupt: stopped; the same call continues.
    """
    if config.model.network != network.name:
        raise UserError(
            f"{config.experiment}: model.network {config.model.network}: `lightdet train` trains "
            f"it, from Python fit(…, network=…); this is {network.name}"
        )
    runs = runs or root() / "runs" / config.profile
    wanted = torch.device(device) if device else distributed.best_device()
    with distributed.joined(wanted) as own:
        many = 1
        if not distributed.started():
            many = num_processes or distributed.wanted(wanted, config.train.batch_size)
        if many == 1:
            # of many processes the first one reports
            tell = progress if distributed.rank() == 0 else lambda _: None
            return _fit(config, runs, tell, own, network)
    if wanted.index is not None:
        raise UserError(f"device {device}: one GPU, but {many} processes; leave its number out")
    progress(f"{config.run_name}: starting {many} processes")
    work = partial(fit, config, runs, device=wanted.type, network=network)
    distributed.launch(work, many, progress)
    return runs / config.run_name


def _fit(
    config: Config,
    runs: Path,
    progress: Callable[[str], None],
    device: torch.device,
    network: Network,
) -> Path:
    """`fit` in one process, or in one of many."""
    folder, first = runs / config.run_name, distributed.rank() == 0
    config, packs, sources, key = identify(config, runs)
    check_precision(config.train.precision, device)
    if config.sparsity.prune_at is not None and config.sparsity.backend == "apex":
        sparsity.nvidia_asp(device)  # it is needed later; say now if it is not there
    every = short_hash(repr(config))  # with what the key leaves out: how often they meet
    distributed.check_agreement(
        f"{key}-{_code_hash()}-{every}-torch{torch.__version__}",
        "torch, code, settings, data/ and runs/ must be the same on all machines; copy one's",
    )
    if distributed.from_first(folder.exists() and finished_key(folder) == key):
        progress(f"{folder.name}: finished already, nothing to train ({folder})")
        return folder

    for split, pack in packs.items():
        if notice := check_sizes(pack, config.model.input_size):
            progress(f"{config.run_name}: {split}: {notice}")
    begins = first_weights(config)  # now: a file may be gone when the training is over
    other = f"the run {config.train.init}" if config.train.init else "random weights"
    progress(f"{config.run_name}: begins with {' '.join(begins.values()) or other}")
    keep_memory()
    checkpoint = runs / ".checkpoints" / f"{config.run_name}-{key}-{_code_hash()}.safetensors"
    teacher = init = None
    if source := sources.get("distill.teacher"):
        teacher = distill.load_teacher(source, config.model, packs["train"].categories, device)
        if config.train.precision == "fp16-pure":
            teacher = teacher.half()
    if source := sources.get("train.init"):
        init, _, learned = load_weights(source)
        check_categories(source, learned, packs["train"].categories)
    run = Run(config, packs["train"], checkpoint, teacher, init, device, progress, network)
    with alone(checkpoint.with_name(f"{config.run_name}.lock")) if first else nullcontext():
        _train_and_write(run, packs, folder, begins | {"key": key})
        distributed.from_first(None)  # the others wait until everything is written
    return folder


def _train_and_write(run: Run, packs: dict[str, Pack], folder: Path, known: dict) -> None:
    """Train, evaluate, and put the run folder into its place; `known` goes into its run.json."""
    config, device, progress = run.config, run.device, run.progress
    truth = read_truth(packs["val"])

    def evaluate(
        weights: dict[str, Tensor], final: bool = False
    ) -> tuple[DetectionNetwork, list[dict], dict]:
        model = run.network.build(config.with_model(pretrained=False))
        model.load_state_dict(weights)
        model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore
        progress(f"{config.run_name}: evaluating {len(packs['val'].images)} images")
        detections = detect_pack(model, packs["val"], device)
        found = coco_metrics(truth, detections, final) if distributed.rank() == 0 else None
        return model, detections, distributed.from_first(found)

    with exact():
        state, facts = learn(run, lambda weights: evaluate(weights)[2])
        model, detections, metrics = evaluate(state, final=True)
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
    shutil.copy(run.checkpoint.with_suffix(".csv"), unfinished / "log.csv")
    about = provenance(config, model, packs, device) | {"processes": distributed.count()}
    write_json(unfinished / "run.json", about | facts | known, indent=2)
    if folder.exists():
        aside = move_aside(folder)
        progress(f"{folder.name}: the run with other settings is kept as {aside.name}")
    unfinished.rename(folder)
    for leftover in run.checkpoint.parent.glob(f"{config.run_name}-{known['key']}-*"):
        leftover.unlink()
    progress(
        f"{config.run_name}: AP {metrics['AP']:.3f}  AP50 {metrics['AP50']:.3f}  "
        f"AP75 {metrics['AP75']:.3f}  ({folder})"
    )


def _code_hash() -> str:
    """8 characters of the whole core: a checkpoint of other code is not used."""
    return short_hash("".join(map(file_hash, sorted(Path(__file__).parent.rglob("*.py")))))
