import struct

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from lightdet_core.config import DataError
from lightdet_core.machinery.images import (
    boxes_on_image,
    letterbox,
    letterbox_transform,
    read_image,
)
from lightdet_tools.data.scenes import draw_scene


def test_letterbox_transform_golden():
    scale_x, scale_y, left, top = letterbox_transform(640, 480, 416)
    assert (scale_x, scale_y, left, top) == (0.65, 0.65, 0, 52)


def test_letterbox_transform_property():
    rng = np.random.default_rng(0)
    width, height = rng.integers(1, 3000, (2, 500))
    scale_x, scale_y, left, top = letterbox_transform(width, height, 320)
    right, bottom = width * scale_x, height * scale_y
    assert np.allclose(right, np.rint(right)) and np.allclose(bottom, np.rint(bottom))
    assert (np.rint(np.maximum(right, bottom)) == 320).all() and (np.rint(right) >= 1).all()
    assert (np.abs(320 - right - 2 * left) < 1.001).all() and (left >= 0).all() and (top >= 0).all()
    one = letterbox_transform(int(width[3]), int(height[3]), 320)
    assert one == (scale_x[3], scale_y[3], left[3], top[3])
    assert letterbox_transform(3000, 1, 320)[1] == 1  # never thinner than a pixel
    assert letterbox_transform(100, 70, 51) == (0.51, 36 / 70, 0, 7)  # the odd row goes below


def test_letterbox_pixels():
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = 200
    canvas = letterbox(image, 32)
    assert canvas.shape == (32, 32, 3) and canvas.dtype == np.uint8
    assert (canvas[:4] == 0).all() and (canvas[28:] == 0).all()
    assert (canvas[4:28, :14] == 200).all() and (canvas[4:28, 18:] == 0).all()
    checker = np.indices((64, 64)).sum(0) % 2 * 255
    reduced = letterbox(np.repeat(checker[..., None], 3, 2).astype(np.uint8), 16)
    assert abs(reduced[2:-2, 2:-2].astype(int) - 127).max() <= 2  # antialiased, not picked
    same = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
    assert np.array_equal(letterbox(same, 24), same)


@pytest.mark.parametrize("shape", [(80, 150), (240, 97), (20, 30), (96, 96), (240, 320)])
def test_quick_letterbox_is_the_same_to_one_level(shape):
    """For noise, too; of a picture most values are equal, of one with an odd width fewer."""
    height, width = shape
    scene = draw_scene(0, 0, 320, 240)[0][:height, :width]
    scene.flags.writeable = False  # as Pillow's arrays are
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for image, share in ((scene, 0.1 if width % 2 else 0.01), (noise, 1)):
        slow, quick = (letterbox(image, 96, quick).astype(int) for quick in (False, True))
        assert np.abs(slow - quick).max() <= 1
        assert (slow != quick).mean() <= share


def test_boxes_return_to_the_image():
    """150 x 80 lie in rows 22 to 73 of the canvas, at 0.64 horizontally and 51 / 80 vertically."""
    canvas = np.array([[32, 22 + 51 / 4, 64, 22 + 51 / 2], [-5, 0, 96, 96], [90, 80, 99, 99]])
    wanted = np.array([[50, 20, 100, 40], [0, 0, 150, 80], [140.625, 80, 150, 80]])
    np.testing.assert_allclose(boxes_on_image(canvas, 150, 80, 96), wanted, rtol=1e-12)
    assert boxes_on_image(np.zeros((0, 4)), 150, 80, 96).shape == (0, 4)


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "16.png", "16.tiff"])
def test_read_image_modes(tmp_path, mode):
    path = tmp_path / "a.png"
    image, expected = Image.fromarray(GREY), np.repeat(GREY[..., None], 3, 2)
    if mode.startswith("16"):
        path = tmp_path / mode
        image = Image.fromarray(GREY.astype(np.uint16) * 257)
        assert image.mode == "I;16"
    elif mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(7)  # dropped, not blended
    elif mode == "1":
        image = image.point(lambda v: 255 * (v > 99)).convert("1")
        expected = np.where(expected > 99, 255, 0)
    elif mode == "P":
        image = image.convert("RGB").quantize(64)
        expected = np.asarray(image.convert("RGB"))
    image.save(path)
    result = read_image(path, 8, 6)
    assert result.shape == (6, 8, 3) and result.dtype == np.uint8
    assert np.array_equal(result, expected)


def test_read_image_cmyk_jpeg(tmp_path):
    color = (200, 40, 90)
    Image.new("RGB", (16, 16), color).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert Image.open(tmp_path / "a.jpg").mode == "CMYK"
    assert abs(read_image(tmp_path / "a.jpg").astype(int) - color).max() <= 4


def test_read_image_without_fixed_range(tmp_path):
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff: F pixels \(32 bits\) have no fixed range"):
        read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_exif(tmp_path, orientation):
    path, exif = tmp_path / "a.png", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(path, exif=exif)
    stored = np.repeat(GREY[..., None], 3, 2)
    turns = {  # stored -> upright, written down from the standard
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.transpose(1, 0, 2), 6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored, 1),
    }  # fmt: skip
    upright = turns[orientation]
    height, width = upright.shape[:2]
    assert np.array_equal(read_image(path), upright)
    assert np.array_equal(read_image(path, width, height), upright)
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(Image.open(path))), upright[..., 0])
    if orientation >= 5:  # the stated size is that of the stored pixels: so are the boxes
        assert np.array_equal(read_image(path, 8, 6), stored)
    with pytest.raises(DataError, match=f"{width} x {height} pixels, .* say 9 x 9"):
        read_image(path, 9, 9)


ENTRIES = {  # of a directory: tag, type, count, value
    "X resolution as text": (282, 2, 4, b"72\0\0"),
    "negative bits per sample": (258, 9, 1, b"\xf8\xff\xff\xff"),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_of_the_metadata_only_the_orientation_matters(tmp_path, entry):
    turn = (0x0112, 3, 1, b"\6\0\0\0")
    entries = b"".join(struct.pack("<HHI", *e[:3]) + e[3] for e in sorted([turn, ENTRIES[entry]]))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + b"\0\0\0\0"
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png", 6, 8)[..., 0], np.rot90(GREY, -1))
    broken = b"Exif\0\0II*\0\xff\xff\xff\xff"  # its directory lies beyond the end
    Image.fromarray(GREY).save(tmp_path / "c.png", exif=broken)
    assert np.array_equal(read_image(tmp_path / "c.png")[..., 0], GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_with_an_orientation(tmp_path, orientation):
    """Pillow turns these itself; the stated size decides as for other formats."""
    Image.fromarray(GREY).save(tmp_path / "a.tif", tiffinfo={0x0112: orientation})
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    for size in ((), (8, 6)):  # (8, 6) is the stored size
        tiff, png = (read_image(tmp_path / name, *size) for name in ("a.tif", "a.png"))
        assert np.array_equal(tiff, png)


def test_what_pillow_guards_against_is_named(tmp_path, monkeypatch):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
        with pytest.raises(DataError, match=r"a\.png: .*: larger than 178 million pixels$"):
            read_image(tmp_path / "a.png")
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 100, zip=True)
    Image.fromarray(GREY).save(tmp_path / "b.png", pnginfo=text)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 50)
    with pytest.raises(DataError, match=r"b\.png: .*: holds more text than Pillow reads$"):
        read_image(tmp_path / "b.png")


def test_read_image_broken(tmp_path):
    good, rng = tmp_path / "good.jpg", np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(good)
    content = good.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").touch()
    for name in ("cut.jpg", "text.jpg", "empty.png"):
        with pytest.raises(DataError, match=f"{name}: unreadable image"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match=r"none\.jpg: image not found"):
        read_image(tmp_path / "none.jpg")
