"""benchmark.py: what is timed against ours does the same work."""

import dataclasses

import numpy as np
import pytest
import torch
from test_augment import STILL, painted

from lightdet_core import benchmark
from lightdet_core.config import load_config
from lightdet_core.model import LightDet


def config(augment=STILL, size=64, batch_size=4):
    full = load_config("c0", "demo")
    model = dataclasses.replace(full.model, num_classes=8, input_size=size)
    train = dataclasses.replace(full.train, batch_size=batch_size)
    return dataclasses.replace(full, model=model, train=train, augment=augment)


def test_by_image_sees_the_same_objects():
    """Without zoom, shift, flip and colour both ways give the packed images and their boxes."""
    pack = painted(8, 64, 0)
    pack.sizes = np.full((8, 2), 64)  # no borders, for one of the two ways would fill them
    still = dataclasses.replace(
        STILL, scale=(1.0, 1.0), translate=0.0, brightness=0.0, contrast=(1.0, 1.0),
        saturation=(1.0, 1.0),
    )  # fmt: skip
    ours = benchmark.training_batch(pack, config(still), 3, 1, "cpu")
    usual = benchmark.augment_by_image(pack, config(still), 3, 1)
    torch.testing.assert_close(usual.images, ours.images.contiguous(), atol=0.51, rtol=0)
    for row in range(4):
        mine, others = (b.gt_boxes[row][b.gt_mask[row]] for b in (ours, usual))
        torch.testing.assert_close(mine, others, atol=1e-3, rtol=0)
        assert len(mine) > 0


def test_by_image_stays_on_the_canvas():
    augment = load_config("c0", "demo").augment
    batch = benchmark.augment_by_image(painted(8, 64, 0), config(augment, 96), 0, 5)
    assert batch.images.shape == (4, 3, 96, 96) and batch.images.dtype == torch.float32
    assert batch.gt_boxes.min() >= 0 and batch.gt_boxes.max() <= 96
    assert not batch.gt_boxes[~batch.gt_mask].any()


def test_loss_by_image_is_the_mean_over_images():
    """Of batches of one; both ways agree on such a batch."""
    settings = config()
    batch = benchmark.training_batch(painted(8, 64, 0), settings, 0, 0, "cpu")
    torch.manual_seed(0)
    model = LightDet(settings.model).eval()
    with torch.no_grad():
        logits = model(batch.images)
        single = [
            (tuple(x[i : i + 1] for x in logits), type(batch)(*(x[i : i + 1] for x in batch)))
            for i in range(4)
        ]
        losses = [float(benchmark.loss_at_once(model, *one, settings)) for one in single]
        found = float(benchmark.loss_by_image(model, logits, batch, settings))
    assert len(set(losses)) == 4 and min(losses) > 0
    assert found == pytest.approx(sum(losses) / 4, rel=1e-6)
