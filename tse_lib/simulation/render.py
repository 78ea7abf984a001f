"""Make the audio of a mixture that was decided: signal only, no draws, no files.

Gains follow from the wanted levels, measured after room and crop over the target's active samples, so the SIR and SNR
that were asked for are those that are there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tse_lib.dsp.convolve import convolve
from tse_lib.dsp.level import active_samples, gain, rms
from tse_lib.manifest import Mixture

PEAK = 0.95  # nothing is rendered louder: everything is scaled down together


@dataclass(frozen=True)
class Waveforms:
    """What a mixture's sources hold, read and resampled to its rate and speed, in the mixture's order."""

    talkers: list[Tensor]
    enrolls: list[Tensor]
    noise: Tensor | None
    rirs: list[Tensor | None]  # one a talker


@dataclass(frozen=True)
class Rendered:
    """`mixture` is the sum of all `images` and `noise`; the target is `images[0]` where it is present."""

    mixture: Tensor  # (T,)
    target: Tensor  # (T,), zeros where the target is absent
    images: list[Tensor]  # (T,) each, one a talker
    noise: Tensor | None  # (T,)
    enrolls: list[Tensor]  # (T_e,) each


def render(mixture: Mixture, waveforms: Waveforms) -> Rendered:
    """Pure: the same text and waveforms give the same samples, on any device."""
    total = mixture.num_samples
    images = []
    for source, wave, rir in zip(mixture.talkers, waveforms.talkers, waveforms.rirs, strict=True):
        if rir is not None:
            wave = convolve(wave, _unit_energy(rir), total - source.offset)  # the tail rings on after the crop
        images.append(_place(wave, source.offset, total))
    reference = images[0]
    active = active_samples(reference, mixture.sample_rate)
    reference_rms = rms(reference, active)
    for place, source in enumerate(mixture.talkers[1:], 1):
        images[place] = images[place] * _gain_for(
            images[place], active, reference_rms, source.level_db, mixture.sample_rate
        )
    noise = None
    if mixture.noise is not None and waveforms.noise is not None:
        noise = _repeat(waveforms.noise, total)
        speech_rms = rms(torch.stack(images).sum(0), active)
        noise = noise * _gain_for(noise, active, speech_rms, mixture.noise.level_db, mixture.sample_rate)
    parts = images if noise is None else [*images, noise]
    mixed = torch.stack(parts).sum(0)
    wanted = gain(mixture.level_dbfs) / max(float(rms(mixed)), 1e-8)
    loudest = max(float(part.abs().max()) for part in [mixed, *parts])
    scale = min(wanted, PEAK / max(loudest, 1e-8))
    images = [image * scale for image in images]
    return Rendered(
        mixture=mixed * scale,
        target=images[0] if mixture.target_present else torch.zeros_like(mixed),
        images=images,
        noise=None if noise is None else noise * scale,
        enrolls=[_to_level(wave, mixture.level_dbfs) for wave in waveforms.enrolls],
    )


def _gain_for(x: Tensor, active: Tensor, reference_rms: Tensor, ratio_db: float, sample_rate: int) -> Tensor:
    """The gain that puts `x` `ratio_db` below the reference over the target's active samples.

    Where `x` is silent there (a talker who speaks only in the target's pauses), its own active samples count.
    """
    level = rms(x, active)
    own = rms(x, active_samples(x, sample_rate))
    level = torch.where(level < 1e-3 * own, own, level)
    return reference_rms / level.clamp_min(1e-8) * gain(-ratio_db)


def _unit_energy(rir: Tensor) -> Tensor:
    return rir / rir.square().sum().sqrt().clamp_min(1e-8)


def _place(wave: Tensor, offset: int, total: int) -> Tensor:
    wave = wave[: total - offset]
    return torch.nn.functional.pad(wave, (offset, total - offset - len(wave)))


def _repeat(wave: Tensor, total: int) -> Tensor:
    return wave.repeat(-(-total // len(wave)))[:total]


def _to_level(wave: Tensor, level_dbfs: float) -> Tensor:
    scale = gain(level_dbfs) / rms(wave).clamp_min(1e-8)
    return wave * torch.minimum(scale, PEAK / wave.abs().max().clamp_min(1e-8))
