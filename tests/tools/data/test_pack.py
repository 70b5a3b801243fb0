"""pack.py: `pytest tests/test_pack.py`."""

import errno
import json
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import use_root
from PIL import Image, ImageOps

from lightdet_core.config import DataError
from lightdet_core.machinery.images import (
    boxes_on_image,
    letterbox,
    letterbox_transform,
    read_image,
)
from lightdet_core.machinery.packs import open_pack, pack_path
from lightdet_tools import cli
from lightdet_tools.data import pack, sources
from lightdet_tools.data.annotations import read_annotations
from lightdet_tools.data.pack import build, prepare_packs
from lightdet_tools.data.scenes import draw_scene


def silent(line: str) -> None:
    pass


def make_coco() -> dict:
    """Three images (one without objects), category ids with a gap, one crowd, out of order."""
    return {
        "images": [
            {"id": 30, "file_name": "sub/a.png", "width": 64, "height": 48},
            {"id": 10, "file_name": "b.png", "width": 32, "height": 64},
            {"id": 20, "file_name": "c.png", "width": 20, "height": 20},
        ],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 90, "bbox": [2, 4, 8, 16], "iscrowd": 1},
            {"id": 2, "image_id": 30, "category_id": 3, "bbox": [0, 0, 64, 48], "iscrowd": 0},
            {"id": 3, "image_id": 10, "category_id": 3, "bbox": [0.5, 1, 10, 10]},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
    }


def write(folder: Path, coco: dict) -> Path:
    """The annotation file and a picture for every image entry that states a size."""
    for image in coco["images"]:
        path = folder / "images" / str(image.get("file_name"))
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image.get("width"), int) and isinstance(image.get("height"), int):
            color = (image["id"] if isinstance(image.get("id"), int) else 0, 100, 200)
            Image.new("RGB", (image["width"], image["height"]), color).save(path)
    (folder / "coco.json").write_text(json.dumps(coco))
    return folder / "coco.json"


def tree(folder: Path) -> dict[str, bytes]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


# ---------------------------------------------------------------------------------- letterbox


def test_letterbox_transform_golden():
    scale_x, scale_y, left, top = letterbox_transform(640, 480, 416)
    assert (scale_x, scale_y, left, top) == (0.65, 0.65, 0, 52)
    boxes = np.array([[10, 20, 100, 200], [300, 100, 600, 470]], float)
    moved = boxes * np.tile([scale_x, scale_y], 2)
    moved += np.tile([left, top], 2)
    assert np.allclose(moved, [[6.5, 65, 65, 182], [195, 117, 390, 357.5]])


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


# ------------------------------------------------------------------------------------- images

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "16", "16rgb_tiff"])
def test_read_image_modes(tmp_path, mode):
    path = tmp_path / "a.png"
    image, expected = Image.fromarray(GREY), np.repeat(GREY[..., None], 3, 2)
    if mode == "16":
        image = Image.fromarray(GREY.astype(np.uint16) * 257)
        assert image.mode == "I;16"
    elif mode == "16rgb_tiff":
        path = tmp_path / "a.tiff"
        image = Image.fromarray(GREY.astype(np.uint16) * 257)
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


# -------------------------------------------------------------------------------- annotations


def test_read_annotations(tmp_path):
    truth = read_annotations(write(tmp_path, make_coco()))
    assert truth.image_ids.tolist() == [30, 10, 20]
    assert truth.file_names.tolist() == ["sub/a.png", "b.png", "c.png"]
    assert truth.counts.tolist() == [1, 2, 0]
    assert truth.categories == [{"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}]
    assert truth.boxes.tolist() == [[0, 0, 64, 48], [2, 4, 10, 20], [0.5, 1, 10.5, 11]]
    assert truth.labels.tolist() == [0, 1, 0]
    assert truth.crowd.tolist() == [False, True, False]


def test_boxes_dropped_and_clipped(tmp_path):
    coco = make_coco()
    boxes = [
        [10, 10, 0, 5],  # no area
        [10, 10, 5, 0.9],  # thin
        [63.5, 10, 5, 5],  # thin once clipped
        [64, 10, 5, 5],  # outside
        [-9, 10, 5, 5],  # outside
        [-4, -2, 10, 10],  # clipped
        [60, 10, 4.005, 5],  # rounding: kept as it is, not counted
    ]
    coco["annotations"] = [
        {"id": i, "image_id": 30, "category_id": 3, "bbox": box} for i, box in enumerate(boxes)
    ]
    truth = read_annotations(write(tmp_path, coco))
    assert truth.boxes.tolist() == [[0, 0, 6, 8], [60, 10, 64, 15]]
    assert truth.drops == {
        "boxes under 1 px dropped": 3,
        "boxes outside of the image dropped": 2,
        "boxes clipped to the image": 1,
    }


def broken(section: str, place: int, **change: object):
    def edit(coco: dict) -> None:
        for key, value in change.items():
            if value == "-":
                del coco[section][place][key]
            else:
                coco[section][place][key] = value

    return edit


BAD = [
    (broken("images", 1, id=30), "duplicate image id: image 30: "),
    (broken("annotations", 1, id=1), "duplicate annotation id: annotation 1: "),
    (broken("categories", 1, id=90), "duplicate category id: category 90: "),
    (broken("annotations", 0, image_id=7), "unknown image: annotation 1: image_id 7"),
    (broken("annotations", 0, category_id=4), "unknown category: annotation 1: .*category_id 4"),
    (broken("annotations", 0, category_id=[]), r"unknown category: annotation 1: .*\[\]"),
    (broken("annotations", 0, bbox=[1, 2, float("nan"), 4]), r"finite.*annotation 1: .*nan"),
    (broken("annotations", 0, bbox=[1, 2, float("inf"), 4]), r"finite.*annotation 1: .*inf"),
    (broken("annotations", 0, bbox=[1, 2, 10**400, 4]), "finite numbers: annotation 1"),
    (broken("annotations", 0, bbox=[1, 2, -3, 4]), r"negative size: annotation 1: image 10: .*-3"),
    (broken("annotations", 0, bbox=[1, 2, 3]), r"four finite numbers: annotation 1: .*\[1, 2, 3\]"),
    (broken("annotations", 0, bbox="1234"), "four finite numbers: annotation 1: .*1234"),
    (broken("annotations", 0, bbox=[1, 2, "3", 4]), "four finite numbers: annotation 1"),
    (broken("annotations", 0, bbox="-"), "annotation without bbox: annotation 1"),
    (broken("annotations", 0, image_id="-"), "annotation without image_id: annotation 1"),
    (broken("annotations", 0, category_id="-"), "annotation without category_id: annotation 1"),
    (broken("annotations", 0, id="-"), "annotation without id: entry 0"),
    (broken("annotations", 0, iscrowd=2), "iscrowd is not 0 or 1: annotation 1: .*2"),
    (broken("images", 0, width="-"), "image without width: image 30: sub/a.png: width is None"),
    (broken("images", 0, height=0), "image without height: image 30: .*height is 0"),
    (broken("images", 0, width="64"), "image without width: image 30: .*'64'"),
    (broken("images", 0, file_name="-"), "image without file_name: image 30"),
    (broken("images", 0, id="x"), "image without id: entry 0"),
    (broken("categories", 0, name="-"), "category without name: category 90"),
    (lambda coco: coco["categories"].clear(), "no categories"),
    (lambda coco: coco["images"].clear(), "empty split"),
    (lambda coco: coco["annotations"].append(5), "annotation without id: entry 3"),
    (lambda coco: coco.pop("images"), "not COCO format: no list under images"),
    (lambda coco: coco.update(annotations={}), "not COCO format: no list under annotations"),
]


@pytest.mark.parametrize(("edit", "message"), BAD)
def test_bad_annotations(tmp_path, edit, message):
    coco = make_coco()
    edit(coco)
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    with pytest.raises(DataError, match=message) as caught:
        read_annotations(tmp_path / "coco.json")
    assert "coco.json: " in str(caught.value)


def test_bad_annotation_files(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: annotation file not found"):
        read_annotations(tmp_path / "none.json")
    for content in (b"{", b"\xff\xfe\x00", b""):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.json: not JSON"):
            read_annotations(tmp_path / "bad.json")


def test_all_problems_at_once(tmp_path):
    coco = make_coco()
    coco["images"].append({"id": 10, "file_name": "d.png", "width": 1, "height": 1})
    extra = {"image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1]}
    coco["annotations"] += [{"id": 100 + i, **extra} for i in range(40)]
    with pytest.raises(DataError) as caught:
        read_annotations(write(tmp_path, coco))
    message = str(caught.value)
    assert "41 problems (duplicate image id 1, unknown image 40)" in message
    assert message.count("unknown image: annotation") == 19 and "… and 21 more" in message


def test_skip_broken_drops_and_counts(tmp_path):
    coco = make_coco()
    coco["images"][0].pop("width")
    coco["annotations"][2]["bbox"] = [0, 0, -1, 1]
    path = write(tmp_path, coco)
    truth = read_annotations(path, skip_broken=True)
    assert truth.image_ids.tolist() == [10, 20] and truth.boxes.tolist() == [[2, 4, 10, 20]]
    assert (
        truth.drops.items()
        >= {
            "image without width": 1,
            "annotation of a broken image": 1,
            "box of negative size": 1,
        }.items()
    )
    coco["categories"][0].pop("name")  # labels would shift: never skipped
    with pytest.raises(DataError, match="category without name: category 90"):
        read_annotations(write(tmp_path, coco), skip_broken=True)
    coco = make_coco()
    coco["images"] = [{"id": 1}]
    with pytest.raises(DataError, match="empty split"):
        read_annotations(write(tmp_path, coco), skip_broken=True)


def test_some_classes_of_an_annotation_file(tmp_path):
    """Image 20 never had an object, image 30 loses its own; a broken box counts as ever."""
    path = write(tmp_path, make_coco())
    truth = read_annotations(path, classes=("toothbrush",))
    assert truth.categories == [{"id": 90, "name": "toothbrush"}]
    assert truth.image_ids.tolist() == [30, 10, 20] and truth.counts.tolist() == [0, 1, 0]
    assert truth.boxes.tolist() == [[2, 4, 10, 20]] and truth.labels.tolist() == [0]
    wanted = {"boxes of other classes left out": 2, "images left without objects": 1}
    assert {rule: n for rule, n in truth.drops.items() if n} == wanted
    whole, both = read_annotations(path), read_annotations(path, classes=("toothbrush", "car"))
    assert both.categories == whole.categories and both.labels.tolist() == [0, 1, 0]
    assert not any(both.drops.values()) and not set(wanted) & set(whole.drops)
    with pytest.raises(DataError, match=r"coco\.json: .*: cup: not in it; .* are car, toothbrush$"):
        read_annotations(path, classes=("car", "cup"))
    coco = make_coco()
    coco["annotations"][1]["bbox"] = [0, 0, -1, 1]  # of a car
    with pytest.raises(DataError, match="box of negative size: annotation 2"):
        read_annotations(write(tmp_path, coco), classes=("toothbrush",))


# -------------------------------------------------------------------------------------- build


@pytest.fixture
def made(tmp_path):
    """Annotations, image folder and the folder of a pack that is there already."""
    annotations = write(tmp_path, make_coco())
    images, out = tmp_path / "images", tmp_path / "packs" / "train-32"
    build(annotations, images, out, 32, progress=silent)
    return annotations, images, out


def test_build(made):
    annotations, images, out = made
    result = open_pack(out, annotations)
    assert result.size == 32 and result.path == out
    assert result.hash == sources.file_hash(annotations)
    assert result.categories == [{"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}]
    assert isinstance(result.images, np.memmap)
    assert result.image_ids.tolist() == [30, 10, 20] and result.counts.tolist() == [1, 2, 0]
    assert result.sizes.tolist() == [[64, 48], [32, 64], [20, 20]]
    for i, name in enumerate(["sub/a.png", "b.png", "c.png"]):
        assert np.array_equal(result.images[i], letterbox(read_image(images / name), 32))
    # 64x48 -> 32x24 at y 4; 32x64 -> 16x32 at x 8
    expected = [[[0, 4, 32, 28], [0] * 4], [[9, 2, 13, 10], [8.25, 0.5, 13.25, 5.5]], [[0] * 4] * 2]
    assert result.gt_boxes.tolist() == expected and result.gt_boxes.dtype == np.float32
    assert result.gt_labels.tolist() == [[0, 0], [1, 0], [0, 0]]
    assert result.gt_labels.dtype == np.int64
    assert result.gt_crowd.tolist() == [[False, False], [True, False], [False, False]]
    assert [p.name for p in out.parent.iterdir()] == ["train-32"]


def test_images_without_any_object(tmp_path):
    coco = make_coco()
    coco["annotations"] = []
    annotations = write(tmp_path, coco)
    result = build(annotations, tmp_path / "images", tmp_path / "out", 32, progress=silent)
    assert result.gt_boxes.shape == (3, 1, 4) and result.counts.tolist() == [0, 0, 0]


def test_build_again_only_when_needed(made, monkeypatch):
    annotations, images, out = made
    before = tree(out)
    with monkeypatch.context() as patch:
        patch.setattr(pack, "read_image", None)  # decoding again would fail
        lines = []
        build(annotations, images, out, 32, progress=lines.append)
        assert lines == ["train-32: 3 images, packed already"] and tree(out) == before
    coco = make_coco()
    coco["annotations"].pop()
    changed = write(out.parent.parent, coco)
    with pytest.raises(DataError, match=r"train-32: made from other annotations than .*coco.json"):
        open_pack(out, changed)
    assert build(changed, images, out, 32, progress=silent).counts.tolist() == [1, 1, 0]
    assert build(changed, images, out, 16, progress=silent).size == 16
    (out / "counts.npy").unlink()
    assert build(changed, images, out, 16, progress=silent).counts.tolist() == [1, 1, 0]


def test_other_classes_make_another_pack(made):
    annotations, images, out = made
    pixels, lines = open_pack(out).pixels, []

    def again(*classes):
        return build(annotations, images, out, 32, progress=lines.append, classes=classes)

    assert again("car").categories == [{"id": 3, "name": "car"}]
    result = open_pack(out, annotations, ("car",))
    assert result.gt_labels.tolist() == [[0], [0], [0]] and result.counts.tolist() == [1, 1, 0]
    assert result.pixels == pixels and json.loads((out / "pack.json").read_text())["classes"] == [
        "car"
    ]
    assert "  boxes of other classes left out: 1" in lines
    assert not any("images left" in line for line in lines)  # each has a car, or had nothing
    with pytest.raises(DataError, match=r"train-32: made with the classes car, not all; run `dvc"):
        open_pack(out, annotations)
    assert again("toothbrush", "car").counts.tolist() == [1, 2, 0]
    lines.clear()
    again("car", "toothbrush")  # their order does not matter
    assert lines == ["train-32: 3 images, packed already"]


def test_a_pack_from_before_there_was_a_choice_of_classes(made):
    annotations, images, out = made
    meta = json.loads((out / "pack.json").read_text())
    assert meta.pop("classes") == []
    (out / "pack.json").write_text(json.dumps(meta))
    lines = []
    build(annotations, images, out, 32, progress=lines.append)
    assert lines == ["train-32: 3 images, packed already"]
    assert len(open_pack(out, annotations).counts) == 3


def test_more_images_than_workers(tmp_path):
    coco = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 8, "height": 8} for i in range(1, 101)
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "x"}],
    }
    annotations = write(tmp_path, coco)
    result = build(annotations, tmp_path / "images", tmp_path / "out", 8, progress=silent)
    assert result.images[:, 0, 0, 0].tolist() == list(range(1, 101))  # colour = id: the order


def test_broken_images_are_reported_together(made):
    annotations, images, out = made
    before = tree(out.parent)
    (images / "sub/a.png").unlink()
    (images / "c.png").unlink()
    with pytest.raises(DataError) as caught:
        build(annotations, images, out, 16, progress=silent)
    assert "2 problems (missing image 2)" in str(caught.value)
    assert "image 30: " in str(caught.value) and "sub/a.png" in str(caught.value)
    (images / "sub/a.png").write_bytes(b"no image")
    Image.new("RGB", (20, 21)).save(images / "c.png")
    with pytest.raises(DataError) as caught:
        build(annotations, images, out, 16, progress=silent)
    assert "image 30: " in str(caught.value) and "sub/a.png: unreadable" in str(caught.value)
    assert "image 20: " in str(caught.value) and "20 x 21 pixels" in str(caught.value)
    assert tree(out.parent) == before
    shutil.rmtree(images)
    with pytest.raises(DataError, match="images: image folder not found"):
        build(annotations, images, out, 16, progress=silent)


def test_skip_broken_images(made):
    annotations, images, out = made
    (images / "sub/a.png").write_bytes(b"no image")
    lines = []
    result = build(annotations, images, out, 32, skip_broken=True, progress=lines.append)
    assert result.image_ids.tolist() == [10, 20] and result.images.shape == (2, 32, 32, 3)
    assert np.array_equal(result.images[0], letterbox(read_image(images / "b.png"), 32))
    assert result.gt_labels.tolist() == [[1, 0], [0, 0]] and result.counts.tolist() == [2, 0]
    assert "  broken image: 1" in lines
    for image in (images / "b.png", images / "c.png"):
        image.unlink()
    with pytest.raises(DataError, match="3 problems"):
        build(annotations, images, out, 16, skip_broken=True, progress=silent)
    assert open_pack(out).size == 32


def test_disk_full(made, monkeypatch):
    annotations, images, out = made
    before = tree(out.parent)
    usage = namedtuple("usage", "free")(1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(OSError, match=r"needs 0\.00 GB, 0\.00 GB are free") as caught:
            build(annotations, images, out, 16, progress=silent)
    assert caught.value.errno == errno.ENOSPC and tree(out.parent) == before

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)  # runs out half-way
    with pytest.raises(OSError, match="No space left"):
        build(annotations, images, out, 16, progress=silent)
    assert tree(out.parent) == before


def test_interruption_keeps_the_old_pack(made, monkeypatch):
    annotations, images, out = made
    before = tree(out.parent)
    (out.parent / ".train-32.tmp").mkdir()  # left over by a killed process
    (out.parent / ".train-32.tmp/images.npy").write_bytes(b"half")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pack, "letterbox", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(annotations, images, out, 16, progress=silent)
    assert tree(out.parent) == before
    with pytest.raises(KeyboardInterrupt):
        build(annotations, images, out.with_name("val-16"), 16, progress=silent)
    assert tree(out.parent) == before


# --------------------------------------------------------------------------------------- open


def test_open_pack_errors(made, tmp_path):
    _, _, out = made
    with pytest.raises(FileNotFoundError, match=r"nothing: no pack here; run `dvc repro pack`"):
        open_pack(tmp_path / "nothing")
    good = {name: (out / name).read_bytes() for name in tree(out)}

    def fails(kind: type, message: str) -> None:
        with pytest.raises(kind, match=message):
            open_pack(out)
        for name, content in good.items():
            (out / name).write_bytes(content)

    (out / "pack.json").unlink()
    fails(FileNotFoundError, "train-32: incomplete pack; run `dvc repro pack`")
    (out / "gt_boxes.npy").unlink()
    fails(FileNotFoundError, r"gt_boxes\.npy: missing")
    (out / "images.npy").write_bytes(good["images.npy"][:2000])
    fails(DataError, r"images\.npy: damaged")
    (out / "pack.json").write_text("{")
    fails(DataError, "damaged pack.json")
    (out / "pack.json").write_text('{"format": 0}')
    fails(DataError, "another format")
    np.save(out / "counts.npy", np.zeros(7, np.int64))
    fails(DataError, r"counts\.npy: damaged: int64 \(7,\), expected \(3,\)")
    np.save(out / "gt_labels.npy", np.zeros((3, 2), np.int32))
    fails(DataError, r"gt_labels\.npy: damaged: int32")
    np.save(out / "sizes.npy", np.array([{"a": 1}], object), allow_pickle=True)
    fails(DataError, r"sizes\.npy: damaged: .*Python objects")
    open_pack(out)


# -------------------------------------------------------------------------------------- stage


def make_config(profile: str, input_size: int) -> SimpleNamespace:
    data = SimpleNamespace(
        source="folder", images="images", train_annotations="coco.json",
        val_annotations="val.json", pack_size=32, skip_broken=False, classes=(),
    )  # fmt: skip
    return SimpleNamespace(profile=profile, data=data, model=SimpleNamespace(input_size=input_size))


def test_prepare_packs(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    shutil.copy(write(tmp_path, make_coco()), tmp_path / "val.json")
    configs = [make_config("p", size) for size in (16, 24, 16)]
    path = prepare_packs(configs, silent)
    assert path == tmp_path / "data/p/packs.json" and str(tmp_path) not in path.read_text()
    summary = json.loads(path.read_text())
    assert list(summary) == ["train-32", "val-16", "val-24"]
    wanted = {"size": 24, "images": 3, "boxes": 3, "crowds": 1, "classes": 2}
    assert summary["val-24"].items() >= wanted.items()
    assert pack_path(configs[0], "val") == tmp_path / "data/p/packs/val-24"
    assert open_pack(pack_path(configs[0], "train"), tmp_path / "coco.json").size == 32
    configs[0].data.classes = ("car",)
    boxes = [p["boxes"] for p in json.loads(prepare_packs(configs, silent).read_text()).values()]
    assert boxes == [2, 2, 2]
    configs[0].data.classes = ()
    with pytest.raises(ValueError, match="one profile is needed"):
        prepare_packs([make_config("p", 16), make_config("q", 16)], silent)

    coco = make_coco()
    coco["categories"][0]["name"] = "brush"
    (tmp_path / "val.json").write_text(json.dumps(coco))
    with pytest.raises(DataError, match=r"val\.json: its categories differ"):
        prepare_packs(configs, silent)
    monkeypatch.setattr(cli, "load_config", lambda experiment, profile: configs[0])
    with pytest.raises(DataError, match=r"its categories differ"):
        cli.run("pack", "--profile", "p")


def test_boxes_return_to_the_image():
    """150 x 80 lie in rows 22 to 73 of the canvas, at 0.64 horizontally and 51 / 80 vertically."""
    canvas = np.array([[32, 22 + 51 / 4, 64, 22 + 51 / 2], [-5, 0, 96, 96], [90, 80, 99, 99]])
    wanted = np.array([[50, 20, 100, 40], [0, 0, 150, 80], [140.625, 80, 150, 80]])
    np.testing.assert_allclose(boxes_on_image(canvas, 150, 80, 96), wanted, rtol=1e-12)
    assert boxes_on_image(np.zeros((0, 4)), 150, 80, 96).shape == (0, 4)


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
