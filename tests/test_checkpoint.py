"""Checkpoints: whole or not there, verified, and never able to run code."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import zipfile

import pytest
import torch

from tse_lib import checkpoint

STATE = {"modules": {"model": {"w": torch.arange(20000.0)}}, "step": 3, "config": {"a": [1, "x", None]}}


class Attack:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def saved(tmp_path):
    checkpoint.save(tmp_path / "a.pt", STATE)
    return tmp_path / "a.pt"


def test_round_trip(saved):
    loaded = checkpoint.load(saved)
    assert torch.equal(loaded["modules"]["model"]["w"], STATE["modules"]["model"]["w"])
    assert loaded["step"] == 3 and loaded["config"] == STATE["config"] and loaded["version"] == checkpoint.VERSION
    assert [path.name for path in saved.parent.iterdir()] == ["a.pt"]


def test_others_may_read_what_the_umask_lets_them(saved):
    mask = os.umask(0)
    os.umask(mask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~mask


# ------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_cut_short(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"a\.pt: cut short or not a checkpoint \(\d+ bytes\)"):
        checkpoint.load(saved)


def test_every_flipped_byte_of_the_weights_is_noticed(saved):
    data = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        weights = max(archive.infolist(), key=lambda record: record.file_size)
    middle = data.index(STATE["modules"]["model"]["w"].numpy().tobytes()[1000:1200])
    for place in (middle, middle + 40000, middle + weights.file_size - 1201):
        saved.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises(ValueError, match=r"damaged \(checksum of record .*data/0 does not match\)"):
            checkpoint.load(saved)


def test_a_flipped_byte_anywhere_never_gives_other_weights(saved):
    """In the directory of the archive or in its padding too: an error in words, or the same weights."""
    data = saved.read_bytes()
    for place in range(3, len(data), len(data) // 60):
        saved.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            loaded = checkpoint.load(saved)
        except ValueError as error:
            assert str(error).startswith(str(saved))
        else:
            assert torch.equal(loaded["modules"]["model"]["w"], STATE["modules"]["model"]["w"])


def test_a_flipped_bit_anywhere_in_a_small_file_is_told_in_words(tmp_path):
    """A run goes on from the checkpoint before a damaged one, which it knows by the ValueError."""
    path = tmp_path / "a.pt"
    torch.save({"version": 1, "w": torch.ones(2)}, path)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1, 8, 0x80)[place % 3]]) + data[place + 1 :])
        try:
            checkpoint.load(path)
        except ValueError as error:
            assert str(error).startswith(str(path))


def test_compressed_records_are_refused(tmp_path):
    """torch inflates them, 200 MB from 200 kB; its own files have none."""
    torch.save({"version": 1, "w": torch.zeros(1000)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match=r"b\.pt: refused, its record a/data\.pkl is compressed"):
        checkpoint.load(tmp_path / "b.pt")


def test_missing_or_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.pt: no such checkpoint"):
        checkpoint.load(tmp_path / "x.pt")
    with pytest.raises(ValueError, match="is a folder"):
        checkpoint.load(tmp_path)


def test_not_of_this_toolkit_or_of_a_later_release(tmp_path):
    torch.save({"generator": {}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="not a checkpoint of this toolkit .*tse convert"):
        checkpoint.load(tmp_path / "a.pt")
    torch.save({"version": checkpoint.VERSION + 1}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"version 2, this release reads up to 1"):
        checkpoint.load(tmp_path / "b.pt")


# ------------------------------------------------------------------------------------------------ code


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_is_refused_and_not_run(tmp_path, zipped):
    state = {"version": 1, "x": Attack(tmp_path / "ran")}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="refused, it asks to run code when loaded"):
        checkpoint.load(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"version": 1, "x": Attack(tmp_path / "ran")}))
    with pytest.raises(ValueError, match=r"a\.pt: "):
        checkpoint.load(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_legacy_files_of_plain_data_are_read(tmp_path):
    torch.save({"generator": {"w": torch.ones(3)}}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(checkpoint.read_tensors(tmp_path / "a.pt")["generator"]["w"], torch.ones(3))


# ------------------------------------------------------------------------------------------------ writing


def limit_file_size(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    return before


def test_a_full_disk_leaves_the_old_file(saved):
    """A limit on the size of files stands for the full disk."""
    before, data = limit_file_size(40000), saved.read_bytes()
    try:
        with pytest.raises(OSError, match=r"(a\.pt: cannot be written|File too large)"):
            checkpoint.save(saved, {**STATE, "step": 4})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert saved.read_bytes() == data
    assert [path.name for path in saved.parent.iterdir()] == ["a.pt"]


def test_what_is_no_fault_of_the_disk_is_not_told_as_one(saved, monkeypatch):
    """torch raises that a worker was killed wherever the process is."""
    told = "DataLoader worker (pid 1) is killed by signal: Killed."
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(RuntimeError(told)))
    with pytest.raises(RuntimeError, match="is killed by signal"):
        checkpoint.save(saved, STATE)
    assert [path.name for path in saved.parent.iterdir()] == ["a.pt"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory|File exists"):
        checkpoint.save(tmp_path / "file" / "exp" / "a.pt", STATE)


def test_a_kill_while_writing_leaves_the_old_file(saved):
    """The writer kills itself when half of the new file is there."""
    code = f"""
import os, signal, torch
from tse_lib import checkpoint
def half(state, file):
    file.write(b"x" * 1000); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
checkpoint.save({str(saved)!r}, {{"step": 4}})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert checkpoint.load(saved)["step"] == 3
