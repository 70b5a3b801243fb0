"""Detections on one's own images, with a trained run or an exported file.

    lightdet detect runs/demo/g5-s0/weights.safetensors photos --out found

WEIGHTS is a run's .safetensors (in torch), or an .onnx, ncnn's .param or OpenVINO's .xml of
`export`; IMAGE is an image, a folder (its images and those of folders in it) or a video, which
needs OpenCV. The folder of --out gets them with their boxes drawn, and detections.json in COCO's
form. Where a file that would be written exists, nothing is done without --overwrite; inputs are
never overwritten. What cannot be read is left out and named at the end, with an error. (`python -m
lightdet_tools.deploy.detect` is the same command.)
Tensor legend: H, W rows and columns of pixels.
"""

import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightdet_core.boxes import Detections
from lightdet_core.config import DataError, UserError
from lightdet_core.machinery.files import replacing, write_json
from lightdet_core.machinery.images import read_image
from lightdet_core.machinery.packs import coco_results
from lightdet_core.predict import check_share
from lightdet_tools.deploy.detector import Detector, open_detector
from lightdet_tools.style import COLORS, place_labels

PICTURES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2",
    ".pgm", ".ppm",
)  # fmt: skip
VIDEOS = (".mp4", ".avi", ".mov", ".mkv")
RESULT = "detections.json"
KINDS = 6  # of files that are passed over, by name
TOLD_EVERY = 5.0  # seconds between two lines about a video

# --------------------------------------------------------------------------------------- files


def plan(
    sources: list[Path], out: Path, overwrite: bool, progress: Callable[[str], None] = print
) -> list[tuple[Path, Path]]:
    """Each image or video, and the path of its drawing; nothing is written.

    Drawings have the name of their input, in a folder its path within; the second of the same
    name is called name-2. Images in `out` itself, from an earlier call, are left out of folders.
    `progress` is told what else lies in a folder and is not taken; hidden files are no matter.

    Raises:
        UserError: nothing there, no images in a folder, a video without OpenCV, or a file that
            would be overwritten: never an input, others only if `overwrite`.
    """
    named = [pair for source in sources for pair in _images(source, out, progress)]
    for video in (file for file, _ in named if _is_video(file)):
        _opencv(video)
    jobs, taken = [], set()
    for file, name in named:
        jpeg = file.suffix.lower() in (".jpg", ".jpeg", ".jfif")
        suffix = ".mp4" if _is_video(file) else ".jpg" if jpeg else ".png"
        target, number = name.with_suffix(suffix), 1
        while str(target).lower() in taken:  # some file systems do not tell A from a
            number += 1
            target = name.with_name(f"{name.stem}-{number}{suffix}")
        taken.add(str(target).lower())
        jobs.append((file, out / target))
    existing = [path for path in (out / RESULT, *(t for _, t in jobs)) if path.exists()]
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more)" if existing[1:] else ""
        raise UserError(f"{existing[0]}: exists{more}; choose another --out or add --overwrite")
    inputs = {file.stat()[1:3] for file, _ in jobs}  # inode and device, whatever the name
    for path in existing:
        if path.stat()[1:3] in inputs:
            raise UserError(f"{path}: is an input and would be lost; choose another --out")
    return jobs


def _images(source: Path, out: Path, progress: Callable[[str], None]) -> list[tuple[Path, Path]]:
    """What an IMAGE of the command line stands for: (file, name) pairs."""
    if source.is_file():
        return [(source, Path(source.name))]
    if not source.is_dir():
        raise UserError(f"{source}: not found; an image, a folder of images or a video is needed")
    out = out.resolve()
    own = out if source.resolve() in out.parents else None
    found = [
        file
        for file in source.rglob("*")
        if not any(part.startswith(".") for part in file.relative_to(source).parts)
        and (file.is_symlink() or not file.is_dir())
        and own not in Path(os.path.realpath(file)).parents  # `resolve` raises in a loop of links
    ]
    files = sorted(f for f in found if f.suffix.lower() in PICTURES and f.is_file())
    passed = _passed_over(set(found) - set(files))
    if not files:
        more = passed and f"; {passed}"
        raise UserError(f"{source}: no images in it; known are {', '.join(PICTURES)}{more}")
    if passed:
        progress(f"{source}: {passed}")
    return [(file, file.relative_to(source)) for file in files]


def _passed_over(files: set[Path]) -> str:
    """Such as "3 files passed over: .heic 2, .mp4 1", the commonest first, or nothing."""
    kinds = Counter(map(_kind, files))
    common = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    rest = sum(count for _, count in common[KINDS:])
    common = [*common[:KINDS], *([("others", rest)] if rest else [])]
    counts = ", ".join(f"{kind} {count}" for kind, count in common)
    noun = "file" if len(files) == 1 else "files"
    return f"{len(files)} {noun} passed over: {counts}" if files else ""


def _kind(file: Path) -> str:
    if file.is_file():
        return file.suffix.lower() or "without extension"
    return "linked folders" if file.is_dir() else "links to nothing"


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def _opencv(path: Path) -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"{path}: videos need OpenCV: pip install opencv-python-headless ({error})"
        ) from None
    return cv2


# ------------------------------------------------------------------------------------- drawing


def draw(image: np.ndarray, found: Detections, names: list[str]) -> Image.Image:
    """The image (H, W, 3) uint8 with its boxes, named and scored, a colour by class.

    Args:
        names: of the classes by label.
    """
    picture = Image.fromarray(image)
    pen, side = ImageDraw.Draw(picture), max(picture.size)
    line, font = max(2, side // 300), ImageFont.load_default(max(11, side // 45))
    texts = [f"{names[c]} {s:.2f}" for c, s in zip(found.labels, found.scores, strict=True)]
    colors = [COLORS[(c + 1) % len(COLORS)] for c in found.labels.tolist()]  # as in `draw.FOUND`
    corners = found.boxes.round().int().tolist()
    for (x0, y0, x1, y1), color in reversed(list(zip(corners, colors, strict=True))):
        x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)  # the last pixel, no longer an edge
        pen.rectangle((x0, y0, x1, y1), outline="white", width=line + 1)  # a rim, as in `draw`
        pen.rectangle((x0, y0, x1, y1), outline=color, width=line)
    sizes = [[math.ceil(x) + 2 for x in pen.textbbox((0, 0), text, font)[2:]] for text in texts]
    places = place_labels(np.array(corners), np.array(sizes), (0, 0, *picture.size))
    for text, color, place in reversed(list(zip(texts, colors, places, strict=True))):
        left, top, right, bottom = place.round().tolist()
        pen.rectangle((left, top, right - 1, bottom - 1), fill=color)
        pen.text((left + 1, top + 1), text, "white", font)
    return picture


def ahead(items: Iterator[Any]) -> Generator[Any]:
    """The items, each made by another thread while the one before is in use."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(next, items, end)
        while (item := pending.result()) is not end:
            pending = thread.submit(next, items, end)
            yield item


def _pictures(jobs: list[tuple[Path, Path]]) -> Iterator[tuple[Path, Path, Any]]:
    """Each job with its pixels, or what is wrong with them; None where it is a video."""
    for file, target in jobs:
        try:
            yield file, target, None if _is_video(file) else read_image(file)
        except DataError as error:
            yield file, target, error


def detect_files(
    detector: Detector,
    jobs: list[tuple[Path, Path]],
    score_threshold: float,
    progress: Callable[[str], None] = print,
) -> tuple[dict, list[float], list[str]]:
    """Draws each job of `plan`.

    Returns:
        A COCO dict (file_name is the input; a video has one image per frame, with frame_id from
        0), the seconds from each decoded image to its boxes, and what is wrong with each input
        that cannot be read.

    Raises:
        UserError: a drawing cannot be written.
    """
    coco = {"images": [], "annotations": [], "categories": detector.categories}
    names, times = [category["name"] for category in detector.categories], []
    damaged = []

    def look(image: np.ndarray, **about: object) -> Image.Image:
        start = time.perf_counter()
        found = detector.detect(image, score_threshold)
        times.append(time.perf_counter() - start)
        height, width = image.shape[:2]
        entry = {"id": len(coco["images"]) + 1, **about, "width": width, "height": height}
        coco["images"].append(entry)
        scored = found.scores.tolist(), found.labels.tolist()
        for one in coco_results(
            found.boxes.double().numpy(), *scored, entry["id"], detector.categories
        ):
            area = round(one["bbox"][2] * one["bbox"][3], 3)
            about = {"id": len(coco["annotations"]) + 1, "area": area, "iscrowd": 0}
            coco["annotations"].append(one | about)
        return draw(image, found, names)

    done = 0
    with closing(ahead(_pictures(jobs))) as pictures:
        try:
            for number, (file, target, pixels) in enumerate(pictures, start=1):
                before = len(coco["annotations"])
                try:
                    _draw_one(file, target, pixels, look, progress)
                except DataError as error:
                    damaged.append(str(error))
                    progress(f"{number}/{len(jobs)} {file}: cannot be read")
                    continue
                done, count = done + 1, len(coco["annotations"]) - before
                progress(f"{number}/{len(jobs)} {file}: {count} boxes -> {target}")
        except KeyboardInterrupt:
            said = f"interrupted: {done} of {len(jobs)} are drawn, {RESULT} is not written"
            raise KeyboardInterrupt(said) from None
    return coco, times, damaged


def _draw_one(
    file: Path,
    target: Path,
    pixels: Any,
    look: Callable[..., Image.Image],
    progress: Callable[[str], None],
) -> None:
    """Draws what `_pictures` gives; raises what is wrong with it."""
    if isinstance(pixels, DataError):
        raise pixels
    if pixels is None:
        return _draw_video(file, target, look, progress)
    picture = look(pixels, file_name=file.as_posix())
    with replacing(target) as aside:
        picture.save(aside, quality=92)  # a JPEG's; PNG has none


def _draw_video(
    file: Path, target: Path, look: Callable[..., Image.Image], progress: Callable[[str], None]
) -> None:
    """Draws every frame, while the next one is decoded; the sound is left out."""
    cv2 = _opencv(file)
    video, writer, count, told = cv2.VideoCapture(str(file)), None, 0, time.monotonic()
    rate, stated = (video.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
    frames = ahead(iter(video.read, (False, None)))
    with replacing(target) as aside:
        try:
            for _, frame in frames:
                image = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                picture = look(image, file_name=file.as_posix(), frame_id=count)
                if writer is None:
                    code = cv2.VideoWriter_fourcc(*"mp4v")
                    writer = cv2.VideoWriter(str(aside), code, rate, picture.size)
                    if not writer.isOpened():
                        raise UserError(
                            f"{target}: OpenCV cannot write {picture.size} pixels at {rate:g} "
                            "frames/s; convert the video with ffmpeg first"
                        )
                writer.write(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))
                count += 1
                if time.monotonic() - told > TOLD_EVERY:
                    told = time.monotonic()
                    progress(f"{file}: {count} of about {stated:.0f} frames")
        finally:
            frames.close()  # its thread may be reading
            video.release()
            if writer is not None:
                writer.release()
        if writer is None:
            raise DataError(f"{file}: no frame can be read; is it a whole video?")


def detect_into(
    out: Path,
    weights: Path,
    images: list[Path],
    score: float,
    threads: int,
    overwrite: bool,
    progress: Callable[[str], None] = print,
) -> None:
    """Drawings of all images, folders and videos and their detections.json in the folder `out`.

    Raises:
        UserError: see `plan`, `open_detector`; or some cannot be read: the others are there.
    """
    check_share("--score", score)
    say = lambda text: progress(_printable(text))  # noqa: E731
    jobs = plan(images, out, overwrite, say)
    detector = open_detector(weights, threads)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be a folder ({error.strerror})") from None
    coco, times, damaged = detect_files(detector, jobs, score, say)
    if times:
        write_json(out / RESULT, coco)
        say(
            f"{len(coco['images'])} images, {len(coco['annotations'])} boxes above {score:g}; "
            f"median {1000 * statistics.median(times):.1f} ms from decoded image to boxes, while "
            "the next is read; "
            f"wrote {out / RESULT}"
        )
    if damaged:
        head = f"{len(damaged)} of {len(jobs)} cannot be read; repair them or leave them out:"
        raise UserError("\n  ".join([head, *damaged]))


def _printable(text: str) -> str:
    """With escapes for what the terminal's encoding lacks, as in names that are not UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


if __name__ == "__main__":
    from lightdet_tools.cli import main

    main(["detect", *sys.argv[1:]])
