"""Levels in dB over the active part of a signal."""

from typing import TypeVar

import torch
from torch import Tensor

ACTIVE_RANGE_DB = 40.0  # a frame is active when within this of the loudest one
FRAME_S = 0.02

Level = TypeVar("Level", float, Tensor)


def frame_energies(x: Tensor, sample_rate: int) -> Tensor:
    """Mean square of frames of 20 ms, the last one filled up with zeros: (..., T) -> (..., L)."""
    size = max(1, round(FRAME_S * sample_rate))
    whole = x.shape[-1] // size * size
    energies = x[..., :whole].unflatten(-1, (-1, size)).square().mean(-1)
    if whole == x.shape[-1]:
        return energies
    return torch.cat([energies, x[..., whole:].square().sum(-1, keepdim=True) / size], -1)


def active_frames(energies: Tensor) -> Tensor:
    """Which frames (..., L) are within 40 dB of the loudest; none of a signal of zeros."""
    loudest = energies.amax(-1, keepdim=True)
    return (energies >= loudest * 10 ** (-ACTIVE_RANGE_DB / 10)) & (loudest > 0)


def mean_over(energies: Tensor, where: Tensor) -> Tensor:
    """Mean of the frames (..., L) in `where`, 0 where there are none: (...)."""
    weight = where.to(energies.dtype)
    return (energies * weight).sum(-1) / weight.sum(-1).clamp_min(1)


def active_samples(x: Tensor, sample_rate: int) -> Tensor:
    """Which samples lie in an active frame: (..., T) -> (..., T) bool."""
    size = max(1, round(FRAME_S * sample_rate))
    return active_frames(frame_energies(x, sample_rate)).repeat_interleave(size, -1)[..., : x.shape[-1]]


def rms(x: Tensor, where: Tensor | None = None) -> Tensor:
    """Root mean square over the last axis, of the samples in `where` if given (0 where there are none)."""
    if where is None:
        return x.square().mean(-1).sqrt()
    weight = where.to(x.dtype)
    return ((x.square() * weight).sum(-1) / weight.sum(-1).clamp_min(1)).sqrt()


def gain(level_db: Level) -> Level:
    """dB to amplitude ratio."""
    return 10 ** (level_db / 20)
