"""Drawing: what is on the axes is what was given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from lightdet_core.boxes import Batch, Detections
from lightdet_core.machinery.packs import Pack
from lightdet_tools.notebooks import draw
from lightdet_tools.style import WIDTH


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def pack():
    """Two images of 4 x 4 px: two objects and a crowd, then nothing."""
    gt_boxes = np.zeros((2, 3, 4), np.float32)
    gt_boxes[0] = [[0, 0, 2, 3], [1, 1, 4, 4], [0, 2, 4, 4]]
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    labels, crowd = np.array([[1, 0, 0], [0, 0, 0]]), np.array([[0, 0, 1], [0, 0, 0]], bool)
    return Pack(images, gt_boxes, labels, crowd, np.array([3, 0]), np.array([5, 6]),
                np.full((2, 2), 4), 4, categories, "", "", None)  # fmt: skip


def rectangles(axis, color):
    """xywh of the outlines of one colour, white rims left out."""
    wanted = [p for p in axis.patches if to_hex(p.get_edgecolor()).upper() == color]
    return [(*p.get_xy(), p.get_width(), p.get_height()) for p in wanted]


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_image_takes_both_layouts_and_cuts_the_range():
    chw = torch.zeros(3, 2, 5)
    chw[0, 1, 4], chw[1, 1, 4] = 300.0, -20.0
    for pixels in (chw, chw.permute(1, 2, 0).numpy()):
        axis = draw.sheet(1, 1)[0]
        draw.image(axis, pixels, "title")
        shown = axis.images[0].get_array()
        assert shown.shape == (2, 5, 3) and shown[1, 4].tolist() == [255, 0, 0]
        assert axis.images[0].get_extent() == [0, 5, 2, 0]  # pixel i covers [i, i + 1)


class Sure(torch.nn.Module):
    """One cell of stride 8 scores; its edges lie two strides to each side."""

    def forward(self, images):
        height, width = images.shape[-2:]
        count = sum(-(-height // s) * -(-width // s) for s in (8, 16, 32))
        scores, edges = torch.full((1, count, 2), -9.0), torch.zeros(1, count, 4, 5)
        scores[0, 5, 1] = 9.0  # row 1, column 1 of 4 x 4 cells: centred at 12, 12
        edges[0, 5, :, 2] = 99.0
        return scores, edges

    def scores_and_boxes(self, cls_logits, box_logits, size):
        return cls_logits.sigmoid(), None

    def detect(self, images, score_threshold):
        asked = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0.8]), torch.tensor([1])
        return [Detections(*asked)]


def test_from_image_to_boxes():
    figure = draw.from_image_to_boxes(Sure(), torch.zeros(3, 32, 32), ["cat", "dog"], 0.3)
    image, heat, edges, boxes = sorted(figure.axes, key=lambda axis: axis.get_title())
    assert image.get_title() == "1  an image, 32 x 32 px" and "21 cells" in heat.get_title()
    shown = heat.images[1].get_array()  # rows 8..15, columns 8..15 and nothing else
    assert shown[8:16, 8:16].min() > 0.99 and np.delete(shown, range(8, 16), 0).max() < 0.01
    assert rectangles(edges, draw.FOUND) == [pytest.approx((-4, -4, 32, 32))]
    assert rectangles(boxes, draw.FOUND) == [(1, 2, 2, 2)] and texts(boxes) == ["dog 0.80"]


def test_plain_batch_holds_the_pack_without_padding_and_crowd(pack):
    batch = draw.plain_batch(pack, [1, 0])
    assert torch.equal(batch.images[1].permute(1, 2, 0), torch.tensor(pack.images[0]).float())
    assert batch.gt_mask.tolist() == [[False] * 3, [True, True, False]]
    assert batch.gt_weights.tolist() == [[0.0] * 3, [1.0, 1.0, 0.0]]
    assert batch.gt_boxes[1, 1].tolist() == [1, 1, 4, 4]


def test_scene_names_objects_and_dashes_crowds(pack):
    axes = draw.sheet(2, 2)
    for row, axis in enumerate(axes):
        draw.scene(axis, pack, row)
    assert rectangles(axes[0], draw.TRUTH) == [(0, 0, 2, 3), (1, 1, 3, 3)]
    assert texts(axes[0]) == ["dog", "cat"]
    assert [p.get_linestyle() for p in axes[0].patches].count("--") == 2  # outline and rim
    assert not axes[1].patches and not axes[1].texts


def test_labels_lie_in_the_image_and_apart_whatever_is_drawn_later():
    axis = draw.sheet(1, 1, width=3)[0]
    draw.image(axis, np.zeros((50, 50, 3)))
    draw.boxes(axis, [[0, 0, 30, 30], [2, 1, 30, 30], [-9, 20, 10, 30]], ["one", "two", "three"])
    draw.boxes(axis, [[0, 0, 30, 30], [45, 45, 50, 50]], ["of another colour", "four"], draw.FOUND)
    for title in ("", "a title,\nwhich leaves less room"):
        axis.set_title(title)
        axis.figure.canvas.draw()
        extents = [text.get_window_extent() for text in axis.texts]
        assert len(extents) == 5 and len([a for a in axis.artists if a.zorder < 3]) == 1
        for number, extent in enumerate(extents):
            assert axis.bbox.x0 <= extent.x0 and extent.x1 <= axis.bbox.x1
            assert axis.bbox.y0 <= extent.y0 and extent.y1 <= axis.bbox.y1
            assert not any(extent.overlaps(other) for other in extents[:number])


def test_compare_shows_truth_above_and_what_passes_the_threshold_below(pack):
    truth = draw.plain_batch(pack, [0, 1])
    found = Detections(torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 4]]), torch.tensor([0.9, 0.4]),
                       torch.tensor([1, 0]))  # fmt: skip
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    draw.compare(truth, [found, nothing], draw.names_of(pack), 0.4)
    axes = plt.gcf().axes
    assert rectangles(axes[0], draw.TRUTH) == [(0, 0, 2, 3), (1, 1, 3, 3)]
    assert rectangles(axes[2], draw.FOUND) == [(0, 0, 2, 2)] and texts(axes[2]) == ["dog 0.90"]
    titles = [axis.get_title() for axis in axes]
    assert titles == ["objects: 2", "objects: 0", "detections: 1", "detections: 0"]


def test_of_many_detections_the_surest_have_names(pack):
    scores = torch.linspace(0.5, 0.95, 10)
    found = Detections(torch.tensor([[0.0, 0, 2, 2]]).repeat(10, 1), scores,
                       torch.zeros(10, dtype=torch.long))  # fmt: skip
    draw.compare(draw.plain_batch(pack, [0]), [found], draw.names_of(pack), 0.4)
    axis = plt.gcf().axes[1]
    assert axis.get_title() == "detections: 10, 8 named"
    assert len(rectangles(axis, draw.FOUND)) == 10
    assert texts(axis) == [f"cat {score:.2f}" for score in scores.flip(0)[:8].tolist()]


def test_batch_tells_shares_of_mixed_images(pack):
    batch = Batch(*draw.plain_batch(pack, [0]))._replace(gt_weights=torch.tensor([[0.25, 1, 0]]))
    axis = draw.sheet(1, 1)[0]
    draw.batch([axis], batch, draw.names_of(pack))
    assert texts(axis) == ["dog 0.25", "cat"]


def test_cells_fill_the_positive_ones_of_each_level():
    axis = draw.sheet(1, 1)[0]
    points = torch.tensor([[4.0, 4], [12, 4], [8, 8]])
    draw.cells(axis, points, torch.tensor([8.0, 8, 16]), torch.tensor([True, False, False]))
    filled = [c for c in axis.collections if len(c.get_facecolors()) and len(c.get_offsets())]
    assert [c.get_offsets().tolist() for c in filled] == [[[4, 4]]]
    assert sum(len(c.get_offsets()) for c in axis.collections) == 3


def test_distributions_mark_truth_and_expectation():
    axes = draw.sheet(4, 4)
    draw.distributions(axes, torch.eye(4).roll(1, 0), torch.tensor([0.5, 1, 2, 3]))
    for axis, expected, true in zip(axes, (3, 0, 1, 2), (0.5, 1, 2, 3), strict=True):
        assert [line.get_xdata()[0] for line in axis.lines] == [true, expected]
        assert [bar.get_height() for bar in axis.patches].index(1) == expected


DOLLARS = ["$1_$5 chip", "a $^ b $^", "<b>x|y</b>", r"\$ or $", "Straße"]


def test_names_with_a_dollar_are_no_mathematics(pack):
    """As mathematics `$1_$` cannot be drawn at all."""
    odd = pack._replace(categories=[{"id": 1, "name": "$1_$"}, {"id": 2, "name": "$2^$"}])
    draw.scene(draw.sheet(1, 1)[0], odd, 0, "of $_$")
    scene = plt.gcf()
    axis = plt.figure().subplots()
    axis.barh(range(5), range(5))
    draw.name_rows(axis, DOLLARS)
    for figure in (scene, axis.figure):
        figure.canvas.draw()
    assert texts(scene.axes[0]) == ["$2^$", "$1_$"] and scene.axes[0].get_title() == "of $_$"
    assert [label.get_text() for label in axis.get_yticklabels()] == DOLLARS
    assert list(axis.get_yticks()) == [0, 1, 2, 3, 4]
    drawn = [*axis.get_yticklabels(), *scene.axes[0].texts, scene.axes[0].title]
    assert not any(text.get_parse_math() for text in drawn)


def test_long_names_lose_their_middle():
    assert draw.short("traffic light 0.85") == "traffic light 0.85"
    assert draw.short("a" * 30) == "a" * 30
    cut = draw.short("a" * 60 + "b" * 16 + " 0.85")
    assert cut == "a" * 19 + "…" + "b" * 5 + " 0.85" and len(cut) == 30


def test_one_image_is_compared_on_a_sheet_of_its_own_width(pack):
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    for rows, width in (([0], WIDTH / 3), ([0, 1, 0, 1, 0], WIDTH)):
        draw.compare(draw.plain_batch(pack, rows), [nothing] * len(rows), ["cat", "dog"], 0.4)
        assert plt.gcf().get_figwidth() == pytest.approx(width)
