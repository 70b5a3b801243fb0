"""Augmentation: closed forms, and painted rectangles that must stay inside their boxes."""

import colorsys
from dataclasses import replace
from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import STILL, make_pack, painted, same

from lightdet_core import augment
from lightdet_core.augment import batch_indices, training_batch
from lightdet_core.config import AugmentConfig, UserError


def settings(augmentation=STILL, size=64, batch_size=4, epochs=50, **changes):
    return SimpleNamespace(
        model=SimpleNamespace(input_size=size),
        train=SimpleNamespace(batch_size=batch_size, epochs=epochs),
        augment=replace(augmentation, **changes),
    )


def noise(count=8, side=64):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def packed_images(pack, rows):
    return torch.from_numpy(pack.images[rows.numpy()]).permute(0, 3, 1, 2).float()


def bright_hull(image, threshold=125):
    rows, columns = torch.where(image.amax(0) > threshold)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def expected_draws(seed, step, batch_size):
    generator = augment._generator(seed, 1, step)
    shape = len(augment.DRAWS), batch_size
    values = torch.rand(shape, dtype=torch.float64, generator=generator)
    return dict(zip(augment.DRAWS, values, strict=True))


# Sampling


def epoch_indices(num_images, seed, epoch):
    return batch_indices(num_images, num_images, seed, epoch)


def test_epoch_is_a_permutation_that_differs_between_epochs_and_seeds():
    orders = [epoch_indices(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == epoch_indices(50, 0, 0).tolist()


def test_batches_show_each_image_once_per_epoch():
    first = torch.cat([batch_indices(12, 4, 3, step) for step in range(3)])
    second = torch.cat([batch_indices(12, 4, 3, step) for step in range(3, 6)])
    assert first.tolist() == epoch_indices(12, 3, 0).tolist()
    assert second.tolist() == epoch_indices(12, 3, 1).tolist()
    # 14 images: the incomplete fourth batch is dropped, step 3 opens the next epoch.
    assert batch_indices(14, 4, 3, 3).tolist() == epoch_indices(14, 3, 1)[:4].tolist()


def test_small_data_sets_fill_a_batch_by_starting_over():
    order = epoch_indices(3, 0, 5).tolist()
    assert batch_indices(3, 8, 0, 5).tolist() == (order * 3)[:8]
    with pytest.raises(ValueError, match="0 images"):
        batch_indices(0, 8, 0, 0)


def test_neighbouring_keys_give_unrelated_numbers():
    generators = [augment._generator(seed, 1, step) for seed, step in product(range(12), range(12))]
    draws = torch.stack([torch.rand(64, generator=generator) for generator in generators])
    correlation = torch.corrcoef(draws).fill_diagonal_(0).abs()
    assert correlation.max() < 0.6  # 10,296 pairs of 64 numbers: the largest is about 0.5
    assert abs(draws.mean() - 0.5) < 0.02


def test_batches_depend_on_seed_and_step_only():
    busy = settings(AugmentConfig(), size=48, mosaic=0.5, mixup=0.3, cutmix=0.3)
    pack = painted(8, 64, 0)
    torch.manual_seed(1)
    one = training_batch(pack, busy, 5, 7, "cpu")
    torch.manual_seed(2)
    again = training_batch(pack, busy, 5, 7, "cpu")
    assert same(one._asdict(), again._asdict())
    for seed, step in ((5, 8), (6, 7)):
        assert not torch.equal(one.images, training_batch(pack, busy, seed, step, "cpu").images)


@pytest.mark.parametrize("changes", [{}, {"mosaic": 0.5, "mixup": 0.4, "cutmix": 0.4}])
def test_parts_of_a_batch_are_the_batch(changes):
    """Also the first image of a part, which is mixed with the last one of the part before."""
    pack, options = painted(12, 64, 0), settings(batch_size=7, **changes)
    for step in range(4):
        whole = training_batch(pack, options, 0, step, "cpu")
        rows = [range(*pair) for pair in pairwise((0, 1, 4, 7))]
        parts = [training_batch(pack, options, 0, step, "cpu", rows=part) for part in rows]
        for one, pieces in zip(whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(torch.cat(pieces), one)


def test_images_that_lie_on_the_device_give_the_same_batch():
    pack, options = painted(6, 64, 0), settings(mosaic=0.5)
    there = SimpleNamespace(**{**vars(pack), "images": torch.from_numpy(np.array(pack.images))})
    one, other = (training_batch(images, options, 0, 1, "cpu") for images in (pack, there))
    assert same(one._asdict(), other._asdict())


def test_settings_do_not_move_other_draws():
    pack, base = painted(8, 64, 0), settings(AugmentConfig(), color_probability=0.0)
    plain = training_batch(pack, base, 1, 0, "cpu")
    coloured = training_batch(pack, settings(AugmentConfig(), color_probability=1), 1, 0, "cpu")
    assert torch.equal(plain.gt_boxes, coloured.gt_boxes)
    assert not torch.equal(plain.images, coloured.images)


# Warp and flip


def test_without_changes_the_packed_image_comes_back_exactly():
    pack = make_pack(noise(), [[[3, 5, 20.5, 30]]] * 8)
    batch = training_batch(pack, settings(), 0, 0, "cpu")
    rows = batch_indices(8, 4, 0, 0)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images, packed_images(pack, rows))
    assert batch.gt_boxes[:, 0].tolist() == [[3, 5, 20.5, 30]] * 4
    assert batch.gt_labels[:, 0].tolist() == rows.tolist()
    assert batch.gt_mask.tolist() == [[True]] * 4 and batch.gt_weights.tolist() == [[1.0]] * 4


def test_flip_mirrors_pixels_and_boxes():
    pack = make_pack(noise(), [[[3, 5, 20, 30]]] * 8)
    batch = training_batch(pack, settings(flip=1.0), 0, 0, "cpu")
    assert torch.equal(batch.images, packed_images(pack, batch_indices(8, 4, 0, 0)).flip(-1))
    assert batch.gt_boxes[:, 0].tolist() == [[44, 5, 61, 30]] * 4


def test_whole_pixel_shift_moves_pixels_and_boxes(monkeypatch):
    shifted = settings(warp_probability=1.0, scale=(1.0, 1.0), translate=0.25, batch_size=2)
    draws = dict.fromkeys(augment.DRAWS, 0.5) | {"shift_x": 0.75, "shift_y": 0.375}
    values = torch.tensor(list(draws.values()), dtype=torch.float64)[:, None].expand(-1, 2)
    monkeypatch.setattr(torch, "rand", lambda *a, **k: values)
    pack = make_pack(noise(), [[[10, 20, 40, 50]]] * 8, sizes=[[640, 480]] * 8)  # 64 x 48 px
    batch = training_batch(pack, shifted, 0, 0, "cpu")  # 0.25 * (64 * 0.5, 48 * -0.25) = (8, -3)
    source = packed_images(pack, batch_indices(8, 2, 0, 0))
    expected = torch.zeros(2, 3, 64, 64)
    expected[:, :, 5:53, 8:] = source[:, :, 8:56, :56]
    assert torch.equal(batch.images, expected)
    assert batch.gt_boxes[:, 0].tolist() == [[18, 17, 48, 47]] * 2


def test_scale_about_the_image_centre_and_fill_outside(monkeypatch):
    monkeypatch.setattr(augment, "FILL", 30.0)
    half = settings(warp_probability=1.0, scale=(0.5, 0.5), translate=0.0)
    pack = make_pack(np.full((8, 64, 64, 3), 200), [[[0, 8, 64, 56]]] * 8, sizes=[[640, 480]] * 8)
    image, boxes = training_batch(pack, half, 0, 0, "cpu")[:2]
    expected = torch.full((64, 64), 30.0)
    expected[20:44, 16:48] = 200.0  # 64 x 48 content at half size; the black borders are not seen
    assert torch.equal(image[0], expected.expand(3, -1, -1))
    assert boxes[0, 0].tolist() == [16, 20, 48, 44]


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_boxes_follow_the_painted_rectangles(mosaic):
    """Each object painted alone: the hull of the bright pixels agrees with its box."""
    pack = painted(6, 160, 3)
    config = settings(AugmentConfig(), size=112, batch_size=6, mosaic=mosaic, color_probability=0.0)
    checked = 0
    for step in range(12):
        batch = training_batch(pack, config, 0, step, "cpu")
        shown = sources(pack, config, step)[:, : 4 if mosaic else 1]
        for label in range(6):  # also the number of the image that the object is painted on
            alone = SimpleNamespace(**vars(pack))
            alone.images = pack.images * (np.arange(6) == label)[:, None, None, None]
            images = training_batch(alone, config, 0, step, "cpu").images
            chosen = batch.gt_mask & (batch.gt_labels == label)
            # An image that a mosaic holds twice shows the object twice: not comparable.
            once = chosen.any(1) & ((shown == label).sum(1) == 1)
            for b in torch.where(once)[0].tolist():
                (box,) = batch.gt_boxes[b][chosen[b]]
                assert (bright_hull(images[b]) - box).abs().max() <= 1.0
                checked += 1
    assert checked > 60


def sources(pack, config, step):
    size = config.train.batch_size
    draws = expected_draws(0, step, size)
    others = [(draws[f"tile_{t}"] * len(pack.counts)).long() for t in (1, 2, 3)]
    return torch.stack([batch_indices(len(pack.counts), size, 0, step), *others], 1)


def test_thin_and_mostly_hidden_objects_are_dropped():
    away = settings(warp_probability=1.0, scale=(2.0, 2.0), translate=0.0)  # shows 16..48
    boxes = [
        [20, 20, 20.9, 40],  # 1.8 px wide after the zoom
        [20, 20, 21, 40],  # 2 px
        [0, 20, 17.7, 40],  # 1.7 / 17.7 = 9.6 % visible
        [0, 20, 17.8, 40],  # 1.8 / 17.8 = 10.1 %
        [0, 0, 10, 10],  # not on the canvas
    ]
    batch = training_batch(make_pack(noise(), [boxes] * 8), away, 0, 0, "cpu")
    kept = torch.tensor([[8, 8, 10, 48], [0, 8, 3.6, 48]])
    assert batch.gt_mask.shape == (4, 2) and batch.gt_mask.all()
    assert torch.allclose(batch.gt_boxes, kept.expand(4, 2, 4), atol=1e-5)


def test_crowd_and_padding_are_no_targets():
    pack = make_pack(
        noise(4), [[[1, 1, 30, 30], [5, 5, 40, 40]], [], [[2, 2, 9, 9]], []],
        crowd=[[True, False], [False, False], [False, False], [False, False]],
    )  # fmt: skip
    pack.counts[2] = 0  # its row of the table is padding now
    batch = training_batch(pack, settings(), 0, 0, "cpu")
    first = batch_indices(4, 4, 0, 0).tolist().index(0)
    assert batch.gt_mask.shape == (4, 1)
    assert batch.gt_mask.sum() == 1 and batch.gt_boxes[first, 0].tolist() == [5, 5, 40, 40]


@pytest.mark.parametrize("changes", [{}, {"mosaic": 1.0}, {"mixup": 1.0}, {"cutmix": 1.0}])
def test_images_without_objects(changes):
    batch = training_batch(make_pack(noise()), settings(AugmentConfig(), **changes), 0, 0, "cpu")
    assert batch.gt_mask.shape == (4, 1) and not batch.gt_mask.any()
    assert batch.images.isfinite().all() and batch.gt_boxes.shape == (4, 1, 4)


# Mosaic


def test_mosaic_shows_four_images_around_one_point_without_bleeding():
    """Constant images at 0.4 of their size: every pixel is one of their four values or the grey."""
    values = np.arange(8) * 10 + 150
    images = np.zeros((8, 64, 64, 3)) + values[:, None, None, None]
    images[:, :8] = images[:, 56:] = 0  # borders of the 640 x 480 images, never to be seen
    pack = make_pack(images, sizes=[[640, 480]] * 8)
    moved = {"warp_probability": 1.0, "scale": (0.4, 0.4), "translate": 0.0}
    config = settings(batch_size=8, mosaic=1.0, **moved)
    for step in range(3):
        batch = training_batch(pack, config, 0, step, "cpu")
        draws, rows = expected_draws(0, step, 8), sources(pack, config, step)
        for b in range(8):
            expected = torch.full((64, 64), 114.0)
            x, y = ((draws[name][b] + 0.5) * 64 for name in ("mosaic_x", "mosaic_y"))
            places = (x - 64, y - 48), (x, y - 48), (x - 64, y), (x, y)  # of the 128 px frame
            for value, (left, top) in zip(values[rows[b].numpy()], places, strict=True):
                edges = torch.stack([left, left + 64, top, top + 48]).clamp(0, 128) * 0.4 + 6.4
                x0, x1, y0, y1 = edges.round().int()
                expected[y0:y1, x0:x1] = value
            assert torch.allclose(batch.images[b, 0], expected, atol=0.01)


def test_mosaic_stops_before_the_last_epochs():
    pack = make_pack(noise(8))
    config = settings(epochs=20, mosaic=1.0, mosaic_off_epochs=15)  # 2 steps per epoch
    for step, expected in ((9, True), (10, False)):
        automatic = training_batch(pack, config, 0, step, "cpu").images
        forced = training_batch(pack, config, 0, step, "cpu", mosaic=expected).images
        other = training_batch(pack, config, 0, step, "cpu", mosaic=not expected).images
        assert torch.equal(automatic, forced) and not torch.equal(automatic, other)


def test_plain_images_of_a_mosaic_batch_are_untouched():
    pack, config = make_pack(noise()), settings(batch_size=8, mosaic=0.5)
    batch = training_batch(pack, config, 0, 0, "cpu")
    plain = expected_draws(0, 0, 8)["mosaic"] >= 0.5
    source = packed_images(pack, batch_indices(8, 8, 0, 0))
    same = (batch.images == source).flatten(1).all(1)
    assert same.tolist() == plain.tolist() and 0 < plain.sum() < 8


# Colour


def test_brightness_and_contrast_are_one_line_and_nothing_is_clipped(monkeypatch):
    monkeypatch.setattr(augment, "SATURATION", (1.0, 1.0))
    always, pack = settings(color_probability=1.0), make_pack(noise())
    batch, draws = training_batch(pack, always, 0, 0, "cpu"), expected_draws(0, 0, 4)
    add = (draws["brightness"] * 0.4 - 0.2) * 255
    times = 0.6 + 0.8 * draws["contrast"]
    source = packed_images(pack, batch_indices(8, 4, 0, 0)).double()
    expected = (source + add[:, None, None, None]) * times[:, None, None, None]
    assert torch.allclose(batch.images.double(), expected, atol=1e-3)
    assert batch.images.min() < 0 or batch.images.max() > 255


def test_saturation_is_the_hsv_factor_of_colorsys(monkeypatch):
    monkeypatch.setattr(augment, "BRIGHTNESS", (0.0, 0.0))
    monkeypatch.setattr(augment, "CONTRAST", (1.0, 1.0))
    always, pack = settings(size=16, color_probability=1.0), make_pack(noise(side=16))
    images = training_batch(pack, always, 0, 0, "cpu").images
    factors = 0.5 + 0.7 * expected_draws(0, 0, 4)["saturation"]
    source = packed_images(pack, batch_indices(8, 4, 0, 0))
    for image, before, factor in zip(images, source, factors.tolist(), strict=True):
        for y, x in ((0, 0), (3, 9), (15, 15), (7, 2)):
            h, s, v = colorsys.rgb_to_hsv(*(before[:, y, x] / 255).tolist())
            value = 255 * v  # a factor above 1 may leave the saturation's range
            expected = value - (value - before[:, y, x]) * factor
            assert torch.allclose(image[:, y, x], expected, atol=1e-2)
            if s * factor <= 1:
                expected = torch.tensor(colorsys.hsv_to_rgb(h, s * factor, v)) * 255
                assert torch.allclose(image[:, y, x], expected, atol=1e-2)


# MixUp and CutMix


def test_mixup_blends_pixels_and_shares_the_weights():
    pack = make_pack(noise(), [[[3, 5, 20, 30]], [[1, 1, 50, 50], [9, 9, 30, 30]]] * 4)
    mixed = training_batch(pack, settings(mixup=1.0), 0, 0, "cpu")
    source = packed_images(pack, rows := batch_indices(8, 4, 0, 0))
    for b in range(4):
        own, other = int(rows[b]), int(rows[b - 1])
        mask, weights = mixed.gt_mask[b], mixed.gt_weights[b]
        labels = [own] * (1 + own % 2) + [other] * (1 + other % 2)
        assert mixed.gt_labels[b][mask].tolist() == labels
        ratio = weights[0]
        assert 0 < ratio < 1 and torch.allclose(weights[1 + own % 2], 1 - ratio)
        expected = ratio * source[b] + (1 - ratio) * source[b - 1]
        assert torch.allclose(mixed.images[b], expected, atol=1e-3)
        assert weights[~mask].eq(0).all()


@pytest.mark.parametrize("alpha", [1.0, 1.5, 32.0])
def test_mixup_ratio_is_beta_distributed(alpha, monkeypatch):
    monkeypatch.setattr(augment, "MIXUP_ALPHA", alpha)
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(len(augment.DRAWS), 40_000, dtype=torch.float64, generator=generator)
    draws = dict(zip(augment.DRAWS, values, strict=True))
    ratio = augment._draw_mix(draws, replace(STILL, mixup=1.0), 64).share
    assert abs(ratio.mean() - 0.5) < 0.01
    assert ratio.var().item() == pytest.approx(1 / (8 * alpha + 4), rel=0.03)
    fourth = 3 * (2 * alpha + 1) / (2 * alpha + 3)  # kurtosis of Beta(alpha, alpha)
    assert (((ratio - 0.5) / ratio.std()) ** 4).mean().item() == pytest.approx(fourth, rel=0.05)


def test_a_batch_of_one_is_not_mixed():
    pack = make_pack(noise(), [[[3, 5, 20, 30]]] * 8)
    batch = training_batch(pack, settings(batch_size=1, mixup=1.0), 0, 0, "cpu")
    assert batch.gt_weights.tolist() == [[1.0]]


def test_cutmix_pastes_the_previous_image():
    pack = make_pack(noise(16))
    batch = training_batch(pack, settings(batch_size=16, cutmix=1.0), 0, 0, "cpu")
    source = packed_images(pack, batch_indices(16, 16, 0, 0))
    draws = expected_draws(0, 0, 16)
    for b in range(16):
        own = (batch.images[b] == source[b]).all(0)
        other = (batch.images[b] == source[b - 1]).all(0)
        assert (own | other).all()
        rows, columns = torch.where(~own)
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert height == width == (draws["cut_area"][b].sqrt() * 64).round()
        inside = other[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert inside.all() and (~own).sum() > 0.95 * height * width


def test_cutmix_keeps_what_is_half_visible():
    """Own objects against the rectangle 20..40, then the pasted ones of the previous image."""
    own = {
        (10, 22, 30, 38): (10, 22, 20, 38),  # loses its right half: cut to what is left
        (18, 22, 30, 38): None,  # 2 of 12 px left
        (22, 30, 38, 60): (22, 40, 38, 60),  # loses its upper third
        (10, 10, 30, 30): (10, 10, 30, 30),  # loses a corner only: unchanged
        (0, 25, 60, 35): (0, 25, 60, 35),  # cut in two: unchanged
        (50, 50, 60, 60): (50, 50, 60, 60),  # not touched
        (25, 25, 35, 35): None,  # covered
    }
    other = {
        (22, 22, 38, 38): (22, 22, 38, 38),  # inside
        (10, 25, 30, 35): (20, 25, 30, 35),  # half of it
        (9, 25, 30, 35): None,  # 10 of 21 px
        (50, 50, 60, 60): None,  # outside
    }
    size = len(own)
    boxes = torch.zeros(2, size, 4, dtype=torch.float64)
    mask = torch.zeros(2, size, dtype=torch.bool)
    for b, given in enumerate((other, own)):  # image 1 gets the rectangle of image 0
        boxes[b, : len(given)] = torch.tensor(list(given), dtype=torch.float64)
        mask[b, : len(given)] = True
    rect = torch.tensor([[7, 7, 7, 7], [20, 20, 40, 40]], dtype=torch.float64)
    mix = augment._Mix(torch.ones(2, dtype=torch.float64), rect, torch.zeros(2, dtype=torch.bool))
    labels = torch.zeros(2, size, dtype=torch.long)
    boxes, _, mask, weights = augment._mix_targets(boxes, labels, mask, mix)
    kept = [tuple(box) for box in boxes[1][mask[1]].tolist()]
    assert kept == [box for box in [*own.values(), *other.values()] if box]
    assert [tuple(box) for box in boxes[0][mask[0]].tolist()] == list(other)
    assert torch.equal(weights, mask.float())


def test_an_image_is_mixed_one_way_at_most():
    draws = {name: torch.rand(4000, dtype=torch.float64) for name in augment.DRAWS}
    mix = augment._draw_mix(draws, replace(STILL, mixup=0.3, cutmix=0.4), 64)
    cut = augment.area(mix.rect) > 0
    assert not (mix.mixup & cut).any()
    assert abs(mix.mixup.double().mean() - 0.3) < 0.04 and abs(cut.double().mean() - 0.4) < 0.04
    assert mix.rect.min() >= 0 and mix.rect[cut].max() <= 64


def test_objects_that_are_too_small_are_counted_or_refused():
    """Sides of 3 px in a pack of 64 px are 1.5 px at an input of 32 px; crowds do not count."""
    boxes = [[[0, 0, 3, 9]], [[0, 0, 30, 30], [4, 4, 8, 30]]]
    pack = make_pack(np.zeros((2, 64, 64, 3)), boxes)
    pack.path = "packs/train-64"
    assert augment.check_sizes(pack, 64) is None
    assert augment.check_sizes(pack, 32).startswith("1 of 3 objects are under 2 px at 32 px input")
    pack.gt_crowd = np.array([[False, False], [True, True]])
    with pytest.raises(UserError, match=r"train-64: 1 of 1 objects .*; raise the profile's input_"):
        augment.check_sizes(pack, 32)
