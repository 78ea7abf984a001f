"""MossFormer2: attention in groups and over everything, with a memory without recurrence (Zhao et al., ICASSP 2024).

Idea: TasNet's encoder, mask and decoder, and in between layers of two halves: gated attention with one head, quadratic
within groups of frames and linear over all of them (FLASH), and a gated memory of dilated convolutions over time, which
does what a recurrence would, without its loop (FSMN; arXiv 2312.11825).

    mixture (B,C,T) -encoder-> (B*C,N,L) -norm, linear, + positions-> (B*C,L,D) -[attention, memory] x layers-
                    -gates-> masks (B*C,S,N,L), times the encoder's output -decoder-> (B,S,C,T)

Letters: N encoder_dim, L frames, D dim, E qk_dim, H hidden_dim, M memory_dim, S sources.

This follows the authors' ClearerVoice-Studio. What differs from it:
- a mixture is padded to whole frames and the estimates cut, where there up to 7 samples at the end come out as zeros;
- the rotary frequencies, which are never trained, are computed (there: 16 numbers, kept once a layer);
- `masking: false` takes what the network puts out for the estimate's code instead of multiplying (the authors' weights
  for WHAMR! do so).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.conditioning import Inject, as_it_is
from tse_lib.nn.filterbank import full_precision, to_waves

ROTARY_DIM = 32  # features of queries and keys that turn with the position; the rest do not (GPT-J's way)


def angles(length: int, count: int, like: Tensor) -> Tensor:
    """Positions times frequencies 1 … 1/10000: (length, count), in the precision and on the device of `like`."""
    steps = torch.arange(count, dtype=like.dtype, device=like.device)
    positions = torch.arange(length, dtype=like.dtype, device=like.device)
    return positions[:, None] * 10000 ** (-steps / count)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Neighbouring pairs among the first features of x (B, L, …, E) turned by `turn` (L, R / 2), R of E features."""
    cos, sin = (part.view(len(turn), *[1] * (x.dim() - 3), -1).to(x.dtype) for part in (turn.cos(), turn.sin()))
    one, other = x[..., : 2 * turn.shape[1]].unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((one * cos - other * sin, other * cos + one * sin), -1).flatten(-2)
    return torch.cat((turned, x[..., 2 * turn.shape[1] :]), -1)


class ScaleNorm(nn.Module):
    """Each frame to a root mean square of one learned number (Nguyen and Salazar 2019)."""

    def __init__(self, eps: float = 1e-5):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        rms = x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return x / rms.clamp_min(self.eps) * self.g


class ConvProjection(nn.Module):
    """Norm, linear map, SiLU, a depthwise convolution over 17 frames beside a residual: (B, L, in) -> (B, L, out)."""

    def __init__(self, norm: nn.Module, in_dim: int, out_dim: int, dropout: float):
        super().__init__()
        self.norm = norm
        self.linear = nn.Linear(in_dim, out_dim)
        self.conv = nn.Conv1d(out_dim, out_dim, 17, padding=8, groups=out_dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.linear(self.norm(x)))
        return self.dropout(y + self.conv(y.transpose(1, 2)).transpose(1, 2))


class GatedAttention(nn.Module):
    """One head of attention, quadratic within groups plus linear over all frames, for two values that gate each other.

    Queries and keys, both kinds, are one projection scaled and shifted in four ways; half of the input's features come
    from the frame before.
    """

    def __init__(self, dim: int, hidden_dim: int, qk_dim: int, group_size: int, dropout: float):
        super().__init__()
        self.group_size = group_size
        self.to_hidden = ConvProjection(ScaleNorm(), dim, hidden_dim, dropout)
        self.to_qk = ConvProjection(ScaleNorm(), dim, qk_dim, dropout)
        self.gamma = nn.Parameter(torch.empty(4, qk_dim).normal_(std=0.02))
        self.beta = nn.Parameter(torch.zeros(4, qk_dim))
        self.dropout = nn.Dropout(dropout)
        self.to_out = ConvProjection(ScaleNorm(), hidden_dim // 2, dim, dropout)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        """x (B, L, D), turn (L, R / 2) angles of the positions -> (B, L, D)."""
        late, now = x.chunk(2, -1)
        shifted = torch.cat((F.pad(late, (0, 0, 1, -1)), now), -1)
        hidden = self.to_hidden(shifted)  # (B, L, H)
        qk = rotate(self.to_qk(shifted)[:, :, None] * self.gamma + self.beta, turn)  # (B, L, 4, E)
        attended_v, attended_u = self._attend(qk, hidden).chunk(2, -1)
        v, u = hidden.chunk(2, -1)
        return x + self.to_out(attended_u * v * torch.sigmoid(attended_v * u))

    def _attend(self, qk: Tensor, hidden: Tensor) -> Tensor:
        length = hidden.shape[1]
        group = min(self.group_size, length)
        behind = -length % group  # zeros: a key of zeros gets no weight
        groups = F.pad(qk, (0, 0, 0, 0, 0, behind)).unflatten(1, (-1, group))  # (B, G, group, 4, E)
        values = F.pad(hidden, (0, 0, 0, behind)).unflatten(1, (-1, group))  # (B, G, group, H)
        near_q, far_q, near_k, far_k = groups.unbind(3)
        weights = self.dropout(F.relu(near_q @ near_k.transpose(-1, -2) / self.group_size).square())
        summary = far_k.flatten(1, 2).transpose(1, 2) @ values.flatten(1, 2) / length  # (B, E, H)
        attended = weights @ values + far_q @ summary[:, None]
        return attended.flatten(1, 2)[:, :length]


class Memory(nn.Module):
    """Two dilated convolutions over time, the second also sees what the first saw (FSMN): (B, L, M) -> (B, L, M)."""

    def __init__(self, dim: int, kernel_size: int):
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.project = nn.Linear(dim, dim, bias=False)
        half = kernel_size // 2
        self.conv1 = nn.Conv1d(dim, dim, kernel_size, padding=half, groups=dim, bias=False)
        self.norm1 = nn.InstanceNorm1d(dim, affine=True)
        self.act1 = nn.PReLU(dim)
        self.conv2 = nn.Conv1d(2 * dim, dim, kernel_size, padding=2 * half, dilation=2, groups=dim, bias=False)
        self.norm2 = nn.InstanceNorm1d(dim, affine=True)
        self.act2 = nn.PReLU(dim)

    def forward(self, x: Tensor) -> Tensor:
        old = self.project(F.relu(self.linear(x))).transpose(1, 2)  # (B, M, L)
        new = self.act1(self.norm1(self.conv1(old)))
        # As published, a group takes two neighbours of the joined channels: two new ones, or two old ones.
        new = self.act2(self.norm2(self.conv2(torch.cat((new, old), 1))))
        return x + new.transpose(1, 2)


class GatedMemory(nn.Module):
    """A bottleneck in which the memory of one projection is gated by another: (B, L, D) -> (B, L, D)."""

    def __init__(self, dim: int, memory_dim: int, kernel_size: int, dropout: float):
        super().__init__()
        self.proj_in = nn.Linear(dim, memory_dim)
        self.act = nn.PReLU()
        self.norm1 = nn.LayerNorm(memory_dim)
        self.to_u = ConvProjection(nn.LayerNorm(memory_dim), memory_dim, memory_dim, dropout)
        self.to_v = ConvProjection(nn.LayerNorm(memory_dim), memory_dim, memory_dim, dropout)
        self.memory = Memory(memory_dim, kernel_size)
        self.norm2 = nn.LayerNorm(memory_dim)
        self.proj_out = nn.Linear(memory_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.act(self.proj_in(x)))
        y = self.to_v(y) * self.memory(self.to_u(y)) + y
        return x + self.proj_out(self.norm2(y))


class MossFormer2Layer(nn.Module):
    """Attention, then memory: (B, L, D) -> (B, L, D)."""

    def __init__(self, attention: GatedAttention, memory: GatedMemory):
        super().__init__()
        self.attention = attention
        self.memory = memory

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        return self.memory(self.attention(x, turn))


class MossFormer2(nn.Module):
    """The separator (see the head of this file).

    Args:
        num_sources: S.
        encoder_dim, kernel_size: N and the samples of a frame, which half overlap; kernel_size is even.
        dim: D, even.
        num_layers: how many.
        hidden_dim: H, of the attention's two values together.
        qk_dim: E, even.
        group_size: frames among which attention is quadratic.
        memory_dim, memory_kernel: M and the frames of the memory's convolutions (odd).
        dropout: of projections and attention.
        masking: multiply the encoder's output with what the network puts out.
        gradient_checkpointing: recompute the layers in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        num_sources: int = 2,
        encoder_dim: int = 512,
        kernel_size: int = 16,
        dim: int = 512,
        num_layers: int = 24,
        hidden_dim: int = 2048,
        qk_dim: int = 128,
        group_size: int = 256,
        memory_dim: int = 256,
        memory_kernel: int = 39,
        dropout: float = 0.1,
        masking: bool = True,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        even = {"kernel_size": kernel_size, "dim": dim, "hidden_dim": hidden_dim, "qk_dim": qk_dim}
        for name, value in even.items():
            if value < 2 or value % 2:
                raise ValueError(f"{name} {value} must be even")
        if memory_kernel % 2 == 0:
            raise ValueError(f"memory_kernel {memory_kernel} must be odd")
        self.num_sources, self.kernel_size, self.hop = num_sources, kernel_size, kernel_size // 2
        self.feature_dims = [dim] * num_layers
        self.rotary_dim = min(ROTARY_DIM, qk_dim)
        self.masking, self.gradient_checkpointing = masking, gradient_checkpointing
        self.encoder = nn.Conv1d(1, encoder_dim, kernel_size, self.hop, bias=False)
        self.norm_in = nn.GroupNorm(1, encoder_dim, 1e-8)
        self.proj_in = nn.Linear(encoder_dim, dim, bias=False)
        self.position_scale = nn.Parameter(torch.ones(1))
        self.layers = nn.ModuleList(
            MossFormer2Layer(
                GatedAttention(dim, hidden_dim, qk_dim, group_size, dropout),
                GatedMemory(dim, memory_dim, memory_kernel, dropout),
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.norm_out = nn.GroupNorm(1, dim, 1e-8)
        self.act = nn.PReLU()
        self.split = nn.Linear(dim, num_sources * dim)
        self.output = nn.Linear(dim, dim)
        self.output_gate = nn.Linear(dim, dim)
        self.proj_out = nn.Linear(dim, encoder_dim, bias=False)
        self.decoder = nn.ConvTranspose1d(encoder_dim, 1, kernel_size, self.hop, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture (B, C, T) -> estimates (B, S, C, T). Channels are separated one by one."""
        x, code = self.front(mixture)
        return self.back(self.body(x), code, mixture)

    def front(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) -> features (B*C, D, L) and the code (B*C, N, L)."""
        batch, channels, size = mixture.shape
        behind = max(-size % self.hop, self.kernel_size + self.hop - size)  # whole frames; the memory's norm wants two
        waves = F.pad(mixture.reshape(batch * channels, 1, size), (0, behind))
        with full_precision(mixture):
            code = F.relu(self.encoder(waves))
        return self.proj_in(self.norm_in(code).mT).mT, code

    def body(self, x: Tensor, inject: Inject = as_it_is) -> Tensor:
        """(B, D, L) -> (B, D, L)."""
        length, dim = x.shape[-1], x.shape[1]
        position = angles(length, dim // 2, self.position_scale)
        turn = angles(length, self.rotary_dim // 2, self.position_scale)
        first = x.mT + torch.cat((position.sin(), position.cos()), -1) * self.position_scale  # (B, L, D)
        x = first
        for number, layer in enumerate(self.layers):
            x = inject(x.mT, number).mT
            recompute = self.training and self.gradient_checkpointing
            x = checkpoint(layer, x, turn, use_reentrant=False) if recompute else layer(x, turn)
        return self.norm_out(self.norm(x).mT) + first.mT

    def back(self, x: Tensor, code: Tensor, mixture: Tensor) -> Tensor:
        y = self.split(self.act(x.mT)).unflatten(-1, (self.num_sources, -1))  # (B*C, L, S, D)
        y = torch.tanh(self.output(y)) * torch.sigmoid(self.output_gate(y))
        masks = F.relu(self.proj_out(y)).permute(0, 2, 3, 1)  # (B*C, S, N, L), from 0 up
        return to_waves(self.decoder, code[:, None] * masks if self.masking else masks, mixture)
