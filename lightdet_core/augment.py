"""Batched augmentation: warp, flip, Mosaic, colour, MixUp and CutMix as tensor operations.

B images of a batch, T packed images behind each of them (1, or 4 with mosaic), G objects (padded),
P side of the packed images and S side of the canvas in pixels, H = W = S.

Coordinates are continuous: pixel i covers [i, i + 1), so its centre lies at i + 0.5. Letterbox,
scale, flip, shift and mosaic are all axis-parallel, so their composition is one diagonal affine
map per packed image, `canvas = scale * pack + offset`, and pixels are resampled once (bilinear).
Every random number and all box arithmetic stay on the CPU (float64, a few kB); pixels are computed
on the training device. So the targets are the same bits on every device, and a batch depends on
(pack, config, seed, step) only: each of many processes computes its rows of the same batch.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightdet_core.boxes import Batch, area
from lightdet_core.config import AugmentConfig, Config, UserError
from lightdet_core.machinery.images import letterbox_transform
from lightdet_core.machinery.packs import Pack, objects

MIN_SIDE = 2.0  # px; an object whose visible part is thinner teaches nothing
SMALL_SHARE = 0.05  # of objects that are thinner: more are worth a word
GPU_SHARE = 0.5  # of the free memory of a GPU that packed images may take
MIN_AREA = 0.1  # visible share of a warped object below which it is dropped (YOLOv5's filter)
MIN_VISIBLE = 0.5  # the same for objects that CutMix covers or cuts
FILL, MOSAIC_FILL = 0.0, 114.0  # outside of the image: black as NanoDet has it, YOLOX's grey
# NanoDet's old ranges (D19): what is added to the [0, 1] image, what it is multiplied by, and the
# factor on its HSV saturation
BRIGHTNESS, CONTRAST, SATURATION = (-0.2, 0.2), (0.6, 1.4), (0.5, 1.2)
MIXUP_ALPHA = 1.5  # ratio ~ Beta(alpha, alpha), as in GluonCV's detectors

# One uniform number per name and image, always all of them: no draw depends on data or settings.
DRAWS = (
    *("mosaic", "mosaic_x", "mosaic_y", "tile_1", "tile_2", "tile_3"),
    *("scaled", "scale", "shifted", "shift_x", "shift_y", "flip"),
    *("brightened", "brightness", "contrasted", "contrast", "saturated", "saturation"),
    *("mix", "ratio_radius", "ratio_angle", "cut_area", "cut_x", "cut_y"),
)


class _Geometry(NamedTuple):
    """Where the packed images of each batch image land; all float64 on the CPU."""

    scale: Tensor  # (B, T, 2) of x and y, negative x when flipped
    offset: Tensor  # (B, T, 2)
    content: Tensor  # (B, T, 4) xyxy, pack pixels: the packed image without its borders
    window: Tensor  # (B, T, 4) xyxy, canvas pixels: the part of the canvas that shows it


class _Mix(NamedTuple):
    """MixUp and CutMix with the previous image of the batch; on the CPU."""

    share: Tensor  # (B,) float64: weight of the own image; 1 without MixUp
    rect: Tensor  # (B, 4) float64 xyxy, whole canvas pixels: pasted by CutMix; empty without
    mixup: Tensor  # (B,) bool


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Batches in one pass; the last incomplete one is dropped, unless it is the only one."""
    return max(1, num_images // batch_size)


def batch_indices(num_images: int, batch_size: int, seed: int, step: int) -> Tensor:
    """The images (B,) of a step counted over all epochs.

    An epoch shows each image at most once: the last incomplete batch is dropped. With fewer images
    than a batch holds, the epoch is one batch that starts over until it is full.

    Raises:
        ValueError: there is no image, or no room for one.
    """
    if num_images < 1 or batch_size < 1:
        raise ValueError(f"{num_images} images in batches of {batch_size}: both must be at least 1")
    epoch, batch = divmod(step, steps_per_epoch(num_images, batch_size))
    order = torch.randperm(num_images, generator=_generator(seed, 0, epoch))
    return order[(batch * batch_size + torch.arange(batch_size)) % num_images]


def check_sizes(pack: Pack, size: int) -> str | None:
    """A line about the objects that are too small to learn or to find at this input, if many are.

    Raises:
        UserError: all are.
    """
    boxes = pack.gt_boxes[objects(pack)]
    sides = (boxes[:, 2:] - boxes[:, :2]).min(1) * size / pack.size
    small = int((sides < MIN_SIDE).sum())
    about = (
        f"{small} of {len(sides)} objects are under {MIN_SIDE:g} px at {size} px input, too small "
        "to learn or to find; raise the profile's input_scale"
    )
    if small == len(sides):
        raise UserError(f"{pack.path}: {about}")
    return about if small > SMALL_SHARE * len(sides) else None


def training_batch(
    pack: Pack,
    config: Config,
    seed: int,
    step: int,
    device: torch.device | str,
    mosaic: bool | None = None,
    rows: range | None = None,
) -> Batch:
    """The augmented batch of one training step; nothing in it waits for a GPU.

    Args:
        pack: of the images to train on; its rows are read once.
        config: `augment`, `model.input_size` and `train` are read.
        seed, step: of the run; counted over all epochs.
        device: where pixels are computed and the batch is wanted.
        mosaic: whether mosaic may be used; None: until the last `mosaic_off_epochs` epochs.
        rows: the consecutive images of the batch that are wanted; None: all.

    Raises:
        ValueError: the pack is empty.
    """
    batch_size, size, settings = config.train.batch_size, config.model.input_size, config.augment
    own = batch_indices(len(pack.counts), batch_size, seed, step)
    shape, generator = (len(DRAWS), batch_size), _generator(seed, 1, step)
    uniform = torch.rand(shape, dtype=torch.float64, generator=generator)
    draws = dict(zip(DRAWS, uniform, strict=True))
    if mosaic is None:
        epoch = step // steps_per_epoch(len(pack.counts), batch_size)
        mosaic = epoch < config.train.epochs - settings.mosaic_off_epochs
    is_mosaic = (draws["mosaic"] < settings.mosaic) & mosaic
    tiles = [own]
    if is_mosaic.any():
        tiles += [(draws[f"tile_{t}"] * len(pack.counts)).long() for t in (1, 2, 3)]
    sources = torch.stack(tiles, dim=1)  # (B, T)

    geometry = _geometry(pack, sources, is_mosaic, draws, settings, size)
    mix = _draw_mix(draws, settings, size)
    targets = _mix_targets(*_warp_targets(pack, sources, geometry), mix)
    part = rows is not None and len(rows) < batch_size
    if part:  # random numbers and targets are cheap: drawn for all, then cut
        # the image before the first of them may be mixed into it
        drawn = torch.tensor([(rows.start - 1) % batch_size, *rows])
        sources, is_mosaic = sources[drawn], is_mosaic[drawn]
        geometry = _Geometry(*(field[drawn] for field in geometry))
        draws = {name: values[drawn] for name, values in draws.items()}
        mix = _Mix(*(field[drawn] for field in mix))
        targets = [target[rows.start : rows.stop] for target in targets]
    device = torch.device(device)
    images = _warp_images(pack, sources, is_mosaic, geometry, size, device)
    images = _mix_images(_colour(images, draws, settings.color_probability), mix)
    images = images[1:] if part else images
    images = images.contiguous(memory_format=torch.channels_last)
    return Batch(images, *(to_device(target, device) for target in targets))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A copy on the device; a GPU fetches it from pinned memory, and nothing waits for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def on_device(pack: Pack, device: torch.device) -> tuple[Pack, str | None]:
    """The pack with its images on the GPU, if they take at most GPU_SHARE of its free memory.

    Returns:
        The pack, changed or as it was, and a line that says which (None on a CPU).
    """
    if device.type != "cuda":
        return pack, None
    free, needed = torch.cuda.mem_get_info(device)[0], pack.images.nbytes
    about = f"{needed / 1e9:.1f} GB of packed images, {free / 1e9:.1f} GB of GPU memory are free"
    if needed > GPU_SHARE * free:
        return pack, f"{about}: they stay in files and are fetched a batch ahead"
    images = torch.empty(pack.images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), 256):
        some = slice(start, start + 256)
        images[some].copy_(torch.from_numpy(np.array(pack.images[some])))
    return pack._replace(images=images), f"{about}: they are copied there"


def training_batches(
    pack: Pack,
    config: Config,
    seed: int,
    steps: range,
    device: torch.device,
    rows: range | None = None,
) -> Iterator[Batch]:
    """`training_batch` of each step. With a GPU a thread makes the next one in the meantime."""
    make = partial(training_batch, pack, config, seed, device=device, rows=rows)
    if device.type != "cuda":  # the network has all cores
        yield from map(make, steps)
        return
    with ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(device,)) as pool:
        pending = [pool.submit(make, step) for step in steps[:1]]
        for step in steps:
            batch = pending.pop().result()
            if step + 1 < steps.stop:
                pending.append(pool.submit(make, step + 1))
            yield batch


def _generator(*key: int) -> torch.Generator:
    """A CPU generator keyed by integers (seed, stream, step or epoch).

    The key runs through SplitMix64's finaliser word by word, so that neighbouring seeds and steps
    start from unrelated states. (Of the result, torch's CPU generator uses the low 32 bits.)
    """
    state = 0
    for word in key:
        state = ((state ^ word) + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state)


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform


def _map_boxes(boxes: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Hull of the mapped corners: boxes (..., 4), scale and offset (..., 2)."""
    a, b = boxes[..., :2] * scale + offset, boxes[..., 2:] * scale + offset
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], dim=-1)


def _clip(boxes: Tensor, window: Tensor) -> Tensor:
    """Boxes cut to their window, both (..., 4); what lies outside becomes a box without area."""
    return boxes.maximum(window[..., [0, 1, 0, 1]]).minimum(window[..., [2, 3, 2, 3]])


def _wide(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).amin(-1) >= MIN_SIDE


def _geometry(
    pack, sources: Tensor, is_mosaic: Tensor, draws: dict, settings: AugmentConfig, size: int
) -> _Geometry:
    """Letterbox or mosaic, then scale and flip about the centre, then shift; see `_Geometry`."""
    width, height = np.asarray(pack.sizes)[sources.numpy()].transpose(2, 0, 1)  # (B, T) each
    scale_x, scale_y, left, top = letterbox_transform(width, height, pack.size)
    corner = torch.from_numpy(np.stack([left, top], -1)).double()
    extent = torch.from_numpy(np.stack([width * scale_x, height * scale_y], -1)).round()
    content = torch.cat([corner, corner + extent], -1)
    middle = corner + extent / 2

    # First the frame: S x S with the packed image, or 2S x 2S with four around one point.
    fit = size / pack.size
    mosaic = is_mosaic[:, None]
    paste = torch.zeros_like(corner)
    if sources.shape[1] == 4:  # tiles: above left, above right, below left, below right
        centre = torch.stack([draws["mosaic_x"], draws["mosaic_y"]], -1) + 0.5
        touching = content[:, range(4), [[2, 0, 2, 0], [3, 3, 1, 1]]].transpose(1, 2)
        paste = torch.where(mosaic[..., None], centre[:, None] * size - touching * fit, paste)
    frame = (content * fit + paste.repeat(1, 1, 2)).clamp(0, 2 * size)
    pivot = torch.where(mosaic, float(size), middle[:, 0] * fit)
    home = torch.where(mosaic, size / 2, pivot)
    unit = torch.where(mosaic, float(size), extent[:, 0] * fit)

    # Then the warp: scale and flip about the middle, shift by a share of the image's own size.
    warp = settings.warp_probability
    zoom = torch.where(draws["scaled"] < warp, _between(draws["scale"], *settings.scale), 1.0)
    zoom = torch.stack([torch.where(draws["flip"] < settings.flip, -zoom, zoom), zoom], -1)
    shift = torch.stack([draws["shift_x"], draws["shift_y"]], -1)
    shift = _between(shift, -settings.translate, settings.translate) * unit
    shift = torch.where((draws["shifted"] < warp)[:, None], shift, 0.0)
    move = home + shift - zoom * pivot
    zoom, move = zoom[:, None], move[:, None]
    window = _map_boxes(frame, zoom, move).clamp(0, size)
    window[:, 1:] *= mosaic[..., None]  # an empty window: this packed image is not used
    return _Geometry((zoom * fit).expand_as(paste), zoom * paste + move, content, window)


def _warp_targets(
    pack: Pack, sources: Tensor, geometry: _Geometry
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, T * G, 4) float64, labels and mask (B, T * G) on the CPU.

    Boxes are cut to their window. Dropped: crowd, what keeps a side below 2 px, and what keeps
    less than 10 % of the area that the warped box had before the cut.
    """
    rows = sources.numpy()
    counts = torch.from_numpy(np.asarray(pack.counts)[rows])
    objects = max(1, int(counts.max()))
    boxes, labels, crowd = (
        torch.from_numpy(np.asarray(array[rows.ravel(), :objects])).unflatten(0, rows.shape)
        for array in (pack.gt_boxes, pack.gt_labels, pack.gt_crowd)
    )
    warped = _map_boxes(boxes.double(), geometry.scale[:, :, None], geometry.offset[:, :, None])
    boxes = _clip(warped, geometry.window[:, :, None])
    mask = (torch.arange(objects) < counts[..., None]) & ~crowd
    mask &= _wide(boxes) & (area(boxes) >= MIN_AREA * area(warped))
    return boxes.flatten(1, 2), labels.flatten(1, 2), mask.flatten(1, 2)


def _warp_images(
    pack, sources: Tensor, is_mosaic: Tensor, geometry: _Geometry, size: int, device
) -> Tensor:
    """Canvases (B, 3, S, S). Only mosaic images read, move and sample four packed images."""
    plain, four = torch.where(~is_mosaic)[0], torch.where(is_mosaic)[0]
    rows = torch.cat([sources[plain, 0], sources[four].flatten()])
    if isinstance(pack.images, Tensor):  # on the device already, see `on_device`
        packed = pack.images[to_device(rows, device)]
    else:
        packed = to_device(torch.from_numpy(np.asarray(pack.images[rows.numpy()])), device)
    images = torch.empty(len(sources), 3, size, size, device=device)
    for chosen, tiles, outside in (plain, 1, FILL), (four, 4, MOSAIC_FILL):
        part, packed = packed.tensor_split([len(chosen) * tiles])
        if len(chosen):
            own = _Geometry(*(field[chosen, :tiles] for field in geometry))
            images[to_device(chosen, device)] = _resample(part, own, outside, size)
    return images


def _resample(packed: Tensor, geometry: _Geometry, fill: float, size: int) -> Tensor:
    """packed (B * T, P, P, 3) uint8 -> (B, 3, S, S): a pixel whose centre no window holds is fill.

    The T packed images stand below each other in one atlas, which costs no copy. Coordinates are
    clamped to the outermost pixel centres of the content, so neither borders nor neighbours bleed.
    """
    batch, tiles = geometry.scale.shape[:2]
    side, device = packed.shape[1], packed.device
    centres = torch.arange(size, dtype=torch.float64) + 0.5
    at = (centres - geometry.offset[..., None]) / geometry.scale[..., None]  # (B, T, 2, S)
    low, high = geometry.content[..., :2, None] + 0.5, geometry.content[..., 2:, None] - 0.5
    at = torch.minimum(torch.maximum(at, low), high)
    at[:, :, 1] += side * torch.arange(tiles)[:, None]
    at = at * 2 / (torch.tensor([1, tiles])[:, None] * side) - 1  # grid_sample's -1..1
    window = geometry.window[..., None]
    inside = (centres >= window[:, :, :2]) & (centres < window[:, :, 2:])
    at, inside = to_device(at.float(), device), to_device(inside, device)

    grid = torch.zeros(batch, size, size, 2, device=device)
    covered = torch.zeros(batch, size, size, dtype=torch.bool, device=device)
    for tile in range(tiles):
        shown = inside[:, tile, 1, :, None] & inside[:, tile, 0, None, :]
        grid[..., 0] = torch.where(shown, at[:, tile, 0, None, :], grid[..., 0])
        grid[..., 1] = torch.where(shown, at[:, tile, 1, :, None], grid[..., 1])
        covered |= shown
    atlas = packed.float().view(batch, tiles * side, side, 3).permute(0, 3, 1, 2)
    images = F.grid_sample(atlas, grid, padding_mode="border", align_corners=False)
    return images.masked_fill_(~covered[:, None], fill)


def _colour(images: Tensor, draws: dict, probability: float) -> Tensor:
    """Brightness, contrast and HSV saturation, each with its probability; nothing is clipped.

    With v = max(r, g, b), the HSV saturation is (v - min) / v: a factor f on it moves each channel
    x to v - (v - x) f and leaves v and the hue alone.
    """

    def factors(name: str, chosen: str, span: tuple[float, float], neutral: float) -> Tensor:
        value = torch.where(draws[chosen] < probability, _between(draws[name], *span), neutral)
        return to_device(value.float(), images.device)[:, None, None, None]

    images = images + 255 * factors("brightness", "brightened", BRIGHTNESS, 0.0)
    images = images * factors("contrast", "contrasted", CONTRAST, 1.0)
    factor = factors("saturation", "saturated", SATURATION, 1.0)
    return torch.lerp(images.amax(1, keepdim=True), images, factor)


def _draw_mix(draws: dict, settings: AugmentConfig, size: int) -> _Mix:
    """Per image MixUp, CutMix or neither. A batch of one has no partner and stays as it is."""
    pick = draws["mix"] if len(draws["mix"]) > 1 else torch.ones_like(draws["mix"])
    mixup = pick < settings.mixup
    cutmix = ~mixup & (pick < settings.mixup + settings.cutmix)
    # Beta(a, a) in closed form, by the projection of a symmetric law on the disk (Ulrich 1984).
    power = 2 / (2 * MIXUP_ALPHA - 1)
    radius = (1 - draws["ratio_radius"] ** power).sqrt()
    ratio = 0.5 + 0.5 * radius * torch.cos(2 * torch.pi * draws["ratio_angle"])
    # The area share of the rectangle is uniform = 1 - Beta(1, 1); it always lies inside.
    side = (size * draws["cut_area"].sqrt()).round() * cutmix
    corner = torch.stack([draws["cut_x"], draws["cut_y"]], -1)
    corner = (corner * (size - side + 1)[:, None]).floor()
    rect = torch.cat([corner, corner + side[:, None]], -1)
    return _Mix(torch.where(mixup, ratio, 1.0), rect, mixup)


def _mix_images(images: Tensor, mix: _Mix) -> Tensor:
    """Each image blended with, or cut by, the previous one of the batch."""
    if not (mix.mixup.any() or area(mix.rect).any()):
        return images
    x0, y0, x1, y1 = mix.rect[:, :, None].unbind(1)  # (B, 1) each
    pixel = torch.arange(images.shape[-1])
    across, down = (pixel >= x0) & (pixel < x1), (pixel >= y0) & (pixel < y1)
    across, down = to_device(across, images.device), to_device(down, images.device)
    share = to_device(mix.share.float(), images.device)[:, None, None]
    share = share.masked_fill(down[:, :, None] & across[:, None, :], 0.0)
    return torch.lerp(images.roll(1, 0), images, share[:, None])


def _mix_targets(boxes: Tensor, labels: Tensor, mask: Tensor, mix: _Mix) -> tuple[Tensor, ...]:
    """Boxes, labels, mask and weights of the mixed images, kept objects first, G trimmed.

    MixUp keeps all objects of both images. CutMix keeps an own object that stays at least half
    visible, and shrinks it only if the rectangle takes one whole side of it; it keeps a pasted
    object, cut to the rectangle, if that holds at least half of it.
    """
    rect, mixup = mix.rect[:, None], mix.mixup[:, None]
    pasted = boxes.roll(1, 0)
    cut = _clip(pasted, rect)
    inside = _wide(cut) & (area(cut) >= MIN_VISIBLE * area(pasted))
    pasted = torch.where(mixup[..., None], pasted, cut)
    pasted_mask = mask.roll(1, 0) & (mixup | inside)

    visible = area(boxes) - area(_clip(boxes, rect)) >= MIN_VISIBLE * area(boxes)
    boxes = _uncovered(boxes, rect)
    mask = mask & visible & _wide(boxes)

    share = mix.share[:, None].expand(mask.shape)
    other = torch.where(mixup, 1 - share, 1.0)
    boxes, labels = torch.cat([boxes, pasted], 1), torch.cat([labels, labels.roll(1, 0)], 1)
    mask, weights = torch.cat([mask, pasted_mask], 1), torch.cat([share, other], 1)
    order = torch.argsort(~mask, dim=1, stable=True)[:, : max(1, int(mask.sum(1).max()))]
    mask = mask.gather(1, order)
    labels, weights = labels.gather(1, order) * mask, weights.gather(1, order) * mask
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4)) * mask[..., None]
    return boxes.float(), labels, mask, weights.float()


def _uncovered(boxes: Tensor, rect: Tensor) -> Tensor:
    """Boxes (B, G, 4) without what a rectangle (B, 1, 4) takes off a whole side of them."""
    low, high, start, end = boxes[..., :2], boxes[..., 2:], rect[..., :2], rect[..., 2:]
    whole = ((start <= low) & (end >= high)).flip(-1)  # x may shrink where y is covered
    new_low = torch.where(whole & (start <= low), low.maximum(end), low)
    new_high = torch.where(whole & (end >= high), high.minimum(start), high)
    return torch.cat([new_low, new_high], -1)
