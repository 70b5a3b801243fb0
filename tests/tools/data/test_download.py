"""download.py against a web server on this machine that cuts connections."""

import hashlib
import re
import shutil
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import silent

from lightdet_core.config import UserError
from lightdet_tools.data import download
from lightdet_tools.data.download import fetch, unpack

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Web:
    """What the server does, and what it was asked for."""

    def __init__(self):
        self.content, self.cuts, self.codes, self.ranges, self.asked = CONTENT, [], [], True, []


@pytest.fixture
def web():
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked = self.headers.get("Range")
            web.asked.append(asked)
            if web.codes and (code := web.codes.pop(0)):
                return self.send_error(code)
            first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and web.ranges else 0
            if first >= len(web.content):
                return self.send_error(416)
            self.send_response(206 if first else 200)
            body = web.content[first:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: web.cuts.pop(0)] if web.cuts else body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        web.url = f"http://127.0.0.1:{serving.server_address[1]}/file.bin"
        yield web
        serving.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.001)
    monkeypatch.setattr(download, "PIECE", 10_000)


def test_a_file_comes_once(web, tmp_path):
    path, lines = tmp_path / "a/file.bin", []
    fetch(web.url, path, lines.append, len(CONTENT), MD5)
    assert path.read_bytes() == CONTENT and [*path.parent.iterdir()] == [path]
    fetch(web.url, path, lines.append, len(CONTENT), MD5)
    assert web.asked == [None] and lines[-1] == "file.bin is there already"


def test_cut_connections_are_taken_up_where_they_broke(web, tmp_path):
    path = tmp_path / "file.bin"
    web.cuts = [100_000, 0, 50_000, 0, 1]
    fetch(web.url, path, silent, len(CONTENT), MD5)
    assert path.read_bytes() == CONTENT
    starts = [100_000, 100_000, 150_000, 150_000, 150_001]
    assert web.asked == [None, *(f"bytes={start}-" for start in starts)]


def test_a_stopped_download_goes_on_in_the_next_call(web, tmp_path):
    path = tmp_path / "file.bin"
    web.cuts = [120_000] + [0] * download.TRIES
    with pytest.raises(UserError, match=r"closed early; 120,000 bytes are kept in .*\.part"):
        fetch(web.url, path, silent, len(CONTENT), MD5)
    assert not path.exists()
    web.asked.clear()
    web.cuts.clear()
    fetch(web.url, path, silent, len(CONTENT), MD5)
    assert web.asked == ["bytes=120000-"] and path.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(web, tmp_path):
    web.ranges, web.cuts = False, [200_000]
    fetch(web.url, tmp_path / "file.bin", silent)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and len(web.asked) == 2


def test_errors_of_the_server(web, tmp_path):
    """5xx pass; 404 does not; 416 says that what is here is too long."""
    web.codes = [503, 500]
    fetch(web.url, tmp_path / "a.bin", silent)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    web.codes = [404]
    with pytest.raises(UserError, match=r"file\.bin: download failed: .*404"):
        fetch(web.url, tmp_path / "b.bin", silent)
    (tmp_path / "c.bin.part").write_bytes(bytes(len(CONTENT) + 5))
    fetch(web.url, tmp_path / "c.bin", silent)
    assert (tmp_path / "c.bin").read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"download failed: .*refused; the same command"):
        fetch("http://127.0.0.1:1/x", tmp_path / "d.bin", silent)


def test_another_file_is_refused(web, tmp_path):
    path = tmp_path / "file.bin"
    with pytest.raises(UserError, match="has 300,000 bytes, 5 are expected"):
        fetch(web.url, path, silent, 5)
    with pytest.raises(UserError, match="more than 0 MB"):
        fetch(web.url, path, silent, limit=100_000)
    path.with_name("file.bin.part").unlink()
    web.content = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match=rf"damaged: MD5 \w+ instead of MD5 {MD5}; .*deleted"):
        fetch(web.url, path, silent, len(CONTENT), MD5)
    assert not [*tmp_path.iterdir()]
    path.write_bytes(b"old")  # of another size: replaced, but only by the right one
    with pytest.raises(UserError):
        fetch(web.url, path, silent, len(CONTENT), MD5)
    assert path.read_bytes() == b"old"


def test_no_space(web, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")(200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"0\.00 GB are needed in .*, 0\.00 GB are free"):
        fetch(web.url, tmp_path / "file.bin", silent, len(CONTENT))
    assert web.asked == []
    file = pack(tmp_path, {"in/a": CONTENT})
    with pytest.raises(UserError, match=r"unpacking: .* are needed"):
        unpack(file, tmp_path / "out", silent)
    assert not (tmp_path / "out").exists()


def pack(folder, files):
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return folder / "x.zip"


def test_unpack_takes_one_folder(tmp_path):
    file = pack(tmp_path, {"in/a/1.txt": "one", "in/2.txt": "two", "in/": "", "else/3.txt": "3"})
    unpack(file, tmp_path / "deep/out", silent, inside="in/")
    found = {p.relative_to(tmp_path / "deep").as_posix() for p in (tmp_path / "deep").rglob("*.*")}
    assert found == {"out/a/1.txt", "out/2.txt"}
    with pytest.raises(UserError, match="nothing in it under nowhere/"):
        unpack(file, tmp_path / "other", silent, inside="nowhere/")


def test_unpacking_goes_on(tmp_path, monkeypatch):
    """What is whole stays; the file that was being written is written anew."""
    file = pack(tmp_path, {f"{i}.txt": str(i) * 50 for i in range(4)})
    copy, count = shutil.copyfileobj, []

    def stop(source, target, length):
        count.append(1)
        if len(count) == 3:
            target.write(b"half")
            raise KeyboardInterrupt
        copy(source, target, length)

    monkeypatch.setattr(shutil, "copyfileobj", stop)
    with pytest.raises(KeyboardInterrupt):
        unpack(file, tmp_path / "out", silent)
    assert not (tmp_path / "out").exists()
    unpack(file, tmp_path / "out", silent)
    assert len(count) == 5  # 0, 1, half of 2; then 2 and 3
    texts = [(tmp_path / f"out/{i}.txt").read_text() for i in range(4)]
    assert texts == [str(i) * 50 for i in range(4)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "x.zip"]


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_unpack_stays_in_its_folder(tmp_path, name):
    (tmp_path / "deep").mkdir()
    file = pack(tmp_path / "deep", {"good.txt": "x", name: "bad"})
    with pytest.raises(UserError, match="unsafe path in it"):
        unpack(file, tmp_path / "deep/out", silent)
    assert [p.name for p in tmp_path.rglob("*")] == ["deep", "x.zip"]


def test_unpack_refuses_links_bombs_and_damage(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with pytest.raises(UserError, match="unsafe path"):
        unpack(pack(tmp_path, {link: "/etc/passwd"}), tmp_path / "out", silent)
    file = pack(tmp_path, {"a": CONTENT})
    with pytest.raises(UserError, match="unpacks to over 0 MB"):
        unpack(file, tmp_path / "out", silent, limit=1000)
    whole = file.read_bytes()
    file.write_bytes(whole[:5000] + b"?" + whole[5001:])
    with pytest.raises(UserError, match=r"x\.zip: not a usable zip archive: Bad CRC"):
        unpack(file, tmp_path / "out", silent)
    file.write_bytes(whole[:5000])
    with pytest.raises(UserError, match=r"x\.zip: not a usable zip archive"):
        unpack(file, tmp_path / "out", silent)
    assert not (tmp_path / "out").exists()
