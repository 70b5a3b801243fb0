"""Which image a detector is shown on."""

import pytest
import torch

from lightdet_tools.report.found import clearest


@pytest.mark.parametrize(
    ("objects", "found", "false", "wanted"),
    [
        ([3, 4, 5], [3, 4, 4], [0, 0, 0], 1),  # without an error; of two such the fuller one
        ([3, 5, 4], [2, 3, 4], [0, 0, 2], 0),  # the fewest errors
        ([0, 2, 3], [0, 2, 0], [0, 0, 4], 2),  # an empty image has no errors, and shows nothing
        ([0, 2, 1], [0, 2, 0], [0, 0, 0], 1),  # no image has three objects
    ],
)
def test_clearest(objects, found, false, wanted):
    mask, hit = (torch.arange(5) < torch.tensor(n)[:, None] for n in (objects, found))
    assert clearest(hit, torch.tensor(false), mask) == wanted
