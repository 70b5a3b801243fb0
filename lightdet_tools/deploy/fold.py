"""Batch norms folded into convolutions, before a network is used elsewhere."""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norm(model: nn.Module) -> None:
    """Batch norms into the convolutions before them, in place; timm's keep their activation.

    A row of weights is scaled as a whole, so that a 2:4 pattern along the input channels survives.
    """
    convolution = None
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = module
        elif isinstance(module, nn.BatchNorm2d):
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight, convolution.bias, module.running_mean, module.running_var,
                module.eps, module.weight, module.bias,
            )  # fmt: skip
            model.set_submodule(name, getattr(module, "act", nn.Identity()))
