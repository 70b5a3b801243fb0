"""Configuration: params.yaml -> frozen dataclasses; type, range, default and reason in one line.

The defaults are experiment c0: NanoDet's EfficientNet-Lite1@416, the paper where it speaks. Over
them `load_config(experiment, profile)` puts three levels, the later one winning key by key:
profile <- experiments[name] <- profile.experiments[name]. The last level is for what an
experiment needs in one profile only (NanoDet's own schedule on COCO, say).
A profile's `input_scale` shrinks `input_size` (to a multiple of 16) and with it `cell_scale`, so
that the assignment's cells keep their share; else no object of a small picture fits stride 32.
What a run cannot have raises `ConfigError`, which names the key, the value and the remedy.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


class UserError(ValueError):
    """Something that the user can mend; the message names the file, the value and the remedy."""


class ConfigError(UserError):
    """A mistake in params.yaml; the message names the key, the value and the remedy."""


class DataError(UserError):
    """Unusable data; the message names files, ids and values."""


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


SMALLEST_INPUT = 64  # px
NAME = re.compile(r"[\w-]+", re.ASCII)  # of a profile
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # "1", true: no numbers


def such(fits: Callable[[Any], bool], remedy: str) -> AfterValidator:
    """A rule that type and range do not say."""

    def check(value: object) -> object:
        if fits(value):
            return value
        # as pydantic says it
        raise PydanticCustomError("such", "Input should be {remedy}", {"remedy": remedy})

    return AfterValidator(check)


LIST = Field(strict=False)  # YAML's lists become tuples; what is in them stays strict
PAIR = such(lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1], "two numbers, 0 < low <= high")
RISING = such(lambda numbers: [0, *numbers] == sorted({0, *numbers}), "rising epochs from 1 up")
EIGHTS = such(lambda channels: all(n > 0 and n % 8 == 0 for n in channels), "multiples of 8")
ONCE_EACH = such(lambda names: len({"", *map(str.strip, names)}) == len(names) + 1,
                 "names of classes, each of them once, or [] for all")  # fmt: skip
BACKBONES = [f"lite{i}{expansion}" for expansion in ("", "-e3", "-e4") for i in range(5)]
Backbone = Annotated[str, such(BACKBONES.__contains__, f"one of {', '.join(BACKBONES)}")]
OnOrFile = Annotated[bool | str, such(lambda value: value != "", "true, false or a file")]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Factors = Annotated[tuple[float, ...], LIST, PAIR]
Epochs = Annotated[tuple[int, ...], LIST, RISING]
Inner = Annotated[tuple[int, ...], LIST, EIGHTS]
Names = Annotated[tuple[str, ...], LIST, ONCE_EACH]


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    source: Literal["demo", "bccd", "coco", "folder", "minicoco"] = "folder"  # folder: COCO format
    images: str = ""  # folder of the images; `{split}` in it stands for train or val
    train_annotations: str = ""  # COCO json, relative to the repository root or absolute
    val_annotations: str = ""  # the same for the images that are evaluated
    num_train: Whole = 0  # demo: scenes to draw for training
    num_val: Whole = 0  # demo: scenes to draw for evaluation
    seed: Whole = 0  # demo: which scenes
    image_size: int = Field(320, ge=96)  # demo: px of the square scenes
    pack_size: int = Field(640, ge=32)  # px; images are packed once at it, augmentation resamples
    classes: Names = ()  # names of those that are kept; none = all of the annotations


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    backbone: Backbone = "lite1"  # EfficientNet-Lite: lite0 .. lite4; lite1-e4, -e3: expansion 4, 3
    input_size: int = Field(416, ge=SMALLEST_INPUT, multiple_of=16)  # px of the square canvas
    activation: Literal["relu6", "leakyrelu", "mish", "silu", "hswish"] = "relu6"  # everywhere
    head: Literal["gflv1", "gflv2"] = "gflv1"  # gflv2 adds the quality predictor
    num_classes: Count | None = 80  # null: as many as the annotations have
    channels: int = Field(128, ge=8)  # of the neck and the head
    stacked_convs: Count = 3  # depthwise-separable convolutions per level of the head
    reg_max: int = Field(10, ge=4)  # largest distance in strides; R = reg_max + 1 bins
    cell_scale: Positive = 8.0  # side of the ATSS cell in strides (octave_base_scale)
    # ImageNet weights, as in the paper; or a file of them, or of a detector of any classes
    pretrained: OnOrFile = True
    drop_path: float = Field(0.0, ge=0, le=0.9)  # stochastic depth of the backbone
    bn_momentum: Share = 0.1  # of the backbone's running statistics; NanoDet: 0.01
    inner: Inner = ()  # channels inside each block that widens; none = by the backbone's name
    tf_padding: bool = False  # of the backbone, as its weights had it; else symmetric, as NanoDet's
    # lightdet: all of the above; nanodet_m: on a backbone of its own; yolov4_tiny: the size alone
    network: Literal["lightdet", "yolov4_tiny", "nanodet_m"] = "lightdet"


@dataclass(frozen=True, config=STRICT)
class AugmentConfig:
    scale: Factors = (0.5, 1.5)  # factor on the letterboxed size
    translate: float = Field(0.2, ge=0, le=0.5)  # shift, uniform within +- this share
    warp_probability: Share = 0.5  # scale and translation are each applied with this probability
    flip: Share = 0.5  # probability of mirroring left-right; 0 where left and right differ (signs)
    color_probability: Share = 0.5  # of each of the three colour changes
    mosaic: Share = 0.0  # probability per image
    mosaic_off_epochs: Whole = 15  # the last epochs see plain images again
    mixup: Share = 0.0  # probability per image
    cutmix: Share = 0.0  # probability per image


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    epochs: Count = 170  # passes over the training images
    batch_size: Count = 128  # images per optimizer step
    optimizer: Literal["sgd", "adamw"] = "sgd"  # sgd with momentum 0.9
    lr: Positive = 0.16  # peak learning rate
    weight_decay: Share = 1e-4  # on every parameter, as NanoDet has it
    warmup_steps: Whole = 500  # linear warm-up from warmup_lr to lr
    warmup_lr: NotNegative = 3e-4  # the paper: 0.0003 -> 0.16
    schedule: Literal["multistep", "cosine"] = "multistep"
    milestones: Epochs = (130, 150, 160, 165)  # epochs; multistep: lr x 0.1 at each
    final_lr: NotNegative = 0.0  # cosine: where it ends
    grad_clip: NotNegative = 0.0  # largest gradient norm; 0 = off
    frozen_bn: bool = False  # the backbone's batch norm stays as it is at the start
    ema_decay: float = Field(0.0, ge=0, le=0.99999)  # moving average of the weights; 0 = off
    ema_ramp: Count = 2000  # steps over which the decay grows to ema_decay
    label_smoothing: float = Field(0.0, ge=0, le=0.05)  # positives only: y = IoU (1 - eps)
    # bf16, fp16: autocast, the latter with a scaled loss; fp16-pure: Apex O3
    precision: Literal["fp32", "bf16", "fp16", "fp16-pure"] = "fp32"
    init: str = ""  # experiment whose run of the same seed gives the first weights, not the batches
    # by which inner channels are chosen where init's blocks are wider (slim.py)
    importance: Literal["projection", "bn", "taylor"] = "projection"
    checkpoint_steps: Count = 500  # steps between two resumable checkpoints
    evaluate_epochs: Whole = 0  # evaluate after every so many epochs and at pruning; 0 = at the end


@dataclass(frozen=True, config=STRICT)
class SparsityConfig:
    prune_at: float | None = Field(None, ge=0, lt=1)  # 2:4 masks from this share of steps on
    backend: Literal["own", "apex"] = "own"  # apex: NVIDIA's ASP, which must be built from source


@dataclass(frozen=True, config=STRICT)
class DistillConfig:
    teacher: str = ""  # experiment whose run of seed 0 teaches; empty = none
    ld_weight: NotNegative = 0.0  # localization distillation at the positive cells
    vlr_weight: NotNegative = 0.0  # the same around them, in the valuable localization region
    kd_weight: NotNegative = 0.0  # distillation of the class logits at the positive cells
    temperature: Positive = 10.0  # of the edge distributions


@dataclass(frozen=True, config=STRICT)
class Config:
    experiment: str
    profile: str
    seed: int = Field(0, ge=0, lt=2**32)  # the keys made of it and of a step must fit 64 bits
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    sparsity: SparsityConfig = SparsityConfig()
    distill: DistillConfig = DistillConfig()

    @property
    def settings(self) -> dict:
        """Every setting as a nested dict, but for those that change no weights."""
        settings = dataclasses.asdict(self)
        for key in ("checkpoint_steps", "evaluate_epochs"):
            del settings["train"][key]
        return settings

    @property
    def hash(self) -> str:
        """12 hex digits of the settings but for the seed: runs that share them are comparable.

        Only what differs from the defaults counts, so that a new option leaves old runs as they
        are. Hence a default never changes: what would be better becomes an option.
        """
        usual = Config("", "").settings
        kept = {
            f"{section}.{key}": value
            for section in SECTIONS
            for key, value in self.settings[section].items()
            if value != usual[section][key]
        }
        text = json.dumps([self.experiment, self.profile, kept], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def with_model(self, **settings: Any) -> "Config":
        """The same with other settings of `model`."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, **settings))

    @property
    def run_name(self) -> str:
        return f"{self.experiment}-s{self.seed}"


LISTS = ("runs", "taught", "ladder", "slim", "controls", "rivals", "seeds")  # of params.yaml
WORDS = ("about", "against")  # of an experiment: what is in figures, and the run it is compared to
SECTIONS: dict[str, Any] = {
    f.name: f.type for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)
}


def parse_yaml(text: str) -> Any:
    """YAML 1.2, as DVC reads params.yaml, too: 1e-3 and 0416 are the numbers that they look like,
    `no` is a word, and a key that stands twice is an error (but for a list of merges)."""
    return YAML(typ="safe").load(text)


def read_yaml(path: Path) -> Any:
    """`parse_yaml` of a file; `ConfigError` where that is impossible."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; restore it") from None
    except (YAMLError, ValueError) as error:
        # the whole repeats the text, and tells programmers how to switch the check of keys off
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}: " if mark else ""
        reason = " ".join(str(problem or error).partition(" with value ")[0].split())
        wanted = "not YAML in UTF-8 with each key once"
        raise ConfigError(f"{path}: {wanted}: {where}{reason}") from None


def read_params(path: Path | None = None) -> dict:
    """params.yaml as a dict; `ConfigError` when it is missing, not YAML, or a key stands twice."""
    path = path or root() / "params.yaml"
    params = _mapping(read_yaml(path), str(path))
    needed = ("profile", "runs", "seeds", "show", "experiments")
    if missing := [key for key in needed if not params.get(key)]:
        raise ConfigError(f"{path}: nothing under {', '.join(missing)}")
    experiments = params["experiments"] = _mapping(params["experiments"], f"{path}: experiments")
    for key in LISTS:
        entries = params[key] = [] if params.get(key) is None else params[key]
        if not isinstance(entries, list):
            raise ConfigError(f"{path}: {key}: {entries!r}: write a list, such as [{entries}]")
        if twice := [entry for i, entry in enumerate(entries) if entry in entries[:i]]:
            raise ConfigError(f"{path}: {key}: {twice[0]!r} stands twice; keep one")
        for entry in entries if key != "seeds" else ():
            _choose(entry, experiments, f"{path}: {key}:")
    if not all(type(seed) is int and 0 <= seed < 2**32 for seed in params["seeds"]):
        raise ConfigError(f"{path}: seeds: {params['seeds']}: whole numbers from 0 below 2**32")
    _check_order(params, path)
    if (show := params["show"]) not in params["runs"] or 0 not in params["seeds"]:
        raise ConfigError(f"{path}: notebooks show {show}-s0: `runs` must hold {show}, `seeds` 0")
    return params


def _check_order(params: dict, path: Path) -> None:
    """DVC trains `runs`, then `taught`, for which it knows one teacher: `teacher`."""
    for listed, run in [(key, run) for key in ("runs", "taught") for run in params[key]]:
        where = f"{path}: experiments.{run}"
        experiment = _mapping(params["experiments"][run], where)
        distill, train, model = (
            _mapping(experiment.get(k), f"{where}.{k}") for k in ("distill", "train", "model")
        )
        if (network := model.get("network", "lightdet")) != "lightdet":
            raise ConfigError(f"{path}: {run} is a {network}: move it from `{listed}` to `rivals`")
        teacher = distill.get("teacher")
        needed = teacher or train.get("init")
        wanted = "taught" if teacher == "teacher" else "ladder" if needed else "runs"
        if wanted != listed:
            reason = f"needs the run of {needed}" if needed else "needs no other run"
            raise ConfigError(f"{path}: {run} {reason}: move it from `{listed}` to `{wanted}`")
    taught = params["taught"]
    if taught and "teacher" not in params["runs"]:
        raise ConfigError(f"{path}: {', '.join(taught)} under `taught`: add `teacher` to `runs`")


def all_runs(params: dict) -> list[str]:
    """What `dvc repro` trains, in the order of the tables: the teacher comes last."""
    return sorted([*params["runs"], *params["taught"]], key="teacher".__eq__)


def profiles(params: dict) -> list[str]:
    """The keys of params.yaml that are profiles."""
    others = {"profile", "show", "adamw", "cpu", "experiments", *LISTS}
    return [key for key in params if key not in others]


def load_config(
    experiment: str, profile: str | None = None, seed: int = 0, params: Path | dict | None = None
) -> Config:
    """The settings of one run; `ConfigError` for what is unknown, of a wrong type or impossible.

    `profile` None is params.yaml's; `params` is another params file, or its contents.
    """
    params = params if isinstance(params, dict) else read_params(params)
    profile = params["profile"] if profile is None else profile
    experiments = params["experiments"]
    _choose(experiment, experiments, "experiment")
    _choose(profile, profiles(params), "profile")
    if not NAME.fullmatch(profile):
        remedy = "folders and DVC take letters, digits, _ and - alone; rename it in params.yaml"
        raise ConfigError(f"profile {profile!r}: {remedy}")
    base = dict(_mapping(params[profile], profile))
    input_scale, in_profile = base.pop("input_scale", 1.0), base.pop("experiments", None)
    in_profile = _mapping(in_profile, f"{profile}.experiments")
    for name in in_profile:
        _choose(name, experiments, f"{profile}.experiments:")
    of_experiment = _mapping(experiments[experiment], f"experiments.{experiment}")
    layers = {  # by where they stand, the strongest last
        profile: base,
        f"experiments.{experiment}": {k: v for k, v in of_experiment.items() if k not in WORDS},
        f"{profile}.experiments.{experiment}": in_profile.get(experiment),
    }
    merged: dict[str, dict] = {name: {} for name in SECTIONS}
    places = {}  # where the value of a setting stands
    for where, layer in layers.items():
        for section, values in _mapping(layer, where).items():
            _choose(section, SECTIONS, f"{where}:")
            if section == "data" and where != profile:
                raise ConfigError(f"{where}.data: runs share packs; set it under {profile}.data")
            for key, value in _mapping(values, f"{where}.{section}").items():
                merged[section][key] = value
                places[f"{section}.{key}"] = f"{where}.{section}.{key}"
    built = {name: _built(cls, merged[name], places, name) for name, cls in SECTIONS.items()}
    built["model"] = _scaled(built["model"], input_scale, profile)
    built |= {"experiment": experiment, "profile": profile, "seed": seed}
    config = _built(Config, built, places)
    _check_together(config, experiments, places)
    return config


def _scaled(model: ModelConfig, input_scale: object, profile: str) -> ModelConfig:
    """The input, and with it the assignment's cells, as large as the profile wants them."""
    where = f"{profile}.input_scale: {input_scale!r}"
    number = isinstance(input_scale, int | float) and not isinstance(input_scale, bool)
    if not number or not 0 < input_scale <= 4:
        raise ConfigError(f"{where} is not a factor between 0 and 4")
    size = model.input_size
    scaled = size if input_scale == 1 else round(size * input_scale / 16) * 16
    if scaled < SMALLEST_INPUT:
        raise ConfigError(f"{where}: makes {size} px {scaled} px; {SMALLEST_INPUT} px are needed")
    cell_scale = model.cell_scale * scaled / size
    return dataclasses.replace(model, input_size=scaled, cell_scale=cell_scale)


def _choose(value: object, known: Iterable[str], where: str) -> None:
    if value not in list(known):
        raise ConfigError(f"{where} {value!r}: choose one of {', '.join(known)}")


def _mapping(value: object, where: str) -> dict:
    """`value` if it is a mapping of names; nothing at all counts as an empty one."""
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{where}: {value!r}, but keys with values are needed")
    if odd := [key for key in value or {} if not isinstance(key, str)]:
        raise ConfigError(f"{where}: {odd[0]!r}: not read as text; put it in quotes")
    return value or {}


def _built(cls: type, values: dict, places: dict[str, str], section: str = "") -> Any:
    """`cls` of `values`; a value that it refuses is named with its place and the remedy."""
    try:
        return cls(**values)
    except ValidationError as refused:
        error, *_ = errors = refused.errors()
        key, value = error["loc"][0], error["input"]
        wanted = [e["msg"].removeprefix("Input ") for e in errors if e["loc"][0] == key]
        remedy = " or ".join(dict.fromkeys(wanted))
        if error["type"] == "unexpected_keyword_argument":
            remedy = f"unknown; known are {', '.join(f.name for f in dataclasses.fields(cls))}"
        elif error["type"] == "tuple_type":
            remedy = f"write a list, such as [{'' if value is None else value}]"
        where = places.get(f"{section}.{key}", key)
        raise ConfigError(f"{where}: {values[key]!r}: {remedy}") from None


def _check_together(config: Config, experiments: dict, places: dict[str, str]) -> None:
    """What must fit other settings; for whole runs only, so that code may replace one setting."""
    augment, train, distill = config.augment, config.train, config.distill
    last = train.milestones[-1] if train.schedule == "multistep" and train.milestones else 0
    taught = any((distill.ld_weight, distill.vlr_weight, distill.kd_weight))
    size, network = config.model.input_size, config.model.network
    helped = config.model.pretrained or distill.teacher or train.init or train.frozen_bn
    rules = [
        ("model.network", network == "lightdet" or not helped,
         "from random weights alone: model.pretrained false, and no teacher, init or frozen_bn"),
        ("model.input_size", network != "yolov4_tiny" or size % 32 == 0,
         "a multiple of 32 for yolov4_tiny; choose model.input_size and input_scale so"),
        ("train.label_smoothing", network != "yolov4_tiny" or not train.label_smoothing,
         "0 for yolov4_tiny, whose losses are darknet's"),
        ("data.pack_size", config.data.pack_size >= size,
         f"at least the {size} px of {config.experiment}'s input, or it learns enlarged images"),
        ("augment.mixup", augment.mixup + augment.cutmix <= 1,
         f"at most 1 together with augment.cutmix {augment.cutmix}: an image gets one of them"),
        ("train.precision", train.precision != "fp16-pure" or train.optimizer == "sgd",
         "only with train.optimizer sgd: AdamW's second moment is 0 in half precision"),
        ("train.warmup_lr", train.warmup_lr <= train.lr, f"at most train.lr {train.lr}"),
        ("train.final_lr", train.final_lr <= train.lr, f"at most train.lr {train.lr}"),
        ("train.milestones", last < train.epochs, f"below train.epochs {train.epochs}"),
        ("distill.teacher", bool(distill.teacher) == taught,
         "a teacher needs a weight, ld_weight, vlr_weight or kd_weight, and these need a teacher"),
    ]  # fmt: skip
    for key, run in (("distill.teacher", distill.teacher), ("train.init", train.init)):
        rules.append((key, run != config.experiment, "a run cannot need itself"))
        rules.append((key, run in ("", *experiments), f"choose one of {', '.join(experiments)}"))
    for key, fits, remedy in rules:
        if not fits:
            section, name = key.split(".")
            value = getattr(getattr(config, section), name)
            where = places.get(key, f"{config.profile}/{config.experiment}: {key}")
            raise ConfigError(f"{where}: {value!r}: {remedy}")
