"""Long signals through a network: cut into overlapping chunks, run in batches, put together again, all of it streamed.

    blocks (C,n) -cut-> chunks (C,K) -batches through the model-> (S,C,K) -stitch-> -overlap_add-> blocks (S,C,n)

A signal of at most K samples is processed whole. A longer one in either of two ways:

- `overlap_count` 2 or more: a chunk begins every K // overlap_count samples. At both ends the signal is mirrored, so
  that every sample lies in `overlap_count` chunks, the first and the last too.
- `overlap_count` 1, tiling: neighbours share only `crossfade` of a chunk, over which one fades into the other. Nothing
  is mirrored: the first chunk begins with the signal, the last one is moved back to end with it. Fewer would not do.

Every step is a generator: memory depends on chunk and batch, not on the length.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from tqdm import tqdm

from tse_lib.config import Inference
from tse_lib.dsp.stft import istft

Block = TypeVar("Block", Tensor, np.ndarray)
Cut = tuple[Tensor, int, int]  # a chunk, how many of its first samples only help to hear the rest, and as of Output
Output = tuple[Tensor, int]  # a chunk and how many samples from its beginning on no later chunk will cover

RIDGE = 1e-3  # of `fit_level`: a source 30 dB below the mean is scaled half by itself, half as the sum
PROJECTED = 2048  # samples of the spectra by which `completed` deals out what is lacking
FRAME = 512  # samples of the spectra by which `align_channels` compares


def infer(
    model: nn.Module,
    mixture: Tensor,
    condition: dict[str, Tensor] | None,
    settings: Inference,
    sample_rate: int,
    progress: bool = False,
) -> Tensor:
    """`infer_blocks` of a signal in memory: (C, T) -> (S, C, T). `progress`: show a bar if it is cut into chunks."""
    blocks = infer_blocks(model, [mixture], condition, settings, sample_rate)
    seconds = mixture.shape[-1] / sample_rate
    if progress and seconds > settings.chunk_s:
        blocks = with_progress(blocks, "chunks", seconds, sample_rate)
    return torch.cat(list(blocks), -1)


def with_progress(blocks: Iterable[Block], name: str, seconds: float, sample_rate: int) -> Iterator[Block]:
    """Pass blocks (…, n) on behind a bar that counts seconds of audio and tells the time left."""
    told = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    with tqdm(total=seconds, desc=name, dynamic_ncols=True, bar_format=told) as bar:
        for block in blocks:
            yield block
            bar.update(min(block.shape[-1] / sample_rate, bar.total - bar.n))  # rounded, the sum may be above it


def infer_blocks(
    model: nn.Module,
    blocks: Iterable[Tensor],
    condition: dict[str, Tensor] | None,
    settings: Inference,
    sample_rate: int,
) -> Iterator[Tensor]:
    """Run a network over a signal of any length that comes in blocks.

    Neither batch size nor the blocks' lengths change the result beyond rounding. `settings.level`, `sum_to_mixture` and
    `stitch` count for separators only.

    Args:
        model: an extractor, (B, C, T) and condition -> (B, 1, C, T), or a separator, (B, C, T) -> (B, S, C, T).
        blocks: (C, n) at the model's rate and on its device.
        condition: of one item, the same for all chunks; None for a separator.
        settings: chunk, overlap, window and batch.
        sample_rate: the model's.

    Yields:
        (S, C, n), together as long as the blocks.

    Raises:
        ValueError: no samples, a chunk too short for its overlap, no overlap to stitch by, an output not finite.
    """
    chunk = round(settings.chunk_s * sample_rate)
    hop = hop_of(chunk, settings.overlap_count, settings.crossfade)
    outputs = run(processor(model, condition, settings), cut(blocks, chunk, hop), settings.batch_size)
    if settings.stitch and condition is None:
        outputs = stitch(outputs, hop)
    return overlap_add(outputs, hop, settings.window)


def hop_of(chunk: int, overlap_count: int, crossfade: float) -> int:
    """How many samples after another a chunk begins.

    Raises:
        ValueError: the chunk has too few samples.
    """
    hop = chunk // overlap_count if overlap_count > 1 else chunk - round(crossfade * chunk)
    if hop < 1:
        raise ValueError(f"a chunk of {chunk} samples cannot overlap {overlap_count} times; take a longer chunk_s")
    return hop


def processor(model: nn.Module, condition: dict[str, Tensor] | None, settings: Inference) -> Callable[[Tensor], Tensor]:
    """What is done to a batch of chunks by itself: (B, C, K) -> (B, S, C, K)."""
    model.eval()

    @torch.no_grad()
    def process(chunks: Tensor) -> Tensor:
        if condition is not None:
            repeated = {key: value.expand(len(chunks), *value.shape[1:]) for key, value in condition.items()}
            return model(chunks, repeated)
        estimates = model(chunks)
        silent = (chunks == 0).all(-1)[:, None, :, None]  # where networks that normalise divide by nothing
        estimates = torch.where(silent, 0, estimates)
        if settings.level == "mixture":
            estimates = fit_level(estimates, chunks)
        if settings.sum_to_mixture:
            estimates = completed(estimates, chunks)
        return align_channels(estimates) if settings.stitch else estimates

    return process


def cut(blocks: Iterable[Tensor], chunk: int, hop: int) -> Iterator[Cut]:
    """Blocks (C, n) to chunks (C, chunk); one of the whole signal if it is not longer than a chunk.

    Whether the chunks overlap several times or tile the signal follows from `hop`: above half a chunk they tile it.
    """
    blocks, count = iter(blocks), chunk // hop
    parts: list[Tensor] = []
    begin = size = 0  # the samples held: where they begin, how many they are
    ended, start = False, (1 - count) * hop
    while True:
        while not ended and begin + size <= max(start, 0) + chunk:  # one sample more tells that the signal goes on
            block = next(blocks, None)
            ended = block is None
            if block is not None:
                parts.append(block)
                size += block.shape[-1]
        if not size:
            raise ValueError("a signal without samples")
        end, held = begin + size, parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        if ended and end <= chunk:
            yield held, 0, end
            return
        if count == 1 and end <= start + chunk:
            yield held[:, -chunk:], start - (end - chunk), end - start
            return
        if start >= end:
            return
        at = torch.arange(start, start + chunk, device=held.device).abs()
        at = torch.where(at < end, at, 2 * (end - 1) - at)
        yield held[:, at - begin], 0, min(hop, end - start) if start >= 0 else 0
        start += hop
        keep = max(begin, start - chunk)  # the end is mirrored with these, or the last chunk moved back over them
        parts, begin, size = [held[:, keep - begin :]], keep, end - keep


def run(process: Callable[[Tensor], Tensor], chunks: Iterable[Cut], batch_size: int) -> Iterator[Output]:
    """Chunks (C, K) through `process`, (B, C, K) -> (B, S, C, K), in batches: outputs (S, C, K) one by one."""
    for batch, outputs in one_behind(started(process, chunks, batch_size)):
        if not outputs.isfinite().all():
            raise ValueError("the model's output is not finite; is the checkpoint a good one?")
        for output, (_, context, num_done) in zip(outputs, batch, strict=True):
            yield nn.functional.pad(output[..., context:], (0, context)) if context else output, num_done


def started(
    process: Callable[[Tensor], Tensor], chunks: Iterable[Cut], batch_size: int
) -> Iterator[tuple[list[Cut], Tensor]]:
    """Batches with their outputs, which a GPU may still be computing."""
    chunks = iter(chunks)
    while batch := list(islice(chunks, batch_size)):
        yield batch, process(torch.stack([wave for wave, _, _ in batch]))


def one_behind(batches: Iterable[tuple[list[Cut], Tensor]]) -> Iterator[tuple[list[Cut], Tensor]]:
    """Of a GPU's batches each only when the next one was started: looking at an output waits until it is there."""
    before = None
    for batch, outputs in batches:
        if not outputs.is_cuda:
            yield batch, outputs
            continue
        if before:
            yield before
        before = batch, outputs
    if before:
        yield before


def overlap_add(outputs: Iterable[Output], hop: int, window: str) -> Iterator[Tensor]:
    """Outputs (S, C, K) of `cut`'s chunks to blocks (S, C, n): every sample a mean by the chunks' windows there."""
    total = weight = shape = torch.empty(0)
    for output, num_done in outputs:
        if num_done == output.shape[-1] and not shape.numel():  # nothing overlaps with it
            yield output
            continue
        if not shape.numel():
            shape = window_of(output.shape[-1], hop, window).to(output)
            total, weight = torch.zeros_like(output), torch.zeros_like(shape)
        total, weight = total + output * shape, weight + shape
        if num_done:
            yield total[..., :num_done] / weight[:num_done]
        total, weight = (nn.functional.pad(sums[..., hop:], (0, hop)) for sums in (total, weight))


def window_of(chunk: int, hop: int, window: str) -> Tensor:
    """What each sample of a chunk counts beside those of other chunks, in double precision.

    window: `hann` cross-fades, `flat` is the plain mean. With `trapezoid` it is plain but for the first and the last
    tenth of a chunk, where a network hears least: they rise and fall in a line (as in
    Music-Source-Separation-Training). Where chunks tile the signal, all that concerns only what neighbours have in
    common. Where the number of those that overlap does not divide the chunk, its last samples count nothing, so that no
    sample is counted once more than others.
    """
    count = chunk // hop
    size = 2 * (chunk - hop) if count == 1 else hop * count  # of both slopes
    place = torch.arange(size, dtype=torch.float64) + 0.5
    shape = torch.ones_like(place)
    if window == "hann":  # without zeros at its ends, where it may be all that there is
        shape = torch.sin(torch.pi * place / max(1, size)).square()
    elif window == "trapezoid":
        slope = chunk / 10 if count > 1 else chunk - hop
        shape = (torch.minimum(place, size - place) / max(1, slope)).clamp_max(1)
    if count > 1:
        return nn.functional.pad(shape, (0, chunk - size))
    rise, fall = shape.split(chunk - hop) if size else (shape, shape)
    return torch.cat([rise, torch.ones(chunk - size, dtype=torch.float64), fall])


# ---------------------------------------------------------------------------------------- separators: order and level


def stitch(outputs: Iterable[Output], hop: int) -> Iterator[Output]:
    """Put the sources of each output (S, C, K) in the order of the one before: that of the closest waveforms.

    Compared is all that two consecutive chunks have in common, not only what is audible of both, by the sum of inner
    products: so sources that speak there decide, at whatever level, and the order of all is the best one, by the
    Hungarian method. It does not know voices: when two sources or more are silent throughout the common part, who of
    them comes next is anybody's guess. A longer `chunk_s` or a higher `overlap_count` bridges longer pauses.
    """
    before = None
    for output, num_done in outputs:
        if before is not None:
            if not before.shape[-1]:
                raise ValueError(
                    "overlap_count 1 leaves nothing by which to order the sources; take 2 or more, or a crossfade"
                )
            score = torch.einsum("sct,pct->sp", before, output[..., : before.shape[-1]])
            output = output[linear_sum_assignment(score.cpu().numpy(), maximize=True)[1]]
        before = output[..., hop:]
        yield output, num_done


def align_channels(estimates: Tensor) -> Tensor:
    """Give all channels of (B, S, C, K) one order of sources, where each was separated by itself.

    A channel is compared to those before by the cosines of magnitude spectra, which do not mind the delay and the
    difference in level from one microphone to another.
    """
    if estimates.shape[2] == 1:
        return estimates
    size = estimates.shape[-1]
    frames = nn.functional.pad(estimates, (0, -size % FRAME)).unflatten(-1, (-1, FRAME))
    spectra = nn.functional.normalize(torch.fft.rfft(frames).abs().flatten(3), dim=-1)  # (B, S, C, L*F)
    aligned = estimates.clone()
    for item, of_item in enumerate(spectra):
        known = of_item[:, 0]
        for channel in range(1, estimates.shape[2]):
            score = known @ of_item[:, channel].T
            order = linear_sum_assignment(score.cpu().numpy(), maximize=True)[1]
            aligned[item, :, channel] = estimates[item, order, channel]
            known = known + of_item[order, channel]
    return aligned


def completed(estimates: Tensor, mixture: Tensor) -> Tensor:
    """Deal out what the sum lacks of the mixture: (B, S, C, K), (B, C, K) -> (B, S, C, K), whose sum is the mixture.

    Each bin of a spectrogram goes to the sources by their power there (Wisdom et al., "Differentiable consistency
    constraints for improved deep speech enhancement", ICASSP 2019: a weighted projection).
    """
    batch, sources, channels, size = estimates.shape
    window = torch.hann_window(PROJECTED, dtype=mixture.dtype, device=mixture.device)
    lacking = mixture - estimates.sum(1)  # (B, C, K)
    all_waves = torch.cat([estimates, lacking[:, None]], 1).flatten(0, 2)
    spectra = torch.stft(all_waves, PROJECTED, PROJECTED // 4, window=window, pad_mode="constant", return_complex=True)
    spectra = spectra.unflatten(0, (batch, sources + 1, channels))  # (B, S+1, C, F, L)
    power = spectra[:, :-1].abs().square() + 1e-12
    dealt = power / power.sum(1, keepdim=True) * spectra[:, -1:]
    return estimates + istft(dealt.flatten(0, 2), window, PROJECTED // 4, size).view(estimates.shape)


def fit_level(estimates: Tensor, mixture: Tensor) -> Tensor:
    """Scale each source so that the sum fits the mixture best: (B, S, C, K), (B, C, K) -> (B, S, C, K).

    A network trained with SI-SDR gives sources at whatever level, and sign. The factors are those of least squares, for
    each chunk and channel; where a source is too quiet to tell (see RIDGE), it gets the factor that fits the plain sum.
    """
    waves = estimates.transpose(1, 2)  # (B, C, S, K)
    gram = (waves @ waves.mT).double()  # (B, C, S, S)
    wanted = (waves @ mixture[..., None]).double()  # (B, C, S, 1)
    power = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    of_sum = gram.sum((-2, -1), keepdim=True)
    common = torch.where(of_sum > 1e-6 * power, wanted.sum(-2, keepdim=True) / of_sum, 1.0)
    ridge = torch.where(power > 0, RIDGE * power, 1.0)  # silence keeps its level
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factors = torch.linalg.solve(gram + ridge * eye, wanted + ridge * common)  # (B, C, S, 1)
    return (waves * factors.to(waves)).transpose(1, 2)
