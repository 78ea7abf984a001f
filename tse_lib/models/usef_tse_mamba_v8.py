"""USEF-TSE-Mamba v8: the bidirectional successor of v7 (usef_tse_mamba.py), for long mixtures at 16 kHz.

Idea: v7's U-Net of Mambas, whose states also come from the future, and whose first convolution strides so far that 10 s
are affordable. The plans for it are v7's authors' (github.com/HailongDing/USEF-TSE-Mamba-v7-2); the network is ours.

    mixture (B,C,T) -> (B*C,1,T) -down-> D at T/8 -down-> 2*D at T/16 -down-> 4*D at T/32 -attention-> 4*D at T/32
                                          |skip            |skip                            |asks       |
        (B,1,C,T) <-decoder- D at T/8 <-up- 2*D at T/16   <-up--------------------------------------------+
    enroll (B,E,T_e) -strided convolutions-> D_e at T_e/32 -Mambas-> frames (B,L_e,D_e)

Each step down is convolution, SiLU, Mambas; each step up is transposed convolution, SiLU, skip joined, 1x1 convolution,
SiLU, Mambas. The Mambas are pre-norm layers forwards in time and others backwards (SepMamba, arXiv 2410.20997); `merge`
says how the two become one. The waveform comes out directly, without spectrum or mask.

Whom to extract: the enrolment has an encoder of its own whose Mambas run at the lowest rate only. With
`cross_attention` each frame of the mixture asks the enrolment's frames at the lowest rate (USEF, arXiv 2409.02615);
without it the frames' mean scales and shifts the features after each step down (FiLM), and what a condition takes does
not grow with the enrolment.

What else is not as in v7, and why:
- no batch norm: statistics of two items are noise, and mixtures and enrolments shared them. Signals are brought to an
  RMS of 1 instead, and the estimate back, so that a network knows no absolute level;
- no gates around the Mambas, which have residual paths of their own;
- convolutions are padded so that each step's frames are a whole share of those before: a stride of S in all makes one
  frame of the lowest rate of each S samples.

`causal: true`: Mambas forwards only, levels by what was heard so far, convolutions that look back. An output sample
hears all before it and the rest of its own block of S samples, 2 ms at 16 kHz, and nothing behind. The enrolment is
known beforehand and heard in both directions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.conditioning import UsefAttention
from tse_lib.nn.enrolment import frames_of_each
from tse_lib.nn.filterbank import checked_steps, full_precision
from tse_lib.nn.mamba import MambaStack

MERGES = ("mean", "sum", "concat")
LEAST_POWER = 1e-8  # of a signal whose level is made 1: -80 dBFS


class Mambas(nn.Module):
    """(rows, D, L) -> the same, both directions merged into one."""

    def __init__(self, dim: int, num_blocks: int, merge: str, causal: bool = False):
        super().__init__()
        self.stack = MambaStack(
            dim, num_blocks, nn.LayerNorm, causal=causal, merge="cat" if merge == "concat" else "sum"
        )
        self.join = nn.Linear(2 * dim, dim) if merge == "concat" and not causal else nn.Identity()
        self.scale = 0.5 if merge == "mean" and not causal else 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.join(self.stack(x.mT)).mT


class Down(nn.Module):
    """(rows, D, T) -> (rows, D', T/stride); T is a multiple of the stride."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, causal: bool):
        super().__init__()
        ahead = 0 if causal else (kernel - stride) // 2
        self.padding = (kernel - stride - ahead, ahead)
        self.conv = nn.Conv1d(in_dim, dim, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):  # the first one's input is a wave
            return F.silu(self.conv(F.pad(x.to(self.conv.weight.dtype), self.padding)))


class Up(nn.Module):
    """x (rows, D', L) and a skip (rows, D, L * stride) -> (rows, D, L * stride)."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, causal: bool):
        super().__init__()
        self.begin = 0 if causal else (kernel - stride) // 2
        self.conv = nn.ConvTranspose1d(in_dim, dim, kernel, stride)
        self.fusion = nn.Conv1d(2 * dim, dim, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.silu(self.conv(x))[..., self.begin : self.begin + skip.shape[-1]]
        return F.silu(self.fusion(torch.cat([skip, x], 1)))


class LevelFilm(nn.Module):
    """Features x (rows, D, L), scaled and shifted by a vector (rows, D_e) (Perez et al. 2018)."""

    def __init__(self, enroll_dim: int, dim: int):
        super().__init__()
        self.proj = nn.Linear(enroll_dim, 2 * dim)

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        scale, shift = self.proj(speaker)[..., None].chunk(2, 1)  # (rows, D, 1) each
        return (1 + scale) * x + shift


class Enrolment(nn.Module):
    """(rows, T_e) -> frames (rows, L_e, D_e): convolutions down to the lowest rate, Mambas only there."""

    def __init__(self, dim: int, steps: list[tuple[int, int]], num_blocks: int, merge: str):
        super().__init__()
        dims = [1] + [dim] * len(steps)
        self.down = nn.ModuleList(Down(low, dim, k, s, causal=False) for low, (k, s) in zip(dims, steps, strict=False))
        self.mambas = Mambas(dim, num_blocks, merge)
        self.norm = nn.LayerNorm(dim)
        self.block = math.prod(stride for _, stride in steps)

    def forward(self, waves: Tensor) -> Tensor:
        x = filled(waves, self.block)
        x = (x * level_gain(x, x.shape[-1]))[:, None]
        for down in self.down:
            x = down(x)
        return self.norm(self.mambas(x).mT)


def filled(waves: Tensor, block: int) -> Tensor:
    """(…, T), with zeros at the end to a multiple of `block`."""
    return F.pad(waves, (0, -waves.shape[-1] % block))


def level_gain(waves: Tensor, block: int) -> Tensor:
    """(rows, T) -> (rows, T): what makes the RMS 1 of all up to the end of a sample's block; T is a multiple of it."""
    power = waves.unflatten(-1, (-1, block)).square().mean(-1)  # (rows, T/block)
    heard = power.cumsum(-1) / torch.arange(1, power.shape[-1] + 1, device=power.device)
    return (heard + LEAST_POWER).rsqrt().repeat_interleave(block, -1)


class USEFTSEMambaV8(nn.Module):
    """The extractor (see the head of this file).

    Args:
        dim: features D after the first convolution; each further one doubles them.
        kernel_sizes, strides: of the convolutions down, the first first; those up have them in reverse.
        num_blocks: Mambas in each direction at each of the steps.
        merge: of the directions: their mean, their sum, or both joined and mapped back (concat).
        cross_attention: each frame asks the enrolment's; false: the enrolment's mean scales and shifts every level.
        num_heads: of the attention.
        enroll_dim, enroll_blocks: features D_e of the enrolment's encoder, and its Mambas in each direction.
        causal: nothing behind a block of prod(strides) samples is heard in it.
        gradient_checkpointing: recompute each step's Mambas in the backward pass instead of keeping activations.
    """

    def __init__(
        self,
        dim: int = 192,
        kernel_sizes: tuple[int, ...] = (32, 8, 8),
        strides: tuple[int, ...] = (8, 2, 2),
        num_blocks: int = 2,
        merge: str = "mean",
        cross_attention: bool = True,
        num_heads: int = 8,
        enroll_dim: int = 256,
        enroll_blocks: int = 2,
        causal: bool = False,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        steps = checked_steps(kernel_sizes, strides)
        if merge not in MERGES:
            raise ValueError(f"merge: '{merge}' is none of {', '.join(MERGES)}")
        dims = [1, *(dim * 2**number for number in range(len(steps)))]
        if cross_attention and dims[-1] % num_heads:
            raise ValueError(f"dim {dim}: {dims[-1]} features do not divide into {num_heads} heads")
        self.block, self.causal, self.gradient_checkpointing = math.prod(strides), causal, gradient_checkpointing
        sizes = [(low, high, *step) for low, high, step in zip(dims, dims[1:], steps, strict=False)]

        def mambas(features: int) -> Mambas:
            return Mambas(features, num_blocks, merge, causal)

        self.enrolment = Enrolment(enroll_dim, steps, enroll_blocks, merge)
        self.down = nn.ModuleList(Down(*size, causal) for size in sizes)
        self.down_mambas = nn.ModuleList(mambas(size) for size in dims[1:])
        self.up = nn.ModuleList(Up(high, low, k, s, causal) for low, high, k, s in reversed(sizes[1:]))
        self.up_mambas = nn.ModuleList(mambas(size) for size in reversed(dims[1:-1]))
        if cross_attention:
            self.to_frames = nn.Linear(enroll_dim, dims[-1])
            self.attention = UsefAttention(dims[-1], num_heads)
        self.films = nn.ModuleList(LevelFilm(enroll_dim, size) for size in dims[1:] if not cross_attention)
        self.begin = 0 if causal else (kernel_sizes[0] - strides[0]) // 2
        self.decoder = nn.ConvTranspose1d(dim, 1, kernel_sizes[0], strides[0], bias=False)

    def encode(self, enroll: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Enrolments to a condition: plain tensors that can be kept for a long file or saved as a profile.

        Args:
            enroll: (B, E, T_e), zero-padded.
            lengths: (B, E) samples of each, on the CPU; 0 for an enrolment that is not there. None: all whole.

        Returns:
            With cross-attention {"frames": (B, L_e, 4*D)}, of all E enrolments one after the other, and where their
            lengths differ "valid" (B, L_e), false for padding. Without it {"embedding": (B, D_e)}, the frames' mean.
        """
        frames, valid = frames_of_each(self.enrolment, enroll, lengths)
        if not self.films:
            condition = {"frames": self.to_frames(frames)}
            return condition if valid is None else condition | {"valid": valid}
        if valid is None:
            return {"embedding": frames.mean(1)}
        weight = valid.to(frames.dtype)[..., None]
        return {"embedding": (frames * weight).sum(1) / weight.sum(1)}

    def forward(self, mixture: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """mixture (B, C, T), condition of `encode` -> estimate (B, 1, C, T). Channels are extracted one by one."""
        batch, channels, size = mixture.shape
        if channels > 1:
            condition = {key: value.repeat_interleave(channels, 0) for key, value in condition.items()}
        waves = filled(mixture.reshape(batch * channels, size), self.block)
        gain = level_gain(waves, self.block if self.causal else waves.shape[-1])
        x, skips = (waves * gain)[:, None], []
        for level, (down, mambas) in enumerate(zip(self.down, self.down_mambas, strict=True)):
            x = self._run(mambas, down(x))
            if self.films:
                x = self.films[level](x, condition["embedding"])
            skips.append(x)
        x = skips.pop()
        if not self.films:
            x = self.attention(x.mT[:, :, None], condition["frames"][:, :, None], condition.get("valid"))[:, :, 0].mT
        for up, mambas, skip in zip(self.up, self.up_mambas, reversed(skips), strict=True):
            x = self._run(mambas, up(x, skip))
        with full_precision(x):
            x = self.decoder(x.to(self.decoder.weight.dtype))[:, 0, self.begin : self.begin + waves.shape[-1]]
            return (x / gain)[:, :size].view(batch, 1, channels, size)

    def _run(self, mambas: nn.Module, x: Tensor) -> Tensor:
        if self.training and self.gradient_checkpointing:
            return checkpoint(mambas, x, use_reentrant=False)
        return mambas(x)
