"""What a channel does to a signal: all zero-phase, in the frequency domain, any length."""

import math
from collections.abc import Sequence

import numpy as np
import scipy.fft
import torch
from torch import Tensor

EDGE = 0.1  # the low-pass falls to nothing over this share above its edge, in half a cosine


def _filtered(x: Tensor, response: np.ndarray, n_fft: int) -> Tensor:
    """x (..., T) times a real response at the `n_fft // 2 + 1` frequencies."""
    weights = torch.from_numpy(response).to(x)
    return torch.fft.irfft(torch.fft.rfft(x, n_fft) * weights, n_fft)[..., : x.shape[-1]]


def low_pass(x: Tensor, edge_hz: float, sample_rate: int) -> Tensor:
    """Without what lies above `edge_hz`: (..., T) -> (..., T)."""
    n_fft = scipy.fft.next_fast_len(
        x.shape[-1] + sample_rate // 100, real=True
    )  # what rings round lands behind the end
    hertz = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    share = np.clip((hertz - edge_hz) / (EDGE * edge_hz), 0, 1)
    return _filtered(x, 0.5 + 0.5 * np.cos(np.pi * share), n_fft)


def equalise(x: Tensor, at_hz: Sequence[float], gains_db: Sequence[float], sample_rate: int) -> Tensor:
    """Gains at some frequencies, linear in dB over the logarithm of frequency between them: (..., T) -> (..., T)."""
    n_fft = scipy.fft.next_fast_len(x.shape[-1] + sample_rate // 10, real=True)
    hertz = np.maximum(np.fft.rfftfreq(n_fft, 1 / sample_rate), 1.0)
    gains = np.interp(np.log(hertz), np.log(at_hz), gains_db)
    return _filtered(x, 10 ** (gains / 20), n_fft)


def mask_spectrogram(x: Tensor, masks: Sequence[tuple[str, float, float]], sample_rate: int) -> Tensor:
    """Zero stretches of the spectrogram of x (T,), as SpecAugment does (Park et al. 2019, arXiv 1904.08779).

    Args:
        masks: ("time", from, to) in seconds or ("freq", from, to) in Hz.
    """
    n_fft = 2 ** round(np.log2(0.032 * sample_rate))
    window = torch.hann_window(n_fft, dtype=x.dtype, device=x.device)
    spectrum = torch.stft(x, n_fft, n_fft // 4, window=window, return_complex=True)  # (F, L)
    for axis, begin, end in masks:
        unit = sample_rate / n_fft if axis == "freq" else n_fft / 4 / sample_rate
        rows = slice(round(begin / unit), round(end / unit))
        if axis == "freq":
            spectrum[rows] = 0
        else:
            spectrum[:, rows] = 0
    return torch.istft(spectrum, n_fft, n_fft // 4, window=window, length=len(x))


def a_weighting(hz: Tensor) -> Tensor:
    """The gains of the A curve at these frequencies, 1 at 1 kHz (IEC 61672-1:2013, annex E): (F,) -> (F,)."""

    def response(f: Tensor) -> Tensor:
        squares = f.double().square()
        low, middle, high = 20.598997**2, (107.65265**2, 737.86223**2), 12194.217**2
        roots = ((squares + middle[0]) * (squares + middle[1])).sqrt()
        return high * squares.square() / ((squares + low) * roots * (squares + high))

    return (response(hz) / response(torch.tensor([1000.0]))).to(hz.dtype)


def mel_bank(sample_rate: int, n_fft: int, num_mels: int) -> Tensor:
    """Triangles on Slaney's mel scale, each of area 1 Hz, from 0 Hz to half the rate: (M, n_fft // 2 + 1).

    The scale is linear up to 1 kHz (15 mel) and then logarithmic, 27 mel to a factor of 6.4 (M. Slaney, "Auditory
    toolbox", 1998); these are the defaults of librosa's mel filters. In double precision.
    """
    step = math.log(6.4) / 27
    top = 15 + math.log(sample_rate / 2 / 1000) / step if sample_rate > 2000 else sample_rate / 2 * 3 / 200
    mels = torch.linspace(0, top, num_mels + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * ((mels - 15) * step).exp())
    hz = torch.fft.rfftfreq(n_fft, 1 / sample_rate, dtype=torch.float64)
    rise = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    triangles = torch.minimum(rise, fall).clamp_min(0)
    return triangles * (2 / (edges[2:] - edges[:-2]))[:, None]
