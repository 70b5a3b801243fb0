"""Images: decoded to RGB, fitted into a square canvas, and boxes on it brought back.

N boxes, H, W rows and columns of pixels. Boxes are xyxy in pixels.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from lightdet_core.config import DataError


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


def letterbox(image: np.ndarray, size: int, quick: bool = False) -> np.ndarray:
    """(H,W,3) uint8 -> (size,size,3) uint8: bilinear, antialiased when reducing, black borders.

    Args:
        quick: with torch in place of Pillow, in a third of its time; of COCO's pixels one in two
            thousand then differs, of pictures more than twice as high as wide up to a quarter
            (Pillow 13.0 resizes these in another order), by one level.
    """
    height, width = image.shape[:2]
    scale_x, scale_y, left, top = letterbox_transform(width, height, size)
    new_width, new_height, left, top = (
        round(float(v)) for v in (width * scale_x, height * scale_y, left, top)
    )
    if (new_width, new_height) != (width, height):
        resize = _resize_torch if quick else _resize_pillow
        image = resize(image, new_width, new_height)
    canvas = np.full((size, size, 3), 0, np.uint8)  # `zeros` would ask for new pages of memory
    canvas[top : top + new_height, left : left + new_width] = image
    return canvas


def _resize_pillow(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _resize_torch(image: np.ndarray, width: int, height: int) -> np.ndarray:
    import torch  # here: packing goes without it

    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        pixels, (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).numpy()


TURN = Image.Transpose
UPRIGHT = {  # by EXIF's orientation
    2: TURN.FLIP_LEFT_RIGHT, 3: TURN.ROTATE_180, 4: TURN.FLIP_TOP_BOTTOM, 5: TURN.TRANSPOSE,
    6: TURN.ROTATE_270, 7: TURN.TRANSVERSE, 8: TURN.ROTATE_90,
}  # fmt: skip
BACK = {**UPRIGHT, 6: TURN.ROTATE_90, 8: TURN.ROTATE_270}
PLAIN = {  # what Pillow's own guards say, in words
    "exceeds limit of": "larger than 178 million pixels",
    "MAX_TEXT_": "holds more text than Pillow reads",
}


def read_image(path: Path, width: int | None = None, height: int | None = None) -> np.ndarray:
    """Decodes an image to (H,W,3) uint8 RGB.

    Grey, palette and CMYK become RGB, alpha is dropped, 16-bit grey is scaled to 8 bits. An EXIF
    orientation is applied, as OpenCV and browsers do, unless it would swap the axes and only
    the stored orientation fits the stated size: then the boxes belong to the stored pixels.
    Other metadata do not matter, whatever is wrong with them.

    Args:
        width, height: the size that the annotations state; None accepts any.

    Raises:
        DataError: unreadable, truncated, of another size or of a mode without a fixed range.
    """
    try:
        # a file, not a path, which Pillow 13.0 maps into memory: it then mixes up the rows of grey
        # TIFFs that their orientation turns
        with open(path, "rb") as file, Image.open(file) as image:
            pixels = rgb(upright(image, (width, height)))
    except FileNotFoundError:
        raise DataError(f"{path}: image not found") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, …
        reason = next((words for part, words in PLAIN.items() if part in str(error)), error)
        raise DataError(f"{path}: unreadable image: {reason}") from None
    found = pixels.shape[1::-1]
    if width is not None and found != (width, height):
        stated = f"the annotations say {width} x {height}"
        raise DataError(f"{path}: {found[0]} x {found[1]} pixels, but {stated}")
    return pixels


def rgb(image: Image.Image) -> np.ndarray:
    """(H,W,3) uint8 RGB of an image in Pillow, whatever its mode; 16-bit grey is scaled.

    Raises:
        DataError: a mode without a fixed range.
    """
    if image.mode in ("I", "F"):
        raise DataError(f"{image.mode} pixels (32 bits) have no fixed range; save 8 or 16 bits")
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def exif_turn(image: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none."""
    try:
        turn = image.getexif().get(0x0112)
    except Exception:  # parsers of metadata raise as many kinds as decoders
        return 1
    return turn if turn in UPRIGHT else 1


def upright(image: Image.Image, stated: tuple = ()) -> Image.Image:
    """The image as EXIF turns it, unless only its stored orientation has the stated (W, H)."""
    turn = exif_turn(image)
    image.load()
    turned = image.format == "TIFF"  # by Pillow
    swaps = turn >= 5
    stored = image.size[::-1] if turned and swaps else image.size
    as_stored = swaps and stated == stored and stored[0] != stored[1]
    if turn in UPRIGHT and as_stored == turned:
        return image.transpose((BACK if turned else UPRIGHT)[turn])
    return image
