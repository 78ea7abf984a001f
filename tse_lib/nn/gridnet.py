"""The parts of a TF-GridNet block (Wang et al. 2023, arXiv 2211.12433, section IV), frames and bins before features.

Letters: L frames, F bins, D features, I unfolded neighbours, J hop, H heads, E query features of a head and bin.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tse_lib.dsp.stft import istft

Norm = Callable[..., nn.Module]  # nn.LayerNorm, or what is called like it


def level_of(waves: Tensor) -> Tensor:
    """(B, T) -> standard deviation (B, 1), above 0 even in silence."""
    return waves.std(-1, keepdim=True).clamp_min(1e-8)


def to_grid(waves: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """(B, T) -> (B, 2, L, F): real and imaginary parts by a centred STFT; T more than half a window."""
    spectrum = torch.stft(waves, len(window), hop_length, window=window, return_complex=True)
    return torch.view_as_real(spectrum).permute(0, 3, 2, 1)


def from_grid(grid: Tensor, window: Tensor, hop_length: int, size: int) -> Tensor:
    """(B, S*2, L, F) -> (B, S, size): waves of S sources by the inverse STFT."""
    grid = grid.to(window.dtype)  # under autocast, back to what an STFT takes
    spectra = grid.unflatten(1, (-1, 2)).permute(0, 1, 4, 3, 2).flatten(0, 1).contiguous()  # (B*S, F, L, 2)
    return istft(torch.view_as_complex(spectra), window, hop_length, size).view(len(grid), -1, size)


def pad_grid(x: Tensor, kernel: int, hop: int, both_ends: bool) -> Tensor:
    """Zeros around the frames and bins of x (B, L, F, D), so that unfolding by `kernel` and `hop` uses all of them.

    `both_ends` puts kernel - hop zeros before and at least as many behind; otherwise there are zeros behind only where
    something would be left over.
    """
    margin = kernel - hop if both_ends else 0

    def behind(size: int) -> int:
        steps = max(0, -(-(size + 2 * margin - kernel) // hop))
        return steps * hop + kernel - size - margin

    return F.pad(x, (0, 0, margin, behind(x.shape[2]), margin, behind(x.shape[1])))


class UnfoldedPath(nn.Module):
    """Norm, I neighbours joined at every J-th step, a sequence model, spread over the neighbours again, residual.

    Args:
        dim: features D.
        kernel, hop: I and J.
        rnn: (N, steps, D*I) -> (N, steps, out_dim) or a tuple that begins with it; features outside, neighbours inside.
        out_dim: features that `rnn` gives.
        eps: of the norm.
        stacked: where kernel == hop and so nothing overlaps, join neighbours as they lie (neighbours outside, features
            inside) and give each a bias of its own, as ESPnet does from V2 on.
        norm: its kind.
    """

    def __init__(
        self,
        dim: int,
        kernel: int,
        hop: int,
        rnn: nn.Module,
        out_dim: int,
        eps: float,
        stacked: bool,
        norm: Norm = nn.LayerNorm,
    ):
        super().__init__()
        self.kernel, self.hop = kernel, hop
        self.norm = norm(dim, eps)
        self.rnn = rnn
        self.linear: nn.Module
        if stacked and kernel == hop:
            self.linear = nn.Linear(out_dim, kernel * dim)
        else:
            self.linear = nn.ConvTranspose1d(out_dim, dim, kernel, hop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, S, D) -> (B, N, S, D) along S, which `pad_grid` made fit."""
        y = self.norm(x).flatten(0, 1)  # (B*N, S, D)
        if isinstance(self.linear, nn.Linear):
            y = self.linear(self._run(y.reshape(len(y), -1, self.linear.out_features)))
        else:
            steps = y.unfold(1, self.kernel, self.hop).flatten(2)  # (B*N, steps, D*I)
            y = self.linear(self._run(steps).transpose(1, 2)).transpose(1, 2)
        return x + y.reshape(x.shape)

    def _run(self, steps: Tensor) -> Tensor:
        out = self.rnn(steps)
        return out[0] if isinstance(out, tuple) else out


class HeadProjection(nn.Module):
    """Linear, PReLU and norm of all heads at once: (B, L, F, D) -> (B, H, L, F, E).

    With `num_freqs` each head of each frame is normalised over all bins and has gains for each bin; with 0 each bin is
    by itself, so that any number of bins will do.
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int, num_freqs: int, eps: float, norm: Norm):
        super().__init__()
        self.num_heads = num_heads
        self.linear = nn.Linear(dim, num_heads * head_dim)
        self.act = nn.PReLU(num_heads)
        self.norm = norm((num_freqs, head_dim) if num_freqs else head_dim, eps, elementwise_affine=False)
        size = (num_heads, 1, num_freqs or 1, head_dim)
        self.gamma = nn.Parameter(self.linear.weight.new_ones(size))
        self.beta = nn.Parameter(self.linear.weight.new_zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).unflatten(-1, (self.num_heads, -1)).permute(0, 3, 1, 2, 4)  # (B, H, L, F, E)
        return self.norm(self.act(y)) * self.gamma + self.beta


class FullBandAttention(nn.Module):
    """Frames attend to frames with all their bins together: (B, L, F, D) -> (B, L, F, D).

    Args:
        dim: features D, a multiple of num_heads.
        num_heads: H.
        qk_dim: E of queries and keys; values have D / H.
        num_freqs: F if norms run over all bins, 0 if each bin has its own (see HeadProjection).
        eps: of the norms.
        norm: their kind.
        residual: add what comes in.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qk_dim: int,
        num_freqs: int,
        eps: float,
        norm: Norm = nn.LayerNorm,
        residual: bool = True,
    ):
        super().__init__()
        self.residual = residual
        self.query = HeadProjection(dim, num_heads, qk_dim, num_freqs, eps, norm)
        self.key = HeadProjection(dim, num_heads, qk_dim, num_freqs, eps, norm)
        self.value = HeadProjection(dim, num_heads, dim // num_heads, num_freqs, eps, norm)
        self.proj = nn.Linear(dim, dim)
        self.act = nn.PReLU()
        self.norm = norm((num_freqs, dim) if num_freqs else dim, eps)

    def forward(self, x: Tensor, frames: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """Those of x to its own, or to others: `frames` (B, L_e, F, D), `valid` (B, L_e) where they are padded."""
        source = x if frames is None else frames
        query, key, value = self.query(x).flatten(3), self.key(source).flatten(3), self.value(source).flatten(3)
        taken = None if valid is None else valid[:, None, None]  # (B, 1, 1, L_e)
        attended = F.scaled_dot_product_attention(query, key, value, taken)  # (B, H, L, F*D/H), scaled by 1/sqrt(F*E)
        joined = attended.unflatten(-1, (x.shape[2], -1)).permute(0, 2, 3, 1, 4).flatten(3)  # (B, L, F, D)
        y = self.norm(self.act(self.proj(joined)))
        return x + y if self.residual else y


class GridNetBlock(nn.Module):
    """Across bins, along frames, attention: (B, L, F, D) -> (B, L, F, D). `pad_both`: see `pad_grid`'s both_ends."""

    def __init__(self, intra: UnfoldedPath, inter: UnfoldedPath, attention: FullBandAttention, pad_both: bool):
        super().__init__()
        self.intra = intra
        self.inter = inter
        self.attention = attention
        self.pad_both = pad_both

    def forward(self, x: Tensor) -> Tensor:
        length, bins = x.shape[1:3]
        kernel, hop = self.intra.kernel, self.intra.hop
        start = kernel - hop if self.pad_both else 0
        x = self.intra(pad_grid(x, kernel, hop, self.pad_both))
        x = self.inter(x.transpose(1, 2)).transpose(1, 2)
        return self.attention(x[:, start : start + length, start : start + bins])
