import pytest
import torch
from conftest import count_macs, network, teach, tiny

from lightdet_core.config import UserError, parse_yaml
from lightdet_core.slim import LAST
from lightdet_tools.deploy import widths


def test_costs_are_those_of_the_convolutions_of_a_block():
    wide, narrow = network("c0"), network("+e3")
    macs = [count_macs(net, torch.zeros(1, 3, 64, 64))[0] for net in (wide, narrow)]
    costs, state = widths.channel_costs(wide, 64), wide.state_dict()
    gone = sum(cost * state[block + LAST].shape[1] / 2 for block, (cost, _) in costs.items())
    assert macs[0] - macs[1] == gone


def test_moved_are_the_two_maps_of_a_channel_there_and_back():
    net = network("c0")
    costs, maps = widths.channel_costs(net, 64), {}
    for name, module in net.backbone.named_modules():
        if name.endswith((".conv_pw", ".conv_dw")):
            module.register_forward_hook(
                lambda module, given, out, name=name: maps.update({name: out[0, 0].numel()})
            )
    net.backbone(torch.zeros(1, 3, 96, 64))
    assert len(costs) == 20
    for block, (_, moved) in costs.items():  # a canvas of 96 x 64 has half as many cells again
        block = block.removeprefix("backbone.")
        assert moved * 1.5 == 2 * (maps[f"{block}conv_pw"] + maps[f"{block}conv_dw"])


def test_widths_follow_what_channels_bring_for_what_they_cost():
    scores = {"a": torch.arange(24.0), "b": torch.full((16,), 9.0), "c": torch.zeros(20)}
    costs = {"a": 2.0, "b": 1.0, "c": 1.0}
    # eight each take 32; the next eight of a bring 92 for 16, those of b 72 for 8, of a 28 for 16
    assert widths.by_layer(scores, costs, 32) == {"a": 8, "b": 8, "c": 8}
    assert widths.by_layer(scores, costs, 40) == {"a": 8, "b": 16, "c": 8}
    assert widths.by_layer(scores, costs, 56) == {"a": 16, "b": 16, "c": 8}
    assert widths.by_layer(scores, costs, 1e9) == {"a": 24, "b": 16, "c": 16}  # whole groups only


def test_report_names_the_setting(here, monkeypatch):
    monkeypatch.setattr(widths, "load_config", lambda *_: tiny())
    teach(here, "g2")
    weights = here / "g2-s0" / "weights.safetensors"
    *_, uniform, by_macs, by_time, _, setting, other, last = widths.report(weights, 2.5)
    assert last == "  train: {importance: taylor}"
    chosen = []
    for line, name in ((setting, "by multiply-adds"), (other, "by time")):
        assert line.endswith(f"  # {name}")
        chosen.append(parse_yaml(line)["model"]["inner"])
        assert len(chosen[-1]) == 15 and all(n % 8 == 0 and n >= 8 for n in chosen[-1])
    # the first blocks have few channels and large maps, which have a price by time alone
    assert sum(chosen[0][:3]) > sum(chosen[1][:3])
    price = [
        (float(line.split()[-2]), float(line.split()[-1])) for line in (uniform, by_macs, by_time)
    ]
    assert 0 <= price[0][0] - price[1][0] < 0.3  # millions; the next eight channels do not fit
    budget, spent = (macs + widths.MOVED * moved for macs, moved in (price[0], price[2]))
    assert 0 <= budget - spent < 0.5
    for number in (6, 0.49, float("nan")):
        with pytest.raises(UserError, match=rf"--expansion {number:g}: .* has other blocks"):
            widths.report(weights, number)
