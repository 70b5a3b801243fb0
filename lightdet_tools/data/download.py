"""Files from the web, large ones too: resumed where they stopped, checked, unpacked safely.

`fetch` writes to `<name>.part` and renames it when the size and the hash are right, so that a file
under its own name is a whole one. `unpack` does the same with a folder.
"""

import hashlib
import http.client
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from lightdet_core.config import UserError

TRIES = 5  # in a row without a new byte
WAIT = 1.0  # seconds before the first repetition; doubled each time
TIMEOUT = 60  # seconds without an answer
PIECE = 1 << 20
TELL_EVERY = 5.0  # seconds between two lines of progress


def fetch(
    url: str,
    path: Path,
    progress: Callable[[str], None] = print,
    size: int | None = None,
    md5: str | None = None,
    limit: int | None = None,
) -> None:
    """The file behind `url` at `path`, unless it is there already; a stopped download goes on.

    Args:
        path: replaced only by a complete file; what came so far lies beside it as `<name>.part`.
        size: bytes, when they are known; None takes what the server says.
        md5: of the whole file.
        limit: bytes; more are refused, for a file whose size is not known beforehand.

    Raises:
        UserError: no connection after TRIES attempts, too little disk, or another file than
            the one that is meant.
    """
    if path.is_file() and (size is None or path.stat().st_size == size):
        return progress(f"{path.name} is there already")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    if size is not None:
        need_space(path.parent, size - have, f"{url}: {size / 1e9:.2f} GB")
    failures = 0
    while size is None or have < size:
        try:
            size = _append(url, part, have, size, limit, progress)
            if part.stat().st_size >= size:
                break
            raise ConnectionError("the connection was closed early")
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the server's file is shorter than what is here
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise UserError(f"{url}: download failed: {error}") from None
            reason: object = error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)  # urllib wraps what the system says
        now = part.stat().st_size if part.is_file() else 0
        failures = 0 if now > have else failures + 1
        have = now
        if failures == TRIES:
            kept = f"{have:,} bytes are kept in {part}, " if have else ""
            raise UserError(
                f"{url}: download failed: {reason}; {kept}the same command goes on from there"
            )
        progress(f"{path.name}: {reason}; going on at {have / 1e6:.1f} MB")
        time.sleep(WAIT * 2**failures)
    _check(url, part, size, md5, progress)
    os.replace(part, path)


def _append(
    url: str,
    part: Path,
    have: int,
    size: int | None,
    limit: int | None,
    progress: Callable[[str], None],
) -> int:
    """What is missing of the file, as far as it comes; the size of the whole."""
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if have and response.status != 206:  # a server without ranges sends all of it again
            have = 0
        length = int(response.headers.get("Content-Length") or 0)
        stated = have + length if length else None
        if size is not None and stated is not None and stated != size:
            raise UserError(f"{url}: has {stated:,} bytes, {size:,} are expected")
        total = size or stated
        done, start, told = have, time.monotonic(), time.monotonic()
        with open(part, "ab" if have else "wb") as file:
            while piece := response.read(PIECE):
                file.write(piece)
                done += len(piece)
                if limit is not None and done > limit:
                    raise UserError(f"{url}: more than {limit / 1e6:.0f} MB; not what is meant")
                if (now := time.monotonic()) - told > TELL_EVERY:
                    told = now
                    text = _progress(done, total, (done - have) / (now - start))
                    progress(f"{part.stem}: {text}")
    return total or done


def _progress(done: int, total: int | None, speed: float) -> str:
    text = f"{done / 1e6:,.0f} MB at {speed / 1e6:.1f} MB/s"
    if total:
        left = round((total - done) / max(speed, 1))
        text += f", {done / total:.0%}, {left // 60}:{left % 60:02d} left"
    return text


def _check(url: str, part: Path, size: int, md5: str | None, progress: Callable) -> None:
    """Raises a UserError, without the file, unless it is the right one."""
    found, wanted = f"{part.stat().st_size:,} bytes", f"{size:,} bytes"
    if md5 is not None and found == wanted:
        progress(f"{part.stem}: checking its MD5")
        with open(part, "rb") as file:
            found, wanted = f"MD5 {hashlib.file_digest(file, 'md5').hexdigest()}", f"MD5 {md5}"
    if found != wanted:
        part.unlink()
        raise UserError(
            f"{url}: damaged: {found} instead of {wanted}; it was deleted, the same command "
            "downloads it again"
        )


def need_space(folder: Path, bytes_needed: int, what: str) -> None:
    """Raises a UserError when the disk of the folder has less."""
    free = shutil.disk_usage(folder).free
    if bytes_needed > free:
        raise UserError(
            f"{what}: {bytes_needed / 1e9:.2f} GB are needed in {folder}, "
            f"{free / 1e9:.2f} GB are free"
        )


def unpack(
    archive: Path,
    folder: Path,
    progress: Callable[[str], None] = print,
    inside: str = "",
    limit: int | None = None,
) -> None:
    """What lies under `inside` in a zip archive, as `folder`; a stopped one goes on.

    Args:
        folder: must not exist; it appears when everything is in it.
        inside: a folder of the archive, such as train2017/.
        limit: bytes that it may unpack to.

    Raises:
        UserError: no zip, damaged, or with paths that leave the folder; nothing is written
            outside of it.
    """
    aside = folder.with_name(f".{folder.name}.unpacking")
    try:
        with zipfile.ZipFile(archive) as pack:
            entries = [(entry, _target(archive, entry, inside)) for entry in pack.infolist()]
            entries = [(entry, target) for entry, target in entries if target is not None]
            total = sum(entry.file_size for entry, _ in entries)
            if not entries:
                raise UserError(f"{archive}: nothing in it under {inside or '/'}")
            if limit is not None and total > limit:
                raise UserError(f"{archive}: unpacks to over {limit / 1e6:.0f} MB")
            aside.mkdir(parents=True, exist_ok=True)
            there = sum(file.stat().st_size for file in aside.rglob("*") if file.is_file())
            need_space(aside, total - there, f"{archive}: unpacking")
            told = time.monotonic()
            for number, (entry, target) in enumerate(entries, start=1):
                file = aside / target
                if not (file.is_file() and file.stat().st_size == entry.file_size):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    partial = file.with_name(f"{file.name}.part")
                    with pack.open(entry) as source, open(partial, "wb") as copy:
                        shutil.copyfileobj(source, copy, PIECE)  # its end checks the CRC
                    os.replace(partial, file)
                if time.monotonic() - told > TELL_EVERY:
                    told = time.monotonic()
                    progress(f"{archive.name}: unpacked {number:,} of {len(entries):,} files")
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive}: not a usable zip archive: {error}") from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(aside, folder)
    progress(f"unpacked {len(entries):,} files to {folder}")


def _target(archive: Path, entry: zipfile.ZipInfo, inside: str) -> PurePosixPath | None:
    """Where an entry goes below the folder; None for folders and what lies elsewhere."""
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    link = stat.S_ISLNK(entry.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]) or link:
        raise UserError(f"{archive}: unsafe path in it: {entry.filename}")
    if entry.is_dir() or not path.is_relative_to(inside):
        return None
    return path.relative_to(inside)
