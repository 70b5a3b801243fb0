"""Videos are tested where OpenCV is installed."""

import io
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CATEGORIES
from PIL import Image
from pycocotools.coco import COCO

from lightdet_core.boxes import Detections
from lightdet_core.config import DataError, UserError
from lightdet_tools import cli
from lightdet_tools.data.scenes import draw_scene
from lightdet_tools.deploy import detect
from lightdet_tools.deploy.detector import Detector
from lightdet_tools.style import COLORS

SIZE = 96  # 12, 6 and 3 cells per side


def picture(width=150, height=80) -> np.ndarray:
    return np.asarray(Image.fromarray(draw_scene(0, 0)[0]).resize((width, height)))


def stamp(image, score_threshold):
    """Pretends to see a zebra in the right half and, less certainly, a car on everything."""
    height, width = image.shape[:2]
    boxes = torch.tensor([[width / 2, 0, width, height], [0, 0, width, height]])
    scores = torch.tensor([0.75, 0.5])
    keep = scores > score_threshold
    return Detections(boxes[keep], scores[keep], torch.tensor([1, 0])[keep])


@pytest.fixture
def command(monkeypatch, tmp_path):
    """`command(*images)` runs the command line in a folder, with a pretended detector."""
    monkeypatch.setattr(detect, "open_detector", lambda *_: Detector(stamp, CATEGORIES, SIZE))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> dict:
        cli.run("detect", "net.onnx", *arguments, "--out", "out")
        return json.loads((tmp_path / "out" / "detections.json").read_text())

    return run


def save(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(40, 20) if pixels is None else pixels).save(path, **options)
    return path


def files(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_files_and_folders(command, tmp_path, capsys):
    """Equal names, other files and earlier results in the folder."""
    for name in ("in/b.PNG", "in/a.JPG", "in/sub/a.jpg", "in/a.bmp", "in/.c.png", "more/a.jpeg"):
        save(tmp_path / name)
    (tmp_path / "in/notes.txt").write_text("no image")
    (tmp_path / "in/clip.mp4").write_text("no image")
    coco = command("in", "more/a.jpeg", "in/sub/a.jpg")
    drawn = ["a-2.jpg", "a-3.jpg", "a.jpg", "a.png", "b.png", "detections.json", "sub/a.jpg"]
    assert files(tmp_path / "out") == drawn
    inputs = ["in/a.JPG", "in/a.bmp", "in/b.PNG", "in/sub/a.jpg", "more/a.jpeg", "in/sub/a.jpg"]
    assert [image["file_name"] for image in coco["images"]] == inputs
    out = capsys.readouterr().out
    assert "5/6 more/a.jpeg: 2 boxes -> out/a-2.jpg" in out
    assert "6 images, 12 boxes above 0.3; median" in out and "wrote out/detections.json" in out
    first = detect.plan([tmp_path / "in"], tmp_path / "in" / "out", False)
    for _, target in first:
        save(target)
    assert detect.plan([tmp_path / "in"], tmp_path / "in" / "out", True) == first


def test_what_a_folder_has_and_is_not_taken(command, tmp_path, capsys):
    """Every kind of picture is; whatever else is there is counted."""
    for name in ("a.avif", "b.jp2", "c.pgm", "d.ppm", "e.png"):
        pixels = picture(40, 20)[..., 0] if name == "c.pgm" else None
        save(tmp_path / "in" / name, pixels)
    files = "x.heic sub/y.HEIC clip.mp4 notes.txt p.mpo .z.heic photo s.1 s.2 .thumbs/z.png"
    for name in files.split():
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("no image")
    (tmp_path / "in" / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "in" / "gone.txt").symlink_to("nowhere.txt")
    save(tmp_path / "more" / "f.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "more")
    coco = command("in")
    assert [Path(i["file_name"]).name[0] for i in coco["images"]] == list("abcde")
    line = "in: 11 files passed over: "
    line += ".heic 2, links to nothing 2, .1 1, .2 1, .mp4 1, .mpo 1, others 3\n"
    out = capsys.readouterr().out
    assert line in out and out.count("passed over") == 1
    with pytest.raises(UserError, match=r"^in/sub: no images in it; known .*; 1 file passed over"):
        command("in/sub", "--overwrite")
    command("in/a.avif", "--overwrite")
    save(tmp_path / "plain" / "a.png")
    command("plain", "--overwrite")
    assert "passed over" not in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_a_name_that_is_not_utf8(command, tmp_path, monkeypatch):
    save(tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"in-\xe9.png"))
    told = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(told, "utf-8", errors="strict"))
    name = os.fsdecode(b"in-\xe9.png")
    coco = command(name)
    sys.stdout.flush()
    assert coco["images"][0]["file_name"] == name and (tmp_path / "out" / name).is_file()
    assert rb"1/1 in-\udce9.png: 2 boxes -> out/in-\udce9.png" in told.getvalue()


def test_the_result_is_a_coco_file(command, tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", picture(30, 31))
    coco = command("b.png", "a.png", "--score", "0.5")
    assert coco["categories"] == CATEGORIES
    assert coco["images"] == [
        {"id": 1, "file_name": "b.png", "width": 30, "height": 31},
        {"id": 2, "file_name": "a.png", "width": 40, "height": 20},
    ]
    common = {"category_id": 7, "iscrowd": 0, "score": 0.75}
    assert coco["annotations"] == [
        {"id": 1, "image_id": 1, "bbox": [15.0, 0.0, 15.0, 31.0], "area": 465.0, **common},
        {"id": 2, "image_id": 2, "bbox": [20.0, 0.0, 20.0, 20.0], "area": 400.0, **common},
    ]
    index = COCO(tmp_path / "out" / "detections.json")
    assert index.getAnnIds(imgIds=[2]) == [2]


def test_a_drawing_shows_the_boxes(command, tmp_path):
    """Colour by class, the surest on top; what is no box, rim or label is the image."""
    save(tmp_path / "a.png", picture(300, 200))
    command("a.png")
    before = picture(300, 200)
    after = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    colors = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in COLORS]
    assert tuple(after[150, 0]) == tuple(after[199, 100]) == colors[1]  # the car
    assert tuple(after[150, 150]) == tuple(after[199, 299]) == tuple(after[150, 299]) == colors[2]
    changed = (before != after).any(2)
    assert not changed[40:190, 10:140].any() and not changed[40:190, 160:290].any()
    assert changed[2:14, 5:50].any() and changed[2:14, 155:200].any()  # labels


def test_every_form_of_image(command, tmp_path):
    """One picture in every form that files have, and turned by EXIF."""
    (folder := tmp_path / "in").mkdir()
    image = Image.fromarray(picture(40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise
    image.convert("L").save(folder / "grey.png")
    image.quantize(16).save(folder / "palette.png")
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.full((20, 40), 257 * 99, np.uint16)).save(folder / "deep.png")
    image.save(folder / "turned.jpg", exif=exif, quality=95)
    coco = command("in", "--score", "1")  # nothing is drawn
    sizes = {i["file_name"]: (i["width"], i["height"]) for i in coco["images"]}
    assert sizes.pop("in/turned.jpg") == (20, 40) and set(sizes.values()) == {(40, 20)}
    assert coco["annotations"] == [] and len(sizes) == 5

    def drawn(name):
        return np.asarray(Image.open(tmp_path / "out" / name)).astype(int)

    assert (drawn("alpha.png") == np.asarray(image)).all()
    assert (drawn("grey.png") == np.asarray(image.convert("L").convert("RGB"))).all()
    assert (drawn("deep.png") == 99).all()
    turned = np.asarray(image.rotate(-90, expand=True)).astype(int)
    assert np.abs(drawn("turned.jpg") - turned).mean() < 12
    assert np.abs(drawn("turned.jpg") - turned[::-1, ::-1]).mean() > 20


def test_nothing_is_overwritten(command, tmp_path):
    save(tmp_path / "a.png")
    command("a.png")
    save(tmp_path / "a.png", picture(10, 20))
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")}
    with pytest.raises(UserError, match=r"out/detections\.json: exists \(and 1 more\).*--overw"):
        command("a.png")
    (tmp_path / "out" / "detections.json").unlink()
    with pytest.raises(UserError, match=r"out/a\.png: exists; choose another --out or add"):
        command("a.png")
    assert (tmp_path / "out" / "a.png").read_bytes() == before["a.png"]
    assert command("a.png", "--overwrite")["images"][0]["width"] == 10
    assert Image.open(tmp_path / "out" / "a.png").size == (10, 20)
    for folder in ("out", "."):  # an input by whatever name, even if asked to
        with pytest.raises(UserError, match=r"a\.png: is an input and would be lost"):
            cli.run("detect", "x.onnx", str(tmp_path / folder), "--out", folder, "--overwrite")


def test_what_cannot_be_read(command, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    whole = save(tmp_path / "cut.png", picture()).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    save(tmp_path / "good.png")
    for name, message in {
        "none.png": "not found; an image, a folder of images or a video is needed",
        "empty": "no images in it; known are .jpg, ",
        "texts": "no images in it; known are .jpg, ",
    }.items():
        with pytest.raises(UserError, match=f"^{name}: {message}"):
            command(name)
    with pytest.raises(UserError) as caught:
        command("cut.png", "text.jpg")
    first, *rest = str(caught.value).splitlines()
    assert first == "2 of 2 cannot be read; repair them or leave them out:"
    wanted = ["  cut.png: unreadable image", "  text.jpg: unreadable image"]
    assert [": ".join(line.split(": ")[:2]) for line in rest] == wanted
    with pytest.raises(UserError, match=r"--score 30\.0: a number from 0 to 1"):
        command("good.png", "--score", "30")
    assert not (tmp_path / "out").exists() or files(tmp_path / "out") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: cannot be a folder \(File exists\)"):
        cli.run("detect", "x.onnx", "good.png", "--out", "file")


def test_a_damaged_picture_does_not_cost_the_others(command, tmp_path, capsys):
    """They are in the file; the command still fails, and says what it left out."""
    for name in ("in/a.png", "in/c.png"):
        save(tmp_path / name)
    (tmp_path / "in/b.png").write_bytes((tmp_path / "in/a.png").read_bytes()[:60])
    with pytest.raises(SystemExit) as end:
        cli.run_cli(lambda: command("in"))
    out, err = capsys.readouterr()
    assert end.value.code == 2 and "2/3 in/b.png: cannot be read\n" in out
    assert err.startswith("error: 1 of 3 cannot be read; ") and "\n  in/b.png: unreadable" in err
    assert files(tmp_path / "out") == ["a.png", "c.png", "detections.json"]
    coco = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [(i["id"], i["file_name"]) for i in coco["images"]] == [(1, "in/a.png"), (2, "in/c.png")]
    assert [a["image_id"] for a in coco["annotations"]] == [1, 1, 2, 2]


@pytest.mark.parametrize("where", ["read", "save"])
def test_interrupted(command, tmp_path, monkeypatch, capsys, where):
    """What is drawn stays; half a file and a result of half the images do not."""
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / name)
    reading, saving = detect.read_image, Image.Image.save

    def press(path):
        if "b.png" in str(path):
            raise KeyboardInterrupt

    def read_then_press(path):
        press(path)
        return reading(path)

    def save_then_press(self, path, **options):
        saving(self, path, **options)
        press(path)

    if where == "read":
        monkeypatch.setattr(detect, "read_image", read_then_press)
    else:
        monkeypatch.setattr(Image.Image, "save", save_then_press)
    with pytest.raises(SystemExit) as end:
        cli.run_cli(lambda: command("a.png", "b.png", "c.png"))
    assert end.value.code == 130 and files(tmp_path / "out") == ["a.png"]
    err = capsys.readouterr().err
    assert err == "interrupted: 1 of 3 are drawn, detections.json is not written\n"


def test_an_error_is_one_line(tmp_path, capsys):
    save(tmp_path / "a.png")
    arguments = [str(tmp_path / x) for x in ("none.onnx", "a.png")]
    with pytest.raises(SystemExit) as end:
        cli.main(["detect", *arguments, "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out.count("\n") == 1 and files(tmp_path) == ["a.png"]
    assert err == f"error: {tmp_path / 'none.onnx'}: not found; check the path\n"


def test_the_next_one_is_read_in_the_meantime():
    """One, in another thread; an error comes where its item would."""
    made, places = [], set()

    def items():
        for number in range(4):
            made.append(number)
            places.add(threading.get_ident())
            yield number
        raise DataError("the fifth")

    taken = detect.ahead(items())
    assert next(taken) == 0 and next(taken) == 1
    late = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < late:
        time.sleep(0.01)
    assert made == [0, 1, 2]
    assert [next(taken), next(taken)] == [2, 3]
    with pytest.raises(DataError, match="the fifth"):
        next(taken)
    assert len(places) == 1 and threading.get_ident() not in places
    read = []

    def slow():
        for number in range(9):
            time.sleep(0.1)
            read.append(number)
            yield number

    stopped = detect.ahead(slow())
    next(stopped)
    stopped.close()  # waits for what is being read, and for nothing more
    assert read == [0, 1]


# ------------------------------------------------------------------------------------- videos


def test_videos_need_opencv(command, tmp_path, monkeypatch):
    """Said before any work."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    save(tmp_path / "a.png")
    (tmp_path / "b.MP4").write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.MP4: .*pip install opencv-python-headless"):
        command("a.png", "b.MP4")
    assert not (tmp_path / "out").exists()


def test_videos(command, tmp_path):
    cv2 = pytest.importorskip("cv2")
    shades = [60, 120, 180, 240]
    size = (64, 48)
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, size)
    for shade in shades:
        writer.write(np.full((48, 64, 3), (0, 0, shade), np.uint8))  # OpenCV's blue comes first
    writer.release()
    seen = []

    def look(image, score_threshold):
        seen.append(image.mean((0, 1)))
        return stamp(image, score_threshold)

    jobs = detect.plan([tmp_path / "a.avi"], tmp_path / "out", False)
    coco, times, damaged = detect.detect_files(Detector(look, CATEGORIES, SIZE), jobs, 0.9)
    assert files(tmp_path / "out") == ["a.mp4"] and len(times) == 4 and not damaged
    np.testing.assert_allclose(seen, [[shade, 0, 0] for shade in shades], atol=6)
    assert [image["frame_id"] for image in coco["images"]] == [0, 1, 2, 3]
    assert len({image["id"] for image in coco["images"]}) == 4
    video = cv2.VideoCapture(str(tmp_path / "out" / "a.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == 12.5 and video.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    np.testing.assert_allclose(video.read()[1].mean((0, 1)), [0, 0, shades[0]], atol=8)
    (tmp_path / "b.mkv").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"b\.mkv: no frame can be read"):
        command("b.mkv")
    assert files(tmp_path / "out") == ["a.mp4"]
