import numpy as np
import pytest

from lightdet_core.config import DataError
from lightdet_tools.data import checks

XYWH = np.array([[10, 12, 20, 25], [30, 10, 25, 30], [5, 30, 30, 20], [40, 20, 38, 38]] * 3, float)
CORNERS = np.concatenate([XYWH[:, :2], XYWH[:, :2] + XYWH[:, 2:]], 1)
CENTRES = np.concatenate([XYWH[:, :2] + XYWH[:, 2:] / 2, XYWH[:, 2:]], 1)
SIZES = np.array([[80, 60]] * 12)
LARGE = np.array([[5, 4, 70, 50], [1, 1, 80, 60], [2, 3, 80, 60]] * 4, float)  # a little too far


def test_boxes_of_another_form_are_named():
    checks.check_form("a.json", XYWH, SIZES)
    for boxes, form in ((CORNERS, r"\[x1, y1, x2, y2\]"), (CENTRES, r"\[centre x, centre y, w")):
        with pytest.raises(DataError, match=rf"a\.json: \d of 12 boxes, .*all fit in as {form}"):
            checks.check_form("a.json", boxes, SIZES)
        checks.check_form("a.json", boxes[:3], SIZES[:3])  # too few to say
    checks.check_form(
        "a.json", XYWH + np.array([-20, -20, 40, 40]), SIZES
    )  # sticking out all around


def test_doubles_are_counted():
    images = [
        {"id": i, "file_name": name} for i, name in ((1, "a.png"), (2, "b.png"), (3, "a.png"))
    ]
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    boxes = [box, box, {**box, "category_id": 2}, {**box, "image_id": 2}]
    boxes += [{**box, "image_id": 3, "bbox": [i, 0, 1, 1]} for i in range(101)]
    assert list(checks.doubles(images, boxes).values()) == [1, 1, 1]


SPELT = ["sub\\a%20b.JPG", "images/sub/A b.jpg", "/sub/a b.jpg", "a b.jpeg", "sub/a b"]


@pytest.mark.parametrize("name", [*SPELT, "u\u0308.png"])
def test_another_spelling_of_a_file_is_found(tmp_path, name):
    (tmp_path / "sub").mkdir()
    for there in ("sub/a b.jpg", "\u00fc.png"):
        (tmp_path / there).touch()
    found = checks.other_spelling(tmp_path, [name, "c.jpg"], [name, "c.jpg"])
    assert found.startswith("1 of 2 have another name there: ") and "--skip-broken" in found
    assert "--skip-broken" not in checks.other_spelling(tmp_path, [name], [name])
    assert checks.other_spelling(tmp_path, ["c.jpg"], ["c.jpg"]) == ""


def test_another_picture_is_no_other_spelling(tmp_path):
    """Frames of several videos have the same names."""
    for there in ("seq1/2.jpg", "seq2/1.jpg", "seq2/2.jpg"):
        (tmp_path / there).parent.mkdir(exist_ok=True)
        (tmp_path / there).touch()
    names = ["seq1/1.jpg", "seq1/2.jpg", "seq2/1.jpg"]
    assert checks.other_spelling(tmp_path, names, names[:1]) == ""  # seq2/1.jpg is an image's own
    assert checks.other_spelling(tmp_path, ["seq3/2.jpg"], ["seq3/2.jpg"]) == ""  # which of two?


def test_file_state_of_odd_names(tmp_path):
    """Not there, too long, bytes that are no UTF-8."""
    (tmp_path / "a.png").write_bytes(b"123")
    names = ["a.png", "b.png", "x" * 300, "caf\udce9.png"]
    first, *others = checks.file_state(tmp_path, names)
    assert first.startswith("a.png 3 ") and others == [f"{name} -" for name in names[1:]]
    assert len(checks.text_hash([first, *others])) == 64
