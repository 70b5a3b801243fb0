"""From an image to named boxes in Python, by a trained run."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lightdet_core.config import UserError
from lightdet_core.machinery.images import boxes_on_image, letterbox, read_image
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
    iou_threshold: float  # of NMS
    max_detections: int

    def predict(
        self, image: str | Path | Image.Image | np.ndarray | Tensor, score_threshold: float = 0.3
    ) -> Prediction:
        """Detects on one image.

        Args:
            image: a path, a PIL image, an array (H, W, 3) uint8 RGB, or a tensor (3, H, W) RGB,
                0..255.
            score_threshold: scores at or below are dropped.

        Raises:
            UserError: no such image, or of another type or shape.
        """
        pixels = to_pixels(image)
        height, width = pixels.shape[:2]
        canvas = torch.from_numpy(letterbox(pixels, self.size, quick=True))[None]
        device = next(self.network.parameters()).device
        limits = score_threshold, self.iou_threshold, self.max_detections
        (found,) = self.network.detect(canvas.permute(0, 3, 1, 2).float().to(device), *limits)
        boxes, scores, labels = (values.cpu() for values in found)
        xyxy = boxes_on_image(boxes.double().numpy(), width, height, self.size)
        names = [self.categories[label]["name"] for label in labels.tolist()]
        return Prediction(torch.from_numpy(xyxy).float(), scores, labels, names)


def to_pixels(image: str | Path | Image.Image | np.ndarray | Tensor) -> np.ndarray:
    """(H, W, 3) uint8 RGB of anything that `Predictor.predict` takes."""
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise UserError(f"image: a tensor {tuple(image.shape)}, (3, H, W) is needed")
        if image.is_floating_point() and 0 < image.max() <= 1:
            raise UserError(f"image: a tensor up to {float(image.max()):g}; multiply it by 255")
        return image.detach().cpu().clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
        raise UserError(f"image: {found}; a path, PIL image, tensor or (H, W, 3) uint8 is needed")
    return image


def load(weights: Path | str, device: torch.device | str = "cpu") -> Predictor:
    """A trained run's network, from its weights.safetensors.

    Raises:
        UserError: missing, damaged, or not written by training.
    """
    network, config, categories = load_weights(weights)
    limits = config["evaluate"]["iou_threshold"], config["evaluate"]["max_detections"]
    return Predictor(network.to(device), categories, config["model"]["input_size"], *limits)
