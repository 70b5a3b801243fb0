"""The network: EfficientNet-Lite backbone, PAN neck, GFL head.

Tensor legend: B images · P cells of all levels (3,549 at 416) · C classes · R = reg_max + 1
bins · H, W. Images are RGB, 0..255; the network normalises them itself.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

from lightdet_core import boxes, slim
from lightdet_core.boxes import DetectionNetwork, Detections, Logits
from lightdet_core.config import Config, ModelConfig, UserError, root
from lightdet_core.machinery.precision import forward
from lightdet_core.machinery.runs import refuse_run_folder
from lightdet_core.machinery.weights import load_imagenet, read_safetensors


class _FastMish(torch.autograd.Function):
    """x tanh(softplus(x)) = x - 2x / ((1 + e^x)^2 + 1): one exponential instead of three calls.

    Three times as fast as torch's own forward pass on a CPU; overflow ends in x - 0.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        divisor = x.exp().add_(1).square_().add_(1)
        share = torch.div(x, divisor, out=divisor)
        return torch.add(x, share, alpha=-2, out=share)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        return torch.ops.aten.mish_backward(grad, *ctx.saved_tensors)


class Mish(nn.Mish):
    """Mish (Misra 2019), quicker where it is trained on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        quick = input.requires_grad and not input.is_cuda and input.dtype == torch.float32
        return _FastMish.apply(input) if quick else super().forward(input)


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
    "leakyrelu": partial(nn.LeakyReLU, 0.1),
    "mish": Mish,
    "silu": nn.SiLU,
}
# of EfficientNet-Lite0 .. Lite4: factors on its channels and its depth
LITE = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))
STAGES = (  # blocks, as timm writes them: repeats, kernel, stride, expansion, output channels
    "ds_r1_k3_s1_e1_c16",
    "ir_r2_k3_s2_e6_c24",
    "ir_r2_k5_s2_e6_c40",
    "ir_r3_k3_s2_e6_c80",
    "ir_r3_k5_s1_e6_c112",
    "ir_r4_k5_s2_e6_c192",
    "ir_r1_k3_s1_e6_c320",
)
QUALITY_CHANNELS = 64  # GFLv2's setting


class Backbone(nn.Module):
    """timm's EfficientNet-Lite up to the last block: features at strides 8, 16 and 32.

    timm gives the activation to every layer. (NanoDet's option reaches only the stem, so that
    a "SiLU backbone" there keeps ReLU6 in all blocks.) Padding is symmetric, as NanoDet has it
    and as it exports best; timm's `tf_` weights, trained with TensorFlow's padding, load into it,
    and with `tf_padding` they have their own.
    """

    mean: Tensor
    std: Tensor
    net: Any

    def __init__(
        self,
        name: str,
        activation: str,
        drop_path: float = 0.0,
        bn_momentum: float = 0.1,
        tf_padding: bool = False,
        inner: Sequence[int] = (),
    ):
        super().__init__()
        name, _, expansion = name.partition("-e")
        create = partial(timm.create_model, f"efficientnet_{name}", features_only=True)
        if expansion or inner:
            create = partial(_narrow, name, int(expansion or 6), inner)
        net: Any = create(
            out_indices=(2, 3, 4),
            act_layer=ACTIVATIONS[activation],
            # eps as in NanoDet and in the TensorFlow weights
            norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=bn_momentum),
            drop_path_rate=drop_path,
            pad_type="same" if tf_padding else "",
        )
        self.net, self.channels = net, net.feature_info.channels()
        # the tf_ weights were trained on images normalised so; the same serves from scratch
        cfg: Any = timm.get_pretrained_cfg(f"tf_efficientnet_{name}")
        for key, value in (("mean", cfg.mean), ("std", cfg.std)):
            self.register_buffer(key, torch.tensor(value).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB 0..255 -> features at strides 8, 16, 32."""
        return self.net((images - self.mean) / self.std)


def _narrow(name: str, expansion: int, inner: Sequence[int], **options: Any) -> Any:
    """EfficientNet-Lite with other inner channels than six times a block's input.

    Args:
        expansion: times a block's input. inner: instead of it, the channels of block after block.

    Raises:
        UserError: not as many numbers as there are blocks that widen.
    """
    width, depth = LITE[int(name.removeprefix("lite"))]
    round_width = partial(round_channels, multiplier=width)
    stages = decode_arch_def([[stage] for stage in STAGES], depth, fix_first_last=True)
    wide = [block for stage in stages[1:] for block in stage]
    if inner and len(inner) != len(wide):
        raise UserError(f"model.inner: {len(inner)} numbers, but {name} has {len(wide)} blocks")
    fed = round_width(16)
    for index, block in enumerate(wide):
        block["exp_ratio"] = inner[index] / fed if inner else expansion
        fed = round_width(block["out_chs"])
    return EfficientNetFeatures(stages, fix_stem=True, round_chs_fn=round_width, **options)


class PAN(nn.Module):
    """NanoDet's path aggregation: 1x1 laterals, then sums down and up, no other convolution."""

    def __init__(self, in_channels: list[int], channels: int):
        super().__init__()
        lateral = [nn.Conv2d(c, channels, 1) for c in in_channels]
        for conv in lateral:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.get_parameter("bias"))
        self.lateral = nn.ModuleList(lateral)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps = [conv(feature) for conv, feature in zip(self.lateral, features, strict=True)]
        for i in (1, 0):
            height, width = maps[i].shape[-2:]
            up = F.interpolate(maps[i + 1], scale_factor=2.0, mode="bilinear", align_corners=False)
            maps[i] = maps[i] + up[..., :height, :width]  # cut: 13 cells lie above 7, not 14
        for i in (0, 1):
            # equals the bilinear x0.5 of even sizes, and stays on the grid for odd ones
            maps[i + 1] = maps[i + 1] + F.avg_pool2d(maps[i], 2, ceil_mode=True)
        return maps


class GFLHead(nn.Module):
    """One tower per level for class and box together; GFLv2 adds the quality predictor.

    Channels of a level's last convolution: C class logits, then R bins each of left, top,
    right, bottom.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.num_classes is None:
            raise ValueError("model.num_classes is null: take the number of the data's classes")
        self.num_classes, self.num_bins = config.num_classes, config.reg_max + 1
        act, width = ACTIVATIONS[config.activation], config.channels

        def tower() -> nn.Sequential:
            layers = []
            for size, groups in ((3, width), (1, 1)) * config.stacked_convs:
                conv = nn.Conv2d(width, width, size, padding=size // 2, groups=groups, bias=False)
                layers += [conv, nn.BatchNorm2d(width), act(inplace=True)]
            layers += [nn.Conv2d(width, self.num_classes + 4 * self.num_bins, 1)]
            return nn.Sequential(*layers)

        towers = [tower() for _ in boxes.STRIDES]
        self.towers = nn.ModuleList(towers)
        self.quality = None
        if config.head == "gflv2":
            # pointwise and shared by all levels: linear layers on the flat cells
            self.quality = nn.Sequential(
                nn.Linear(4 * (boxes.QUALITY_TOPK + 1), QUALITY_CHANNELS),
                nn.ReLU(),
                nn.Linear(QUALITY_CHANNELS, 1),
            )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for one in towers:  # classes start at a score of 0.01; to bins it is a constant
            nn.init.constant_(one[-1].get_parameter("bias"), -4.595)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features of the three levels -> cls_logits (B, P, C), box_logits (B, P, 4, R)."""
        outputs = [tower(x) for tower, x in zip(self.towers, maps, strict=True)]
        flat = torch.cat([x.flatten(2).transpose(1, 2) for x in outputs], 1)
        cls_logits, box_logits = flat.split([self.num_classes, 4 * self.num_bins], -1)
        return cls_logits, box_logits.unflatten(-1, (4, self.num_bins))

    def quality_logits(self, edges: Tensor) -> Tensor | None:
        """GFLv2's quality of localisation, read off `boxes.edge_shape`; None for GFLv1.

        Edge distributions (…, P, 4, R) -> logits (…, P, 1).
        """
        if self.quality is None:
            return None
        own = next(self.quality.parameters()).dtype
        return self.quality(boxes.edge_shape(edges).to(own)).to(edges.dtype)


class LightDet(DetectionNetwork):
    """Backbone, neck and head; `forward` gives logits, `detect` gives boxes."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        settings = config.activation, config.drop_path, config.bn_momentum, config.tf_padding
        self.backbone = Backbone(config.backbone, *settings, config.inner)
        self.neck = PAN(self.backbone.channels, config.channels)
        self.head = GFLHead(config)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W) RGB 0..255 -> cls_logits (B, P, C), box_logits (B, P, 4, R)."""
        return self.head(self.neck(self.backbone(images)))

    def logits(self, images: Tensor, precision: str = "fp32") -> Logits:
        """What the losses need, float32: (B, 3, H, W) through the network in a precision."""
        cls_logits, box_logits = forward(self, images, precision)
        if self.head.quality is None:
            return Logits(cls_logits, box_logits, None)
        return Logits(cls_logits, box_logits, self.head.quality_logits(box_logits.softmax(-1)))

    def scores_and_boxes(
        self, cls_logits: Tensor, box_logits: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Scores (B, P, C) and xyxy (B, P, 4), not clipped, on a canvas of (height, width)."""
        edges = box_logits.softmax(-1)
        cells = boxes.level_grid(*size, box_logits.device)[:2]
        return boxes.scores_and_boxes(cls_logits, edges, self.head.quality_logits(edges), *cells)

    def postprocess(
        self, outputs: Sequence[Tensor], size: tuple[int, int], *limits: Any
    ) -> list[Detections]:
        """Boxes of each image from cls_logits and box_logits; see `DetectionNetwork`."""
        cls_logits, box_logits = outputs
        found = self.scores_and_boxes(cls_logits, box_logits, size)
        return boxes.detect_batch(*found, size, *limits)


def build(config: Config) -> LightDet:
    """The network of a run, with first weights where `pretrained` is set.

    Those of ImageNet in the backbone; or, where it names what `save_weights` wrote, all of that
    detector but its class scores, which begin anew: it may have learnt other classes.

    Raises:
        UserError: the weights cannot be had or do not fit.
        ValueError: `model.num_classes` is null; the data decide it (`train.fit` fills it in).
    """
    model, pretrained = LightDet(config.model), config.model.pretrained
    if isinstance(pretrained, str) and _is_detector(path := root() / pretrained):
        other, about, _ = load_weights(path)
        _take_over(model, other, f"model.pretrained {pretrained}: {_other(about, config)}")
    elif pretrained:
        net = model.backbone.net
        wanted = net.state_dict()
        found = load_imagenet(config.model.backbone, pretrained, wanted, slim.narrowed)
        net.load_state_dict(found, strict=False)  # but for counters all are there
    return model


def freeze_batch_norm(module: nn.Module) -> None:
    """Batch norm with constant statistics, scale and shift, in a network in train mode."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval().requires_grad_(False)


def _is_detector(path: Path) -> bool:
    return any(name.startswith("backbone.net.") for name in read_safetensors(path))


def _other(about: dict, config: Config) -> str:
    """In which settings another network differs, which has the settings `about`."""
    names = ("backbone", "inner", "head", "channels", "stacked_convs", "reg_max")
    own = json.loads(json.dumps(config.settings))["model"]  # as a file holds it
    pairs = [(name, about["model"][name], own[name]) for name in names]
    differ = [f"{name} {there}, not {here}" for name, there, here in pairs if there != here]
    return f"another network ({', '.join(differ)})"


def _take_over(model: LightDet, other: LightDet, said: str) -> None:
    """The weights of another detector, its wide blocks cut to fit, without its class scores."""
    own, bins = model.state_dict(), 4 * model.head.num_bins
    state = slim.narrowed(other.state_dict(), own)
    last = tuple(f"head.towers.{i}.{len(t) - 1}." for i, t in enumerate(model.head.towers))  # type: ignore
    for name in [name for name in own if name.startswith(last) and name in state]:
        like = own[name].shape[1:] == state[name].shape[1:]
        if like and other.head.num_bins == model.head.num_bins:  # else it will not fit
            state[name] = torch.cat([own[name][:-bins], state[name][-bins:]])
    load_state(model, state, said)


def load_state(model: LightDet, state: dict[str, Tensor], said: str) -> None:
    """Fill a network; `UserError`, which begins with `said`, where the weights are of another."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = [name for name in {**own, **found} if own.get(name) != found.get(name)]
    if wrong:
        shapes = " and ".join(str(shape.get(wrong[0], "not there")) for shape in (found, own))
        raise UserError(f"{said}: {len(wrong)} tensors differ, first {wrong[0]}: {shapes}")
    model.load_state_dict(state)


def save_weights(
    path: Path, state: dict[str, Tensor], config: Config, categories: list[dict]
) -> None:
    """Weights as .safetensors, with the config and the classes in its metadata."""
    about = json.dumps({"config": config.settings, "categories": categories})
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    # one key: safetensors writes several in random order, and equal runs should be equal bytes;
    # its `save_file` would leave a file that nobody else may read
    try:
        path.write_bytes(save(state, metadata={"lightdet": about}))
    except OSError as error:  # a full disk, whose error names no file
        raise UserError(f"{path}: cannot be written ({error})") from None


def load_weights(
    path: Path | str, makers: Mapping[str, Callable[[ModelConfig], Any]] = {"lightdet": LightDet}
) -> tuple[Any, dict, list[dict]]:
    """A trained network in eval mode, its config (nested dict) and its categories (id, name).

    Args:
        makers: by `model.network`, what makes an untrained one; Table 1's are in other hands.

    Raises:
        UserError: missing, damaged, not written by `save_weights`, or of no such network.
    """
    path = Path(path)
    refuse_run_folder(path)
    if path.suffix in (".onnx", ".xml", ".param"):
        raise UserError(f"{path}: exported; `lightdet detect` takes it, this the weights")
    if not path.is_file():
        raise UserError(
            f"{path}: no trained run there; `dvc repro`, or lightdet train with its "
            "--experiment, --profile and --seed, makes it"
        )
    state = read_safetensors(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if "lightdet" not in metadata:
        raise UserError(f"{path}: has no LightDet config; it is not a file that training wrote")
    try:
        about = json.loads(metadata["lightdet"])
        config, categories = about["config"], about["categories"]
        settings = ModelConfig(**config["model"])
        make = makers.get(settings.network)
        model: Any = make(settings) if make else None
        if model is not None:
            model.load_state_dict(state)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: does not fit its own config: {str(error)[:300]}") from None
    if model is None:
        raise UserError(
            f"{path}: weights of {settings.network}, which is trained for comparison alone; "
            f"{' or '.join(makers)} is needed here"
        )
    return model.eval(), config, categories
