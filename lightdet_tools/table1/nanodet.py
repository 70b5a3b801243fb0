"""NanoDet-m (RangiLyu/nanodet, 2020): a comparator, and a check of our whole inference path.

It has this project's neck and head on a ShuffleNetV2; its public weights come as ncnn files.
Loaded from there, its AP says whether letterbox, decoding, NMS and evaluation here are sound.
Tensor legend: B images · H, W. Images are RGB, 0..255; the network normalises them itself.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import shufflenet_v2_x1_0

from lightdet_core.boxes import STRIDES
from lightdet_core.config import ModelConfig, UserError
from lightdet_core.model import ACTIVATIONS, PAN, GFLHead, LightDet
from lightdet_tools.deploy.ncnn_files import CONVOLUTIONS, read_ncnn
from lightdet_tools.deploy.runtime import load_ncnn

SETTINGS = ModelConfig(  # of the published network; `backbone` does not apply
    input_size=320, activation="leakyrelu", channels=96, stacked_convs=2, reg_max=7, cell_scale=5.0
)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB; NanoDet lists them as BGR


class ShuffleNet(nn.Module):
    """torchvision's ShuffleNetV2 1.0x without its last convolution: strides 8, 16 and 32.

    NanoDet's blocks are the same (no activation after the depthwise convolutions, padding 1,
    batch norm with torch's eps) but for LeakyReLU in place of ReLU.
    """

    def __init__(self):
        super().__init__()
        self.channels = [116, 232, 464]
        net = shufflenet_v2_x1_0()
        self.stem = nn.Sequential(net.conv1, net.maxpool)
        self.stages = nn.ModuleList([net.stage2, net.stage3, net.stage4])
        for module in list(self.modules()):
            for name, layer in module.named_children():
                if isinstance(layer, nn.ReLU):
                    setattr(module, name, ACTIVATIONS["leakyrelu"](inplace=True))
        for key, value in (("mean", MEAN), ("std", STD)):
            self.register_buffer(key, torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB 0..255 -> features at strides 8, 16, 32."""
        x, features = self.stem((images - self.mean) / self.std), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class NanoDet(LightDet):
    """LightDet on another backbone: `forward`, `scores` and `detect` are its own."""

    def __init__(self, config: ModelConfig):
        nn.Module.__init__(self)  # LightDet's would make an EfficientNet
        self.backbone = ShuffleNet()
        self.neck = PAN(self.backbone.channels, config.channels)
        self.head = GFLHead(config)


def build_nanodet(num_classes: int = 80) -> NanoDet:
    """NanoDet-m, untrained: 950,036 parameters with 80 classes (published: 0.95 M, AP 20.6)."""
    return NanoDet(replace(SETTINGS, num_classes=num_classes))


def load_nanodet(param_path: Path | str, bin_path: Path | str) -> NanoDet:
    """NanoDet-m in eval mode with its public ncnn weights; there are 80 classes.

    ncnn has batch norm folded into the convolutions: here it is left adding their bias.

    Raises:
        UserError: see `read_ncnn`; also when the network in the files is another one.
    """
    model = build_nanodet().eval()
    modules = [x for x in model.modules() if isinstance(x, (nn.Conv2d, nn.BatchNorm2d))]
    ours = [i for i, x in enumerate(modules) if isinstance(x, nn.Conv2d)]
    theirs = [x for x in read_ncnn(param_path, bin_path) if x.kind in CONVOLUTIONS]
    if len(theirs) != len(ours):
        raise UserError(
            f"{param_path}: not NanoDet-m: {len(theirs)} convolutions, expected {len(ours)}"
        )
    with torch.no_grad():
        for i, layer in zip(ours, theirs, strict=True):
            conv, params = modules[i], layer.params
            geometry = (params.get(3, 1), params.get(4, 0), params.get(7, 1))
            found = (*layer.weight.shape, *geometry, layer.bias is not None)
            wanted = (*conv.weight.shape, conv.stride[0], conv.padding[0], conv.groups, True)
            if found != wanted:
                raise UserError(
                    f"{param_path}: not NanoDet-m: {layer.name} has shape, stride, padding, groups "
                    f"and bias {found}, expected {wanted}"
                )
            # the public network sees BGR, ours RGB
            conv.weight.copy_(layer.weight.flip(1) if i == 0 else layer.weight)
            if conv.bias is None:
                norm = modules[i + 1]
                norm.running_var.fill_(1 - norm.eps)
                norm.bias.copy_(layer.bias)
            else:
                conv.bias.copy_(layer.bias)
    return model


def ncnn_forward(
    param_path: Path, bin_path: Path, threads: int = 1
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """`NanoDet.forward` by ncnn itself, from the public files as they are.

    They give scores, of which the logits are taken again.
    """
    import ncnn

    net = load_ncnn(param_path, bin_path, threads)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    names = [[f"{kind}_pred_stride_{s}" for s in STRIDES] for kind in ("cls", "dis")]

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for image in images:
            bgr = ((image - mean) / std).flip(0).contiguous().numpy()
            pixels, extractor = ncnn.Mat(bgr), net.create_extractor()  # bgr outlives them
            extractor.input("input.1", pixels)
            parts = [[np.array(extractor.extract(n)[1]) for n in kind] for kind in names]
            scores, edges = (torch.from_numpy(np.concatenate(part)) for part in parts)
            found.append((scores.logit(), edges.unflatten(-1, (4, -1))))
        return tuple(torch.stack(part) for part in zip(*found, strict=True))

    return forward
