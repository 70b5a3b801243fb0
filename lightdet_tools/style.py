"""One look for all figures and drawings, and places for labels that cover each other nowhere."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito: told apart with any colour vision, and by brightness in print
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PRINTED_COLOR = "#767676"
WIDTH = 7.5  # of a figure in inches: on a phone of 390 px its text has 7 px


def use_style() -> None:
    """The one look of all figures; call it once per notebook, before plotting."""
    import matplotlib.pyplot as plt  # here: it takes a second, and detection draws without it

    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.4),
            "figure.dpi": 120,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 160,
            "svg.hashsalt": "lightdet",  # ids in the svg are random without it
            "font.size": 10,
            "axes.titlesize": 10,
            "legend.fontsize": 9,
            "axes.prop_cycle": plt.cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e0e0e0",
            "lines.linewidth": 1.6,
            "legend.frameon": False,
        }
    )


def place_labels(
    boxes: np.ndarray,
    sizes: np.ndarray,
    frame: tuple[float, float, float, float],
    taken: np.ndarray | None = None,
) -> np.ndarray:
    """Where the labels of boxes go: inside the frame, none on another while there is room.

    One after the other, the first box chooses first. A label lies at its box: above, below, inside
    at the top or the bottom, beside it, or shifted along an edge; of the places where no label is
    yet, on the one that covers the least of all boxes. Where every place at the box is taken, it
    goes to the nearest free one of the frame, and where there is none, to the place at the box
    that covers the least of other labels.

    Args:
        boxes: (N, 4) xyxy, y downwards. sizes: (N, 2) width and height of the labels.
        frame: xyxy. taken: (M, 4) xyxy, where no label should be, as if labels were there.

    Returns:
        (N, 4) xyxy of the labels.
    """
    frame = np.asarray(frame, float)
    low, high = frame[:2], frame[2:]
    boxes = np.clip(np.asarray(boxes, float).reshape(-1, 4), [*low, *low], [*high, *high])
    placed = start = np.empty((0, 4)) if taken is None else np.asarray(taken, float)
    for box, size in zip(boxes, np.asarray(sizes, float).reshape(-1, 2), strict=True):
        near = _inside(_at_box(box, size), size, low, high)
        hidden, covered = _overlap(near, placed).sum(1), _overlap(near, boxes).sum(1)
        spot = near[np.lexsort((covered.round(6), hidden.round(6)))[0]]
        if hidden.min() > 0:
            far = _inside(_all_over(size, frame), size, low, high)
            free = far[_overlap(far, placed).sum(1) == 0]
            spot = free[_gap(free, box).argmin()] if len(free) else spot
        placed = np.vstack([placed, spot])
    return placed[len(start) :]


def _at_box(box: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Upper left corners (N, 2) of a label at its box, the best first."""
    (x0, y0, x1, y1), (w, h) = box, size
    rows = [y0 - h, y1, y0, y1 - h]  # above, below, inside at the top, inside at the bottom
    spots = [(x0, y) for y in rows]
    spots += [(x, y) for y in (y0, y1 - h, (y0 + y1 - h) / 2) for x in (x1, x0 - w)]
    spots += [(x, y) for y in rows for x in (x1 - w, *np.linspace(x0 - w, x1, 9))]
    spots += [(x, y) for y in np.linspace(y0 - h, y1, 9) for x in (x1, x0 - w, x0)]
    return np.array(spots)


def _all_over(size: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Upper left corners (N, 2) of a grid, a part of a label apart but not finer than needed."""
    across = np.arange(frame[0], frame[2], max(size[0] / 3, (frame[2] - frame[0]) / 40))
    down = np.arange(frame[1], frame[3], max(size[1] / 2, (frame[3] - frame[1]) / 80))
    return np.stack(np.meshgrid(across, down), -1).reshape(-1, 2)


def _inside(spots: np.ndarray, size: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """xyxy of labels, moved into the frame; one larger than the frame begins at its border."""
    corners = np.maximum(np.minimum(spots, high - size), low)
    return np.concatenate([corners, corners + size], 1)


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Areas (A, B) that two sets of boxes have in common."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return sides.clip(0).prod(-1)


def _gap(labels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Distances (N,) from labels to a box."""
    return np.hypot(*np.maximum(labels[:, :2] - box[2:], box[:2] - labels[:, 2:]).clip(0).T)


def side_by_side(axis: "Axes", x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """x (N,) of points, those moved by a marker's width or two that have the x of one before them
    (to a quarter of a marker) and would cover it.

    The axis then has limits for all of them.
    """
    axis.update_datalim(np.column_stack([x, y]))
    axis.autoscale_view()
    axis.figure.draw_without_rendering()
    wide = axis.figure.canvas.get_renderer().points_to_pixels(7)
    places = axis.transData.transform(np.column_stack([x, y]))
    first = places[:, 0].copy()
    for i, place in enumerate(places):
        moved = place + wide * np.array([[0, 0], [1, 0], [-1, 0], [2, 0], [-2, 0]])
        others = places[:i][np.abs(first[:i] - first[i]) < wide / 4]
        apart = np.hypot(*(moved[:, None] - others).T).min(0, initial=np.inf)
        places[i] = moved[np.argmax(apart > 0.8 * wide)]
    return axis.transData.inverted().transform(places)[:, 0]


def label_points(
    axis: "Axes",
    x: Sequence[float],
    y: Sequence[float],
    names: Sequence[str],
    bars: Sequence[float] | None = None,
) -> None:
    """Names beside points, none on another; a line leads to one that found no place at its point.

    Call it last: the places are those of the figure as it then is.

    Args:
        bars: half the length of the vertical error bar of each point, which no name covers; nan
            where there is none.
    """
    texts = [axis.text(0, 0, name, fontsize=8, parse_math=False) for name in names]
    for text in texts:
        text.set_in_layout(False)
    axis.figure.draw_without_rendering()
    renderer, down = axis.figure.canvas.get_renderer(), np.array([1, -1])
    near, margin = renderer.points_to_pixels(5), renderer.points_to_pixels(2.5)
    points = axis.transData.transform(np.column_stack([x, y])) * down
    extents = [text.get_window_extent(renderer) for text in texts]
    sizes = np.array([(e.width, e.height) for e in extents]).reshape(-1, 2) + 2 * margin
    # not up to the frame: in a figure that is saved larger, letters are a little wider
    view, to_data = axis.bbox.padded(-near), axis.transData.inverted().transform
    frame = (view.x0, -view.y1, view.x1, -view.y0)
    around = np.column_stack([points - near, points + near])
    half = np.nan_to_num(np.zeros(len(points)) if bars is None else np.asarray(bars, float))
    ends = [axis.transData.transform(np.column_stack([x, y + sign * half])) for sign in (1, -1)]
    bar = np.column_stack([ends[0] * down - [near, 0], ends[1] * down + [near, 0]])
    # no marker and no bar is covered either
    places = place_labels(around, sizes, frame, taken=np.vstack([around, bar]))
    for text, spot, point in zip(texts, places, points, strict=True):
        text.set(position=to_data((spot[0] + margin, -spot[3] + margin)), va="bottom")
        end = point.clip(spot[:2], spot[2:])
        if np.abs(end - point).max() > near + 1:
            line = to_data(np.stack([point, end]) * down)
            axis.plot(*line.T, color=PRINTED_COLOR, linewidth=0.6, scalex=False, scaley=False)
