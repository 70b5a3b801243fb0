"""Runs what `export` wrote, ONNX or ncnn, on the CPU: the file alone, without torch's network.

    run = open_exported("exported/g5-s0-uint8.onnx", threads=2).run

Tensor legend: B images · S input size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightdet_core.config import UserError

if TYPE_CHECKING:
    # elsewhere where they are used: who detects by torch need not have them
    import ncnn
    import onnxruntime

KEY = "lightdet"  # of the description in ONNX's metadata, as in the weights file
NEEDED = {"form", "input", "outputs", "quality", "categories", "config"}  # in a description
AGAIN = "export the run again"


class Exported(NamedTuple):
    """An exported network."""

    about: dict  # of `export.describe`
    run: Callable[[np.ndarray], list[np.ndarray]]  # images (B, S, S, 3) uint8 RGB -> its outputs


def open_exported(path: Path | str, threads: int = 1) -> Exported:
    """An exported file, ready to run on the CPU; it computes in fp32.

    Args:
        path: .onnx, or ncnn's .param with its .bin and .json beside it.
        threads: that it may use.

    Raises:
        UserError: missing, damaged, or not written by `export`; from `run`: other images.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".param"):
        raise UserError(f"{path}: an .onnx or ncnn's .param file is needed")
    about, outputs_of = (_open_onnx if path.suffix == ".onnx" else _open_ncnn)(path, threads)
    wanted = (about["input"]["size"], about["input"]["size"], 3)
    stated = [tuple(shape) for shape in about["outputs"].values()]

    def run(images: np.ndarray) -> list[np.ndarray]:
        if images.dtype != np.uint8 or images.shape[1:] != wanted:
            found = f"{images.dtype} {images.shape}"
            raise UserError(f"{path}: images are {found}, uint8 (B, {wanted}) are needed")
        outputs = outputs_of(images)
        shapes = [output.shape[1:] for output in outputs]
        if shapes != stated:
            raise UserError(f"{path}: gives {shapes}, but its description says {stated}; {AGAIN}")
        return outputs

    return Exported(about, run)


def onnx_session(model: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU from a file or its content; its errors are raised, not printed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _open_onnx(path: Path, threads: int) -> tuple[dict, Callable]:
    if not path.is_file():
        raise UserError(f"{path}: not found; check the path")
    try:
        session = onnx_session(path, threads)
    except ImportError:
        raise
    except Exception as error:  # its errors have no common class
        reason = first_line(error)
        raise UserError(f"{path}: not a usable ONNX file: {reason}") from None
    about = _parse(path, session.get_modelmeta().custom_metadata_map.get(KEY, "null"))

    def run(images: np.ndarray) -> list[np.ndarray]:
        if about["input"]["dtype"] == "float32":
            images = to_floats(images)
        return session.run(list(about["outputs"]), {about["input"]["name"]: images})

    return about, run


def to_floats(images: np.ndarray) -> np.ndarray:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32."""
    return images.transpose(0, 3, 1, 2).astype(np.float32, order="C")


def load_ncnn(param: Path, values: Path, threads: int) -> ncnn.Net:
    """A network on the CPU in fp32 from its .param and .bin.

    Raises:
        UserError: ncnn cannot load them.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("packed", "storage", "arithmetic"):
        setattr(net.opt, f"use_fp16_{option}", False)
    net.opt.use_bf16_storage = False
    if net.load_param(str(param)) or net.load_model(str(values)):
        raise UserError(f"{param}: ncnn cannot load it and {values.name}")
    return net


def ncnn_network(path: Path, outputs: int, threads: int) -> Callable[[ncnn.Mat], list[np.ndarray]]:
    """A network on the CPU in fp32, from pnnx's .param and the .bin beside it.

    Args:
        outputs: their number; they are called out0, out1, … and the input in0.

    Returns:
        From pixels of `ncnn_pixels` to its outputs, without an axis for the batch.

    Raises:
        UserError: ncnn cannot load it; when it is called: an output is not there.
    """
    net = load_ncnn(path, path.with_suffix(".bin"), threads)

    def run(pixels: ncnn.Mat) -> list[np.ndarray]:
        extractor = net.create_extractor()
        extractor.input("in0", pixels)
        found = [extractor.extract(f"out{i}") for i in range(outputs)]
        if any(code for code, _ in found):  # what came with it must not be touched
            raise UserError(f"{path}: does not have {outputs} outputs; {AGAIN}")
        return [np.array(values) for _, values in found]

    return run


def ncnn_pixels(canvas: np.ndarray) -> ncnn.Mat:
    """(S, S, 3) uint8 RGB -> float32 for a network; `ncnn.Mat(array)` would not copy it."""
    import ncnn

    height, width = canvas.shape[:2]
    kind = ncnn.Mat.PixelType.PIXEL_RGB
    return ncnn.Mat.from_pixels(np.ascontiguousarray(canvas), kind, width, height)


def _open_ncnn(path: Path, threads: int) -> tuple[dict, Callable]:
    description = path.with_suffix(".json")
    for file in (path, path.with_suffix(".bin"), description):
        if not file.is_file():
            raise UserError(f"{file}: not found; ncnn needs .param, .bin and .json side by side")
    about = _parse(description, description.read_text(errors="replace"))
    network = ncnn_network(path, len(about["outputs"]), threads)

    def run(images: np.ndarray) -> list[np.ndarray]:
        outputs = zip(*(network(ncnn_pixels(image)) for image in images), strict=True)
        return [np.stack(output) for output in outputs]

    return about, run


def _parse(path: Path, text: str) -> dict:
    try:
        about = json.loads(text)
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise UserError(
            f"{path}: has no LightDet description; it is not a file of lightdet_tools.deploy.export"
        )
    if missing := sorted(NEEDED.difference(about)):
        raise UserError(f"{path}: its description lacks {', '.join(missing)}; {AGAIN}")
    return about


def first_line(error: Exception) -> str:
    """What an error says, in one line of at most 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
