import csv
import dataclasses
import functools
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import close, fit, fit_until, kept, needs, read, same, same_run, teach, tiny, weights
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lightdet_core import augment, distill, engine, sparsity, train, train_state
from lightdet_core.augment import training_batch
from lightdet_core.config import TrainConfig, UserError, load_config
from lightdet_core.machinery import checkpoint, log, precision
from lightdet_core.machinery.files import file_hash
from lightdet_core.machinery.packs import pack_path
from lightdet_core.model import build, load_weights, save_weights
from lightdet_tools.data import pack
from lightdet_tools.report import zeros

# --- schedules -------------------------------------------------------------------------------


def test_warmup_golden(golden):
    inputs, expected = golden("warmup")
    paper = load_config("g1", "coco").train
    nanodet = load_config("nanodet-lite1", "coco").train
    for settings, key in ((paper, "paper_lr"), (nanodet, "nanodet_lite1_lr")):
        rates = [train_state.learning_rate(settings, step, 924) for step in inputs["steps"]]
        close(torch.tensor(rates), expected[key])


def test_multistep_and_cosine():
    settings = load_config("nanodet-lite1", "coco").train  # x0.1 after epochs 130, 150, 160, 165
    rates = [
        train_state.learning_rate(settings, e * 100, 100) for e in (129, 130, 150, 160, 165, 169)
    ]
    close(torch.tensor(rates), [0.07, 0.007, 7e-4, 7e-5, 7e-6, 7e-6])
    settings = tiny(epochs=10, warmup_steps=20, lr=1.0, final_lr=0.1).train
    rates = [train_state.learning_rate(settings, step, 10) for step in (20, 60, 100)]
    close(torch.tensor(rates), [1.0, 0.55, 0.1])


def test_ema_golden(golden):
    inputs, expected = golden("nanodet_ema")
    new = [1 - train_state.ema_decay(0.9998, step, 2000) for step in inputs["iterations"]]
    close(torch.tensor(new), expected["new_weight"])


def test_average_follows_weights_and_statistics():
    net = torch.nn.BatchNorm1d(2)
    average = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        net.weight.fill_(3.0), net.running_mean.fill_(1.0), net.num_batches_tracked.fill_(7)
    train_state.update_average(average, net, 0.75)
    assert average["weight"].tolist() == [1.5, 1.5]  # 0.75 x 1 + 0.25 x 3
    assert average["running_mean"].tolist() == [0.25, 0.25]
    assert average["num_batches_tracked"] == 7


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_decay_reaches_every_parameter(optimizer):
    """Batch-norm and biases included, as NanoDet has it."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    made = train_state.make_optimizer(net, tiny(optimizer=optimizer, weight_decay=0.03).train)
    (group,) = made.param_groups
    assert len(group["params"]) == 4 and group["weight_decay"] == 0.03
    if optimizer == "sgd":
        assert group["momentum"] == 0.9 and not group["nesterov"]


# --- the loop --------------------------------------------------------------------------------


def test_run_folder_and_repetition(here, trained):
    """Every file is there; the same seed gives the same bytes, another seed does not."""
    config = tiny()
    folder = fit(config, here)
    repeated = ["detections.json", "log.csv", "metrics.json", "weights.safetensors"]
    assert sorted(p.name for p in folder.iterdir()) == sorted([*repeated, "run.json"])
    run, metrics = read(folder / "run.json"), read(folder / "metrics.json")
    assert run["config_hash"] == metrics["config"] == config.hash
    assert run["steps"] == 6 and run["train_images"] == 16 and run["val_images"] == 4
    assert run["versions"]["torch"] == torch.__version__
    assert len(metrics["AP_without"]) == 4 and max(metrics["AP_without"]) < 1
    assert {len(aps) for aps in metrics["per_class_without"].values()} == {4}
    rows = (folder / "log.csv").read_text().splitlines()
    columns = "step,epoch,lr,loss,loss_qfl,loss_giou,loss_dfl,num_pos,grad_norm"
    assert rows[0] == columns and len(rows) == 7
    assert not kept(here)
    for name in repeated:
        assert (trained / name).read_bytes() == (folder / name).read_bytes(), name
    other = fit(tiny(seed=1), here)
    assert other.name == "g1-s1" and not same(weights(other), weights(folder))


HALF = {"sparsity": {"prune_at": 0.5}}  # pruned before step 3
NARROW = {"backbone": "lite0-e3"}  # a CPU is slow in fp16


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "lr": 0.01, "ema_decay": 0.0},
        pytest.param({"precision": "bf16"} | HALF, marks=needs("bf16")),
        pytest.param(
            {"precision": "fp16", "batch_size": 2, "epochs": 1} | HALF, marks=needs("fp16")
        ),
        {"sparsity": {"prune_at": 0.0}, "optimizer": "sgd", "lr": 0.01},
        {"distill": {"teacher": "g2", "ld_weight": 1.0, "kd_weight": 1.0}} | HALF,
    ],
)
def test_resume_equals_undisturbed(here, undisturbed, changes, monkeypatch):
    """Killed at steps 3 and 5, with checkpoints at 2 and 4: bit for bit the same weights."""
    config = tiny(**changes)
    # a CPU is slow in fp16; here it is about the loss scale, the same steps in bf16 have it, too
    monkeypatch.setitem(precision.AUTOCAST, "fp16", torch.bfloat16)
    if config.distill.teacher:
        teach(here, "g2")
    for step in (3, 5):
        fit_until(step, config, here)
    lines = []
    resumed = fit(config, here, lines.append)
    assert any("continuing at step 4 of " in line for line in lines)
    assert not kept(here)
    assert same_run(resumed, undisturbed(config))


@needs("fp16")
def test_resume_in_real_fp16(here, undisturbed):
    """Once, of four steps in narrow blocks: a CPU is slow in it."""
    settings = {"batch_size": 4, "epochs": 1, "model": NARROW}
    config = tiny(precision="fp16", **settings, **HALF)
    fit_until(3, config, here)
    assert same_run(fit(config, here), undisturbed(config))


@pytest.fixture
def first(trained, here):
    """A finished run, in a folder of its own."""
    return shutil.copytree(trained, here / trained.name)


def test_finished_run_is_returned_and_another_kept(here, first):
    before, lines = weights(first), []
    assert fit(tiny(), here, lines.append) == first
    assert len(lines) == 1 and "finished already" in lines[0]
    second = fit(tiny(lr=1e-4), here, lines.append)
    assert second == first and not same(weights(second), before)
    (aside,) = here.glob("g1-s0.*")
    assert same(weights(aside), before) and any("kept as" in line for line in lines)


@pytest.mark.parametrize(
    "changes", [{"init": "g3"}, {"model": {"pretrained": "nowhere.safetensors"}}]
)
def test_a_run_that_fails_leaves_the_finished_one_in_its_place(here, first, trained, changes):
    with pytest.raises(UserError):
        fit(tiny(**changes), here)
    assert [p.name for p in here.glob("g1*")] == ["g1-s0"] and same_run(first, trained)


def test_interrupt_keeps_a_checkpoint(here, trained, monkeypatch):
    """Ctrl-C during step 3: that step is finished, saved, and continued from."""
    config = tiny(checkpoint_steps=100)
    handler = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background

    def interrupted(pack, config, seed, step, device, **rows):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return training_batch(pack, config, seed, step, device, **rows)

    with monkeypatch.context() as patch:
        patch.setattr(augment, "training_batch", interrupted)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 3 of 6"):
            fit(config, here)
    assert signal.getsignal(signal.SIGINT) is handler  # put back
    lines = []
    resumed = fit(config, here, lines.append)
    assert any("continuing at step 3" in line for line in lines)
    assert same_run(resumed, trained)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_pruned_run_keeps_the_pattern(here, trained, optimizer, decay):
    """In the weights that are written, averaged or not, and only in ASP's layers."""
    lines = []
    config = tiny(optimizer=optimizer, lr=0.01, ema_decay=decay, **HALF)
    folder = fit(config, here, lines.append)
    state = weights(folder)
    assert sparsity.check_2to4(state) == []
    _, totals = zeros.report(state)
    assert totals["zeros"] == totals["eligible_weights"] // 2 > 1e6
    pruned = read(folder / "run.json")["pruned_layers"]
    assert pruned == totals["eligible_layers"] == len(sparsity.check_2to4(weights(trained)))
    assert any(f"pruned {pruned} layers to 2:4 at step 3" in line for line in lines)


def test_accuracy_along_a_pruned_run(here, undisturbed):
    """At each epoch and on both sides of the pruning; a resumed run notes the same."""
    config = tiny(evaluate_epochs=1, checkpoint_steps=3, **HALF)  # 2 steps per epoch, pruned at 3
    noted = read(fit(config, here.with_name("undisturbed")) / "run.json")["evaluations"]
    sides = [(row["step"], row["pruned"]) for row in noted]
    assert sides == [(2, False), (3, False), (3, True), (4, True)]
    assert all(0 <= row[k] <= 1 for row in noted for k in ("AP", "AP50", "AP75"))
    fit_until(3, config, here)  # saved, pruned and noted: both notes come again
    resumed = fit(config, here)
    assert read(resumed / "run.json")["evaluations"] == noted
    plain = undisturbed(tiny(**HALF))
    assert same(weights(resumed), weights(plain)) and config.hash == tiny(**HALF).hash


def test_a_run_that_goes_on_begins_with_its_weights_and_sees_other_batches(here, monkeypatch):
    """With a learning rate of nearly zero, and no average, the first weights are the last, too."""
    teach(here, "g2")
    drawn = []

    def spy(pack, config, seed, step, device, **rows):
        drawn.append(seed)
        return training_batch(pack, config, seed, step, device, **rows)

    monkeypatch.setattr(augment, "training_batch", spy)
    fit(tiny(epochs=1), here)
    still = {"lr": 1e-12, "warmup_lr": 0.0, "final_lr": 0.0, "ema_decay": 0.0}
    found = weights(fit(tiny(epochs=1, init="g2", **still), here))
    assert drawn[:2] == [0, 0] and drawn[2] == drawn[3] > 100_000
    for name, value in weights(here / "g2-s0").items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9)


def test_gradient_norm_leaves_masked_weights_out():
    net = torch.nn.Linear(2, 1, bias=False)
    net.weight.grad = torch.tensor([[3.0, 4.0]])
    state = train_state.State(net, None, None, None, {}, torch.zeros(()))
    assert engine._gradient_norm(state) == 5
    state.masks["weight"] = torch.tensor([[True, False]])
    assert engine._gradient_norm(state) == 3 and net.weight.grad.tolist() == [[3, 4]]
    net.half().weight.grad = torch.full((1, 2), 60000.0).half()
    assert engine._gradient_norm(state) == 60000  # no overflow in half precision


def test_gradient_norm_is_logged_before_clipping(here):
    norms = {}
    for clip in (0.0, 1e-3):
        folder = fit(tiny(epochs=1, grad_clip=clip), here.with_name(str(clip)))
        with (folder / "log.csv").open() as file:
            norms[clip] = [float(row["grad_norm"]) for row in csv.DictReader(file)]
    assert norms[0.0][0] == norms[1e-3][0] > 0.1  # far above the clip


def test_the_average_is_what_is_written(here, monkeypatch):
    kept = {}

    def last(path, step, tensors):
        kept.update({k[8:]: v.clone() for k, v in tensors.items() if k.startswith("average.")})

    monkeypatch.setattr(checkpoint, "save", last)
    folder = fit(tiny(ema_decay=0.9, ema_ramp=1, lr=0.01), here)
    assert same(weights(folder), kept)


def test_momentum_after_a_skipped_first_step():
    """torch's fused SGD leaves it unfilled there; ours begins at zero."""
    net = torch.nn.Linear(3, 3)
    before = net.weight.detach().clone()
    optimizer = train_state.make_optimizer(
        net, tiny(optimizer="sgd", lr=0.1, weight_decay=0.0).train
    )
    scaler = torch.amp.GradScaler("cpu")
    for gradient in (math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(net(torch.ones(1, 3)).sum() * gradient).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(net.weight.detach(), before - 0.1)
    assert (optimizer.state[net.weight]["momentum_buffer"] == 1).all()


@needs("fp16")
def test_overflowing_steps_are_skipped_and_counted(here, monkeypatch):
    """fp16 with a scale far too high: gradients overflow until it has been halved often enough."""
    start = functools.partial(torch.amp.GradScaler, init_scale=2.0**22)
    monkeypatch.setattr(torch.amp, "GradScaler", start)
    config = tiny(precision="fp16", batch_size=4, model=NARROW, sparsity={"prune_at": 0.0})
    folder = fit(config, here)
    run = read(folder / "run.json")
    assert 0 < run["skipped_steps"] < run["steps"]
    state = weights(folder)
    assert sparsity.check_2to4(state) == [] and all(v.isfinite().all() for v in state.values())


@needs("fp16")
def test_loss_scale_that_never_fits(here, monkeypatch):
    start = functools.partial(torch.amp.GradScaler, init_scale=1.5)
    monkeypatch.setattr(torch.amp, "GradScaler", start)
    monkeypatch.setattr(engine, "SMALLEST_SCALE", 2.0)
    with pytest.raises(
        UserError,
        match=r"the loss scale is 1\.5 at step 1, after 0 without a finite gradient; .*precision",
    ):
        fit(tiny(precision="fp16", batch_size=2, model=NARROW), here)


@needs("fp16")
def test_pure_half_precision_runs_in_it_and_is_written_in_full(here, monkeypatch):
    kinds = set()
    real = train_state.update_average

    def spy(average, model, decay):
        kinds.update(v.dtype for v in model.state_dict().values())
        kinds.update(str(v.dtype) for v in average.values())
        real(average, model, decay)

    monkeypatch.setattr(train_state, "update_average", spy)
    settings = {"optimizer": "sgd", "lr": 0.01, "epochs": 1, "batch_size": 2}
    config = tiny(precision="fp16-pure", model=NARROW | {"head": "gflv2"}, **settings)
    folder = fit(config, here)
    assert kinds == {torch.float16, torch.int64, "torch.float32", "torch.int64"}
    assert {v.dtype for v in weights(folder).values()} == {torch.float32, torch.int64}


def test_half_precision_weights_follow_their_gradient():
    """Fused SGD on a CPU (torch 2.11) leaves them where they are."""
    net = torch.nn.Linear(64, 64, bias=False).half()
    before = net.weight.detach().clone()
    settings = TrainConfig(precision="fp16-pure", lr=0.25, weight_decay=0.0)
    net.weight.grad = torch.ones_like(net.weight)
    train_state.make_optimizer(net, settings).step()
    assert torch.equal(net.weight, before - 0.25)


TAUGHT = {"teacher": "g2", "ld_weight": 1.0, "vlr_weight": 1.0, "kd_weight": 1.0}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_asks_for_no_value(precision):
    """With tensors that have shapes but no values: on a GPU nothing in a step waits for one."""
    config = tiny(precision=precision, grad_clip=1.0, distill=TAUGHT, model={"head": "gflv2"})
    with FakeTensorMode():
        net, teacher = build(config).train(), build(config).eval()
        state = train_state.new_state(net, config.train, torch.device("cpu"))
        objects = torch.empty(8, 5)
        images, boxes = torch.empty(8, 3, 64, 64), torch.empty(8, 5, 4)
        batch = augment.Batch(images, boxes, objects.long(), objects.bool(), objects)
        terms = engine.train_step(state, batch, config, teacher)
        assert set(log.DISTILL_COLUMNS) < set(terms)
        with pytest.raises(DataDependentOutputException):
            terms["loss"].item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_whole_run_on_a_gpu(here):
    lines = []
    train.fit(tiny(precision="fp16"), here, lines.append, "cuda", num_processes=1)
    assert any("GB of packed images" in line for line in lines)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_waits_for_nothing(here):
    device = torch.device("cuda")
    config = tiny(precision="fp16", augment={"mosaic": 0.5, "mixup": 0.3, "cutmix": 0.3})
    data = pack.open_pack(pack.pack_path(config, "train"))
    net = build(config).to(device, memory_format=torch.channels_last).train()
    state = train_state.new_state(net, config.train, device)
    for step in range(3):  # the first ones load kernels and fill caches
        torch.cuda.set_sync_debug_mode("error" if step == 2 else "default")
        try:
            engine.train_step(state, training_batch(data, config, 0, step, device), config)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_precision_that_the_processor_lacks(here, monkeypatch):
    monkeypatch.setattr(precision, "cpu_computes_in", lambda dtype: False)
    for name in ("bf16", "fp16", "fp16-pure"):
        with pytest.raises(UserError, match=f"precision {name}: this cpu .*take fp32"):
            fit(tiny(precision=name), here)


def test_distillation_is_logged_and_the_teacher_must_fit(here):
    with pytest.raises(UserError, match=r"distill\.teacher g2: .*train it first: .*train"):
        fit(tiny(distill=TAUGHT), here)
    teach(here, "g2")
    folder = fit(tiny(epochs=1, distill=TAUGHT), here)
    rows = list(csv.DictReader((folder / "log.csv").open()))
    assert len(rows) == 2
    for row in rows:
        terms = [float(v) for k, v in row.items() if k.startswith("loss_")]
        assert len(terms) == 6 and min(terms) > 0
        assert math.isclose(sum(terms), float(row["loss"]), rel_tol=1e-4)
    teach(here, "g3", reg_max=10)
    with pytest.raises(distill.UserError, match=r"g3-s0.*reg_max is 10, the student's 7"):
        fit(tiny(distill=TAUGHT | {"teacher": "g3"}), here)


def test_other_first_weights_make_another_run(here):
    teach(here, "g2")
    started = tiny(epochs=1, init="g2")
    key = read(fit(started, here) / "run.json")["key"]
    path = here / "g2-s0" / "weights.safetensors"
    state = {k: v + 0.01 if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_weights(path, state, started, load_weights(path)[2])
    lines = []
    other = fit(started, here, lines.append)
    assert any("kept as" in line for line in lines)
    assert read(other / "run.json")["key"] != key
    teach(here, "g3", reg_max=10)
    with pytest.raises(UserError, match=r"train\.init g3: not the same network as g1"):
        fit(tiny(init="g3"), here)
    categories = [{"id": 1, "name": "cell"}, *load_weights(path)[2][1:]]
    save_weights(path, state, started, categories)
    with pytest.raises(UserError, match=r"g2-s0/.*: label 0 .* \(1, 'cell'\) there, but \(1"):
        fit(started, here)


def test_a_run_says_with_which_weights_it_begins(here):
    teach(here, "g2")
    path, lines = here / "g2-s0" / "weights.safetensors", []
    said = f"{path}, sha256 {file_hash(path)[:16]}"
    about = read(
        fit(tiny(epochs=1, model={"pretrained": str(path)}), here, lines.append) / "run.json"
    )
    assert f"g1-s0: begins with {said}" in lines
    assert about["pretrained"] == said and "imagenet" not in about
    fit(tiny(epochs=1, init="g2"), here, lines.append)
    assert "g1-s0: begins with the run g2" in lines
    about = read(fit(tiny(epochs=1), here, lines.append) / "run.json")
    assert "g1-s0: begins with random weights" in lines and "pretrained" not in about


def test_checkpoint_of_other_code_is_not_used(here, monkeypatch):
    fit_until(3, tiny(), here)
    monkeypatch.setattr(train, "_code_hash", lambda: "edited00")
    lines = []
    fit(tiny(), here, lines.append)
    assert not any("continuing" in line for line in lines)
    assert not kept(here)


def test_loss_that_is_not_finite(here):
    """A learning rate far too high: the last good checkpoint stays, the message says what to do."""
    steep = {"optimizer": "sgd", "lr": 1e20, "warmup_lr": 0.001, "warmup_steps": 3}
    config = tiny(**steep, grad_clip=0.0, checkpoint_steps=1)
    with pytest.raises(UserError, match=r"the loss is .*lower train\.lr.*safetensors"):
        fit(config, here)
    for path in (checkpoints := list(here.glob(".checkpoints/*.safetensors"))):
        assert all(v.isfinite().all() for v in load_file(path).values() if v.is_floating_point())
    assert len(checkpoints) == 2  # the last good one and the one before it
    assert not (here / "g1-s0").exists()


def test_classes_come_from_the_data_or_must_agree(here):
    folder = fit(tiny(epochs=1, model={"num_classes": None}), here)
    run = read(folder / "run.json")
    assert run["config"]["model"]["num_classes"] == 7
    with pytest.raises(UserError, match="num_classes is 3, but the annotations have 7"):
        fit(tiny(model={"num_classes": 3}), here)
    chosen = dataclasses.replace(tiny().data, classes=("person",))
    with pytest.raises(UserError, match="train-96: made with the classes all, not person"):
        fit(dataclasses.replace(tiny(), data=chosen), here)


def test_a_val_set_whose_objects_are_too_small_is_refused(here):
    pack = pack_path(tiny(), "val")
    boxes = np.load(pack / "gt_boxes.npy")
    np.save(pack / "gt_boxes.npy", np.concatenate([boxes[..., :2], boxes[..., :2] + 1], -1))
    try:
        with pytest.raises(UserError, match=r"val-64: \d+ of \d+ objects are under 2 px at 64 px"):
            fit(tiny(epochs=1), here)
    finally:
        np.save(pack / "gt_boxes.npy", boxes)


def test_frozen_batch_norm(here):
    """It stays as it was built, in the backbone alone, whose other weights learn."""
    folder = fit(tiny(frozen_bn=True, ema_decay=0.0), here)
    torch.manual_seed(0)
    before, after = build(tiny()).state_dict(), weights(folder)
    norms = {k.rpartition(".")[0] for k in before if k.endswith("running_mean")}
    for key, value in before.items():
        if not key.endswith("num_batches_tracked"):
            frozen = key.startswith("backbone") and key.rpartition(".")[0] in norms
            assert torch.equal(value, after[key]) == frozen, key


def test_training_learns(here):
    """Forty steps on sixteen scenes sharpen the edges, in GFLv1 and in GFLv2.

    The first steps of GFLv2 are no yardstick: W = max(sum of w_p, 1) is 1 there.
    """
    dfl = {}
    for head in ("gflv1", "gflv2"):
        config = tiny(epochs=20, checkpoint_steps=100, model={"head": head})
        with (fit(config, here.with_name(head)) / "log.csv").open() as file:
            dfl[head] = [float(row["loss_dfl"]) for row in csv.DictReader(file)]
        assert all(math.isfinite(x) for x in dfl[head])
    start = sum(dfl["gflv1"][:5])
    assert sum(dfl["gflv1"][-5:]) < 0.85 * start and sum(dfl["gflv2"][-5:]) < 0.85 * start


TWENTY_STEPS = {"epochs": 10, "sparsity": {"prune_at": 0.5}}  # pruned before step 10


@pytest.mark.parametrize("moment", ["dense", "pruning", "sparse"])
def test_kill_and_resume(here, undisturbed, moment):
    """kill -9 of a training; the next one continues to the undisturbed weights."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "import conftest\n"
        f"config = conftest.tiny(**{TWENTY_STEPS!r})\n"
        f"conftest.fit(config, Path({str(here)!r}), lambda line: print(line, flush=True))\n"
    )  # LIGHTDET_ROOT is in its environment
    victim = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    def saved() -> float:
        return max((p.stat().st_mtime for p in here.glob(".checkpoints/*.safetensors")), default=0)

    before = 0
    if moment != "dense":
        assert any(" pruned " in line for line in victim.stdout)  # reads up to that line
        before = saved()
    limit = time.monotonic() + 120
    while moment != "pruning" and saved() == before and time.monotonic() < limit:
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    victim.stdout.close()
    lines = []
    resumed = fit(tiny(**TWENTY_STEPS), here, lines.append)
    (step,) = (int(x.split("step ")[1].split()[0]) for x in lines if "continuing at" in x)
    assert {"dense": step < 10, "pruning": step >= 10, "sparse": step > 10}[moment]
    assert same_run(resumed, undisturbed(tiny(**TWENTY_STEPS)))
