"""The discriminators of HiFi-GAN (Kong, Kim and Bae, 2020): is a waveform a recording or an estimate?

    wave (B,1,T) -> for each of the small networks, the feature maps of its layers; the last one is its verdict

Idea: a network that sees every p-th sample side by side hears what repeats with that period, and one that sees the
wave at a lower rate hears its envelope; many such views are harder to deceive than one.

    multi-period  one network a period p: the wave folded to (B,1,T/p,p), 2-D convolutions along T/p only
    multi-scale   one network a scale: the wave itself, averaged to 1/2, to 1/4, …; grouped 1-D convolutions

At the sizes of the paper (the defaults, which HiFi-TSE v1 used): 41,105,770 and 29,618,821 parameters, 70,724,591
together. Weights are normalised (Salimans and Kingma, 2016), at the first scale spectrally (Miyato et al., 2018).
Forward passes do no power iteration (see `renew_spectral_norms`); call them in eval mode, there is no dropout either.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.parametrize import is_parametrized

from tse_lib.config import check_params

SLOPE = 0.1  # of all leaky rectifiers
# kernel, stride and groups of each layer of a scale
SCALE_LAYERS = ((15, 1, 1), (41, 2, 4), (41, 2, 16), (41, 4, 16), (41, 4, 16), (41, 1, 16), (5, 1, 1))


class PeriodDiscriminator(nn.Module):
    """One period: strides of 3 along time, all convolutions of one column."""

    def __init__(self, period: int, channels: Sequence[int]):
        super().__init__()
        self.period = period
        sizes, last = [1, *channels], len(channels) - 1
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(inner, outer, (5, 1), (1 if place == last else 3, 1), padding=(2, 0)))
            for place, (inner, outer) in enumerate(zip(sizes, sizes[1:], strict=False))
        )
        self.output_conv = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """(B, 1, T) -> feature maps (B, H, T', period), the verdict (B, 1, T', period) last."""
        missing = -wave.shape[-1] % self.period
        x = F.pad(wave, (0, missing), "reflect").unflatten(-1, (-1, self.period))
        maps = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            maps.append(x)
        return [*maps, self.output_conv(x)]


class ScaleDiscriminator(nn.Module):
    """One scale. Groups are fewer where the channels of a narrow network do not divide by them."""

    def __init__(self, channels: Sequence[int], spectral: bool):
        super().__init__()
        if len(channels) != len(SCALE_LAYERS):
            raise ValueError(f"scale_channels: {len(SCALE_LAYERS)} numbers expected, got {list(channels)}")
        norm, sizes = spectral_norm if spectral else weight_norm, [1, *channels]
        self.convs = nn.ModuleList(
            norm(nn.Conv1d(inner, outer, kernel, stride, kernel // 2, groups=math.gcd(groups, inner, outer)))
            for inner, outer, (kernel, stride, groups) in zip(sizes, sizes[1:], SCALE_LAYERS, strict=False)
        )
        self.output_conv = norm(nn.Conv1d(sizes[-1], 1, 3, padding=1))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """(B, 1, T) -> feature maps (B, H, T'), the verdict (B, 1, T') last."""
        x, maps = wave, []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            maps.append(x)
        return [*maps, self.output_conv(x)]


class MultiPeriodDiscriminator(nn.Module):
    """Several periods, best pairwise prime: the views overlap little then. `period_channels`: of each one's layers."""

    def __init__(
        self, periods: Sequence[int] = (2, 3, 5, 7, 11), period_channels: Sequence[int] = (32, 128, 512, 1024, 1024)
    ):
        super().__init__()
        self.discriminators = nn.ModuleList(PeriodDiscriminator(period, period_channels) for period in periods)

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        return [discriminator(wave) for discriminator in self.discriminators]


class MultiScaleDiscriminator(nn.Module):
    """Several scales, each half the rate of the one before; `scale_channels`: of the seven layers of each."""

    def __init__(self, num_scales: int = 3, scale_channels: Sequence[int] = (128, 128, 256, 512, 1024, 1024, 1024)):
        super().__init__()
        self.discriminators = nn.ModuleList(
            ScaleDiscriminator(scale_channels, spectral=scale == 0) for scale in range(num_scales)
        )

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        verdicts = []
        for scale, discriminator in enumerate(self.discriminators):
            wave = F.avg_pool1d(wave, 4, 2, padding=2) if scale else wave
            verdicts.append(discriminator(wave))
        return verdicts


class MultiPeriodAndScale(nn.Module):
    """Both, with the options of both."""

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        period_channels: Sequence[int] = (32, 128, 512, 1024, 1024),
        num_scales: int = 3,
        scale_channels: Sequence[int] = (128, 128, 256, 512, 1024, 1024, 1024),
    ):
        super().__init__()
        self.mpd = MultiPeriodDiscriminator(periods, period_channels)
        self.msd = MultiScaleDiscriminator(num_scales, scale_channels)

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """(B, 1, T) -> the feature maps of each network, those of the periods first."""
        return [*self.mpd(wave), *self.msd(wave)]


DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "mpd": MultiPeriodDiscriminator,
    "msd": MultiScaleDiscriminator,
    "mpd_msd": MultiPeriodAndScale,
}


def build_discriminator(name: str, params: dict[str, Any]) -> nn.Module:
    """The conf's `train.gan.discriminator`, in eval mode.

    Raises:
        ValueError: unknown name or option, or sizes the network refuses.
    """
    if name not in DISCRIMINATORS:
        raise ValueError(f"train.gan.discriminator: unknown '{name}'; known: {', '.join(DISCRIMINATORS)}")
    check_params(DISCRIMINATORS[name].__init__, params, f"discriminator {name}")
    return DISCRIMINATORS[name](**params).eval()


@torch.no_grad()
def renew_spectral_norms(discriminator: nn.Module) -> None:
    """One power iteration of each spectral norm: for once an optimizer step.

    Forward passes in training mode would do one each, so that the weights depended on how a step is cut into batches.
    """
    discriminator.train()
    for module in discriminator.modules():
        if is_parametrized(module, "weight"):
            _ = module.weight  # computing it in training mode iterates
    discriminator.eval()
