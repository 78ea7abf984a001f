"""Speaker encoders that are trained with the extractor: waves (B, T) -> embeddings (B, E), of any level and length.

Both see log-mel spectra over their mean, so that levels do not matter and the long-term spectrum, which tells talkers
apart, stays. Their norms are over one item alone, where the published networks have batch norms: what else is in a
batch changes nothing. Letters: B items, T samples, M mel bands, L frames, D features, E embedding.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tse_lib.nn.enrolment import means_of_frames
from tse_lib.nn.filterbank import full_precision

EPS = 1e-5  # of all norms and deviations


def mel_filters(num_mels: int, n_fft: int, sample_rate: int) -> Tensor:
    """Triangles (M, n_fft / 2 + 1) of equal width on the mel scale, each over its sum.

    Raises:
        ValueError: a triangle lies between two bins.
    """
    hertz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    edges = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + sample_rate / 1400), num_mels + 2) / 2595) - 1)
    low, centre, high = (edges[first : first + num_mels, None] for first in range(3))
    filters = torch.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)).clamp_min(0)
    if not filters.any(1).all():
        raise ValueError(f"num_mels {num_mels}: some have no bin at {sample_rate} Hz; fewer")
    return (filters / filters.sum(1, keepdim=True)).float()


class LogMel(nn.Module):
    """(B, T) -> (B, M, L), 25 ms Hann windows every 10 ms; means of all numbers of an item are 0."""

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, num_mels: int):
        super().__init__()
        window = torch.hann_window(sample_rate // 40)
        self.n_fft = 2 ** math.ceil(math.log2(max(len(window), 2 * sample_rate / 100)))
        self.hop_length = sample_rate // 100
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", mel_filters(num_mels, self.n_fft, sample_rate), persistent=False)

    def forward(self, waves: Tensor) -> Tensor:
        with full_precision(waves):
            waves = F.pad(waves, (0, max(0, self.n_fft // 2 + 1 - waves.shape[-1])))  # reflecting needs as many
            waves = waves / waves.square().mean(-1, keepdim=True).clamp_min(1e-16).sqrt()
            spectrum = torch.stft(
                waves, self.n_fft, self.hop_length, len(self.window), self.window, return_complex=True
            )
            levels = torch.log(self.filters @ torch.view_as_real(spectrum).square().sum(-1) + 1e-6)
            return levels - levels.mean((1, 2), keepdim=True)


def statistics(frames: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean and standard deviation over time, (B, D, L) -> (B, 2*D); `weights` (B, D, L) sum to 1 over time."""
    weights = torch.full_like(frames, 1 / frames.shape[-1]) if weights is None else weights
    mean = (weights * frames).sum(-1)
    variance = (weights * (frames - mean[..., None]).square()).sum(-1)
    return torch.cat((mean, (variance + EPS).sqrt()), 1)


class ToEmbedding(nn.Module):
    """Statistics (B, D) -> embeddings (B, E), with a norm where the published networks have a batch norm.

    All talkers have most of their statistics in common; without a norm what differs is too small for the linear map to
    learn from.
    """

    def __init__(self, dim: int, embedding_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, embedding_dim)

    def forward(self, statistics: Tensor) -> Tensor:
        return self.linear(self.norm(statistics))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a residual (He et al. 2016): (B, D, M, L) -> (B, D', M / stride, L / stride)."""

    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(1, dim, EPS)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(1, dim, EPS)
        changes = stride > 1 or in_dim != dim
        self.shortcut = nn.Conv2d(in_dim, dim, 1, stride, bias=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


class ResNetEncoder(nn.Module):
    """A residual network over the log-mel spectrum, statistics over time, linear map (Zeinali et al. 2019, 1910.12592).

    Args:
        sample_rate: of the waves.
        embedding_dim: E.
        channels: of the stages, each with a residual block; all but the first halve bands and frames.
        num_mels: M.
        scales: statistics are of frames, and of the means of so many frames, one beside the other.
    """

    def __init__(
        self,
        sample_rate: int,
        embedding_dim: int = 128,
        channels: Sequence[int] = (16, 32, 64, 128),
        num_mels: int = 40,
        scales: Sequence[int] = (1,),
    ):
        super().__init__()
        self.embedding_dim, self.scales = embedding_dim, tuple(scales)
        self.mel = LogMel(sample_rate, num_mels)
        self.conv = nn.Conv2d(1, channels[0], 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(1, channels[0], EPS)
        sizes = zip([channels[0], *channels], channels, strict=False)
        self.blocks = nn.Sequential(
            *(ResidualBlock(below, dim, 2 if number else 1) for number, (below, dim) in enumerate(sizes))
        )
        bands = -(-num_mels // 2 ** (len(channels) - 1))
        self.embed = ToEmbedding(2 * len(scales) * channels[-1] * bands, embedding_dim)

    def forward(self, waves: Tensor) -> Tensor:
        """(B, T) -> (B, E)."""
        x = self.norm(self.conv(self.mel(waves)[:, None])).relu()  # (B, D, M, L)
        frames = self.blocks(x).flatten(1, 2)
        return self.embed(torch.cat([statistics(means_of_frames(frames, scale)) for scale in self.scales], 1))


class SqueezedRes2Block(nn.Module):
    """ECAPA's block: dilated convolutions of groups of features, each adding the group before, and a gate by the mean.

    (B, D, L) -> (B, D, L).
    """

    def __init__(self, dim: int, num_groups: int, dilation: int):
        super().__init__()
        width = dim // num_groups
        self.in_conv = nn.Conv1d(dim, dim, 1)
        self.norm = nn.GroupNorm(1, dim, EPS)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation) for _ in range(num_groups - 1)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, width, EPS) for _ in range(num_groups - 1))
        self.out_conv = nn.Conv1d(dim, dim, 1)
        self.out_norm = nn.GroupNorm(1, dim, EPS)
        self.squeeze = nn.Linear(dim, dim // 4)
        self.excite = nn.Linear(dim // 4, dim)

    def forward(self, x: Tensor) -> Tensor:
        first, *groups = self.norm(self.in_conv(x).relu()).chunk(len(self.convs) + 1, 1)
        done = [first]
        for group, conv, norm in zip(groups, self.convs, self.norms, strict=True):
            group = group + done[-1] if len(done) > 1 else group
            done.append(norm(conv(group).relu()))
        y = self.out_norm(self.out_conv(torch.cat(done, 1)).relu())
        gate = self.excite(self.squeeze(y.mean(-1)).relu()).sigmoid()
        return x + y * gate[..., None]


class EcapaEncoder(nn.Module):
    """ECAPA-TDNN: dilated blocks, all their outputs joined, attentive statistics (Desplanques et al. 2020, 2005.07143).

    Args:
        sample_rate: of the waves.
        embedding_dim: E.
        dim: D of the blocks, a multiple of 4 and of num_groups.
        num_groups: of features in a block (the paper's scale).
        num_mels: M.
        scales: as of `ResNetEncoder`.
    """

    def __init__(
        self,
        sample_rate: int,
        embedding_dim: int = 128,
        dim: int = 128,
        num_groups: int = 4,
        num_mels: int = 40,
        scales: Sequence[int] = (1,),
    ):
        super().__init__()
        if dim % num_groups or dim % 4:
            raise ValueError(f"dim {dim} must be a multiple of 4 and of num_groups {num_groups}")
        self.embedding_dim, self.scales = embedding_dim, tuple(scales)
        self.mel = LogMel(sample_rate, num_mels)
        self.conv = nn.Conv1d(num_mels, dim, 5, padding=2)
        self.norm = nn.GroupNorm(1, dim, EPS)
        self.blocks = nn.ModuleList(SqueezedRes2Block(dim, num_groups, dilation) for dilation in (2, 3, 4))
        self.join = nn.Conv1d(3 * dim, 3 * dim, 1)
        self.ask = nn.Conv1d(9 * dim, dim, 1)
        self.attend = nn.Conv1d(dim, 3 * dim, 1, bias=False)  # a bias would be the same for all frames
        self.embed = ToEmbedding(6 * len(scales) * dim, embedding_dim)

    def forward(self, waves: Tensor) -> Tensor:
        """(B, T) -> (B, E)."""
        x = self.norm(self.conv(self.mel(waves)).relu())  # (B, D, L)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        frames = self.join(torch.cat(outputs, 1)).relu()  # (B, 3*D, L)
        return self.embed(torch.cat([self._pool(means_of_frames(frames, scale)) for scale in self.scales], 1))

    def _pool(self, frames: Tensor) -> Tensor:
        whole = statistics(frames)[..., None].expand(-1, -1, frames.shape[-1])
        weights = self.attend(self.ask(torch.cat((frames, whole), 1)).tanh()).softmax(-1)
        return statistics(frames, weights)


SPEAKER_ENCODERS = {"resnet": ResNetEncoder, "ecapa": EcapaEncoder}
