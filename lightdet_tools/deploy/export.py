"""A trained run as ONNX, ncnn or OpenVINO, ready for a detector and checked against torch.

    lightdet export runs/demo/g5-s0/weights.safetensors --format onnx --out exported

Input: RGB images of the run's input size, 0..255; the normalisation is inside. Raw output: the
logits that `LightDet.forward` gives; GFLv2's quality of a cell is left to the host, which needs it
for the few cells above a threshold only. Decoded output: `scores` (B, P, C) in 0..1, with the
quality, and `boxes` (B, P, 4), xyxy in pixels of the input canvas; thresholds and NMS stay with the
host. What the host needs to know (classes, config, quality) travels with the file: see `describe`.
Tensor legend: B images · P cells of all levels · C classes · R = reg_max + 1 bins · S input size.
"""

import copy
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from lightdet_core import sparsity
from lightdet_core.boxes import Detections
from lightdet_core.config import Config, UserError, load_config
from lightdet_core.evaluate import coco_metrics, detect_pack
from lightdet_core.machinery.images import letterbox
from lightdet_core.machinery.packs import Pack, check_categories, open_split, read_truth
from lightdet_core.model import LightDet, load_weights
from lightdet_tools.data.scenes import draw_scene
from lightdet_tools.deploy import convert
from lightdet_tools.deploy.detector import Find, exported_find
from lightdet_tools.deploy.graph import Deployable, deployable
from lightdet_tools.deploy.ncnn_files import CONVOLUTIONS, read_ncnn
from lightdet_tools.deploy.runtime import ENTRIES, KEY, open_exported, read_openvino, to_floats

STORED = r"(\.fp16|_quantized)$"  # what names of weights in fp16 and in onnxruntime's int8 end in
# largest difference from torch, as a share of the largest output; fp16: of rounded weights; int8:
# of rounded activations, too, so that only the AP says what it costs
TOLERANCE = {"fp32": 1e-4, "fp16": 0.05, "bf16": 0.05, "int8": 0.5}
INT8_ADVICE = "; train longer, take an experiment with ReLU6 (slim-relu6, g1, c0), or fp16"
CALIBRATION = 64  # images that int8 learns its ranges from


def export(
    form: str,
    weights: Path | str,
    folder: Path | str,
    decoded: bool = False,
    uint8: bool = False,
    precision: str = "fp32",
    progress: Callable[[str], object] = str,
) -> dict:
    """A run as a file for a runtime, run there and compared with torch before it is put into place.

    Args:
        form: onnx; openvino, made of the ONNX network, for one image at a time; or ncnn, which
            takes float32 RGB 0..255, as `ncnn.Mat.from_pixels` makes it from uint8 pixels, into in0
            and gives out0, out1, …
        weights: weights.safetensors of the run.
        folder: where <run>[-openvino][-decoded][-uint8][-<precision>] goes, as .onnx, as .xml and
            .bin, or as .param, .bin and a .json of what the host must know; made when missing.
        decoded: scores and boxes instead of logits.
        uint8: images (B, S, S, 3) uint8 instead of (B, 3, S, S) float32, both 0..255; not for ncnn.
        precision: fp32; fp16, the weights of convolutions stored so while runtimes still compute
            in fp32; not for ncnn int8, of `quantize`, which needs the run's training images packed;
            for openvino bf16, stored in fp32 and computed in bf16, which the CPU must have.
        progress: is told before each long step, such as `print`.

    Returns:
        files (paths), parity (largest absolute difference from torch by output), sizes (bytes of
        the network in fp32, fp16 and, if asked, int8), precision (which was written) and sparsity
        (of `check_pattern`).

    Raises:
        UserError: what the form does not have.
        UserError: the weights are missing, damaged or of another architecture.
        UserError: the folder cannot be written, or the exported network is not the same.
    """
    suffixes, known, variants = FORMS[form]
    if precision not in known:
        raise UserError(f"{precision}: not for {form}, which has {', '.join(known)}")
    if uint8 and form == "ncnn":
        raise UserError(
            "--uint8: ncnn has no such input; Mat.from_pixels makes its float32 from uint8 pixels"
        )
    forms = {"mish": nn.Mish} if form == "ncnn" else {"uint8": uint8}
    job, example = _prepare(weights, folder, decoded, precision, progress, suffixes, **forms)
    return _finish(job, variants(job, weights, example))


def _onnx_files(job: "_Job", weights: Path | str, example: Tensor) -> dict[str, dict[str, bytes]]:
    models = _onnx_models(job, weights, example)
    return {name: {".onnx": model.SerializeToString()} for name, model in models.items()}


def _openvino_files(
    job: "_Job", weights: Path | str, example: Tensor
) -> dict[str, dict[str, bytes]]:
    models = _onnx_models(job, weights, example, openvino=True)
    job.progress("converting to OpenVINO")
    made = {name: convert.convert_openvino(model) for name, model in models.items()}
    return {name: {".bin": values, ".xml": text} for name, (text, values) in made.items()}


def _ncnn_files(job: "_Job", _: Path | str, example: Tensor) -> dict[str, dict[str, bytes]]:
    job.progress("converting to ncnn, in fp32 and fp16")
    job.about["input"]["name"] = "in0"  # pnnx's names
    variants = {}
    for name, (param, values) in convert.convert_ncnn(job.module, example).items():
        text = json.dumps(job.about | {"precision": name}) + "\n"
        variants[name] = {".bin": values, ".param": param.encode(), ".json": text.encode()}
    return variants


FORMS = {  # its files, first the one that is opened; precisions; what makes the files of each
    "onnx": ((".onnx",), ("fp32", "fp16", "int8"), _onnx_files),
    "openvino": ((".xml", ".bin"), ("fp32", "fp16", "bf16", "int8"), _openvino_files),
    "ncnn": ((".param", ".bin", ".json"), ("fp32", "fp16"), _ncnn_files),
}


def _onnx_models(
    job: "_Job", weights: Path | str, example: Tensor, openvino: bool = False
) -> dict[str, onnx.ModelProto]:
    """The network with its description, by precision: fp32, fp16 and the one that is asked for."""
    if int8 := job.precision == "int8":
        images = calibration_images(weights, job.about["config"], job.about["categories"])
    job.progress("converting to ONNX")
    full = convert.convert_onnx(job.module, example, list(job.module.outputs))
    models = {"fp32": full, "fp16": convert.store_half(full)}
    if job.precision == "bf16":
        models["bf16"] = copy.deepcopy(full)
    if int8:
        job.progress("quantizing with training images")
        inputs = (job.input(image[None]) for image in images)
        models["int8"] = convert.quantize(full, inputs, openvino)
    for name, model in models.items():
        about = job.about | {"precision": name}
        onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    return models


def calibration_images(
    weights: Path | str, config: dict, categories: list[dict]
) -> Iterator[np.ndarray]:
    """Training images of a run (S, S, 3) uint8, evenly over its pack.

    Raises:
        ConfigError, DataError: the run's experiment is not in params.yaml any more, or its images
            are not packed.
        UserError: the images that are packed are not of the run's classes.
    """
    settings = load_config(config["experiment"], config["profile"])
    size = config["model"]["input_size"]
    pack = open_split(settings, "train")
    check_categories(weights, categories, pack.categories)
    rows = np.linspace(0, len(pack.images) - 1, min(CALIBRATION, len(pack.images))).astype(int)
    return (letterbox(np.array(pack.images[row]), size) for row in rows)


class _Job(NamedTuple):
    """What all formats need."""

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
    suffixes: tuple[str, ...],
    **forms,
) -> tuple[_Job, Tensor]:
    """The job and an example input; the folder is tried before the work starts."""
    model, config, categories = load_weights(weights)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror})") from None
    module = deployable(model, config["model"]["input_size"], decoded, **forms)
    # ncnn, too, writes a .bin
    flags = {"openvino": ".xml" in suffixes, "decoded": decoded, "uint8": module.uint8}
    flags |= {precision: precision != "fp32"}
    name = "-".join([config["experiment"], f"s{config['seed']}", *(f for f in flags if flags[f])])
    about = describe(module, config, categories)
    _refuse_other([folder / f"{name}{suffix}" for suffix in suffixes], about)
    job = _Job(model, module, about, folder, name, precision, progress)
    return job, torch.from_numpy(job.input(example_images(module.size)[:1]))


def describe(module: Deployable, config: dict, categories: list[dict]) -> dict:
    """What a host must know; ONNX and OpenVINO carry it as metadata `lightdet`, ncnn in a .json.

    Returns:
        form (raw or decoded), input (name, dtype, layout, size in pixels), outputs (shape after B
        by name), quality (of `quality_layers`, for the raw form), categories (id and name by
        label), config (of the run). An export adds its precision: how the weights are stored.
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
    found = cls_logits, box_logits
    if decoded:
        size = batch.shape[-2:]
        scores, xyxy = model.scores_and_boxes(cls_logits, box_logits, size)
        found = scores, clip_boxes_to_image(xyxy, size)
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
        entry = Path(aside, job.name + next(suffix for suffix in ENTRIES if suffix in contents))
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


def _refuse_other(targets: list[Path], ours: dict) -> None:
    """Raises a UserError where files of these names are no export of this profile and classes."""
    there = [path for path in targets if os.path.lexists(path)]
    if not there:
        return
    names, remedy = ", ".join(map(str, there)), "delete what is there, or take another --out"
    try:
        old, new = map(_learned, (open_exported(targets[0]).about, ours))
    except Exception as error:  # whatever reading somebody's file raises
        reason = str(error).split("; ")[0]
        raise UserError(f"{names}: no usable export ({reason}); {remedy}") from None
    for what, found in old.items():
        if found != new[what]:
            raise UserError(f"{names}: {what} {found}, not {new[what]}; {remedy}")


def _learned(about: dict) -> dict[str, str]:
    classes = ", ".join(f"{c['id']} {c['name']}" for c in about["categories"])
    return {"profile": about["config"]["profile"], "classes": classes}


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
                f"{INT8_ADVICE if precision == 'int8' else ''}"
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
    """The weights in an exported file by name: all of ONNX, OpenVINO's and ncnn's of layers."""
    if path.suffix == ".onnx":
        return {
            re.sub(STORED, "", tensor.name): _as_float(onnx.numpy_helper.to_array(tensor))
            for tensor in onnx.load(path).graph.initializer
        }
    if path.suffix == ".xml":
        nodes = [x for x in read_openvino(path).get_ops() if x.get_type_name() == "Constant"]
        named = {re.sub(STORED, "", x.get_friendly_name()): x for x in nodes}
        return {n: _as_float(x.data) for n, x in named.items() if n.endswith(".weight")}
    layers = read_ncnn(path, path.with_suffix(".bin"))
    return {f"{x.name}.weight": x.weight for x in layers if x.kind in CONVOLUTIONS}


class _Network(NamedTuple):
    """An exported network in the place of a `LightDet` that is evaluated."""

    find: Find

    def detect(self, images: Tensor, *limits: float) -> list[Detections]:
        canvases = images.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()
        return self.find(canvases, *limits)


def accuracy(path: Path | str, config: Config, threads: int = 1) -> dict:
    """The COCO numbers of an exported file on the val images of a run's profile.

    Args:
        path: .onnx, ncnn's .param or OpenVINO's .xml.
        config: of the run that was exported.
    """
    pack, exported = open_split(config, "val"), open_exported(path, threads)
    check_categories(path, exported.about["categories"], pack.categories)
    network = _Network(exported_find(exported))
    return coco_metrics(read_truth(pack), detect_pack(network, pack))


def judged(weights: Path | str) -> tuple[LightDet, Config, Pack]:
    """A run's network, its settings as params.yaml has them now, and its val images.

    Raises:
        ConfigError, DataError, UserError: it has them no more; the images are not packed or of
            other classes.
    """
    model, about, categories = load_weights(weights)
    config = load_config(about["experiment"], about["profile"], about["seed"])
    pack = open_split(config, "val")
    check_categories(weights, categories, pack.categories)
    return model, config, pack


def compared(path: str, model: LightDet, config: Config, pack: Pack) -> str:
    """What the exported file and the network that it was made of reach on val, in a line to read.

    Args:
        model, config, pack: of `judged`.
    """
    after = accuracy(path, config)
    before = coco_metrics(read_truth(pack), detect_pack(model, pack))
    found = [f"{k} {100 * after[k]:.2f} (torch {100 * before[k]:.2f})" for k in ("AP", "AP50")]
    return f"on {len(pack.images)} val images of {config.profile}: {', '.join(found)}"


def summary(report: dict) -> list[str]:
    """The report of an export in lines to read."""
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
