"""Cutting a long signal into overlapping chunks and putting them together: every sample covered, weights sum to one."""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm


def chunk_starts(num_samples: int, chunk: int, hop: int) -> list[int]:
    """Where chunks of `chunk` samples begin, so that they cover `num_samples`; the last one ends with the signal."""
    if num_samples <= chunk:
        return [0]
    starts = list(range(0, num_samples - chunk, hop))
    return [*starts, num_samples - chunk]


def cross_fade(num_samples: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A Hann window without zeros, so that a sample under one chunk only is divided by something.

    As sin^2: 1 - cos of the first sample of a long window is 0 in single precision.
    """
    return torch.sin(torch.pi * torch.arange(1, num_samples + 1, dtype=dtype) / (num_samples + 1)).square()


def overlap_add(
    process: Callable[[Tensor], Tensor],
    mixture: Tensor,
    chunk: int,
    overlap_count: int,
    batch_size: int,
    progress: bool = False,
) -> Tensor:
    """Run `process` on overlapping chunks and cross-fade the results, each weight divided by the sum of weights.

    Args:
        process: (B, C, chunk) -> (B, S, C, chunk).
        mixture: (C, T). At most `chunk` samples are processed whole.
        chunk: samples in one chunk.
        overlap_count: how many chunks cover a sample, at least 1.
        batch_size: chunks at once; changes nothing but speed and memory.
        progress: show a bar where there is more than one batch.

    Returns:
        (S, C, T)
    """
    if overlap_count < 1 or batch_size < 1 or chunk < overlap_count:
        raise ValueError(f"chunk {chunk}, overlap_count {overlap_count}, batch_size {batch_size}: all must be above 0")
    num_samples = mixture.shape[-1]
    starts = chunk_starts(num_samples, chunk, chunk // overlap_count)
    if len(starts) == 1:
        return process(mixture[None])[0]
    window = cross_fade(chunk, mixture.dtype).to(mixture.device)
    total, weight = mixture.new_zeros(0), mixture.new_zeros(num_samples)
    firsts = range(0, len(starts), batch_size)
    hidden = not progress or len(firsts) == 1
    for first in tqdm(firsts, desc="chunks", unit="batch", dynamic_ncols=True, disable=hidden):
        group = starts[first : first + batch_size]
        outputs = process(torch.stack([mixture[:, start : start + chunk] for start in group]))  # (B, S, C, chunk)
        if not len(total):
            total = outputs.new_zeros(*outputs.shape[1:3], num_samples)
        for start, output in zip(group, outputs, strict=True):
            total[..., start : start + chunk] += output * window
            weight[start : start + chunk] += window
    return total / weight
