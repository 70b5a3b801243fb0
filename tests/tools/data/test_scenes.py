"""The generated scenes: reproducible, tightly annotated, varied."""

from collections import Counter

import numpy as np
import pytest

from lightdet_tools.data import scenes
from lightdet_tools.data.scenes import CLASSES, SceneObject, draw_scene


@pytest.fixture(scope="module")
def series() -> list[list[SceneObject]]:
    """The annotations of 300 scenes of 320 x 240."""
    return [draw_scene(5, index)[1] for index in range(300)]


def test_same_arguments_same_bytes_other_arguments_other_scene():
    image, objects = draw_scene(1, 2)
    again, objects_again = draw_scene(1, 2)
    assert image.dtype == np.uint8 and image.shape == (240, 320, 3)
    assert image.tobytes() == again.tobytes() and objects == objects_again
    assert not np.array_equal(image, draw_scene(1, 3)[0])
    assert not np.array_equal(image, draw_scene(2, 2)[0])


def test_the_global_random_state_is_neither_read_nor_changed():
    np.random.seed(0)
    image, _ = draw_scene(1, 2)
    after = np.random.random()
    np.random.seed(0)
    assert after == np.random.random()
    np.random.seed(1)
    assert np.array_equal(image, draw_scene(1, 2)[0])


def test_boxes_are_inside_the_image_and_of_known_classes(series):
    for item in (item for objects in series for item in objects):
        x1, y1, x2, y2 = item.box
        assert 0 <= x1 < x2 <= 320 and 0 <= y1 < y2 <= 240
        assert max(x2 - x1, y2 - y1) >= scenes.MIN_SIDE
        assert item.name in CLASSES


@pytest.mark.parametrize("index", range(12))
def test_boxes_are_the_hulls_of_visible_pixels(index):
    _, objects, ids = scenes._render(3, index, 320, 240)
    hulls = []
    for owner in np.unique(ids[ids > 0]):
        ys, xs = np.nonzero(ids == owner)
        hulls.append((xs.min() / 2, ys.min() / 2, (xs.max() + 1) / 2, (ys.max() + 1) / 2))
    assert {item.box for item in objects} <= set(hulls)
    assert len({item.box for item in objects}) == len(objects)


def test_hidden_and_tiny_objects_are_not_annotated():
    ids = np.zeros((200, 200), np.uint8)
    ids[10:50, 20:60] = 1  # whole
    ids[100:140, 100:109] = 2  # 360 of 1600 pixels are left
    ids[150:190, 100:110] = 3  # 400 of 1600
    ids[0:15, 180:195] = 4  # 7.5 pixels long in the image
    painted = [("car", 1, 1600), ("car", 2, 1600), ("dog", 3, 1600), ("person", 4, 225),
               ("bicycle", 5, 900)]  # fmt: skip
    assert scenes._annotate(ids, painted) == [
        SceneObject("car", (10.0, 5.0, 30.0, 25.0), False),
        SceneObject("dog", (50.0, 75.0, 55.0, 95.0), False),
    ]


def test_picture_and_id_buffer_get_the_same_shapes():
    for kind in scenes.KINDS.values():
        rng = np.random.default_rng(9)
        stage = scenes.Stage(rng, 320, 240)
        kind.draw(scenes.Pen(stage, 0.0, 9.0, owner=0), rng, True)
        everything = np.asarray(stage.picture).any(-1)  # on black, whoever owns it
        assert everything.any() and not np.asarray(stage.ids).any()
    for draw in (scenes._hydrant, scenes._car, scenes._dog):  # objects without an unowned pole
        rng = np.random.default_rng(9)
        stage = scenes.Stage(rng, 320, 240)
        draw(scenes.Pen(stage, 0.0, 9.0, owner=7), rng, False)
        seen = np.asarray(stage.picture).any(-1)
        assert np.array_equal(np.where(seen, 7, 0), np.asarray(stage.ids))


def test_the_box_of_a_light_or_sign_leaves_out_its_pole():
    for draw in (scenes._traffic_light, scenes._stop_sign):
        rng = np.random.default_rng(4)
        stage = scenes.Stage(rng, 320, 240)
        draw(scenes.Pen(stage, 0.0, 9.0, owner=1), rng, True)
        rows = np.flatnonzero((np.asarray(stage.ids) == 1).any(1))
        assert rows[-1] < stage.point(0, 1.1, 9.0)[1] < stage.point(0, 0, 9.0)[1]
        assert np.asarray(stage.picture)[stage.point(0, 0.5, 9.0)[::-1]].any()  # the pole is there


def test_every_class_occurs_often_enough(series):
    counts = Counter(item.name for objects in series[:60] for item in objects)
    assert set(counts) == set(CLASSES)
    counts = Counter(item.name for objects in series for item in objects)
    assert min(counts.values()) >= 0.03 * counts.total()


def test_sizes_spread_from_tiny_to_most_of_the_image(series):
    boxes = np.array([item.box for objects in series for item in objects])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) / (320 * 240)
    assert sides.min() <= 24 and areas.max() > 0.5
    root = np.sqrt(areas * 320 * 240)  # COCO's limits
    assert 0.02 < (root < 32).mean() < 0.3 and (root > 96).mean() > 0.1


def test_some_scenes_are_empty_and_some_have_a_crowd(series):
    assert 2 <= sum(not objects for objects in series) <= 20
    crowds = [item for objects in series for item in objects if item.crowd]
    assert 3 <= len(crowds) <= 20
    assert {item.name for item in crowds} == {"person"}
    assert np.mean([2 <= len(objects) <= 9 for objects in series]) > 0.75


@pytest.mark.parametrize(("width", "height"), [(240, 320), (96, 96), (97, 250), (416, 100)])
def test_other_sizes_and_portrait(width, height):
    found = 0
    for index in range(8):
        image, objects = draw_scene(0, index, width, height)
        assert image.shape == (height, width, 3)
        found += len(objects)
        assert all(item.box[2] <= width and item.box[3] <= height for item in objects)
    assert found >= 8


def test_too_small_a_scene_is_an_error():
    with pytest.raises(ValueError, match="96 x 96 pixels, got 95 x 240"):
        draw_scene(0, 0, 95, 240)
