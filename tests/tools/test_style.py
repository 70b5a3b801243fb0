"""Labels lie inside the frame and on each other nowhere, while there is room."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lightdet_tools import style

FRAME = (0, 0, 100, 80)


def overlaps(labels):
    """Pairs of labels that cover each other."""
    shared = style._overlap(labels, labels)
    return int((np.triu(shared, 1) > 1e-9).sum())


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        ((30, 40, 60, 70), (30, 30, 50, 40)),  # above
        ((30, 5, 60, 70), (30, 70, 50, 80)),  # no room above: below
        ((90, 40, 99, 70), (80, 30, 100, 40)),  # moved into the frame
        ((-20, 40, 30, 70), (0, 30, 20, 40)),  # of a box that is cut, the part to be seen
    ],
)
def test_one_label_is_at_its_box(box, wanted):
    assert style.place_labels(np.array([box]), np.array([(20, 10)]), FRAME).tolist() == [[*wanted]]


def test_a_box_as_large_as_the_frame_is_named_inside():
    (label,) = style.place_labels(np.array([FRAME]), np.array([(20, 10)]), FRAME)
    assert label.tolist() == [0, 0, 20, 10]


def test_the_second_label_gives_way_and_stays_at_its_box():
    boxes = np.array([(30, 40, 60, 70), (32, 41, 60, 70)])
    first, second = style.place_labels(boxes, np.array([(20, 10), (20, 10)]), FRAME)
    assert first.tolist() == [30, 30, 50, 40] and overlaps(np.stack([first, second])) == 0
    assert style._gap(second[None], boxes[1])[0] == 0


def test_a_label_covers_no_other_box_where_it_need_not():
    boxes = np.array([(30, 40, 60, 70), (25, 28, 45, 39)])
    label = style.place_labels(boxes, np.array([(20, 10), (20, 10)]), FRAME)[:1]
    assert style._overlap(label, boxes).sum() == 0


def test_many_boxes_at_one_place():
    """Sixteen labels of a fifth by a tenth of the frame: there is room for all, not at the box."""
    boxes = np.tile([(40.0, 30, 60, 50)], (16, 1))
    labels = style.place_labels(boxes, np.tile([(20, 8)], (16, 1)), FRAME)
    assert overlaps(labels) == 0
    assert (labels[:, :2] >= 0).all() and (labels[:, 2:] <= FRAME[2:]).all()
    assert style._gap(labels, boxes[0]).max() < 40


def test_where_there_is_no_room_none_is_lost():
    boxes = np.tile([(0.0, 0, 100, 80)], (4, 1))
    labels = style.place_labels(boxes, np.tile([(90, 60)], (4, 1)), FRAME)
    assert len(labels) == 4 and (labels[:, 2:] - labels[:, :2] == (90, 60)).all()
    assert len(style.place_labels(np.empty((0, 4)), np.empty((0, 2)), FRAME)) == 0


def test_names_of_points_lie_beside_them_and_apart():
    figure, axis = plt.subplots(figsize=(4, 3))
    x, y = [1, 1.02, 1.04, 3], [1, 1.01, 1, 2]
    axis.plot(x, y, "o")
    style.label_points(axis, x, y, ["one point", "another", "$1_$", "far away"])
    figure.canvas.draw()
    extents = [text.get_window_extent() for text in axis.texts]
    assert overlaps(np.array([[e.x0, e.y0, e.x1, e.y1] for e in extents])) == 0
    assert [text.get_text() for text in axis.texts] == ["one point", "another", "$1_$", "far away"]
    points = axis.transData.transform(np.column_stack([x, y]))
    assert not any(e.contains(*point) for e in extents for point in points)
    plt.close(figure)


def test_no_name_of_a_point_covers_an_error_bar():
    figure, axis = plt.subplots(figsize=(4, 3))
    x, y, bars = [1, 1.3, 3], [1.0, 1.1, 2.0], [0.3, np.nan, 0.2]
    axis.errorbar(x, y, yerr=bars, fmt="o")
    style.label_points(axis, x, y, ["one point", "another", "far away"], bars)
    figure.canvas.draw()
    for text in axis.texts:
        extent = text.get_window_extent()
        for at, middle, half in zip(x, y, np.nan_to_num(bars), strict=True):
            (left, low), (_, high) = axis.transData.transform(
                [(at, middle - half), (at, middle + half)]
            )
            assert not (extent.x0 < left < extent.x1 and extent.y0 < high and extent.y1 > low)
    plt.close(figure)


def test_no_label_where_something_is_already():
    box, size = [[50, 50, 60, 60]], [[20, 10]]
    usual = style.place_labels(box, size, FRAME)
    moved = style.place_labels(box, size, FRAME, taken=usual)
    assert len(moved) == 1 and overlaps(np.concatenate([usual, moved])) == 0


def test_points_of_one_x_are_drawn_side_by_side_where_they_would_cover_each_other():
    figure, axis = plt.subplots(figsize=(4, 4))
    x, y = [1.0, 1.0, 1.0, 1.0, 1.02], [1.0, 1.001, 1.002, 2.0, 1.0]
    places = style.side_by_side(axis, x, y)
    assert places[[0, 3, 4]] == pytest.approx([1, 1, 1.02])  # the last one's x is its own
    to_pixels = axis.transData.transform
    step = figure.canvas.get_renderer().points_to_pixels(7)
    moved = to_pixels(np.column_stack([places, y]))[:3, 0] - to_pixels((1.0, 1.0))[0]
    assert moved == pytest.approx([0, step, -step], abs=1e-6)
    plt.close(figure)
