import copy
import dataclasses
import math
import re

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from lightdet_core.config import (
    SECTIONS,
    ConfigError,
    all_runs,
    load_config,
    profiles,
    read_params,
    root,
)

PARAMS = read_params()
PROFILES = profiles(PARAMS)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("experiment", PARAMS["experiments"])
def test_every_experiment_loads_in_every_profile(experiment, profile):
    config = load_config(experiment, profile)
    assert config.experiment == experiment and config.profile == profile


def test_paper_groups():
    """Table 2: backbone, input, activation and head of groups 1 to 3."""
    rows = {
        name: dataclasses.asdict(load_config(name, "coco").model) for name in ("g1", "g2", "g3")
    }
    columns = ("backbone", "input_size", "activation", "head")
    assert [tuple(row[c] for c in columns) for row in rows.values()] == [
        ("lite0", 320, "relu6", "gflv1"),
        ("lite1", 416, "mish", "gflv1"),
        ("lite1", 416, "silu", "gflv1"),
    ]
    assert (rows["g1"]["channels"], rows["g1"]["reg_max"], rows["g1"]["cell_scale"]) == (96, 7, 5)
    assert (rows["g3"]["channels"], rows["g3"]["reg_max"], rows["g3"]["cell_scale"]) == (128, 10, 8)


@pytest.mark.parametrize("profile", PROFILES)
def test_c0_is_the_parent_of_the_ladder_everywhere(profile):
    """Every rung differs from c0 in what its name says, and in nothing else."""
    settings = {run: load_config(run, profile).settings for run in PARAMS["ladder"]}
    changed = {
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
    assert changed == {
        "c0": set(),
        "+amp": {"train.precision"},
        "+silu": {"model.activation"},
        "+mish": {"model.activation"},
        "+leakyrelu": {"model.activation"},
        "+gflv2": {"model.head"},
        "+prune": {"sparsity.prune_at"},
        "+ld": distilled,
        "+ld+vlr+kd": distilled | {"distill.vlr_weight", "distill.kd_weight"},
        "+mosaic": changed["+mosaic"],  # short profiles also end it sooner
        "+mixup": {"augment.mixup"},
        "+cutmix": {"augment.cutmix"},
        "+smoothing": {"train.label_smoothing"},
        "silu-prune": {"model.activation", "sparsity.prune_at"},
        "mish-prune": {"model.activation", "sparsity.prune_at"},
        "dense-retrain": {"train.init"},
        "prune-retrain": {"train.init", "sparsity.prune_at"},
        "self-ld": distilled,
        "g3-lite0": changed["g3-lite0"],
    }
    assert (
        {"augment.mosaic"}
        <= changed["+mosaic"]
        <= {
            "augment.mosaic",
            "augment.mosaic_off_epochs",
        }
    )
    g3 = load_config("g3", profile).settings
    lite0 = settings["g3-lite0"]
    assert {k for k in g3["model"] if g3["model"][k] != lite0["model"][k]} == {"backbone"}
    assert all(g3[k] == lite0[k] for k in g3 if k not in ("model", "experiment"))


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
            config = load_config(run, profile)
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
        "common": {"train": {"lr": 0.1, "epochs": 3, "milestones": []}, "model": {"channels": 64}},
        "p": {"train": {"epochs": 4}, "experiments": {"e": {"train": {"epochs": 6}}}},
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
    rhythm = dataclasses.replace(config.train, checkpoint_steps=7, log_steps=7)
    assert dataclasses.replace(config, train=rhythm).hash == config.hash
    some = dataclasses.replace(config, data=dataclasses.replace(config.data, classes=("car",)))
    assert some.settings["data"]["classes"] == ("car",) and some.hash != config.hash


def test_a_new_setting_leaves_older_runs_comparable():
    """Where it is not used: the committed results of the demo were made before `data.classes`."""
    settings = yaml.safe_load((root() / "results/demo/runs/g3-s0.json").read_text())
    assert load_config("g3", "demo").hash == settings["config_hash"] == "3fd499370198"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("demo.train.epoch", 3, r"demo\.train\.epoch: 3: unknown; known are epochs"),
        ("demo.trian", {"lr": 1}, r"demo: 'trian': choose one of data, model"),
        ("common.model.chanels", 3, r"common\.model\.chanels: 3: unknown"),
        (
            "demo.train.lr",
            "2e-3",
            r"demo\.train\.lr: '2e-3': should be a valid number; write 1\.0e-3",
        ),
        ("demo.train.epochs", 2.5, r"demo\.train\.epochs: 2\.5: should be a valid integer"),
        ("demo.train.epochs", True, r"demo\.train\.epochs: True: should be a valid integer"),
        ("demo.data.skip_broken", "no", r"skip_broken: 'no': should be a valid boolean"),
        ("demo.augment.scale", [1], r"demo\.augment\.scale: \[1\]: should be two numbers"),
        (
            "demo.augment.scale",
            [1.5, 0.5],
            r"augment\.scale: \[1\.5, 0\.5\]: should be two numbers",
        ),
        ("demo.train.epochs", 0, r"demo\.train\.epochs: 0: should be greater than or equal to 1"),
        ("demo.train.lr", -1.0, r"demo\.train\.lr: -1\.0: should be greater than 0"),
        ("demo.train.lr", float("nan"), r"train\.lr: nan: should be a finite number"),
        ("demo.distill", {"ld_weight": float("inf")}, r"ld_weight: inf: should be a finite number"),
        ("demo.input_scale", 0.1, r"demo\.input_scale: 0\.1: makes 416 px 48 px"),
        (
            "demo.train",
            {"schedule": "multistep", "epochs": 100},
            r"milestones: .*below train\.epochs",
        ),
        ("demo.model", {"input_size": 0}, r"input_size: 0: should be greater than or equal to 64"),
        ("demo.experiments.g99", {}, r"demo\.experiments: 'g99': choose one of g1"),
        (
            "demo.train.label_smoothing",
            0.1,
            r"label_smoothing: 0\.1: should be less than or equal to 0\.05",
        ),
        ("demo.train.milestones", [3, 2], r"milestones: \[3, 2\]: should be rising"),
        ("demo.model.activation", "relu", r"activation: 'relu': should be 'relu6', 'leakyrelu'"),
        ("demo.input_scale", "half", r"demo\.input_scale: 'half' is not a factor"),
        (
            "demo.evaluate.iou_threshold",
            1.5,
            r"iou_threshold: 1\.5: should be less than or equal to 1",
        ),
        (
            "demo.data.source",
            "voc",
            r"data\.source: 'voc': should be 'demo', 'bccd', 'coco', 'folder'",
        ),
        ("demo.model.num_classes", 0, r"num_classes: 0: should be greater than or equal to 1"),
        ("demo.train", 5, r"demo\.train: 5, but keys with values are needed"),
        ("demo.experiments", [1], r"demo\.experiments: \[1\], but keys"),
        ("experiments.c0", "x", r"experiments\.c0: 'x', but keys"),
        ("demo.train.precision", "fp8", r"precision: 'fp8': should be 'fp32', 'bf16'"),
        ("demo.train.precision", "fp16-pure", r"'fp16-pure': only with train\.optimizer sgd"),
        ("demo.train.init", "c7", r"train\.init: 'c7': choose one of g1"),
        ("demo.train.init", "c0", r"train\.init: 'c0': a run cannot need itself"),
        ("demo.sparsity", {"prune_at": 1.0}, r"prune_at: 1\.0: should be less than 1"),
        (
            "demo.sparsity",
            {"prune_at": -0.1},
            r"prune_at: -0\.1: should be greater than or equal to 0",
        ),
        ("demo.sparsity", {"backend": "asp"}, r"backend: 'asp': should be 'own' or 'apex'"),
        ("demo.distill", {"teacher": "g2"}, r"teacher: 'g2': a teacher needs a weight"),
        ("demo.distill", {"ld_weight": 1.0}, r"teacher: '': a teacher needs a weight"),
        ("demo.distill", {"teacher": "g9", "ld_weight": 1.0}, r"teacher: 'g9': choose one of"),
        ("demo.distill", {"teacher": "c0", "kd_weight": 1.0}, r"'c0': a run cannot need itself"),
        (
            "demo.distill",
            {"vlr_weight": -1.0},
            r"vlr_weight: -1\.0: should be greater than or equal to 0",
        ),
        ("demo.distill", {"normalizer": "sum"}, r"normalizer: 'sum': should be 'batch' or"),
        (
            "demo.distill",
            {"temperature": 0.0},
            r"distill\.temperature: 0\.0: should be greater than 0",
        ),
        (
            "demo.distill",
            {"kd_temperature": 0.0},
            r"kd_temperature: 0\.0: should be greater than 0",
        ),
        ("demo.distill", {"vlr_gamma": 1.5}, r"vlr_gamma: 1\.5: should be less than or equal to 1"),
        ("demo.data.classes", "car", r"demo\.data\.classes: 'car': write a list, such as \[car\]"),
        (
            "demo.data.classes",
            ["car", "car"],
            r"data\.classes: \['car', 'car'\]: should be names of classes,",
        ),
        ("demo.data.classes", ["car", " "], r"data\.classes: \['car', ' '\]: .* or \[\] for all"),
        ("demo.data.classes", None, r"classes: None: write a list, such as \[\]"),
        ("demo.train.milestones", 3, r"milestones: 3: write a list, such as \[3\]"),
        ("demo.train.milestones", ["3"], r"milestones: \['3'\]: should be a valid integer"),
        ("demo.model.pretrained", "", r"demo\.model\.pretrained: '': should be true, false or a"),
        ("demo.model.pretrained", 5, r"pretrained: 5: should be a valid boolean or should be a"),
        ("demo.train.1", 5, r"demo\.train\.1: 5: unknown; known are epochs"),
        ("demo.data.seed", -1, r"data\.seed: -1: should be greater than or equal to 0"),
        ("demo.augment", {"mixup": 0.5, "cutmix": 0.6}, r"mixup: 0\.5: at most 1 together with"),
        ("demo.train.warmup_lr", 1.0, r"warmup_lr: 1\.0: at most train\.lr 0\."),
        ("demo.train.final_lr", -0.1, r"final_lr: -0\.1: should be greater than or equal to 0"),
        ("demo.model", {"backbone": "lite9"}, r"backbone: 'lite9': should be one of lite0, lite1"),
        ("demo.model", {"cell_scale": 0.0}, r"cell_scale: 0\.0: should be greater than 0"),
        (
            "demo.train.milestones",
            [0, 2],
            r"milestones: \[0, 2\]: should be rising epochs from 1 up",
        ),
        ("demo.train.lr", 10**400, r"train\.lr: 10+: should be a valid number"),
    ],
)
def test_mistakes_are_named(path, value, message):
    params = copy.deepcopy(PARAMS)
    *sections, key = path.split(".")
    target = params
    for section in sections:
        target = target.setdefault(section, {})
    target[key] = value
    with pytest.raises(ConfigError, match=message):
        load_config("c0", "demo", params=params)


def changed(key, value):
    params = copy.deepcopy(PARAMS)
    section, name = key.split(".")
    params["demo"].setdefault(section, {})[name] = value
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
                changed(key, value)


def test_values_have_the_declared_types():
    """A hash is one of JSON: 1 and 1.0 are not the same there, lists and tuples are."""
    config = changed("train.grad_clip", 35)
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


def test_unknown_names():
    with pytest.raises(ConfigError, match="experiment 'g9': choose one of g1, g2"):
        load_config("g9", "demo")
    with pytest.raises(ConfigError, match="profile 'dmeo': choose one of demo"):
        load_config("g1", "dmeo")
    with pytest.raises(ConfigError, match="profile 'common'"):
        load_config("g1", "common")
    with pytest.raises(ConfigError, match="seed: -1: should be greater"):
        load_config("g1", "demo", seed=-1)
    with pytest.raises(ConfigError, match="seed: 4294967296: should be less than 4294967296"):
        load_config("g1", "demo", seed=2**32)
    assert load_config("g1", "demo", seed=2**32 - 1).run_name == "g1-s4294967295"


def test_params_file_errors(tmp_path):
    path = tmp_path / "params.yaml"
    with pytest.raises(ConfigError, match=r"params\.yaml: not found"):
        load_config("g1", "demo", params=path)
    path.write_text("profile: demo")
    with pytest.raises(ConfigError, match=r"params\.yaml: nothing under runs, seeds, show"):
        load_config("g1", "demo", params=path)
    path.write_text(yaml.safe_dump(PARAMS | {"show": "c0"}))
    with pytest.raises(ConfigError, match=r"show c0-s0: `runs` must hold c0"):
        load_config("g1", "demo", params=path)
    for key, value in {"runs": 5, "seeds": "0", "ladder": "c0", "experiments": [1]}.items():
        path.write_text(yaml.safe_dump(PARAMS | {key: value}))
        with pytest.raises(ConfigError, match=rf"params\.yaml:? ?.*{key}: .*(list|keys)"):
            load_config("g1", "demo", params=path)
    experiments = PARAMS["experiments"]
    for change, message in (
        ({"runs": [*PARAMS["runs"], "g99"]}, r"runs: 'g99': choose one of .*, g1, g2"),
        ({"ladder": [["c0"]]}, r"ladder: \['c0'\]: choose one of .*, c0"),
        ({"seeds": [0, "x"]}, r"seeds: \[0, 'x'\]: whole numbers"),
        ({"seeds": [0, 2**32]}, r"seeds: \[0, 4294967296\]: whole numbers from 0 below 2\*\*32"),
        ({"seeds": [0, -1]}, r"seeds: \[0, -1\]: whole numbers"),
        ({"experiments": experiments | {"g1": [1]}}, r"experiments\.g1: \[1\], but keys"),
        ({"experiments": experiments | {"g5": {"distill": "t"}}}, r"g5\.distill: 't', but keys"),
    ):
        path.write_text(yaml.safe_dump(PARAMS | change))
        with pytest.raises(ConfigError, match=message):
            load_config("g1", "demo", params=path)
    path.write_text("a: [1")
    with pytest.raises(ConfigError, match=r"params\.yaml: not YAML"):
        load_config("g1", "demo", params=path)


def test_root_is_found_from_any_folder(tmp_path, monkeypatch):
    here = root()
    for folder in (here / "notebooks", here.parent):
        monkeypatch.chdir(folder)
        assert root() == here
    monkeypatch.setenv("LIGHTDET_ROOT", str(tmp_path))
    assert root() == tmp_path
