"""SpEx+: extraction on learned filters of three lengths, shared by both inputs (Ge et al. 2020, arXiv 2005.04686).

Idea: mixture and enrolment go through the same filters, so that what the speaker encoder learns of a voice is told in
the terms of what it has to be found in. Short, middle and long filters start at the same samples; each scale has a mask
and a decoder of its own, of which the short one's output is the estimate and the others train.

    enroll (B,E,T_e) -encoders-> (B*E,3N,L_e) -norm, 1x1, 3 blocks that pool 3 frames, 1x1, mean-> embedding (B,D)
    mixture (B,C,T) -encoders-> (B*C,3N,L) -norm, 1x1-> (B*C,H',L) -[block] x (X*R)-> masks 3 x (B*C,N,L)
                           estimate (B,1,C,T) <-decoder of the short filters- mask x frames of the short filters

The first block of each of the R repeats gets the embedding beside every frame; the others are Conv-TasNet's.

Letters: L frames, N filters of a scale, D embedding, H' bottleneck, X blocks a repeat, R repeats.

The defaults are the published network: 11,138,734 parameters, of which 25,957 classify the 101 talkers of WSJ0-2mix
(`speaker_logits`), an auxiliary task of training. What differs, unless `compat: true`:
- enrolments are averaged over their own frames; in the original the padding of a batch counts in the sum;
- a mixture is padded to whole frames; the original leaves up to stride - 1 samples at its end silent.
What is never as there: the original fails on a batch of one, and on enrolments of less than 27 frames (0.035 s), which
are repeated here. Batch norms of the speaker encoder make an item's gradient depend on the others of its batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tse_lib.nn.enrolment import each_at_its_length, mean_of_present, means, pack, sizes_of
from tse_lib.nn.filterbank import MASKS, check_mask, full_precision
from tse_lib.nn.tcn import FrameNorm, TCNBlock, check_norm

EPS = 1e-5  # of all norms
POOLED = 27  # frames of an enrolment that become one: three blocks pool three


class ResidualBlock(nn.Module):
    """Two 1x1 convolutions around a residual, then the largest of every 3 frames: (B, D, L) -> (B, D', L // 3)."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.in_conv = nn.Conv1d(in_dim, out_dim, 1, bias=False)
        self.in_norm = nn.BatchNorm1d(out_dim)
        self.in_act = nn.PReLU()
        self.out_conv = nn.Conv1d(out_dim, out_dim, 1, bias=False)
        self.out_norm = nn.BatchNorm1d(out_dim)
        self.out_act = nn.PReLU()
        self.shortcut = nn.Conv1d(in_dim, out_dim, 1, bias=False) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.out_norm(self.out_conv(self.in_act(self.in_norm(self.in_conv(x)))))
        return F.max_pool1d(self.out_act(y + self.shortcut(x)), 3)


class SpExPlus(nn.Module):
    """The extractor (see the head of this file).

    Args:
        num_filters: N of each scale.
        kernel_sizes: of the scales, in samples, the shortest first.
        stride: of all, in samples.
        bottleneck_dim, hidden_dim: channels between blocks and inside one (B and H of the paper).
        conv_kernel_size, num_blocks, num_repeats: of the depthwise convolutions (P), X and R.
        embedding_dim: D.
        num_speakers: talkers of the training set, for `speaker_logits`.
        norm: of the blocks: gLN (the whole utterance), cLN (what was heard so far), LN (each frame) or BN (the batch).
        causal: the depthwise convolutions see the past only.
        mask: relu or sigmoid.
        compat: as published, where that is a fault, too (see above).
    """

    has_idle_parameters = True  # the other scales, the classifier

    def __init__(
        self,
        num_filters: int = 256,
        kernel_sizes: tuple[int, ...] | list[int] = (20, 80, 160),
        stride: int = 10,
        bottleneck_dim: int = 256,
        hidden_dim: int = 512,
        conv_kernel_size: int = 3,
        num_blocks: int = 8,
        num_repeats: int = 4,
        embedding_dim: int = 256,
        num_speakers: int = 101,
        norm: str = "gLN",
        causal: bool = False,
        mask: str = "relu",
        compat: bool = False,
    ):
        super().__init__()
        check_mask(mask)
        check_norm("norm", norm)
        if not 0 < stride <= kernel_sizes[0] or list(kernel_sizes) != sorted(kernel_sizes):
            raise ValueError(f"kernel_sizes {list(kernel_sizes)} must rise and stride {stride} be at most the first")
        self.kernel_sizes, self.stride, self.num_blocks = list(kernel_sizes), stride, num_blocks
        self.mask, self.compat = mask, compat
        all_filters, dim = len(kernel_sizes) * num_filters, embedding_dim
        self.encoders = nn.ModuleList(nn.Conv1d(1, num_filters, kernel, stride) for kernel in kernel_sizes)
        self.norm = FrameNorm(all_filters, EPS)
        self.bottleneck = nn.Conv1d(all_filters, bottleneck_dim, 1)
        sizes = (bottleneck_dim, hidden_dim, 0, conv_kernel_size)
        self.blocks = nn.ModuleList(
            TCNBlock(*sizes, 2**number, norm, causal, extra_dim=0 if number else dim, eps=EPS)
            for _ in range(num_repeats)
            for number in range(num_blocks)
        )
        self.mask_convs = nn.ModuleList(nn.Conv1d(bottleneck_dim, num_filters, 1) for _ in kernel_sizes)
        self.decoders = nn.ModuleList(nn.ConvTranspose1d(num_filters, 1, kernel, stride) for kernel in kernel_sizes)
        self.speaker_encoder = nn.Sequential(
            FrameNorm(all_filters, EPS),
            nn.Conv1d(all_filters, dim, 1),
            ResidualBlock(dim, dim),
            ResidualBlock(dim, 2 * dim),
            ResidualBlock(2 * dim, 2 * dim),
            nn.Conv1d(2 * dim, dim, 1),
        )
        self.classifier = nn.Linear(dim, num_speakers)

    # ------------------------------------------------------------------------------------------------- the contract

    def encode(self, enroll: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Enrolments to a condition.

        Args:
            enroll: (B, E, T_e), zero-padded.
            lengths: (B, E) samples of each, on the CPU; 0 for an enrolment that is not there. None: all whole.

        Returns:
            {"embedding": (B, D)}, the mean over the enrolments of an item.
        """
        rows, sizes = enroll.flatten(0, 1), sizes_of(enroll, lengths)
        if self.compat and set(sizes) != {enroll.shape[-1]}:
            vectors = self._sums_over_padding(rows, sizes)
        else:
            frames = each_at_its_length(lambda waves: torch.cat(self._frames(waves), 1), rows, sizes)
            packed, shares = pack(frames, POOLED)  # batch norms see frames of enrolments only
            vectors = means(self.speaker_encoder(packed), shares)
        return {"embedding": mean_of_present(vectors, lengths, len(enroll))}

    def forward(self, mixture: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """mixture (B, C, T), condition of `encode` -> estimate (B, 1, C, T). Channels are extracted one by one."""
        return self._estimates(mixture, condition, 1)

    def scales(self, mixture: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """The estimates of all scales, (B, 3, C, T), the shortest first: published training weighs them .8, .1, .1."""
        return self._estimates(mixture, condition, len(self.decoders))

    def speaker_logits(self, condition: dict[str, Tensor]) -> Tensor:
        """condition of `encode` -> (B, talkers it was trained with), for a cross-entropy beside the loss."""
        return self.classifier(condition["embedding"])

    # ------------------------------------------------------------------------------------------------------ the parts

    def _frames(self, waves: Tensor) -> list[Tensor]:
        """waves (B, T) -> (B, N, L) of each scale, never in half precision; their frames begin at the same samples."""
        beyond = max(0, waves.shape[-1] - self.kernel_sizes[0])  # of the first short frame
        end = (beyond if self.compat else beyond + self.stride - 1) // self.stride * self.stride - waves.shape[-1]
        with full_precision(waves):
            return [
                encoder(F.pad(waves[:, None], (0, end + kernel))).relu()
                for encoder, kernel in zip(self.encoders, self.kernel_sizes, strict=True)
            ]

    def _sums_over_padding(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """(B*E, T_e) -> (B*E, D) as published: the sum over all frames, of padding too, by the number of true ones."""
        frames = torch.cat(self._frames(rows), 1)
        sums = self.speaker_encoder(F.pad(frames, (0, max(0, POOLED - frames.shape[-1])))).sum(-1)
        counts = [max(1, ((size - self.kernel_sizes[0]) // self.stride + 1) // POOLED) for size in sizes]
        return sums / sums.new_tensor(counts)[:, None]

    def _estimates(self, mixture: Tensor, condition: dict[str, Tensor], count: int) -> Tensor:
        """(B, C, T) -> (B, count, C, T) of the first scales."""
        batch, channels, size = mixture.shape
        frames = self._frames(mixture.flatten(0, 1))
        x = self.bottleneck(self.norm(torch.cat(frames, 1)))  # (B*C, H', L)
        voice = condition["embedding"].repeat_interleave(channels, 0)[..., None].expand(-1, -1, x.shape[-1])
        for number, block in enumerate(self.blocks):
            residual, _ = block(x if number % self.num_blocks else torch.cat((x, voice), 1))
            x = x + residual
        estimates = []
        for mask_conv, decoder, own in list(zip(self.mask_convs, self.decoders, frames, strict=True))[:count]:
            masked = MASKS[self.mask](mask_conv(x)) * own
            with full_precision(masked):
                waves = decoder(masked.to(mixture.dtype))[:, 0]
            estimates.append(F.pad(waves, (0, size - waves.shape[-1])))  # padded only if compat, else cut
        return torch.stack(estimates, 1).view(batch, channels, count, size).transpose(1, 2)
