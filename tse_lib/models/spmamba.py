"""SPMamba: TF-GridNet with Mambas in place of its LSTMs (Li et al. 2024, arXiv 2404.02063).

Idea: walk over the grid of frames and bins as TF-GridNet does (tf_gridnet.py), but with state spaces, whose cost grows
with a sequence's length as an LSTM's does and whose steps need not wait for each other's matrix products.

    mixture (B,C,T) -level, STFT-> (B*C,2,L,F) -conv-> (B*C,L,F,D) -[bins, frames, attention] x blocks-
                    -deconv-> (B*C,2*S,L,F) -iSTFT, level-> (B,S,C,T)

Letters: L frames, F bins, D features (emb_dim), I bins or frames unfolded together (emb_ks), J their hop (emb_hs),
E features of a query in each bin (qk_dim), S sources.

Each walk is a pre-norm Mamba of D*I features forwards and another backwards, joined side by side and spread over the
I neighbours by a transposed convolution. The grid is padded as in ESPnet's V1: at its end, where unfolding needs it.

What differs from the original (github.com/JusperLee/SPMamba):
- the attention's heads lie in one tensor;
- E is given, where the original takes ceil(512 / F): 4 and 2 at n_fft 256 and 512;
- several microphones are separated one by one;
- a mixture shorter than half a window is padded, and a silent one stays silent (the original divides by its level, 0).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.conditioning import Inject, as_it_is
from tse_lib.nn.gridnet import FullBandAttention, GridNetBlock, UnfoldedPath, from_grid, level_of, to_grid
from tse_lib.nn.mamba import MambaStack

EPS = 1e-5  # of all norms


class SPMamba(nn.Module):
    """The separator (see the head of this file).

    Args:
        num_sources: S.
        n_fft, hop_length: STFT (periodic Hann of n_fft samples, centred).
        num_blocks: how many.
        emb_dim, emb_ks, emb_hs: D, I and J.
        expand: features of a Mamba's inside, in multiples of D*I.
        num_heads, qk_dim: of the attention; qk_dim is E, features of a head's queries and keys in each bin.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their activations.
    """

    window: Tensor

    def __init__(
        self,
        num_sources: int = 2,
        n_fft: int = 256,
        hop_length: int = 64,
        num_blocks: int = 6,
        emb_dim: int = 16,
        emb_ks: int = 8,
        emb_hs: int = 1,
        expand: int = 4,
        num_heads: int = 4,
        qk_dim: int = 4,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        if emb_dim % num_heads:
            raise ValueError(f"emb_dim {emb_dim} must be a multiple of num_heads {num_heads}")
        if not 0 < emb_hs <= emb_ks:
            raise ValueError(f"0 < emb_hs {emb_hs} <= emb_ks {emb_ks} must hold")
        if n_fft % 2 or not 0 < hop_length <= n_fft // 2:
            raise ValueError(f"n_fft {n_fft} must be even and hop_length {hop_length} at most half of it")
        self.hop_length, self.gradient_checkpointing = hop_length, gradient_checkpointing
        self.feature_dims = [emb_dim] * num_blocks
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

        def path() -> UnfoldedPath:
            dim = emb_dim * emb_ks
            mambas = MambaStack(dim, 1, lambda size: nn.RMSNorm(size, EPS), expand, merge="cat")
            return UnfoldedPath(emb_dim, emb_ks, emb_hs, mambas, 2 * dim, EPS, stacked=False)

        def attention() -> FullBandAttention:
            return FullBandAttention(emb_dim, num_heads, qk_dim, n_fft // 2 + 1, EPS)

        self.conv = nn.Conv2d(2, emb_dim, 3, padding=1)
        self.conv_norm = nn.GroupNorm(1, emb_dim, EPS)
        self.blocks = nn.ModuleList(GridNetBlock(path(), path(), attention(), False) for _ in range(num_blocks))
        self.deconv = nn.ConvTranspose2d(emb_dim, 2 * num_sources, 3, padding=1)

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture (B, C, T) -> estimates (B, S, C, T). Channels are separated one by one."""
        x, grid = self.front(mixture)
        return self.back(self.body(x), grid, mixture)

    def front(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) -> features (B*C, D, L, F) and the grid (B*C, 2, L, F)."""
        waves = self._padded(mixture)
        grid = to_grid(waves / level_of(waves), self.window, self.hop_length)
        return self.conv_norm(self.conv(grid)), grid

    def body(self, x: Tensor, inject: Inject = as_it_is) -> Tensor:
        """(B, D, L, F) -> (B, D, L, F)."""
        for number, block in enumerate(self.blocks):
            x = inject(x, number).permute(0, 2, 3, 1)  # (B, L, F, D)
            recompute = self.training and self.gradient_checkpointing
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            x = x.permute(0, 3, 1, 2)
        return x

    def back(self, x: Tensor, grid: Tensor, mixture: Tensor) -> Tensor:
        batch, channels, size = mixture.shape
        waves = self._padded(mixture)
        estimates = from_grid(self.deconv(x), self.window, self.hop_length, waves.shape[-1])[..., :size]
        estimates = estimates * level_of(waves)[..., None]
        return estimates.view(batch, channels, -1, size).transpose(1, 2)

    def _padded(self, mixture: Tensor) -> Tensor:
        """(B, C, T) -> (B*C, T), T at least what reflecting at the edges needs."""
        return F.pad(mixture.flatten(0, 1), (0, max(0, len(self.window) // 2 + 1 - mixture.shape[-1])))
