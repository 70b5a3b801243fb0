import pytest
import torch
from conftest import needs, tiny

from lightdet_core.machinery import precision
from lightdet_core.model import LightDet


@pytest.mark.parametrize(("name", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_forward_computes_in_the_precision(name, dtype):
    seen = []
    net = LightDet(tiny().model)
    net.backbone.register_forward_hook(lambda *args: seen.append(args[2][0].dtype))
    logits = precision.forward(net, torch.rand(1, 3, 64, 64) * 255, name)
    assert seen == [getattr(torch, dtype)] and {x.dtype for x in logits} == {torch.float32}


@needs("bf16")
@pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 1, 3), (2, 2, 5)])
def test_quick_depthwise_is_the_same_function(stride, padding, kernel):
    """Forward bit for bit; the gradient nearer to that of float32 than autocast's own."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(16, 16, kernel, stride, padding, groups=16, bias=False)
    images = torch.randn(2, 16, 20, 20)

    def run(autocast, mode):
        x = images.clone().requires_grad_()
        conv.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), mode:
            y = conv(x)
        y.float().square().sum().backward()
        return y.detach(), x.grad, conv.weight.grad

    exact = run(False, precision.nullcontext())
    plain = run(True, precision.nullcontext())
    quick = run(True, precision._QuickDepthwise())
    assert quick[0].dtype == torch.bfloat16 and torch.equal(quick[0], plain[0])
    for found, slow, wanted in zip(quick[1:], plain[1:], exact[1:], strict=True):
        error, limit = (found - wanted).norm(), (slow - wanted).norm()
        assert error < 0.02 * wanted.norm() and error < 1.1 * limit


@needs("bf16")
def test_bf16_trains_with_the_quick_form_only_in_depthwise_layers(monkeypatch):
    """Every depthwise convolution of the network takes it, no other one does."""
    net = LightDet(tiny().model)
    depthwise = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    calls = []
    real = precision._Depthwise.apply

    def spy(x, weight, *geometry):
        calls.append(weight)
        return real(x, weight, *geometry)

    monkeypatch.setattr(precision._Depthwise, "apply", spy)
    logits = precision.forward(net, torch.rand(1, 3, 64, 64) * 255, "bf16")
    assert len(calls) == len(depthwise) > 20
    sum(x.sum() for x in logits).backward()
    assert all(m.weight.grad.isfinite().all() for m in depthwise)
    calls.clear()
    precision.forward(net, torch.rand(1, 3, 64, 64) * 255, "fp32")
    assert not calls
