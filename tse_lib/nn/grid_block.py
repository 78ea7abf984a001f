"""The block that walks over a grid of time frames and bands: across bands, along time, and (optionally) attends."""

from torch import Tensor, nn


class GridBlock(nn.Module):
    """BiLSTM across bands, BiLSTM along time, self-attention along time per band; each with a post-norm residual.

    This is HiFi-TSE's block, simpler than the published TF-GridNet's (no unfolding, no attention across the full band).
    """

    def __init__(self, dim: int, hidden: int, num_heads: int, attention: bool = True):
        super().__init__()
        self.freq_lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.freq_proj = nn.Linear(2 * hidden, dim)
        self.freq_norm = nn.LayerNorm(dim)
        self.time_lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.time_proj = nn.Linear(2 * hidden, dim)
        self.time_norm = nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True) if attention else None
        self.attn_norm = nn.LayerNorm(dim) if attention else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, N, D) -> (B, L, N, D): L frames, N bands."""
        batch, length, bands, dim = x.shape
        x = x.reshape(batch * length, bands, dim)  # (B*L, N, D)
        x = self.freq_norm(x + self.freq_proj(self.freq_lstm(x)[0]))
        x = x.view(batch, length, bands, dim).transpose(1, 2).reshape(batch * bands, length, dim)  # (B*N, L, D)
        x = self.time_norm(x + self.time_proj(self.time_lstm(x)[0]))
        if self.self_attn is not None and self.attn_norm is not None:
            x = self.attn_norm(x + self.self_attn(x, x, x, need_weights=False)[0])
        return x.view(batch, bands, length, dim).transpose(1, 2)
