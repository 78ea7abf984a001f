"""What a channel does to a signal: all zero-phase, in the frequency domain, any length."""

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
