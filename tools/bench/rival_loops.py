"""How other programs cut a song into chunks and put it together again: re-created from what they do, for comparison.

Each takes a network, (B, C, K) -> (B, S, C, K), and a song (C, L), and gives (S, C, L), faults included:

    predecessor      DrumToMIDI's MDX23C loop, which this project's separator began with
    audio_separator  python-audio-separator 0.47 for TFC-TDF networks, and Ultimate Vocal Remover 5.6
    msst             Music-Source-Separation-Training's `demix`
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tse_lib.models import tfc_tdf

Network = Callable[[Tensor], Tensor]


def predecessor(network: Network, song: Tensor, chunk: int, overlap: int, batch_size: int = 1) -> Tensor:
    """Chunks from 0 on, one at a time, as many as fit; plain mean. What lies after the last one is 0 / 0."""
    hop, size = chunk // overlap, song.shape[-1]
    total = count = torch.zeros(())
    for start in range(0, max(size - chunk, 0) + 1, hop):
        output = network(F.pad(song[:, start : start + chunk], (0, max(0, chunk - size)))[None])[0]
        if not count.ndim:
            total = output.new_zeros(*output.shape[:2], max(size, chunk))
            count = torch.zeros_like(total)
        total[..., start : start + chunk] += output
        count[..., start : start + chunk] += 1
    return (total / count)[..., :size]


def audio_separator(network: Network, song: Tensor, chunk: int, overlap: int, batch_size: int = 1) -> Tensor:
    """Zeros around the song, so that its norms hear silence at both ends; the sum over `overlap`."""
    hop, size = chunk // overlap, song.shape[-1]
    border = chunk - hop
    tail = hop - (size + border) % hop
    padded = F.pad(song, (border, border + tail))
    starts = list(range(0, padded.shape[-1] - chunk + 1, hop))
    total = torch.zeros(())
    for first in range(0, len(starts), batch_size):
        some = starts[first : first + batch_size]
        for start, output in zip(some, network(torch.stack([padded[:, at : at + chunk] for at in some])), strict=True):
            if not total.ndim:
                total = output.new_zeros(*output.shape[:2], padded.shape[-1])
            total[..., start : start + chunk] += output
    return (total / overlap)[..., border : border + size]


def msst(network: Network, song: Tensor, chunk: int, overlap: int, batch_size: int = 1) -> Tensor:
    """Mirrored ends where the song is long enough; linear fades of a tenth of a chunk, left out at the ends of a batch.

    The last overlap - 1 chunks see padding only, and the window of a whole batch is that of one of its chunks.
    """
    hop, size, fade = chunk // overlap, song.shape[-1], chunk // 10
    border = chunk - hop
    mirrored = size > 2 * border > 0
    padded = F.pad(song[None], (border, border), mode="reflect")[0] if mirrored else song
    length = padded.shape[-1]
    window = torch.ones(chunk)
    window[:fade], window[-fade:] = torch.linspace(0, 1, fade), torch.linspace(1, 0, fade)
    total = count = torch.zeros(())
    some: list[tuple[int, int]] = []  # where chunks lie and how much of each is song
    parts: list[Tensor] = []
    start = 0
    while start < length:
        part = padded[:, start : start + chunk]
        valid = part.shape[-1]
        if valid < chunk:
            mode = "reflect" if valid > chunk // 2 else "constant"
            part = F.pad(part[None], (0, chunk - valid), mode=mode)[0]
        parts.append(part)
        some.append((start, valid))
        start += hop
        if len(parts) < batch_size and start < length:
            continue
        outputs, own = network(torch.stack(parts)), window.clone()
        if start - hop == 0:
            own[:fade] = 1
        elif start >= length:
            own[-fade:] = 1
        if not total.ndim:
            total = outputs.new_zeros(*outputs.shape[1:3], length)
            count = torch.zeros_like(total)
        for (at, valid), output in zip(some, outputs, strict=True):
            total[..., at : at + valid] += output[..., :valid] * own[:valid]
            count[..., at : at + valid] += own[:valid]
        some, parts = [], []
    result = torch.nan_to_num(total / count, 0.0)
    return result[..., border : border + size] if mirrored else result


LOOPS = {"predecessor": predecessor, "audio_separator": audio_separator, "msst": msst}


def compute_as_published() -> None:
    """Have our network of MDX23C do nothing in place, in this process: as theirs, the same numbers with more memory."""

    def norm_act_conv(self: tfc_tdf.NormActConv, x: Tensor) -> Tensor:
        return self.conv(tfc_tdf.ACTS[self.act](self.norm(x)))

    def block(self: tfc_tdf.TFCTDFBlock, x: Tensor) -> Tensor:
        y = self.tfc1(x)
        y = y + self.expand(self.squeeze(y))
        return self.tfc2(y) + self.shortcut(x)

    tfc_tdf.NormActConv.forward = norm_act_conv  # type: ignore[method-assign]
    tfc_tdf.TFCTDFBlock.forward = block  # type: ignore[method-assign]
