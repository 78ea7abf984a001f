"""Transformers (Vaswani et al. 2017, arXiv 1706.03762), alone and on the two axes of a dual path."""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.dual_path import across_chunks, within_chunks


def positions(steps: int, dim: int, like: Tensor) -> Tensor:
    """Sinusoids (steps, dim) of geometric periods, sine and cosine interleaved."""
    dtype = torch.promote_types(like.dtype, torch.float32)  # half precision cannot count to 2049
    rates = torch.exp(torch.arange(0, dim, 2, device=like.device, dtype=dtype) * (-math.log(10000) / dim))
    angles = torch.arange(steps, device=like.device, dtype=dtype)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1).to(like.dtype)


def attend(
    attention: nn.MultiheadAttention, x: Tensor, source: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """What x (rows, steps, D) finds in itself or in a source (rows, others, D), of which `valid` (rows, others) counts.

    In memory that grows with the steps and not with their square.
    """
    if source is None:
        source = x.view_as(x)  # given one tensor thrice, torch takes a shortcut at inference that keeps all scores
    return attention(x, source, source, key_padding_mask=None if valid is None else ~valid, need_weights=False)[0]


class TransformerLayer(nn.Module):
    """Attention and a feed-forward net, each with a residual: (rows, steps, D) -> the same.

    Args:
        dim, ffn_dim, num_heads: sizes.
        dropout: in attention and feed-forward net and on residuals.
        norm_first: normalise what each of the two sees; otherwise what each residual ends in.
    """

    def __init__(self, dim: int, ffn_dim: int, num_heads: int, dropout: float, norm_first: bool = True):
        super().__init__()
        self.norm_first = norm_first
        self.attn_norm = nn.LayerNorm(dim, 1e-6)
        self.attn = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.ffn_norm = nn.LayerNorm(dim, 1e-6)
        self.linear_in = nn.Linear(dim, ffn_dim)
        self.linear_out = nn.Linear(ffn_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, source: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """x attends to itself or to a source (rows, others, D), `valid` (rows, others) where that is padded."""
        if self.norm_first:
            x = x + self.dropout(attend(self.attn, self.attn_norm(x), source, valid))
            return x + self._feed_forward(self.ffn_norm(x))
        x = self.attn_norm(x + self.dropout(attend(self.attn, x, source, valid)))
        return self.ffn_norm(x + self._feed_forward(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear_out(self.dropout(self.linear_in(x)).relu()))


class Transformer(nn.Module):
    """Layers and a norm: (rows, steps, D) -> the same.

    Args:
        num_layers, dim, ffn_dim, num_heads, dropout, norm_first: see TransformerLayer.
        use_positions: add them at the start.
        gradient_checkpointing: recompute the layers in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        num_layers: int,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        dropout: float,
        use_positions: bool = True,
        norm_first: bool = True,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.use_positions, self.gradient_checkpointing = use_positions, gradient_checkpointing
        sizes = (dim, ffn_dim, num_heads, dropout, norm_first)
        self.layers = nn.ModuleList(TransformerLayer(*sizes) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim, 1e-6)

    def forward(self, x: Tensor, source: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """See TransformerLayer; every layer has the same source."""
        if self.use_positions:
            x = x + positions(x.shape[1], x.shape[2], x)
        recompute = self.training and self.gradient_checkpointing
        for layer in self.layers:
            x = checkpoint(layer, x, source, valid, use_reentrant=False) if recompute else layer(x, source, valid)
        return self.norm(x)


class DualPathTransformer(nn.Module):
    """A transformer within chunks, then one across them, each normalised and added: (B, D, J, K) -> the same.

    Args:
        intra, inter: (rows, steps, D) -> the same.
        dim: features D.
        linear: a linear map after each.
    """

    def __init__(self, intra: Transformer, inter: Transformer, dim: int, linear: bool = False):
        super().__init__()
        self.intra = intra
        self.intra_linear = nn.Linear(dim, dim) if linear else nn.Identity()
        self.intra_norm = nn.GroupNorm(1, dim, 1e-8)
        self.inter = inter
        self.inter_linear = nn.Linear(dim, dim) if linear else nn.Identity()
        self.inter_norm = nn.GroupNorm(1, dim, 1e-8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.intra_norm(within_chunks(lambda rows: self.intra_linear(self.intra(rows)), x))
        return x + self.inter_norm(across_chunks(lambda rows: self.inter_linear(self.inter(rows)), x))
