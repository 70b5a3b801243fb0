import copy
import dataclasses
import json
import math
import re

import pytest
from pydantic import TypeAdapter, ValidationError

from lightdet_core.config import (
    SECTIONS,
    Config,
    ConfigError,
    all_runs,
    load_config,
    parse_yaml,
    profiles,
    read_params,
    root,
)

PARAMS = read_params()
PROFILES = profiles(PARAMS)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_experiment_loads_in_every_profile(profile):
    for experiment in PARAMS["experiments"]:
        config = load_config(experiment, profile, params=PARAMS)
        assert config.experiment == experiment and config.profile == profile


def test_paper_groups():
    """Table 2: backbone, input, activation and head of groups 1 to 3."""
    for name, printed, of_nanodet in (
        ("g1", ("lite0", 320, "relu6", "gflv1"), (96, 7, 5)),
        ("g2", ("lite1", 416, "mish", "gflv1"), (128, 10, 8)),
        ("g3", ("lite1", 416, "silu", "gflv1"), (128, 10, 8)),
    ):
        m = load_config(name, "coco").model
        assert (m.backbone, m.input_size, m.activation, m.head) == printed
        assert (m.channels, m.reg_max, m.cell_scale) == of_nanodet


@pytest.mark.parametrize("profile", PROFILES)
def test_c0_is_the_parent_of_the_ladder_everywhere(profile):
    """Every rung differs from c0 in what its name says, and in nothing else."""
    runs = [run for run in PARAMS["ladder"] if run not in ("g3-scratch", "g5-scratch")]
    settings = {run: load_config(run, profile, params=PARAMS).settings for run in runs}
    g3 = load_config("g3", profile, params=PARAMS).settings
    different = {
        run: {
            f"{section}.{key}"
            for section, values in found.items()
            if isinstance(values, dict)
            for key in values
            if values[key] != settings["c0"][section][key]
        }
        for run, found in settings.items()
    }
    distilled = {"distill.teacher", "distill.ld_weight"}
    assert different == {
        "c0": set(),
        "+amp": {"train.precision"},
        "+silu": {"model.activation"},
        "+mish": {"model.activation"},
        "+leakyrelu": {"model.activation"},
        "+gflv2": {"model.head"},
        "+prune": {"sparsity.prune_at"},
        "+ld": distilled,
        "+ld+vlr+kd": distilled | {"distill.vlr_weight", "distill.kd_weight"},
        "+mosaic": different["+mosaic"] | {"augment.mosaic"},
        "+mixup": {"augment.mixup"},
        "+cutmix": {"augment.cutmix"},
        "+smoothing": {"train.label_smoothing"},
        "silu-prune": {"model.activation", "sparsity.prune_at"},
        "mish-prune": {"model.activation", "sparsity.prune_at"},
        "dense-retrain": {"train.init"},
        "prune-retrain": {"train.init", "sparsity.prune_at"},
        "self-ld": distilled,
        "g3-lite0": different["g3-lite0"],
        "c0-scratch": {"model.pretrained"},
        "tf-padding": {"model.tf_padding"},
        "frozen-bn": {"train.frozen_bn"},
    }
    # short profiles also end it sooner
    assert different["+mosaic"] <= {"augment.mosaic", "augment.mosaic_off_epochs"}
    lite0 = settings["g3-lite0"]
    assert {k for k in g3["model"] if g3["model"][k] != lite0["model"][k]} == {"backbone"}
    assert all(g3[k] == lite0[k] for k in g3 if k not in ("model", "experiment"))


@pytest.mark.parametrize("profile", PROFILES)
def test_groups_from_scratch_are_the_groups_but_for_their_start(profile):
    for run in ("g3", "g5"):
        usual, scratch = (load_config(name, profile) for name in (run, f"{run}-scratch"))
        assert usual.model.pretrained is True
        assert usual.with_model(pretrained=False).model == scratch.model
        quiet = dataclasses.replace(usual.train, evaluate_epochs=scratch.train.evaluate_epochs)
        assert (quiet, usual.sparsity, usual.distill) == (
            scratch.train, scratch.sparsity, scratch.distill
        )  # fmt: skip


def test_profile_scales_input_and_cells():
    assert load_config("g2", "coco").model.cell_scale == 8
    for profile, g1, g2 in (("bccd", 160, 208), ("demo", 128, 160)):  # x 0.5 and x 0.4
        assert load_config("g1", profile).model.input_size == g1
        model = load_config("g2", profile).model
        assert model.input_size == g2  # 166.4 is not whole
        assert model.cell_scale == pytest.approx(8 * g2 / 416)


def test_profiles_for_a_gpu():
    """All rows of Table 2 in fp16 at the paper's input sizes, and the ladder as elsewhere."""
    for profile, epochs in (("minicoco416", 15), ("bccd416", 60)):
        for run in all_runs(PARAMS):
            config = load_config(run, profile, params=PARAMS)
            train, model = config.train, config.model
            assert (train.precision, train.batch_size, train.epochs) == ("fp16", 32, epochs)
            assert model.pretrained is True and config.data.classes == ()
            assert model.input_size == (320 if run == "g1" else 416) and model.cell_scale in (5, 8)
        mosaic = load_config("+mosaic", profile)
        assert mosaic.augment.mosaic_off_epochs < epochs  # or there was none
    assert len(load_config("g3", "minicoco").data.classes) == 9


def test_later_layers_win_key_by_key():
    params = {
        "profile": "p",
        "p": {
            "train": {"lr": 0.1, "epochs": 4, "milestones": []},
            "model": {"channels": 64},
            "experiments": {"e": {"train": {"epochs": 6}}},
        },
        "experiments": {"e": {"train": {"epochs": 5, "lr": 0.2}}, "f": None},
    }
    config = load_config("e", params=params)
    assert (config.train.lr, config.train.epochs, config.model.channels) == (0.2, 6, 64)
    config = load_config("f", params=params)
    assert (config.train.lr, config.train.epochs) == (0.1, 4)


def test_hash_covers_settings_and_not_the_seed():
    config = load_config("g1", "demo")
    assert config.hash == load_config("g1", "demo", seed=5).hash
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, lr=1e-3))
    assert other.hash != config.hash
    assert load_config("g1", "demo", seed=5).run_name == "g1-s5"
    rhythm = dataclasses.replace(config.train, checkpoint_steps=7, evaluate_epochs=1)
    assert dataclasses.replace(config, train=rhythm).hash == config.hash
    some = dataclasses.replace(config, data=dataclasses.replace(config.data, classes=("car",)))
    assert some.settings["data"]["classes"] == ("car",) and some.hash != config.hash


def test_only_what_differs_from_the_defaults_is_in_the_hash(monkeypatch):
    """So a new setting leaves older runs as they are, where it is not used."""
    g3 = load_config("g3", "demo")
    before, settings = g3.hash, Config.settings.fget

    def with_new_setting(config):
        found = settings(config)
        found["train"]["new"] = config.experiment == "g4"  # the default is False
        return found

    monkeypatch.setattr(Config, "settings", property(with_new_setting))
    assert g3.hash == before
    used = load_config("g4", "demo").hash
    monkeypatch.undo()
    assert used != load_config("g4", "demo").hash


IN_DEMO = [
    ("train.epoch", 3, r"demo\.train\.epoch: 3: unknown; known are epochs"),
    ("trian", {"lr": 1}, r"demo: 'trian': choose one of data, model"),
    ("train.lr", "2e-3", r"demo\.train\.lr: '2e-3': should be a valid number"),
    ("train.epochs", 2.5, r"demo\.train\.epochs: 2\.5: should be a valid integer"),
    ("train.epochs", True, r"demo\.train\.epochs: True: should be a valid integer"),
    ("train.frozen_bn", "no", r"frozen_bn: 'no': should be a valid boolean"),
    ("data.skip_broken", True, r"skip_broken: True: unknown; known are source"),
    ("augment.scale", [1], r"demo\.augment\.scale: \[1\]: should be two numbers"),
    ("augment.scale", [1.5, 0.5], r"augment\.scale: \[1\.5, 0\.5\]: should be two numbers"),
    ("train.epochs", 0, r"demo\.train\.epochs: 0: should be greater than or equal to 1"),
    ("train.lr", -1.0, r"demo\.train\.lr: -1\.0: should be greater than 0"),
    ("train.lr", float("nan"), r"train\.lr: nan: should be a finite number"),
    ("distill", {"ld_weight": float("inf")}, r"ld_weight: inf: should be a finite number"),
    ("input_scale", 0.1, r"demo\.input_scale: 0\.1: makes 416 px 48 px"),
    ("train", {"schedule": "multistep", "epochs": 100}, r"milestones: .*below train\.epochs"),
    ("model", {"input_size": 0}, r"input_size: 0: should be greater than or equal to 64"),
    ("experiments.g99", {}, r"demo\.experiments: 'g99': choose one of g1"),
    ("train.label_smoothing", 0.1, r"label_smoothing: 0\.1: should be less than or equal to 0\.05"),
    ("train.milestones", [3, 2], r"milestones: \[3, 2\]: should be rising"),
    ("model.activation", "relu", r"activation: 'relu': should be 'relu6', 'leakyrelu'"),
    ("input_scale", "half", r"demo\.input_scale: 'half' is not a factor"),
    ("data.source", "voc", r"data\.source: 'voc': should be 'demo', 'bccd', 'coco', 'folder'"),
    ("model.num_classes", 0, r"num_classes: 0: should be greater than or equal to 1"),
    ("train", 5, r"demo\.train: 5, but keys with values are needed"),
    ("experiments", [1], r"demo\.experiments: \[1\], but keys"),
    ("train.precision", "fp8", r"precision: 'fp8': should be 'fp32', 'bf16'"),
    ("train.precision", "fp16-pure", r"'fp16-pure': only with train\.optimizer sgd"),
    ("train.init", "c7", r"train\.init: 'c7': choose one of g1"),
    ("train.init", "c0", r"train\.init: 'c0': a run cannot need itself"),
    ("sparsity", {"prune_at": 1.0}, r"prune_at: 1\.0: should be less than 1"),
    ("sparsity", {"prune_at": -0.1}, r"prune_at: -0\.1: should be greater than or equal to 0"),
    ("sparsity", {"backend": "asp"}, r"backend: 'asp': should be 'own' or 'apex'"),
    ("distill", {"teacher": "g2"}, r"teacher: 'g2': a teacher needs a weight"),
    ("distill", {"ld_weight": 1.0}, r"teacher: '': a teacher needs a weight"),
    ("distill", {"teacher": "g9", "ld_weight": 1.0}, r"teacher: 'g9': choose one of"),
    ("distill", {"teacher": "c0", "kd_weight": 1.0}, r"'c0': a run cannot need itself"),
    ("distill", {"vlr_weight": -1.0}, r"vlr_weight: -1\.0: should be greater than or equal to 0"),
    ("distill", {"temperature": 0.0}, r"distill\.temperature: 0\.0: should be greater than 0"),
    ("data.classes", "car", r"demo\.data\.classes: 'car': write a list, such as \[car\]"),
    (
        "data.classes",
        ["car", "car"],
        r"data\.classes: \['car', 'car'\]: should be names of classes,",
    ),
    ("data.classes", ["car", " "], r"data\.classes: \['car', ' '\]: .* or \[\] for all"),
    ("data.classes", None, r"classes: None: write a list, such as \[\]"),
    ("train.milestones", 3, r"milestones: 3: write a list, such as \[3\]"),
    ("train.milestones", ["3"], r"milestones: \['3'\]: should be a valid integer"),
    ("model.pretrained", "", r"demo\.model\.pretrained: '': should be true, false or a"),
    ("model.pretrained", 5, r"pretrained: 5: should be a valid boolean or should be a"),
    ("train.1", 5, r"demo\.train\.1: 5: unknown; known are epochs"),
    ("data.seed", -1, r"data\.seed: -1: should be greater than or equal to 0"),
    ("augment", {"mixup": 0.5, "cutmix": 0.6}, r"mixup: 0\.5: at most 1 together with"),
    ("train.warmup_lr", 1.0, r"warmup_lr: 1\.0: at most train\.lr 0\."),
    ("train.final_lr", -0.1, r"final_lr: -0\.1: should be greater than or equal to 0"),
    ("model", {"backbone": "lite9"}, r"backbone: 'lite9': should be one of lite0, lite1"),
    ("model", {"cell_scale": 0.0}, r"cell_scale: 0\.0: should be greater than 0"),
    ("train.milestones", [0, 2], r"milestones: \[0, 2\]: should be rising epochs from 1 up"),
    ("train.lr", 10**400, r"train\.lr: 10+: should be a valid number"),
]
ELSEWHERE = [
    ("demo.data.pack_size", 128, r"demo\.data\.pack_size: 128: at least the 160 px of c0's input"),
    ("demo.model.chanels", 3, r"demo\.model\.chanels: 3: unknown"),
    ("experiments.c0", "x", r"experiments\.c0: 'x', but keys"),
    ("experiments.c0.data", {"pack_size": 800}, r"ts\.c0\.data: runs share packs; .* demo\.data"),
    ("demo.experiments", {"c0": {"data": {"seed": 1}}}, r"demo\.experiments\.c0\.data: runs share"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), [(f"demo.{row[0]}", *row[1:]) for row in IN_DEMO] + ELSEWHERE
)
def test_mistakes_are_named(path, value, message):
    with pytest.raises(ConfigError, match=message):
        changed(path, value)


def changed(path, value):
    """c0 in the demo, with one value of params.yaml changed."""
    params = target = copy.deepcopy(PARAMS)
    *sections, key = path.split(".")
    for section in sections:
        target = target.setdefault(section, {})
    target[key] = value
    return load_config("c0", "demo", params=params)


def numbers():
    """Every number among the settings with what its type allows: a JSON schema says it."""
    for section, cls in SECTIONS.items():
        for name, schema in TypeAdapter(cls).json_schema()["properties"].items():
            kinds = [kind for kind in schema.get("anyOf", [schema]) if "type" in kind]
            for kind in kinds:
                if kind["type"] in ("integer", "number"):
                    yield f"{section}.{name}", kind


@pytest.mark.parametrize(("key", "kind"), list(numbers()))
def test_numbers_have_limits_and_beyond_them_are_refused(key, kind):
    lowest = kind["minimum"] if "minimum" in kind else kind["exclusiveMinimum"]
    highest = kind.get("maximum", kind.get("exclusiveMaximum", math.inf))
    for value in (lowest - 1, highest + 1):
        if math.isfinite(value):
            with pytest.raises(ConfigError, match=rf"demo\.{re.escape(key)}: {value}: should be"):
                changed(f"demo.{key}", value)


def test_values_have_the_declared_types():
    """A hash is one of JSON: 1 and 1.0 are not the same there, lists and tuples are."""
    config = changed("demo.train.grad_clip", 35)
    assert config.hash == load_config("c0", "demo").hash
    assert type(config.train.grad_clip) is float and config.augment.scale == (0.7, 1.3)
    with pytest.raises(ValidationError, match="greater than"):
        dataclasses.replace(config.train, epochs=0)


def test_words_of_experiments_are_no_settings_and_name_runs():
    for experiment in filter(None, PARAMS["experiments"].values()):
        assert experiment.get("against", "c0") in PARAMS["experiments"]
    params = copy.deepcopy(PARAMS)
    params["experiments"]["+silu"]["about"] = "other words"
    assert load_config("+silu", "demo", params=params) == load_config("+silu", "demo")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("g9", "demo"), "experiment 'g9': choose one of g1, g2"),
        (("g1", "dmeo"), "profile 'dmeo': choose one of demo"),
        (("g1", "adamw"), "profile 'adamw'"),
        (("g1", "demo", -1), "seed: -1: should be greater"),
        (("g1", "demo", 2**32), "seed: 4294967296: should be less than 4294967296"),
    ],
)
def test_unknown_names(names, message):
    with pytest.raises(ConfigError, match=message):
        load_config(*names)


def test_the_largest_seed():
    assert load_config("g1", "demo", seed=2**32 - 1).run_name == "g1-s4294967295"


def with_(**changes):
    return json.dumps(PARAMS | changes)


def with_experiment(**changes):
    return with_(experiments=PARAMS["experiments"] | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"params\.yaml: not found"),
        ("a: [1", r"params\.yaml: not YAML"),
        ("demo: {a: 1}\nbccd: {}\ndemo: {}", r': line 3: found duplicate key "demo"$'),
        (
            "a: &a {b: {lr: 1, lr: 2}}\nc: *a",
            r'with each key once: line 1: found duplicate key "lr"$',
        ),
        ("demo: {}\n2026: {}", r"params\.yaml: 2026: not read as text; put it in quotes"),
        (with_(runs=[*PARAMS["runs"], "g1"]), r"runs: 'g1' stands twice; keep one"),
        (with_(seeds=[0, 0]), r"seeds: 0 stands twice; keep one"),
        ("# für".encode("latin-1"), r"params\.yaml: not YAML in UTF-8 with each key once: .*0xfc"),
        ("a: b\x07", r"params\.yaml: not YAML in UTF-8 .*not allowed[^\n]*$"),
        ("? [a, b]\n: 1", r"params\.yaml: \('a', 'b'\): not read as text"),
        (
            with_experiment(g1={"1": {}}).replace('"1"', "1"),
            r"\.g1: 1: not read as text",
        ),
        ("profile: demo", r"params\.yaml: nothing under runs, seeds, show"),
        (with_(show="c0"), r"show c0-s0: `runs` must hold c0"),
        (with_(runs=5), r"params\.yaml:? ?.*runs: .*(list|keys)"),
        (with_(seeds="0"), r"params\.yaml:? ?.*seeds: .*(list|keys)"),
        (with_(ladder="c0"), r"params\.yaml:? ?.*ladder: .*(list|keys)"),
        (with_(experiments=[1]), r"params\.yaml:? ?.*experiments: .*(list|keys)"),
        (with_(runs=[*PARAMS["runs"], "g99"]), r"runs: 'g99': choose one of g1, g2"),
        (with_(ladder=[["c0"]]), r"ladder: \['c0'\]: choose one of .*, c0"),
        (with_(seeds=[0, "x"]), r"seeds: \[0, 'x'\]: whole numbers"),
        (with_(seeds=[0, -1]), r"seeds: \[0, -1\]: whole numbers"),
        (with_(seeds=[0, 2**32]), r"seeds: \[0, 4294967296\]: whole numbers from 0 below 2\*\*32"),
        (with_experiment(g1=[1]), r"experiments\.g1: \[1\], but keys"),
        (with_experiment(g5={"distill": "t"}), r"g5\.distill: 't', but keys"),
    ],
)
def test_params_file_errors(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    if text:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        load_config("g1", "demo", params=path)


def test_numbers_and_words_are_what_they_look_like():
    """As DVC reads params.yaml: YAML 1.2."""
    assert parse_yaml("[1e-3, 0416, no]") == [1e-3, 416, "no"]


@pytest.mark.parametrize("name", ["", "../x", "my birds", ".x"])
def test_a_profile_is_the_name_of_a_folder(name):
    with pytest.raises(ConfigError, match=f"profile '{name}': "):
        load_config("g1", name, params=PARAMS | {name: PARAMS["demo"]} if name else None)


def test_a_key_that_stands_over_a_merged_one_stands_once(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        (root() / "params.yaml").read_text() + "again: &self {<<: *adamw, lr: 1, self: *self}\n"
    )
    assert read_params(path)["again"]["lr"] == 1 and read_params(path)["adamw"]["lr"] == 1.5e-3


def test_root_is_found_from_any_folder(tmp_path, monkeypatch):
    here = root()
    for folder in (here / "notebooks", here.parent):
        monkeypatch.chdir(folder)
        assert root() == here
    monkeypatch.setenv("LIGHTDET_ROOT", str(tmp_path))
    assert root() == tmp_path
