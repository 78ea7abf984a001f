"""Losses on scale-invariant signal-to-distortion ratio."""

import torch
from torch import Tensor

FLOOR = 1e-8  # of every power, so a silent signal gives 0 dB and a gradient instead of infinity


def neg_si_sdr(estimate: Tensor, target: Tensor, zero_mean: bool = True) -> Tensor:
    """Negative SI-SDR in dB (Le Roux et al. 2019): (B, ..., T), (B, ..., T) -> (B,), the mean of the inner axes.

    -10 log10 ||s||^2 / ||e - s||^2 with s = <e, t> t / ||t||^2. Powers are clamped at 1e-8, as HiFi-TSE does.
    """
    if zero_mean:
        estimate = estimate - estimate.mean(-1, keepdim=True)
        target = target - target.mean(-1, keepdim=True)
    energy = target.square().sum(-1, keepdim=True).clamp_min(FLOOR)
    projection = (estimate * target).sum(-1, keepdim=True) / energy * target
    signal = projection.square().sum(-1).clamp_min(FLOOR)
    distortion = (estimate - projection).square().sum(-1).clamp_min(FLOOR)
    return -10 * torch.log10(signal / distortion).reshape(len(signal), -1).mean(1)
