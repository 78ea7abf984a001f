"""The inverse of a short-time Fourier transform."""

import torch
import torch.nn.functional as F
from torch import Tensor


def istft(spectrum: Tensor, window: Tensor, hop_length: int, size: int) -> Tensor:
    """(B, F, L) complex -> (B, size): the inverse of a centred `torch.stft` whose window is as long as its transform.

    As `torch.istft`, which however looks at the windows' sum, so that it waits for a GPU and cannot be traced. Here the
    caller has to see that it is nowhere zero: with a periodic Hann window hop_length <= n_fft / 2 will do, for any size
    that gave these L frames.
    """
    n_fft, length = len(window), spectrum.shape[-1]
    frames = torch.fft.irfft(spectrum, n_fft, dim=1) * window[:, None]  # (B, n_fft, L)
    weights = window.square()[None, :, None].expand(1, n_fft, length)
    span = n_fft + hop_length * (length - 1)
    waves, cover = (
        F.fold(parts, (1, span), (1, n_fft), stride=(1, hop_length))[:, 0, 0, n_fft // 2 : n_fft // 2 + size]
        for parts in (frames, weights)
    )
    return waves / cover
