"""TF-GridNet: separation on the grid of frames and bins (Wang et al., TASLP 2023, arXiv 2211.12433; ESPnet's V1 to V3).

Idea: treat a spectrogram as a grid and walk over it three ways in each block: an LSTM across the bins of a frame, an
LSTM along the frames of a bin, and attention among whole frames; then map to the sources' spectra directly, no mask.

    mixture (B,C,T) -level, STFT-> (B*C,2,L,F) -conv-> (B*C,L,F,D) -[bins, frames, attention] x blocks-
                    -deconv-> (B*C,2*S,L,F) -iSTFT, level-> (B,S,C,T)

Letters: L frames, F bins, D features (emb_dim), I bins or frames unfolded together (emb_ks), J their hop (emb_hs),
E features of a query in each bin (qk_dim), S sources.

ESPnet's three versions are options of one network, as their presets say:
- V1: padding "end". V2: padding "both". Their weights have the same number and meaning, yet V1's give another output
  in V2, since the zeros around the grid are seen by the LSTMs. Where J equals I > 1, V2 also has a bias for each
  neighbour.
- V3: padding "both", full_band_norm false, normalize false: nothing in it depends on the number of bins, so that
  weights trained at one sample rate run at another, with n_fft and hop_length scaled to last as long.

What differs from ESPnet:
- the heads of V1 lie in one tensor, as in V2;
- E is given, where ESPnet takes ceil(512 / F) in V1 and V2: 8, 4 and 2 at n_fft 128, 256 and 512;
- several microphones are separated one by one; the paper's beamforming is not here;
- a mixture shorter than half a window is padded, and a silent one stays silent (ESPnet divides by its level, 0).
As there, samples behind the last frame's centre lie under the window's end: the last of them can come out loud.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.conditioning import Inject, as_it_is
from tse_lib.nn.gridnet import FullBandAttention, GridNetBlock, UnfoldedPath, from_grid, level_of, to_grid


class TFGridNet(nn.Module):
    """The separator (see the head of this file).

    Args:
        num_sources: S.
        n_fft, hop_length: STFT (periodic Hann of n_fft samples, centred).
        num_blocks: how many.
        emb_dim, emb_ks, emb_hs: D, I and J.
        lstm_hidden: of each direction.
        num_heads, qk_dim: of the attention; qk_dim is E, features of a head's queries and keys in each bin.
        padding: of the grid before unfolding: "end" (V1) or "both" (V2, V3).
        full_band_norm: the attention's norms run over all bins, with gains for each (V1, V2).
        normalize: divide the mixture by its standard deviation and multiply the estimates by it (V1, V2).
        eps: of the norms.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their activations.
    """

    window: Tensor

    def __init__(
        self,
        num_sources: int = 2,
        n_fft: int = 128,
        hop_length: int = 64,
        num_blocks: int = 6,
        emb_dim: int = 48,
        emb_ks: int = 4,
        emb_hs: int = 1,
        lstm_hidden: int = 192,
        num_heads: int = 4,
        qk_dim: int = 8,
        padding: str = "both",
        full_band_norm: bool = True,
        normalize: bool = True,
        eps: float = 1e-5,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        if padding not in ("end", "both"):
            raise ValueError(f"padding: '{padding}' is neither 'end' nor 'both'")
        if emb_dim % num_heads:
            raise ValueError(f"emb_dim {emb_dim} must be a multiple of num_heads {num_heads}")
        if not 0 < emb_hs <= emb_ks:
            raise ValueError(f"0 < emb_hs {emb_hs} <= emb_ks {emb_ks} must hold")
        if n_fft % 2 or not 0 < hop_length <= n_fft // 2:
            raise ValueError(f"n_fft {n_fft} must be even and hop_length {hop_length} at most half of it")
        self.hop_length, self.normalize = hop_length, normalize
        self.gradient_checkpointing = gradient_checkpointing
        self.feature_dims = [emb_dim] * num_blocks
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        num_freqs, pad_both = (n_fft // 2 + 1 if full_band_norm else 0), padding == "both"

        def path() -> UnfoldedPath:
            lstm = nn.LSTM(emb_dim * emb_ks, lstm_hidden, batch_first=True, bidirectional=True)
            return UnfoldedPath(emb_dim, emb_ks, emb_hs, lstm, 2 * lstm_hidden, eps, stacked=pad_both)

        self.conv = nn.Conv2d(2, emb_dim, 3, padding=1)
        self.conv_norm = nn.GroupNorm(1, emb_dim, eps)
        self.blocks = nn.ModuleList(
            GridNetBlock(path(), path(), FullBandAttention(emb_dim, num_heads, qk_dim, num_freqs, eps), pad_both)
            for _ in range(num_blocks)
        )
        self.deconv = nn.ConvTranspose2d(emb_dim, 2 * num_sources, 3, padding=1)

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture (B, C, T) -> estimates (B, S, C, T). Channels are separated one by one."""
        x, grid = self.front(mixture)
        return self.back(self.body(x), grid, mixture)

    def front(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) -> features (B*C, D, L, F) and the grid (B*C, 2, L, F)."""
        waves = self._padded(mixture)
        waves = waves / level_of(waves) if self.normalize else waves
        grid = to_grid(waves, self.window, self.hop_length)
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
        if self.normalize:
            estimates = estimates * level_of(waves)[..., None]
        return estimates.view(batch, channels, -1, size).transpose(1, 2)

    def _padded(self, mixture: Tensor) -> Tensor:
        """(B, C, T) -> (B*C, T), T at least what reflecting at the edges needs."""
        return F.pad(mixture.flatten(0, 1), (0, max(0, len(self.window) // 2 + 1 - mixture.shape[-1])))
