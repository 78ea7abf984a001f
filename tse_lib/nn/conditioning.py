"""Ways of telling a network whom to extract."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inject = Callable[[Tensor, int], Tensor]  # features before a block, and its number -> the features, conditioned


def as_it_is(x: Tensor, place: int) -> Tensor:
    """Nothing is injected: what separators do."""
    return x


def frames_of_each(
    front: Callable[[Tensor], Tensor], enroll: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Frames of all enrolments one after the other. Each is seen by its own length, so that padding changes nothing.

    Args:
        front: (rows, T_e) -> (rows, L, …), of any T_e above 0.
        enroll: (B, E, T_e), zero-padded.
        lengths: (B, E) samples of each, on the CPU; 0 for an enrolment that is not there. None: all whole.

    Returns:
        (B, E*L, …), and where lengths differ (B, E*L), false for padding.
    """
    batch, count, size = enroll.shape
    rows = enroll.reshape(batch * count, size)
    if lengths is None or bool((lengths == size).all()):
        frames = front(rows)  # (B*E, L, …)
        return frames.reshape(batch, -1, *frames.shape[2:]), None
    sizes = [int(number) for number in lengths.reshape(-1)]
    each = [front(row[None, : max(1, own)])[0] for row, own in zip(rows, sizes, strict=True)]
    longest = max(len(one) for one in each)
    frames = torch.stack([F.pad(one, (0, 0) * (one.dim() - 1) + (0, longest - len(one))) for one in each])
    num_frames = torch.tensor([len(one) if own else 0 for one, own in zip(each, sizes, strict=True)])
    valid = (torch.arange(longest) < num_frames[:, None]).to(enroll.device)  # (B*E, L)
    return frames.reshape(batch, -1, *frames.shape[2:]), valid.reshape(batch, -1)


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
