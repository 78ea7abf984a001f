"""Convolution with room responses."""

import scipy.fft
import torch
from torch import Tensor


def convolve(x: Tensor, response: Tensor, num_samples: int) -> Tensor:
    """The first `num_samples` of the full convolution: (..., T), (..., K) -> (..., num_samples).

    The FFT's length is the next one that is fast (an awkward one costs six times as much).
    """
    full = x.shape[-1] + response.shape[-1] - 1
    n_fft = scipy.fft.next_fast_len(full, real=True)
    product = torch.fft.rfft(x, n_fft) * torch.fft.rfft(response, n_fft)
    y = torch.fft.irfft(product, n_fft)[..., : min(num_samples, full)]
    return torch.nn.functional.pad(y, (0, num_samples - y.shape[-1]))
