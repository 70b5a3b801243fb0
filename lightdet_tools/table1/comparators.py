"""The other systems of the paper's Table 1, untrained or with their official weights, in one form.

Each takes RGB images (B, 3, H, W), 0..255, and normalises them itself. `forward` is the network
alone: tensors in, tensors out, no control flow that depends on values, so that it can be traced and
exported. `detect` is `LightDet.detect`: boxes on the canvas, labels 0..79 of COCO's classes.
SSD300 and RetinaNet come from torchvision, EfficientDet-D0 from effdet, DETR from transformers,
the YOLOs and NanoDet-m from `darknet` and `nanodet`; where official weights can be had says
data/weights/README.md. effdet and transformers take seconds to import and are imported where
they are needed.

Libraries number classes as COCO does, 1..90 with gaps; those ids end here.
Tensor legend: B images · P anchors, cells or queries · K class outputs · N detections · H, W.
"""

import copy
import pickle
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import RetinaNet, ssd300_vgg16
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from lightdet_core import boxes
from lightdet_core.boxes import DetectionNetwork, Detections
from lightdet_core.config import EvaluateConfig, UserError, root
from lightdet_core.evaluate import coco_metrics, detect_pack
from lightdet_core.machinery.files import file_hash, write_json
from lightdet_core.machinery.packs import read_truth
from lightdet_core.machinery.provenance import git_state, hardware, rounded
from lightdet_tools.data.pack import build as build_pack
from lightdet_tools.table1.darknet import build_yolo, load_darknet_weights
from lightdet_tools.table1.nanodet import build_nanodet, load_nanodet, ncnn_forward

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
    return Detections(boxes.clip(xyxy[rows], size), scores[rows], labels)


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


class Comparator(NamedTuple):
    """One system of Table 1, or of its figures."""

    title: str
    make: Callable[..., nn.Module]  # untrained without arguments, else from the files `weights`
    size: int  # pixels: side of the square canvas that it is timed on
    score_threshold: float  # both thresholds: of its published evaluation
    iou_threshold: float
    weights: tuple[str, ...]  # names in data/weights; none: nobody publishes any that fit
    printed: str  # what the paper's row shows in place of this network at this size


COMPARATORS = {  # by their keys in paper.yaml's table1, and two that only the figures show
    "ssd": Comparator(
        "SSD300", ssd300, 300, 0.01, 0.45, ("ssd300_vgg16_coco-b556d3b4.pth",),
        "AP of SSD512*, size of SSD300 with VOC's 21 classes",
    ),
    "detr": Comparator(
        "DETR-R50", detr_r50, 800, 0.0, 1.0, ("detr-resnet-50.safetensors",),
        "this network at a short side of 800 and a long one of up to 1333",
    ),
    "efficientdet_d0": Comparator(
        "EfficientDet-D0", efficientdet_d0, 512, 0.0, 0.5, ("efficientdet_d0-f3276ba8.pth",),
        "this network, trained by Google; milliseconds in place of FPS",
    ),
    "retinanet_r101": Comparator(
        "RetinaNet-R101", retinanet_r101, 512, 0.05, 0.5, (),
        "this network with P6 from C5, at a short side of 500; size unexplained",
    ),
    "yolov3": Comparator(
        "YOLOv3", partial(yolo, "yolov3"), 416, 0.005, 0.45, ("yolov3.weights",),
        "AP at 608, FPS at 416",
    ),
    "yolov3_tiny": Comparator(
        "YOLOv3-tiny", partial(yolo, "yolov3-tiny"), 416, 0.005, 0.45, ("yolov3-tiny.weights",),
        "this network at 416",
    ),
    "yolov4": Comparator(
        "YOLOv4", partial(yolo, "yolov4"), 416, 0.001, 0.6, ("yolov4.weights",),
        "nothing in the tables, a point without numbers in Fig. 1",
    ),
    "yolov4_tiny": Comparator(
        "YOLOv4-tiny", partial(yolo, "yolov4-tiny"), 416, 0.001, 0.6, ("yolov4-tiny.weights",),
        "this network at 416, AP and AP50 of two sources",
    ),
    "nanodet_m": Comparator(
        "NanoDet-m", nanodet_m, 320, 0.05, 0.6, ("nanodet-m.param", "nanodet-m.bin"),
        "nothing in the tables, \"NanoDet-320\" in Figs. 6 and 7",
    ),
}  # fmt: skip


def build(name: str, weights: Path | str | None = None) -> nn.Module:
    """A comparator in eval mode, untrained, or with its official weights.

    Args:
        name: a key of COMPARATORS.
        weights: the folder of official weights (data/weights); nothing is ever downloaded.

    Raises:
        UserError: there is no such comparator, or nobody publishes weights that fit it.
        UserError: a file is missing, damaged or of another network.
    """
    if name not in COMPARATORS:
        raise UserError(f"{name}: no such comparator; take one of {', '.join(COMPARATORS)}")
    comparator = COMPARATORS[name]
    if weights is None:
        return comparator.make().eval()
    if not comparator.weights:
        raise UserError(f"{name}: there are no official weights that fit this network")
    return comparator.make(*(Path(weights, file) for file in comparator.weights)).eval()


def count(model: nn.Module, size: int) -> dict[str, float]:
    """Parameters, and the cost of one image.

    Multiply-accumulates of convolutions, linear layers and attention's products, one MAC each;
    biases, norms, activations, pooling and resizing are left out, as is usual. Only shapes are
    computed, so that it takes no time, whatever the network.

    Args:
        model: takes images (B, 3, H, W).
        size: side of the image in pixels.

    Returns:
        parameters (frozen batch norm has none) and gmac.
    """
    shapes, counter = copy.deepcopy(model).to("meta"), FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shapes(torch.empty(1, 3, size, size, device="meta"))
    flops = counter.get_total_flops()  # two for one MAC
    return {"parameters": sum(p.numel() for p in model.parameters()), "gmac": flops / 2e9}


def measure_accuracy(
    name: str, weights: Path, annotations: Path, images: Path, progress: Callable[[str], None]
) -> dict:
    """AP of a comparator's official weights on COCO images, by our own way from pixels to boxes.

    Args:
        weights: folder with the files that COMPARATORS names.
        annotations: COCO json of the images.

    Returns:
        The numbers of `coco_metrics`, the number of images, and what they were measured with; for
        NanoDet-m also those of its public files in ncnn itself (`ncnn`).
    """
    model = build(name, weights)
    comparator = COMPARATORS[name]
    limits = EvaluateConfig(
        score_threshold=comparator.score_threshold, iou_threshold=comparator.iou_threshold,
        batch_size=8,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        pack = build_pack(annotations, images, Path(folder) / "val", comparator.size)
        if [category["id"] for category in pack.categories] != COCO_IDS:
            raise UserError(f"{annotations}: COCO's 80 categories are needed")
        truth = read_truth(pack)
        progress(f"{name}: {len(pack.images)} images of {comparator.size} px")
        metrics = coco_metrics(truth, detect_pack(model, pack, limits))
        if name == "nanodet_m":
            model.forward = ncnn_forward(*(weights / file for file in comparator.weights))
            progress(f"{name}: the same in ncnn")
            metrics["ncnn"] = coco_metrics(truth, detect_pack(model, pack, limits))
        about = {
            "command": f"lightdet accuracy {name} --weights FOLDER "
            "--annotations JSON --images FOLDER",
            **git_state(),
            "hardware": hardware(torch.device("cpu")),
            "torch": str(torch.__version__),
            "images": len(pack.images),
            "input_size": comparator.size,
            "thresholds": [comparator.score_threshold, comparator.iou_threshold],
            "annotations_sha256": file_hash(annotations),
            "weights_sha256": {file: file_hash(weights / file) for file in comparator.weights},
        }
    return about | rounded(metrics)


def write_accuracy(
    names: list[str] | None,
    weights: Path | None,
    annotations: Path,
    images: Path,
    out: Path | None,
    progress: Callable[[str], None] = print,
) -> None:
    """`measure_accuracy` of comparators, each into a file.

    Args:
        names: None takes those whose weights are there.
        weights: None is data/weights.
        out: None is results/official.
    """
    weights, out = weights or root() / "data/weights", out or root() / "results/official"
    names = names or [
        name
        for name, comparator in COMPARATORS.items()
        if comparator.weights and all((weights / file).is_file() for file in comparator.weights)
    ]
    if not names:
        raise UserError(f"{weights}: no official weights in it; its README lists them")
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = measure_accuracy(name, weights, annotations, images, progress)
        write_json(out / f"{name}.json", found, indent=2)
        progress(f"{name}: AP {found['AP']:.4f} AP50 {found['AP50']:.4f} -> {out / name}.json")
