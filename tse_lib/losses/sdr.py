"""Losses on energy ratios in dB: signal over distortion, with and without regard to scale.

References:
    J. Le Roux, S. Wisdom, H. Erdogan, J. R. Hershey, "SDR - half-baked or well done?", ICASSP 2019.
    S. Wisdom et al., "Unsupervised sound separation using mixture invariant training", NeurIPS 2020.
    M. Ge et al., "SpEx+: A complete time domain speaker extraction network", Interspeech 2020.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR = 1e-8  # of every energy, so a silent signal gives 0 dB and a gradient instead of infinity
ACTIVE = 1e-4  # of the energy of the loudest window: 40 dB below it a window counts as silent


def neg_si_sdr(estimate: Tensor, target: Tensor, zero_mean: bool = True) -> Tensor:
    """Negative SI-SDR in dB (Le Roux et al. 2019, eq. 2-5): (B, ..., T), (B, ..., T) -> (B,), the mean of inner axes.

    -10 log10 ||s||^2 / ||e - s||^2 with s = <e, t> t / ||t||^2. Energies are clamped at 1e-8, as HiFi-TSE does.
    """
    return _mean(_neg_si_sdr(estimate, target, zero_mean))


def neg_snr(estimate: Tensor, target: Tensor, max_db: float | None = None) -> Tensor:
    """Negative SNR in dB, which fixes the level as well: (B, ..., T), (B, ..., T) -> (B,), the mean of inner axes.

    -10 log10 ||t||^2 / (||t - e||^2 + tau ||t||^2), tau = 10^(-max_db / 10): with `max_db` the SNR approaches that
    value softly, so what is nearly right takes no more of the gradient (Wisdom et al. 2020, eq. 2, with 30 dB).
    """
    signal = target.square().sum(-1)
    distortion = (target - estimate).square().sum(-1)
    if max_db is not None:
        distortion = distortion + 10 ** (-max_db / 10) * signal
    return _mean(-_db(signal, distortion))


def multi_scale_si_sdr(
    estimate: Tensor, target: Tensor, windows: tuple[int, ...] = (4096, 16384, 65536), zero_mean: bool = True
) -> Tensor:
    """Negative SI-SDR in dB over windows of several lengths: (B, ..., T), (B, ..., T) -> (B,).

    `windows` are samples; each scale is the mean over its windows, which overlap by half, and the loss the mean over
    scales. One that is longer than the signal is the signal. Short windows weigh quiet stretches like loud ones, but
    leave the level of each to itself: keep a long one. Windows in which the target lies 40 dB below its loudest one
    do not count, since no SI-SDR is defined in its pauses. (SpEx's "multi-scale" is another thing:
    `neg_si_sdr_of_scales`.)
    """
    scales = []
    for window in windows:
        length = min(window, target.shape[-1])
        hop = max(1, length // 2)
        padding = (0, -(target.shape[-1] - length) % hop)  # so the end is in a window
        e, t = (F.pad(x, padding).unfold(-1, length, hop) for x in (estimate, target))  # (B, ..., windows, length)
        energy = t.square().sum(-1)
        active = energy >= ACTIVE * energy.amax(-1, keepdim=True)
        scales.append(_mean((_neg_si_sdr(e, t, zero_mean) * active).sum(-1) / active.sum(-1)))
    return torch.stack(scales).mean(0)


def neg_si_sdr_of_scales(
    estimate: Tensor, target: Tensor, weights: Sequence[float] = (0.8, 0.1, 0.1), zero_mean: bool = True
) -> Tensor:
    """Negative SI-SDR in dB of a network's outputs at several scales, each an estimate of the one target, weighted.

    (B, K, C, T), (B, 1, C, T) -> (B,). The weights are those of SpEx+ (Ge et al. 2020, eq. 8), the output that is used
    first; they are taken as they are, not over their sum.

    Raises:
        ValueError: another number of outputs than of weights.
    """
    if estimate.shape[1] != len(weights):
        raise ValueError(f"loss neg_si_sdr_of_scales: {len(weights)} weights for {estimate.shape[1]} outputs")
    values = _neg_si_sdr(estimate, target, zero_mean)  # (B, K, C)
    return (values * values.new_tensor(weights)[:, None]).sum(1).mean(-1)


def _neg_si_sdr(estimate: Tensor, target: Tensor, zero_mean: bool) -> Tensor:
    """(..., T), (..., T) -> (...)."""
    if zero_mean:
        estimate = estimate - estimate.mean(-1, keepdim=True)
        target = target - target.mean(-1, keepdim=True)
    energy = target.square().sum(-1, keepdim=True).clamp_min(FLOOR)
    projection = (estimate * target).sum(-1, keepdim=True) / energy * target
    return -_db(projection.square().sum(-1), (estimate - projection).square().sum(-1))


def _db(signal: Tensor, distortion: Tensor) -> Tensor:
    return 10 * torch.log10(signal.clamp_min(FLOOR) / distortion.clamp_min(FLOOR))


def _mean(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).mean(1)
