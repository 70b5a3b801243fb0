import torch
from conftest import close
from torch import nn

from lightdet_core import activations
from lightdet_core.model import ACTIVATIONS


class Two(nn.Module):
    """Four channels of known inputs into an activation that may write in place."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.second = activation, nn.SiLU(inplace=True)

    def forward(self, x):
        return self.second(self.first(x.clone()) + 0)


def test_report_of_relu6():
    """Channel 0 below 0: dead; 1 within: alive; 2 above 6: dead, too; 3 half and half."""
    x = torch.tensor([[-3.0, -1.0], [1.0, 5.0], [7.0, 9.0], [-1.0, 2.0]]).view(1, 4, 1, 2)
    first, second = activations.report(Two(nn.ReLU6(inplace=True)).eval(), x)
    assert first["layer"] == "first" and first["channels"] == 4 and first["dead"] == 2
    assert first["flat"] == 5 / 8
    close(torch.tensor(first["gain"]), (3 / 8) ** 0.5)
    assert second["dead"] == 2 and second["flat"] == 0  # the dead stay dead below
    found = activations.summary(activations.report(Two(nn.ReLU6()).eval(), x))
    assert found["dead_channels"] == 4 / 8 and found["flat"] == 5 / 16


def test_slopes():
    """Closed forms; SiLU and Mish pass something on where ReLU6 does not."""
    x = torch.tensor([-2.0, -0.5, 0.5, 7.0])
    found = {name: activations.slope(make(), x) for name, make in ACTIVATIONS.items()}
    close(found["relu6"], [0, 0, 1, 0])
    close(found["leakyrelu"], [0.1, 0.1, 1, 1])
    s = x.sigmoid()
    close(found["silu"], s * (1 + x * (1 - s)))
    y = x.clone().double().requires_grad_()
    (y * torch.tanh(nn.functional.softplus(y))).sum().backward()
    close(found["mish"], y.grad.float())


def test_inputs_are_those_before_the_activation():
    x = torch.linspace(-8, 8, 32).view(1, 4, 2, 4)
    found = activations.visit(Two(nn.ReLU6(inplace=True)).eval(), x, lambda *seen: seen)
    (name, module, before), _ = found
    assert name == "first" and isinstance(module, nn.ReLU6) and torch.equal(before, x)


def test_every_activation_is_looked_at():
    for make in ACTIVATIONS.values():
        assert isinstance(make(), activations.KINDS)
