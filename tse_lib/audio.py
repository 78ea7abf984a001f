"""Read, write, resample and check audio files. Everything that touches an audio file in this project goes through here.

Arrays are float32 in [-1, 1], `(T,)` for one channel and `(C, T)` for several.

Training reads millions of crops. A plain 16-bit wav is therefore read without libsndfile (`Pcm16`), with the same
result; whatever is unusual about a file is left to libsndfile.
"""

import functools
import itertools
import math
import os
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from tse_lib.files import temporary_for
from tse_lib.manifest import ACTIVITY_BLOCK_S

EXTENSIONS = (".wav", ".flac", ".ogg")
WRITTEN = {".flac": ("FLAC", "PCM_24"), ".wav": ("WAV", "FLOAT")}  # kind and subtype by libsndfile's names
SILENCE_DBFS = -80.0  # a file whose loudest sample stays below this holds nothing to work with
PCM16_SCALE = np.float32(2**-15)  # of a 16-bit sample, as libsndfile has it: exact
HEADERS_KEPT = 4096  # headers remembered a process, about 0.5 kB each
PLAIN_CHUNKS = (b"fmt ", b"data", b"fact", b"LIST", b"JUNK", b"bext", b"id3 ")
WAV_BYTES = 2**32 - 2**16  # of samples that fit into a wav, whose length is a number of 32 bits
UNKNOWN_LENGTH = 2**63 - 1  # samples, by libsndfile, of a FLAC that was written into a pipe
# the last 14 bytes of a format's GUID in a WAVE_FORMAT_EXTENSIBLE header (Microsoft's ksmedia.h)
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


class Info(NamedTuple):
    sample_rate: int
    num_samples: int
    num_channels: int


def info(path: str | Path) -> Info:
    """Sample rate, samples per channel and channels from the header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, truncated, or not audio that soundfile reads.
    """
    plain = _pcm16(path)
    if plain:
        return plain.info
    with _open(path) as file:
        return Info(file.samplerate, file.frames, file.channels)


def read(
    path: str | Path,
    sample_rate: int | None = None,
    start: int = 0,
    num_samples: int | None = None,
    mono: bool = True,
) -> tuple[np.ndarray, int]:
    """Read a file or a part of it.

    Args:
        path: wav, flac, ogg or whatever else soundfile reads.
        sample_rate: resample to this rate; None keeps the file's own.
        start, num_samples: the part to read, in samples at the file's own rate.
        mono: average the channels (with a warning) and return `(T,)`; else return `(C, T)`.

    Returns:
        (audio float32, sample rate of that audio)

    Raises:
        FileNotFoundError, ValueError: missing, empty, truncated, not audio, not finite, or too short for the part.
    """
    plain = _pcm16(path)
    if plain:
        own_rate = plain.info.sample_rate
        audio = plain.read(path, start, _wanted(path, start, num_samples, plain.info.num_samples))
    else:
        audio, own_rate = _decode(path, start, num_samples)
    audio = audio.T  # (C, T)
    if mono and len(audio) > 1:
        warnings.warn(f"{path}: {len(audio)} channels averaged to one", stacklevel=2)
        audio = audio.mean(0)
    elif mono:
        audio = audio[0]
    if sample_rate is not None and sample_rate != own_rate:
        return resample(audio, own_rate, sample_rate), sample_rate
    return np.ascontiguousarray(audio), own_rate


def write(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write `(T,)` or `(C, T)` under a temporary name and rename: a killed process leaves no half file.

    The format follows the name: `.flac` is 24 bit (samples beyond full scale are an error, they cannot be held),
    `.wav` is 32-bit float, of more than 4 GiB an RF64.
    """
    refuse_other_kind(path)
    path = Path(path)
    kind, subtype = WRITTEN[path.suffix.lower()]
    if not np.isfinite(audio).all():
        raise ValueError(f"{path}: NaN or infinite samples are not written")
    if kind == "FLAC" and np.abs(audio).max(initial=0.0) > 1.0:
        raise ValueError(f"{path}: peak {np.abs(audio).max():.3f} is above full scale; use .wav (float) or lower it")
    if kind == "WAV" and 4 * audio.size > WAV_BYTES:
        kind = "RF64"
    try:
        with temporary_for(path, sync=False) as temporary:
            soundfile.write(temporary, np.atleast_2d(audio).T, sample_rate, format=kind, subtype=subtype)
            _check_whole(temporary, path, np.atleast_2d(audio).shape[1])
            if kind == "WAV":
                _forget_time(temporary)
    except soundfile.LibsndfileError as error:
        raise OSError(f"{path}: cannot be written ({_reason(error)}); disk full?") from None


def refuse_other_kind(path: str | Path) -> None:
    """ValueError unless the name ends as those do that `write` can write."""
    path = Path(path)
    if path.suffix.lower() not in WRITTEN:
        raise ValueError(f"{path}: can write {', '.join(sorted(WRITTEN))}, not '{path.suffix}'")


def write_pcm16(path: str | Path, parts: Iterable[np.ndarray], sample_rate: int, num_channels: int = 1) -> int:
    """Write int16 arrays `(T,)` or `(T, C)`, one after the other, as one wav; returns the number of samples.

    Whole or not at all, as `write`; the parts are not held in memory.
    """
    path = Path(path)
    count = 0
    try:
        with temporary_for(path) as temporary:
            with soundfile.SoundFile(temporary, "w", sample_rate, num_channels, "PCM_16", format="WAV") as file:
                for part in parts:
                    file.write(part)
                    count += len(part)
            _check_whole(temporary, path, count)
    except soundfile.LibsndfileError as error:
        raise OSError(f"{path}: cannot be written ({_reason(error)}); disk full?") from None
    return count


def read_blocks(path: str | Path, block: int = 1 << 18) -> Iterator[np.ndarray]:
    """All channels of a file, `(C, n)` with `block` samples at a time; raises as `read` does."""
    with _open(path) as file:
        left = file.frames
        while left:
            try:
                audio = file.read(min(block, left), dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise ValueError(f"{path}: cannot be decoded ({_reason(error)}); truncated?") from None
            if not len(audio):
                raise ValueError(f"{path}: truncated, {file.frames - left} of {file.frames} samples could be read")
            if not np.isfinite(audio).all():
                raise ValueError(f"{path}: holds NaN or infinite samples")
            left -= len(audio)
            yield audio.T


def tags(path: str | Path) -> dict[str, str]:
    """Title, artist and whatever else soundfile reads of a file's metadata, but not the software that wrote it."""
    with _open(path) as file:
        return {key: value for key, value in file.copy_metadata().items() if key != "software"}


@dataclass
class BlockWriter:
    """A file that is being written by `write_blocks`."""

    path: Path
    file: soundfile.SoundFile
    num_samples: int = 0
    peak: float = 0.0
    num_clipped: int = 0

    def write(self, audio: np.ndarray) -> None:
        """Append `(C, n)`. What is above full scale is clipped, and counted, unless the file holds floats."""
        if not np.isfinite(audio).all():
            raise ValueError(f"{self.path}: NaN or infinite samples are not written")
        magnitude = np.abs(audio)
        self.peak = max(self.peak, float(magnitude.max(initial=0.0)))
        if self.file.subtype != "FLOAT":
            self.num_clipped += int((magnitude > 1).sum())
            audio = audio.clip(-1, 1)
        self.file.write(audio.T)
        self.num_samples += audio.shape[1]


@contextmanager
def write_blocks(
    path: str | Path,
    sample_rate: int,
    num_channels: int,
    subtype: str,
    num_samples: int,
    metadata: dict[str, str] | None = None,
) -> Iterator[BlockWriter]:
    """A `.wav` or `.flac` that is written block by block, and appears under its name only when all is well.

    Args:
        subtype: FLOAT (`.wav` only), PCM_24 or PCM_16.
        num_samples: how many will come; a `.wav` of more than 4 GiB is an RF64.
        metadata: as of `tags`; what the format cannot hold is left out.
    """
    path = Path(path)
    kind = {".flac": "FLAC", ".wav": "WAV"}.get(path.suffix.lower(), "")
    if not kind or not soundfile.check_format(kind, subtype):
        raise ValueError(f"{path}: can write .wav and .flac, the latter as PCM_16 or PCM_24, not as {subtype}")
    width = {"FLOAT": 4, "PCM_24": 3, "PCM_16": 2}[subtype]
    if kind == "WAV" and num_samples * num_channels * width > WAV_BYTES:
        kind = "RF64"
    try:
        with temporary_for(path, sync=False) as temporary:
            with soundfile.SoundFile(temporary, "w", sample_rate, num_channels, subtype, format=kind) as file:
                for key, value in (metadata or {}).items():
                    with suppress(soundfile.LibsndfileError):
                        setattr(file, key, value)
                writer = BlockWriter(path, file)
                yield writer
            _check_whole(temporary, path, writer.num_samples)
            if kind == "WAV":
                _forget_time(temporary)
    except soundfile.LibsndfileError as error:
        raise OSError(f"{path}: cannot be written ({_reason(error)}); disk full?") from None


def resample(audio: np.ndarray, from_rate: float, to_rate: float) -> np.ndarray:
    """Resample the last axis with soxr (high quality); any real factor. `(…, T)` -> `(…, about T * to / from)`."""
    if from_rate == to_rate:
        return audio
    if audio.ndim == 1:
        return soxr.resample(audio, from_rate, to_rate, quality="HQ").astype(np.float32, copy=False)
    channels = soxr.resample(np.ascontiguousarray(audio.T), from_rate, to_rate, quality="HQ")
    return np.ascontiguousarray(channels.T, dtype=np.float32)


def resample_blocks(blocks: Iterable[np.ndarray], from_rate: float, to_rate: float) -> Iterator[np.ndarray]:
    """`resample` of a signal that comes in blocks `(C, n)`: the same samples in other blocks, but one at least."""
    if from_rate == to_rate:
        yield from blocks
        return
    stream, count = None, 0
    for block in blocks:
        if stream is None:
            num_channels = len(block)
            stream = soxr.ResampleStream(from_rate, to_rate, num_channels, dtype="float32", quality="HQ")
        part = stream.resample_chunk(np.ascontiguousarray(block.T, dtype=np.float32)).T
        count += part.shape[1]
        yield part
    if stream is not None:
        part = stream.resample_chunk(np.empty((0, num_channels), np.float32), last=True).T
        yield part if count + part.shape[1] else np.zeros((num_channels, 1), np.float32)


def refuse_silence(audio: np.ndarray, name: str | Path) -> None:
    """ValueError when no sample rises above -80 dBFS."""
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < 10 ** (SILENCE_DBFS / 20):
        raise ValueError(f"{name}: silent (no sample above {SILENCE_DBFS:.0f} dBFS)")


def activity(audio: np.ndarray, sample_rate: int) -> str:
    """Where somebody speaks in `(T,)`: one character per 100 ms (the last block may be shorter), `1` speech, `0` pause.

    A block is speech when its RMS is within 35 dB of the recording's 95th percentile and above -60 dBFS.
    """
    count = max(1, math.ceil(len(audio) / sample_rate / ACTIVITY_BLOCK_S - 1e-9))
    edges = [round(number * ACTIVITY_BLOCK_S * sample_rate) for number in range(count)] + [len(audio)]
    blocks = [audio[begin:end].astype(np.float64) for begin, end in itertools.pairwise(edges)]
    levels = [math.sqrt(np.mean(block * block)) for block in blocks]
    threshold = max(np.percentile(levels, 95) * 10 ** (-35 / 20), 10 ** (-60 / 20))
    return "".join("1" if level > threshold else "0" for level in levels)


# ----------------------------------------------------------------------------------------------------------- decoding


class Pcm16(NamedTuple):
    """Where the samples of a plain 16-bit wav lie: `info.num_samples` of each channel from byte `begin` on."""

    info: Info
    begin: int

    def read(self, path: str | Path, start: int, num_samples: int) -> np.ndarray:
        """`num_samples` from `start` on: (T, C). The file is open for this long only: safe after fork, no limit met."""
        frame = 2 * self.info.num_channels
        samples = np.empty((num_samples, self.info.num_channels), "<i2")
        bytes_of = memoryview(samples).cast("B")
        done = 0
        handle = os.open(path, os.O_RDONLY)
        try:
            while done < len(bytes_of):  # one call reads 2 GiB at most
                got = os.preadv(handle, [bytes_of[done:]], self.begin + start * frame + done)
                if got == 0:
                    raise ValueError(f"{path}: truncated, {done // frame} of {num_samples} samples could be read")
                done += got
        finally:
            os.close(handle)
        return np.multiply(samples, PCM16_SCALE, dtype=np.float32)


def _pcm16(path: str | Path) -> Pcm16 | None:
    """The layout of a plain 16-bit wav; None for anything else, a missing file included."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return _pcm16_header(os.fspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)


@functools.lru_cache(maxsize=HEADERS_KEPT)
def _pcm16_header(path: str, size: int, *identity: int) -> Pcm16 | None:
    """Parse a header once: a file that changed has another size, time or inode, and so is parsed again.

    Only what cannot be read in two ways counts as plain; libsndfile has its ways with the rest.
    """
    chunks: dict[bytes, tuple[int, int]] = {}
    try:
        with open(path, "rb", buffering=0) as file:
            riff = file.read(12)
            if riff[:4] != b"RIFF" or riff[8:] != b"WAVE" or int.from_bytes(riff[4:8], "little") + 8 != size:
                return None
            place = 12
            while place < size:
                file.seek(place)
                head = file.read(8)
                name, length = head[:4], int.from_bytes(head[4:], "little")
                place += 8
                if name in chunks or name not in PLAIN_CHUNKS or length < 4 or place + length > size:
                    return None  # length < 4: libsndfile stumbles over a short `fact`
                chunks[name] = place, length
                if name == b"fmt ":
                    form = file.read(min(length, 40))
                place += length + length % 2
    except OSError:
        return None
    if not {b"fmt ", b"data"} <= set(chunks) or chunks[b"data"] < chunks[b"fmt "]:
        return None
    return _layout(form, *chunks[b"data"])


def _layout(form: bytes, begin: int, length: int) -> Pcm16 | None:
    """What the chunks `fmt ` and `data` say, if they say 16-bit PCM."""
    if len(form) < 16:
        return None
    tag, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", form[:16])
    if tag == 0xFFFE and len(form) == 40 and form[18:20] == b"\x10\x00" and form[26:] == GUID_TAIL:
        (tag,) = struct.unpack("<H", form[24:26])
    plain = tag == 1 and bits == 16 and 1 <= channels <= 1024 and 0 < rate < 2**31
    if not plain or frame != 2 * channels or length == 0 or length % frame:
        return None
    return Pcm16(Info(rate, length // frame, channels), begin)


def _decode(path: str | Path, start: int, num_samples: int | None) -> tuple[np.ndarray, int]:
    """A part of whatever libsndfile reads: (T, C) and the sample rate."""
    with _open(path) as file:
        wanted = _wanted(path, start, num_samples, file.frames)
        is_pcm16 = file.subtype == "PCM_16"  # its own conversion takes several times as long as ours
        try:
            file.seek(start)
            audio = file.read(wanted, dtype="int16" if is_pcm16 else "float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise ValueError(f"{path}: cannot be decoded ({_reason(error)}); truncated?") from None
        rate = file.samplerate
    if len(audio) < wanted:
        raise ValueError(f"{path}: truncated, {len(audio)} of {wanted} samples could be read")
    if is_pcm16:
        return np.multiply(audio, PCM16_SCALE, dtype=np.float32), rate
    if not np.isfinite(audio).all():
        raise ValueError(f"{path}: holds NaN or infinite samples")
    return audio, rate


def _wanted(path: str | Path, start: int, num_samples: int | None, available: int) -> int:
    """How many samples to read; ValueError when the file has not so many."""
    wanted = available - start if num_samples is None else num_samples
    if start < 0 or wanted <= 0 or start + wanted > available:
        raise ValueError(f"{path}: samples {start} to {start + wanted} wanted, the file has {available}")
    return wanted


def _open(path: str | Path) -> soundfile.SoundFile:
    """Open for reading, or say in one line why not."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such audio file")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, an audio file is wanted")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: empty file (0 bytes); copy or download it again")
    _refuse_short_riff(path)
    try:
        file = soundfile.SoundFile(os.fsencode(path))  # names need not be UTF-8
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"{path}: not an audio file that can be read ({_reason(error)}); wav, flac or ogg?") from None
    if file.frames == 0:
        file.close()
        raise ValueError(f"{path}: holds no samples")
    if file.frames == UNKNOWN_LENGTH:
        file.close()
        raise ValueError(f"{path}: a stream that does not tell its length; write a whole file: ffmpeg -i IN OUT.flac")
    return file


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def _check_whole(temporary: str, path: Path, num_samples: int) -> None:
    # libsndfile does not report a full disk on close; the header of what is really there does
    try:
        written = info(temporary).num_samples
    except ValueError:
        written = 0
    if written != num_samples:
        raise OSError(f"{path}: only {written} of {num_samples} samples could be written; disk full?")


def _forget_time(path: str) -> None:
    # libsndfile notes the time in the PEAK chunk of float files; the same samples shall make the same file
    with open(path, "r+b") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8 and head[:4] != b"data":
            if head[:4] == b"PEAK":
                file.seek(4, os.SEEK_CUR)  # behind its version
                file.write(bytes(4))
                return
            length = int.from_bytes(head[4:], "little")
            file.seek(length + length % 2, os.SEEK_CUR)


def _refuse_short_riff(path: Path) -> None:
    # libsndfile shortens a truncated wav silently; its RIFF header still tells the length it had
    with open(path, "rb") as file:
        head = file.read(12)
    if len(head) == 12 and head[:4] == b"RIFF" and head[8:] == b"WAVE":
        (declared,) = struct.unpack("<I", head[4:8])
        size = path.stat().st_size
        if declared not in (0, 0xFFFFFFFF) and declared + 8 > size + 1:  # + 1: a missing pad byte is harmless
            raise ValueError(f"{path}: truncated, {size} of {declared + 8} bytes are there; copy it again")
