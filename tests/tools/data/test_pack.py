import errno
import json
import shutil
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import as_detections, make_coco, raising, read, silent, tree, use_root, write_coco
from PIL import Image

from lightdet_core.config import DataError, UserError
from lightdet_core.evaluate import coco_metrics
from lightdet_core.machinery import packs
from lightdet_core.machinery.files import split_paths
from lightdet_core.machinery.images import boxes_on_image, letterbox, read_image
from lightdet_core.machinery.packs import (
    coco_results,
    open_pack,
    open_split,
    pack_path,
    read_truth,
)
from lightdet_tools import cli
from lightdet_tools.data import pack, sources
from lightdet_tools.data.pack import build, prepare_packs


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


def broken_box(coco):
    coco["annotations"][0]["bbox"] = [1, 2, -3, 4]
    return coco


def crowds_only(coco):
    for one in coco["annotations"]:
        one["iscrowd"] = 1


NOTHING = {
    "no annotations": (lambda coco: coco["annotations"].clear(), "evaluate; both"),
    "crowds": (crowds_only, "evaluate: crowds 3; both"),
    "ignored": (lambda coco: [a.update(ignore=1) for a in coco["annotations"]],
                "evaluate: boxes with `ignore` that count as crowds 3, crowds 3; both"),
    "thin": (lambda coco: [a.update(bbox=[0, 0, 2, 0.5]) for a in coco["annotations"]],
             "evaluate: boxes under 1 px, evaluated but not learnt 3; both"),
    "outside": (lambda coco: [a.update(bbox=[99, 0, 9, 9]) for a in coco["annotations"]],
                "evaluate: boxes outside of the image dropped 3; both"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTHING)
def test_a_split_without_an_object_is_refused_before_its_images_are_read(
    tmp_path, monkeypatch, case
):
    monkeypatch.setattr(pack, "read_image", None)
    edit, message = NOTHING[case]
    edit(coco := make_coco())
    annotations = write_coco(tmp_path, coco)
    with pytest.raises(DataError, match=rf"coco\.json: no object is left to learn or to {message}"):
        build(annotations, tmp_path / "images", tmp_path / "out", 32, progress=silent)
    assert not (tmp_path / "out").exists()


def test_broken_images_with_all_objects_are_refused(tmp_path):
    annotations = write_coco(tmp_path, make_coco())
    for name in ("sub/a.png", "b.png"):
        (tmp_path / "images" / name).unlink()
    with pytest.raises(DataError, match="images: no object is left"):
        build(annotations, tmp_path / "images", tmp_path / "out", 32, True, silent)


def test_other_pictures_make_another_pack(made, monkeypatch):
    """Another folder, a picture that was changed in place, another Pillow."""
    annotations, images, out = made
    before, lines = open_pack(out).pixels, []
    other = images.with_name("images2")
    shutil.copytree(images, other)
    Image.new("RGB", (64, 48), (9, 9, 9)).save(other / "sub/a.png")
    after = build(annotations, other, out, 32, progress=silent).pixels
    assert after != before
    Image.new("RGB", (64, 48), (30, 100, 200)).save(other / "sub/a.png")
    assert build(annotations, other, out, 32, progress=silent).pixels == before
    assert build(annotations, other, out, 32, progress=lines.append).pixels == before
    assert lines == ["train-32: 3 images, packed already"]
    monkeypatch.setattr(pack.PIL, "__version__", "13.1.0")
    build(annotations, other, out, 32, progress=lines.append)
    assert len(lines) > 1 and "packing" in lines[1]
    shutil.move(other / "sub", images.with_name("elsewhere"))
    (other / "sub").symlink_to(images.with_name("elsewhere"))
    build(annotations, other, out, 32, progress=silent)
    Image.new("RGB", (64, 48), (1, 2, 3)).save(other / "sub/a.png")  # behind a link
    assert build(annotations, other, out, 32, progress=silent).pixels not in (before, after)
    shutil.rmtree(other)
    with pytest.raises(DataError, match=r"images2: image folder not found; data\.images in"):
        build(annotations, other, out, 32, progress=silent)


@pytest.mark.parametrize("turn", [3, 6])
def test_an_orientation_that_the_size_cannot_decide(tmp_path, turn):
    """Image 30 is as stored though it has a turn of 90 degrees: what of one that keeps its size?"""
    annotations, images = write_coco(tmp_path, make_coco()), tmp_path / "images"

    def give(name, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.open(images / name).save(images / name, exif=exif)

    give("c.png", turn)  # 20 x 20
    build(annotations, images, tmp_path / "out", 32, progress=silent)  # nothing speaks against it
    give("sub/a.png", 6)
    with pytest.raises(
        DataError, match=rf"\(1 orien.* cannot decide.*\n.*image 20: .*c\.png: .* {turn},"
    ):
        build(annotations, images, tmp_path / "out", 32, progress=silent)
    lines = []
    pack = build(annotations, images, tmp_path / "out", 32, True, lines.append)
    assert pack.image_ids.tolist() == [30, 10]
    named = lines[lines.index("  broken image: 1") + 1]
    assert named.startswith(f"    image 20: {images / 'c.png'}: ")


def test_the_first_of_what_is_changed_are_named(tmp_path):
    coco, lines = make_coco(), []
    coco["annotations"] += [
        {"id": 100 + i, "image_id": 30, "category_id": 3, "bbox": [-2, 1, 9, 9 + i]}
        for i in range(7)
    ]
    build(
        write_coco(tmp_path, coco), tmp_path / "images", tmp_path / "out", 32, False, lines.append
    )
    start = lines.index("  boxes clipped to the image: 7")
    named = [f"    annotation {100 + i}" for i in range(5)]
    assert lines[start + 1 : start + 7] == [*named, "    … and 2 more"]


def test_packs_within_the_folder_of_images_are_no_pictures(tmp_path):
    annotations, lines = write_coco(tmp_path, make_coco()), []
    shutil.copytree(tmp_path / "images", tmp_path, dirs_exist_ok=True)
    build(annotations, tmp_path, tmp_path / "packs/train-32", 32, progress=silent)
    (tmp_path / "manifest.json").write_text("{}")
    build(annotations, tmp_path, tmp_path / "packs/train-32", 32, progress=lines.append)
    assert lines == ["train-32: 3 images, packed already"]


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
    changed = write_coco(out.parent.parent, coco)
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
    assert result.pixels == pixels and read(out / "pack.json")["classes"] == ["car"]
    assert "  boxes of other classes left out: 1" in lines
    assert not any("images left" in line for line in lines)  # each has a car, or had nothing
    with pytest.raises(DataError, match=r"train-32: made with the classes car, not all; run light"):
        open_pack(out, annotations)
    assert again("toothbrush", "car").counts.tolist() == [1, 2, 0]
    lines.clear()
    again("car", "toothbrush")  # their order does not matter
    assert lines == ["train-32: 3 images, packed already"]


def test_a_pack_of_an_older_format_is_refused_and_made_again(made):
    annotations, images, out = made
    meta = read(out / "pack.json")
    old = {key: value for key, value in meta.items() if key != "classes"} | {"format": 2}
    (out / "pack.json").write_text(json.dumps(old))
    with pytest.raises(DataError, match=r"another format; .*lightdet pack"):
        open_pack(out)
    build(annotations, images, out, 32, progress=silent)
    assert read(out / "pack.json") == meta and len(open_pack(out, annotations).counts) == 3


def test_more_images_than_workers(tmp_path):
    ids, size = range(1, 101), {"width": 8, "height": 8}
    coco = {"images": [{"id": i, "file_name": f"{i}.png", **size} for i in ids]}
    coco["annotations"] = [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 4, 4]}]
    annotations = write_coco(tmp_path, coco | {"categories": [{"id": 1, "name": "x"}]})
    result = build(annotations, tmp_path / "images", tmp_path / "out", 8, progress=silent)
    assert result.images[:, 0, 0, 0].tolist() == list(ids)  # colour = id: the order
    assert result.gt_boxes.shape == (100, 1, 4) and result.counts.nonzero()[0].tolist() == [6]


def test_broken_images_are_reported_together(made):
    annotations, images, out = made
    before = tree(out.parent)
    (images / "sub/a.png").unlink()
    (images / "c.png").unlink()
    with pytest.raises(DataError, match=r"2 problems \(2 missing image\)(?s:.*)image 30: .*sub/a"):
        build(annotations, images, out, 16, progress=silent)
    (images / "sub/a.png").write_bytes(b"no image")
    Image.new("RGB", (20, 21)).save(images / "c.png")
    wanted = r"image 30: .*sub/a\.png: unreadable(?s:.*)image 20: .*20 x 21 pixels"
    with pytest.raises(DataError, match=wanted):
        build(annotations, images, out, 16, progress=silent)
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
    build(annotations, images, out, 32, progress=lines.append)  # it stays in use
    told = f"packed already, with --skip-broken; if what it left out is mended, delete {out} "
    assert told in lines[-1] and "broken image: 1" in lines[-1]
    for image in (images / "b.png", images / "c.png"):
        image.unlink()
    with pytest.raises(DataError, match="3 problems"):
        build(annotations, images, out, 16, skip_broken=True, progress=silent)
    assert open_pack(out).size == 32


def test_truth_is_what_the_file_says_of_the_packed_images(tmp_path):
    """Areas and crowds as stated; a box too thin to learn from is still one."""
    coco = make_coco()
    coco["annotations"][1]["area"] = 1234.5
    coco["annotations"].append({"id": 4, "image_id": 20, "category_id": 3, "bbox": [1, 1, 0.5, 9]})
    annotations = write_coco(tmp_path, coco)
    pack = build(annotations, tmp_path / "images", tmp_path / "out", 32, progress=silent)
    assert pack.counts.tolist() == [1, 2, 0]
    truth, defaults = read_truth(pack), ({"area": 128}, {}, {"area": 100.0}, {"area": 4.5})
    wanted = [
        a | {"iscrowd": 0} | a | more for a, more in zip(coco["annotations"], defaults, strict=True)
    ]
    assert truth["annotations"] == wanted and truth["images"] == coco["images"]
    assert truth["categories"] == pack.categories


def test_packed_boxes_are_the_truth(tmp_path):
    """Boxes that stick out are clipped in both, those outside are in neither: AP 1."""
    coco = make_coco()
    coco["annotations"][1]["bbox"] = [-40, -30, 90, 60]
    coco["annotations"][2]["bbox"] = [20, 30, 60, 80]
    coco["annotations"].append({"id": 4, "image_id": 20, "category_id": 3, "bbox": [20, 0, 5, 9]})
    annotations, lines = write_coco(tmp_path, coco), []
    pack = build(annotations, tmp_path / "images", tmp_path / "out", 32, progress=lines.append)
    assert "  boxes clipped to the image: 2" in lines
    assert "  boxes outside of the image dropped: 1" in lines
    found = []
    for row, count in enumerate(pack.counts):
        size = (*map(int, pack.sizes[row]), pack.size)
        xyxy = boxes_on_image(pack.gt_boxes[row, :count].astype(float), *size)
        labels = pack.gt_labels[row, :count].tolist()
        scored = [0.9] * count, labels, int(pack.image_ids[row])
        found += coco_results(xyxy, *scored, pack.categories)
    metrics = coco_metrics(read_truth(pack), found)
    assert metrics["AP"] == metrics["AP75"] == pytest.approx(1)


AREAS = [-1, -1e11, 0, 0.01, 1e11, 10**400, "100", None, True, float("nan")]


@pytest.mark.parametrize("area", AREAS)
def test_an_area_that_no_box_has_is_taken_from_the_box(tmp_path, area):
    coco = make_coco()
    coco["annotations"][1]["area"] = area
    annotations, lines = write_coco(tmp_path, coco), []
    pack = build(annotations, tmp_path / "images", tmp_path / "out", 32, progress=lines.append)
    truth = read_truth(pack)
    assert [one["area"] for one in truth["annotations"]] == [128, 64 * 48, 100]
    assert "  impossible areas, taken from the box: 1" in lines
    metrics = coco_metrics(truth, as_detections(truth["annotations"][2:]))  # one of two cars
    assert metrics["AP"] == pytest.approx(51 / 101)  # precision 1 up to recall 1/2
    assert metrics["APl"] == -1 and metrics["APm"] == 0


def test_truth_lacks_what_the_pack_lacks(tmp_path):
    """With skip_broken: one picture is damaged, one has no size, annotations have no usable box."""
    coco = make_coco()
    coco["images"].append({"id": 40, "file_name": "d.png", "height": 9})
    good = coco["annotations"][2]
    broken = [{"id": 5, "image_id": 10, "category_id": 3}, {"id": 6, "image_id": 10, "bbox": [1]}]
    broken += [good, {**good, "id": None}, {**good, "id": 7, "image_id": [10]}]
    broken += [{**good, "id": 8, "iscrowd": None}, {**good, "id": 9, "bbox": [1, 2, 3, True]}]
    broken += [{**good, "id": 10, "image_id": 40}]
    coco["annotations"] += broken
    annotations = write_coco(tmp_path, coco)
    (tmp_path / "images/sub/a.png").write_bytes(b"no image")
    pack = build(annotations, tmp_path / "images", tmp_path / "out", 32, True, silent)
    truth = read_truth(pack)
    assert [image["id"] for image in truth["images"]] == [10, 20] == pack.image_ids.tolist()
    assert [one["id"] for one in truth["annotations"]] == [1, 3]
    assert coco_metrics(truth, as_detections([good]))["AP"] == pytest.approx(1)


def test_classes_that_are_left_out_are_not_missed(tmp_path):
    coco = make_coco()
    coco["annotations"][0]["iscrowd"] = 0
    annotations, images = write_coco(tmp_path, coco), tmp_path / "images"
    pack = build(annotations, images, tmp_path / "out", 32, progress=silent, classes=("car",))
    truth = read_truth(pack)
    assert [image["id"] for image in truth["images"]] == [30, 10, 20]
    cars = as_detections(coco["annotations"][1:])
    metrics = coco_metrics(truth, cars)
    assert metrics["AP"] == pytest.approx(1) and metrics["per_class"] == pytest.approx({"car": 1})
    assert coco_metrics(coco, cars)["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize("damage", [None, "{", ""])
def test_a_pack_whose_truth_is_lost_is_named_and_made_again(made, damage):
    annotations, images, out = made
    before = tree(out)
    (out / "truth.json").unlink() if damage is None else (out / "truth.json").write_text(damage)
    with pytest.raises(DataError, match=r"train-32/truth\.json: .*lightdet pack --profile"):
        read_truth(open_pack(out))
    build(annotations, images, out, 32, progress=silent)
    assert tree(out) == before


def test_disk_full(made, monkeypatch):
    annotations, images, out = made
    before = tree(out.parent)
    usage = namedtuple("usage", "free")(1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(OSError, match=r"needs 0\.00 GB, 0\.00 GB are free") as caught:
            build(annotations, images, out, 16, progress=silent)
    assert caught.value.errno == errno.ENOSPC and tree(out.parent) == before
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(np, "save", raising(full))  # runs out half-way
    with pytest.raises(OSError, match="No space left"):
        build(annotations, images, out, 16, progress=silent)
    assert tree(out.parent) == before


def test_interruption_keeps_the_old_pack(made, monkeypatch):
    annotations, images, out = made
    before = tree(out.parent)
    (out.parent / ".train-32.tmp").mkdir()  # left over by a killed process
    (out.parent / ".train-32.tmp/images.npy").write_bytes(b"half")
    monkeypatch.setattr(pack, "letterbox", raising(KeyboardInterrupt))
    for place in (out, out.with_name("val-16")):
        with pytest.raises(KeyboardInterrupt):
            build(annotations, images, place, 16, progress=silent)
        assert tree(out.parent) == before


def make_config(profile: str, input_size: int) -> SimpleNamespace:
    data = SimpleNamespace(
        source="folder", images="images", train_annotations="coco.json",
        val_annotations="val.json", pack_size=32, classes=(),
    )  # fmt: skip
    return SimpleNamespace(profile=profile, data=data, model=SimpleNamespace(input_size=input_size))


def test_prepare_packs(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    shutil.copy(write_coco(tmp_path, make_coco()), tmp_path / "val.json")
    configs = [make_config("p", size) for size in (16, 24, 16)]
    path = prepare_packs(configs, silent)
    assert path == tmp_path / "data/p/packs.json" and str(tmp_path) not in path.read_text()
    summary = read(path)
    assert list(summary) == ["train-32", "val-16", "val-24"]
    wanted = {"size": 24, "images": 3, "boxes": 3, "crowds": 1, "classes": 2}
    assert summary["val-24"].items() >= wanted.items()
    assert pack_path(configs[1], "val") == tmp_path / "data/p/packs/val-24"
    assert open_pack(pack_path(configs[0], "train"), tmp_path / "coco.json").size == 32
    configs[0].data.classes = ("car",)
    assert [p["boxes"] for p in read(prepare_packs(configs, silent)).values()] == [2, 2, 2]
    configs[0].data.classes = ()
    prepare_packs(configs, silent)
    open_split(configs[0], "train")
    configs[0].data.images = "images2"
    with pytest.raises(
        DataError,
        match=r"made from the images in .*images, not .*images2; run lightdet pack --profile p$",
    ):
        open_split(configs[0], "train")
    configs[0].data.images = "images"
    elsewhere = tmp_path / "coco.json", tmp_path / "elsewhere"
    monkeypatch.setattr(packs, "split_paths", lambda config, split: elsewhere)
    configs[0].data.source = "minicoco"  # its annotations stay where LIGHTDET_COCO is another
    with pytest.raises(DataError, match=r"not .*elsewhere; run .* or set LIGHTDET_COCO as it was"):
        open_split(configs[0], "train")
    configs[0].data.source = "bccd"
    open_split(configs[0], "train")
    configs[0].data.source = "folder"
    monkeypatch.setattr(packs, "split_paths", split_paths)
    (tmp_path / "linked").symlink_to("images")
    configs[0].data.images = "linked"
    open_split(configs[0], "train")
    configs[0].data.images = "images"
    lines = []
    prepare_packs(configs, lines.append)
    assert [line for line in lines if "packed already" not in line] == [
        "3 pictures are in train and in val: AP is then partly that of learnt ones",
        "train: nothing to learn of 1 of 2 classes: toothbrush",  # but a crowd
        "val: no AP of 1 of 2 classes: toothbrush",
    ]
    coco = make_coco()
    coco["annotations"].append(coco["annotations"][0] | {"id": 9, "bbox": [1, 1, 9, 0.5]})
    coco["annotations"][-1]["iscrowd"] = 0
    (tmp_path / "val.json").write_text(json.dumps(coco))
    lines.clear()
    prepare_packs(configs, lines.append)
    assert "val: no AP" not in "".join(lines)  # under 1 px: not learnt, but evaluated
    (tmp_path / "val.json").write_text(json.dumps(broken_box(make_coco())))
    with pytest.raises(DataError, match="lightdet pack --profile p --skip-broken"):
        prepare_packs(configs, silent)
    (tmp_path / "val.json").write_text(json.dumps(make_coco()))
    with pytest.raises(ValueError, match="one profile is needed"):
        prepare_packs([make_config("p", 16), make_config("q", 16)], silent)

    coco = make_coco()
    coco["categories"][0]["id"] += 1
    for one in coco["annotations"]:
        one["category_id"] = coco["categories"][0]["id"]
    (tmp_path / "val.json").write_text(json.dumps(coco))
    with pytest.raises(UserError, match=r"list the same in both, and each name once$"):
        prepare_packs(configs, silent)

    coco = make_coco()
    coco["categories"][0]["name"] = "brush"
    (tmp_path / "val.json").write_text(json.dumps(coco))
    wanted = (
        r"coco\.json: its categories differ .*: label 1 .* \(90, 'toothbrush'\) here, .*'brush'"
    )
    with pytest.raises(UserError, match=wanted):
        prepare_packs(configs, silent)
    monkeypatch.setattr(cli, "load_config", lambda experiment, profile, params: configs[0])
    with pytest.raises(UserError, match=r"its categories differ"):
        cli.run("pack", "--profile", "p")
