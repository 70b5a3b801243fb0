"""Several processes on a CPU (gloo): the same batches, losses and detections as one process."""

import csv
import hashlib
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from conftest import read, silent, teach, tiny, use_root, weights
from torch import nn

from lightdet_core import augment, engine, sparsity, train
from lightdet_core.augment import training_batch
from lightdet_core.config import TrainConfig, UserError
from lightdet_core.evaluate import detect_pack
from lightdet_core.machinery import distributed
from lightdet_core.machinery.packs import open_pack, pack_path
from lightdet_core.model import build

CPU = torch.device("cpu")
# everything that looks at a whole batch: normalisers, batch norm, stochastic depth, mixed images
CHANGES = {
    "optimizer": "sgd",
    "lr": 0.01,
    "warmup_lr": 0.001,
    "model": {"head": "gflv2"},
    "augment": {"mosaic": 0.5, "mixup": 0.4, "cutmix": 0.4, "mosaic_off_epochs": 1},
}


def fit(config, runs, progress, stop_at=None):
    """`train.fit` in float64; process 1 may stop in a step."""

    def batch(pack, config, seed, step, device, **rows):
        if step == stop_at and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return training_batch(pack, config, seed, step, device, **rows)

    augment.training_batch = batch
    train.fit(config, runs, progress, "cpu", network=engine.LIGHTDET._replace(build=in_double))


def in_double(config):
    """The network in float64: in float32 rounding moves a loss by 1e-5 within three steps."""
    net = build(config).double()
    net.register_forward_pre_hook(lambda _, images: images[0].double())
    return net


def losses(folder):
    with (folder / "log.csv").open(newline="") as file:
        return torch.tensor([[float(x) for x in row.values()] for row in csv.DictReader(file)])


def test_one_process_needs_nothing():
    x = torch.tensor([1.0])
    assert distributed.count() == 1 and distributed.rank() == 0
    assert distributed.total(x) is x and distributed.own_rows(7) == range(7)
    assert distributed.gather("a") == ["a"] and distributed.from_first("a") == "a"
    net = nn.BatchNorm2d(2)
    assert type(distributed.connect(net, TrainConfig())) is nn.BatchNorm2d


def test_how_many(monkeypatch):
    monkeypatch.delenv("LIGHTDET_PROCESSES", raising=False)
    assert distributed.wanted(CPU, 128) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert distributed.wanted(torch.device("cuda"), 128) == 8
    assert distributed.wanted(torch.device("cuda"), 20) == 2  # ten images each
    assert distributed.wanted(torch.device("cuda", 3), 128) == 1
    monkeypatch.setenv("LIGHTDET_PROCESSES", "3")
    assert distributed.wanted(CPU, 128) == distributed.wanted(torch.device("cuda"), 8) == 3
    for text, message in (
        ("none", "a whole number from 1 up"),
        ("9", "only 8 GPUs are visible"),
        ("5", "batch_size 4 is less than 5 processes"),
    ):
        monkeypatch.setenv("LIGHTDET_PROCESSES", text)
        with pytest.raises(UserError, match=message):
            distributed.wanted(torch.device("cuda"), 4)


@pytest.fixture(scope="module")
def alone(data_root, tmp_path_factory):
    """The run of one process."""
    with pytest.MonkeyPatch.context() as patch:
        use_root(patch, data_root)
        runs, network = tmp_path_factory.mktemp("alone"), engine.LIGHTDET._replace(build=in_double)
        return train.fit(tiny(**CHANGES), runs, silent, "cpu", network=network)


def compare(run, alone, number):
    """Losses to 1e-5, step by step, and with them the weights."""
    found, wanted = losses(run), losses(alone)
    assert found.shape == wanted.shape and (wanted[:, 7] > 0).all()  # num_pos
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights(run), weights(alone), rtol=1e-5, atol=1e-6)
    assert read(run / "run.json")["processes"] == number
    assert not list(run.parent.glob(".checkpoints/*.safetensors"))


def test_two_processes_stop_together_go_on_and_compute_what_one_does(here, alone):
    """By `launch`; process 1 is interrupted in the third step."""
    config = tiny(**CHANGES, checkpoint_steps=100)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3 of 6"):
        distributed.launch(partial(fit, config, here, stop_at=2), 2, silent)
    lines = []
    distributed.launch(partial(fit, config, here), 2, lines.append)
    assert any("continuing at step 3 of 6" in line for line in lines)
    assert any(line.startswith("g1-s0: AP ") for line in lines)
    compare(here / "g1-s0", alone, 2)


def test_three_processes_of_torchrun_compute_what_one_does(here, alone, tmp_path):
    """With 2, 3 and 3 of the eight images."""
    script = tmp_path / "fit.py"
    script.write_text(
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "import conftest, test_distributed\n"
        f"config = conftest.tiny(**{CHANGES!r})\n"
        f"test_distributed.fit(config, Path({str(here)!r}), print)\n"
    )
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=3", script]
    subprocess.run([sys.executable, "-m", *command], check=True)
    compare(here / "g1-s0", alone, 3)


def test_our_batch_norm_rounds_less_than_torch_s():
    """On a CPU, channels_last: the gradient of the first layer against float64."""
    torch.manual_seed(0)
    images = 10 * torch.randn(8, 16, 16, 16) + 100
    images = images.contiguous(memory_format=torch.channels_last)

    def gradient(norm, dtype):
        torch.manual_seed(1)
        conv = nn.Conv2d(16, 8, 1, bias=False).to(dtype)
        y = norm(nn.BatchNorm2d(8)).to(dtype)(conv(images.to(dtype)))
        (y.square() * torch.arange(16.0)).mean().backward()
        return conv.weight.grad.double()

    exact = gradient(lambda layer: layer, torch.float64)
    own, torchs = (
        (gradient(norm, torch.float32) - exact).norm() / exact.norm()
        for norm in (distributed.own_batch_norm, lambda layer: layer)
    )
    assert own < 1e-3 and own < torchs / 3


def statistics(images):
    """Output, gradients and state of a batch norm on the rows of this process."""
    torch.manual_seed(0)
    net = distributed.connect(nn.Sequential(nn.BatchNorm2d(3)), TrainConfig())
    nn.init.normal_(net[0].weight)
    rows = distributed.own_rows(len(images))
    own = images[rows.start : rows.stop].clone().requires_grad_()
    y = net(own)
    (y * torch.arange(4.0) ** 2).sum().backward()
    distributed.sum_gradients(net)
    return y.detach(), own.grad, net[0].weight.grad, dict(net.state_dict())


def together(out, progress):
    """In each of three processes: what they exchange, and their part of an evaluation."""
    with distributed.joined(CPU):
        place = distributed.rank()
        config = tiny()
        torch.manual_seed(0)
        net = build(config)
        val = open_pack(pack_path(config, "val"))
        try:
            distributed.own_rows(2)
        except UserError as error:
            mistake = str(error)
        found = {
            "count": distributed.count(),
            "total": distributed.total(torch.tensor(float(place + 1))).item(),
            "any": [distributed.any_of(place == 2), distributed.any_of(False)],
            "first": distributed.from_first(place),
            "gather": distributed.gather(place),
            "rows": list(distributed.own_rows(8)),
            "mistake": mistake,
            "detections": detect_pack(net, val),
            "statistics": statistics(IMAGES),
        }
        torch.save(found, out / f"{place}.pt")
        progress("together")
        distributed.check_agreement(f"data {place // 2}", "copy them")


IMAGES = torch.randn(7, 3, 4, 4, generator=torch.Generator().manual_seed(0))  # 2 + 2 + 3


def test_what_processes_exchange(here, tmp_path):
    lines = []
    with pytest.raises(UserError, match=r"3 processes differ \(data 0, data 0, data 1\): copy"):
        distributed.launch(partial(together, tmp_path), 3, lines.append)
    found = [torch.load(tmp_path / f"{place}.pt") for place in range(3)]
    assert lines == ["together"] * 3
    for one in found:
        assert (one["count"], one["total"], one["any"], one["first"]) == (3, 6.0, [True, False], 0)
        assert one["mistake"].startswith("train.batch_size 2 is less than 3 processes")
    assert [one["gather"] for one in found] == [[0, 1, 2], [], []]
    assert [row for one in found for row in one["rows"]] == list(range(8))

    config = tiny()
    torch.manual_seed(0)
    val = open_pack(pack_path(config, "val"))
    detections = detect_pack(build(config).eval(), val)
    assert [one["detections"] for one in found] == [detections, [], []]  # bit for bit

    parts = [one["statistics"] for one in found]
    y, gradient, of_weight, state = statistics(IMAGES)  # torch's own, over all images
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    close(torch.cat([part[0] for part in parts]), y)
    close(torch.cat([part[1] for part in parts]), gradient)
    for part in parts:
        close(part[2], of_weight)
        for name, value in state.items():
            close(part[3][name], value)


def agreeing(config, runs, progress):
    """`train.fit`; in the end all processes must hold the same weights and statistics."""
    real = engine.final_weights

    def final_weights(state):
        found = real(state)
        text = hashlib.sha256(b"".join(v.numpy().tobytes() for v in found.values())).hexdigest()
        distributed.check_agreement(text, "all must hold the same state")
        return found

    engine.final_weights = final_weights
    train.fit(config, runs, progress, "cpu")


def test_processes_hold_one_state(here):
    """Pruned, taught and evaluated on the way."""
    settings = {"sparsity": {"prune_at": 0.5}, "model": {"head": "gflv2"}, "evaluate_epochs": 1}
    settings["distill"] = {"teacher": "g2", "ld_weight": 1.0, "kd_weight": 1.0}
    config = tiny(**settings)
    teach(here, "g2")
    lines = []
    distributed.launch(partial(agreeing, config, here), 2, lines.append)
    assert any("pruned 35 layers" in line for line in lines)
    assert sparsity.check_2to4(weights(here / "g1-s0")) == []
    evaluations = read(here / "g1-s0" / "run.json")["evaluations"]
    assert [row["step"] for row in evaluations] == [2, 3, 3, 4]  # twice at pruning


def broken(progress):
    with distributed.joined(CPU):
        if distributed.rank() == 1:
            raise RuntimeError("out of memory, say")
        distributed.total(torch.ones(1))


def test_an_error_that_is_nobody_s_mistake_keeps_its_text():
    with pytest.raises(RuntimeError, match=r"process 1 of 2: [^$]*in broken[^$]*memory, say"):
        distributed.launch(broken, 2, silent)


def lost(progress):
    with distributed.joined(CPU):
        if distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.total(torch.ones(1))


def test_a_lost_process_ends_the_others():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match=r"process 1 of 2 was lost \(exit code -9\)"):
        distributed.launch(lost, 2, silent)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_is_asked_for_and_the_handlers_come_back():
    """A closed terminal, too, where a launcher asks for it."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    for number in (signal.SIGTERM, signal.SIGHUP):
        with distributed.interruptible(True, (*distributed.STOPS, signal.SIGHUP)) as stop:
            assert not stop.is_set()
            signal.raise_signal(number)
            assert stop.is_set()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before
