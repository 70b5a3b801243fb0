"""sources.py: data of every kind comes into COCO format."""

import hashlib
import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import HERE, silent, tree, use_root
from PIL import Image

from lightdet_core.config import DataError, UserError, load_config
from lightdet_core.machinery.files import split_paths
from lightdet_tools import cli
from lightdet_tools.data import download, scenes, sources
from lightdet_tools.data.annotations import read_annotations
from lightdet_tools.data.sources import prepare


def make_config(source: str, profile: str = "p", **data: object) -> SimpleNamespace:
    fields = {
        "source": source, "images": "", "train_annotations": "", "val_annotations": "",
        "num_train": 11, "num_val": 2, "seed": 3, "image_size": 128,
    }  # fmt: skip
    return SimpleNamespace(profile=profile, data=SimpleNamespace(**{**fields, **data}))


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    use_root(monkeypatch, tmp_path)
    for name in ("LIGHTDET_BCCD", "LIGHTDET_COCO", "LIGHTDET_MINICOCO"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


# ---------------------------------------------------------------------------------------- demo


@pytest.mark.parametrize("per_worker", [50, 5])  # one process; two
def test_demo_matches_the_scenes(root, monkeypatch, per_worker):
    monkeypatch.setattr(sources, "SCENES_PER_WORKER", per_worker)
    config = make_config("demo")
    manifest = json.loads(prepare(config, silent).read_text())
    annotations, images = split_paths(config, "train")
    coco = json.loads(annotations.read_text())
    assert annotations == root / "data/p/annotations/train.json"
    assert [i["file_name"] for i in coco["images"]][:2] == ["000001.png", "000002.png"]
    categories = [(c["id"], c["name"]) for c in coco["categories"]]
    assert categories == sorted((i, name) for name, i in scenes.CLASSES.items())
    names, boxes = dict(categories), 0
    for i, image in enumerate(coco["images"]):
        assert (image["width"], image["height"]) == (128, 128)
        picture, objects = scenes.draw_scene(3, i, 128, 128)
        assert np.array_equal(np.asarray(Image.open(images / image["file_name"])), picture)
        mine = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        assert [names[a["category_id"]] for a in mine] == [o.name for o in objects]
        assert [a["iscrowd"] for a in mine] == [int(o.crowd) for o in objects]
        for a, o in zip(mine, objects, strict=True):
            x, y, w, h = a["bbox"]
            assert np.allclose([x, y, x + w, y + h], o.box, atol=0.011)
            assert a["area"] == pytest.approx(w * h, abs=0.01)
            assert a["segmentation"] == []
        boxes += len(mine)
    assert boxes > 0 and len({a["id"] for a in coco["annotations"]}) == boxes
    assert manifest["splits"]["train"] == {
        "images": 11,
        "boxes": boxes,
        "crowds": sum(a["iscrowd"] for a in coco["annotations"]),
        "classes": len(scenes.CLASSES),
        "sha256": sources.file_hash(annotations),
    }
    assert manifest["splits"]["val"]["images"] == 2 and str(root) not in json.dumps(manifest)


def test_demo_is_deterministic_and_made_once(root, monkeypatch):
    config = make_config("demo", num_train=2)
    path = prepare(config, silent)
    first = tree(root / "data/p")
    assert first["images/train/000001.png"] != first["images/val/000001.png"]
    other = tree(prepare(make_config("demo", profile="q", num_train=2), silent).parent)
    assert other["images/train/000002.png"] == first["images/train/000002.png"]
    path.unlink()  # as a pipeline does before it runs a stage again
    with monkeypatch.context() as patch:
        patch.setattr(scenes, "draw_scene", None)  # drawing again would fail
        assert tree(prepare(config, silent).parent) == first
    (root / "data/p/images/val/000001.png").write_bytes(b"damaged")
    prepare(config, silent)
    assert tree(root / "data/p") == first


def test_demo_settings_and_pixels_change_the_annotations(root, monkeypatch):
    config = make_config("demo", num_train=1)
    before = tree(prepare(config, silent).parent)
    config.data.seed = 4
    after = tree(prepare(config, silent).parent)
    assert before["annotations/train.json"] != after["annotations/train.json"]

    def darker(*arguments):
        picture, objects = real(*arguments)
        return picture // 2, objects

    real = scenes.draw_scene
    monkeypatch.setattr(scenes, "draw_scene", darker)
    (root / "data/p/generated.json").unlink()
    made = [after, tree(prepare(config, silent).parent)]
    hashes = [json.loads(x["annotations/train.json"])["info"]["pixels_sha256"] for x in made]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_demo_interrupted_keeps_the_old_set(root, monkeypatch, error):
    config = make_config("demo", num_train=2)
    prepare(config, silent)
    before = tree(root / "data/p")
    real = scenes.draw_scene

    def fails(seed, index, width, height):
        if index == 1:
            raise error
        return real(seed, index, width, height)

    monkeypatch.setattr(scenes, "draw_scene", fails)
    config.data.seed = 9
    with pytest.raises(type(error)):
        prepare(config, silent)
    del before["manifest.json"]  # of the set that was asked for there is none
    assert tree(root / "data/p") == before
    with pytest.raises(type(error)):
        prepare(make_config("demo", profile="fresh"), silent)
    assert tree(root / "data/fresh") == {}


def test_demo_without_scenes_is_refused():
    with pytest.raises(DataError, match="num_train 0"):
        prepare(make_config("demo", num_train=0), silent)


# ---------------------------------------------------------------------------------------- BCCD

VOC = """<annotation><filename>{name}</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{}</name><difficult>0</difficult><bndbox><xmin>{}</xmin>
<ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def make_voc(folder: Path) -> Path:
    """Three images; the XML's file name lacks its extension, as some tools write it."""
    root = folder / "BCCD"
    boxes = {
        1: [("RBC", 1, 1, 40, 30), ("WBC", 5, 6, 5, 6), ("Platelets", 35, 2, 44, 9)],
        2: [("WBC", 3, 4, 12, 23)],
        7: [],
    }
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for i, things in boxes.items():
        name = f"BloodImage_{i:05d}"
        objects = "".join(OBJECT.format(*thing) for thing in things)
        (root / f"Annotations/{name}.xml").write_text(VOC.format(name=name, objects=objects))
        Image.new("RGB", (40, 30), (i, 0, 0)).save(root / f"JPEGImages/{name}.jpg")
    for split, i in (("train", 1), ("val", 2), ("test", 7)):
        (root / f"ImageSets/Main/{split}.txt").write_text(f"BloodImage_{i:05d}\n")
    return root


def pin(monkeypatch, root: Path) -> None:
    found = sources.content_hash(root, sources._bccd_files(root))
    monkeypatch.setattr(sources, "BCCD_SHA256", found)


TOP = f"BCCD_Dataset-{sources.BCCD_COMMIT}"  # as GitHub names it


def archive(root: Path, extra: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in tree(root).items():
            file.writestr(f"{TOP}/BCCD/{name}", content)
        file.writestr(f"{TOP}/README.md", "not unpacked")
        if extra:
            file.writestr(extra, "bad")
    return buffer.getvalue()


def check_converted(config: SimpleNamespace) -> None:
    annotations, images = split_paths(config, "train")
    coco = json.loads(annotations.read_text())
    assert (images / coco["images"][0]["file_name"]).is_file()
    assert coco["images"] == [
        {"id": 1, "file_name": "BloodImage_00001.jpg", "width": 40, "height": 30}
    ]
    # 1-based inclusive corners: the whole image, the stray click dropped, the last one clipped
    assert [(a["category_id"], a["bbox"]) for a in coco["annotations"]] == [
        (1, [0, 0, 40, 30]),
        (3, [34, 1, 6, 8]),
    ]
    assert [(c["id"], c["name"]) for c in coco["categories"]] == [
        (1, "RBC"), (2, "WBC"), (3, "Platelets"),
    ]  # fmt: skip
    val = json.loads(split_paths(config, "val")[0].read_text())
    assert val["annotations"][0]["bbox"] == [2, 3, 10, 20]
    test = json.loads((annotations.parent / "test.json").read_text())
    assert len(test["images"]) == 1 and test["annotations"] == []


def test_bccd_local_copy(root, monkeypatch):
    local = make_voc(root / "local")
    pin(monkeypatch, local)
    monkeypatch.setenv("LIGHTDET_BCCD", str(root / "local"))
    config, lines = make_config("bccd"), []
    manifest = json.loads(prepare(config, lines.append).read_text())
    check_converted(config)
    assert split_paths(config, "train")[1] == local / "JPEGImages"
    assert not list((root / "data").rglob("*.jpg"))
    assert manifest["splits"]["train"]["boxes"] == 2 and "MIT" in manifest["licence"]
    report = "bccd train: 1 boxes without extent dropped, 1 clipped to the image"
    assert report in lines
    (local / "JPEGImages/BloodImage_00002.jpg").write_bytes(b"other")
    with pytest.raises(DataError, match="not the pinned BCCD data set: 9 files"):
        prepare(config, silent)
    monkeypatch.setenv("LIGHTDET_BCCD", str(root / "nowhere"))
    with pytest.raises(DataError, match="nowhere: no folder BCCD"):
        prepare(config, silent)


@pytest.fixture
def web(root, monkeypatch):
    """A folder in the place of the web."""
    monkeypatch.setattr(download, "WAIT", 0)
    (root / "web").mkdir()
    return root / "web"


def test_bccd_download(root, monkeypatch, web):
    local = make_voc(root / "local")
    pin(monkeypatch, local)
    (web / "bccd.zip").write_bytes(archive(local))
    monkeypatch.setattr(sources, "BCCD_URL", (web / "bccd.zip").as_uri())
    config = make_config("bccd")
    prepare(config, silent)
    check_converted(config)
    assert not list((root / "data").rglob("README.md"))
    monkeypatch.setattr(sources, "BCCD_URL", (web / "gone.zip").as_uri())
    prepare(config, silent)  # intact: not downloaded again
    prepare(make_config("bccd", profile="q"), silent)  # nor for another profile
    check_converted(make_config("bccd", profile="q"))
    (root / "data/bccd/raw/BCCD/JPEGImages/BloodImage_00001.jpg").unlink()
    with pytest.raises(DataError, match=r"gone.zip: download failed: .*No such.*LIGHTDET_BCCD"):
        prepare(config, silent)


def test_bccd_bad_archives(root, monkeypatch):
    local = make_voc(root / "local")
    pin(monkeypatch, local)
    file, config = root / "bccd.zip", make_config("bccd")
    monkeypatch.setattr(sources, "BCCD_URL", file.as_uri())
    good = archive(local)

    def refused(content: bytes, message: str) -> None:
        file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            prepare(config, silent)
        assert tree(root / "data") == {} and not (root / "evil").exists()

    refused(archive(local, "../../evil"), r"unsafe path in it: \.\./\.\./evil")
    refused(archive(local, "a/BCCD/../../../evil"), "unsafe path")
    refused(archive(local, "/evil"), "unsafe path")
    refused(archive(local, f"{TOP}/BCCD/JPEGImages/new.jpg"), "content hash")
    refused(good[: len(good) // 2], "not a usable zip archive")
    monkeypatch.setattr(sources, "BCCD_MAX_BYTES", 2000)
    refused(good, "more than|unpacks to over")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>", "not a VOC annotation"),
        ("<annotation></annotation>", "not a VOC annotation"),
        (OBJECT.format("Moon", 1, 1, 5, 5), "unknown class 'Moon'; known are RBC, WBC, Platelets"),
        (OBJECT.format("RBC", "a", 1, 5, 5), "not a VOC annotation"),
        (None, "listed in ImageSets/Main"),
    ],
)
def test_bccd_bad_xml(root, content, message):
    path = make_voc(root / "local") / "Annotations/BloodImage_00001.xml"
    path.unlink()
    if content:
        whole = content if "annotation" in content else VOC.format(name="x", objects=content)
        path.write_text(whole)
    with pytest.raises(DataError, match=rf"BloodImage_00001\.xml: {message}"):
        sources.convert_bccd(root / "local/BCCD", root / "out", silent)


# ---------------------------------------------------------------------------------------- COCO


@pytest.fixture
def coco(monkeypatch, web):
    """COCO in small; gives the archives' names and contents."""
    return put_coco(monkeypatch, web, [1])


def put_coco(monkeypatch, web: Path, val: list[int]) -> dict:
    """Its archives with image 1 to train on and the images `val`, each with a box of its width."""
    picture = io.BytesIO()
    Image.new("RGB", (40, 30)).save(picture, "JPEG")
    files = {"annotations": {}}
    for split, ids in (("val2017", val), ("train2017", [1])):
        names = [f"{i:012d}.jpg" for i in ids]
        size = {"width": 40, "height": 30}
        box = {"category_id": 1, "iscrowd": 0, "segmentation": []}
        labels = {
            "images": [{"id": i, "file_name": n, **size} for i, n in zip(ids, names, strict=True)],
            "annotations": [{"id": i, "image_id": i, "bbox": [1, 2, i, 20], **box} for i in ids],
            "categories": [{"id": 1, "name": "a"}],
        }
        files["annotations"][f"annotations/instances_{split}.json"] = json.dumps(labels).encode()
        files[split] = {f"{split}/{name}": picture.getvalue() for name in names}
    table = {}
    for name, content in files.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for path, data in content.items():
                file.writestr(path, data)
        (web / f"{name}.zip").write_bytes(buffer.getvalue())
        md5 = hashlib.md5(buffer.getvalue()).hexdigest()
        table[name] = (f"{name}.zip", len(buffer.getvalue()), md5, 1000)
    monkeypatch.setattr(sources, "COCO_URL", web.as_uri())
    monkeypatch.setattr(sources, "COCO_FILES", table)
    return table


def test_coco_download(root, coco, monkeypatch):
    config, lines = make_config("coco"), []
    splits = json.loads(prepare(config, lines.append).read_text())["splits"]
    assert [splits[s]["images"] for s in ("train", "val")] == [1, 1]
    assert "to download into" in lines[0] and "LIGHTDET_COCO" in lines[0]
    assert "  COCO 2017 has 118,287: this is not all of it" in lines
    annotations, images = split_paths(config, "val")
    assert annotations == root / "data/p/annotations/instances_val2017.json"
    assert Image.open(images / "000000000001.jpg").size == (40, 30)
    folders = {path.name for path in (root / "data/p").iterdir()}
    assert folders == {"annotations", "train2017", "val2017", "manifest.json"}  # no archives
    (root / "web/val2017.zip").unlink()
    monkeypatch.setattr(sources, "COCO_IMAGES", {"train": 1, "val": 1})
    lines.clear()
    prepare(config, lines.append)
    assert lines == ["COCO 2017 is there already", *(f"p {s}: 1 images, 1 boxes" for s in splits)]


def test_coco_goes_on_after_an_error(root, coco):
    """What came whole stays; the damaged archive does not."""
    config = make_config("coco")
    right = coco["train2017"]
    coco["train2017"] = (*right[:2], "0" * 32, right[3])
    with pytest.raises(UserError, match=r"train2017\.zip: damaged: MD5.*set LIGHTDET_COCO"):
        prepare(config, silent)
    assert {path.name for path in (root / "data/p").iterdir()} == {"annotations", "val2017"}
    coco["train2017"] = right
    (root / "web/val2017.zip").unlink()
    prepare(config, silent)
    assert (root / "data/p/train2017/000000000001.jpg").is_file()


def test_coco_needs_space(root, coco):
    coco["train2017"] = (*coco["train2017"][:3], 10**18)
    with pytest.raises(UserError, match=r"unpacked: .* GB are needed .*; or set LIGHTDET_COCO"):
        prepare(make_config("coco"), silent)
    assert tree(root / "data") == {}


def test_coco_in_a_folder_of_ones_own(root, coco, monkeypatch):
    prepare(make_config("coco"), silent)
    os.replace(root / "data/p", root / "mine")
    monkeypatch.setenv("LIGHTDET_COCO", str(root / "mine"))
    prepare(make_config("coco", profile="q"), silent)
    assert split_paths(make_config("coco", profile="q"), "train")[1] == root / "mine/train2017"
    monkeypatch.setenv("LIGHTDET_COCO", str(root / "nowhere"))
    wanted = r"not found: .*nowhere.annotations.*; set LIGHTDET_COCO to the folder that holds ann"
    with pytest.raises(DataError, match=wanted):
        prepare(make_config("coco", profile="q"), silent)
    assert tree(root / "data") == {}  # the manifest of the copy that is gone


# ------------------------------------------------------------------------------------ minicoco


@pytest.fixture
def minicoco(root, monkeypatch, web):
    """COCO without train2017, of whose four images of val2017 two are to train on, one is val."""
    table = put_coco(monkeypatch, web, [7, 5, 3, 9])
    (web / "train2017.zip").unlink()
    put_ids(root, {"train": [3, 7], "val": [9]})
    return table


def put_ids(root: Path, ids: dict[str, list[int]]) -> None:
    (root / "data").mkdir(exist_ok=True)
    (root / "data/minicoco.json").write_text(json.dumps(ids))


def check_minicoco(profile: str) -> None:
    for split, ids in {"train": [3, 7], "val": [9]}.items():
        annotations, images = split_paths(make_config("minicoco", profile), split)
        assert annotations == sources.root() / f"data/{profile}/annotations/{split}.json"
        coco = json.loads(annotations.read_text())
        assert [i["id"] for i in coco["images"]] == ids  # in this order
        assert all((images / i["file_name"]).is_file() for i in coco["images"])
        boxes = {a["image_id"]: a["bbox"] for a in coco["annotations"]}
        assert boxes == {i: [1, 2, i, 20] for i in ids}
        assert coco["categories"] == [{"id": 1, "name": "a"}]


def test_minicoco_download(root, minicoco, monkeypatch):
    """Two archives, once for all profiles that have this source."""
    lines = []
    manifest = json.loads(prepare(make_config("minicoco"), lines.append).read_text())
    check_minicoco("p")
    assert manifest["splits"]["train"]["images"] == 2 and "Flickr" in manifest["licence"]
    assert "to download into" in lines[0] and lines[-1] == "p val: 1 images, 1 boxes"
    raw = {path.name for path in (root / "data/minicoco/raw").iterdir()}
    assert raw == {"annotations", "val2017"}
    shutil.rmtree(root / "web")
    prepare(make_config("minicoco", profile="q"), lines.append)
    check_minicoco("q")
    told = ["COCO 2017 is there already", "q train: 2 images, 2 boxes", "q val: 1 images, 1 boxes"]
    assert lines[-3:] == told
    assert not list((root / "data/q").rglob("*.jpg"))


def test_minicoco_of_a_damaged_archive(root, minicoco):
    minicoco["val2017"] = (*minicoco["val2017"][:2], "0" * 32, 1000)
    with pytest.raises(UserError, match=r"val2017\.zip: damaged: MD5.*instances_val2017\.json"):
        prepare(make_config("minicoco"), silent)
    assert not (root / "data/p/annotations").exists()


def test_minicoco_out_of_a_coco_that_is_there(root, minicoco, monkeypatch):
    prepare(make_config("minicoco"), silent)
    before = tree(root / "data/p")
    mine = root / "mine"
    os.replace(root / "data/minicoco/raw", mine)
    monkeypatch.setenv("LIGHTDET_COCO", str(mine))
    prepare(make_config("minicoco", profile="q"), silent)
    check_minicoco("q")
    assert not (root / "data/minicoco/raw").exists()
    del before["manifest.json"]
    wanted = r"mine.annotations.instances_val2017\.json: not the 2 .* for train: 1 .* \(4, …\)"
    put_ids(root, {"train": [3, 4], "val": [9]})
    with pytest.raises(DataError, match=wanted):
        prepare(make_config("minicoco"), silent)
    put_ids(root, {"train": [3], "val": [9, 10]})
    with pytest.raises(DataError, match="for val: 1 of them are missing"):
        prepare(make_config("minicoco"), silent)
    assert tree(root / "data/p") == before  # not even the split that would do
    (mine / "annotations/instances_val2017.json").unlink()
    wanted = r"instances_val2017\.json: not found; set LIGHTDET_COCO to a folder with annotations/i"
    with pytest.raises(DataError, match=wanted):
        prepare(make_config("minicoco"), silent)


def test_minicoco_without_its_pictures(root, minicoco, monkeypatch):
    prepare(make_config("minicoco"), silent)
    monkeypatch.setenv("LIGHTDET_COCO", str(root / "data/minicoco/raw"))
    os.replace(root / "data/minicoco/raw/val2017", root / "elsewhere")
    with pytest.raises(DataError, match=r"not found: .*raw/val2017; set LIGHTDET_COCO to a folder"):
        prepare(make_config("minicoco"), silent)


def test_minicoco_in_a_folder_of_ones_own(root, minicoco, monkeypatch):
    """Used where it is; its ids are those of the list, neither fewer nor others."""
    prepare(make_config("minicoco"), silent)
    mine = root / "mine"
    mine.mkdir()
    os.replace(root / "data/p/annotations", mine / "annotations")
    os.replace(root / "data/minicoco/raw/val2017", mine / "images")
    monkeypatch.setenv("LIGHTDET_MINICOCO", str(mine))
    before, config = tree(mine), make_config("minicoco", profile="q")
    manifest = json.loads(prepare(config, silent).read_text())
    assert manifest["splits"]["train"]["images"] == 2 and str(root) not in json.dumps(manifest)
    paths = mine / "annotations/val.json", mine / "images"
    assert split_paths(config, "val") == paths
    assert tree(mine) == before and list(tree(root / "data/q")) == ["manifest.json"]

    path = mine / "annotations/train.json"
    coco = json.loads(path.read_text())
    coco["images"][0]["id"] = 8
    path.write_text(json.dumps(coco))
    wanted = r"train\.json: not the 2 .* for train: 1 of them are missing \(3, …\), 1 others are"
    with pytest.raises(DataError, match=wanted):
        prepare(config, silent)
    coco["images"] = coco["images"][1:] * 2
    path.write_text(json.dumps(coco))
    with pytest.raises(DataError, match=r"1 of them are missing \(3, …\), 0 others"):
        prepare(config, silent)
    path.unlink()
    with pytest.raises(DataError, match=r"train\.json: not found; .*LIGHTDET_MINICOCO to one with"):
        prepare(config, silent)
    assert tree(root / "data/q") == {}


def test_the_lists_of_minicoco(monkeypatch):
    monkeypatch.delenv("LIGHTDET_ROOT")
    ids = sources.minicoco_ids()
    assert {split: len(set(listed)) for split, listed in ids.items()} == {"train": 2161, "val": 300}
    assert all(listed == sorted(listed) for listed in ids.values())
    assert not set(ids["train"]) & set(ids["val"])


REAL_MINICOCO = os.environ.get("LIGHTDET_MINICOCO")


@pytest.mark.skipif(not REAL_MINICOCO, reason="LIGHTDET_MINICOCO names no folder")
def test_minicoco_real(root, monkeypatch):
    monkeypatch.setenv("LIGHTDET_MINICOCO", str(REAL_MINICOCO))
    (root / "data").mkdir(exist_ok=True)
    shutil.copy(HERE / "data/minicoco.json", root / "data")
    config = load_config("g3", "minicoco")
    splits = json.loads(prepare(config, silent).read_text())["splits"]
    assert (splits["train"]["images"], splits["val"]["images"]) == (2161, 300)
    wanted = {  # boxes of each class, then what is not among them
        "train": ([8785, 227, 1041, 225, 164, 78, 189, 297, 18], 9583, 4),
        "val": ([1161, 30, 137, 50, 22, 6, 22, 38, 1], 1241, 0),
    }
    for split, (boxes, left_out, thin) in wanted.items():
        annotations, images = split_paths(config, split)
        truth = read_annotations(annotations, classes=config.data.classes)
        assert [c["name"] for c in truth.categories] == list(config.data.classes)
        assert np.bincount(truth.labels, minlength=9).tolist() == boxes
        drops = {
            "boxes of other classes left out": left_out,
            "boxes under 1 px, evaluated but not learnt": thin,
        }
        assert {k: n for k, n in truth.drops.items() if n} == {k: n for k, n in drops.items() if n}
        assert splits[split]["boxes"] == sum(boxes) + left_out + thin
        assert all((images / name).is_file() for name in truth.file_names)


REAL = os.environ.get("LIGHTDET_BCCD")


@pytest.mark.skipif(not REAL, reason="LIGHTDET_BCCD names no local copy")
def test_bccd_real(root, monkeypatch):
    monkeypatch.setenv("LIGHTDET_BCCD", str(REAL))
    config = make_config("bccd")
    splits = json.loads(prepare(config, silent).read_text())["splits"]
    assert (splits["train"]["images"], splits["val"]["images"]) == (205, 87)
    test = json.loads((root / "data/p/annotations/test.json").read_text())
    assert len(test["images"]) == 72
    total = splits["train"]["boxes"] + splits["val"]["boxes"] + len(test["annotations"])
    assert total == 4888 - 2  # two stray clicks


# -------------------------------------------------------------------------------------- folder


def write_folder(root: Path) -> dict[str, str]:
    coco = {
        "images": [{"id": 5, "file_name": "a/b.png", "width": 4, "height": 4}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 9, "bbox": [0, 0, 2, 2], "iscrowd": 1,
             "segmentation": {"counts": [1], "size": [4, 4]}},
        ],
        "categories": [{"id": 9, "name": "x"}],
    }  # fmt: skip
    for split in ("train", "val"):
        (root / f"my/{split}").mkdir(parents=True)
        (root / f"my/{split}.json").write_text(json.dumps(coco))
    return {
        "images": "my/{split}",
        "train_annotations": "my/train.json",
        "val_annotations": "my/val.json",
    }


def test_folder(root):
    config = make_config("folder", **write_folder(root))
    manifest = json.loads(prepare(config, silent).read_text())
    assert split_paths(config, "val") == (root / "my/val.json", root / "my/val")
    counts = {"images": 1, "boxes": 1, "crowds": 1, "classes": 1}
    assert manifest["splits"]["train"].items() >= counts.items()
    with pytest.raises(ValueError, match="split 'test': choose train or val"):
        split_paths(config, "test")


def test_folder_names_all_that_is_missing(root):
    config = make_config("folder", **write_folder(root))
    (root / "my/val.json").unlink()
    (root / "my/train").rmdir()
    with pytest.raises(DataError, match=r"p: not found: .*my/train, .*my/val.json; put the data"):
        prepare(config, silent)
    assert tree(root / "data") == {}


def test_missing_annotations_name_the_commands(root):
    command = "; run lightdet data --profile p, then lightdet pack --profile p$"
    for read in (sources.file_hash, sources.read_coco):
        with pytest.raises(DataError, match=rf"train\.json: .*not found{command}"):
            read(root / "data/p/annotations/train.json")
        with pytest.raises(DataError, match=r"train\.json: .*not found$"):
            read(root / "my/train.json")


@pytest.mark.parametrize(
    ("content", "lists"),
    [
        ("[]", "images, annotations, categories"),
        ('{"images": [], "annotations": {}}', "annotations, categories"),
    ],
)
def test_folder_bad_json(root, content, lists):
    config = make_config("folder", **write_folder(root))
    (root / "my/train.json").write_text(content)
    with pytest.raises(DataError, match=f"train.json: not COCO format: no list under {lists}"):
        prepare(config, silent)


def test_main(root, monkeypatch):
    config = make_config("folder", **write_folder(root))
    monkeypatch.setattr(cli, "load_config", lambda experiment, profile: config)
    cli.run("data", "--profile", "p")
    (root / "my/train.json").unlink()
    with pytest.raises(DataError, match=r"train\.json"):
        cli.run("data", "--profile", "p")
