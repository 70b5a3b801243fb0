"""What only looks like a defect, or only looks right: boxes of another form, doubles, spellings.

M boxes; sizes are width and height of their images in pixels.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from lightdet_core.config import DataError

OFTEN = 0.25  # share of boxes that stick out, from which on they are taken for another form
FAR = 0.1  # share of a side by which they do
ENOUGH = 10  # boxes, to say so


def check_form(path: Path, boxes: np.ndarray, sizes: np.ndarray) -> None:
    """Raises a DataError if all boxes (M, 4) make more sense as another form than COCO's.

    That is: numbers around 0..1, shares of the sides as YOLO has them; or, where many would stick
    out of their images (sizes (M, 2)) as [x, y, width, height], corners or centres that fit in.
    """
    low, other = boxes[:, :2], boxes[:, 2:]
    if len(boxes) and (boxes >= 0).all() and (boxes < 2).all():  # rounding may go beyond 1
        most, some = max(1, boxes.max()), boxes[0].tolist()
        raise DataError(
            f"{path}: all {len(boxes)} boxes are numbers from 0 to {most:g}, such as {some}; "
            "COCO's are pixels [x, y, width, height]: multiply them by the image's width and height"
        )
    out = (low + other > sizes * (1 + FAR) + 1).any(1)
    if len(boxes) < ENOUGH or out.mean() < OFTEN or (low < 0).any():
        return
    corners = (other > low).all() and (other <= sizes + 1).all()
    centres = (low - other / 2 >= -1).all() and (low + other / 2 <= sizes + 1).all()
    for fits, form in ((corners, "[x1, y1, x2, y2]"), (centres, "[centre x, centre y, w, h]")):
        if fits:
            raise DataError(
                f"{path}: {out.sum()} of {len(boxes)} boxes, such as {boxes[out][0].tolist()}, "
                f"stick out of their images as [x, y, width, height], but all fit in as {form}; "
                "write COCO's form"
            )


def doubles(images: list[dict], annotations: list[dict]) -> dict[str, int]:
    """What occurs more than once and is kept, in words, with its number."""
    boxes = Counter((a["image_id"], a["category_id"], *a["bbox"]) for a in annotations)
    names = Counter(image["file_name"] for image in images)
    many = Counter(a["image_id"] for a in annotations)
    return {
        "boxes that repeat another of their class and image": sum(n - 1 for n in boxes.values()),
        "file names that other images have, too": sum(n - 1 for n in names.values()),
        "images with more than the 100 objects that evaluation counts": sum(
            n > 100 for n in many.values()
        ),
    }


def file_state(folder: Path, names: list[str]) -> list[str]:
    """Of each name its size and time in a folder, or that it is not there."""
    lines = []
    for name in names:
        try:
            state = os.stat(folder / name)
            lines.append(f"{name} {state.st_size} {state.st_mtime_ns}")
        except (OSError, ValueError):  # not there, too long, a zero byte
            lines.append(f"{name} -")
    return lines


def text_hash(lines: list[str]) -> str:
    """sha256 of lines; names may hold bytes that are no UTF-8."""
    return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()


def other_spelling(folder: Path, names: list[str], missing: list[str]) -> str:
    """How missing files are called in the folder, if they only are spelt otherwise there.

    The last part of a name will do where one file has it that no image (of `names`) is.
    """
    there, last = {}, {}
    for place, _, files in os.walk(folder):
        for file in files:
            name = Path(place, file).relative_to(folder).as_posix()
            there[_plain(name)] = name
            last[_plain(file)] = "" if _plain(file) in last else name
    for name in names:
        if last.get(key := _plain(name.split("/")[-1])) == name:
            last[key] = ""
    there = {key: name for key, name in last.items() if name} | there
    found = {}
    for name in missing:
        parts = name.replace("\\", "/").split("/")
        if like := there.get(_plain(name)) or there.get(_plain(parts[-1])):
            found[name] = like
    if not found:
        return ""
    name, like = next(iter(found.items()))
    skip = "; `lightdet pack --profile NAME --skip-broken` leaves out the others"
    rest = skip if missing[len(found) :] else ""
    like = f"{name!a} is {like!a}; correct it"
    return f"{len(found)} of {len(missing)} have another name there: {like}{rest}"


def _plain(name: str) -> str:
    """Without case, kind of umlaut, URL quotes, and Windows' strokes."""
    name = unicodedata.normalize("NFC", unquote(name.replace("\\", "/"))).casefold()
    return name.removesuffix(".jpeg").removesuffix(".jpg")
