"""Enrolments of different lengths to vectors or frames: what stands in the padding of a batch is not computed with.

Letters: B items, E enrolments of each, T_e samples, L frames, D features.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sizes_of(enroll: Tensor, lengths: Tensor | None) -> list[int]:
    """enroll (B, E, T_e), lengths (B, E) on the CPU or None -> samples of the B*E rows, at least 1.

    So an enrolment that is not there is a sample long; `mean_of_present` leaves it out.
    """
    if lengths is None:
        return [enroll.shape[-1]] * (enroll.shape[0] * enroll.shape[1])
    return [max(1, int(number)) for number in lengths.reshape(-1)]


def each_at_its_length(function: Callable[[Tensor], Tensor], rows: Tensor, sizes: list[int]) -> list[Tensor]:
    """What `function`, (N, T) -> (N, …), gives for each row (T_e,) cut to its size; equal sizes are done at once."""
    results = dict[int, Tensor]()
    for size in sorted(set(sizes)):
        numbers = [number for number, own in enumerate(sizes) if own == size]
        results.update(zip(numbers, function(rows[numbers, :size]), strict=True))
    return [results[number] for number in range(len(sizes))]


def pack(rows: list[Tensor], multiple: int) -> tuple[Tensor, list[int]]:
    """Rows (D, L, …) one after the other, for networks that pool every `multiple` frames and mix them in no other way.

    Each is cut to a multiple, as pooling would do; one that is shorter is repeated up to it.

    Returns:
        (1, D, sum of L, …), and each row's share in multiples.
    """
    repeated = [torch.cat([row] * -(-multiple // row.shape[1]), 1) for row in rows]
    shares = [max(row.shape[1], multiple) // multiple for row in rows]
    whole = [row[:, : share * multiple] for row, share in zip(repeated, shares, strict=True)]
    return torch.cat(whole, 1)[None], shares


def means(packed: Tensor, shares: list[int]) -> Tensor:
    """packed (1, D, sum of shares, …) -> (rows, D): the mean of each row's share."""
    return torch.stack([part.flatten(1).mean(1) for part in packed[0].split(shares, 1)])


def mean_of_present(vectors: Tensor, lengths: Tensor | None, batch: int) -> Tensor:
    """vectors (B*E, D) -> (B, D), the mean over an item's enrolments of more than 0 samples; zeros if it has none."""
    each = vectors.unflatten(0, (batch, -1))
    if lengths is None:
        return each.mean(1)
    present = (lengths > 0).to(each)[..., None]  # (B, E, 1)
    return (each * present).sum(1) / present.sum(1).clamp_min(1)


def means_of_frames(frames: Tensor, scale: int) -> Tensor:
    """(B, D, L) -> (B, D, L / scale): the means of every `scale` frames, the last of those that are left."""
    return F.avg_pool1d(frames, scale, ceil_mode=True, count_include_pad=False) if scale > 1 else frames


def check_scales(name: str, scales: Sequence[int]) -> None:
    """Refuse an option `name` that does not hold different numbers of frames (ValueError)."""
    if not scales or min(scales) < 1 or len(set(scales)) < len(scales):
        raise ValueError(f"{name}: different numbers of frames, at least 1, expected, got {list(scales)}")


def at_scales(frames: Tensor, scales: Sequence[int]) -> Tensor:
    """(B, L, …) -> (B, L', …): the frames' means at all scales, one after the other."""
    flat = frames.reshape(*frames.shape[:2], -1).mT  # (B, rest, L)
    return torch.cat([means_of_frames(flat, scale) for scale in scales], -1).mT.unflatten(-1, frames.shape[2:])


def frames_of_each(
    function: Callable[[Tensor], Tensor], enroll: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Frames of an item's enrolments one after the other.

    What is not there (0 samples) is left out; an item without any enrolment has one frame of zeros.

    Args:
        function: (N, T) -> (N, L, …), of any T above 0.
        enroll: (B, E, T_e), zero-padded.
        lengths: (B, E) samples of each, on the CPU; 0 for an enrolment that is not there. None: all whole.

    Returns:
        (B, L', …), and where items differ in L' (B, L'), false for padding.
    """
    batch, count = enroll.shape[:2]
    rows = each_at_its_length(function, enroll.flatten(0, 1), sizes_of(enroll, lengths))
    there = [True] * len(rows) if lengths is None else (lengths.reshape(-1) > 0).tolist()
    items = []
    for first in range(0, len(rows), count):
        own = [rows[number] for number in range(first, first + count) if there[number]]
        items.append(torch.cat(own) if own else torch.zeros_like(rows[first][:1]))
    frames = nn.utils.rnn.pad_sequence(items, batch_first=True)
    sizes = torch.tensor([len(item) for item in items])
    if (sizes == frames.shape[1]).all():
        return frames, None
    return frames, (torch.arange(frames.shape[1]) < sizes[:, None]).to(frames.device)
