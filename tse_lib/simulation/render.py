"""Make the audio of mixtures that were decided: signal only, no draws, no files; one mixture or a batch, CPU or GPU.

Gains follow from the wanted levels, measured after room and crop over the target's active samples, so the SIR and SNR
that were asked for are those that are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from tse_lib.dsp.convolve import convolve
from tse_lib.dsp.filters import equalise, low_pass, mask_spectrogram
from tse_lib.dsp.level import active_frames, frame_energies, gain, mean_over, rms
from tse_lib.manifest import Mixture, Source

PEAK = 0.95  # nothing is rendered louder: everything is scaled down together
EQ_HZ = (64.0, 256.0, 1024.0, 4096.0, 12000.0, 24000.0)  # of Source.eq_db


@dataclass(frozen=True)
class Waveforms:
    """What a mixture's sources hold, read and resampled to its rate and speed, in the mixture's order."""

    talkers: list[Tensor]
    enrolls: list[Tensor]
    noise: Tensor | None
    rirs: list[Tensor | None]  # one a talker
    enroll_rirs: list[Tensor | None]  # one an enrolment
    enroll_noises: list[Tensor | None]


@dataclass(frozen=True)
class Rendered:
    """`mixture` is the sum of all `images` and `noise`, before its masks and clipping; the targets are (dry, early or
    reverberant, as the mixture says) those of the wanted talkers' images: the first, or all of a separation.
    """

    mixture: Tensor  # (T,)
    targets: Tensor  # (S, T), zeros where the one target is absent
    images: list[Tensor]  # (T,) each, one a talker
    noise: Tensor | None  # (T,)
    enrolls: list[Tensor]  # (T_e,) each


def render(mixture: Mixture, waveforms: Waveforms) -> Rendered:
    """Pure: the same text and waveforms give the same samples."""
    return render_batch([mixture], [waveforms])[0]


def render_batch(mixtures: Sequence[Mixture], waveforms: Sequence[Waveforms]) -> list[Rendered]:
    """Render mixtures of one length and sample rate together, on the device that the waveforms lie on.

    What a mixture sounds like does not depend on the others but for rounding.
    """
    total, sample_rate = mixtures[0].num_samples, mixtures[0].sample_rate
    assert all((mixture.num_samples, mixture.sample_rate) == (total, sample_rate) for mixture in mixtures)
    images, targets = _images(mixtures, waveforms, total, sample_rate)  # (B, S, T), (B, S', T)
    noises = _noises(mixtures, waveforms, total, images)  # (B, T)
    for row, mixture in enumerate(mixtures):
        if 0 < mixture.band_limit_hz < sample_rate / 2:  # of every part, so that they still add up
            for part in (images[row], targets[row], *([] if noises is None else [noises[row]])):
                part.copy_(low_pass(part, mixture.band_limit_hz, sample_rate))

    # gains from the wanted ratios, over the frames where the target (the first talker) is active
    energies = frame_energies(images, sample_rate)  # (B, S, L)
    active = active_frames(energies[:, 0])  # (B, L)
    reference = mean_over(energies[:, 0], active)  # (B,)
    ratios_db = images.new_zeros(images.shape[:2])
    for row, mixture in enumerate(mixtures):
        ratios_db[row, : len(mixture.talkers)] = torch.tensor([talker.level_db for talker in mixture.talkers])
    gains = _gains(energies, active[:, None], reference[:, None], ratios_db)
    gains[:, 0] = 1.0
    images *= gains[..., None]
    targets *= gains[:, : targets.shape[1], None]
    mixed = images.sum(1)  # (B, T)
    if noises is not None:
        snr_db = images.new_tensor([mixture.noise.level_db if mixture.noise else 0.0 for mixture in mixtures])
        speech = mean_over(frame_energies(mixed, sample_rate), active)
        noises *= _gains(frame_energies(noises, sample_rate), active, speech, snr_db)[:, None]
        mixed += noises

    # the level of the whole
    wanted = gain(images.new_tensor([mixture.level_dbfs for mixture in mixtures])) / rms(mixed).clamp_min(1e-8)
    parts = [mixed, *images.unbind(1), *targets.unbind(1), *([] if noises is None else [noises])]
    loudest = torch.stack([_peak(part) for part in parts]).amax(0)
    scale = torch.minimum(wanted, PEAK / loudest.clamp_min(1e-8))[:, None]
    for part in parts:
        part *= scale

    return [
        Rendered(
            mixture=_masked_and_clipped(mixed[row], mixture),
            targets=targets[row, : max(1, len(mixture.targets))],
            images=list(images[row, : len(mixture.talkers)]),
            noise=noises[row] if noises is not None and mixture.noise else None,
            enrolls=_enrolls(mixture, waveforms[row]),
        )
        for row, mixture in enumerate(mixtures)
    ]


def _images(
    mixtures: Sequence[Mixture], waveforms: Sequence[Waveforms], total: int, sample_rate: int
) -> tuple[Tensor, Tensor]:
    """Every talker as received (B, S, T), zeros beyond a mixture's talkers, and the targets (B, S', T), unscaled."""
    count = max(len(mixture.talkers) for mixture in mixtures)
    images = waveforms[0].talkers[0].new_zeros(len(mixtures), count, total)
    targets = images.new_zeros(len(mixtures), max(1, *(len(mixture.targets) for mixture in mixtures)), total)
    in_room: list[tuple[int, int]] = []
    dry: dict[tuple[int, int], Tensor] = {}
    for row, (mixture, waves) in enumerate(zip(mixtures, waveforms, strict=True)):
        for place, (source, wave) in enumerate(zip(mixture.talkers, waves.talkers, strict=True)):
            wave = _faded(wave, source, total, sample_rate)
            if waves.rirs[place] is None:
                _place(wave, source.offset, images[row, place])
            else:
                in_room.append((row, place))
                dry[row, place] = wave
    if in_room:
        rirs = {key: _unit_energy(_some(waveforms[key[0]].rirs[key[1]])) for key in in_room}
        # as much as can still be heard of what was said before stands at the left of every row
        lead = max(len(rir) for rir in rirs.values()) - 1
        lead = min(lead, max(max(0, -mixtures[row].talkers[place].offset) for row, place in in_room))
        aligned = []
        for row, place in in_room:
            missing = lead + min(0, mixtures[row].talkers[place].offset)
            wave = dry[row, place]
            aligned.append(wave[-missing:] if missing < 0 else pad(wave, (missing, 0)))
        wet = convolve(
            pad_sequence(aligned, batch_first=True),
            pad_sequence([rirs[key] for key in in_room], batch_first=True),
            total,
            first=lead,
        )
        for wave, (row, place) in zip(wet, in_room, strict=True):
            _place(wave, max(0, mixtures[row].talkers[place].offset), images[row, place])
    for row, mixture in enumerate(mixtures):
        for place, source in enumerate(mixture.targets):
            if mixture.target == "reverberant" or (row, place) not in dry:
                targets[row, place] = images[row, place]
            else:
                part = _wanted_part(rirs[row, place], mixture)
                wave = convolve(dry[row, place], part, total, first=max(0, -source.offset))
                _place(wave, max(0, source.offset), targets[row, place])
    return images, targets


def _wanted_part(rir: Tensor, mixture: Mixture) -> Tensor:
    """Of a response: the direct sound alone (dry), or all until `early_s` after it."""
    direct = int(rir.abs().argmax())
    part = torch.zeros_like(rir)
    if mixture.target == "dry":
        part[direct] = rir[direct]
    else:
        end = direct + round(mixture.early_s * mixture.sample_rate)
        part[:end] = rir[:end]
    return part


def _noises(mixtures: Sequence[Mixture], waveforms: Sequence[Waveforms], total: int, like: Tensor) -> Tensor | None:
    if all(waves.noise is None for waves in waveforms):
        return None
    noises = like.new_zeros(len(mixtures), total)
    for row, waves in enumerate(waveforms):
        if waves.noise is not None:
            noises[row] = _repeated(waves.noise, total)
    return noises


def _gains(energies: Tensor, active: Tensor, reference: Tensor, ratio_db: Tensor) -> Tensor:
    """The gains that put signals (..., L) of frame energies `ratio_db` below the reference over the active frames.

    Where a signal is silent there (a talker who speaks only in the target's pauses), its own active frames count.
    """
    level = mean_over(energies, active)
    own = mean_over(energies, active_frames(energies))
    level = torch.where(level < 1e-6 * own, own, level)
    return (reference / level.clamp_min(1e-16)).sqrt() * gain(-ratio_db)


def _peak(x: Tensor) -> Tensor:
    return torch.maximum(x.amax(-1), -x.amin(-1))  # torch.aminmax takes twenty times as long


def _masked_and_clipped(mixed: Tensor, mixture: Mixture) -> Tensor:
    if mixture.masks:
        masks = [(mask.axis, mask.begin, mask.end) for mask in mixture.masks]
        mixed = mask_spectrogram(mixed, masks, mixture.sample_rate).clamp(-1, 1)
    if mixture.clip_db:
        most = mixed.abs().amax() * gain(-mixture.clip_db)
        mixed = mixed.clamp(-most, most)
    return mixed


def _enrolls(mixture: Mixture, waves: Waveforms) -> list[Tensor]:
    enrolls = []
    for source, wave, rir, noise in zip(
        mixture.enrolls, waves.enrolls, waves.enroll_rirs, waves.enroll_noises, strict=True
    ):
        if rir is not None:
            wave = convolve(wave, _unit_energy(rir), len(wave))
        if source.eq_db:
            wave = equalise(wave, EQ_HZ, source.eq_db, mixture.sample_rate)
        if noise is not None and source.noise is not None:
            noise, energies = _repeated(noise, len(wave)), frame_energies(wave, mixture.sample_rate)
            active, ratio_db = active_frames(energies), wave.new_tensor(source.noise.level_db)
            of_noise = frame_energies(noise, mixture.sample_rate)
            wave = wave + noise * _gains(of_noise, active, mean_over(energies, active), ratio_db)
        scale = gain(mixture.level_dbfs) / rms(wave).clamp_min(1e-8)
        enrolls.append(wave * torch.minimum(scale, PEAK / wave.abs().max().clamp_min(1e-8)))
    return enrolls


def _some(rir: Tensor | None) -> Tensor:
    assert rir is not None
    return rir


def _unit_energy(rir: Tensor) -> Tensor:
    return rir / rir.square().sum().sqrt().clamp_min(1e-8)


def _faded(wave: Tensor, source: Source, total: int, sample_rate: int) -> Tensor:
    """With half a Hann window at each end that lies inside the mixture."""
    size = min(round(source.fade_s * sample_rate), len(wave) // 2)
    if size == 0:
        return wave
    rise = torch.sin(torch.linspace(0, torch.pi / 2, size, dtype=wave.dtype, device=wave.device)).square()
    wave = wave.clone()
    if source.offset > 0:
        wave[:size] *= rise
    if source.offset + len(wave) < total:
        wave[-size:] *= rise.flip(0)
    return wave


def _place(wave: Tensor, offset: int, into: Tensor) -> None:
    """Copy `wave` into zeros, from sample `offset` on; what lies outside is lost."""
    wave = wave[max(0, -offset) :][: len(into) - max(0, offset)]
    into[max(0, offset) : max(0, offset) + len(wave)] = wave


def _repeated(wave: Tensor, total: int) -> Tensor:
    return wave.repeat(-(-total // len(wave)))[:total]
