"""Audio files in and out, and a clear word for each file that is no use."""

import os
import struct
import warnings

import numpy as np
import pytest
import soundfile

from tse_lib import audio
from tse_lib.rng import rng


def tone(seconds: float = 1.0, sample_rate: int = 8000, hertz: float = 440.0, gain: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return (gain * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


# -------------------------------------------------------------------------------------------------------- in and out


def test_a_float_wav_is_read_back_exactly_beyond_full_scale(tmp_path):
    wave = 3 * tone()
    audio.write(tmp_path / "a.wav", wave, 8000)
    read, sample_rate = audio.read(tmp_path / "a.wav")
    assert sample_rate == 8000
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, wave)


def test_a_very_long_wav_is_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "WAV_BYTES", 4 * 4000 - 1)
    audio.write(tmp_path / "long.wav", tone(0.5), 8000)
    assert soundfile.info(tmp_path / "long.wav").format == "RF64"
    assert np.array_equal(audio.read(tmp_path / "long.wav")[0], tone(0.5))


def test_flac_holds_24_bits_and_refuses_what_is_above_full_scale(tmp_path):
    audio.write(tmp_path / "a.flac", tone(), 8000)
    np.testing.assert_allclose(audio.read(tmp_path / "a.flac")[0], tone(), atol=2**-23)
    with pytest.raises(ValueError, match=r"loud.flac: peak 1.5\d* is above full scale; use .wav"):
        audio.write(tmp_path / "loud.flac", 3 * tone(), 8000)
    with pytest.raises(ValueError, match="nan.wav: NaN or infinite samples are not written"):
        audio.write(tmp_path / "nan.wav", np.array([0.1, np.nan]), 8000)
    with pytest.raises(ValueError, match=r"a.mp3: can write .flac, .wav, not '.mp3'"):
        audio.write(tmp_path / "a.mp3", tone(), 8000)
    assert [path.name for path in tmp_path.iterdir()] == ["a.flac"]  # and nothing temporary


def test_a_part_is_read_at_the_files_own_rate(tmp_path):
    audio.write(tmp_path / "a.wav", tone(), 8000)
    part, _ = audio.read(tmp_path / "a.wav", start=100, num_samples=50)
    np.testing.assert_array_equal(part, tone()[100:150])
    with pytest.raises(ValueError, match="a.wav: samples 7990 to 8040 wanted, the file has 8000"):
        audio.read(tmp_path / "a.wav", start=7990, num_samples=50)


def test_channels_are_averaged_with_a_warning_or_kept(tmp_path):
    stereo = np.stack([tone(), 0 * tone()])
    audio.write(tmp_path / "a.wav", stereo, 8000)
    assert audio.info(tmp_path / "a.wav") == audio.Info(8000, 8000, 2)
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav", mono=False)[0], stereo)
    with pytest.warns(UserWarning, match="a.wav: 2 channels averaged to one"):
        np.testing.assert_allclose(audio.read(tmp_path / "a.wav")[0], tone() / 2)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 8000), (8000, 16000), (22050, 8000)])
def test_resampling_keeps_a_tone(tmp_path, from_rate, to_rate):
    audio.write(tmp_path / "a.wav", np.stack([tone(sample_rate=from_rate)] * 2), from_rate)
    read, sample_rate = audio.read(tmp_path / "a.wav", sample_rate=to_rate, mono=False)
    assert (sample_rate, read.shape, read.dtype) == (to_rate, (2, to_rate), np.float32)
    inside = slice(to_rate // 10, -to_rate // 10)
    np.testing.assert_allclose(read[0][inside], tone(sample_rate=to_rate)[inside], atol=1e-3)


def test_parts_become_one_16_bit_wav(tmp_path):
    parts = [np.array([0, -32768, 32767], np.int16), np.arange(5, dtype=np.int16)]
    assert audio.write_pcm16(tmp_path / "a.wav", iter(parts), 8000) == 8
    read, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert rate == 8000 and read.tolist() == [0, -32768, 32767, 0, 1, 2, 3, 4]

    def fails():
        yield parts[0]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        audio.write_pcm16(tmp_path / "b.wav", fails(), 8000)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


# ------------------------------------------------------------------------------------- 16 bits without libsndfile

FORMATS = [
    ("wav", "PCM_16", "WAV"),
    ("wav", "PCM_16", "WAVEX"),
    ("wav", "PCM_16", "RF64"),
    ("flac", "PCM_16", "FLAC"),
    ("aiff", "PCM_16", "AIFF"),
    ("w64", "PCM_16", "W64"),
    ("wav", "PCM_24", "WAV"),
    ("wav", "PCM_U8", "WAV"),
    ("wav", "ULAW", "WAV"),
    ("wav", "FLOAT", "WAV"),
    ("flac", "PCM_24", "FLAC"),
]


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(("ending", "subtype", "kind"), FORMATS)
def test_every_format_is_read_as_libsndfile_converts_it(tmp_path, ending, subtype, kind, channels):
    path = tmp_path / f"a.{ending}"
    wave = rng(0, "formats").integers(-(2**15), 2**15, (20000, channels)).astype(np.int16)
    soundfile.write(path, wave, 8000, subtype=subtype, format=kind)
    for start, num_samples in ((0, None), (0, 1), (19999, 1), (4097, 3000), (1, 19999)):
        frames = -1 if num_samples is None else num_samples
        wanted, _ = soundfile.read(path, frames=frames, start=start, dtype="float32", always_2d=True)
        read, rate = audio.read(path, start=start, num_samples=num_samples, mono=False)
        assert rate == 8000 and read.dtype == np.float32 and read.flags.c_contiguous
        np.testing.assert_array_equal(read, wanted.T if channels > 1 else wanted.T[0:1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mono, _ = audio.read(path, start=start, num_samples=num_samples)
        np.testing.assert_array_equal(mono, wanted.T.mean(0))
    assert audio.info(path) == (8000, 20000, channels)


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def fmt(tag: int = 1, channels: int = 1, bits: int = 16) -> bytes:
    frame = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, 8000, 8000 * frame, frame, bits))


DATA = chunk(b"data", np.arange(1, 101, dtype="<i2").tobytes())


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        (riff(fmt(), DATA), True),
        (riff(fmt(channels=2), DATA), True),
        (riff(chunk(b"LIST", b"INFOodd"), fmt(), chunk(b"JUNK", bytes(5)), DATA, chunk(b"id3 ", b"tags")), True),
        (riff(fmt(), DATA) + b"trailing", False),
        (riff(fmt(), DATA, size=0), False),  # as a program writes that cannot seek back
        (riff(fmt(), DATA, size=0xFFFFFFFF), False),
        (riff(fmt(), DATA, size=50), False),
        (riff(fmt(), b"data" + struct.pack("<I", 0xFFFFFFF0) + bytes(200)), False),
        (riff(fmt(), chunk(b"data", bytes(201))), False),
        (riff(fmt(), DATA, DATA), False),
        (riff(fmt(), DATA, fmt(channels=2)), False),
        (riff(DATA, fmt()), False),
        (riff(fmt()), False),
        (riff(fmt(bits=8), DATA), False),
        (riff(fmt(tag=3, bits=32), DATA), False),
        (riff(fmt(tag=0xFFFE), DATA), False),
        (riff(fmt(channels=0), DATA), False),
        (riff(chunk(b"fmt ", bytes(10)), DATA), False),
        (riff(fmt(), DATA)[:150], False),
        (b"RIFF", False),
        (b"", False),
    ],
)
def test_an_odd_header_is_left_to_libsndfile(tmp_path, monkeypatch, content, plain):
    """What is read without it, is read as it would; everything else is its business, with its errors."""
    path = tmp_path / "a.wav"
    path.write_bytes(content)

    def outcome() -> object:
        try:
            wave, rate = audio.read(path, mono=False)
            return rate, wave.tolist(), audio.info(path)
        except ValueError as error:
            return str(error)

    assert (audio._pcm16(path) is not None) == plain
    ours = outcome()
    monkeypatch.setattr(audio, "_pcm16", lambda path: None)
    assert ours == outcome()


def test_damaged_headers_are_read_as_libsndfile_reads_them(tmp_path, monkeypatch):
    """Some hundred random bytes: nothing is read that it would refuse, and nothing otherwise than it would."""
    whole = riff(chunk(b"LIST", b"INFO"), fmt(), DATA)
    draws = rng(0, "damage")
    quick = audio._pcm16
    num_plain = 0
    for number in range(300):
        content = bytearray(whole)
        content[int(draws.integers(60))] = int(draws.choice([0, 1, 2, 16, 255, int(draws.integers(256))]))
        path = tmp_path / f"{number}.wav"
        path.write_bytes(content)
        results = []
        for way in (quick, lambda path: None):
            monkeypatch.setattr(audio, "_pcm16", way)
            try:
                wave, rate = audio.read(path, mono=False)
                results.append((rate, wave.tolist()))
            except ValueError as error:
                results.append(str(error))
        assert results[0] == results[1], bytes(content)
        num_plain += quick(path) is not None
    assert 50 < num_plain < 250


def test_a_file_that_was_rewritten_is_read_anew(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(riff(fmt(), DATA))
    assert audio.read(path)[0][0] == 1 / 32768
    path.write_bytes(riff(fmt(), chunk(b"JUNK", bytes(20)), DATA))
    assert audio.read(path)[0][0] == 1 / 32768
    assert audio.info(path).num_samples == 100
    other = tmp_path / "b.wav"  # the same size, and even the same time
    other.write_bytes(riff(fmt(channels=2), chunk(b"JUNK", bytes(20)), DATA))
    stat = os.stat(path)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(other, path)
    assert audio.info(path) == (8000, 50, 2)


def test_a_file_cut_after_its_header_was_read_is_told(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(riff(fmt(), DATA))
    layout = audio._pcm16(path)
    assert layout is not None
    os.truncate(path, 100)
    with pytest.raises(ValueError, match="a.wav: truncated, 28 of 100 samples could be read"):
        layout.read(path, 0, 100)
    with pytest.raises(ValueError, match="a.wav: truncated, 100 of 244 bytes are there; copy it again"):
        audio.read(path)


def test_many_files_leave_no_descriptor_open_and_a_fork_reads_on(tmp_path):
    paths = [tmp_path / f"{number}.wav" for number in range(50)]
    for number, path in enumerate(paths):
        audio.write_pcm16(path, [np.full(10, number, np.int16)], 8000)
    before = len(os.listdir("/proc/self/fd"))
    for path in paths:
        audio.read(path)
    assert len(os.listdir("/proc/self/fd")) == before
    child = os.fork()
    if child == 0:
        good = all(audio.read(path)[0][3] == number / 32768 for number, path in enumerate(paths))
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0


# ------------------------------------------------------------------------------------------------------ faulty files


def test_each_fault_has_its_reason(tmp_path):
    soundfile.write(tmp_path / "whole.wav", tone(), 8000, subtype="PCM_16")
    whole = (tmp_path / "whole.wav").read_bytes()
    soundfile.write(tmp_path / "whole.flac", tone(), 8000)
    (tmp_path / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "truncated.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:4000])
    stream = bytearray((tmp_path / "whole.flac").read_bytes())
    stream[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    stream[22:26] = bytes(4)
    (tmp_path / "stream.flac").write_bytes(stream)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 8000, subtype="FLOAT")
    for name, message in {
        "truncated.wav": "truncated.wav: truncated, 8022 of 16044 bytes are there; copy it again",
        "truncated.flac": "truncated.flac: .*truncated",
        "stream.flac": "stream.flac: a stream that does not tell its length; write a whole file: ffmpeg -i IN OUT.flac",
        "empty.wav": r"empty.wav: empty file \(0 bytes\)",
        "text.wav": r"text.wav: not an audio file that can be read \(.+\); wav, flac or ogg\?",
        "folder.wav": "folder.wav: is a folder",
        "nothing.wav": "nothing.wav: holds no samples",
        "nan.wav": "nan.wav: holds NaN or infinite samples",
    }.items():
        with pytest.raises(ValueError, match=message):
            audio.read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="absent.wav: no such audio file"):
        audio.read(tmp_path / "absent.wav")


def test_silence_is_refused():
    audio.refuse_silence(np.full(10, 1.1e-4, np.float32), "quiet.wav")
    with pytest.raises(ValueError, match="dead.wav: silent"):
        audio.refuse_silence(np.full(10, 0.9e-4, np.float32), "dead.wav")


# ---------------------------------------------------------------------------------------------------------- activity


@pytest.mark.parametrize("sample_rate", [8000, 11025, 44100])
def test_activity_marks_speech_a_block_of_100_ms(sample_rate):
    loud, faint = tone(0.5, sample_rate), tone(0.5, sample_rate, gain=0.5 * 10 ** (-40 / 20))
    nearly = tone(0.25, sample_rate, gain=0.5 * 10 ** (-30 / 20))
    wave = np.concatenate([loud, faint, loud, 0 * loud, nearly])
    assert audio.activity(wave, sample_rate) == "11111" + "00000" + "11111" + "00000" + "111"


def test_activity_of_near_silence_and_of_a_short_sound():
    assert audio.activity(tone(0.3, gain=1e-4), 8000) == "000"
    assert audio.activity(tone(0.01), 8000) == "1"


def test_a_float_wav_holds_no_time(tmp_path):
    """libsndfile notes it behind PEAK: the same samples must make the same file, today and tomorrow."""
    audio.write(tmp_path / "a.wav", np.linspace(-0.5, 0.5, 800, dtype=np.float32), 8000)
    data = (tmp_path / "a.wav").read_bytes()
    place = data.index(b"PEAK")
    assert data[place + 12 : place + 16] == bytes(4)
