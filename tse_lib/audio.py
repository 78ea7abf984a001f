"""Read, write, resample and check audio files. Everything that touches an audio file in this project goes through here.

Arrays are float32 in [-1, 1], `(T,)` for one channel and `(C, T)` for several.
"""

import itertools
import math
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from tse_lib.files import temporary_for
from tse_lib.manifest import ACTIVITY_BLOCK_S

EXTENSIONS = (".wav", ".flac", ".ogg")
SILENCE_DBFS = -80.0  # a file whose loudest sample stays below this holds nothing to work with


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
    with _open(path) as file:
        own_rate = file.samplerate
        wanted = file.frames - start if num_samples is None else num_samples
        if start < 0 or wanted <= 0 or start + wanted > file.frames:
            raise ValueError(f"{path}: samples {start} to {start + wanted} wanted, the file has {file.frames}")
        try:
            file.seek(start)
            audio = file.read(wanted, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise ValueError(f"{path}: cannot be decoded ({_reason(error)}); truncated?") from None
    if len(audio) < wanted:
        raise ValueError(f"{path}: truncated, {len(audio)} of {wanted} samples could be read")
    if not np.isfinite(audio).all():
        raise ValueError(f"{path}: holds NaN or infinite samples")
    audio = audio.T  # (C, T)
    if mono:
        if len(audio) > 1:
            warnings.warn(f"{path}: {len(audio)} channels averaged to one", stacklevel=2)
        audio = audio.mean(0)
    if sample_rate is not None and sample_rate != own_rate:
        return resample(audio, own_rate, sample_rate), sample_rate
    return np.ascontiguousarray(audio), own_rate


def write(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write `(T,)` or `(C, T)` under a temporary name and rename: a killed process leaves no half file.

    The format follows the name: `.flac` is 24 bit (samples beyond full scale are an error, they cannot be held),
    `.wav` is 32-bit float.
    """
    path = Path(path)
    kinds = {".flac": ("FLAC", "PCM_24"), ".wav": ("WAV", "FLOAT")}
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{path}: can write {', '.join(sorted(kinds))}, not '{path.suffix}'")
    kind, subtype = kinds[path.suffix.lower()]
    if not np.isfinite(audio).all():
        raise ValueError(f"{path}: NaN or infinite samples are not written")
    if kind == "FLAC" and np.abs(audio).max(initial=0.0) > 1.0:
        raise ValueError(f"{path}: peak {np.abs(audio).max():.3f} is above full scale; use .wav (float) or lower it")
    try:
        with temporary_for(path, sync=False) as temporary:
            soundfile.write(temporary, np.atleast_2d(audio).T, sample_rate, format=kind, subtype=subtype)
            _check_whole(temporary, path, np.atleast_2d(audio).shape[1])
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
        file = soundfile.SoundFile(str(path))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"{path}: not an audio file that can be read ({_reason(error)}); wav, flac or ogg?") from None
    if file.frames == 0:
        file.close()
        raise ValueError(f"{path}: holds no samples")
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
        place = file.read(128).partition(b"data")[0].find(b"PEAK")
        if place >= 0:  # behind the chunk's name, size and version
            file.seek(place + 12)
            file.write(bytes(4))


def _refuse_short_riff(path: Path) -> None:
    # libsndfile shortens a truncated wav silently; its RIFF header still tells the length it had
    with open(path, "rb") as file:
        head = file.read(12)
    if len(head) == 12 and head[:4] == b"RIFF" and head[8:] == b"WAVE":
        (declared,) = struct.unpack("<I", head[4:8])
        size = path.stat().st_size
        if declared not in (0, 0xFFFFFFFF) and declared + 8 > size + 1:  # + 1: a missing pad byte is harmless
            raise ValueError(f"{path}: truncated, {size} of {declared + 8} bytes are there; copy it again")
