"""Number formats of training: the network's forward pass in fp32, bf16 or fp16.

In Apex's words O0 is fp32; O1 and O2 are fp16 (fp32 weights and batch norm, scaled loss); O3 is
fp16-pure: everything in half precision, no fp32 copy of the weights, no scaling. Losses, boxes and
the distributions of edges are always computed in float32.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightdet_core.config import UserError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def forward(model: nn.Module, images: Tensor, precision: str) -> tuple[Tensor, ...]:
    """The network in a precision of `TrainConfig`; what it gives in float32, as the losses need."""
    dtype, device = AUTOCAST.get(precision), images.device.type
    if precision == "fp16-pure":
        images = images.half()
    quick = _QuickDepthwise() if (device, precision) == ("cpu", "bf16") else nullcontext()
    with torch.autocast(device, dtype, enabled=dtype is not None), quick:
        outputs = model(images)
    return tuple(output.float() for output in outputs)


def cpu_computes_in(half: str) -> bool:
    """Whether this processor has instructions for bf16 or fp16 that torch uses."""
    return getattr(torch.ops.mkldnn, f"_is_mkldnn_{half}_supported")()


def check_precision(precision: str, device: torch.device) -> None:
    """`UserError` where the device cannot compute in it."""
    half = precision.removesuffix("-pure")
    if half in AUTOCAST and device.type == "cpu" and not cpu_computes_in(half):
        raise UserError(f"train.precision {precision}: this cpu does not compute in it; take fp32")


class _QuickDepthwise(TorchFunctionMode):
    """Depthwise convolutions of bf16 autocast with a float32 backward pass.

    On a CPU oneDNN's own takes more than three times as long, and autocast is slower than fp32.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.conv2d and len(args) == 7 and args[6] > 1 and args[2] is None:
            return _Depthwise.apply(*args[:2], *args[3:])
        return func(*args, **(kwargs or {}))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, *geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry  # stride, padding, dilation, groups
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x.bfloat16(), weight.bfloat16(), None, *geometry)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        x, weight = ctx.saved_tensors
        *geometry, groups = ctx.geometry
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad.float(), x.float(), weight.float(), None, *geometry, False, [0, 0], groups,
            [ctx.needs_input_grad[0], True, False],
        )  # fmt: skip
        grad_x = grad_x if grad_x is None else grad_x.to(x.dtype)
        return grad_x, grad_weight.to(weight.dtype), None, None, None, None


def exact() -> AbstractContextManager[None]:
    """fp32 is fp32: without TF32, which cuDNN takes for convolutions."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
