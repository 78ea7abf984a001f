"""Ways of telling a network whom to extract."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Inject = Callable[[Tensor, int], Tensor]  # features before a block, and its number -> the features, conditioned


def as_it_is(x: Tensor, place: int) -> Tensor:
    """Nothing is injected: what separators do."""
    return x


class UsefAttention(nn.Module):
    """Each frame of the mixture asks the enrolment's frames (USEF: Zeng et al. 2024, arXiv 2409.02615, eq. 5).

    Query from the mixture, key and value from the enrolment, per band; post-norm residual. No position coding: an
    enrolment says the same whatever its order.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, frames: Tensor, valid: Tensor | None) -> Tensor:
        """x (B, L, N, D), frames (B, L_e, N, D), valid (B, L_e) where frames are padded -> (B, L, N, D), N bands."""
        batch, length, bands, dim = x.shape
        query = x.transpose(1, 2).reshape(batch * bands, length, dim)  # (B*N, L, D)
        keys = frames.transpose(1, 2).reshape(batch * bands, -1, dim)  # (B*N, L_e, D)
        padded = None if valid is None else ~valid.repeat_interleave(bands, 0)  # (B*N, L_e)
        attended, _ = self.cross_attn(query, keys, keys, key_padding_mask=padded, need_weights=False)
        return self.norm(query + attended).view(batch, bands, length, dim).transpose(1, 2)


class Film(nn.Module):
    """Feature-wise scale and shift from the enrolment's mean over time (Perez et al. 2018); identity at the start."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma_proj = nn.Linear(dim, dim)
        self.beta_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.gamma_proj.weight)
        nn.init.ones_(self.gamma_proj.bias)
        nn.init.zeros_(self.beta_proj.weight)
        nn.init.zeros_(self.beta_proj.bias)

    def forward(self, x: Tensor, frames: Tensor, valid: Tensor | None) -> Tensor:
        """x (B, L, N, D), frames (B, L_e, N, D), valid (B, L_e) where frames are padded -> (B, L, N, D)."""
        if valid is None:
            speaker = frames.mean(1, keepdim=True)  # (B, 1, N, D)
        else:
            weight = valid.to(frames.dtype)[:, :, None, None]
            speaker = (frames * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        return self.gamma_proj(speaker) * x + self.beta_proj(speaker)


def drop_condition(frames: Tensor, probability: float) -> Tensor:
    """Zero the whole condition of a random share of the batch, so that every path built on it is dropped at once."""
    keep = torch.rand(len(frames), device=frames.device) >= probability
    return frames * keep.to(frames.dtype).view(-1, *[1] * (frames.dim() - 1))
