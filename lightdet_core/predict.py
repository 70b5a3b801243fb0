"""From an image to named boxes in Python, by a trained run."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightdet_core.boxes import on_image
from lightdet_core.config import DataError, UserError
from lightdet_core.machinery.images import letterbox, read_image, rgb, upright
from lightdet_core.model import LightDet, load_weights


class Prediction(NamedTuple):
    """What was found on one image, by falling score."""

    boxes: Tensor  # (N, 4) xyxy in pixels of the image, within it
    scores: Tensor  # (N,) 0..1
    labels: Tensor  # (N,) 0..C-1
    names: list[str]  # of the labels


class Predictor(NamedTuple):
    """A trained network that is ready to use; `network` is the torch module."""

    network: LightDet
    categories: list[dict]  # {"id", "name"} by label
    size: int  # side of the network's canvas, pixels

    def predict(
        self, image: str | Path | Image.Image | np.ndarray | Tensor, score_threshold: float = 0.3
    ) -> Prediction:
        """Detects on one image.

        Args:
            image: a path, a PIL image, an array (H, W, 3) uint8 RGB, or a tensor (3, H, W) RGB,
                0..255.
            score_threshold: scores at or below are dropped; 0..1.

        Raises:
            UserError: no such image, of another type, shape or range, or without pixels; or a
                threshold outside of 0..1.
        """
        check_share("score_threshold", score_threshold)
        pixels = to_pixels(image)
        height, width = pixels.shape[:2]
        canvas = torch.from_numpy(letterbox(pixels, self.size, quick=True))[None]
        device = next(self.network.parameters()).device
        canvas = canvas.permute(0, 3, 1, 2).float().to(device)
        (found,) = self.network.detect(canvas, score_threshold)
        found = on_image(found, width, height, self.size)
        names = [self.categories[label]["name"] for label in found.labels.tolist()]
        return Prediction(found.boxes.float(), found.scores, found.labels, names)


def check_share(name: str, value: float) -> None:
    """Raises a UserError unless the value is a number in 0..1."""
    try:
        share = 0 <= value <= 1
    except (TypeError, ValueError, RuntimeError):  # text, arrays, tensors
        share = False
    if not share:
        raise UserError(f"{name} {value!r}: a number from 0 to 1 is needed")


def to_pixels(image: str | Path | Image.Image | np.ndarray | Tensor) -> np.ndarray:
    """(H, W, 3) uint8 RGB of anything that `Predictor.predict` takes."""
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    shape = image.size if isinstance(image, Image.Image) else getattr(image, "shape", ())
    if 0 in shape:
        raise UserError(f"image: {type(image).__name__} {tuple(shape)} has no pixels")
    if isinstance(image, Image.Image):
        return _pillow_pixels(image)
    if isinstance(image, Tensor):
        return _tensor_pixels(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
        raise UserError(f"image: {found}; a path, PIL image, tensor or (H, W, 3) uint8 is needed")
    return image


def _pillow_pixels(image: Image.Image) -> np.ndarray:
    try:
        return rgb(upright(image))
    except DataError as error:
        raise UserError(f"image: {error}") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, …
        raise UserError(f"image: unreadable PIL image: {error}") from None


def _tensor_pixels(image: Tensor) -> np.ndarray:
    """Refuses what is not surely RGB 0..255: the network would see black, or noise."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise UserError(f"image: a tensor {tuple(image.shape)}, (3, H, W) is needed")
    image = image.detach().cpu()
    low, high = (float(value) for value in image.double().aminmax())
    fits = 0 <= low <= high <= 255 and not 0 < high < 2
    if image.dtype == torch.uint8:
        fits = True
    elif image.is_floating_point():  # resizing overshoots; 0..1 and normalised ones stay below 3
        fits = (-64 <= low <= high <= 320 and (high > 64 or (low >= 0 and high >= 3))) or high == 0
    if image.dtype in (torch.bool, torch.uint16) or image.is_complex() or not fits:
        kind = str(image.dtype).removeprefix("torch.")
        remedy = "; multiply it by 255" if 0 <= low <= high <= 1 else ""
        raise UserError(
            f"image: a {kind} tensor from {low:g} to {high:g}; RGB 0..255 is needed{remedy}"
        )
    return image.clamp(0, 255).round().byte().permute(1, 2, 0).numpy()


def load(weights: Path | str, device: torch.device | str = "cpu") -> Predictor:
    """A trained run's network, from its weights.safetensors.

    Raises:
        UserError: missing, damaged, or not written by training.
    """
    network, config, categories = load_weights(weights)
    return Predictor(network.to(device), categories, config["model"]["input_size"])
