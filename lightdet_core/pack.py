"""COCO format -> packed arrays: every image is decoded and letterboxed once.

A pack is a folder of .npy files that are memory-mapped, never unpickled. N images of S x S
pixels, padded to G objects: images (N,S,S,3) uint8 RGB, gt_boxes (N,G,4) float32 xyxy in canvas
pixels, gt_labels (N,G) int64 in 0..C-1, gt_crowd (N,G) bool, counts (N,) objects per image,
image_ids (N,) and sizes (N,2) original width and height, int64. pack.json holds the rest.
"""

import argparse
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from lightdet_core.config import ROOT, all_runs, load_config, read_params, run_cli
from lightdet_core.datasets import DataError, file_hash, read_coco, split_paths
from lightdet_core.files import write_json

FORMAT = 2  # raise it when the arrays change their meaning: older packs are then rebuilt
REPACK = "run `dvc repro pack`, or python -m lightdet_core.pack --profile NAME"
SHOWN = 20  # problems spelled out in an error
WORKERS = min(8, os.cpu_count() or 1)  # threads: decoding and resizing release the GIL
ARRAYS = {  # name: (dtype, shape after N; "G" and "S" are filled in)
    "images": (np.uint8, ("S", "S", 3)),
    "gt_boxes": (np.float32, ("G", 4)),
    "gt_labels": (np.int64, ("G",)),
    "gt_crowd": (np.bool_, ("G",)),
    "counts": (np.int64, ()),
    "image_ids": (np.int64, ()),
    "sizes": (np.int64, (2,)),
}


class Pack(NamedTuple):
    """One split, memory-mapped; the module's docstring gives shapes and units."""

    images: np.ndarray
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


class Annotations(NamedTuple):
    """A checked annotation file: N images, M boxes in the order of the images."""

    image_ids: np.ndarray  # (N,) int64
    file_names: np.ndarray  # (N,) str
    sizes: np.ndarray  # (N,2) int64, width and height
    counts: np.ndarray  # (N,) int64, boxes per image
    boxes: np.ndarray  # (M,4) float64 xyxy, pixels of the original image, clipped to it
    labels: np.ndarray  # (M,) int64
    crowd: np.ndarray  # (M,) bool
    categories: list[dict]  # {"id", "name"}, sorted by id
    drops: dict[str, int]  # rule -> number of boxes or images


# ---------------------------------------------------------------------------------- geometry


def letterbox_transform(
    width: int | np.ndarray, height: int | np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Keep-ratio, centred fit into a square: x' = x * scale_x + left, y' = y * scale_y + top.

    The scales follow from the rounded new size, so the map is that of the resampled pixels.

    Args:
        width, height: of the image in pixels, numbers or arrays.
        size: side of the canvas in pixels.

    Returns:
        scale_x, scale_y, left, top.
    """
    scale = np.minimum(size / np.asarray(width), size / np.asarray(height))
    new_width = np.maximum(1, np.rint(width * scale))
    new_height = np.maximum(1, np.rint(height * scale))
    left, top = (size - new_width) // 2, (size - new_height) // 2
    return new_width / width, new_height / height, left, top


def boxes_on_image(xyxy: np.ndarray, width: int, height: int, size: int) -> np.ndarray:
    """Boxes on the canvas (N, 4) float64 -> in pixels of the image, clipped to it."""
    scale_x, scale_y, left, top = letterbox_transform(width, height, size)
    xyxy = (xyxy - [left, top, left, top]) / [scale_x, scale_y, scale_x, scale_y]
    return xyxy.clip(0, [width, height, width, height])


def coco_results(
    xyxy: np.ndarray, scores: list[float], labels: list[int], image_id: int, categories: list[dict]
) -> list[dict]:
    """Detections of an image, boxes (N, 4) float64 in its pixels, as COCO writes results.

    Rounded to 0.001 px and scores to 1e-6, so that a file of them gives the very same numbers.
    """
    xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], 1).round(3).tolist()
    return [
        {
            "image_id": image_id,
            "category_id": categories[label]["id"],
            "bbox": box,
            "score": round(score, 6),
        }
        for box, score, label in zip(xywh, scores, labels, strict=True)
    ]


def letterbox(image: np.ndarray, size: int, quick: bool = False) -> np.ndarray:
    """(H,W,3) uint8 -> (size,size,3) uint8: bilinear, antialiased when reducing, black borders.

    Args:
        quick: with torch in place of Pillow, in a third of its time; of COCO's pixels one in two
            thousand then differs, by one level.
    """
    height, width = image.shape[:2]
    scale_x, scale_y, left, top = letterbox_transform(width, height, size)
    new_width, new_height, left, top = (
        round(float(v)) for v in (width * scale_x, height * scale_y, left, top)
    )
    if (new_width, new_height) != (width, height):
        resize = _resize_torch if quick else _resize_pillow
        image = resize(image, new_width, new_height)
    canvas = np.empty((size, size, 3), np.uint8)  # memory in use: `zeros` would ask for new pages
    canvas.fill(0)
    canvas[top : top + new_height, left : left + new_width] = image
    return canvas


def _resize_pillow(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _resize_torch(image: np.ndarray, width: int, height: int) -> np.ndarray:
    import torch  # here: packing goes without it

    pixels = torch.from_numpy(np.require(image, requirements="CW"))[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        pixels, (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).numpy()


# ------------------------------------------------------------------------------------ images


def read_image(path: Path, width: int | None = None, height: int | None = None) -> np.ndarray:
    """Decodes an image to (H,W,3) uint8 RGB.

    Grey, palette and CMYK become RGB, alpha is dropped, 16-bit grey is scaled to 8 bits. An EXIF
    orientation is applied, as OpenCV and browsers do, unless it would swap the axes and only
    the stored orientation fits the stated size: then the boxes belong to the stored pixels.

    Args:
        width, height: the size that the annotations state; None accepts any.

    Raises:
        DataError: unreadable, truncated, of another size or of a mode without a fixed range.
    """
    try:
        with Image.open(path) as image:
            image.load()
            swaps_axes = image.getexif().get(0x0112) in (5, 6, 7, 8)
            if not (swaps_axes and (width, height) == image.size and width != height):
                image = ImageOps.exif_transpose(image)
            mode = image.mode
            if mode.startswith("I;16"):
                deep = np.asarray(image).astype(np.uint32)
                image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
            pixels = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{path}: image not found") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, …
        raise DataError(f"{path}: unreadable image: {error}") from None
    if mode in ("I", "F"):
        raise DataError(f"{path}: {mode} pixels (32 bits) have no fixed range; save 8 or 16 bits")
    found = pixels.shape[1::-1]
    if width is not None and found != (width, height):
        raise DataError(
            f"{path}: {found[0]} x {found[1]} pixels, but the annotations say {width} x {height}"
        )
    return pixels


# ------------------------------------------------------------------------------- annotations


def _complain(path: Path, problems: list[tuple[str, str]]) -> None:
    """Raises one DataError over all (kind, detail) problems, if there are any."""
    if not problems:
        return
    shown = [f"  {kind}: {detail}" for kind, detail in problems[:SHOWN]]
    if len(problems) > SHOWN:
        shown.append(f"  … and {len(problems) - SHOWN} more")
    counts = ", ".join(f"{kind} {n}" for kind, n in Counter(k for k, _ in problems).items())
    many = f"{len(problems)} problem{'s' if problems[1:] else ''}"
    remedy = "  repair them, or drop them by `skip_broken: true` under the profile's `data`"
    raise DataError("\n".join([f"{path}: {many} ({counts})", *shown, remedy]))


def _is_id(value: object) -> bool:
    return type(value) is int and abs(value) < 2**63


def _is_number(value: object) -> bool:
    # NaN and infinity fail the comparison; 1e9 px is beyond any image
    return type(value) in (int, float) and abs(value) < 1e9


def _checked(records: list, what: str, check: Callable, problems: list) -> Iterator[dict]:
    """The usable records of a list; what is wrong with the others goes to `problems`."""
    seen = set()
    for place, record in enumerate(records):
        if not isinstance(record, dict) or not _is_id(record.get("id")):
            problems.append((f"{what} without id", f"entry {place}: no whole number under 'id'"))
            continue
        wrong = check(record)
        if record["id"] in seen:
            wrong = (f"duplicate {what} id", "the id occurs before")
        if wrong:
            kind, detail = wrong
            problems.append((kind, f"{what} {record['id']}: {detail}"))
            continue
        seen.add(record["id"])
        yield record


def _check_category(record: dict) -> tuple[str, str] | None:
    if not isinstance(record.get("name"), str):
        return "category without name", "no text under 'name'"


def _check_image(record: dict) -> tuple[str, str] | None:
    if not isinstance(record.get("file_name"), str) or not record["file_name"]:
        return "image without file_name", "no text under 'file_name'"
    for side in ("width", "height"):
        value = record.get(side)
        if type(value) is not int or not 0 < value < 2**31:
            return f"image without {side}", f"{record['file_name']}: {side} is {value!r}"


def usable(coco: dict, categories: list[dict]) -> tuple[list[dict], list[dict], list[tuple]]:
    """What can be used of the images and annotations of a COCO dict.

    Args:
        categories: the known ones, each with its id.

    Returns:
        Images, annotations, and (kind, detail) of everything that is wrong with the others.
    """
    problems = []
    images = list(_checked(coco["images"], "image", _check_image, problems))
    if not images:
        return [], [], [*problems, ("empty split", "no usable images")]
    ids, known = {image["id"] for image in images}, {category["id"] for category in categories}
    stated = {i["id"] for i in coco["images"] if isinstance(i, dict) and _is_id(i.get("id"))}

    def check(record: dict) -> tuple[str, str] | None:
        image, category, box = (record.get(k) for k in ("image_id", "category_id", "bbox"))
        for key in ("image_id", "category_id", "bbox"):
            if key not in record:
                return f"annotation without {key}", "the key is missing"
        if not _is_id(image) or image not in ids:
            lost = _is_id(image) and image in stated
            return "annotation of a broken image" if lost else "unknown image", f"image_id {image}"
        if not _is_id(category) or category not in known:
            return "unknown category", f"image {image}: category_id {category}"
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            return "box is not four finite numbers", f"image {image}: bbox {box}"
        if box[2] < 0 or box[3] < 0:
            return "box of negative size", f"image {image}: bbox {box}"
        if record.get("iscrowd", 0) not in (0, 1):
            return "iscrowd is not 0 or 1", f"image {image}: iscrowd {record['iscrowd']!r}"

    annotations = list(_checked(coco["annotations"], "annotation", check, problems))
    return images, annotations, problems


def read_annotations(
    path: Path, skip_broken: bool = False, classes: tuple[str, ...] = ()
) -> Annotations:
    """Reads and checks a COCO annotation file.

    Boxes wholly outside of their image or less than 1 px wide or high (also after clipping)
    are dropped, boxes that stick out are clipped; `drops` counts each rule. Labels are the
    places of the category ids in ascending order.

    Args:
        skip_broken: drop broken images and annotations, counted in `drops`, instead of raising.
        classes: names of the categories to keep, none for all. The other boxes are left out,
            counted in `drops` as are the images that thereby lose all of theirs: these stay, to
            teach what background is.

    Raises:
        DataError: lists everything that is wrong.
    """
    coco, problems = read_coco(path), []
    categories = sorted(
        _checked(coco["categories"], "category", _check_category, problems), key=lambda c: c["id"]
    )
    categories = [{"id": c["id"], "name": c["name"]} for c in categories]
    twice = [name for name, n in Counter(c["name"] for c in categories).items() if n > 1]
    problems += [("duplicate category name", repr(name)) for name in twice]
    if not categories and not problems:
        problems.append(("no categories", "the list is empty"))
    if skip_broken:
        _complain(path, problems)  # labels cannot be trusted: never skipped
    images, kept, found = usable(coco, categories)
    problems += found
    _complain(path, [] if skip_broken and images else problems)
    drops = Counter(kind for kind, _ in problems)
    if classes:
        categories, kept = _chosen(path, classes, categories, kept, drops)
    row = {image["id"]: i for i, image in enumerate(images)}
    label = {category["id"]: i for i, category in enumerate(categories)}
    sizes = np.array([(i["width"], i["height"]) for i in images], np.int64)
    rows = np.array([row[a["image_id"]] for a in kept], np.int64)
    labels = np.array([label[a["category_id"]] for a in kept], np.int64)
    crowd = np.array([a.get("iscrowd", 0) for a in kept], bool)
    boxes = np.array([a["bbox"] for a in kept], np.float64).reshape(-1, 4)
    del coco, kept
    keep, boxes = _clip(boxes, sizes[rows], drops)
    order = np.argsort(rows[keep], kind="stable")
    return Annotations(
        np.array([i["id"] for i in images], np.int64),
        np.array([i["file_name"] for i in images]),
        sizes,
        np.bincount(rows[keep], minlength=len(images)),
        boxes[keep][order],
        labels[keep][order],
        crowd[keep][order],
        categories,
        dict(drops),
    )


def _chosen(
    path: Path, classes: tuple[str, ...], categories: list[dict], boxes: list[dict], drops: Counter
) -> tuple[list[dict], list[dict]]:
    """The categories with these names and the annotations of them; `drops` counts the rest."""
    names = [category["name"] for category in categories]
    if unknown := [name for name in classes if name not in names]:
        raise DataError(
            f"{path}: data.classes: {', '.join(unknown)}: not in it; its classes are "
            f"{', '.join(names)}"
        )
    categories = [category for category in categories if category["name"] in classes]
    known = {category["id"] for category in categories}
    own = [box for box in boxes if box["category_id"] in known]
    before, after = ({box["image_id"] for box in some} for some in (boxes, own))
    drops["boxes of other classes left out"] = len(boxes) - len(own)
    drops["images left without objects"] = len(before) - len(after)
    return categories, own


def _clip(boxes: np.ndarray, sizes: np.ndarray, drops: Counter) -> tuple[np.ndarray, np.ndarray]:
    """xywh (M,4), image sizes (M,2) -> which to keep (M,), xyxy clipped to the image (M,4)."""
    low, side = boxes[:, :2], boxes[:, 2:]
    small = (side < 1).any(1)
    clipped = np.concatenate([low, low + side], 1).clip(0, np.tile(sizes, 2))
    left = clipped[:, 2:] - clipped[:, :2]
    outside = ~small & (left <= 0).any(1)
    thin = ~small & ~outside & (left < 1).any(1)
    keep = ~(small | outside | thin)
    # 0.01 px: COCO's own rounding is no defect
    cut = keep & ((low < -0.01) | (low + side > sizes + 0.01)).any(1)
    for rule, mask in {
        "boxes under 1 px dropped": small | thin,
        "boxes outside of the image dropped": outside,
        "boxes clipped to the image": cut,
    }.items():
        drops[rule] += int(mask.sum())
    return keep, clipped


# ----------------------------------------------------------------------------------- packing


def build(
    annotations: Path,
    images: Path,
    out: Path,
    size: int,
    skip_broken: bool = False,
    progress: Callable[[str], None] = print,
    classes: tuple[str, ...] = (),
) -> Pack:
    """Packs a split into the folder `out`; an intact pack with the same settings is reused.

    The pack is made in a temporary sibling and renamed when complete: after any failure the
    temporary is gone and an older pack is untouched.

    Args:
        size: side of the square canvas in pixels.
        skip_broken, classes: see `read_annotations`.

    Raises:
        DataError: everything wrong with the annotations, or all missing and broken images.
        OSError: not enough space.
    """
    settings = {"format": FORMAT, "sha256": file_hash(annotations), "size": size}
    settings |= {"skip_broken": skip_broken, "classes": sorted(classes)}
    out.parent.mkdir(parents=True, exist_ok=True)
    parent = os.open(out.parent, os.O_RDONLY)
    fcntl.flock(parent, fcntl.LOCK_EX)  # another process packing here finishes first
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        try:
            if _read_meta(out).items() >= settings.items():
                pack = open_pack(out)
                lost = _read_meta(out)["drops"].get("broken image", 0)
                note = f"; {lost} broken ones are left out: if they are mended, delete {out}"
                progress(
                    f"{out.name}: {len(pack.counts)} images, packed already{note if lost else ''}"
                )
                return pack
        except (DataError, FileNotFoundError):
            pass  # nothing usable there: build it
        truth = read_annotations(annotations, skip_broken, classes)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write(truth, images, temporary, settings, progress)
        old = out.with_name(f".{out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            os.rename(out, old)
        os.rename(temporary, out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(parent)
    return open_pack(out)


def _write(
    truth: Annotations, folder: Path, out: Path, settings: dict, progress: Callable[[str], None]
) -> None:
    """Writes all files of a pack into the empty folder `out`."""
    size, count = settings["size"], len(truth.image_ids)
    most = max(1, int(truth.counts.max()))  # an array without elements cannot be mapped
    need = count * (size * size * 3 + most * (16 + 8 + 1) + 32) + 100_000
    free = shutil.disk_usage(out).free
    if need > free:
        message = f"needs {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
        raise OSError(errno.ENOSPC, message, str(out.parent))
    progress(
        f"packing {count} images at {size} px: {need / 1e9:.2f} GB of {free / 1e9:.1f} GB free"
    )
    if not folder.is_dir():
        raise DataError(f"{folder}: image folder not found")
    if not settings["skip_broken"]:  # found now, not after an hour of decoding
        names = enumerate(truth.file_names)
        lost = [(i, folder / name) for i, name in names if not (folder / name).is_file()]
        _complain(folder, [("missing image", f"image {truth.image_ids[i]}: {f}") for i, f in lost])
    good, broken, pixels = _write_images(truth, folder, out / "images.npy", size, progress)
    if broken and not (settings["skip_broken"] and good.any()):
        _complain(folder, broken)
    drops = truth.drops | Counter(kind for kind, _ in broken)
    for rule, number in drops.items():
        if number:
            progress(f"  {rule}: {number}")

    starts = np.cumsum(truth.counts) - truth.counts
    rows = np.repeat(np.arange(count), truth.counts)
    slots = np.arange(len(rows)) - starts[rows]
    scale_x, scale_y, left, top = letterbox_transform(*truth.sizes.T, size)
    scale = np.stack([scale_x, scale_y] * 2, 1)[rows]
    shift = np.stack([left, top] * 2, 1)[rows]
    arrays = {"counts": truth.counts, "image_ids": truth.image_ids, "sizes": truth.sizes}
    flat = {"gt_boxes": truth.boxes * scale + shift}
    flat |= {"gt_labels": truth.labels, "gt_crowd": truth.crowd}
    for name, values in flat.items():
        arrays[name] = np.zeros((count, most, *values.shape[1:]), ARRAYS[name][0])
        arrays[name][rows, slots] = values
    for name, values in arrays.items():
        np.save(out / f"{name}.npy", values[good].astype(ARRAYS[name][0], copy=False))
    meta = {
        **settings,
        "pixels": pixels,
        "images": int(good.sum()),
        "drops": drops,
        "categories": truth.categories,
    }
    write_json(out / "pack.json", meta, indent=1)


def _write_images(
    truth: Annotations, folder: Path, path: Path, size: int, progress: Callable[[str], None]
) -> tuple[np.ndarray, list[tuple[str, str]], str]:
    """Streams the letterboxed images into `path`: which are in it (N,), the broken ones, a hash.

    Written as a stream and not through a memory map: a full disk is then an OSError and not a
    bus error.
    """

    def work(i: int) -> np.ndarray | DataError:
        try:
            width, height = truth.sizes[i].tolist()
            return letterbox(read_image(folder / truth.file_names[i], width, height), size)
        except DataError as error:
            return error

    count = len(truth.image_ids)
    good, broken, pixels = np.ones(count, bool), [], hashlib.sha256()
    start = told = time.monotonic()
    with open(path, "wb") as file, ThreadPoolExecutor(WORKERS) as pool:
        _write_header(file, count, size)
        indices = iter(range(count))
        pending = deque(pool.submit(work, i) for i in islice(indices, 4 * WORKERS))
        for i in range(count):
            result = pending.popleft().result()
            pending.extend(pool.submit(work, k) for k in islice(indices, 1))
            if isinstance(result, DataError):
                good[i] = False
                broken.append(("broken image", f"image {truth.image_ids[i]}: {result}"))
            else:
                file.write(result.data)
                pixels.update(result.data)
            if (now := time.monotonic()) - told > 3 or i + 1 == count:
                told, rate = now, (i + 1) / (now - start + 1e-9)
                left = (count - i - 1) / rate
                progress(f"  {i + 1}/{count} images, {rate:.0f} images/s, {left:.0f} s left")
        file.seek(0)
        _write_header(file, int(good.sum()), size)  # numpy pads headers so that N can change
    return good, broken, pixels.hexdigest()


def _write_header(file: object, count: int, size: int) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)


# ----------------------------------------------------------------------------------- opening


def _read_meta(path: Path) -> dict:
    try:
        meta = json.loads((path / "pack.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        what = "incomplete pack" if path.is_dir() else "no pack here"
        raise FileNotFoundError(f"{path}: {what}; {REPACK}") from None
    except ValueError as error:
        raise DataError(f"{path}: damaged pack.json: {error}; {REPACK}") from None
    keys = {"format", "sha256", "size", "skip_broken", "pixels", "images", "drops", "categories"}
    if isinstance(meta, dict):
        meta.setdefault("classes", [])  # older packs hold all
    if not isinstance(meta, dict) or set(meta) != {*keys, "classes"} or meta["format"] != FORMAT:
        raise DataError(f"{path}: pack.json is of another format; {REPACK}")
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
    path, meta, arrays = Path(path), _read_meta(Path(path)), {}
    if annotations is not None and file_hash(annotations) != meta["sha256"]:
        raise DataError(f"{path}: made from other annotations than {annotations}; {REPACK}")
    if annotations is not None and sorted(classes) != meta["classes"]:
        made, wanted = (", ".join(x) or "all" for x in (meta["classes"], sorted(classes)))
        raise DataError(f"{path}: made with the classes {made}, not {wanted}; {REPACK}")
    for name in ARRAYS:
        file = path / f"{name}.npy"
        try:
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise FileNotFoundError(f"{file}: missing, incomplete pack; {REPACK}") from None
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{file}: damaged: {error}; {REPACK}") from None
    most = arrays["gt_labels"].shape[-1] if arrays["gt_labels"].ndim else 0
    for name, (dtype, shape) in ARRAYS.items():
        sides = {"S": meta["size"], "G": most}
        wanted = (meta["images"], *(sides.get(side, side) for side in shape))
        if arrays[name].shape != wanted or arrays[name].dtype != dtype:
            found = f"{arrays[name].dtype} {arrays[name].shape}, expected {wanted}"
            raise DataError(f"{path / name}.npy: damaged: {found}; {REPACK}")
    return Pack(**arrays, size=meta["size"], categories=meta["categories"],
                hash=meta["sha256"], pixels=meta["pixels"], path=path)  # fmt: skip


def pack_paths(config: object, split: str, input_size: int) -> Path:
    """Folder of a pack: train at `pack_size`, val at the network's input size."""
    size = {"train": config.data.pack_size, "val": input_size}[split]
    return ROOT / "data" / config.profile / "packs" / f"{split}-{size}"


def prepare_packs(configs: list, progress: Callable[[str], None] = print) -> Path:
    """Builds the packs that the runs of one profile need.

    Returns:
        `data/<profile>/packs.json` with the hash, count and size of each pack.

    Raises:
        DataError: see `build`; also when train and val have different categories.
    """
    if len({config.profile for config in configs}) != 1:
        raise ValueError(f"one profile is needed, got {[config.profile for config in configs]}")
    config, summary, categories = configs[0], {}, []
    wanted = {pack_paths(config, "train", 0): ("train", config.data.pack_size)}
    for size in sorted({c.model.input_size for c in configs}):
        wanted[pack_paths(config, "val", size)] = ("val", size)
    for path, (split, size) in wanted.items():
        annotations, images = split_paths(config, split)
        data = config.data
        pack = build(annotations, images, path, size, data.skip_broken, progress, data.classes)
        categories = categories or pack.categories
        if pack.categories != categories:
            raise DataError(f"{annotations}: its categories differ from those of the train split")
        summary[path.name] = {
            "sha256": pack.hash,
            "pixels": pack.pixels,
            "size": size,
            "images": len(pack.counts),
            "boxes": int(pack.counts.sum()),
            "crowds": int(pack.gt_crowd.sum()),
            "classes": len(categories),
            "drops": _read_meta(path)["drops"],
        }
    target = ROOT / "data" / config.profile / "packs.json"
    write_json(target, summary, indent=2)
    return target


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Pack a profile's images for training.")
    parser.add_argument("--profile", required=True, help="a profile of params.yaml, such as demo")
    profile = parser.parse_args(arguments).profile
    path = prepare_packs([load_config(run, profile) for run in all_runs(read_params())])
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    run_cli(main)
