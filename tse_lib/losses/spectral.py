"""Losses on spectrograms."""

import torch
from torch import Tensor

RESOLUTIONS = ((512, 240, 50), (1024, 600, 120), (2048, 1200, 240))  # n_fft, win_length, hop_length


def phase_sensitive(estimate: Tensor, target: Tensor, resolutions: tuple = RESOLUTIONS) -> Tensor:
    """L1 on the real and on the imaginary part of the STFT, the mean over resolutions: (B, ..., T) -> (B,)."""
    estimate, target = estimate.flatten(0, -2), target.flatten(0, -2)
    terms = []
    for n_fft, win_length, hop_length in resolutions:
        window = torch.hann_window(win_length, dtype=estimate.dtype, device=estimate.device)
        both = torch.stft(
            torch.cat([estimate, target]), n_fft, hop_length, win_length, window, return_complex=True
        ).chunk(2)
        difference = torch.view_as_real(both[0] - both[1]).abs()  # (B, F, L, 2)
        terms.append(difference.mean((1, 2, 3)))
    return torch.stack(terms).mean(0)


def l1(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the samples: (B, ..., T) -> (B,)."""
    return (estimate - target).abs().flatten(1).mean(1)
