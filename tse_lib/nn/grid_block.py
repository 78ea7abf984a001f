"""The block that walks over a grid of time frames and bands: across bands, along time, and (optionally) attends."""

from functools import partial

from torch import Tensor, nn

from tse_lib.nn.conditioning import VectorFilm
from tse_lib.nn.mamba import MambaStack


class GridBlock(nn.Module):
    """BiLSTM across bands, BiLSTM along time, self-attention along time per band; each with a post-norm residual.

    This is HiFi-TSE's block, simpler than the published TF-GridNet's (no unfolding, no attention across the full band).

    Args:
        dim, hidden: features and the LSTMs' size in each direction.
        num_heads, attention: of the self-attention, and whether there is one.
        time_rnn: what goes along time: lstm, or mamba (a selective scan in each direction, of 2 * dim features inside).
        adaln: the norms take their gains and shifts from the talker (adaptive layer norm, `VectorFilm`).
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        num_heads: int,
        attention: bool = True,
        time_rnn: str = "lstm",
        adaln: bool = False,
    ):
        super().__init__()
        norm = partial(VectorFilm, dim, dim, norm=True) if adaln else partial(nn.LayerNorm, dim)
        self.freq_lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.freq_proj = nn.Linear(2 * hidden, dim)
        self.freq_norm = norm()
        self.mamba = time_rnn == "mamba"
        if self.mamba:
            self.time_mamba = MambaStack(dim, 1, nn.LayerNorm, merge="cat")
        else:
            self.time_lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.time_proj = nn.Linear(2 * (dim if self.mamba else hidden), dim)
        self.time_norm = norm()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True) if attention else None
        self.attn_norm = norm() if attention else None

    def forward(self, x: Tensor, talker: Tensor | None = None) -> Tensor:
        """(B, L, N, D) -> (B, L, N, D): L frames, N bands. `talker` (B, N, D) is for the norms of `adaln`."""
        batch, length, bands, dim = x.shape

        def normed(norm: nn.Module, y: Tensor) -> Tensor:  # (B*N, L, D)
            return norm(y) if talker is None else norm(y.mT, talker.reshape(batch * bands, dim)).mT

        rows = x.reshape(batch * length, bands, dim)
        x = x + self.freq_proj(self.freq_lstm(rows)[0]).view(x.shape)
        x = normed(self.freq_norm, x.transpose(1, 2).reshape(batch * bands, length, dim))
        along = self.time_mamba(x) if self.mamba else self.time_lstm(x)[0]  # (B*N, L, 2*dim) or (B*N, L, 2*hidden)
        x = normed(self.time_norm, x + self.time_proj(along))
        if self.self_attn is not None and self.attn_norm is not None:
            x = normed(self.attn_norm, x + self.self_attn(x, x, x, need_weights=False)[0])
        return x.view(batch, bands, length, dim).transpose(1, 2)
