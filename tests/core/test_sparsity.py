import itertools
import sys
import types

import pandas as pd
import pytest
import torch
from conftest import close, network, saw
from torch import nn

from lightdet_core import sparsity
from lightdet_core.config import UserError
from lightdet_core.train_state import update_average
from lightdet_tools.report import zeros

# An even saw-tooth: no two magnitudes in a group of four are equal.
NO_TIES = {"lo": -2, "hi": 3}


def small_net() -> nn.Sequential:
    """Two eligible layers (a 3x3 convolution, a linear one) and a stem that is not."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 8),
    ).to(memory_format=torch.channels_last)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(4, 3, 6, 6).to(next(net.parameters()).device)).square().sum().backward()
        optimizer.step()


def prune(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    masks = sparsity.make_masks(net)
    sparsity.apply_masks(net.state_dict(), masks)
    sparsity.attach(optimizer, net, masks)
    return masks


def dropped_bits(tensor: torch.Tensor, mask: torch.Tensor) -> list[int]:
    """The distinct bit patterns at what the mask drops: [0] is +0.0 everywhere."""
    return tensor.detach()[~mask].view(torch.int32).unique().tolist()


# --- masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["mask_2d", "torch_ao_mask"])
def test_mask_golden(golden, case):
    inputs, expected = golden(case)
    weight = torch.tensor(inputs["weight"])
    mask = sparsity.mask_2to4(weight)
    assert mask.dtype == torch.bool
    assert mask.int().tolist() == expected["mask"]
    if case == "mask_2d":
        sparsity.apply_masks({"weight": weight}, {"weight": mask})
        close(weight, expected["masked"])
        assert dropped_bits(weight, mask) == [0]


def test_ties_go_to_the_lowest_index(golden):
    """The apex masks of this case depend on its Python version; they agree in what they keep."""
    inputs, reference = golden("mask_ties")
    weight = torch.tensor(inputs["weight"])
    mask = sparsity.mask_2to4(weight)
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]]
    kept = (weight.abs() * mask).sum(1)
    assert kept.tolist() == (weight.abs() * torch.tensor(reference["mask"])).sum(1).tolist()
    signs = torch.tensor([[-1.0, 1.0, -1.0, 1.0]])
    assert sparsity.mask_2to4(signs).int().tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1.0, -3, 2, 4, -5], [0, 1, 0, 1, 1]),
        ([1.0, -3, 2, 4, -5, 6], [0, 1, 0, 1, 1, 1]),
        ([1.0, -3, 2, 4, -5, 6, 4.5], [0, 1, 0, 1, 1, 1, 0]),
        ([0.0], [1]),  # a padded channel never wins a tie
        ([0.0, 0.0, 0.0], [1, 1, 0]),
    ],
)
def test_channels_that_are_no_multiple_of_four(row, expected):
    assert sparsity.mask_2to4(torch.tensor([row])).int().tolist() == [expected]


def slow_mask(weight: torch.Tensor) -> torch.Tensor:
    """The definition, one output, place and group of four input channels at a time."""
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    for k, *place in itertools.product(*map(range, (len(weight), *weight.shape[2:]))):
        for first in range(0, weight.shape[1], 4):
            group = range(first, min(first + 4, weight.shape[1]))
            by_size = sorted(group, key=lambda c: (-abs(weight[k, c, *place].item()), c))
            mask[k, by_size[:2], *place] = True
    return mask


@pytest.mark.parametrize("shape", [(8, 16), (8, 16, 5), (8, 16, 3, 3), (4, 6, 2, 3), (16, 8, 1, 1)])
def test_masks_against_a_slow_loop(shape):
    layouts = [torch.contiguous_format, torch.channels_last]
    for layout in layouts if len(shape) == 4 else layouts[:1]:
        weight = saw(*shape, **NO_TIES).contiguous(memory_format=layout)
        mask = sparsity.mask_2to4(weight)
        assert torch.equal(mask, slow_mask(weight))
        assert mask.stride() == weight.stride()


# --- which layers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "expected"),
    [
        ("head.0.weight", (8, 16, 1, 1), torch.float32, True),
        ("weight", (24, 48), torch.float32, True),
        ("conv.weight", (8, 16, 3), torch.float16, True),
        ("conv.weight", (8, 16, 3, 3), torch.bfloat16, False),
        ("conv.weight", (8, 16, 3, 3), torch.float64, False),
        ("conv.weight", (8, 24, 1, 1), torch.float32, False),  # 24 is a multiple of 8 only
        ("conv.weight", (16, 40, 1, 1), torch.float32, False),
        ("conv.weight", (124, 128, 1, 1), torch.float32, False),  # 124 of 4 only
        ("conv.weight", (112, 128, 1, 1), torch.float32, True),
        ("conv.weight", (32, 1, 3, 3), torch.float32, False),
        ("norm.weight", (128,), torch.float32, False),
        ("conv.bias", (16, 16), torch.float32, False),
        ("lowweight", (16, 16), torch.float32, False),
    ],
)
def test_eligible(name, shape, dtype, expected):
    assert sparsity.eligible(name, torch.zeros(shape, dtype=dtype)) is expected


@pytest.mark.parametrize(
    ("experiment", "case"),
    [
        ("g1", "lite0_320_gflv1_c96_s2_r7"),
        ("c0", "lite1_416_gflv1_c128_s3_r10"),
        ("+gflv2", "lite1_416_gflv2_shared"),
    ],
)
def test_networks_golden(golden, experiment, case):
    """Layers, weights and zeros of the three networks, and why the others stay dense."""
    expected = golden("asp_eligibility")[1][case]
    net = network(experiment)
    masks = sparsity.make_masks(net)
    assert len(masks) == expected["eligible"]
    assert sum(mask.numel() for mask in masks.values()) == expected["eligible_weights"]
    assert sum(int((~mask).sum()) for mask in masks.values()) == expected["zeros"]

    dense = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert set(sparsity.check_2to4(dense)) == set(masks)
    sparsity.apply_masks(net.state_dict(), masks)
    state = net.state_dict()
    assert sparsity.check_2to4(state) == []
    assert all(torch.equal(state[name], dense[name]) for name in state.keys() - masks.keys())
    # pruning a pruned network changes nothing
    again = sparsity.make_masks(net)
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())

    rows, totals = zeros.report(state)
    table = pd.DataFrame(rows)
    layers = expected.get("convs", expected.get("convs_executed_once"))
    assert (len(table), totals["layers"]) == (layers, layers)
    assert totals["eligible_layers"] == table.eligible.sum() == expected["eligible"]
    assert totals["weights"] == table.weights.sum() == expected["all_conv_weights"]
    assert totals["eligible_weights"] == expected["eligible_weights"]
    assert totals["zeros"] == table.zeros.sum() == expected["zeros"]
    assert totals["share"] == pytest.approx(expected["zeros"] / expected["all_conv_weights"])
    reasons = table.obstacle.value_counts()
    assert reasons[""] == expected["eligible"]
    assert reasons["depthwise"] == expected["skipped_depthwise"]
    skipped = reasons.get("input channels", 0) + reasons.get("output channels", 0)
    assert skipped == expected["skipped_dense"]
    parameters = sum(p.numel() for p in net.parameters())
    assert parameters - totals["zeros"] == expected["nonzero_params"]


@pytest.mark.parametrize("name", ["1.weight", "6.weight"])
def test_check_finds_one_revived_weight(name):
    net = small_net()
    masks = sparsity.make_masks(net)
    state = net.state_dict()
    sparsity.apply_masks(state, masks)
    assert sparsity.check_2to4(state) == []
    state[name][tuple((~masks[name]).nonzero()[7])] = 1e-30
    assert sparsity.check_2to4(state) == [name]


# --- training --------------------------------------------------------------------------------


def test_masked_sgd_golden(golden):
    """Weights after each of three steps and the momentum, in ASP's order."""
    inputs, expected = golden("masked_sgd")
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor(inputs["w_dense"])
    masks = {"weight": torch.tensor(inputs["mask"]).bool()}
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    sparsity.apply_masks(layer.state_dict(), masks)
    sparsity.attach(optimizer, layer, masks)
    for weights in expected["weights_after_step"]:
        layer.weight.grad = torch.tensor(inputs["grad"])
        optimizer.step()
        close(layer.weight.detach(), weights)
        assert dropped_bits(layer.weight, masks["weight"]) == [0]
    close(optimizer.state[layer.weight]["momentum_buffer"], expected["momentum_buffer"])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_pattern_holds_in_training(kind, fused):
    """Dense steps, pruning, ten steps with what momentum is left; then the hooks' end."""
    net = small_net()
    momentum = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(net.parameters(), lr=1e-3, weight_decay=0.1, fused=fused, **momentum)
    train(net, optimizer, 3)
    masks = sparsity.make_masks(net)
    assert set(masks) == {"1.weight", "6.weight"}
    sparsity.apply_masks(net.state_dict(), masks)
    sparsity.attach(optimizer, net, masks)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for _ in range(10):
        train(net, optimizer, 1)
        assert sparsity.check_2to4(net.state_dict()) == []
    for name, mask in masks.items():
        weight = net.state_dict()[name]
        assert dropped_bits(weight, mask) == [0]
        assert (weight[mask] != before[name][mask]).all()  # what is kept learns
        gradient = dict(net.named_parameters())[name].grad
        assert (gradient[~mask] == 0).all() and (gradient[mask] != 0).any()
    assert (net.state_dict()["0.weight"] != before["0.weight"]).all()
    optimizer._optimizer_step_pre_hooks.clear()
    optimizer._optimizer_step_post_hooks.clear()
    train(net, optimizer, 1)
    assert sparsity.check_2to4(net.state_dict()) == ["1.weight", "6.weight"]


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_skips_a_step(fused):
    """An infinite gradient, at a kept weight or a dropped one: no update, and the zeros stay."""
    net = small_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1, fused=fused)
    train(net, optimizer, 3)
    masks = prune(net, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(spoil: torch.Tensor | None = None) -> None:
        optimizer.zero_grad()
        scaler.scale(net(torch.randn(4, 3, 6, 6)).square().sum()).backward()
        if spoil is not None:
            net[6].weight.grad[spoil] = torch.inf
        scaler.step(optimizer)
        scaler.update()

    kept = masks["6.weight"]
    for spoil in (kept, ~kept):
        before = [p.detach().clone() for p in net.parameters()]
        scale = scaler.get_scale()
        step(spoil)
        assert scaler.get_scale() == scale / 2  # the scaler's answer to a skipped step
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
        assert sparsity.check_2to4(net.state_dict()) == []
        step()
        assert all((a != b).any() for a, b in zip(net.parameters(), before, strict=True))
        assert dropped_bits(net[6].weight, kept) == [0]


def test_moving_average_is_pruned_and_stays_so():
    net = small_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    average = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    train(net, optimizer, 2)
    update_average(average, net, 0.9)
    masks = prune(net, optimizer)
    assert sparsity.check_2to4(average) == ["1.weight", "6.weight"]
    dense = {name: tensor.clone() for name, tensor in average.items()}
    sparsity.apply_masks(average, masks)
    for name, mask in masks.items():
        assert torch.equal(average[name][mask], dense[name][mask])
    for _ in range(3):
        train(net, optimizer, 1)
        update_average(average, net, 0.9)
        assert sparsity.check_2to4(average) == []
    assert all(dropped_bits(average[name], mask) == [0] for name, mask in masks.items())


def test_zeroing_overrides_infinities_and_unused_layers_pass():
    weight = torch.full((8, 16), torch.inf)
    mask = sparsity.mask_2to4(weight)
    sparsity.apply_masks({"weight": weight}, {"weight": mask})
    assert dropped_bits(weight, mask) == [0]
    net = small_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    prune(net, optimizer)
    optimizer.step()  # no gradients at all
    assert sparsity.check_2to4(net.state_dict()) == []


def test_nothing_to_prune():
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    masks = sparsity.make_masks(net)
    sparsity.attach(optimizer, net, masks)
    assert masks == {} and not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("shape", [(8, 16, 1, 1), (16, 16)])
def test_masks_of_another_network_are_refused(shape):
    net = small_net()
    masks = sparsity.make_masks(net)
    dense = net[1].weight.detach().clone()
    wrong = masks | {"6.weight": torch.zeros(shape, dtype=torch.bool)}
    with pytest.raises(UserError, match=r"6\.weight: .*another network"):
        sparsity.apply_masks(net.state_dict(), wrong)
    assert torch.equal(net[1].weight, dense)
    optimizer, missing = torch.optim.SGD(net.parameters()), {"7.weight": torch.ones(8, 16).bool()}
    with pytest.raises(UserError, match=r"7\.weight: .*missing"):
        sparsity.attach(optimizer, net, missing)


# --- NVIDIA apex -----------------------------------------------------------------------------


def test_unrelated_apex_is_told_apart(monkeypatch):
    """PyPI's package has the name, but no contrib.sparsity."""
    for name in [name for name in sys.modules if name.startswith("apex.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    net = small_net()
    with pytest.raises(UserError, match=r"build it from source.*backend: own"):
        sparsity.prune_with_apex(net, torch.optim.SGD(net.parameters()))


def test_apex_is_called_as_it_wants_to_be(monkeypatch):
    """A stand-in with ASP's interface: what it is asked for, and that its buffers go."""

    class ASP:
        calls = ()

        @classmethod
        def init_model_for_pruning(cls, model, **options):
            assert not cls.calls, "ASP has been initialized already."
            cls.calls, cls.model = ("model",), model
            assert options["mask_calculator"] == "m4n2_1d"
            assert options["whitelist"] == [nn.Linear, nn.Conv2d]
            assert options["allow_permutation"] is options["allow_recompute_mask"] is False
            for layer in (model[1], model[6]):
                layer.register_buffer("__weight_mma_mask", torch.ones_like(layer.weight).bool())

        @classmethod
        def init_optimizer_for_pruning(cls, optimizer):
            cls.calls += ("optimizer",)

        @classmethod
        def compute_sparse_masks(cls):
            cls.calls += ("masks",)
            for layer in (cls.model[1], cls.model[6]):
                mask = layer.get_buffer("__weight_mma_mask")
                mask.set_(sparsity.mask_2to4(layer.weight))
                layer.weight.data.mul_(mask)

    for name in ("apex", "apex.contrib", "apex.contrib.sparsity"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["apex.contrib.sparsity"].ASP = ASP
    net = small_net()
    names, expected = list(net.state_dict()), sparsity.make_masks(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(UserError, match="needs a CUDA GPU, not a cpu; set backend: own"):
        sparsity.prune_with_apex(net, optimizer)
    monkeypatch.setattr(sparsity, "nvidia_asp", lambda device: ASP)  # as where there is a GPU
    masks = sparsity.prune_with_apex(net, optimizer)
    assert ASP.calls == ("model", "optimizer", "masks")
    assert masks.keys() == expected.keys()
    assert all(torch.equal(mask, expected[name]) for name, mask in masks.items())
    assert list(net.state_dict()) == names and sparsity.check_2to4(net.state_dict()) == []
    with pytest.raises(UserError, match=r"(?s)initialized already.*new one"):
        sparsity.prune_with_apex(net, optimizer)


def test_real_apex_gives_the_same_masks():
    pytest.importorskip("apex.contrib.sparsity", reason="NVIDIA apex is not installed")
    if not torch.cuda.is_available():
        pytest.skip("NVIDIA's ASP needs a GPU")
    net = small_net().cuda()
    expected = sparsity.make_masks(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    train(net, optimizer, 1)
    net.load_state_dict(small_net().state_dict())  # the weights of `expected`, momentum left over
    masks = sparsity.prune_with_apex(net, optimizer)
    assert masks.keys() == expected.keys()
    assert all(torch.equal(mask, expected[name]) for name, mask in masks.items())
    train(net, optimizer, 3)
    assert sparsity.check_2to4(net.state_dict()) == []
