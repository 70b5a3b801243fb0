"""Slimming: what the criteria say of a block's inner channels, and what is cut."""

import pytest
import torch
import torch.nn.functional as F
from conftest import saw, tiny
from torch import nn

from lightdet_core import engine, slim
from lightdet_core.augment import training_batch
from lightdet_core.config import UserError
from lightdet_core.machinery.packs import open_split
from lightdet_core.model import Backbone, LightDet

CPU = torch.device("cpu")


def test_what_the_weights_say():
    state = {
        "b.conv_pwl.weight": torch.tensor([[3.0, 1.0], [4.0, 0.0]]).view(2, 2, 1, 1),
        "b.bn2.weight": torch.tensor([-0.5, 4.0]),
        "head.weight": torch.ones(3, 3, 1, 1),
    }
    assert slim.blocks(state) == ["b."]
    assert slim.by_weights(state)["b."].tolist() == [2.5, 4.0]
    assert slim.by_weights(state, False)["b."].tolist() == [0.5, 4.0]


class Block(nn.Module):
    """What follows the batch norm is linear, so that the first order is all there is."""

    def __init__(self):
        super().__init__()
        self.bn2, self.conv_pwl = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1, bias=False)
        nn.init.uniform_(self.bn2.weight)
        nn.init.uniform_(self.bn2.bias)

    def forward(self, x):
        return self.conv_pwl(self.bn2(x)).sum()


def test_what_the_loss_says_is_what_it_changes_by_without_the_channel():
    torch.manual_seed(0)
    net = nn.ModuleDict({"b": Block()}).eval()
    batches = torch.randn(2, 4, 3, 5, 5)
    scores = slim.by_taylor(net, (net["b"](x) for x in batches))["b."]
    for channel in range(3):
        changes = []
        for x in batches:
            before = net["b"](x).item()
            kept = [net["b"].bn2.weight.data.clone(), net["b"].bn2.bias.data.clone()]
            net["b"].bn2.weight.data[channel] = net["b"].bn2.bias.data[channel] = 0
            changes.append(before - net["b"](x).item())
            net["b"].bn2.weight.data, net["b"].bn2.bias.data = kept
        assert scores[channel].item() == pytest.approx(sum(c**2 for c in changes), rel=1e-3)


@torch.inference_mode()
def test_what_is_cut_changes_little_where_the_channels_were_unimportant():
    """A block whose last inner channels are projected by almost nothing loses nothing else."""
    state = {
        "b.conv_pw.weight": saw(8, 2, 1, 1), "b.conv_dw.weight": saw(8, 1, 3, 3),
        "b.conv_pwl.weight": saw(2, 8, 1, 1), "b.bn2.weight": torch.ones(8),
    }  # fmt: skip
    state["b.conv_pwl.weight"][:, [0, 3, 4, 6]] *= 1e-6
    shapes = {"b.conv_pw.weight": (4, 2, 1, 1), "b.conv_dw.weight": (4, 1, 3, 3)}
    shapes |= {"b.conv_pwl.weight": (2, 4, 1, 1), "b.bn2.weight": (4,)}
    wanted = {k: torch.empty(v) for k, v in shapes.items()}
    cut = slim.narrowed(state, wanted, slim.by_weights(state))

    def block(t):
        x = F.relu6(F.conv2d(saw(1, 2, 8, 8), t["b.conv_pw.weight"]))
        x = F.conv2d(x, t["b.conv_dw.weight"], padding=1, groups=x.shape[1])
        return F.conv2d(F.relu6(x), t["b.conv_pwl.weight"])

    torch.testing.assert_close(block(cut), block(state), rtol=0, atol=1e-4)


@pytest.mark.parametrize("by", ["projection", "bn", "taylor"])
def test_a_trained_network_begins_a_narrow_one(here, by):
    """With the channels that the criterion puts first; everything outside of blocks is the same."""
    config = tiny(init="g2", importance=by, model={"backbone": "lite0-e3"})
    torch.manual_seed(1)
    wide, said = LightDet(tiny().model).eval(), []
    with torch.no_grad():  # as if trained: fresh batch norms are all alike
        for block in slim.blocks(names := dict(wide.named_parameters())):
            nn.init.uniform_(names[f"{block}bn2.weight"])
    pack = open_split(config, "train")
    run = engine.Run(config, pack, here / "no.safetensors", None, wide, CPU, said.append)
    found = engine.begin(run)[0].model.state_dict()
    assert said == [f"g1-s0: blocks of g2 cut by {by}"]
    if by == "taylor":
        batches = (training_batch(pack, config, 0, step, CPU) for step in range(32))
        losses = (engine.batch_loss(wide.logits(b.images), b, config) for b in batches)
        scores = slim.by_taylor(wide, map(engine.total_loss, losses))
    else:
        scores = slim.by_weights(wide.state_dict(), by == "projection")
    before, block = wide.state_dict(), "backbone.net.blocks.3.1."
    kept = sorted(scores[block].argsort(descending=True, stable=True)[:240].tolist())
    for part in ("conv_pw.weight", "bn1.bias", "conv_dw.weight", "bn2.running_var"):
        assert torch.equal(found[block + part], before[block + part][kept]), part
    assert torch.equal(found[block + slim.LAST], before[block + slim.LAST][:, kept])
    for name in ("neck.lateral.0.weight", "backbone.net.conv_stem.weight", f"{block}bn3.weight"):
        assert torch.equal(found[name], before[name]), name


def test_a_network_with_fewer_blocks_cannot_begin_one(here):
    config = tiny(init="g2", model={"backbone": "lite1"})
    few = LightDet(tiny().model).eval()
    pack = open_split(config, "train")
    run = engine.Run(config, pack, here / "no.safetensors", None, few, CPU, lambda _: None)
    with pytest.raises(UserError, match=r"train\.init g2: not the same network as g1"):
        engine.begin(run)


def test_the_channels_of_each_block_can_be_given():
    wide = Backbone("lite0", "relu6")
    inner = [8 * number for number in range(1, 16)]
    net = Backbone("lite0", "relu6", inner=inner)
    blocks = [block for stage in net.net.blocks[1:] for block in stage]
    assert [block.conv_pw.out_channels for block in blocks] == inner
    assert net.channels == wide.channels and {b.conv_dw.stride for b in blocks} == {(1, 1), (2, 2)}
    with pytest.raises(UserError, match=r"model\.inner: 2 numbers, but lite0 has 15 blocks"):
        Backbone("lite0", "relu6", inner=[8, 16])
