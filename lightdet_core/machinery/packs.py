"""Packed images: memory-mapped arrays that training and evaluation read.

A pack is a folder of .npy files, never unpickled: `ARRAYS`, of N images of S x S pixels, padded to
G objects. pack.json holds the rest, truth.json the annotations that the pack was made from, for
evaluation.
"""

import json
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightdet_core.config import Config, DataError, UserError, root
from lightdet_core.machinery.files import file_hash, split_paths

if TYPE_CHECKING:
    from torch import Tensor  # packing goes without torch

FORMAT = 5  # raise it when the arrays change their meaning: older packs are then rebuilt
ARRAYS = {  # name: (dtype, shape after N; "G" and "S" are filled in)
    "images": (np.uint8, ("S", "S", 3)),  # RGB
    "gt_boxes": (np.float32, ("G", 4)),  # xyxy in canvas pixels
    "gt_labels": (np.int64, ("G",)),  # 0..C-1
    "gt_crowd": (np.bool_, ("G",)),
    "counts": (np.int64, ()),  # objects per image
    "image_ids": (np.int64, ()),
    "sizes": (np.int64, (2,)),  # original width and height
}


class Pack(NamedTuple):
    """One split, memory-mapped; `ARRAYS` gives types, shapes and units."""

    images: "np.ndarray | Tensor"  # a tensor where a GPU holds them (`augment.on_device`)
    gt_boxes: np.ndarray
    gt_labels: np.ndarray
    gt_crowd: np.ndarray
    counts: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    size: int
    categories: list[dict]  # {"id", "name"} by label
    hash: str  # sha256 of the annotation file
    pixels: str  # sha256 of the packed images
    path: Path
    folder: str = ""  # of the images, as `place_of` names it


def coco_results(
    xyxy: np.ndarray, scores: list[float], labels: list[int], image_id: int, categories: list[dict]
) -> list[dict]:
    """Detections of an image, boxes (N, 4) float64 in its pixels, as COCO writes results.

    Rounded to 0.001 px and scores to 1e-6, so that a file of them gives the very same numbers.
    """
    xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], 1).round(3).tolist()
    ids = [categories[label]["id"] for label in labels]
    return [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": round(score, 6)}
        for box, score, category in zip(xywh, scores, ids, strict=True)
    ]


def true_area(annotation: dict) -> float:
    """The stated area of an object in px, if a mask in its box can have it, else the box's.

    COCO's size ranges depend on it: a negative area takes the object out of all of them. In COCO
    masks fill from a thirtieth of a box (and half a pixel along its longer side) to all of it.
    """
    stated, (_, _, width, height) = annotation.get("area"), annotation["bbox"]
    number = isinstance(stated, int | float) and not isinstance(stated, bool)
    if number and 0.1 * max(width, height) <= stated <= 1.01 * width * height + 1:
        return stated
    return width * height


def read_meta(path: Path) -> dict:
    try:
        meta = json.loads((path / "pack.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        what = "incomplete pack" if path.is_dir() else "no pack here"
        raise FileNotFoundError(f"{path}: {what}; {_repack(path)}") from None
    except ValueError as error:
        raise DataError(f"{path}: damaged pack.json: {error}; {_repack(path)}") from None
    keys = {"format", "sha256", "size", "pixels", "images", "drops", "categories"}
    keys |= {"classes", "folder", "files", "pillow", "skip_broken"}
    if not isinstance(meta, dict) or set(meta) != keys or meta["format"] != FORMAT:
        raise DataError(f"{path}: pack.json is of another format; {_repack(path)}")
    return meta


def open_pack(path: Path, annotations: Path | None = None, classes: tuple[str, ...] = ()) -> Pack:
    """Maps a pack into memory.

    Args:
        annotations: the file that it must have been made from; None does not ask.
        classes: and with which choice of its classes.

    Raises:
        FileNotFoundError: no pack, or a part of it is missing.
        DataError: damaged, or made from other annotations or classes.
    """
    path, meta, arrays = Path(path), read_meta(Path(path)), {}
    if annotations is not None and file_hash(annotations) != meta["sha256"]:
        raise DataError(f"{path}: made from other annotations than {annotations}; {_repack(path)}")
    if annotations is not None and sorted(classes) != meta["classes"]:
        made, wanted = (", ".join(x) or "all" for x in (meta["classes"], sorted(classes)))
        raise DataError(f"{path}: made with the classes {made}, not {wanted}; {_repack(path)}")
    for name in ARRAYS:
        file = path / f"{name}.npy"
        try:
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise FileNotFoundError(f"{file}: missing, incomplete pack; {_repack(path)}") from None
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{file}: damaged: {error}; {_repack(path)}") from None
    most = arrays["gt_labels"].shape[-1] if arrays["gt_labels"].ndim else 0
    sides: dict[object, int] = {"S": meta["size"], "G": most}
    for name, (dtype, shape) in ARRAYS.items():
        wanted = (meta["images"], *(sides.get(side, side) for side in shape))
        if arrays[name].shape != wanted or arrays[name].dtype != dtype:
            found = f"{arrays[name].dtype} {arrays[name].shape}, expected {wanted}"
            raise DataError(f"{path / name}.npy: damaged: {found}; {_repack(path)}")
    return Pack(**arrays, size=meta["size"], categories=meta["categories"],
                hash=meta["sha256"], pixels=meta["pixels"], path=path,
                folder=meta["folder"])  # fmt: skip


def pack_path(config: Config, split: str) -> Path:
    """Folder of a run's pack: train at `pack_size`, val at the network's input size."""
    size = {"train": config.data.pack_size, "val": config.model.input_size}[split]
    return root() / "data" / config.profile / "packs" / f"{split}-{size}"


def place_of(folder: Path) -> str:
    """A folder as a pack names it: within the repository, so that this may be moved."""
    return str(folder.relative_to(root()) if folder.is_relative_to(root()) else folder)


def is_place(name: str, folder: Path) -> bool:
    """Whether a folder, by whatever link, is the one that `place_of` named so."""
    return (root() / name).resolve() == folder.resolve()


def _repack(path: Path) -> str:
    """What makes the pack data/<profile>/packs/<name> anew."""
    return f"run lightdet pack --profile {path.absolute().parents[1].name}"


def objects(pack: Pack) -> np.ndarray:
    """Which of a pack's slots (N, G) hold an object to learn: no padding and no crowd."""
    return (np.arange(pack.gt_labels.shape[1]) < pack.counts[:, None]) & ~pack.gt_crowd


def open_split(config: Config, split: str) -> Pack:
    """A run's pack of train or val, which must be made from its annotations, classes and folder of
    images. (Whether the pictures in it have changed is asked when they are packed.)"""
    annotations, images = split_paths(config, split)
    path = pack_path(config, split)
    pack = open_pack(path, annotations, config.data.classes)
    # BCCD's are the same wherever they lie: their hash was asked for
    if config.data.source != "bccd" and not is_place(pack.folder, images):
        made_from = f"made from the images in {pack.folder}, not {images}; {_repack(path)}"
        copy = "" if config.data.source == "folder" else ", or set LIGHTDET_COCO as it was then"
        raise DataError(f"{path}: {made_from}{copy}")
    return pack


def read_truth(pack: Pack) -> dict:
    """What a pack was made from, as a COCO dict, less what was dropped; `DataError` if damaged."""
    path = pack.path / "truth.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}; {_repack(path)}") from None


def check_categories(path: Path | str, learned: list[dict], categories: list[dict]) -> None:
    """Raises a UserError if weights (of this path) have learned other classes than the data have.

    Both are id and name by label.
    """
    classes = ([(c["id"], c["name"]) for c in x] for x in (categories, learned))
    for label, (ours, theirs) in enumerate(zip_longest(*classes)):
        if ours != theirs:
            raise UserError(
                f"{path}: label {label} (id, name) is {theirs} there, but {ours} in the data; take "
                "weights that were trained on data with the same categories"
            )


def with_classes(config: Config, pack: Pack) -> Config:
    """Fill in `num_classes: null`; refuse a number that the annotations contradict."""
    found = len(pack.categories)
    wanted = config.model.num_classes
    if wanted not in (None, found):
        raise UserError(
            f"{config.profile}: model.num_classes is {wanted}, but the annotations have {found} "
            f"categories; set it to {found} or null"
        )
    return config.with_model(num_classes=found)
