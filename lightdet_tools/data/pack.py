"""COCO format -> a pack (packs.py): every image is decoded and letterboxed once."""

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from lightdet_core.config import Config, DataError, UserError, root
from lightdet_core.machinery.files import file_hash, split_paths, write_json
from lightdet_core.machinery.images import exif_turn, letterbox, letterbox_transform, read_image
from lightdet_core.machinery.packs import (
    ARRAYS,
    FORMAT,
    Pack,
    is_place,
    objects,
    open_pack,
    pack_path,
    place_of,
    read_meta,
    read_truth,
)
from lightdet_tools.data.annotations import (
    SKIP,
    Annotations,
    complain,
    first_few,
    read_annotations,
)
from lightdet_tools.data.checks import file_state, other_spelling, text_hash

SHOWN = 10  # classes without an object that are named
WORKERS = min(8, os.cpu_count() or 1)  # threads: decoding and resizing release the GIL


def build(
    annotations: Path,
    images: Path,
    out: Path,
    size: int,
    skip_broken: bool = False,
    progress: Callable[[str], None] = print,
    classes: tuple[str, ...] = (),
    categories: list[dict] | None = None,
) -> Pack:
    """Packs a split into the folder `out`; an intact pack with the same settings is reused.

    The pack is made in a temporary sibling and renamed when complete: after any failure the
    temporary is gone and an older pack is untouched.

    Args:
        size: side of the square canvas in pixels.
        skip_broken, classes: see `read_annotations`.
        categories: that it must have, as another split; None does not ask.

    Raises:
        DataError: everything wrong with the annotations, or all missing and broken images.
        OSError: not enough space.
    """
    settings = {"format": FORMAT, "sha256": file_hash(annotations), "size": size}
    settings["classes"] = sorted(classes)
    # another Pillow may resize otherwise: 13.0 takes tall pictures in another order than 12
    settings |= {"folder": place_of(images), "pillow": PIL.__version__}
    if not images.is_dir():
        remedy = "data.images in params.yaml names your own; for the others run lightdet data, "
        remedy += "or set LIGHTDET_BCCD, LIGHTDET_COCO or LIGHTDET_MINICOCO to a copy"
        raise DataError(f"{images}: image folder not found; {remedy}")
    out.parent.mkdir(parents=True, exist_ok=True)
    parent = os.open(out.parent, os.O_RDONLY)
    fcntl.flock(parent, fcntl.LOCK_EX)  # another process packing here finishes first
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        try:
            meta = read_meta(out)
            pack = open_pack(out)
            same = {**meta, "folder": settings["folder"]}.items() >= settings.items()
            same = same and is_place(meta["folder"], images)
            if same and meta["files"] == _files(images, read_truth(pack)):
                left_out = ", ".join(f"{rule}: {n}" for rule, n in meta["drops"].items() if n)
                note = f", with --skip-broken; if what it left out is mended, delete {out}"
                note = f"{note} ({left_out})" if meta["skip_broken"] else ""
                _check_same(annotations, pack.categories, categories)
                progress(f"{out.name}: {len(pack.counts)} images, packed already{note}")
                return pack
        except (DataError, FileNotFoundError):
            pass  # nothing usable there: build it
        truth = read_annotations(annotations, skip_broken, classes)
        _check_objects(annotations, truth)
        _check_same(annotations, truth.categories, categories)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write(truth, images, temporary, settings, skip_broken, progress)
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
    truth: Annotations,
    folder: Path,
    out: Path,
    settings: dict,
    skip_broken: bool,
    progress: Callable[[str], None],
) -> None:
    """Writes all files of a pack into the empty folder `out`."""
    size, count, most = settings["size"], len(truth.image_ids), int(truth.counts.max())
    need = count * (size * size * 3 + most * (16 + 8 + 1) + 32) + 100_000
    free = shutil.disk_usage(out).free
    if need > free:
        message = f"needs {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
        raise OSError(errno.ENOSPC, message, str(out.parent))
    progress(
        f"packing {count} images at {size} px: {need / 1e9:.2f} GB of {free / 1e9:.1f} GB free"
    )
    if not skip_broken:  # found now, not after an hour of decoding
        names = truth.file_names.tolist()
        lost = [i for i, line in enumerate(file_state(folder, names)) if line.endswith(" -")]
        where = [f"image {truth.image_ids[i]}: {folder / names[i]}" for i in lost]
        remedy = other_spelling(folder, names, [names[i] for i in lost]) if lost else ""
        complain(folder, [("missing image", one) for one in where], remedy or SKIP)
    turned = _turned(truth, folder)
    if not skip_broken:
        remedy = (
            "if boxes belong to the stored pixels drop the tag (`exiftool -Orientation= FILE`), "
        )
        kind = "orientation that the size cannot decide, though boxes of others are as stored"
        undecided = [(kind, f"image {truth.image_ids[i]}: {line}") for i, line in turned.items()]
        complain(folder, undecided, f"{remedy}if to the turned ones turn the pixels, too")
    good, broken, pixels = _write_images(truth, folder, out / "images.npy", size, turned, progress)
    if broken and not (skip_broken and good.any()):
        complain(folder, broken)
    drops = truth.drops | Counter(kind for kind, _ in broken)
    examples = truth.examples | first_few(broken)
    for rule, number in drops.items():
        few = examples.get(rule, [])
        progress(f"  {rule}: {number}")
        for one in few:
            progress(f"    {one}")
        if few and number > len(few):
            progress(f"    … and {number - len(few)} more")

    _check_objects(folder, truth, good)
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
    packed = _packed(truth.truth, truth.image_ids[good])
    meta = {
        **settings,
        "skip_broken": skip_broken,
        "files": _files(folder, packed),
        "pixels": pixels,
        "images": int(good.sum()),
        "drops": drops,
        "categories": truth.categories,
    }
    write_json(out / "truth.json", packed)
    write_json(out / "pack.json", meta, indent=1)


def _absent(pack: Pack, split: str) -> list[str]:
    """The names of the classes without an object, crowds apart; those under 1 px are evaluated."""
    if split == "train":
        found = {pack.categories[i]["id"] for i in set(pack.gt_labels[objects(pack)].tolist())}
    else:
        found = {a["category_id"] for a in read_truth(pack)["annotations"] if not a["iscrowd"]}
    return [c["name"] for c in pack.categories if c["id"] not in found]


def _files(folder: Path, truth: dict) -> str:
    """The state of the packed pictures: names, sizes, times."""
    return text_hash(file_state(folder, [image["file_name"] for image in truth["images"]]))


def _turned(truth: Annotations, folder: Path) -> dict[int, str]:
    """Pictures with an orientation that their size cannot decide, where others are as stored.

    Stated sizes say whether boxes belong to a stored picture or to the turned one, but not where
    turning keeps the size. Beside pictures whose boxes are the stored ones', nobody knows.

    Returns:
        What is wrong, by row.
    """

    def look(i: int) -> str:
        path = folder / truth.file_names[i]
        try:
            with open(path, "rb") as file, Image.open(file) as image:
                if image.format == "PNG" and "exif" not in image.info:
                    return ""  # behind its pixels, which would be decoded, nobody writes it
                turn, size = exif_turn(image), image.size
        except Exception:  # decoders raise many kinds; said when it is decoded
            return ""
        if turn == 1:
            return ""
        if turn < 5 or size[0] == size[1]:
            return f"{path}: EXIF orientation {turn}, kept or not?"
        stored = size[::-1] if image.format == "TIFF" else size  # Pillow gives the turned one's
        return "as stored" if stored == tuple(truth.sizes[i]) else ""

    with ThreadPoolExecutor(WORKERS) as pool:
        found = dict(enumerate(pool.map(look, range(len(truth.image_ids)))))
    if "as stored" not in found.values():
        return {}
    return {i: line for i, line in found.items() if line not in ("", "as stored")}


def _check_same(annotations: Path, found: list[dict], wanted: list[dict] | None) -> None:
    """Raises a UserError where categories are not those of another split."""
    pairs = [[(c["id"], c["name"]) for c in some] for some in (found, wanted or found)]
    for label, (ours, theirs) in enumerate(zip_longest(*pairs)):
        if ours != theirs:
            remedy = "list the same in both"
            if (
                ours and theirs and ours[1] == theirs[1]
            ):  # of several, what annotations have is kept
                remedy += ", and each name once"
            raise UserError(
                f"{annotations}: its categories differ from the other split's: label {label} "
                f"(id, name) is {ours} here, {theirs} there; {remedy}"
            )


def _check_objects(where: Path, truth: Annotations, good: np.ndarray | None = None) -> None:
    """Raises a DataError if in these images (N,), None for all, nothing is left but crowds."""
    images = np.repeat(np.arange(len(truth.counts)), truth.counts)
    if (~truth.crowd & (True if good is None else good[images])).any():
        return
    why = [f"{rule} {number}" for rule, number in truth.drops.items() if number]
    why += [f"crowds {truth.crowd.sum()}"] if truth.crowd.any() else []
    raise DataError(
        f"{where}: no object is left to learn or to evaluate"
        f"{': ' if why else ''}{', '.join(why)}; both splits need some"
    )


def _packed(truth: dict, image_ids: np.ndarray) -> dict:
    """The annotations of these images: what was dropped as broken is no object to be missed."""
    packed = set(image_ids.tolist())
    return {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in packed],
        "annotations": [one for one in truth["annotations"] if one["image_id"] in packed],
    }


def _write_images(
    truth: Annotations,
    folder: Path,
    path: Path,
    size: int,
    wrong: dict[int, str],
    progress: Callable[[str], None],
) -> tuple[np.ndarray, list[tuple[str, str]], str]:
    """Streams the letterboxed images into `path`: which are in it (N,), the broken ones, a hash.

    Written as a stream and not through a memory map: a full disk is then an OSError and not a
    bus error.
    """

    def work(i: int) -> np.ndarray | DataError:
        if i in wrong:
            return DataError(wrong[i])
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


def prepare_packs(
    configs: list[Config], progress: Callable[[str], None] = print, skip_broken: bool = False
) -> Path:
    """Builds the packs that the runs of one profile need.

    Args:
        skip_broken: leave out what is broken, with a count. Packs that were made so stay in use.

    Returns:
        `data/<profile>/packs.json` with the hash, count and size of each pack.

    Raises:
        DataError: see `build`; also when train and val have different categories.
    """
    if len({config.profile for config in configs}) != 1:
        raise ValueError(f"one profile is needed, got {[config.profile for config in configs]}")
    config, packs = configs[0], {}
    wanted = {pack_path(config, "train"): ("train", config.data.pack_size)}
    for one in sorted(configs, key=lambda c: c.model.input_size):
        wanted[pack_path(one, "val")] = ("val", one.model.input_size)
    data, categories, names = config.data, None, {}
    for path, (split, size) in reversed(wanted.items()):  # val is small: its defects come first
        annotations, images = split_paths(config, split)
        more = skip_broken, progress, data.classes, categories
        try:
            pack = packs[path] = build(annotations, images, path, size, *more)
        except DataError as error:  # with the profile in the commands that it names
            named = str(error).replace("--profile NAME", f"--profile {config.profile}")
            raise DataError(named) from None
        categories = pack.categories
        names[split] = {
            (images / image["file_name"]).resolve() for image in read_truth(pack)["images"]
        }
    if both := len(names["train"] & names["val"]):
        progress(f"{both} pictures are in train and in val: AP is then partly that of learnt ones")
    for split, path in {split: path for path, (split, _) in wanted.items()}.items():
        if absent := _absent(packs[path], split):
            names = ", ".join(absent[:SHOWN]) + (", …" if absent[SHOWN:] else "")
            what = "nothing to learn of" if split == "train" else "no AP of"
            progress(f"{split}: {what} {len(absent)} of {len(categories)} classes: {names}")
    summary = {}
    for path, (_, size) in wanted.items():
        pack = packs[path]
        summary[path.name] = {
            "sha256": pack.hash,
            "pixels": pack.pixels,
            "size": size,
            "images": len(pack.counts),
            "boxes": int(pack.counts.sum()),
            "crowds": int(pack.gt_crowd.sum()),
            "classes": len(categories),
            "drops": read_meta(path)["drops"],
        }
    target = root() / "data" / config.profile / "packs.json"
    write_json(target, summary, indent=2)
    return target
