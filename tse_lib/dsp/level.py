"""Levels in dB over the active part of a signal."""

from typing import TypeVar

import torch
from torch import Tensor

ACTIVE_RANGE_DB = 40.0  # a frame is active when within this of the loudest one
FRAME_S = 0.02

Level = TypeVar("Level", float, Tensor)


def active_samples(x: Tensor, sample_rate: int) -> Tensor:
    """Which samples lie in a 20 ms frame within 40 dB of the loudest frame: (..., T) -> (..., T) bool.

    All false for a signal of zeros.
    """
    size = max(1, round(FRAME_S * sample_rate))
    padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % size))
    power = padded.unflatten(-1, (-1, size)).square().mean(-1)  # (..., frames)
    loudest = power.amax(-1, keepdim=True)
    active = (power >= loudest * 10 ** (-ACTIVE_RANGE_DB / 10)) & (loudest > 0)
    return active.repeat_interleave(size, -1)[..., : x.shape[-1]]


def rms(x: Tensor, where: Tensor | None = None) -> Tensor:
    """Root mean square over the last axis, of the samples in `where` if given (0 where there are none)."""
    if where is None:
        return x.square().mean(-1).sqrt()
    weight = where.to(x.dtype)
    return ((x.square() * weight).sum(-1) / weight.sum(-1).clamp_min(1)).sqrt()


def gain(level_db: Level) -> Level:
    """dB to amplitude ratio."""
    return 10 ** (level_db / 20)
