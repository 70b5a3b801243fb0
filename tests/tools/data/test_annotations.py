import json

import pytest
from conftest import make_coco, write_coco

from lightdet_core.config import DataError
from lightdet_tools.data.annotations import read_annotations


def test_read_annotations(tmp_path):
    truth = read_annotations(write_coco(tmp_path, make_coco()))
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
    truth = read_annotations(write_coco(tmp_path, coco))
    assert truth.boxes.tolist() == [[0, 0, 6, 8], [60, 10, 64, 15]]
    assert truth.drops == {
        "boxes without extent dropped": 1,
        "boxes under 1 px, evaluated but not learnt": 2,
        "boxes outside of the image dropped": 2,
        "boxes clipped to the image": 1,
    }
    assert truth.examples == {
        "boxes without extent dropped": ["annotation 0"],
        "boxes under 1 px, evaluated but not learnt": ["annotation 1", "annotation 2"],
        "boxes outside of the image dropped": ["annotation 3", "annotation 4"],
        "boxes clipped to the image": ["annotation 5"],
    }


def broken(section: str, place: int, **change: object):
    """An edit that changes a value, or takes it away: "-"."""

    def edit(coco: dict) -> None:
        entry = {**coco[section][place], **change}
        coco[section][place] = {key: value for key, value in entry.items() if value != "-"}

    return edit


BAD = [
    (broken("images", 1, id=30), "duplicate image id: image 30: "),
    (broken("annotations", 1, id=1), "duplicate annotation id: annotation 1: "),
    (broken("categories", 1, id=90), "duplicate category id: category 90: "),
    (broken("annotations", 0, image_id=7), "unknown image: annotation 1: image_id 7"),
    (broken("annotations", 0, category_id=4), "unknown category: annotation 1: .*category_id 4"),
    (broken("annotations", 0, category_id=4), r"  its categories are 3 \w+, 90 \w+; repair them"),
    (broken("annotations", 0, category_id="3"), "category_id is no whole number: .*id '3'"),
    (broken("annotations", 0, image_id="10"), "unknown image: annotation 1: image_id '10'"),
    (broken("annotations", 0, ignore=2), "ignore is not 0 or 1: annotation 1: .*2"),
    (broken("annotations", 0, category_id=[]), r"no whole number: annotation 1: .*\[\]"),
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
    (broken("images", 0, file_name="a.png\0"), r"with a zero byte: image 30: 'a\.png\\x00'"),
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


@pytest.mark.parametrize("key", ["annotations", "bbox"])
def test_a_key_that_stands_twice_is_named(tmp_path, key):
    path = tmp_path / "coco.json"
    text = json.dumps(make_coco())
    path.write_text(text.replace(f'"{key}": ', f'"{key}": [], "{key}": ', 1))
    with pytest.raises(
        DataError, match=f"coco\\.json: '{key}' stands twice in one place; keep one"
    ):
        read_annotations(path)


def test_all_problems_at_once(tmp_path):
    coco = make_coco()
    coco["images"].append({"id": 10, "file_name": "d.png", "width": 1, "height": 1})
    extra = {"image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1]}
    coco["annotations"] += [{"id": 100 + i, **extra} for i in range(40)]
    with pytest.raises(DataError) as caught:
        read_annotations(write_coco(tmp_path, coco))
    message = str(caught.value)
    assert (
        "44 problems (2 duplicate image id, 2 annotation of a broken image, 40 unknown image)"
        in message
    )
    assert message.count("unknown image: annotation") == 16 and "… and 24 more" in message


def test_skip_broken_drops_and_counts(tmp_path):
    coco = make_coco()
    coco["images"][0].pop("width")
    coco["annotations"][2]["bbox"] = [0, 0, -1, 1]
    path = write_coco(tmp_path, coco)
    truth = read_annotations(path, skip_broken=True)
    assert truth.image_ids.tolist() == [10, 20] and truth.boxes.tolist() == [[2, 4, 10, 20]]
    rules = ("image without width", "annotation of a broken image", "box of negative size")
    assert [truth.drops[rule] for rule in rules] == [1, 1, 1]
    coco["categories"][0].pop("name")  # labels would shift: never skipped
    with pytest.raises(DataError, match="category without name: category 90"):
        read_annotations(write_coco(tmp_path, coco), skip_broken=True)
    coco = make_coco()
    coco["images"] = [{"id": 1}]
    with pytest.raises(DataError, match="empty split"):
        read_annotations(write_coco(tmp_path, coco), skip_broken=True)


@pytest.mark.parametrize(("side", "most"), [(0.75, "1"), (1.02, r"1\.02")])  # rounded beyond 1
def test_shares_instead_of_pixels_are_named(tmp_path, side, most):
    coco = make_coco()
    for one in coco["annotations"]:
        one["bbox"] = [0.25, 0.5, 0.125, side]
    wanted = rf"all 3 boxes are numbers from 0 to {most}, .*0\.25.*: multiply"
    with pytest.raises(DataError, match=wanted):
        read_annotations(write_coco(tmp_path, coco), skip_broken=True)


def test_a_root_category_of_the_same_name_is_left_out(tmp_path):
    coco = make_coco()
    coco["categories"] += [{"id": 0, "name": "car"}]
    truth = read_annotations(write_coco(tmp_path, coco))
    assert truth.categories == read_annotations(write_coco(tmp_path, make_coco())).categories
    assert truth.drops == {"category 0, another 'car' without annotations, left out": 1}
    coco["annotations"][0]["category_id"] = 0
    for skip in (False, True):  # both have annotations
        with pytest.raises(DataError, match="duplicate category name: 'car'") as caught:
            read_annotations(write_coco(tmp_path, coco), skip)
        assert "never dropped" in str(caught.value)


def test_of_two_such_categories_without_annotations_the_last_stays(tmp_path):
    """As in a small val, whose train has dropped the root."""
    coco = make_coco()
    coco["categories"] += [{"id": 0, "name": "toothbrush"}]
    coco["annotations"].pop(0)
    truth = read_annotations(write_coco(tmp_path, coco))
    assert [c["id"] for c in truth.categories] == [3, 90]


def test_images_of_the_same_id_are_both_broken(tmp_path):
    """Two files put together: nobody knows whose boxes are whose."""
    coco = make_coco()
    coco["images"].append({"id": 10, "file_name": "d.png", "width": 32, "height": 64})
    truth = read_annotations(write_coco(tmp_path, coco), skip_broken=True)
    assert truth.image_ids.tolist() == [30, 20] and len(truth.boxes) == 1
    wanted = {"duplicate image id": 2, "annotation of a broken image": 2}
    assert truth.drops == wanted


def test_images_that_lose_all_objects_as_broken_are_counted(tmp_path):
    coco = make_coco()
    coco["annotations"][1]["category_id"] = 7
    coco["annotations"][2]["category_id"] = 7
    truth = read_annotations(write_coco(tmp_path, coco), skip_broken=True)
    wanted = {"unknown category": 2, "images left without objects, all of which were broken": 1}
    assert truth.drops == wanted


def test_some_classes_of_an_annotation_file(tmp_path):
    """Image 20 never had an object, image 30 loses its own; a broken box counts as ever."""
    path = write_coco(tmp_path, make_coco())
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
        read_annotations(write_coco(tmp_path, coco), classes=("toothbrush",))
