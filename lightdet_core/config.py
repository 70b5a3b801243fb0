"""Configuration: params.yaml -> frozen dataclasses with a reason per field.

`load_config(experiment, profile)` merges four levels, the later one winning key by key:
common <- profile <- experiments[name] <- profile.experiments[name]. The last level is for
what an experiment needs in one profile only (NanoDet's own schedule on COCO, say).
A profile's `input_scale` shrinks `input_size` (to a multiple of 16) and with it `cell_scale`, so
that the assignment's cells keep their share of the picture; else no object of a small picture
fits stride 32.
Unknown keys, wrong types and impossible values raise `ConfigError`, which names the key.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml


class UserError(ValueError):
    """Something that the user can mend; the message names the file, the value and the remedy."""


class ConfigError(UserError):
    """A mistake in params.yaml; the message names the key, the value and the remedy."""


class DataError(UserError):
    """Unusable data; the message names files, ids and values."""


SMALLEST_INPUT = 64  # px


def train_command(experiment: str, profile: str, seed: int | str) -> str:
    """What trains one run."""
    return f"lightdet train --experiment {experiment} --profile {profile} --seed {seed}"


def root() -> Path:
    """The repository: LIGHTDET_ROOT, or the nearest folder with dvc.yaml and params.yaml, upwards
    from here, then from this file.

    Raises:
        ConfigError: there is none.
    """
    if named := os.environ.get("LIGHTDET_ROOT"):
        return Path(named).expanduser().resolve()
    for origin in (Path.cwd(), Path(__file__).resolve()):
        for folder in (origin, *origin.parents):
            if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
                return folder
    raise ConfigError(
        "no dvc.yaml and params.yaml here or above: run from inside the repository, or set "
        "LIGHTDET_ROOT to it"
    )


@dataclass(frozen=True)
class DataConfig:
    # generated, downloaded, or a folder in COCO format
    source: Literal["demo", "bccd", "coco", "folder", "minicoco"] = "folder"
    images: str = ""  # folder of the images; `{split}` in it stands for train or val
    train_annotations: str = ""  # COCO json, relative to the repository root or absolute
    val_annotations: str = ""  # the same for the images that are evaluated
    num_train: int = 0  # demo: scenes to draw for training
    num_val: int = 0  # demo: scenes to draw for evaluation
    seed: int = 0  # demo: which scenes
    image_width: int = 320  # demo: pixels; every tenth scene is portrait
    image_height: int = 240  # demo: pixels
    pack_size: int = 640  # px; images are packed once at this size, augmentation resamples from it
    skip_broken: bool = False  # drop broken images and annotations with a count, not an error
    classes: tuple[str, ...] = ()  # names of those that are kept; none = all of the annotations


@dataclass(frozen=True)
class ModelConfig:
    backbone: str = "lite1"  # EfficientNet-Lite: lite0 .. lite4; lite1-e4, -e3: expansion 4, 3
    input_size: int = 416  # px of the square canvas, a multiple of 16
    # of every layer
    activation: Literal["relu6", "leakyrelu", "mish", "silu", "hswish"] = "relu6"
    head: Literal["gflv1", "gflv2"] = "gflv1"  # gflv2 adds the quality predictor
    num_classes: int | None = 80  # null: as many as the annotations have
    channels: int = 128  # of the neck and the head
    stacked_convs: int = 3  # depthwise-separable convolutions per level of the head
    reg_max: int = 10  # largest distance in strides; R = reg_max + 1 bins
    cell_scale: float = 8.0  # side of the ATSS cell in strides (octave_base_scale)
    pretrained: bool | str = False  # true: ImageNet weights (imagenet.py); or a local file of them
    drop_path: float = 0.0  # stochastic depth of the backbone's residual blocks
    bn_momentum: float = 0.1  # of the backbone's running statistics; NanoDet: 0.01


@dataclass(frozen=True)
class AugmentConfig:
    scale: tuple[float, float] = (0.5, 1.5)  # factor on the letterboxed size
    translate: float = 0.2  # shift, uniform within +- this share of the letterboxed image
    warp_probability: float = 0.5  # scale and translation are each applied with this probability
    flip: float = 0.5  # probability of mirroring left-right
    brightness: float = 0.2  # add uniform(-b, b) to the [0, 1] image
    contrast: tuple[float, float] = (0.6, 1.4)  # multiply
    saturation: tuple[float, float] = (0.5, 1.2)  # factor on the HSV saturation
    color_probability: float = 0.5  # of each of the three colour changes
    mosaic: float = 0.0  # probability per image
    mosaic_off_epochs: int = 15  # the last epochs see plain images again
    mixup: float = 0.0  # probability per image
    mixup_alpha: float = 1.5  # ratio ~ Beta(alpha, alpha), alpha >= 0.5; a box weighs its share
    cutmix: float = 0.0  # probability per image
    fill: float = 0.0  # 0..255 outside of the image; a mosaic canvas uses 114


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 170  # passes over the training images
    batch_size: int = 128  # images per optimizer step
    optimizer: Literal["sgd", "adamw"] = "sgd"  # sgd with momentum 0.9
    lr: float = 0.16  # peak learning rate
    weight_decay: float = 1e-4  # on every parameter, as NanoDet has it
    warmup_steps: int = 500  # linear warm-up from warmup_lr to lr
    warmup_lr: float = 3e-4  # the paper: 0.0003 -> 0.16
    schedule: Literal["multistep", "cosine"] = "multistep"
    milestones: tuple[int, ...] = (130, 150, 160, 165)  # epochs; multistep: lr x 0.1 at each
    final_lr: float = 0.0  # cosine: where it ends
    grad_clip: float = 0.0  # largest gradient norm; 0 = off
    ema_decay: float = 0.0  # exponential moving average of the weights; 0 = off
    ema_ramp: int = 2000  # steps over which the decay grows to ema_decay
    label_smoothing: float = 0.0  # positives only: y = IoU (1 - eps); at most 0.05
    # bf16, fp16: autocast, the latter with a scaled loss; fp16-pure: Apex O3
    precision: Literal["fp32", "bf16", "fp16", "fp16-pure"] = "fp32"
    compile: bool = False  # torch.compile of the network: minutes first, then faster steps
    sync_bn: bool = True  # many processes: batch norm over all of them, or over each one's images
    init: str = ""  # experiment whose run of the same seed gives the first weights, not the batches
    checkpoint_steps: int = 500  # steps between two resumable checkpoints
    log_steps: int = 10  # steps between two rows of log.csv
    evaluate_epochs: int = 0  # evaluate after every so many epochs and at pruning; 0 = at the end


@dataclass(frozen=True)
class SparsityConfig:
    prune_at: float | None = None  # share of the steps after which 2:4 masks are set; 0 = at once
    backend: Literal["own", "apex"] = "own"  # apex: NVIDIA's ASP, which must be built from source


@dataclass(frozen=True)
class DistillConfig:
    teacher: str = ""  # experiment whose run of seed 0 teaches; empty = none
    ld_weight: float = 0.0  # localization distillation at the positive cells
    vlr_weight: float = 0.0  # the same around them, in the valuable localization region
    kd_weight: float = 0.0  # distillation of the class logits at the positive cells
    temperature: float = 10.0  # of the edge distributions
    kd_temperature: float = 2.0  # of the classes
    vlr_gamma: float = 0.25  # the region: gamma x threshold <= DIoU < threshold
    # as the box losses; released: as the LD authors' code
    normalizer: Literal["batch", "released"] = "batch"


@dataclass(frozen=True)
class EvaluateConfig:
    score_threshold: float = 0.05  # detections at or below are dropped before NMS
    iou_threshold: float = 0.6  # class-wise NMS
    max_detections: int = 100  # per image, as COCO counts them
    batch_size: int = 32  # images per forward pass


@dataclass(frozen=True)
class Config:
    experiment: str
    profile: str
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    @property
    def settings(self) -> dict:
        """Every setting as a nested dict, but for those that change no weights.

        They are how often a run is logged, saved, evaluated, batch norm over all processes, with
        which their number does not matter, a network that is not compiled, and all classes.
        """
        settings = dataclasses.asdict(self)
        if not self.data.classes:
            settings["data"].pop("classes")
        for key in ("checkpoint_steps", "log_steps", "evaluate_epochs"):
            settings["train"].pop(key)
        if self.train.sync_bn:
            settings["train"].pop("sync_bn")
        if not self.train.compile:  # it rounds otherwise
            settings["train"].pop("compile")
        return settings

    @property
    def hash(self) -> str:
        """12 hex digits over every setting but the seed: runs that share them are comparable."""
        settings = self.settings
        settings.pop("seed")
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    def with_classes(self, number: int) -> "Config":
        """The same with `model.num_classes` as given."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, num_classes=number))

    @property
    def run_name(self) -> str:
        return f"{self.experiment}-s{self.seed}"


SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "augment": AugmentConfig,
    "train": TrainConfig,
    "sparsity": SparsityConfig,
    "distill": DistillConfig,
    "evaluate": EvaluateConfig,
}


def read_params(path: Path | None = None) -> dict:
    """params.yaml as a dict; `ConfigError` when it is missing or not YAML."""
    path = path or root() / "params.yaml"
    try:
        params = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; it holds every setting, restore it") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    missing = [key for key in ("profile", "runs", "seeds", "show", "experiments")
               if not isinstance(params, dict) or not params.get(key)]  # fmt: skip
    if missing:
        raise ConfigError(f"{path}: nothing under {', '.join(missing)}")
    params["experiments"] = _mapping(params["experiments"], f"{path}: experiments")
    for key in ("runs", "taught", "ladder", "controls", "seeds"):
        params[key] = [] if params.get(key) is None else params[key]
        if not isinstance(params[key], list):
            raise ConfigError(
                f"{path}: {key}: {params[key]!r}: write a list, such as [{params[key]}]"
            )
        kind, wanted = (int, "whole numbers") if key == "seeds" else (str, "experiments")
        for entry in params[key]:
            known = kind is int or (isinstance(entry, str) and entry in params["experiments"])
            if type(entry) is not kind or not known:
                choice = "" if kind is int else f": choose from {', '.join(params['experiments'])}"
                raise ConfigError(f"{path}: {key}: {entry!r} is none of the {wanted}{choice}")
    _check_order(params, path)
    if params["show"] not in params["runs"] or 0 not in params["seeds"]:
        raise ConfigError(
            f"{path}: notebooks show {params['show']}-s0, so that runs {params['runs']} must hold "
            f"{params['show']} and seeds {params['seeds']} must hold 0; set `show` to one of runs"
        )
    return params


def _check_order(params: dict, path: Path) -> None:
    """DVC trains `runs`, then `taught`, for which it knows one teacher: `teacher`."""
    taught = params["taught"]
    for listed, run in [("runs", r) for r in params["runs"]] + [("taught", r) for r in taught]:
        where = f"{path}: experiments.{run}"
        experiment = _mapping(params["experiments"][run], where)
        distill, train = (_mapping(experiment.get(k), f"{where}.{k}") for k in ("distill", "train"))
        teacher = distill.get("teacher")
        needed = teacher or train.get("init")
        wanted = "taught" if teacher == "teacher" else "ladder" if needed else "runs"
        if wanted != listed:
            reason = f"needs the run of {needed}" if needed else "needs no other run"
            raise ConfigError(f"{path}: {run} {reason}: move it from `{listed}` to `{wanted}`")
    if taught and "teacher" not in params["runs"]:
        raise ConfigError(f"{path}: {', '.join(taught)} under `taught`: add `teacher` to `runs`")


def all_runs(params: dict) -> list[str]:
    """What `dvc repro` trains, in the order of the tables: the teacher comes last."""
    return sorted([*params["runs"], *params["taught"]], key="teacher".__eq__)


def profiles(params: dict) -> list[str]:
    """The keys of params.yaml that are profiles."""
    others = {"profile", "runs", "taught", "ladder", "controls", "seeds", "show"}
    others |= {"common", "experiments"}
    return [key for key in params if key not in others]


def load_config(
    experiment: str, profile: str | None = None, seed: int = 0, params: Path | dict | None = None
) -> Config:
    """The settings of one run.

    Args:
        experiment: a key of `experiments` in params.yaml.
        profile: such as demo or coco; None takes params.yaml's `profile`.
        seed: of initialisation, sampling and augmentation.
        params: another params file, or its contents; None reads the repository's.

    Raises:
        ConfigError: unknown experiment, profile or key, wrong type, impossible value.
    """
    params = params if isinstance(params, dict) else read_params(params)
    profile = profile or params.get("profile")
    experiments = params.get("experiments") or {}
    if experiment not in experiments:
        raise ConfigError(f"experiment {experiment!r}: choose one of {', '.join(experiments)}")
    if profile not in profiles(params):
        raise ConfigError(f"profile {profile!r}: choose one of {', '.join(profiles(params))}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed {seed!r}: a whole number of at least 0 is needed")

    layers, input_scale = _layers(params, experiment, profile)
    merged = {name: {} for name in SECTIONS}
    for where, layer in layers.items():
        for section, values in _mapping(layer, where).items():
            if section not in SECTIONS:
                raise ConfigError(f"{where}.{section}: unknown; sections are {', '.join(SECTIONS)}")
            for key, value in _mapping(values, f"{where}.{section}").items():
                merged[section][key] = _checked(SECTIONS[section], key, value, f"{where}.{section}")
    config = Config(
        experiment, profile, seed, **{name: SECTIONS[name](**merged[name]) for name in SECTIONS}
    )
    _check_values(config)
    config = dataclasses.replace(config, model=_scaled(config.model, input_scale, profile))
    for key, run in (
        ("distill.teacher", config.distill.teacher),
        ("train.init", config.train.init),
    ):
        if run and run not in experiments:
            raise ConfigError(
                f"{profile}/{experiment}: {key}: {run!r}: choose one of {', '.join(experiments)}"
            )
    return config


def _layers(params: dict, experiment: str, profile: str) -> tuple[dict[str, object], object]:
    """The four levels by where they stand, the strongest last; the profile's input scale."""
    experiments = params["experiments"]
    base = dict(_mapping(params[profile], profile))
    input_scale = base.pop("input_scale", 1.0)
    in_profile = _mapping(base.pop("experiments", None), f"{profile}.experiments")
    if unknown := set(in_profile) - set(experiments):
        raise ConfigError(
            f"{profile}.experiments: {', '.join(sorted(map(str, unknown)))}: "
            f"choose from {', '.join(experiments)}"
        )
    of_experiment = dict(_mapping(experiments[experiment], f"experiments.{experiment}"))
    of_experiment.pop("printed", None)
    layers = {
        "common": params.get("common"),
        profile: base,
        f"experiments.{experiment}": of_experiment,
        f"{profile}.experiments.{experiment}": in_profile.get(experiment),
    }
    return layers, input_scale


def _scaled(model: ModelConfig, input_scale: object, profile: str) -> ModelConfig:
    """The input, and with it the assignment's cells, as large as the profile wants them."""
    where = f"{profile}.input_scale"
    if not _is_a(input_scale, float) or not 0 < input_scale <= 4:
        raise ConfigError(f"{where}: {input_scale!r} is not a factor between 0 and 4")
    size = model.input_size
    scaled = size if input_scale == 1 else round(size * input_scale / 16) * 16
    if scaled < SMALLEST_INPUT:
        raise ConfigError(
            f"{where}: {input_scale:g}: makes {size} px {scaled} px; at least {SMALLEST_INPUT} px "
            "are needed"
        )
    return dataclasses.replace(
        model, input_size=scaled, cell_scale=model.cell_scale * scaled / size
    )


def _mapping(value: object, where: str) -> dict:
    """`value` if it is a mapping; nothing at all counts as an empty one."""
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{where}: {value!r}, but keys with values are needed")
    return value or {}


def _checked(cls: type, key: str, value: object, where: str) -> object:
    """`value` in the type that the dataclass declares for `key`."""
    hints = typing.get_type_hints(cls)
    if key not in hints:
        raise ConfigError(f"{where}.{key}: unknown; known are {', '.join(hints)}")
    hint = hints[key]
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            known = ", ".join(typing.get_args(hint))
            raise ConfigError(f"{where}.{key}: {value!r}: choose one of {known}")
        return value
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is types.NoneType:
            if value is None:
                return None
        elif typing.get_origin(option) is tuple:
            wanted = typing.get_args(option)
            length_fits = isinstance(value, (list, tuple)) and (
                wanted[-1] is Ellipsis or len(value) == len(wanted)
            )
            if length_fits and all(_is_a(item, wanted[0]) for item in value):
                return tuple(wanted[0](item) for item in value)
        elif _is_a(value, option):
            return option(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}.{key}: {value!r} is not finite")
    name = getattr(hint, "__name__", None) if len(options) == 1 else None
    remedy = "; write 1.0e-3 for 1e-3, which YAML takes for text" if hint is float else ""
    raise ConfigError(f"{where}.{key}: {value!r} is not of type {name or hint}{remedy}")


def _is_a(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and abs(value) < sys.float_info.max
    return isinstance(value, kind)


# the smallest and the largest value of a setting, both allowed; what may be null or must fit other
# settings is in the `_check_…` below
LIMITS = {
    "data.seed": (0, math.inf),
    "data.num_train": (0, math.inf),
    "data.num_val": (0, math.inf),
    "data.pack_size": (32, math.inf),
    "data.image_width": (96, math.inf),
    "data.image_height": (96, math.inf),
    "model.channels": (8, math.inf),
    "model.stacked_convs": (1, math.inf),
    "model.reg_max": (4, math.inf),
    "model.drop_path": (0, 0.9),
    "model.bn_momentum": (0, 1),
    "augment.mosaic_off_epochs": (0, math.inf),
    "augment.mixup_alpha": (0.5, math.inf),
    "augment.translate": (0, 0.5),
    "augment.brightness": (0, 1),
    "augment.fill": (0, 255),
    "augment.warp_probability": (0, 1),
    "augment.flip": (0, 1),
    "augment.color_probability": (0, 1),
    "augment.mosaic": (0, 1),
    "augment.mixup": (0, 1),
    "augment.cutmix": (0, 1),
    "train.epochs": (1, math.inf),
    "train.batch_size": (1, math.inf),
    "train.warmup_steps": (0, math.inf),
    "train.weight_decay": (0, 1),
    "train.grad_clip": (0, math.inf),
    "train.label_smoothing": (0, 0.05),
    "train.ema_decay": (0, 0.99999),
    "train.ema_ramp": (1, math.inf),
    "train.checkpoint_steps": (1, math.inf),
    "train.log_steps": (1, math.inf),
    "train.evaluate_epochs": (0, math.inf),
    "distill.ld_weight": (0, math.inf),
    "distill.vlr_weight": (0, math.inf),
    "distill.kd_weight": (0, math.inf),
    "distill.vlr_gamma": (0, 1),
    "evaluate.score_threshold": (0, 1),
    "evaluate.iou_threshold": (0, 1),
    "evaluate.max_detections": (1, math.inf),
    "evaluate.batch_size": (1, math.inf),
}
ABOVE_ZERO = ("model.cell_scale", "train.lr", "distill.temperature", "distill.kd_temperature")
BACKBONES = tuple(f"lite{i}" for i in range(5))
NARROW = tuple(f"{name}-e{expansion}" for name in BACKBONES for expansion in (3, 4))


def _check_values(config: Config) -> None:
    """Impossible values, named by section and key."""

    def value_of(key: str) -> object:
        section, name = key.split(".")
        return getattr(getattr(config, section), name)

    def need(condition: bool, key: str, remedy: str) -> None:
        if not condition:
            raise ConfigError(
                f"{config.profile}/{config.experiment}: {key}: {value_of(key)!r}: {remedy}"
            )

    for key, (low, high) in LIMITS.items():
        remedy = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        need(low <= value_of(key) <= high, key, remedy)
    for key in ABOVE_ZERO:
        need(value_of(key) > 0, key, "above 0")
    classes = config.data.classes
    need(all(map(str.strip, classes)) and len(set(classes)) == len(classes), "data.classes",
         "names of classes, each of them once, or [] for all")  # fmt: skip
    _check_model(config.model, need)
    _check_augment(config.augment, need)
    _check_train(config.train, need)
    prune_at = config.sparsity.prune_at
    need(prune_at is None or 0 <= prune_at < 1, "sparsity.prune_at",
         "a share of the steps from 0 to below 1 (pruned at the end, nothing is left to retrain), "
         "or null")  # fmt: skip
    distill = config.distill
    weights = distill.ld_weight, distill.vlr_weight, distill.kd_weight
    need(bool(distill.teacher) == any(weights), "distill.teacher",
         "a teacher needs a weight above 0 among ld_weight, vlr_weight, kd_weight, and these need "
         "a teacher")  # fmt: skip
    for key in ("distill.teacher", "train.init"):
        need(value_of(key) != config.experiment, key, "a run cannot need itself")


def _check_model(model: ModelConfig, need: Callable[[bool, str, str], None]) -> None:
    choices = BACKBONES + NARROW
    need(model.backbone in choices, "model.backbone", f"choose one of {', '.join(choices)}")
    fits = model.input_size >= SMALLEST_INPUT and model.input_size % 16 == 0
    need(fits, "model.input_size", f"a multiple of 16 from {SMALLEST_INPUT} up")
    classes = model.num_classes
    need(classes is None or classes >= 1, "model.num_classes", "at least 1, or null")


def _check_augment(augment: AugmentConfig, need: Callable[[bool, str, str], None]) -> None:
    need(augment.mixup + augment.cutmix <= 1, "augment.mixup",
         f"at most 1 together with augment.cutmix {augment.cutmix}: an image gets one of them at "
         "most")  # fmt: skip
    for key in ("scale", "contrast", "saturation"):
        low, high = getattr(augment, key)
        need(0 < low <= high, f"augment.{key}", "two numbers, 0 < low <= high")


def _check_train(train: TrainConfig, need: Callable[[bool, str, str], None]) -> None:
    need(train.precision != "fp16-pure" or train.optimizer == "sgd", "train.precision",
         "only with train.optimizer sgd: AdamW's second moment is 0 in half precision")  # fmt: skip
    for key in ("warmup_lr", "final_lr"):
        fits = 0 <= getattr(train, key) <= train.lr
        need(fits, f"train.{key}", f"between 0 and train.lr {train.lr}")
    milestones = train.milestones
    rising = all(a < b for a, b in itertools.pairwise((0, *milestones)))
    need(rising, "train.milestones", "rising epochs from 1 up")
    last = milestones[-1] if train.schedule == "multistep" and milestones else 0
    need(last < train.epochs, "train.milestones",
         f"below train.epochs {train.epochs}, or the rate does not fall as it should")  # fmt: skip
