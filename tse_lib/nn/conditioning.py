"""Ways of telling a network whom to extract."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
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


def mean_over_time(frames: Tensor, valid: Tensor | None) -> Tensor:
    """frames (B, L_e, N, D), valid (B, L_e) where they are padded -> (B, N, D)."""
    if valid is None:
        return frames.mean(1)
    weight = valid.to(frames.dtype)[:, :, None, None]
    return (frames * weight).sum(1) / weight.sum(1)


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
        speaker = mean_over_time(frames, valid)[:, None]  # (B, 1, N, D)
        return self.gamma_proj(speaker) * x + self.beta_proj(speaker)


def drop_condition(condition: dict[str, Tensor], probability: float) -> dict[str, Tensor]:
    """Zero all that is told of a random share of the batch: one draw an item, whatever paths are built on it.

    Masks ("valid") stay.
    """
    first = next(iter(condition.values()))
    keep = torch.rand(len(first), device=first.device) >= probability

    def dropped(value: Tensor) -> Tensor:
        return value * keep.to(value.dtype).view(-1, *[1] * (value.dim() - 1)) if value.is_floating_point() else value

    return {name: dropped(value) for name, value in condition.items()}


# ------------------------------------------------------------------------ for any network: features (B, D, L or more)


def beside(vector: Tensor, x: Tensor) -> Tensor:
    """(B, D) -> (B, D, 1, …), to meet x (B, D, L, …)."""
    return vector.view(*vector.shape, *[1] * (x.dim() - 2))


class VectorFilm(nn.Module):
    """Scale and shift of each feature, linear in the embedding (Perez et al. 2018); identity at the start.

    With `norm` the features of each position are normalised first, without gains of their own (adaptive layer norm:
    Peebles and Xie 2023, arXiv 2212.09748).
    """

    def __init__(self, dim: int, embedding_dim: int, norm: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False) if norm else nn.Identity()
        self.linear = nn.Linear(embedding_dim, 2 * dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, D, L, …), embedding (B, E) -> (B, D, L, …)."""
        scale, shift = (beside(part, x) for part in self.linear(embedding).chunk(2, 1))
        return self.norm(x.movedim(1, -1)).movedim(-1, 1) * (1 + scale) + shift


class Concatenation(nn.Module):
    """A 1x1 convolution of the features with the embedding beside each of them.

    As two maps that are added, so that the embedding's is computed once and not at every position.
    """

    def __init__(self, dim: int, embedding_dim: int):
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.embedding_linear = nn.Linear(embedding_dim, dim, bias=False)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, D, L, …), embedding (B, E) -> (B, D, L, …)."""
        return self.linear(x.movedim(1, -1)).movedim(-1, 1) + beside(self.embedding_linear(embedding), x)


class Multiplication(nn.Module):
    """Each feature times a number, linear in the embedding (TD-SpeakerBeam: Delcroix et al. 2020, 2001.08378)."""

    def __init__(self, dim: int, embedding_dim: int):
        super().__init__()
        self.linear = nn.Linear(embedding_dim, dim)
        nn.init.ones_(self.linear.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, D, L, …), embedding (B, E) -> (B, D, L, …)."""
        return x * beside(self.linear(embedding), x)


class FrameAttention(nn.Module):
    """Each frame of the mixture asks the enrolment's frames (USEF: Zeng et al. 2024, 2409.02615); pre-norm residual.

    Of a grid of frames and bins, a frame asks with all its bins together, as in USEF-TFGridNet: as many products as if
    each bin asked for itself, but one softmax instead of one a bin.

    Args:
        dim, source_dim: features of the mixture and of the enrolment.
        num_heads: a divisor of dim.
    """

    def __init__(self, dim: int, source_dim: int, num_heads: int = 4):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide the {dim} features")
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.source_norm = nn.LayerNorm(source_dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(source_dim, dim, bias=False)  # a bias would be the same for all frames
        self.value = nn.Linear(source_dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, frames: Tensor, valid: Tensor | None) -> Tensor:
        """x (B, D, L) or (B, D, L, F), frames (B, L_e, [F,] D'), valid (B, L_e) where they are padded -> as x."""
        asking = self.norm(x.movedim(1, -1))  # (B, L[, F], D)
        source = self.source_norm(frames)
        heads = self._heads(self.query(asking)), self._heads(self.key(source)), self._heads(self.value(source))
        taken = None if valid is None else valid[:, None, None]  # (B, 1, 1, L_e)
        attended = F.scaled_dot_product_attention(*heads, taken)  # (B, H, L, F*D/H)
        answer = attended.transpose(1, 2).unflatten(-1, (-1, x.shape[1] // self.num_heads))  # (B, L, H, F, D/H)
        return x + self.out(answer.transpose(2, 3).reshape(asking.shape)).movedim(-1, 1)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L[, F], D) -> (B, H, L, F*D/H)."""
        parts = x.view(*x.shape[:2], -1, self.num_heads, x.shape[-1] // self.num_heads)  # (B, L, F, H, D/H)
        return parts.permute(0, 3, 1, 2, 4).flatten(3)


class SpectralMap(nn.Module):
    """What the enrolment's spectra say of the mixture's, an additional input (TF-map: Zhang et al. 2024, 2410.16059).

    Each frame of the mixture takes a mean of the enrolment's magnitudes, weighted by the softmax of their cosines; the
    direction of that mean, as loud as the mixture is in it, goes through a 1x1 map onto the features.

    Args:
        dim: features.
        source_dim: 1 of a grid of frames and bins, or the number of learned filters.
    """

    def __init__(self, dim: int, source_dim: int):
        super().__init__()
        self.linear = nn.Linear(source_dim, dim, bias=False)

    def forward(self, x: Tensor, mixture: Tensor, frames: Tensor, valid: Tensor | None) -> Tensor:
        """x (B, D, L) or (B, D, L, F), magnitudes (B, L, K) and (B, L_e, K), valid (B, L_e) or None -> as x."""
        own = mixture / mixture.square().mean((1, 2), keepdim=True).clamp_min(1e-16).sqrt()  # of any level
        other = F.normalize(frames, dim=-1)
        taken = None if valid is None else valid[:, None]
        mean = F.scaled_dot_product_attention(F.normalize(own, dim=-1), other, other, taken, scale=1.0)
        direction = F.normalize(mean, dim=-1)
        heard = (own * direction).sum(-1, keepdim=True) * direction  # (B, L, K)
        return x + self.linear(heard[..., None] if x.dim() == 4 else heard).movedim(-1, 1)


class Prefix(nn.Module):
    """The enrolment put before the mixture's waveform, zeros in between; no parameters (LExt: arXiv 2505.05114).

    Always as long, repeated or cut, so that the network's output for an item does not depend on padding.

    Args:
        sample_rate: of the waves.
        prefix_s: seconds of enrolment.
        glue_s: of zeros.
    """

    def __init__(self, sample_rate: int, prefix_s: float = 3.0, glue_s: float = 0.032):
        super().__init__()
        if prefix_s * sample_rate < 1 or glue_s < 0:
            raise ValueError(f"prefix_s {prefix_s} must be above 0 and glue_s {glue_s} not below")
        self.num_samples, self.glue = round(prefix_s * sample_rate), round(glue_s * sample_rate)

    def encode(self, enroll: Tensor, sizes: Sequence[int]) -> Tensor:
        """Enrolments of an item (E, T_e) and the samples of each -> (prefix_s * sample_rate,) of an RMS of 1."""
        waves = torch.cat([wave[:size] for wave, size in zip(enroll, sizes, strict=True)])
        repeated = waves.repeat(-(-self.num_samples // max(1, len(waves))))[: self.num_samples]
        prefix = F.pad(repeated, (0, self.num_samples - len(repeated)))  # of zeros, where there is none
        return prefix / prefix.square().mean().clamp_min(1e-16).sqrt()

    def forward(self, mixture: Tensor, prefix: Tensor) -> Tensor:
        """mixture (B, C, T), prefix (B, P) -> (B, C, P + glue + T), the prefix as loud as the mixture."""
        level = mixture.square().mean(-1, keepdim=True).clamp_min(1e-16).sqrt()
        before = F.pad(prefix[:, None] * level, (0, self.glue))
        return torch.cat((before, mixture), -1)


OF_VECTORS: dict[str, Callable[..., nn.Module]] = {  # by embeddings, at any block
    "film": VectorFilm,
    "adaln": partial(VectorFilm, norm=True),
    "concat": Concatenation,
    "multiply": Multiplication,
}
