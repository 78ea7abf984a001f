"""Losses on level: of an absent target's output, and of a present one's."""

import torch
from torch import Tensor


def energy(estimate: Tensor, mixture: Tensor, floor_db: float = -30.0) -> Tensor:
    """How far the output's level lies above a floor in dBFS, for absent targets: (B, ..., T) -> (B,).

    relu(10 log10(mean e^2 + 1e-8) - floor): at the floor there is no more reward for silence. `mixture` is what any
    loss for absent targets is compared with; this one measures against full scale.

    This is HiFi-TSE v2. Its v1 is max(10 log10(...), -40): `floor_db=-40` less 40 dB, so the same gradient. What paid
    for silence there is that its values are negative beside losses that are not, and the low floor.
    """
    power = estimate.flatten(1).square().mean(1)
    return torch.relu(10 * torch.log10(power + 1e-8) - floor_db)


def attenuation(estimate: Tensor, mixture: Tensor, floor_db: float = -40.0) -> Tensor:
    """As `energy`, against the level of the mixture instead of full scale: blind to how loud a recording is."""
    power, reference = estimate.flatten(1).square().mean(1), mixture.flatten(1).square().mean(1).clamp_min(1e-8)
    return torch.relu(10 * torch.log10(power / reference + 1e-8) - floor_db)


def amplitude(estimate: Tensor, target: Tensor) -> Tensor:
    """Squared log ratio of the RMS levels, which SI-SDR cannot see: (B, ..., T) -> (B,). Ratio floored at 0.05.

    The level is that of all sources and channels together; of each source it is in `{name: pit, params: {loss:
    amplitude}}`.
    """
    ratio = _rms(estimate) / _rms(target).clamp_min(1e-8)
    return ratio.clamp_min(0.05).log().square()


def _rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).clamp_min(1e-20).sqrt()
