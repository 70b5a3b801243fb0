"""A trained run as an ONNX or ncnn file that a detector can use by itself, checked against torch.

    python -m lightdet_tools.deploy.export WEIGHTS.safetensors --format onnx --out exported

Input: RGB images of the run's input size, 0..255; the normalisation is inside. Raw output: the
logits that `LightDet.forward` gives; GFLv2's quality of a cell is left to the host, which needs it
for the few cells above a threshold only. Decoded output: `scores` (B, P, C) in 0..1, with the
quality, and `boxes` (B, P, 4), xyxy in pixels of the input canvas; thresholds and NMS stay with the
host. What the host needs to know (classes, config, quality) travels with the file: see `describe`.
Tensor legend: B images · P cells of all levels · C classes · R = reg_max + 1 bins · S input size.
"""

import argparse
import copy
import io
import json
import logging
import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pnnx
import torch
import torch.nn.functional as F
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from lightdet_core import boxes, sparsity
from lightdet_core.boxes import QUALITY_TOPK, Detections
from lightdet_core.config import Config, UserError, load_config, run_cli
from lightdet_core.evaluate import coco_metrics, detect_pack
from lightdet_core.machinery.images import letterbox
from lightdet_core.machinery.packs import open_pack, pack_path, read_truth
from lightdet_core.model import LightDet, fold_batch_norm, load_weights
from lightdet_tools.data.scenes import draw_scene
from lightdet_tools.deploy.detect import Find, exported_find, refuse_run_folder
from lightdet_tools.deploy.ncnn_files import CONVOLUTIONS, read_ncnn
from lightdet_tools.deploy.runtime import KEY, first_line, open_exported, to_floats

OPSET = 17
HALF = ".fp16"  # what the names of weights stored in fp16 end in
STORED = r"(\.fp16|_quantized)$"  # the same, and onnxruntime's of int8
# largest difference from torch, as a share of the largest output; fp16: of rounded weights; int8:
# of rounded activations, too, so that only the AP says what it costs
TOLERANCE = {"fp32": 1e-4, "fp16": 0.05, "int8": 0.5}
# the kinds of nodes in int8: convolutions, the neck, and ReLU6 and SiLU in the forms they export to
QUANTIZED = ["Conv", "Add", "AveragePool", "Resize", "Pad", "Clip", "Sigmoid", "Mul"]
CALIBRATION = 64  # images that int8 learns its ranges from


# ----------------------------------------------------------------------------------- network


class SigmoidMish(nn.Module):
    """Mish from one sigmoid: tanh(softplus(x)) = (1 - t^2) / (1 + t^2) with t = sigmoid(-x).

    No exponential that could overflow. In ONNX Runtime the network takes a quarter of the time
    that softplus and tanh take, and less than with the forms in e^x.
    """

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(-x)
        squared = t * t
        return x * ((1 - squared) / (1 + squared))


def largest(values: Tensor, k: int) -> list[Tensor]:
    """The k largest along the last axis, falling, each (…, 1): `topk`, which ncnn lacks.

    By comparing and exchanging neighbours, k passes from the end to the front; exact with ties.
    """
    columns = list(values.split(1, -1))
    for first in range(k):
        for i in range(len(columns) - 1, first, -1):
            pair = columns[i - 1], columns[i]
            columns[i - 1], columns[i] = torch.maximum(*pair), torch.minimum(*pair)
    return columns[:k]


class Deployable(nn.Module):
    """A folded `LightDet` for one input size, in operations that ONNX Runtime and ncnn have."""

    def __init__(self, model: LightDet, size: int, decoded: bool, uint8: bool):
        super().__init__()
        head = model.head
        self.backbone, self.lateral = model.backbone.net, model.neck.lateral
        self.towers, self.quality = head.towers, head.quality
        self.num_classes, self.num_bins = head.num_classes, head.num_bins
        self.size, self.decoded, self.uint8 = size, decoded, uint8
        points, strides, _ = boxes.level_grid(size, size)
        self.num_cells = len(points)
        self.sides = [-(-size // stride) for stride in boxes.STRIDES]
        self.register_buffer("mean", model.backbone.mean)
        self.register_buffer("points", points)
        self.register_buffer("strides", strides[:, None])
        self.register_buffer("bins", torch.arange(float(self.num_bins))[:, None])

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes (after B) of what `forward` returns."""
        cells, classes, bins = self.num_cells, self.num_classes, self.num_bins
        if self.decoded:
            return {"scores": (cells, classes), "boxes": (cells, 4)}
        return {"cls_logits": (cells, classes), "box_logits": (cells, 4, bins)}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, S, S) float32 or (B, S, S, 3) uint8, RGB 0..255 -> `outputs`."""
        if self.uint8:
            images = images.permute(0, 3, 1, 2).float()
        maps = self._aggregate(self.backbone(images - self.mean))
        width, cells = self.num_classes + 4 * self.num_bins, self.num_cells
        flat = [
            tower(x).reshape(-1, width, side * side)
            for tower, x, side in zip(self.towers, maps, self.sides, strict=True)
        ]
        cls_logits, box_logits = (
            torch.cat(flat, 2).transpose(1, 2).split([self.num_classes, 4 * self.num_bins], -1)
        )
        edges = box_logits.reshape(-1, 4 * cells, self.num_bins)
        if not self.decoded:
            return cls_logits, edges.reshape(-1, cells, 4, self.num_bins)
        shape = edges.softmax(-1)
        distances = (shape @ self.bins).reshape(-1, cells, 4) * self.strides
        decoded = boxes.distances_to_boxes(self.points, distances).clamp(0, self.size)
        scores = cls_logits.sigmoid()
        if self.quality is not None:
            scores = scores * self._quality(shape).sigmoid()
        return scores, decoded

    def _aggregate(self, features: list[Tensor]) -> list[Tensor]:
        """`PAN.forward` with its sizes as constants."""
        maps = [conv(feature) for conv, feature in zip(self.lateral, features, strict=True)]
        for i in (1, 0):
            side = self.sides[i]
            up = F.interpolate(maps[i + 1], scale_factor=2.0, mode="bilinear", align_corners=False)
            maps[i] = maps[i] + (up[..., :side, :side] if side % 2 else up)
        for i in (0, 1):
            # a repeated border has the mean of what is there: `ceil_mode`, but the same everywhere
            odd = self.sides[i] % 2
            fine = F.pad(maps[i], (0, 1, 0, 1), mode="replicate") if odd else maps[i]
            maps[i + 1] = maps[i + 1] + F.avg_pool2d(fine, 2)
        return maps

    def _quality(self, edges: Tensor) -> Tensor:
        """Edge distributions (B, 4 P, R) -> quality logits (B, P, 1)."""
        top = torch.cat(largest(edges, QUALITY_TOPK), -1)
        shape = torch.cat([top, top.mean(-1, keepdim=True)], -1)
        return self.quality(shape.reshape(-1, self.num_cells, 4 * (QUALITY_TOPK + 1)))


def deployable(
    model: LightDet,
    size: int,
    decoded: bool = False,
    uint8: bool = False,
    mish: type[nn.Module] = SigmoidMish,
) -> Deployable:
    """A copy of the network for inference: batch norm folded, activations in their quick forms.

    Args:
        model: stays as it is.
        size: side of the input in pixels, a multiple of 16.
        decoded: scores and boxes instead of logits.
        uint8: images (B, S, S, 3) uint8, as decoders and `images.letterbox` give them.
        mish: the form of Mish; ncnn has a layer of its own, `nn.Mish`.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    fold_batch_norm(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Mish):
            model.set_submodule(name, mish())
    # x / std; the mean stays outside, for the zeros around the image are zeros of x - mean
    model.backbone.net.conv_stem.weight.div_(model.backbone.std)
    return Deployable(model, size, decoded, uint8).eval().requires_grad_(False)


# --------------------------------------------------------------------------------- converters


def convert_onnx(module: nn.Module, example: Tensor, outputs: list[str]) -> onnx.ModelProto:
    """The module as ONNX with a free batch size.

    Args:
        example: an input; its first axis is the batch.
        outputs: names, in the order of the module's results.

    Raises:
        UserError: an operation that ONNX lacks.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # by tracing, as ncnn needs it, too: a third of the new exporter's time, no clutter inside
        warnings.simplefilter("ignore")  # of the old exporter's end, and of a constant left as is
        try:
            torch.onnx.export(
                module,
                (example,),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=outputs,
                dynamic_axes={name: {0: "B"} for name in ("images", *outputs)},
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise UserError(f"ONNX: cannot be converted: {first_line(error)}") from None
    return onnx.load_from_string(buffer.getvalue())


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The weights of convolutions stored in fp16 and cast when the file is loaded.

    Runtimes compute in fp32 as before. Biases and the little else stay, as in ncnn's files.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    weights = {node.input[1] for node in half.graph.node if node.op_type == "Conv"}
    casts = []
    for tensor in half.graph.initializer:
        if tensor.name in weights:
            name = tensor.name
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, name + HALF))
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=1))  # 1: FLOAT
    nodes = [*casts, *half.graph.node]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    return half


class _Canvases(CalibrationDataReader):
    """Inputs one by one, as the library asks for them."""

    def __init__(self, inputs: Iterable[np.ndarray], name: str):
        self.feeds = ({name: x} for x in inputs)

    def get_next(self) -> dict | None:
        return next(self.feeds, None)


def quantize(model: onnx.ModelProto, inputs: Iterable[np.ndarray]) -> onnx.ModelProto:
    """Convolutions and what lies between them in 8 bits, for ONNX Runtime.

    Static: the ranges of activations are those seen on the inputs. Weights are signed and scaled
    by output channel, activations unsigned, which CPUs multiply fastest. ReLU6 and SiLU are part of
    it, or every layer would go to fp32 and back: ReLU6 then costs nothing, SiLU two passes. Other
    activations, and what comes after the last convolution of a level, stay in fp32.

    Args:
        model: of `convert_onnx`.
        inputs: as the model takes them, with a batch axis.
    """
    name = model.graph.input[0].name
    # the library warns and reports on the root logger
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as clutter:
            source, plain, small = (Path(clutter, f"{x}.onnx") for x in ("net", "plain", "int8"))
            source.write_bytes(model.SerializeToString())  # given the model, it would empty it
            quant_pre_process(source, plain, skip_symbolic_shape=True)
            quantize_static(
                plain,
                small,
                _Canvases(inputs, name),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                nodes_to_exclude=_in_full(onnx.load(plain)),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            return onnx.load(small)
    finally:
        logging.disable(logging.NOTSET)


def _in_full(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that stay in fp32: those of Mish, and those that feed no convolution."""
    # nodes are called after the module that they are of
    mish = {node.name.rpartition("/")[0] for node in model.graph.node if node.op_type == "Neg"}
    feeding, names = set(), []
    for node in reversed(model.graph.node):  # in the order of their execution
        feeds = node.op_type == "Conv" or feeding & set(node.output)
        if feeds:
            feeding |= set(node.input)
        if not feeds or node.name.rpartition("/")[0] in mish:
            names.append(node.name)
    return names


def convert_ncnn(
    module: nn.Module, example: Tensor, precisions: tuple[str, ...] = ("fp32", "fp16")
) -> dict[str, tuple[str, bytes]]:
    """The module as ncnn's .param and .bin, by how the weights are stored.

    Args:
        example: an input; its batch of one becomes ncnn's tensor without a batch.

    Raises:
        UserError: pnnx fails, or leaves an operation that ncnn lacks.
    """
    shape = f"inputshape={list(example.shape)}".replace(" ", "")
    found = {}
    with tempfile.TemporaryDirectory() as clutter, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: deprecated; constants, which they shall be
        torch.jit.trace(module, example, check_trace=False).save(Path(clutter, "net.pt"))
        for precision in precisions:
            done = subprocess.run(
                [pnnx.EXEC_PATH, "net.pt", shape, f"fp16={int(precision == 'fp16')}"],
                cwd=clutter, capture_output=True, text=True,
            )  # fmt: skip
            try:
                param = Path(clutter, "net.ncnn.param").read_text()
                weights = Path(clutter, "net.ncnn.bin").read_bytes()
                Path(clutter, "net.ncnn.bin").unlink()  # or a second failure would not be seen
            except FileNotFoundError:
                last = (done.stderr.strip() or "no message").splitlines()[-1]
                raise UserError(f"pnnx: ended with code {done.returncode}: {last}") from None
            found[precision] = param, weights
    layers = {line.split()[0] for line in found[precision][0].splitlines()[2:]}
    # what it cannot translate keeps the name that torch or pnnx gave it
    unknown = sorted(layer for layer in layers if "." in layer or ":" in layer)
    if unknown:
        raise UserError(f"ncnn: has no layer for {', '.join(unknown)}")
    return found


# -------------------------------------------------------------------------------------- export


def to_onnx(
    weights: Path | str,
    folder: Path | str,
    decoded: bool = False,
    uint8: bool = False,
    precision: str = "fp32",
    progress: Callable[[str], object] = str,
) -> dict:
    """A run as ONNX, checked in ONNX Runtime before it is put into place.

    Args:
        weights: weights.safetensors of the run.
        folder: where <run>[-decoded][-uint8][-<precision>].onnx goes; made when missing.
        decoded: scores and boxes instead of logits.
        uint8: images (B, S, S, 3) uint8 instead of (B, 3, S, S) float32, both 0..255.
        precision: fp32; fp16, the weights of convolutions stored so while runtimes still compute
            in fp32; or int8, of `quantize`, which needs the run's training images packed.
        progress: is told before each long step, such as `print`.

    Returns:
        files (paths), parity (largest absolute difference from torch by output), sizes (bytes of
        the network in fp32, fp16 and, if asked, int8), precision (which was written) and sparsity
        (of `check_pattern`).

    Raises:
        UserError: the weights are missing, damaged or of another architecture.
        UserError: the folder cannot be written, or the exported network is not the same.
    """
    job, example = _prepare(weights, folder, decoded, precision, progress, uint8=uint8)
    progress("converting to ONNX")
    full = convert_onnx(job.module, example, list(job.module.outputs))
    models = {"fp32": full, "fp16": store_half(full)}
    if precision == "int8":
        progress("quantizing with training images")
        images = calibration_images(job.about["config"])
        models["int8"] = quantize(full, (job.input(image[None]) for image in images))
    variants = {}
    for name, model in models.items():
        about = job.about | {"precision": name}
        onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
        variants[name] = {".onnx": model.SerializeToString()}
    return _finish(job, variants)


def calibration_images(config: dict) -> Iterator[np.ndarray]:
    """Training images of a run (S, S, 3) uint8, evenly over its pack.

    Raises:
        ConfigError, DataError: the run's experiment is not in params.yaml any more, or its images
            are not packed.
    """
    settings = load_config(config["experiment"], config["profile"])
    size = config["model"]["input_size"]
    images = open_pack(pack_path(settings, "train")).images
    for row in np.linspace(0, len(images) - 1, min(CALIBRATION, len(images))).astype(int):
        yield letterbox(np.array(images[row]), size)


def to_ncnn(
    weights: Path | str,
    folder: Path | str,
    decoded: bool = False,
    precision: str = "fp32",
    progress: Callable[[str], object] = str,
) -> dict:
    """A run as ncnn's .param and .bin, with a .json of what the host must know.

    Arguments, result and errors as in `to_onnx`, but there is no int8; blobs are in0, out0, out1,
    … Its input is float32 RGB 0..255, which `ncnn.Mat.from_pixels` makes from uint8 pixels.
    """
    if precision == "int8":
        raise UserError("int8: for ONNX only; take fp32 or fp16 for ncnn")
    job, example = _prepare(weights, folder, decoded, precision, progress, mish=nn.Mish)
    progress("converting to ncnn, in fp32 and fp16")
    about = job.about
    about["input"]["name"] = "in0"  # pnnx's names
    variants = {}
    for name, (param, values) in convert_ncnn(job.module, example).items():
        text = json.dumps(about | {"precision": name}) + "\n"
        variants[name] = {".bin": values, ".param": param.encode(), ".json": text.encode()}
    return _finish(job, variants)


class _Job(NamedTuple):
    """What both formats need."""

    model: LightDet
    module: Deployable
    about: dict
    folder: Path
    name: str  # of the files
    precision: str
    progress: Callable[[str], object]

    def input(self, images: np.ndarray) -> np.ndarray:
        """Images (B, S, S, 3) uint8 as the network takes them."""
        return images if self.module.uint8 else to_floats(images)


def _prepare(
    weights: Path | str,
    folder: Path | str,
    decoded: bool,
    precision: str,
    progress: Callable[[str], object],
    **forms,
) -> tuple[_Job, Tensor]:
    """The job and an example input; the folder is tried before the work starts."""
    refuse_run_folder(Path(weights))
    model, config, categories = load_weights(weights)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror})") from None
    module = deployable(model, config["model"]["input_size"], decoded, **forms)
    flags = {"decoded": decoded, "uint8": module.uint8, precision: precision != "fp32"}
    name = "-".join([config["experiment"], f"s{config['seed']}", *(f for f in flags if flags[f])])
    about = describe(module, config, categories)
    job = _Job(model, module, about, folder, name, precision, progress)
    return job, torch.from_numpy(job.input(example_images(module.size)[:1]))


def describe(module: Deployable, config: dict, categories: list[dict]) -> dict:
    """What a host must know; ONNX carries it as metadata `lightdet`, ncnn in the .json beside it.

    Returns:
        form (raw or decoded), input (name, dtype, layout, size in pixels), outputs (shape after B
        by name), quality (of `quality_layers`, for the raw form), categories (id and name by
        label), config (of the run, with the thresholds). An export adds its precision: how the
        weights are stored.
    """
    return {
        "form": "decoded" if module.decoded else "raw",
        "input": {
            "name": "images",
            "dtype": "uint8" if module.uint8 else "float32",
            "layout": "NHWC" if module.uint8 else "NCHW",
            "size": module.size,
        },
        "outputs": module.outputs,
        "quality": None if module.decoded else quality_layers(module.quality),
        "categories": categories,
        "config": config,
    }


def quality_layers(quality: nn.Sequential | None) -> list[dict] | None:
    """GFLv2's two linear layers for `boxes.edge_shape`, ReLU between them; None for GFLv1."""
    if quality is None:
        return None
    layers = [layer.state_dict() for layer in quality if isinstance(layer, nn.Linear)]
    return [{name: value.tolist() for name, value in layer.items()} for layer in layers]


def example_images(size: int) -> np.ndarray:
    """Two generated street scenes and noise: (3, S, S, 3) uint8."""
    scenes = [letterbox(draw_scene(0, index)[0], size) for index in range(2)]
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    return np.stack([*scenes, noise])


@torch.no_grad()
def expected(model: LightDet, images: np.ndarray, decoded: bool) -> list[np.ndarray]:
    """What the trained network itself gives for images (B, S, S, 3), in the export's outputs."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    cls_logits, box_logits = model(batch)
    if decoded:
        points, strides, _ = boxes.level_grid(*batch.shape[-2:])
        decoded_boxes = boxes.decode(box_logits, points, strides).clamp(0, batch.shape[-1])
        found = [model.scores(cls_logits, box_logits), decoded_boxes]
    else:
        found = [cls_logits, box_logits]
    return [output.numpy() for output in found]


def _finish(job: _Job, variants: dict[str, dict[str, bytes]]) -> dict:
    """Checks the files in the precision that is asked for, then puts them into place.

    Args:
        variants: file contents by suffix, the network's weights first, by precision.
    """
    contents = variants[job.precision]
    network, outputs = next(iter(contents)), list(job.module.outputs)
    images = example_images(job.module.size)
    job.progress("comparing with torch")
    wanted = expected(job.model, images, job.module.decoded)
    # beside their place and under their names: the very files that were checked are moved there
    with tempfile.TemporaryDirectory(prefix=".export-", dir=job.folder) as aside:
        files = [Path(aside, job.name + suffix) for suffix in contents]
        for file, content in zip(files, contents.values(), strict=True):
            file.write_bytes(content)
        entry = Path(aside, job.name + (".param" if ".param" in contents else network))
        parity = compare(open_exported(entry).run(images), wanted, outputs, job.precision)
        pattern = check_pattern(job.model.state_dict(), stored_weights(entry))
        targets = [job.folder / file.name for file in files]
        for file, target in zip(files, targets, strict=True):
            os.replace(file, target)
    return {
        "parity": parity,
        "sizes": {name: len(forms[network]) for name, forms in variants.items()},
        "precision": job.precision,
        "sparsity": pattern,
        "files": targets,
    }


def compare(
    found: list[np.ndarray], wanted: list[np.ndarray], names: list[str], precision: str
) -> dict[str, float]:
    """Largest absolute difference by output.

    Raises:
        UserError: larger than rounding explains, or not a number.
    """
    parity = {}
    for name, a, b in zip(names, found, wanted, strict=True):
        parity[name] = float(np.abs(a - b).max())
        limit = TOLERANCE[precision] * max(1.0, float(np.abs(b).max()))
        if not parity[name] <= limit:  # NaN is no good either
            raise UserError(
                f"{name}: the exported network in {precision} differs from torch by "
                f"{parity[name]:.3g}, more than {limit:.3g}; nothing was written"
            )
    return parity


def check_pattern(trained: dict[str, Tensor], exported: dict[str, Tensor]) -> dict[str, int]:
    """The 2:4 pattern before and after.

    Args:
        trained: `model.state_dict()`.
        exported: the weights of the convolutions as read from the file.

    Returns:
        Numbers of layers: eligible, trained with the pattern, exported with the pattern.

    Raises:
        UserError: fewer exported than trained ones.
    """
    counts = {
        "eligible": sum(sparsity.eligible(name, weight) for name, weight in exported.items()),
        "trained": _sparse_layers(trained),
        "exported": _sparse_layers(exported),
    }
    if counts["exported"] < counts["trained"]:
        raise UserError(
            f"2:4 pattern: trained in {counts['trained']} layers, exported in "
            f"{counts['exported']}; nothing was written"
        )
    return counts


def _as_float(values: np.ndarray) -> Tensor:
    """int8 is symmetric, so that its zeros are zeros."""
    return torch.tensor(values.astype(np.float32) if values.dtype == np.int8 else values)


def _sparse_layers(state: dict[str, Tensor]) -> int:
    eligible = {name: weight for name, weight in state.items() if sparsity.eligible(name, weight)}
    return len(eligible) - len(sparsity.check_2to4(eligible))


def stored_weights(path: Path) -> dict[str, Tensor]:
    """The weights in an exported file by name: all of an .onnx, a .param's convolutions."""
    if path.suffix == ".onnx":
        return {
            re.sub(STORED, "", tensor.name): _as_float(onnx.numpy_helper.to_array(tensor))
            for tensor in onnx.load(path).graph.initializer
        }
    layers = read_ncnn(path, path.with_suffix(".bin"))
    return {f"{x.name}.weight": x.weight for x in layers if x.kind in CONVOLUTIONS}


class _Network(NamedTuple):
    """An exported network in the place of a `LightDet` that is evaluated."""

    find: Find

    def detect(self, images: Tensor, *limits: float) -> list[Detections]:
        canvases = images.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()
        return [self.find(canvas, *limits) for canvas in canvases]


def accuracy(path: Path | str, config: Config, threads: int = 1) -> dict:
    """The COCO numbers of an exported file on the val images of a run's profile.

    Args:
        path: .onnx or ncnn's .param.
        config: of the run that was exported.
    """
    pack = open_pack(pack_path(config, "val"))
    network = _Network(exported_find(open_exported(path, threads)))
    return coco_metrics(read_truth(pack), detect_pack(network, pack, config.evaluate))


def summary(report: dict) -> list[str]:
    """The report of `to_onnx` or `to_ncnn` in lines to read."""
    counts = report["sparsity"]
    differences = ", ".join(f"{name} {value:.2g}" for name, value in report["parity"].items())
    lines = [f"largest difference from torch: {differences}"]
    for precision, size in report["sizes"].items():
        written = " (written)" if precision == report["precision"] else ""
        lines.append(
            f"{precision}: {size:,} B = {size / 1e6:.2f} MB = {size / 2**20:.2f} MiB{written}"
        )
    lines.append(
        f"2:4 pattern: in {counts['exported']} of {counts['eligible']} eligible layers, "
        f"trained: in {counts['trained']}"
    )
    return [*lines, *(f"wrote {path}" for path in report["files"])]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Export a trained run to ONNX or ncnn.")
    parser.add_argument("weights", type=Path, help="weights.safetensors of a run")
    parser.add_argument("--format", required=True, choices=("onnx", "ncnn"))
    parser.add_argument("--out", required=True, type=Path, help="folder for the files")
    parser.add_argument("--decoded", action="store_true", help="scores and boxes, not logits")
    parser.add_argument("--uint8", action="store_true", help="input (B, S, S, 3) uint8; ONNX only")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16", "int8"),
                        help="fp16: stored so; int8: computed so, ONNX only")  # fmt: skip
    args = parser.parse_args(arguments)
    told = partial(print, flush=True)
    if args.format == "onnx":
        report = to_onnx(args.weights, args.out, args.decoded, args.uint8, args.precision, told)
    elif args.uint8:
        raise UserError(
            "--uint8: ncnn has no such input; Mat.from_pixels makes its float32 from uint8 pixels"
        )
    else:
        report = to_ncnn(args.weights, args.out, args.decoded, args.precision, told)
    print("\n".join(summary(report)))


if __name__ == "__main__":
    run_cli(main)
