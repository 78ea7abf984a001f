"""Fetch and unpack the archives of open corpora; what was interrupted goes on where it stopped.

A corpus that can be downloaded is a module with

    ARCHIVES: dict[str, Archive | tuple[Archive, ...]]    what each of its parts is made of
    DEFAULT_PARTS: tuple[str, ...]                        the parts that are fetched when none are named
    LICENCE: str                                          a line

One that is given out only under a licence or an agreement has `ADDRESS`, where one gets it, instead of the first two.

Below the root lie `<name>.part` (on its way), `<name>` (whole and verified), `.unpack-<name>` (being unpacked) and
`.done-<name>` (its content is in place); a process that is killed leaves one of these for the next one to go on with.
"""

import hashlib
import http.client
import io
import math
import os
import re
import shlex
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from tse_lib.files import replace_file
from tse_lib.parallel import alone_in

SCHEMES = ("http", "https", "file")
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2")
WAITS_S = (1, 5, 20, 60)  # before each new attempt; bytes that arrive start the count anew
TIMEOUT_S = 60
BLOCK = 1 << 18
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that another attempt may not get
HEADERS = {"User-Agent": "tse-lib"}


@dataclass(frozen=True)
class Archive:
    """A file to fetch: .zip (also split: .z01, .z02, …, .zip), .tar, .tar.gz, .tgz, .tar.bz2, or anything else as is.

    Attributes:
        md5, sha256: hexadecimal; empty where nobody published it.
        num_bytes: exact; 0 where it is not known.
        folder: below the root, where it is unpacked.
        file_name: what it is called, where the address does not end with that.
    """

    url: str
    md5: str = ""
    sha256: str = ""
    num_bytes: int = 0
    folder: str = ""
    file_name: str = ""

    @property
    def name(self) -> str:
        return self.file_name or unquote(urlsplit(self.url).path).rpartition("/")[2]


def archives_of(parts: Mapping[str, Archive | tuple[Archive, ...]], names: Sequence[str]) -> list[Archive]:
    """What the named parts of a corpus are made of, each once.

    Raises:
        ValueError: a part that the corpus does not have.
    """
    archives: dict[Archive, None] = {}
    for name in names:
        if name not in parts:
            raise ValueError(f"--parts {name}: no such part; there are {', '.join(parts)}")
        part = parts[name]
        archives.update(dict.fromkeys([part] if isinstance(part, Archive) else part))
    return list(archives)


def fetch(archives: Sequence[Archive], root: Path, keep: bool = False) -> None:
    """Download, verify and unpack below `root` what is not there yet; prints how much that is before it starts.

    While another process does so in the same `root`, this one waits for it: two would write to one file.

    An archive is removed when it is unpacked, unless `keep`. One that lies in `root` already, put there by hand, is
    verified and used.

    Raises:
        ValueError: a wrong size or checksum (the file is removed), an archive that is broken or would write elsewhere.
        FileNotFoundError: the server does not have it.
        OSError: no connection, or no space; the same command goes on from there.
    """
    groups = _groups(archives)
    root.mkdir(parents=True, exist_ok=True)
    with alone_in(root, f"{root}: another tse download writes here; waiting for it", math.inf):
        todo = [group for group in groups if not _is_done(group, root)]
        _tell_plan(groups, todo, root)
        for group in todo:
            for archive in group:
                _download(archive, root / archive.name)
            _put_in_place([root / archive.name for archive in group], root / group[-1].folder, root)
            with replace_file(_marker(group, root)) as file:
                file.write(group[-1].url + "\n")
            if not keep and _is_packed(group[-1].name):
                for archive in group:
                    (root / archive.name).unlink()


def size_text(num_bytes: int) -> str:
    """`6.4 GB`; decimal units, as on the label of a disk."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


def total_text(sizes: Sequence[int]) -> str:
    """The sum of sizes in bytes in words; 0 is a size that is not known."""
    unknown = sum(not size for size in sizes)
    if unknown == len(sizes):
        return "of unknown size"
    return size_text(sum(sizes)) + (f" and {unknown} files of unknown size" if unknown else "")


# ------------------------------------------------------------------------------------------------------------- plan


def _groups(archives: Sequence[Archive]) -> list[list[Archive]]:
    """What is unpacked together: the parts of a split zip (.z01, .z02, …, .zip in this order), else each for itself."""
    groups: dict[str, list[Archive]] = {}
    urls: dict[str, str] = {}
    for archive in dict.fromkeys(archives):
        name = archive.name
        if urlsplit(archive.url).scheme not in SCHEMES or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"{archive.url}: the address of a file is expected, {', '.join(SCHEMES)}")
        if urls.setdefault(name, archive.url) != archive.url:
            raise ValueError(f"{archive.url}: '{urls[name]}' has the same name; they need roots of their own")
        groups.setdefault(re.sub(r"\.z\d+$", ".zip", name), []).append(archive)
    for name, group in groups.items():
        group.sort(key=lambda archive: _disk_number(archive.name))
        if group[-1].name != name:
            raise ValueError(f"{group[-1].url}: a part of a split zip, and {name} is not among the archives")
    return list(groups.values())


def _disk_number(name: str) -> float:
    match = re.search(r"\.z(\d+)$", name)
    return int(match[1]) if match else math.inf


def _is_packed(name: str) -> bool:
    return name.endswith((".zip", *TARS))


def _marker(group: list[Archive], root: Path) -> Path:
    return root / f".done-{group[-1].name}"


def _is_done(group: list[Archive], root: Path) -> bool:
    marker = _marker(group, root)
    return marker.is_file() and marker.read_text(encoding="utf-8").strip() == group[-1].url


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tell_plan(groups: list[list[Archive]], todo: list[list[Archive]], root: Path) -> None:
    for group in groups:
        if group not in todo:
            print(f"{group[-1].name}: there already (remove {_marker(group, root)} to fetch it again)")
    archives = [archive for group in todo for archive in group]
    if not archives:
        return
    there = [_size(root / archive.name) or _size(_part(root / archive.name)) for archive in archives]
    with ThreadPoolExecutor(8) as pool:
        sizes = [
            archive.num_bytes or told for archive, told in zip(archives, pool.map(_told_size, archives), strict=True)
        ]
    free = shutil.disk_usage(root).free
    print(
        f"to fetch: {len(archives)} files, {total_text(sizes)}, of which {size_text(sum(there))} are there already; "
        f"{size_text(free)} free in {root}"
    )
    missing = sum(max(0, size - have) for size, have in zip(sizes, there, strict=True))
    if missing > free:
        raise OSError(f"{root}: {size_text(missing)} are to be fetched and {size_text(free)} are free; another --root?")


def _told_size(archive: Archive) -> int:
    """What the server says of an archive of unknown size; 0 where it does not."""
    if archive.num_bytes:
        return 0
    try:
        request = urllib.request.Request(archive.url, headers=HEADERS, method="HEAD")
        with _without_ftp().open(request, timeout=TIMEOUT_S / 4) as answer:
            return _extent(answer)[1]
    except (OSError, http.client.HTTPException):
        return 0


# --------------------------------------------------------------------------------------------------------- download


class _Interrupted(Exception):
    """The connection failed; another attempt may not."""


def _without_ftp() -> urllib.request.OpenerDirector:
    # urllib's usual opener would follow a redirection to ftp
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.FileHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _download(archive: Archive, path: Path) -> None:
    """The archive becomes `path`, whole and verified, by way of `<path>.part`."""
    if path.exists():
        _verify(archive, path)
        return
    part = _part(path)
    failures, most = 0, _size(part)
    while True:
        try:
            _receive(archive, part)
            break
        except _Interrupted as error:
            if _size(part) > most:
                failures, most = 0, _size(part)
            if failures == len(WAITS_S):
                raise OSError(
                    f"{archive.url}: {error}; given up after {failures + 1} attempts, {size_text(_size(part))} are "
                    "there and the same command goes on from them"
                ) from None
            print(f"{archive.url}: {error}; again in {WAITS_S[failures]} s")
            time.sleep(WAITS_S[failures])
            failures += 1
    _verify(archive, part)
    os.replace(part, path)


def _receive(archive: Archive, part: Path) -> None:
    """One attempt to get what `part` lacks."""
    if archive.num_bytes and _size(part) > archive.num_bytes:
        part.unlink()
    start = _size(part)
    if archive.num_bytes and start == archive.num_bytes:
        return
    asked = {"Range": f"bytes={start}-"} if start else {}
    try:
        answer = _without_ftp().open(urllib.request.Request(archive.url, headers=HEADERS | asked), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing after `start`: it was whole already, or is another file by now
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return
            part.unlink()
            raise _Interrupted("the file on the server is another one now, starting again") from None
        if error.code in PASSING:
            raise _Interrupted(f"the server says {error.code} {error.reason}") from None
        kind = FileNotFoundError if error.code in (404, 410) else OSError
        raise kind(f"{archive.url}: the server says {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, FileNotFoundError):
            raise FileNotFoundError(f"{archive.url}: no such file") from None
        raise _Interrupted(f"no connection ({reason})") from None
    with answer:
        start, total = _extent(answer, start)
        if archive.num_bytes and total and total != archive.num_bytes:
            raise ValueError(
                f"{archive.url}: {total} bytes on the server, {archive.num_bytes} expected; it is another file by now"
            )
        bar = tqdm(total=total or None, initial=start, desc=part.stem, unit="B", unit_scale=True, disable=None)
        try:
            with bar, open(part, "ab" if start else "wb") as file:
                for block in _blocks(answer):
                    file.write(block)
                    bar.update(len(block))
        except OSError as error:
            raise OSError(f"{part}: {error.strerror}; what has arrived stays, the same command goes on there") from None
    if total and _size(part) != total:
        raise _Interrupted(f"the connection ended after {_size(part)} of {total} bytes")


def _extent(answer: Any, start: int = 0) -> tuple[int, int]:
    """Where the answer begins (0 although a later start was asked for: the server knows no ranges), and the size."""
    headers = answer.headers
    if answer.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if not match or int(match[1]) != start:
            raise _Interrupted("the server sent another part than it was asked for (remove the .part to begin anew)")
        return start, int(match[2]) if match[2] != "*" else 0
    length = headers.get("Content-Length") or ""
    return 0, int(length) if length.isdecimal() else 0


def _blocks(answer: IO[bytes]) -> Iterator[bytes]:
    while True:
        try:
            block = answer.read(BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(f"the connection broke ({error})") from None
        if not block:
            return
        yield block


def _verify(archive: Archive, path: Path) -> None:
    """ValueError, and no file any more, where size or checksum are not those of the archive."""
    if archive.num_bytes and _size(path) != archive.num_bytes:
        _refuse(path, "bytes", str(_size(path)), str(archive.num_bytes))
    wanted = {kind: told for kind, told in (("md5", archive.md5), ("sha256", archive.sha256)) if told}
    if not wanted:
        return
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in wanted}
    bar = tqdm(total=_size(path), desc=f"verifying {archive.name}", unit="B", unit_scale=True, disable=None)
    with bar, open(path, "rb") as file:
        while block := file.read(BLOCK):
            for digest in digests.values():
                digest.update(block)
            bar.update(len(block))
    for kind, told in wanted.items():
        if digests[kind].hexdigest() != told.lower():
            _refuse(path, kind, digests[kind].hexdigest(), told)


def _refuse(path: Path, kind: str, found: str, told: str) -> None:
    path.unlink()
    raise ValueError(f"{path}: {kind} {found}, {told} expected; it is removed, the same command fetches it again")


# ----------------------------------------------------------------------------------------------------------- unpack


def _put_in_place(paths: list[Path], folder: Path, root: Path) -> None:
    """What is in the archive appears in `folder` once all of it is unpacked; any other file moves there."""
    path = paths[-1]
    if not _is_packed(path.name):
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(path, folder / path.name)
        return
    temporary = root / f".unpack-{path.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _unpack(paths, temporary)
        _merge(temporary, folder)
    except OSError as error:
        raise OSError(
            f"{path}: {error.strerror} ({error.filename or folder}) while it was unpacked; it stays there, the same "
            "command goes on with it"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _merge(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _merge(entry, place)
        else:
            os.replace(entry, place)


def _unpack(paths: list[Path], folder: Path) -> None:
    """Only plain files are written, never a link or a device, and only below `folder`, which is empty."""
    path = paths[-1]
    members = _zip_members(paths) if path.suffix == ".zip" else _tar_members(path)
    try:
        for name, stream in tqdm(members, desc=f"unpacking {path.name}", unit=" files", disable=None):
            place = PurePosixPath(name)
            if place.is_absolute() or ".." in place.parts or not place.parts or "\0" in name:
                raise ValueError(f"{path}: {name!r} would be written elsewhere; nothing of it is unpacked")
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream, open(target, "wb") as file:
                shutil.copyfileobj(stream, file, BLOCK)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; that of a broken stream has no number
            raise
        hint = f"; zip -s 0 {shlex.quote(str(path))} --out joined.zip joins its parts" if len(paths) > 1 else ""
        raise ValueError(f"{path}: cannot be unpacked ({error}); remove it to fetch it again{hint}") from None


def _tar_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isdir():
                continue
            try:  # of a link: the file of the archive that it leads to
                stream = archive.extractfile(member)
            except (KeyError, RecursionError):
                raise ValueError(f"{path}: {member.name!r} is a link that leads out of the archive") from None
            if stream is None:
                raise ValueError(f"{path}: {member.name!r} is neither a file nor a folder; nothing of it is unpacked")
            yield member.name, stream


def _zip_members(paths: list[Path]) -> Iterator[tuple[str, IO[bytes]]]:
    _refuse_missing_parts(paths)
    joined = _Joined(paths)
    with io.BufferedReader(joined, BLOCK) as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(f"{paths[-1]}: {member.filename!r} is a link; nothing of it is unpacked")
            yield member.filename, archive.open(_located(member, archive.start_dir, joined.starts))


def _refuse_missing_parts(paths: list[Path]) -> None:
    # the record at the end of a zip has the number of its part, from 0; zipfile does not look at it
    with open(paths[-1], "rb") as file:
        file.seek(max(0, _size(paths[-1]) - 22 - 0xFFFF))
        tail = file.read()
    place = tail.rfind(b"PK\5\6")
    number = int.from_bytes(tail[place + 4 : place + 6], "little")
    if place >= 0 and number not in (len(paths) - 1, 0xFFFF):
        raise zipfile.BadZipFile(
            f"it is part {number + 1} of a split zip, and {len(paths) - 1} parts before it are known"
        )


def _located(member: zipfile.ZipInfo, directory: int, starts: list[int]) -> zipfile.ZipInfo:
    """The member with its place in the joined parts: a split zip counts from the beginning of the member's part.

    zipfile knows of no parts: it has counted from the beginning of the one that holds the `directory`.
    """
    if len(starts) == 2:
        return member
    if member.volume + 1 >= len(starts):
        raise zipfile.BadZipFile(f"{member.filename!r} is in part {member.volume + 1} of {len(starts) - 1}")
    located = zipfile.ZipInfo(member.filename)  # a new one: the old one remembers where the next member seemed to begin
    for field in ("orig_filename", "compress_type", "compress_size", "file_size", "CRC", "flag_bits"):
        setattr(located, field, getattr(member, field))
    located.header_offset = member.header_offset + starts[member.volume] - starts[bisect_right(starts, directory) - 1]
    return located


class _Joined(io.RawIOBase):
    """Several files, read as one."""

    def __init__(self, paths: list[Path]) -> None:
        self.starts = [0, *accumulate(path.stat().st_size for path in paths)]
        self.files = [open(path, "rb") for path in paths]
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.starts[-1]}[whence]
        return self.place

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self.starts, self.place) - 1
        if number >= len(self.files):
            return 0
        self.files[number].seek(self.place - self.starts[number])
        count = self.files[number].readinto(buffer)
        self.place += count
        return count

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()
