"""Dual-path processing: a long sequence folded into chunks, so that two short axes stand for one long one.

    frames (B,D,L) -to_chunks-> (B,D,J,K): J chunks of K frames, each half over its neighbours -from_chunks-> (B,D,L)

A path along K sees a chunk, a path along J sees every K-th part of the whole utterance; both together reach everything.

Toolkits add zeros in different amounts, and weights trained with the one do not fit the other. `padding` names it:

    whole   a chunk of zeros before and at least half a chunk after (Asteroid, ESPnet)
    half    half a chunk before, and after it as many as make the number of chunks even (SpeechBrain)
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from tse_lib.nn.filterbank import MASKS, check_mask

PADDINGS = ("whole", "half")


def check_chunks(chunk_size: int, padding: str) -> None:
    """Raises: ValueError: an odd chunk has no half, or an unknown padding."""
    if chunk_size < 2 or chunk_size % 2:
        raise ValueError(f"chunk_size {chunk_size}: must be even, as chunks overlap by half")
    if padding not in PADDINGS:
        raise ValueError(f"chunk_padding: '{padding}' is none of {', '.join(PADDINGS)}")


def num_chunks(length: int, chunk_size: int, padding: str) -> int:
    hop = chunk_size // 2
    return length // hop + 3 if padding == "whole" else (length + hop) // chunk_size * 2 + 2


def to_chunks(frames: Tensor, chunk_size: int, padding: str) -> Tensor:
    """(B, D, L) -> (B, D, J, K)."""
    length, hop = frames.shape[-1], chunk_size // 2
    before = chunk_size if padding == "whole" else hop
    whole = (num_chunks(length, chunk_size, padding) + 1) * hop
    return F.pad(frames, (before, whole - before - length)).unfold(-1, chunk_size, hop)


def from_chunks(chunks: Tensor, length: int, padding: str) -> Tensor:
    """(B, D, J, K) -> (B, D, L), the sum of the two chunks that every frame is in."""
    size, hop = chunks.shape[-1], chunks.shape[-1] // 2
    first, second = (half.flatten(-2) for half in chunks.split(hop, -1))  # (B, D, J*K/2)
    whole = F.pad(first, (0, hop)) + F.pad(second, (hop, 0))
    before = size if padding == "whole" else hop
    return whole[..., before : before + length]


def within_chunks(path: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(B, D, J, K) -> the same; `path` maps (rows, steps, D) to the same and sees the frames of one chunk."""
    batch, dim, count, size = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch * count, size, dim)
    return path(rows).view(batch, count, size, dim).permute(0, 3, 1, 2)


def across_chunks(path: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(B, D, J, K) -> the same; `path` maps (rows, steps, D) to the same and sees the k-th frames of all chunks."""
    batch, dim, count, size = x.shape
    rows = x.permute(0, 3, 2, 1).reshape(batch * size, count, dim)
    return path(rows).view(batch, size, count, dim).permute(0, 3, 2, 1)


class MaskHead(nn.Module):
    """Chunks to the sources' masks: features for each source, overlap-add, a gate, and a map to the filters.

    Args:
        num_filters: 0: there is no such map, the gated features are what is masked with.
        padding: of the chunks.
        average: the mean of overlapping chunks instead of their sum.
        mask: sigmoid or relu.
    """

    def __init__(
        self, num_sources: int, dim: int, num_filters: int, padding: str, mask: str = "relu", average: bool = False
    ):
        super().__init__()
        check_mask(mask)
        self.num_sources, self.padding, self.mask, self.average = num_sources, padding, mask, average
        self.act = nn.PReLU()
        self.source_conv = nn.Conv2d(dim, num_sources * dim, 1)
        self.output_conv = nn.Conv1d(dim, dim, 1)
        self.gate_conv = nn.Conv1d(dim, dim, 1)
        self.mask_conv = nn.Conv1d(dim, num_filters, 1, bias=False) if num_filters else nn.Identity()

    def forward(self, chunks: Tensor, length: int) -> Tensor:
        """(B, D, J, K) -> masks (B, S, N, L)."""
        x = self.source_conv(self.act(chunks)).unflatten(1, (self.num_sources, -1))  # (B, S, D, J, K)
        x = from_chunks(x.flatten(0, 1), length, self.padding)  # (B*S, D, L)
        x = x / 2 if self.average else x
        x = self.output_conv(x).tanh() * self.gate_conv(x).sigmoid()
        masks = MASKS[self.mask](self.mask_conv(x))
        return masks.unflatten(0, (-1, self.num_sources))
