"""LightDet: a light-weight object detector, and what trains it. To be read in this order:

config      params.yaml -> settings
boxes       cells, distances, overlaps, decoding, NMS; Grid, Logits, Batch
slim        narrower blocks, out of wide ones
model       backbone, PAN, GFL head; weights files
activations dead channels, flat slopes
assign      ATSS, valuable region
losses      QFL, DFL, GIoU
distill     localization and class distillation
sparsity    2:4 masks
augment     warp, colour, Mosaic, MixUp, CutMix
evaluate    COCO metrics
train_state what a training step changes: weights, optimizer, average, masks
engine      one training step, the loop
train       from packs to a run folder

machinery/ is what any training needs: files, packs, processes, checkpoints. From Python:

    import lightdet_core

    model = lightdet_core.load("runs/demo/g3-s0/weights.safetensors")
    found = model.predict("photo.jpg")  # boxes, scores, labels, names

Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightdet_core.config import load_config as load_config
    from lightdet_core.model import build as build
    from lightdet_core.predict import load as load

_DOORS = {"load": "predict", "build": "model", "load_config": "config"}
__all__ = ["build", "load", "load_config"]


def __getattr__(name: str) -> object:
    if name in _DOORS:
        return getattr(import_module(f"lightdet_core.{_DOORS[name]}"), name)
    raise AttributeError(f"module 'lightdet_core' has no attribute {name!r}")
