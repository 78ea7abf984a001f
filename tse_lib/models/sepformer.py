"""SepFormer: transformers within and across chunks, no recurrence at all (Subakan et al., 2021, arXiv 2010.13154).

Idea: the dual-path arrangement makes attention affordable over long signals, since each one sees a chunk or every K-th
frame; deep stacks of ordinary transformer layers on both axes then replace the LSTMs.

    mixture (B,C,T) -encoder, ReLU-> frames (B*C,N,L) -norm, 1x1-> (B*C,N,L) -chunks-> (B*C,N,J,K) -[block] x R-> head
                                  sources (B,S,C,T) <-decoder- mask x frames (B*C,S,N,L) <-overlap-add, gate, 1x1-

    block: x + norm(transformer within chunks), then x + norm(transformer across chunks)
    transformer: positions added, `num_layers` layers (norm, attention, +; norm, linear, ReLU, linear, +), norm

Letters: L frames, N filters, J chunks of K frames, R blocks.

The defaults are SpeechBrain's WSJ0Mix recipe, by the paper's authors: 25,679,361 parameters. What differs:
- positions are computed for as many steps as there are. SpeechBrain stores a table of 2500, which ends its networks at
  312 s of 8 kHz audio;
- a mixture is padded to whole frames; SpeechBrain leaves up to `stride - 1` samples at its end silent.
"""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.conditioning import Inject, as_it_is
from tse_lib.nn.dual_path import MaskHead, across_chunks, attend, check_chunks, to_chunks, within_chunks
from tse_lib.nn.filterbank import to_frames, to_waves


def positions(steps: int, dim: int, like: Tensor) -> Tensor:
    """Sinusoids (steps, dim) of geometric periods, sine and cosine interleaved (Vaswani et al. 2017)."""
    dtype = torch.promote_types(like.dtype, torch.float32)  # half precision cannot count to 2049
    rates = torch.exp(torch.arange(0, dim, 2, device=like.device, dtype=dtype) * (-math.log(10000) / dim))
    angles = torch.arange(steps, device=like.device, dtype=dtype)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1).to(like.dtype)


class Layer(nn.Module):
    """A transformer layer that normalises first: (rows, steps, D) -> the same."""

    def __init__(self, dim: int, ffn_dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.attn_norm = nn.LayerNorm(dim, 1e-6)
        self.attn = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.ffn_norm = nn.LayerNorm(dim, 1e-6)
        self.linear_in = nn.Linear(dim, ffn_dim)
        self.linear_out = nn.Linear(ffn_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(attend(self.attn, self.attn_norm(x)))
        y = self.dropout(self.linear_in(self.ffn_norm(x)).relu())
        return x + self.dropout(self.linear_out(y))


class Transformer(nn.Module):
    """Positions and layers: (rows, steps, D) -> the same."""

    def __init__(
        self, num_layers: int, dim: int, ffn_dim: int, num_heads: int, dropout: float, use_positions: bool,
        gradient_checkpointing: bool,
    ):  # fmt: skip
        super().__init__()
        self.use_positions, self.gradient_checkpointing = use_positions, gradient_checkpointing
        self.layers = nn.ModuleList(Layer(dim, ffn_dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        if self.use_positions:
            x = x + positions(x.shape[1], x.shape[2], x)
        recompute = self.training and self.gradient_checkpointing
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
        return self.norm(x)


class Block(nn.Module):
    """A transformer within chunks, then one across them: (B, N, J, K) -> the same."""

    def __init__(
        self, num_layers: int, dim: int, ffn_dim: int, num_heads: int, dropout: float, use_positions: bool,
        gradient_checkpointing: bool,
    ):  # fmt: skip
        super().__init__()
        options = (num_layers, dim, ffn_dim, num_heads, dropout, use_positions, gradient_checkpointing)
        self.intra = Transformer(*options)
        self.intra_norm = nn.GroupNorm(1, dim, 1e-8)
        self.inter = Transformer(*options)
        self.inter_norm = nn.GroupNorm(1, dim, 1e-8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.intra_norm(within_chunks(self.intra, x))
        return x + self.inter_norm(across_chunks(self.inter, x))


class SepFormer(nn.Module):
    """The separator (see the head of this file).

    Args:
        num_sources: how many come out.
        num_filters, kernel_size, stride: of encoder and decoder, in samples.
        num_blocks, num_layers: pairs of transformers, and layers of each.
        num_heads, ffn_dim: of the layers.
        chunk_size: frames of a chunk, even.
        dropout: in attentions, feed-forward layers and on residuals, while training.
        use_positions: add them to what each transformer sees.
        gradient_checkpointing: recompute the layers in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        num_sources: int = 2,
        num_filters: int = 256,
        kernel_size: int = 16,
        stride: int = 8,
        num_blocks: int = 2,
        num_layers: int = 8,
        num_heads: int = 8,
        ffn_dim: int = 1024,
        chunk_size: int = 250,
        dropout: float = 0.0,
        use_positions: bool = True,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        check_chunks(chunk_size, "half")
        if num_filters % num_heads or num_filters % 2:
            raise ValueError(f"num_filters {num_filters} must be even and a multiple of num_heads {num_heads}")
        self.chunk_size = chunk_size
        self.feature_dims = [num_filters] * num_blocks
        self.encoder = nn.Conv1d(1, num_filters, kernel_size, stride, bias=False)
        self.norm = nn.GroupNorm(1, num_filters, 1e-8)
        self.bottleneck = nn.Conv1d(num_filters, num_filters, 1, bias=False)
        self.blocks = nn.ModuleList(
            Block(num_layers, num_filters, ffn_dim, num_heads, dropout, use_positions, gradient_checkpointing)
            for _ in range(num_blocks)
        )
        self.head = MaskHead(num_sources, num_filters, num_filters, "half")
        self.decoder = nn.ConvTranspose1d(num_filters, 1, kernel_size, stride, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture (B, C, T) -> sources (B, S, C, T). Channels are separated one by one."""
        x, frames = self.front(mixture)
        return self.back(self.body(x), frames, mixture)

    def front(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) -> features (B*C, N, L) and frames (B*C, N, L)."""
        frames = to_frames(self.encoder, mixture).relu()
        return self.bottleneck(self.norm(frames)), frames

    def body(self, x: Tensor, inject: Inject = as_it_is) -> Tensor:
        """(B, N, L) -> chunks (B, N, J, K), which is also what is injected into from the second block on."""
        x = to_chunks(inject(x, 0), self.chunk_size, "half")
        for number, block in enumerate(self.blocks):
            x = block(inject(x, number) if number else x)
        return x

    def back(self, x: Tensor, frames: Tensor, mixture: Tensor) -> Tensor:
        masks = self.head(x, frames.shape[-1])  # (B*C, S, N, L)
        return to_waves(self.decoder, masks * frames[:, None], mixture)
