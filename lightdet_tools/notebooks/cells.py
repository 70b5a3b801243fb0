"""Cells and objects for pictures and tables, also where a data set has next to none."""

import pandas as pd
import torch
from torch import Tensor


def or_nearest(matched: Tensor, points: Tensor, gt_boxes: Tensor, gt_mask: Tensor) -> Tensor:
    """`matched` as it is; if no cell has an object, each object gets the cell nearest to it.

    A few objects can all be too small for any cell. Their edges can be looked at all the same.

    Args:
        matched: (B, P) long of `atss`: the object of each cell, -1 for background.
        points: (P, 2). gt_boxes: (B, G, 4). gt_mask: (B, G) bool.
    """
    if (matched >= 0).any():
        return matched
    image, slot = gt_mask.nonzero(as_tuple=True)
    centers = (gt_boxes[..., :2] + gt_boxes[..., 2:])[image, slot] / 2
    matched = matched.clone()
    matched[image, torch.cdist(centers, points).argmin(1)] = slot
    return matched


def quarters(sides: pd.Series) -> pd.Categorical:
    """The quarter of each object by its size; of one to three objects some quarters are empty."""
    smaller = sides.rank(method="first").to_numpy(int) - 1  # how many others are
    codes = (-(-4 * smaller // max(len(sides) - 1, 1)) - 1).clip(0)
    names = ["smallest quarter", "second", "third", "largest"]
    return pd.Categorical.from_codes(codes, names, ordered=True)
