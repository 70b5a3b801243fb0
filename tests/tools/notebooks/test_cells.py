"""Few objects, small objects: there is something to show all the same."""

import pandas as pd
import pytest
import torch

from lightdet_core.assign import atss
from lightdet_core.boxes import level_grid
from lightdet_tools.notebooks.cells import or_nearest, quarters


def test_the_nearest_cells_stand_in_where_none_is_positive():
    points, strides, level_sizes = level_grid(64, 64)
    boxes = torch.tensor([[[17.0, 9, 19, 11], [0, 0, 0, 0]], [[0, 0, 0, 0], [62, 62, 63, 63]]])
    mask = torch.tensor([[True, False], [False, True]])
    matched, _ = atss(points, strides, level_sizes, boxes, mask, 5.0)
    assert not (matched >= 0).any()  # no centre lies inside
    shown = or_nearest(matched, points, boxes, mask)
    image, cell = (shown >= 0).nonzero(as_tuple=True)
    assert image.tolist() == [0, 1] and shown[image, cell].tolist() == [0, 1]
    assert points[cell].tolist() == [[20, 12], [60, 60]]
    assert not (matched >= 0).any()


def test_positive_cells_stay_as_they_are():
    points, strides, level_sizes = level_grid(64, 64)
    boxes = torch.tensor([[[8.0, 8, 40, 40]], [[30.0, 30, 31, 31]]])
    mask = torch.ones(2, 1, dtype=torch.bool)
    matched, _ = atss(points, strides, level_sizes, boxes, mask, 5.0)
    assert (matched[0] >= 0).any() and or_nearest(matched, points, boxes, mask) is matched


@pytest.mark.parametrize(
    ("sides", "codes"),
    [
        ([], []),
        ([7.0], [0]),
        ([9.0, 3], [3, 0]),
        ([5.0, 5, 5], [0, 1, 3]),
        ([4.0, 1, 3, 2], [3, 0, 2, 1]),
    ],
)
def test_quarters_of_few_objects(sides, codes):
    assert quarters(pd.Series(sides, dtype=float)).codes.tolist() == codes


def test_quarters_of_many_are_pandas_own():
    for count in range(4, 60):
        sides = pd.Series(range(count), dtype=float).sample(frac=1, random_state=count)
        expected = pd.qcut(sides.rank(method="first"), 4, labels=False)
        assert quarters(sides).codes.tolist() == expected.tolist()
