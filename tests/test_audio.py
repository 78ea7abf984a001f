"""Audio files in and out, and a clear word for each file that is no use."""

import numpy as np
import pytest
import soundfile

from tse_lib import audio


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


# ------------------------------------------------------------------------------------------------------ faulty files


def test_each_fault_has_its_reason(tmp_path):
    soundfile.write(tmp_path / "whole.wav", tone(), 8000, subtype="PCM_16")
    whole = (tmp_path / "whole.wav").read_bytes()
    soundfile.write(tmp_path / "whole.flac", tone(), 8000)
    (tmp_path / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "truncated.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:4000])
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 8000, subtype="FLOAT")
    for name, message in {
        "truncated.wav": "truncated.wav: truncated, 8022 of 16044 bytes are there; copy it again",
        "truncated.flac": "truncated.flac: .*truncated",
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
