"""The resampler for any device is soxr's, and the filters of a channel do what they say."""

import math

import numpy as np
import pytest
import soxr
import torch

from tests import tiny
from tse_lib.dsp.filters import equalise, low_pass, mask_spectrogram
from tse_lib.dsp.resample import resample

RATE = 16000


def noise(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.manual_seed(seed))


def null_db(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return 10 * math.log10(float((got - wanted).square().sum() / wanted.square().sum()))


@pytest.mark.parametrize("ratio", [0.9, 0.973, 1.0371, 1.1, 44100 / 48000, 3.0, 2 * 1.07])
@pytest.mark.parametrize("signal", ["noise", "voice"])
def test_the_resampler_equals_soxr(ratio, signal):
    x = noise(20000) if signal == "noise" else torch.from_numpy(tiny.voice("a-0", 20000))
    wanted = torch.from_numpy(soxr.resample(x.numpy(), ratio, 1.0, quality="HQ"))
    got = resample(x, ratio)
    assert len(got) == len(wanted)
    inner = slice(300, -300)  # at the ends soxr knows that nothing comes
    assert null_db(got[inner], wanted[inner]) < -55
    assert null_db(got, wanted) < -45


def test_a_long_signal_keeps_time():
    """After twenty seconds the sample positions are still right: a tone stays in phase."""
    at = torch.arange(20 * RATE, dtype=torch.float64) / RATE
    got = resample(torch.sin(2 * math.pi * 3000 * at).float(), 1.0123)[-4000:-500]
    count = int(20 * RATE / 1.0123 + 0.5)
    times = torch.arange(count, dtype=torch.float64)[-4000:-500] * 1.0123 / RATE
    assert null_db(got, torch.sin(2 * math.pi * 3000 * times).float()) < -60


def test_a_ratio_of_one_is_the_same_tensor():
    x = noise(100)
    assert resample(x, 1.0) is x


def level_db(x: torch.Tensor, hertz: float) -> float:
    """The level of a tone in x."""
    at = torch.arange(len(x), dtype=torch.float64) / RATE
    turns = torch.exp(-2j * math.pi * hertz * at)
    return 20 * math.log10(2 * abs(complex((x.double() * turns).sum())) / len(x) + 1e-12)


def tone(hertz: float) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(RATE) / RATE)


def test_a_low_pass_keeps_what_is_below_and_removes_what_is_above():
    inner = slice(2000, -2000)
    for hertz, wanted in ((500, 0.0), (3300, 0.0), (3400 * 1.05, -6.0)):
        assert level_db(low_pass(tone(hertz), 3400, RATE)[inner], hertz) == pytest.approx(wanted, abs=0.1)
    assert level_db(low_pass(tone(4000), 3400, RATE)[inner], 4000) < -60
    assert low_pass(noise(3001), 3400, RATE).shape == (3001,)


def test_an_equaliser_has_its_gains_at_its_frequencies():
    at, gains = (100.0, 1000.0, 4000.0), (3.0, -6.0, 2.0)
    for hertz, gain in zip(at, gains, strict=True):
        assert level_db(equalise(tone(hertz), at, gains, RATE)[2000:-2000], hertz) == pytest.approx(gain, abs=0.3)
    middle = math.sqrt(100 * 1000)
    assert level_db(equalise(tone(middle), at, gains, RATE)[2000:-2000], middle) == pytest.approx(-1.5, abs=0.3)


def test_masks_zero_their_stretch_alone():
    x = noise(RATE)
    masked = mask_spectrogram(x, [("time", 0.4, 0.6)], RATE)
    assert float(masked[round(0.43 * RATE) : round(0.57 * RATE)].abs().max()) < 1e-6
    torch.testing.assert_close(masked[: round(0.35 * RATE)], x[: round(0.35 * RATE)], rtol=0, atol=1e-5)
    spectrum = torch.fft.rfft(mask_spectrogram(x, [("freq", 2000, 3000)], RATE)).abs()
    before = torch.fft.rfft(x).abs()
    assert float(spectrum[2200:2800].square().sum() / before[2200:2800].square().sum()) < 1e-3
    np.testing.assert_allclose(spectrum[4000:6000], before[4000:6000], rtol=0.1, atol=3)
    torch.testing.assert_close(mask_spectrogram(x, [], RATE), x, rtol=0, atol=1e-5)
