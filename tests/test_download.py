"""Archives come whole or not at all, whatever the network does, and write nowhere but below their folder."""

import hashlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import types
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tse_lib.bin.main import main
from tse_lib.corpora import CORPORA, download
from tse_lib.corpora.download import Archive, archives_of, fetch, total_text

NOISE = bytes(range(256)) * 2000  # half a megabyte: several blocks


class Server:
    """Serves `files`; `asked` has what was asked for. `cuts` end the answers early, one each; `codes` fail them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.ranges = True
        self.cuts: list[int] = []
        self.codes: list[int] = []
        self.redirect = ""
        self.sizes_told = False
        self.hold = threading.Event()
        self.hold.set()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.lstrip("/").partition("?")[0]
        asked = request.headers.get("Range", "")
        self.asked.append((name, asked))
        if self.redirect:
            request.send_response(302)
            request.send_header("Location", self.redirect)
            return request.end_headers()
        if self.codes or name not in self.files:
            return request.send_error(self.codes.pop(0) if self.codes else 404)
        content = self.files[name]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if start and start >= len(content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            return request.end_headers()
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        end = start + self.cuts.pop(0) if self.cuts else len(content)
        request.wfile.write(content[start:end])
        request.wfile.flush()
        self.hold.wait(10)


@pytest.fixture
def server():
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            served.answer(self)

        def do_HEAD(self):
            if not served.sizes_told:
                return self.send_error(405)
            self.send_response(200)
            self.send_header("Content-Length", str(len(served.files[self.path.lstrip("/")])))
            self.end_headers()

        def log_message(self, *words):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    served.port = listening.server_address[1]
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield served
    served.hold.set()
    listening.shutdown()
    listening.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download, "WAITS_S", (0, 0, 0))


def tar_of(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


FILES = {"Corpus/a/1.wav": NOISE, "Corpus/b.txt": b"text", "Corpus/empty": b""}


# ------------------------------------------------------------------------------------------------------- what is made


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.zip", zip_of(FILES)),
        ("c.tar.gz", tar_of(FILES)),
        ("c.tgz", tar_of(FILES)),
        ("c.tar.bz2", tar_of(FILES, "w:bz2")),
        ("c.tar", tar_of(FILES, "w")),
    ],
)
def test_an_archive_is_verified_unpacked_and_removed(server, tmp_path, capsys, name, content):
    server.files[name] = content
    archive = Archive(server.url(name), md5(content), hashlib.sha256(content).hexdigest(), len(content), "sub/folder")
    fetch([archive], tmp_path)
    made = tree(tmp_path)
    assert made.pop(f".done-{name}") == archive.url.encode() + b"\n"
    assert made == {f"sub/folder/{path}": content for path, content in FILES.items()}
    told = capsys.readouterr().out
    assert f"to fetch: 1 files, {total_text([len(content)])}, of which 0 bytes are there already" in told

    fetch([archive], tmp_path)
    assert f"{name}: there already (remove {tmp_path}/.done-{name} to fetch it again)" in capsys.readouterr().out
    assert len(server.asked) == 1


def test_what_is_no_archive_is_put_in_its_folder(server, tmp_path):
    server.files["speakers.json"] = b"{}"
    fetch([Archive(server.url("speakers.json?download=1"), folder="EARS")], tmp_path)
    fetch([Archive(server.url("speakers.json"), file_name="table.json")], tmp_path)
    assert sorted(tree(tmp_path)) == [".done-speakers.json", ".done-table.json", "EARS/speakers.json", "table.json"]


def test_the_total_is_told_before_it_starts(server, tmp_path, capsys):
    server.files |= {"a.zip": zip_of({"a": os.urandom(5000)}), "b.zip": zip_of({"b": os.urandom(7000)})}
    (tmp_path / "b.zip.part").write_bytes(server.files["b.zip"][:1000])
    known, unknown = Archive(server.url("a.zip"), num_bytes=len(server.files["a.zip"])), Archive(server.url("b.zip"))
    server.sizes_told = True
    fetch([known, unknown], tmp_path)
    assert "to fetch: 2 files, 12.2 kB, of which 1.0 kB are there already; " in capsys.readouterr().out
    server.sizes_told = False
    fetch([known, unknown], tmp_path / "again")
    assert "to fetch: 2 files, 5.1 kB and 1 files of unknown size, of which 0 bytes" in capsys.readouterr().out


def test_archives_can_be_kept_and_brought_by_hand(server, tmp_path):
    content = zip_of(FILES)
    (tmp_path / "c.zip").write_bytes(content)
    fetch([Archive(server.url("c.zip"), md5(content))], tmp_path, keep=True)
    assert server.asked == []
    assert tree(tmp_path) == {**FILES, "c.zip": content, ".done-c.zip": server.url("c.zip").encode() + b"\n"}


def test_two_archives_of_one_folder_are_merged_and_another_address_is_another_archive(server, tmp_path):
    server.files |= {"1.zip": zip_of({"C/a/1": b"1", "C/x": b"old"}), "2.zip": zip_of({"C/a/2": b"2", "C/x": b"new"})}
    fetch([Archive(server.url("1.zip")), Archive(server.url("2.zip"))], tmp_path)
    assert {name: content for name, content in tree(tmp_path).items() if name[0] == "C"} == {
        "C/a/1": b"1",
        "C/a/2": b"2",
        "C/x": b"new",
    }
    fetch([Archive(server.url("1.zip?version=2"))], tmp_path)
    assert (tmp_path / "C" / "x").read_bytes() == b"old"


def test_a_file_address_and_the_free_space(tmp_path):
    (tmp_path / "c.zip").write_bytes(zip_of({"a": b"b"}))
    fetch([Archive(f"file://{tmp_path}/c.zip")], tmp_path / "out")
    assert (tmp_path / "out" / "a").read_bytes() == b"b"
    with pytest.raises(FileNotFoundError, match="d.zip: no such file"):
        fetch([Archive(f"file://{tmp_path}/d.zip")], tmp_path / "out")
    with pytest.raises(OSError, match=r"1000000000.0 GB are to be fetched and .* are free; another --root"):
        fetch([Archive(f"file://{tmp_path}/e.zip", num_bytes=10**18)], tmp_path / "out")


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        (["ftp://a.org/c.zip"], "ftp://a.org/c.zip: the address of a file is expected, http, https, file"),
        (["http://a.org/"], "the address of a file is expected"),
        (["http://a.org/x/%2e%2e"], "the address of a file is expected"),
        (["http://a.org/..%2fc.zip"], None),  # the name is what follows the last slash: c.zip
        (["http://a.org/c.zip", "http://b.org/c.zip"], "'http://a.org/c.zip' has the same name"),
        (["http://a.org/c.z01", "http://a.org/c.z02"], "a part of a split zip, and c.zip is not among the archives"),
    ],
)
def test_addresses_that_cannot_be_fetched(tmp_path, urls, message):
    if message is None:
        assert Archive(urls[0]).name == "c.zip"
        return
    with pytest.raises(ValueError, match=message):
        fetch([Archive(url) for url in urls], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_redirection_to_another_kind_of_address_is_not_followed(server, tmp_path):
    secret = tmp_path / "secret.zip"
    secret.write_bytes(zip_of(FILES))
    for target, reason in ((f"file://{secret}", "not allowed"), ("ftp://127.0.0.1/c.zip", "unknown url type: ftp")):
        server.redirect = target
        with pytest.raises(OSError, match=reason):
            fetch([Archive(server.url("c.zip"))], tmp_path / "out")
    assert tree(tmp_path / "out") == {}


# ------------------------------------------------------------------------------------------------------ interruptions


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server, tmp_path, capsys):
    content = zip_of({"a": os.urandom(500_000)})
    server.files["c.zip"] = content
    server.cuts = [200_000, 100_000, 50_000, 20_000, 10_000]  # more than there are attempts, but each brings something
    server.codes = [503]
    fetch([Archive(server.url("c.zip"), md5(content))], tmp_path)
    starts = [0, 0, 200_000, 300_000, 350_000, 370_000, 380_000]
    assert [asked for _, asked in server.asked] == [f"bytes={start}-" if start else "" for start in starts]
    told = capsys.readouterr().out
    assert "the server says 503" in told and f"ended after 200000 of {len(content)} bytes" in told


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.files["c.zip"] = zip_of(FILES)
    server.ranges = False
    server.cuts = [300]
    (tmp_path / "c.zip.part").write_bytes(b"PK some other beginning")
    fetch([Archive(server.url("c.zip"))], tmp_path)
    assert [asked for _, asked in server.asked] == ["bytes=23-", "bytes=300-"]
    assert (tmp_path / "Corpus" / "a" / "1.wav").read_bytes() == NOISE


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_part_that_was_whole_already_is_used_and_one_that_is_too_long_is_not(server, tmp_path, extra):
    content = server.files["c.zip"] = zip_of(FILES)
    (tmp_path / "c.zip.part").write_bytes(content + extra)
    fetch([Archive(server.url("c.zip"))], tmp_path)
    assert len(server.asked) == (2 if extra else 1)
    assert (tmp_path / "Corpus" / "b.txt").read_bytes() == b"text"
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "c.zip.part").write_bytes(content + extra)
    server.asked.clear()
    fetch([Archive(server.url("c.zip"), num_bytes=len(content))], tmp_path / "again")
    assert server.asked == ([("c.zip", "")] if extra else [])


def test_a_server_that_keeps_failing_is_given_up_and_what_came_stays(server, tmp_path):
    server.files["c.zip"] = zip_of({"a": os.urandom(500_000)})
    server.ranges = False
    server.cuts = [100_000] * 10
    with pytest.raises(OSError, match=r"c.zip: .* given up after 4 attempts, 100.0 kB are there"):
        fetch([Archive(server.url("c.zip"))], tmp_path)
    assert len(server.asked) == 4
    assert os.listdir(tmp_path) == ["c.zip.part"]


@pytest.mark.parametrize(("code", "kind"), [(404, FileNotFoundError), (403, OSError)])
def test_an_answer_that_stays_the_same_is_not_asked_for_again(server, tmp_path, code, kind):
    server.codes = [code]
    with pytest.raises(kind, match=f"c.zip: the server says {code}"):
        fetch([Archive(server.url("c.zip"))], tmp_path)
    assert len(server.asked) == 1


def test_nobody_listens(tmp_path):
    with pytest.raises(OSError, match="no connection .* given up after 4 attempts"):
        fetch([Archive("http://127.0.0.1:9/c.zip")], tmp_path)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"md5": "0" * 32}, r"c.zip.part: md5 \w+, 0{32} expected; it is removed"),
        ({"sha256": "0" * 64}, r"c.zip.part: sha256 \w+, 0{64} expected"),
        ({"num_bytes": 7}, r"c.zip: \d+ bytes on the server, 7 expected; it is another file by now"),
    ],
)
def test_another_file_than_the_expected_one_is_not_unpacked(server, tmp_path, told, message):
    server.files["c.zip"] = zip_of(FILES)
    with pytest.raises(ValueError, match=message):
        fetch([Archive(server.url("c.zip"), **told)], tmp_path)
    assert tree(tmp_path) == {}


def test_a_wrong_file_brought_by_hand_is_removed(tmp_path):
    (tmp_path / "c.zip").write_bytes(b"half")
    with pytest.raises(ValueError, match="c.zip: bytes 4, 7 expected; it is removed"):
        fetch([Archive("http://127.0.0.1:9/c.zip", num_bytes=7)], tmp_path)
    assert tree(tmp_path) == {}


def test_two_at_once_fetch_once(server, tmp_path, capsys):
    content = server.files["c.tar"] = tar_of({"C/a": os.urandom(2_000_000)}, "w")
    server.hold.clear()
    archive = Archive(server.url("c.tar"), md5(content))
    threads = [threading.Thread(target=fetch, args=([archive], tmp_path), daemon=True) for _ in range(2)]
    part, told, deadline = tmp_path / "c.tar.part", "", time.monotonic() + 20
    threads[0].start()
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    threads[1].start()
    while "waiting for it" not in told and time.monotonic() < deadline:
        time.sleep(0.01)
        told += capsys.readouterr().out
    server.hold.set()
    for thread in threads:
        thread.join(20)
    assert server.asked == [("c.tar", "")]
    assert sorted(tree(tmp_path)) == [".done-c.tar", "C/a"]


def test_a_killed_process_is_continued(server, tmp_path):
    content = server.files["c.tar"] = tar_of({"C/a": os.urandom(2_000_000)}, "w")
    server.cuts = [1_500_000]
    server.hold.clear()
    code = "import sys; from tse_lib.corpora.download import *; fetch([Archive(sys.argv[1])], Path(sys.argv[2]))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-c", code, server.url("c.tar"), str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part, deadline = tmp_path / "c.tar.part", time.monotonic() + 20
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    server.hold.set()
    there = part.stat().st_size
    assert 0 < there <= 1_500_000
    (tmp_path / ".unpack-c.tar" / "C").mkdir(parents=True)  # as if an earlier one was killed while it unpacked
    (tmp_path / ".unpack-c.tar" / "C" / "stale").write_bytes(b"half")
    fetch([Archive(server.url("c.tar"), md5(content))], tmp_path)
    assert server.asked[-1] == ("c.tar", f"bytes={there}-")
    assert sorted(tree(tmp_path)) == [".done-c.tar", "C/a"]


@pytest.mark.parametrize("limit", [100_000, 700_000])
def test_a_full_disk_leaves_what_the_next_run_goes_on_with(server, tmp_path, limit):
    """A limit on the size of files stands for the full disk: the smaller one meets the download, the other the rest."""
    content = zip_of({"a.wav": bytes(2_000_000), "b.wav": os.urandom(400_000)})
    server.files["c.zip"] = content
    assert 100_000 < len(content) < 700_000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="File too large.*the same command goes on") as caught:
            fetch([Archive(server.url("c.zip"), md5(content))], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert str(caught.value).startswith(f"{tmp_path}/c.zip")
    assert os.listdir(tmp_path) == ["c.zip.part" if limit == 100_000 else "c.zip"]
    fetch([Archive(server.url("c.zip"), md5(content))], tmp_path)
    assert sorted(tree(tmp_path)) == [".done-c.zip", "a.wav", "b.wav"]
    assert len(server.asked) == (2 if limit == 100_000 else 1)


# --------------------------------------------------------------------------------------------------- hostile archives


def tar_with(*members: tuple[str, bytes, str]) -> bytes:
    """A tar of (name, type, link name) after an innocent file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        good = tarfile.TarInfo("C/good")
        good.size = 4
        archive.addfile(good, io.BytesIO(b"good"))
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            archive.addfile(member, io.BytesIO(b""))
    return buffer.getvalue()


def zip_with_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("C/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


RANDOM = os.urandom(9000)
HOSTILE = {
    "dots.tgz": (tar_of({"C/good": b"", "C/../../evil": b"x"}), "would be written elsewhere"),
    "absolute.tgz": (tar_of({"/tmp/evil": b"x"}), "would be written elsewhere"),
    "dots.zip": (zip_of({"C/good": b"", "../evil": b"x"}), "would be written elsewhere"),
    "absolute.zip": (zip_of({"/evil": b"x"}), "would be written elsewhere"),
    "link.tgz": (tar_with(("C/l", tarfile.SYMTYPE, "/etc/passwd")), "is a link that leads out"),
    "out.tgz": (tar_with(("C/l", tarfile.SYMTYPE, "../../up")), "is a link that leads out"),
    "hard.tgz": (tar_with(("C/l", tarfile.LNKTYPE, "/etc/passwd")), "is a link that leads out"),
    "self.tgz": (tar_with(("C/l", tarfile.SYMTYPE, "l")), "is a link that leads out"),
    "folder.tgz": (
        tar_with(("C/d", tarfile.DIRTYPE, ""), ("l", tarfile.SYMTYPE, "C/d")),
        "neither a file nor a folder",
    ),
    "device.tgz": (tar_with(("C/null", tarfile.CHRTYPE, "")), "neither a file nor a folder"),
    "pipe.tgz": (tar_with(("C/pipe", tarfile.FIFOTYPE, "")), "neither a file nor a folder"),
    "link.zip": (zip_with_link(), "is a link"),
    "page.zip": (b"<html>log in first</html>", "cannot be unpacked"),
    "page.tar.gz": (b"<html>log in first</html>", "cannot be unpacked"),
    "half.tar.gz": (tar_of({"C/a": RANDOM})[:5000], "cannot be unpacked"),
    "half.tar.bz2": (tar_of({"C/a": RANDOM}, "w:bz2")[:5000], "cannot be unpacked"),
    "damaged.tar.bz2": (tar_of({"C/a": RANDOM}, "w:bz2")[:5000] + bytes(4000), "cannot be unpacked"),
    "damaged.zip": (zip_of({"C/a": b"a" * 9 + RANDOM}).replace(RANDOM[4000:4004], b"    "), "cannot be unpacked"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_broken_archive_writes_nothing(tmp_path, name):
    content, message = HOSTILE[name]
    root = tmp_path / "a" / "b"
    root.mkdir(parents=True)
    (root / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        fetch([Archive(f"http://127.0.0.1:9/{name}")], root)
    assert tree(tmp_path) == {f"a/b/{name}": content}


def test_a_link_within_the_archive_becomes_a_copy(tmp_path):
    links = ("C/sub/soft", tarfile.SYMTYPE, "../good"), ("hard", tarfile.LNKTYPE, "C/good")
    (tmp_path / "c.tgz").write_bytes(tar_with(*links))
    fetch([Archive("http://127.0.0.1:9/c.tgz")], tmp_path)
    for name in ("C/good", "C/sub/soft", "hard"):
        assert (tmp_path / name).read_bytes() == b"good" and not (tmp_path / name).is_symlink()


# ---------------------------------------------------------------------------------------------------------- split zips


def split_zip(folder: Path, files: dict[str, bytes]) -> list[str]:
    """Made by Info-ZIP, as FSD50K is; the names of the parts."""
    if not shutil.which("zip"):
        pytest.skip("the command zip is not installed")
    for name, content in files.items():
        (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "src" / name).write_bytes(content)
    subprocess.run(["zip", "-q", "-s", "64k", "-r", "../S.zip", *files], cwd=folder / "src", check=True)
    return sorted(path.name for path in folder.glob("S.z*"))


def test_a_split_zip_is_read_across_its_parts(tmp_path):
    files = {f"C/{number}": os.urandom(50_000) for number in range(5)} | {"C/text": b"many words " * 9999}
    names = split_zip(tmp_path, files)
    assert names == ["S.z01", "S.z02", "S.z03", "S.zip"]
    fetch([Archive(f"file://{tmp_path}/{name}") for name in reversed(names)], tmp_path / "out")
    made = tree(tmp_path / "out")
    assert made.pop(".done-S.zip")
    assert made == files
    for known in (names[-1:], [names[0], *names[2:]]):
        with pytest.raises(ValueError, match=f"it is part 4 of a split zip, and {len(known) - 1} parts before it"):
            fetch([Archive(f"file://{tmp_path}/{name}") for name in known], tmp_path / "less")
        assert all(name.startswith("S.z") for name in os.listdir(tmp_path / "less"))


# ---------------------------------------------------------------------------------------------------------------- verb


@pytest.fixture
def corpora(monkeypatch, server):
    server.files |= {"a.zip": zip_of({"C/a": b"a"}), "b.zip": zip_of({"C/b": b"b"})}
    one = Archive(server.url("a.zip"), num_bytes=len(server.files["a.zip"]))
    parts = {"a": one, "b": (one, Archive(server.url("b.zip")))}
    fake = types.SimpleNamespace(ARCHIVES=parts, DEFAULT_PARTS=("a",), LICENCE="CC0")
    monkeypatch.setitem(CORPORA, "fake", fake)
    monkeypatch.setitem(CORPORA, "closed", types.SimpleNamespace(ADDRESS="https://a.org/", LICENCE="for members"))
    return parts


def test_the_verb_fetches_parts_and_names_what_is_wrong(corpora, server, tmp_path, capsys):
    root = tmp_path / "root"
    assert main(["download", "fake", "--root", str(root)]) == 0
    assert sorted(tree(root)) == [".done-a.zip", "C/a"]
    assert main(["download", "fake", "--root", str(root), "--parts", "b", "--keep"]) == 0
    assert [name for name, _ in server.asked] == ["a.zip", "b.zip"]
    assert sorted(tree(root)) == [".done-a.zip", ".done-b.zip", "C/a", "C/b", "b.zip"]
    assert "licence of fake: CC0" in capsys.readouterr().out
    assert main(["download", "fake", "--root", str(root), "--parts", "c"]) == 4
    assert "--parts c: no such part; there are a, b" in capsys.readouterr().err
    assert main(["download", "closed", "--root", str(root)]) == 4
    assert "closed: not open, for members; one gets it at https://a.org/" in capsys.readouterr().err
    for words in ([], ["fake"], ["nothing", "--root", str(root)]):
        with pytest.raises(SystemExit, match="2"):
            main(["download", *words])


def test_the_list_names_every_corpus_with_size_and_licence(corpora, capsys):
    assert main(["download", "--list"]) == 0
    told = capsys.readouterr().out
    assert f"fake: {corpora['a'].num_bytes} bytes; CC0\n    a* b" in told
    assert "closed: not open, for members" in told


@pytest.mark.parametrize("name", [name for name, corpus in CORPORA.items() if hasattr(corpus, "ARCHIVES")])
def test_what_a_corpus_declares_can_be_fetched(name):
    corpus = CORPORA[name]
    archives = archives_of(corpus.ARCHIVES, list(corpus.ARCHIVES))
    assert archives_of(corpus.ARCHIVES, corpus.DEFAULT_PARTS)
    assert download._groups(archives)
    assert corpus.LICENCE and "\n" not in corpus.LICENCE
    for archive in archives:
        assert len(archive.md5) in (0, 32) and len(archive.sha256) in (0, 64)
        assert not archive.folder.startswith("/") and ".." not in archive.folder
