"""Runs what `export` wrote, ONNX, ncnn or OpenVINO, on the CPU: without torch's network.

    run = open_exported("exported/g5-s0-uint8.onnx", threads=2).run

Tensor legend: B images · S input size.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightdet_core.config import UserError

if TYPE_CHECKING:
    # elsewhere where they are used: who detects by torch need not have them
    import ncnn
    import onnxruntime
    import openvino

ENTRIES = (".onnx", ".param", ".xml")  # the file that is opened: ONNX's, ncnn's, OpenVINO's
KEY = "lightdet"  # of the description in ONNX's metadata, which OpenVINO takes along
NEEDED = {"form", "input", "outputs", "quality", "categories", "config"}  # in a description
AGAIN = "export the run again"


class Exported(NamedTuple):
    """An exported network."""

    about: dict  # of `export.describe`
    run: Callable[[np.ndarray], list[np.ndarray]]  # images (B, S, S, 3) uint8 RGB -> its outputs


def open_exported(path: Path | str, threads: int = 1) -> Exported:
    """An exported file, ready to run on the CPU; it computes in fp32, or as it was exported to.

    Args:
        path: .onnx, ncnn's .param with its .bin and .json beside it, or OpenVINO's .xml with .bin.
        threads: that it may use.

    Raises:
        UserError: missing, damaged, not written by `export`, or in bf16, which this CPU lacks; from
            `run`: other images.
    """
    path = Path(path)
    if path.suffix not in ENTRIES:
        raise UserError(f"{path}: an .onnx, ncnn's .param or OpenVINO's .xml file is needed")
    open_one = {".onnx": _open_onnx, ".param": _open_ncnn, ".xml": _open_openvino}[path.suffix]
    about, outputs_of = open_one(path, threads)
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


def onnx_session(
    model: Path | bytes, threads: int, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session on the CPU; its errors are raised, not printed.

    Its threads sleep between calls. By default (1.31.1) each looks for work for 0.04 s more (AMD
    EPYC), and what comes next on these cores takes up to three times as long.

    Args:
        model: a file, or what is in one.
        profile: how the name of the file begins that `end_profiling` writes; None: there is none.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    source, providers = model if isinstance(model, bytes) else str(model), ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(source, options, providers=providers)


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


def openvino_library() -> ModuleType:
    """`openvino`, whose import would send statistics of use to Intel without asking.

    It has a stand-in for the package that does so, which it takes where this cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


def read_openvino(path: Path) -> openvino.Model:
    """A network from its .xml and the .bin beside it, not yet compiled.

    Raises:
        UserError: OpenVINO cannot read them.
    """
    core = openvino_library().Core()
    core.set_property({"ENABLE_MMAP": False})  # the files may be replaced while it is used
    try:
        return core.read_model(path)
    except RuntimeError as error:
        raise UserError(f"{path}: OpenVINO cannot read it: {last_line(error)}") from None


def openvino_network(
    model: openvino.Model, threads: int, bf16: bool = False
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A network on the CPU, from images as it takes them to its outputs in the order of the file.

    It computes in fp32, what is quantized in int8; left alone, OpenVINO would take bf16 wherever
    the CPU has it. Its threads are not bound to cores, where they would meet those of others.

    Raises:
        UserError: bf16 on a CPU without it.
    """
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    settings |= {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32", "ENABLE_CPU_PINNING": False}
    core = openvino_library().Core()
    if bf16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError("this CPU does not compute in bf16; take fp32")
    compiled = core.compile_model(model, "CPU", settings)
    return lambda images: list(compiled([np.ascontiguousarray(images)]).values())


def _open_openvino(path: Path, threads: int) -> tuple[dict, Callable]:
    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise UserError(f"{file}: not found; OpenVINO needs .xml and .bin side by side")
    model, place = read_openvino(path), ["framework", KEY]
    known = model.has_rt_info(place)
    about = _parse(path, model.get_rt_info(place).astype(str) if known else "null")
    names = [name for output in model.outputs for name in output.get_names()]
    if sorted(names) != sorted(about["outputs"]):
        raise UserError(f"{path}: has other outputs than its description says; {AGAIN}")
    order = [names.index(name) for name in about["outputs"]]
    network = openvino_network(model, threads, about.get("precision") == "bf16")

    def run(images: np.ndarray) -> list[np.ndarray]:
        if about["input"]["dtype"] == "float32":
            images = to_floats(images)
        outputs = zip(*(network(image[None]) for image in images), strict=True)
        outputs = [np.concatenate(output) for output in outputs]
        return [outputs[place] for place in order]

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
    config = about.get("config")
    settings = config if isinstance(config, dict) else {}
    missing = sorted(NEEDED.difference(about))
    missing += [
        f"config.{key}" for key in ("experiment", "profile", "model") if key not in settings
    ]
    if missing:
        raise UserError(f"{path}: its description lacks {', '.join(missing)}; {AGAIN}")
    return about


def first_line(error: Exception) -> str:
    """What an error says, in one line of at most 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def last_line(error: Exception) -> str:
    """As `first_line`, for OpenVINO's errors, which begin with lines of its own source."""
    return first_line(RuntimeError(str(error).strip().splitlines()[-1]))
