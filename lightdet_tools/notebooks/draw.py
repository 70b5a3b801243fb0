"""Pictures for notebooks: images with boxes, cells, edge distributions.

Every function draws into matplotlib axes that it is given, from arrays or tensors; none computes a
result. Tensor legend: B images · P cells of all levels · G objects (padded) · N boxes of one
image · R = reg_max + 1 bins · H, W. Boxes are xyxy in pixels of the image that they are drawn on.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from torch import Tensor

from lightdet_core.boxes import STRIDES, Batch, Detections, decode, level_grid
from lightdet_core.machinery.packs import Pack, objects
from lightdet_core.model import LightDet
from lightdet_tools.style import COLORS, WIDTH, place_labels, use_style

TRUTH, FOUND = COLORS[2], COLORS[1]
SIDES = ("left", "top", "right", "bottom")
LEVEL_COLORS = dict(zip(STRIDES, (COLORS[5], COLORS[4], COLORS[3]), strict=True))
LEVEL_MARKERS = dict(zip(STRIDES, "os^", strict=True))  # colours alone may not be told apart
LABEL_PAD = 0.8  # points
NAMED = 8  # detections in a picture


def notebook_style() -> None:
    """The look of all notebooks: the report's style, and small JPEG pictures."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    use_style()
    set_matplotlib_formats("jpeg", pil_kwargs={"quality": 82, "optimize": True})


def sheet(count: int, columns: int, width: float = WIDTH, ratio: float = 1.0) -> np.ndarray:
    """Axes (count,) for images, row by row; `width` in inches, `ratio` = height / width of one."""
    rows = -(-count // columns)
    side = width / columns
    _, axes = plt.subplots(rows, columns, figsize=(width, rows * (side * ratio + 0.22)))
    axes = np.atleast_1d(axes).ravel()
    for axis in axes:
        axis.axis("off")
    return axes[:count]


def image(axis: plt.Axes, pixels: Tensor | np.ndarray, title: str = "") -> None:
    """(H, W, 3) or (3, H, W), RGB on the 0..255 scale; what augmentation left outside is cut."""
    pixels = np.asarray(pixels)
    if pixels.shape[-1] != 3:
        pixels = pixels.transpose(1, 2, 0)
    height, width = pixels.shape[:2]
    axis.imshow(pixels.clip(0, 255).astype(np.uint8), extent=(0, width, height, 0))
    axis.set_title(title, fontsize=9, parse_math=False)
    axis.axis("off")


def boxes(
    axis: plt.Axes,
    xyxy: Tensor | np.ndarray,
    texts: Sequence[str] = (),
    color: str = TRUTH,
    style: str = "-",
) -> None:
    """Outlines of boxes (N, 4); `texts` holds one name for each, or nothing; long ones are cut."""
    for x0, y0, x1, y1 in np.asarray(xyxy).reshape(-1, 4).tolist():
        for edge, width in (("white", 2.6), (color, 1.5)):  # the rim shows on any background
            outline = {"edgecolor": edge, "linewidth": width, "linestyle": style, "fill": False}
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **outline))
    if len(texts):
        labels = next((a for a in axis.artists if isinstance(a, Labels)), None)
        labels = labels or axis.add_artist(Labels())
        for box, text in zip(np.asarray(xyxy).reshape(-1, 4), texts, strict=True):
            labels.add(box, short(text), color)


class Labels(Artist):
    """The names of boxes in one pair of axes: whenever these are drawn, it finds places for them.

    How much room there is is known only then. Where a label does not touch its box, a line leads
    to it.
    """

    zorder = 2.9  # before the texts, which have 3

    def __init__(self) -> None:
        super().__init__()
        self.set_in_layout(False)  # labels lie inside the axes
        self.named: list[tuple[np.ndarray, Text]] = []

    def add(self, box: np.ndarray, words: str, color: str) -> None:
        """A label for `box`, xyxy in data coordinates."""
        shape = {"facecolor": color, "edgecolor": "none", "pad": LABEL_PAD, "alpha": 0.85}
        text = self.axes.text(
            0, 0, words, fontsize=8, color="white", va="bottom", bbox=shape,
            parse_math=False, clip_on=True,
        )  # fmt: skip
        text.set_in_layout(False)
        self.named.append((np.asarray(box, float), text))

    def draw(self, renderer: RendererBase) -> None:
        """Move the labels to their places, in pixels of the renderer; draw lines to far ones."""
        pad, down = renderer.points_to_pixels(LABEL_PAD), np.array([1, -1])
        for _, text in self.named:  # large pictures have large labels
            text.set_fontsize(8 if self.axes.bbox.width < renderer.points_to_pixels(250) else 10)
        extents = [text.get_window_extent(renderer) for _, text in self.named]
        corners = np.array([box.reshape(2, 2) for box, _ in self.named])
        corners = self.axes.transData.transform(corners.reshape(-1, 2)) * down
        boxes = np.sort(corners.reshape(-1, 2, 2), 1).reshape(-1, 4)
        view = self.axes.bbox
        frame = (view.x0, -view.y1, view.x1, -view.y0)
        sizes = np.array([(e.width, e.height) for e in extents]) + 2 * pad
        to_data = self.axes.transData.inverted().transform
        for spot, box, (_, text) in zip(
            place_labels(boxes, sizes, frame), boxes, self.named, strict=True
        ):
            text.set_position(to_data((spot[0] + pad, -spot[3] + pad)))
            ends = np.stack([box.reshape(2, 2).mean(0).clip(spot[:2], spot[2:])] * 2)
            ends[1] = ends[0].clip(box[:2], box[2:])
            if np.abs(ends[0] - ends[1]).max() > 1:
                line = Line2D(*(ends * down).T, color=text.get_bbox_patch().get_facecolor())
                line.set(linewidth=renderer.points_to_pixels(1.2) * 72 / self.figure.dpi)
                line.set_figure(self.figure)
                line.draw(renderer)


def short(text: str, most: int = 30) -> str:
    """At most so many characters: of a longer text the middle goes, its ends tell names apart."""
    left = most - 1 - most // 3
    return text if len(text) <= most else f"{text[:left]}…{text[-(most // 3) :]}"


def name_rows(axis: plt.Axes, names: Sequence[str]) -> None:
    """Class names at the rows 0, 1, … of a chart, as they are: a $ begins no mathematics."""
    axis.set_yticks(range(len(names)), [short(name, 40) for name in names], parse_math=False)


def names_of(pack: Pack) -> list[str]:
    """Class names by label."""
    return [category["name"] for category in pack.categories]


def scene(axis: plt.Axes, pack: Pack, row: int, title: str = "") -> None:
    """One packed image with its objects; crowd regions are dashed and not named."""
    names, slots = names_of(pack), slice(0, int(pack.counts[row]))
    crowd, labels = pack.gt_crowd[row, slots], pack.gt_labels[row, slots]
    image(axis, pack.images[row], title)
    single = pack.gt_boxes[row, slots][~crowd]
    boxes(axis, single, [names[label] for label in labels[~crowd]])
    boxes(axis, pack.gt_boxes[row, slots][crowd], color=COLORS[6], style="--")


def plain_batch(pack: Pack, rows: Sequence[int]) -> Batch:
    """The packed images `rows` as they are, not augmented; `gt_mask` leaves crowds out."""
    images = torch.from_numpy(np.array(pack.images[rows])).permute(0, 3, 1, 2).float()
    gt_boxes, gt_labels, gt_mask = (
        torch.from_numpy(np.array(array[rows]))
        for array in (pack.gt_boxes, pack.gt_labels, objects(pack))
    )
    return Batch(images, gt_boxes, gt_labels, gt_mask, gt_mask.float())


def batch(axes: Sequence[plt.Axes], samples: Batch, names: list[str]) -> None:
    """Images of a batch with their objects; a weight other than 1 stands behind the name."""
    for axis, pixels, xyxy, labels, mask, weights in zip(axes, *samples, strict=False):
        image(axis, pixels)
        texts = [
            names[label] + (f" {weight:.2f}" if weight < 1 else "")
            for label, weight in zip(labels[mask].tolist(), weights[mask].tolist(), strict=True)
        ]
        boxes(axis, xyxy[mask], texts)


def compare(
    truth: Batch,
    found: Sequence[Detections],
    names: list[str],
    score_threshold: float,
    titles: Sequence[str] = (),
) -> None:
    """A sheet of the objects (above) and the detections above a score (below), B columns.

    The NAMED surest ones have names: those of all would hide a picture that has many.
    """
    count = len(truth.images)
    axes = sheet(2 * count, columns=count, width=min(WIDTH, WIDTH / 3 * count))
    batch(axes, truth, names)
    for number, (axis, pixels, one) in enumerate(
        zip(axes[count:], truth.images, found, strict=True)
    ):
        sure = one.scores.argsort(descending=True, stable=True)
        sure = sure[one.scores[sure] > score_threshold]
        some, others = sure[:NAMED], sure[NAMED:]
        scored = zip(one.labels[some].tolist(), one.scores[some].tolist(), strict=True)
        most = f", {NAMED} named" if len(others) else ""
        image(axis, pixels, f"detections: {len(sure)}{most}")
        boxes(axis, one.boxes[others], color=FOUND)
        boxes(axis, one.boxes[some], [f"{names[c]} {s:.2f}" for c, s in scored], FOUND)
        title = titles[number] if titles else f"objects: {int(truth.gt_mask[number].sum())}"
        axes[number].set_title(title, fontsize=9)


def grid(axis: plt.Axes, size: tuple[int, int], stride: int, color: str) -> None:
    """The cells of one level over an image of `size` = (H, W) pixels."""
    height, width = size
    axis.vlines(range(0, width + 1, stride), 0, height, color, linewidth=0.8)
    axis.hlines(range(0, height + 1, stride), 0, width, color, linewidth=0.8)


def cells(axis: plt.Axes, points: Tensor, strides: Tensor, positive: Tensor) -> None:
    """Cells as hollow marks, positive ones filled; one mark and colour per level.

    Args:
        points: (P, 2), where the marks go: the centres in pixels, or any other coordinates.
        strides: (P,) pixels. positive: (P,) bool.
    """
    for stride, color in LEVEL_COLORS.items():
        for chosen, face in ((~positive, "none"), (positive, color)):
            x, y = points[chosen & (strides == stride)].T
            # a thin white edge: on a picture it stands out, and neighbours stay whole
            edge, line = ("white", 0.6) if face == color else (color, 1.3)
            look = {"edgecolors": edge, "facecolors": face, "linewidths": line}
            axis.scatter(x, y, s=20 + 3 * stride, marker=LEVEL_MARKERS[stride], **look)


def distributions(
    axes: Sequence[plt.Axes], probabilities: Tensor, distances: Tensor, color: str = COLORS[0]
) -> None:
    """The four edge distributions of a cell, in four axes.

    Args:
        probabilities: (4, R) of left, top, right, bottom.
        distances: (4,) true distances in strides, drawn as dashed lines.
    """
    bins = np.arange(probabilities.shape[-1])
    for axis, side, row, true in zip(axes, SIDES, probabilities, distances, strict=True):
        axis.bar(bins, np.asarray(row), color=color, width=0.85)
        axis.axvline(float(true), color=TRUTH, linestyle="--")
        axis.axvline(float(row @ torch.arange(len(row)).float()), color=FOUND)
        axis.set(title=side, ylim=(0, 1), xticks=bins[::2], xlabel="strides")
        axis.grid(axis="x", visible=False)
        axis.tick_params(labelleft=axis is axes[0])


@torch.no_grad()
def from_image_to_boxes(
    model: LightDet, pixels: Tensor, names: list[str], score_threshold: float = 0.3
) -> Figure:
    """What a detector does: image, scores of cells, edges of one cell, and, large, the boxes.

    Args:
        pixels: (3, H, W), RGB on the 0..255 scale.
    """
    height, width = pixels.shape[-2:]
    cls_logits, box_logits = model(pixels[None])
    points, strides, level_sizes = level_grid(height, width)
    scores = model.scores_and_boxes(cls_logits, box_logits, (height, width))[0][0].amax(-1)
    (found,) = model.detect(pixels[None], score_threshold)
    best = int(scores.argmax())
    large = 0.7 * WIDTH * height / width
    figure = plt.figure(figsize=(WIDTH, large + 0.5))
    layout = figure.subplot_mosaic([["1", "4"], ["2", "4"], ["3", "4"]], width_ratios=(1, 3.3))
    axes = [layout[number] for number in "1234"]
    image(axes[0], pixels, f"1  an image, {width} x {height} px")

    image(axes[1], pixels, f"2  scores of {len(points):,} cells")
    heat = torch.zeros(1, 1, height, width)
    for level, stride in zip(scores.split(level_sizes), STRIDES, strict=True):
        rows = level.view(1, 1, -(-height // stride), -(-width // stride))
        grown = rows.repeat_interleave(stride, -2).repeat_interleave(stride, -1)
        heat = heat.maximum(grown[..., :height, :width])
    extent = (0, width, height, 0)
    axes[1].imshow(heat[0, 0], cmap="inferno", vmin=0, vmax=1, alpha=0.75, extent=extent)

    image(axes[2], pixels, "3  four edges, with doubt")
    edges = box_logits[0, best].softmax(-1)
    box = decode(box_logits[0], points, strides)[best]
    (x, y), stride = points[best].tolist(), float(strides[best])
    x0, y0, x1, y1 = box.tolist()
    for side, row in enumerate(edges):
        for step, share in enumerate(row.tolist()):
            away = (step - 0.5) * stride * (-1 if side < 2 else 1)
            across = stride * (-1 if side < 2 else 1)
            corner, size = ((x + away, y0), (across, y1 - y0))
            if side % 2:
                corner, size = ((x0, y + away), (x1 - x0, across))
            look = {"facecolor": COLORS[4], "alpha": 0.8 * share, "edgecolor": "none"}
            axes[2].add_patch(Rectangle(corner, *size, **look))
    boxes(axes[2], box[None], color=FOUND)
    axes[2].plot(x, y, "o", color=FOUND, markeredgecolor="white")
    axes[2].set(xlim=(0, width), ylim=(height, 0))

    image(axes[3], pixels, f"4  the boxes that score above {score_threshold}")
    scored = zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    boxes(axes[3], found.boxes, [f"{names[c]} {s:.2f}" for c, s in scored], FOUND)
    for axis in axes[:3]:
        axis.title.set_fontsize(8)
    return figure
