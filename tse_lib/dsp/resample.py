"""Resampling by any real factor on any device, with the filter that soxr uses on the CPU.

soxr's high-quality filter is read off its answer to an impulse, once. A sample between two input samples is then the
sum of input samples weighted by that filter, as in a polyphase resampler, with as many phases as are asked for.
Against soxr: below -55 dB of the signal, white noise included (tests/test_resample.py).
"""

import functools
import math

import numpy as np
import soxr
import torch
from torch import Tensor

WIDTH = 64  # zero crossings of the filter on each side
PHASES = 512  # of the table, linear in between
BLOCK = 1 << 16  # output samples at once


@functools.cache
def _table() -> Tensor:
    """The filter at `PHASES` points an input sample, from -WIDTH to WIDTH: (2 * WIDTH * PHASES + 2,)."""
    impulse = np.zeros(4 * WIDTH)
    impulse[2 * WIDTH] = 1
    response = soxr.resample(impulse, 1, PHASES, quality="HQ")
    return torch.from_numpy(response[WIDTH * PHASES : 3 * WIDTH * PHASES + 2].astype(np.float32))


def resample(x: Tensor, ratio: float) -> Tensor:
    """Resample (T,) so that `ratio` samples become one: (T,) -> (round(T / ratio),)."""
    if ratio == 1:
        return x
    stretch = max(1.0, ratio)  # of the filter: to the lower of the two rates
    reach = int(WIDTH * stretch)
    weights = _weights(stretch, reach).to(x)  # (PHASES + 1, taps)
    count = int(len(x) / ratio + 0.5)
    padded = torch.nn.functional.pad(x, (reach, reach + 1 + math.ceil(ratio)))
    windows = padded.unfold(0, weights.shape[1], 1)  # (T + …, taps): what each sample may be made of
    blocks = []
    for first in range(0, count, BLOCK):
        # positions in double precision: a float has no room for the fraction after a few seconds
        at = torch.arange(first, min(count, first + BLOCK), device=x.device, dtype=torch.float64) * ratio
        whole = at.floor()
        phase = (at - whole) * PHASES
        left = phase.long()
        share = (phase - left).to(x)[:, None]
        of_block = torch.lerp(weights[left], weights[left + 1], share)
        blocks.append((windows[whole.long()] * of_block).sum(1))
    return torch.cat(blocks) if blocks else x[:0]


def _weights(stretch: float, reach: int) -> Tensor:
    """What each of the input samples from -reach to reach + 1 counts, for every phase: (PHASES + 1, 2 * reach + 2)."""
    phases = torch.arange(PHASES + 1, dtype=torch.float64)[:, None] / PHASES
    distance = phases - torch.arange(-reach, reach + 2)
    place = ((distance / stretch + WIDTH) * PHASES).clamp(0, 2 * WIDTH * PHASES)
    left = place.long()
    table = _table().double()
    weights = torch.lerp(table[left], table[left + 1], place - left) / stretch
    return weights * (distance.abs() <= WIDTH * stretch)
