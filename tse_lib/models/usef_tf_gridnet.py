"""USEF-TFGridNet: extraction without a speaker embedding, on TF-GridNet (Zeng and Li 2024, arXiv 2409.02615).

Idea: each frame of the mixture asks the enrolment's frames what the target sounds like, all bins together; the answer,
as long as the mixture, goes beside the mixture's own features through TF-GridNet's blocks (tf_gridnet.py).

    mixture (B,C,T) -level, STFT-> (B*C,2,L,F) -conv-> (B*C,L,F,D) ------------------> joined (B*C,L,F,2*D)
                                                           |asks                          |
    enroll (B,E,T_e) -each alone, the same-> frames (B,L_e,F,D) -attention-> (B*C,L,F,D) -+
    joined -[bins, frames, attention] x blocks-deconv-> (B*C,2,L,F) -iSTFT, level-> (B,1,C,T)

Letters: L frames, F bins, D features (emb_dim), I bins or frames unfolded together (emb_ks), J their hop (emb_hs),
E features of a query in each bin (qk_dim).

The defaults are the published 8 kHz network, of 15,641,885 parameters; the spectrum is mapped, not masked. What differs
from the original (github.com/ZBang/USEF-TSE):
- it puts out whole hops only and leaves up to hop_length - 1 samples out; here the mixture is padded to whole hops with
  zeros. `compat: true` computes what it computes, and those samples are 0;
- E is given, where the original takes ceil(512 / F): 8, 4 and 2 at n_fft 128, 256 and 512;
- frames of several enrolments are attended to together, padding is masked, and channels are extracted one by one;
- what is shorter than half a window is padded, and silence stays silent (the original divides by its level, 0).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.enrolment import frames_of_each
from tse_lib.nn.gridnet import FullBandAttention, GridNetBlock, UnfoldedPath, from_grid, to_grid

EPS = 1e-5  # of all norms


class USEFTFGridNet(nn.Module):
    """The extractor (see the head of this file).

    Args:
        n_fft, hop_length, win_length: STFT (periodic Hann, centred); win_length 0 means n_fft.
        num_blocks: how many.
        emb_dim, emb_ks, emb_hs: D, I and J; the blocks have 2*D features.
        lstm_hidden: of each direction.
        num_heads, qk_dim: of all attentions; qk_dim is E, features of a head's queries and keys in each bin.
        compat: leave out what fills no whole hop, as the original does.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their activations.
    """

    window: Tensor

    def __init__(
        self,
        n_fft: int = 128,
        hop_length: int = 64,
        win_length: int = 0,
        num_blocks: int = 6,
        emb_dim: int = 128,
        emb_ks: int = 1,
        emb_hs: int = 1,
        lstm_hidden: int = 256,
        num_heads: int = 4,
        qk_dim: int = 8,
        compat: bool = False,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        win_length = win_length or n_fft
        if emb_dim % num_heads:
            raise ValueError(f"emb_dim {emb_dim} must be a multiple of num_heads {num_heads}")
        if not 0 < emb_hs <= emb_ks:
            raise ValueError(f"0 < emb_hs {emb_hs} <= emb_ks {emb_ks} must hold")
        if n_fft % 2 or not 0 < 2 * hop_length <= win_length <= n_fft:
            raise ValueError(
                f"n_fft {n_fft} must be even, and 0 < 2 * hop_length {hop_length} <= win_length {win_length} <= n_fft"
            )
        self.hop_length, self.compat, self.gradient_checkpointing = hop_length, compat, gradient_checkpointing
        around = n_fft - win_length
        window = F.pad(torch.hann_window(win_length), (around // 2, around - around // 2))
        self.register_buffer("window", window, persistent=False)
        num_freqs, joined_dim = n_fft // 2 + 1, 2 * emb_dim

        def path() -> UnfoldedPath:
            lstm = nn.LSTM(joined_dim * emb_ks, lstm_hidden, batch_first=True, bidirectional=True)
            return UnfoldedPath(joined_dim, emb_ks, emb_hs, lstm, 2 * lstm_hidden, EPS, stacked=True)

        def attention(dim: int, residual: bool) -> FullBandAttention:
            return FullBandAttention(dim, num_heads, qk_dim, num_freqs, EPS, residual=residual)

        self.conv = nn.Conv2d(2, emb_dim, 3, padding=1)
        self.conv_norm = nn.GroupNorm(1, emb_dim, EPS)
        self.usef = attention(emb_dim, residual=False)
        self.blocks = nn.ModuleList(
            GridNetBlock(path(), path(), attention(joined_dim, residual=True), True) for _ in range(num_blocks)
        )
        self.deconv = nn.ConvTranspose2d(joined_dim, 2, 3, padding=1)

    def encode(self, enroll: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Enrolments to a condition: plain tensors that can be kept for a long file or saved as a profile.

        Args:
            enroll: (B, E, T_e), zero-padded.
            lengths: (B, E) samples of each, on the CPU; 0 for an enrolment that is not there. None: all whole.

        Returns:
            {"frames": (B, L_e, F, D)}: features of all E enrolments one after the other; with "valid" (B, L_e), false
            for padding, where items differ in L_e.
        """
        frames, valid = frames_of_each(lambda waves: self._features(waves)[0], enroll, lengths)
        return {"frames": frames} if valid is None else {"frames": frames, "valid": valid}

    def forward(self, mixture: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """mixture (B, C, T), condition of `encode` -> estimate (B, 1, C, T). Channels are extracted one by one."""
        batch, channels, size = mixture.shape
        frames, valid = condition["frames"], condition.get("valid")
        if channels > 1:
            frames = frames.repeat_interleave(channels, 0)
            valid = None if valid is None else valid.repeat_interleave(channels, 0)
        x, level = self._features(mixture.reshape(batch * channels, size))  # (B*C, L, F, D)
        x = torch.cat([x, self.usef(x, frames, valid)], -1)  # (B*C, L, F, 2*D)
        for block in self.blocks:
            recompute = self.training and self.gradient_checkpointing
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        spectra = self.deconv(x.permute(0, 3, 1, 2))  # (B*C, 2, L, F)
        whole = self.hop_length * (spectra.shape[2] - 1)  # as long as whole hops
        estimate = from_grid(spectra, self.window, self.hop_length, whole)[:, 0] * level
        return F.pad(estimate, (0, size - whole)).view(batch, 1, channels, size)

    def _features(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, T) -> features (rows, L, F, D) and levels (rows, 1)."""
        waves = F.pad(waves, (0, max(0, len(self.window) // 2 + 1 - waves.shape[-1])))  # reflecting needs as many
        level = waves.std(-1, keepdim=True).clamp_min(1e-8)
        if not self.compat:
            waves = F.pad(waves, (0, -waves.shape[-1] % self.hop_length))
        grid = to_grid(waves / level, self.window, self.hop_length)  # (rows, 2, L, F)
        return self.conv_norm(self.conv(grid)).permute(0, 2, 3, 1), level
