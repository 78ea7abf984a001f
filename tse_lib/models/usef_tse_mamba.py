"""USEF-TSE-Mamba v7: extraction of waveforms by a U-Net of Mambas (github.com/HailongDing/USEF-TSE-Mamba-v7-2, 2025).

Idea: SepMamba's U-Net (sepmamba.py) with each frame of the mixture asking the enrolment's frames what the target sounds
like where the rate is lowest, as USEF does (Zeng and Li 2024, arXiv 2409.02615).

    mixture (B,C,T) -> (B*C,1,T) -down-> D at T/2 -down-> 2*D at T/4 -down-> 4*D at T/8 -attention, fusion-> 4*D at T/8
                                         |skip            |skip                 |asks                        |
        (B,1,C,T) <-decoder-  D at T/2 <-up-  2*D at T/4      <-up--------------|----------------------------+
    enroll (B,E,T_e) -down-> -down-> -down-> frames (B,L_e,4*D)-----------------+

Each step down is convolution, batch norm, SiLU, Mambas, norm; each step up is transposed convolution, batch norm, SiLU,
skip joined, 1x1 convolution, batch norm, SiLU, Mambas, a gate between what they see and what they say, norm. The Mambas
go forwards in time only. `every_level: true` attends and fuses at every rate, and the skips are what was fused.

The defaults are the published 8 kHz network, of 27,558,531 parameters. What differs from the original:
- it adds learned positions to mixture and enrolment, to each only if it has no more frames than there are positions
  (5 s at 8 kHz), so that a longer signal looks different from its first frame on. Here a frame's position depends on
  nothing but its place, and frames behind the last position have none. `compat: true` computes what it computes;
- it cuts attention scores at 50, for which all of them must lie in memory; here that is done with `compat` only;
- frames of several enrolments are attended to together, each with positions of its own; padding is masked and, in
  training, left out of the batch's statistics; channels are extracted one by one;
- an estimate is as long as the mixture, where the original's may have a sample more;
- the weights begin as torch and Mamba have them; its training draws all anew, Mamba's step sizes included.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.filterbank import checked_steps, full_precision
from tse_lib.nn.mamba import MambaStack

ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU, "mish": nn.Mish, "prelu": nn.PReLU}


def num_frames(sizes: Tensor, kernel: int, stride: int) -> Tensor:
    """How many frames so many samples become in a step down; none, where there are none."""
    return torch.where(sizes > 0, (sizes + 2 * (kernel // 2) - kernel) // stride + 1, 0)


def mask_of(sizes: Tensor | None, like: Tensor) -> Tensor | None:
    """(rows, L), true for the first `sizes` (rows,) frames of `like` (rows, D, L); None: all are whole."""
    return None if sizes is None else (torch.arange(like.shape[-1]) < sizes[:, None]).to(like.device)


def normalised(norm: nn.BatchNorm1d, x: Tensor, valid: Tensor | None) -> Tensor:
    """Batch norm of x (rows, D, L); in training its statistics are those of the frames that are `valid` (rows, L)."""
    if valid is None or not norm.training:
        return norm(x)
    kept = norm(x.mT[valid])  # (frames, D)
    y = kept.new_zeros(x.mT.shape)
    y[valid] = kept
    return y.mT


class Mambas(nn.Module):
    """Forwards in time: (rows, D, L) -> the same. `recompute`: in the backward pass, instead of keeping activations."""

    def __init__(self, dim: int, num_blocks: int, recompute: bool):
        super().__init__()
        self.recompute = recompute
        self.stack = MambaStack(dim, num_blocks, nn.LayerNorm, causal=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.recompute and self.training:
            return checkpoint(self.stack, x.mT, use_reentrant=False).mT
        return self.stack(x.mT).mT


class Down(nn.Module):
    """(rows, D, T) -> (rows, D', L), L as `num_frames` says."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, num_blocks: int, act: str, recompute: bool):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv1d(in_dim, dim, kernel, stride, kernel // 2)
        self.norm = nn.BatchNorm1d(dim)
        self.act = ACTIVATIONS[act]()
        self.mamba = Mambas(dim, num_blocks, recompute)
        self.out_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """`sizes` (rows,): frames of samples behind these come out as zeros, as the next convolution pads them."""
        with full_precision(x):  # the first one's input is a wave
            x = self.conv(x.to(self.conv.weight.dtype))
        valid = mask_of(None if sizes is None else num_frames(sizes, self.kernel, self.stride), x)
        x = self.mamba(self.act(normalised(self.norm, x, valid)))
        x = self.out_norm(x.mT).mT
        return x if valid is None else x * valid[:, None]


class Up(nn.Module):
    """x (rows, D', L) and a skip (rows, D, T) -> (rows, D, T)."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, num_blocks: int, act: str, recompute: bool):
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_dim, dim, kernel, stride, kernel // 2, stride - 1)
        self.norm = nn.BatchNorm1d(dim)
        self.act = ACTIVATIONS[act]()
        self.fusion = nn.Conv1d(2 * dim, dim, 1)
        self.fusion_norm = nn.BatchNorm1d(dim)
        self.fusion_act = ACTIVATIONS[act]()
        self.mamba = Mambas(dim, num_blocks, recompute)
        self.gate = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.LayerNorm(dim), nn.SiLU(), nn.Linear(dim, dim), nn.Sigmoid()
        )
        self.out_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))[..., : skip.shape[-1]]  # never shorter
        x = self.fusion_act(self.fusion_norm(self.fusion(torch.cat([skip, x], 1))))
        before, after = x.mT, self.mamba(x).mT
        gate = self.gate(torch.cat([after, before], -1))
        return self.out_norm(gate * before + (1 - gate) * after).mT


class CrossAttention(nn.Module):
    """What frames (rows, L, D) find in a source (rows, L_e, D), with the normalised frames added: (rows, L, D)."""

    def __init__(self, dim: int, num_heads: int, num_positions: int, dropout: float, compat: bool):
        super().__init__()
        self.num_heads, self.dropout, self.compat = num_heads, dropout, compat
        self.positions = nn.Parameter(0.01 * torch.randn(num_positions, dim))
        self.query_norm = nn.LayerNorm(dim)
        self.source_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def placed(self, frames: Tensor, valid: Tensor | None = None) -> Tensor:
        """frames (rows, L, D), `valid` (rows, L) where they are padded, with positions added."""
        size, known = frames.shape[1], len(self.positions)
        positions = F.pad(self.positions[:size], (0, 0, 0, max(0, size - known)))
        if self.compat:  # all or none
            positions = positions * (size <= known if valid is None else (valid.sum(1) <= known)[:, None, None])
        return frames + positions

    def forward(self, frames: Tensor, source: Tensor, valid: Tensor | None) -> Tensor:
        """Of `source`, which is `placed` already, only what is `valid` (rows, L_e) counts."""
        frames, source = self.query_norm(self.placed(frames)), self.source_norm(source)
        query, key, value = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (rows, H, L, D/H)
            for x in (self.query(frames), self.key(source), self.value(source))
        )
        taken = None if valid is None else valid[:, None, None]
        dropout = self.dropout if self.training else 0.0
        if self.compat:
            scores = (query @ key.mT / math.sqrt(query.shape[-1])).clamp(-50, 50)
            scores = scores if taken is None else scores.masked_fill(~taken, torch.finfo(scores.dtype).min)
            attended = F.dropout(scores.softmax(-1), dropout) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, taken, dropout)
        return frames + self.proj(attended.transpose(1, 2).flatten(2))


class Fusion(nn.Module):
    """Frames x (rows, D, L) and what they found, y (rows, D, L): a weighted sum and a map of both -> (rows, D, L)."""

    def __init__(self, dim: int):
        super().__init__()
        self.weigh = nn.Sequential(nn.Conv1d(2 * dim, dim, 1), nn.SiLU(), nn.Conv1d(dim, 2, 1), nn.Softmax(1))
        self.mix = nn.Sequential(
            nn.Conv1d(2 * dim, dim, 1), nn.BatchNorm1d(dim), nn.SiLU(), nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        both = torch.cat([x, y], 1)
        weights = self.weigh(both)  # (rows, 2, L)
        return self.norm((x * weights[:, :1] + y * weights[:, 1:] + self.mix(both)).mT).mT


class USEFTSEMamba(nn.Module):
    """The extractor (see the head of this file).

    Args:
        dim: features D after the first convolution; each further one doubles them.
        kernel_sizes, strides: of the convolutions down, the first first; those up have them in reverse.
        num_blocks: Mambas at each of the steps.
        activation: of ACTIVATIONS.
        every_level: attend to the enrolment at every rate, at the first with half as many heads.
        num_heads, num_positions: of the attention.
        dropout: of its weights, while training.
        compat: positions and scores as the original has them.
        gradient_checkpointing: recompute the Mambas in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        dim: int = 128,
        kernel_sizes: tuple[int, ...] = (16, 16, 16),
        strides: tuple[int, ...] = (2, 2, 2),
        num_blocks: int = 6,
        activation: str = "silu",
        every_level: bool = False,
        num_heads: int = 8,
        num_positions: int = 5000,
        dropout: float = 0.1,
        compat: bool = False,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.steps = checked_steps(kernel_sizes, strides)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: '{activation}' is none of {', '.join(ACTIVATIONS)}")
        dims = [1, *(dim * 2**number for number in range(len(kernel_sizes)))]
        last = len(kernel_sizes) - 1
        heads = {level: num_heads // 2 if every_level and level == 0 else num_heads for level in range(last + 1)}
        levels = list(heads) if every_level else [last]
        for level in levels:
            if heads[level] < 1 or dims[level + 1] % heads[level]:
                raise ValueError(f"dim {dim}: {dims[level + 1]} features do not divide into {heads[level]} heads")
        more = (num_blocks, activation, gradient_checkpointing)
        sizes = list(zip(dims, dims[1:], kernel_sizes, strides, strict=False))
        self.down = nn.ModuleList(Down(*size, *more) for size in sizes)
        self.attention = nn.ModuleDict(
            {str(i): CrossAttention(dims[i + 1], heads[i], num_positions, dropout, compat) for i in levels}
        )
        self.fusion = nn.ModuleDict({str(level): Fusion(dims[level + 1]) for level in levels})
        self.up = nn.ModuleList(Up(high, low, k, s, *more) for low, high, k, s in reversed(sizes[1:]))
        kernel, stride = kernel_sizes[0], strides[0]
        self.decoder = nn.ConvTranspose1d(dim, dim // 2, kernel, stride, kernel // 2, stride - 1)
        self.decoder_norm = nn.BatchNorm1d(dim // 2)
        self.decoder_act = ACTIVATIONS[activation]()
        self.output = nn.Conv1d(dim // 2, 1, 1)

    def encode(self, enroll: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Enrolments to a condition: plain tensors that can be kept for a long file or saved as a profile.

        Args:
            enroll: (B, E, T_e), zero-padded.
            lengths: (B, E) samples of each, on the CPU; 0 for an enrolment that is not there. None: all whole.

        Returns:
            {"frames_<level>": (B, L_e, D)} of each level that is attended to: features of all E enrolments one after
            the other, with positions; with "valid_<level>" (B, L_e), false for padding, where their lengths differ.
        """
        batch, count, size = enroll.shape
        x = enroll.reshape(batch * count, 1, size)
        sizes = None if lengths is None or bool((lengths == size).all()) else lengths.reshape(-1)
        valid, condition = mask_of(sizes, x), {}
        x = x if valid is None else x.where(valid[:, None], 0)
        for level, (down, step) in enumerate(zip(self.down, self.steps, strict=True)):
            x = down(x, sizes)
            sizes = None if sizes is None else num_frames(sizes, *step)
            valid = mask_of(sizes, x)
            if str(level) in self.attention:
                frames = self.attention[str(level)].placed(x.mT, valid)  # type: ignore[operator]
                condition[f"frames_{level}"] = frames.reshape(batch, -1, frames.shape[-1])
                if valid is not None:
                    condition[f"valid_{level}"] = valid.reshape(batch, -1)
        return condition

    def forward(self, mixture: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """mixture (B, C, T), condition of `encode` -> estimate (B, 1, C, T). Channels are extracted one by one."""
        batch, channels, size = mixture.shape
        if channels > 1:
            condition = {key: value.repeat_interleave(channels, 0) for key, value in condition.items()}
        waves = self.waves(mixture.reshape(batch * channels, 1, size), condition)
        return waves[..., :size].view(batch, 1, channels, size)

    def waves(self, mixture: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """(rows, 1, T) -> (rows, 1, T or more), as the last convolution leaves it."""
        x, skips = mixture, []
        for level, down in enumerate(self.down):
            x = down(x)
            skips.append(x)
            if (name := str(level)) in self.attention:
                source, valid = condition[f"frames_{level}"], condition.get(f"valid_{level}")
                skips[-1] = self.fusion[name](x, self.attention[name](x.mT, source, valid).mT)
        x = skips.pop()
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(x, skip)
        with full_precision(x):
            x = self.decoder(x.to(self.decoder.weight.dtype))
            return self.output(self.decoder_act(self.decoder_norm(x)))
