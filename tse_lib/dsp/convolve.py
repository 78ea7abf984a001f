"""Convolution with room responses."""

import scipy.fft
import torch
from torch import Tensor


def convolve(x: Tensor, response: Tensor, num_samples: int, first: int = 0) -> Tensor:
    """Samples `first` to `first + num_samples` of the full convolution: (..., T), (..., K) -> (..., num_samples).

    The FFT is as short as leaves those samples right (what wraps round falls on those before `first`), and of the next
    length that is fast: an awkward one costs six times as much.
    """
    full = x.shape[-1] + response.shape[-1] - 1
    needed = max(x.shape[-1], response.shape[-1], min(full, first + num_samples), full - first)
    n_fft = scipy.fft.next_fast_len(needed, real=True)
    both = x.new_zeros(2, *torch.broadcast_shapes(x.shape[:-1], response.shape[:-1]), n_fft)
    both[0, ..., : x.shape[-1]] = x
    both[1, ..., : response.shape[-1]] = response
    spectra = torch.fft.rfft(both)  # of one row alone MKL takes three times as long
    y = torch.fft.irfft(spectra[0] * spectra[1], n_fft)[..., first : min(full, first + num_samples)]
    return torch.nn.functional.pad(y, (0, num_samples - y.shape[-1]))
