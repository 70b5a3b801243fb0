"""The other systems of Table 1 in one form: torchvision's, effdet's, transformers', YOLO, NanoDet.

Each is a `boxes.DetectionNetwork`; without weights the parameters are random.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, ssd300_vgg16
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from lightdet_core import boxes
from lightdet_core.boxes import DetectionNetwork, Detections
from lightdet_core.config import UserError
from lightdet_tools.table1.darknet import build_yolo, load_darknet_weights
from lightdet_tools.table1.nanodet import build_nanodet, load_nanodet

NUM_IDS = 91  # 0, the background, and COCO's 1..90
NO_CLASS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # ids without boxes in COCO's files
COCO_IDS = [i for i in range(NUM_IDS) if i not in NO_CLASS]  # by label


class Normalize(nn.Module):
    """RGB 0..255 to what a network was trained on. The constants are no part of its weights."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        for key, value in (("mean", mean), ("std", std)):  # of pixels in 0..1, as libraries say it
            self.register_buffer(key, torch.tensor(value).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def _check(images: Tensor, net: nn.Module, sides: range) -> None:
    """Raises UserError unless height and width are among the sides."""
    height, width = map(int, images.shape[-2:])
    if height not in sides or width not in sides:
        name, rule = type(net).__name__, f"multiples of {sides.step}"
        raise UserError(
            f"{name}: an input of {width} x {height} pixels; "
            f"both sides must be {sides[0] if len(sides) == 1 else rule}"
        )


def _labelled(
    xyxy: Tensor, scores: Tensor, ids: Tensor, size: tuple[int, int], max_detections: int
) -> Detections:
    """Detections of one image from COCO's ids (N,): clipped, sorted, without ids of no class."""
    order = scores.argsort(descending=True, stable=True)
    known = (ids[order, None] == torch.tensor(COCO_IDS, device=ids.device)).nonzero()
    rows, labels = known[:max_detections].unbind(1)
    rows = order[rows]
    return Detections(clip_boxes_to_image(xyxy[rows], size), scores[rows], labels)


# ---------------------------------------------------------------------------------- torchvision


class Torchvision(DetectionNetwork):
    """One of torchvision's detectors with anchors; these, thresholds and NMS are the library's."""

    def __init__(self, net: nn.Module, sides: range, strides: Sequence[int]):
        super().__init__()
        self.net, self.sides, self.strides = net, sides, strides
        self.normalize = Normalize(net.transform.image_mean, net.transform.image_std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W) RGB 0..255 -> class logits (B, P, 91), box deltas (B, P, 4).

        Raises:
            UserError: the network's anchors are not defined at this size.
        """
        _check(images, self.net, self.sides)
        features = self.net.backbone(self.normalize(images))
        outputs = self.net.head(list(features.values()))
        return outputs["cls_logits"], outputs["bbox_regression"]

    def postprocess(
        self, outputs: Sequence[Tensor], size: tuple[int, int], *limits: float
    ) -> list[Detections]:
        net, (logits, deltas) = self.net, outputs
        net.score_thresh, net.nms_thresh, net.detections_per_img = limits
        cells = [[-(-side // stride) for side in size] for stride in self.strides]
        maps = [logits.new_empty(1, 1, *sides) for sides in cells]  # only their shapes count
        images = ImageList(logits.new_empty(1, 1, *size), [size] * len(logits))
        found = {"cls_logits": logits, "bbox_regression": deltas}
        anchors = net.anchor_generator(images, maps)
        if isinstance(net, RetinaNet):  # it chooses level by level
            each = net.anchor_generator.num_anchors_per_location()
            counts = [n * height * width for n, (height, width) in zip(each, cells, strict=True)]
            found = {key: x.split(counts, 1) for key, x in found.items()}
            anchors = [x.split(counts) for x in anchors]
        return [
            _labelled(x["boxes"], x["scores"], x["labels"], size, limits[2])
            for x in net.postprocess_detections(found, anchors, images.image_sizes)
        ]


def ssd300(weights: Path | None = None) -> Torchvision:
    """SSD300 with VGG-16 (Liu et al. 2016) from torchvision: 35,641,826 parameters, 91 classes.

    Its official weights have 25.1 AP on val2017.
    """
    net = ssd300_vgg16(weights=None, weights_backbone=None)
    if weights:
        _load_state(net, weights)
    # its default boxes are laid out for this size
    return Torchvision(net, range(300, 301), net.anchor_generator.steps)


def retinanet_r101() -> Torchvision:
    """RetinaNet with ResNet-101 (Lin et al. 2017) from torchvision's parts, 91 classes.

    52,954,903 parameters; batch norm is frozen: its numbers are constants. torchvision has weights
    for ResNet-50 only, so there are none that fit.
    """
    backbone = resnet_fpn_backbone(
        backbone_name="resnet101",
        weights=None,
        trainable_layers=5,
        returned_layers=[2, 3, 4],  # without P2, as in the paper
        extra_blocks=LastLevelP6P7(256, 256),  # P6 from P5, as in torchvision's with ResNet-50
    )
    # whole strides between anchors, for which torchvision pads to multiples of 32
    return Torchvision(RetinaNet(backbone, NUM_IDS), range(32, 4097, 32), (8, 16, 32, 64, 128))


# --------------------------------------------------------------------------------------- effdet


class EfficientDet(DetectionNetwork):
    """effdet's network and anchors; its NMS has one fixed threshold, so ours takes its place."""

    def __init__(self, net: nn.Module):
        from effdet.anchors import Anchors
        from effdet.data import resolve_input_config

        super().__init__()
        self.net = net
        about = resolve_input_config({}, net.config)
        self.normalize = Normalize(about["mean"], about["std"])
        self.anchors = Anchors.from_config(net.config)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, S, S) RGB 0..255 -> class logits (B, P, 90), box deltas (B, P, 4).

        Raises:
            UserError: S is not the size that the network was built for.
        """
        size = self.net.config.image_size[0]
        _check(images, self.net, range(size, size + 1))
        parts = zip(self.net(self.normalize(images)), (self.net.config.num_classes, 4), strict=True)
        return tuple(
            torch.cat([x.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, n)) for x in maps], 1)
            for maps, n in parts
        )

    def postprocess(
        self, outputs: Sequence[Tensor], size: tuple[int, int], *limits: float
    ) -> list[Detections]:
        from effdet.anchors import decode_box_outputs

        logits, deltas = outputs
        columns = [i - 1 for i in COCO_IDS]  # effdet has no background
        xyxy = [decode_box_outputs(x, self.anchors.boxes, output_xyxy=True) for x in deltas]
        scores = logits[..., columns].sigmoid()
        return boxes.detect_batch(scores, torch.stack(xyxy), size, *limits)


def efficientdet_d0(weights: Path | None = None) -> EfficientDet:
    """EfficientDet-D0 (Tan et al. 2020) from effdet: 3,877,763 parameters, 90 classes, 512 pixels.

    The variant with symmetric padding, which exports best. Its weights, trained by the library's
    author, have 33.6 AP on val2017.
    """
    import effdet

    net = effdet.create_model("efficientdet_d0", pretrained=False, pretrained_backbone=False)
    if weights:
        _load_state(net, weights)
    return EfficientDet(net)


# --------------------------------------------------------------------------------- transformers


class Detr(DetectionNetwork):
    """transformers' DETR without padding masks, for a batch of canvases has nothing to mask.

    (Its own forward pass looks at the mask's values, which neither traces nor counts.)
    """

    def __init__(self, net: nn.Module):
        from transformers import DetrImageProcessor

        super().__init__()
        self.net, self.processor = net, DetrImageProcessor()
        self.normalize = Normalize(self.processor.image_mean, self.processor.image_std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W) RGB 0..255 -> class logits (B, 100, 92), boxes (B, 100, 4).

        The last class is "no object"; boxes are centre, width and height as shares of the canvas.
        """
        net = self.net.model
        features = net.backbone.model(self.normalize(images))[-1]
        cells = net.input_projection(features).flatten(2).transpose(1, 2)
        position = net.position_embedding(features.shape, features.device, features.dtype)
        position = position.flatten(2).transpose(1, 2)
        encoded = net.encoder(cells, spatial_position_embeddings=position).last_hidden_state
        queries = net.query_position_embeddings.weight.repeat(len(images), 1, 1)
        decoded = net.decoder(
            torch.zeros_like(queries),
            encoder_hidden_states=encoded,
            spatial_position_embeddings=position,
            object_queries_position_embeddings=queries,
        ).last_hidden_state
        relative = self.net.bbox_predictor(decoded).sigmoid()
        return self.net.class_labels_classifier(decoded), relative

    def postprocess(
        self, outputs: Sequence[Tensor], size: tuple[int, int], *limits: float
    ) -> list[Detections]:
        """A query gives one class; DETR suppresses nothing, whatever the iou_threshold."""
        from transformers.models.detr.modeling_detr import DetrObjectDetectionOutput

        found = DetrObjectDetectionOutput(logits=outputs[0], pred_boxes=outputs[1])
        sizes = [size] * len(outputs[0])
        return [
            _labelled(x["boxes"], x["scores"], x["labels"], size, limits[2])
            for x in self.processor.post_process_object_detection(found, limits[0], sizes)
        ]


def detr_r50(weights: Path | None = None) -> Detr:
    """DETR with ResNet-50 (Carion et al. 2020) from transformers: 41,524,768 parameters.

    91 classes and "no object"; batch norm is frozen: its numbers are constants. Its official
    weights have 42.0 AP on val2017 with a short side of 800 pixels.
    """
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(num_labels=NUM_IDS)
    if not weights:
        return Detr(DetrForObjectDetection(config))
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights}: cannot be read ({error})") from None
    # the library knows the names that it gave its layers when the file was made
    net, about = DetrForObjectDetection.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True,
        ignore_mismatched_sizes=True,  # it would draw them at random; they are an error below
    )  # fmt: skip
    wrong = sorted(map(str, [*about["missing_keys"], *about["mismatched_keys"]]))
    if wrong:
        raise UserError(f"{weights}: not DETR's: {len(wrong)} tensors do not fit: {wrong[0]}, …")
    return Detr(net)


# ------------------------------------------------------------------------------------ the others


def yolo(name: str, weights: Path | None = None) -> nn.Module:
    """A darknet detector for COCO's 80 classes; see `darknet`."""
    model = build_yolo(name)
    if weights:
        load_darknet_weights(model, weights)
    return model


def nanodet_m(param: Path | None = None, values: Path | None = None) -> nn.Module:
    """NanoDet-m for COCO's 80 classes; see `nanodet`."""
    return load_nanodet(param, values) if param else build_nanodet()


def _load_state(net: nn.Module, path: Path) -> None:
    """A .pth file of torchvision or effdet into their network."""
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (EOFError, pickle.UnpicklingError, RuntimeError, TypeError) as error:
        about = f"the weights of torchvision's or effdet's {type(net).__name__}"
        raise UserError(f"{path}: damaged, or not {about}: {str(error)[:300]}") from None
