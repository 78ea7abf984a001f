"""X-TF-GridNet: TF-GridNet that is told whom to extract (Hao et al., Information Fusion 112, 2024, 102550).

Idea: a talker's vector from a U-shaped encoder along frequency goes before each TF-GridNet block anew, and each time it
is adapted first: it asks all frames and bins of the mixture, as they are by then, and adds some of the answer.

    enroll (B,E,T_e) -level, STFT, conv-> (B*E,D,L_e,F) -[U-net, mean of 3 frames] x 4, mean, linear-> embedding (B,D)
    mixture (B,C,T) -level, STFT, conv-> (B*C,L,F,D) -[fusion, bins, frames, attention] x blocks-
                    -deconv-> (B*C,2,L,F) -iSTFT, level-> (B,1,C,T)

Letters: L frames, F bins, D features (emb_dim), I and J unfolded neighbours and their hop (emb_ks, emb_hs).

The defaults are the published base, 7,787,374 parameters; with num_blocks 5 it is Large, 12,676,424. Of both, 6,565
classify the 101 talkers of WSJ0-2mix (`speaker_logits`), an auxiliary task of training. What differs:
- `compat: true` keeps the original's norms, which add eps to the variance and to its root (the output moves by some
  1e-4 of itself); weights trained with one work with the other;
- enrolments that give less than 81 frames (0.65 s), of which the original makes no number, are repeated;
- each enrolment is encoded by its own length: the original pads those of a batch before the norm over all frames;
- a mixture shorter than half a window is padded, and a silent one stays silent (the original divides by its level, 0).
As in TF-GridNet, samples behind the last frame's centre can come out loud. Batch norms of the talkers' encoder make an
item's gradient depend on the others of its batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.enrolment import each_at_its_length, mean_of_present, means, pack, sizes_of
from tse_lib.nn.gridnet import FullBandAttention, GridNetBlock, UnfoldedPath, from_grid, to_grid


class GuardedNorm(nn.Module):
    """A LayerNorm that divides by the root of variance + eps, plus eps once more, as published."""

    def __init__(self, shape: int | tuple[int, ...], eps: float, elementwise_affine: bool = True):
        super().__init__()
        self.dims = tuple(range(-len(shape), 0)) if isinstance(shape, tuple) else (-1,)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(shape)) if elementwise_affine else None
        self.bias = nn.Parameter(torch.zeros(shape)) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, self.dims, correction=0, keepdim=True)
        y = (x - mean) / ((variance + self.eps).sqrt() + self.eps)
        return y if self.weight is None or self.bias is None else y * self.weight + self.bias


class FrequencyUNet(nn.Module):
    """A gated convolution that halves the bins, a U of `depth` further halvings around it, the mean of every 3 frames.

    (B, D, L, F) -> (B, D, L // 3, (F - kernel) // 2 + 1). Frames do not mix but in the mean.
    """

    def __init__(self, dim: int, kernel: int, depth: int):
        super().__init__()
        self.in_conv = nn.Conv2d(dim, 2 * dim, (1, kernel), (1, 2))
        self.in_norm = nn.BatchNorm2d(dim)
        self.in_act = nn.PReLU(dim)
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, (1, 3), (1, 2)), nn.BatchNorm2d(dim), nn.PReLU(dim)) for _ in range(depth)
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(2 * dim if number else dim, dim, (1, 3), (1, 2)), nn.BatchNorm2d(dim), nn.PReLU(dim)
            )
            for number in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        outer = self.in_act(self.in_norm(F.glu(self.in_conv(x), 1)))
        levels = [outer]
        for down in self.down:
            levels.append(down(levels[-1]))
        y = levels[-1]
        for number, up in enumerate(self.up):
            y = up(torch.cat((y, levels[-1 - number]), 1) if number else y)
        return F.avg_pool2d(outer + y, (3, 1))


class Fusion(nn.Module):
    """The talker's vector, adapted to what is left of the mixture, beside each of its frames and bins.

    x (B, L, F, D), voice (B, D) -> (B, L, F, D). `alpha` says how much of the answer is taken: none at the start.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.alpha = nn.Parameter(torch.zeros(dim))
        self.linear = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, voice: Tensor) -> Tensor:
        places, asked = x.flatten(1, 2), voice[:, None]  # (B, L*F, D), (B, 1, D)
        answer, _ = self.attn(asked, places, places, need_weights=False)
        adapted = (asked + self.alpha * answer)[:, None].expand_as(x)
        return self.linear(torch.cat((x, adapted), -1))


def check_halvings(n_fft: int, kernels: list[int], depths: list[int]) -> None:
    """Raises: ValueError: a U-net would not come back to the number of bins that it begins with."""
    bins = n_fft // 2 + 1
    for kernel, depth in zip(kernels, depths, strict=True):
        bins = inner = (bins - kernel) // 2 + 1
        for _ in range(depth):
            if inner < 3 or inner % 2 == 0:
                raise ValueError(
                    f"n_fft {n_fft}: its {n_fft // 2 + 1} bins cannot be halved as unet_depths {depths} want; "
                    "a power of two can, if it is large enough"
                )
            inner = inner // 2


class XTFGridNet(nn.Module):
    """The extractor (see the head of this file).

    Args:
        n_fft, hop_length: STFT (periodic Hann of n_fft samples, centred).
        num_blocks: how many.
        emb_dim, emb_ks, emb_hs: D, I and J.
        lstm_hidden: of each direction.
        num_heads, qk_dim: of the attention among frames; qk_dim are a head's features of queries and keys in each bin.
        fusion_heads: of the attention that adapts the talker's vector.
        unet_depths: halvings inside each of the U-nets.
        num_speakers: talkers of the training set, for `speaker_logits`.
        dropout: of the attention that adapts the talker's vector, while training.
        eps: of the norms.
        compat: the norms as published (see above).
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their activations.
    """

    window: Tensor

    has_idle_parameters = True  # the classifier

    def __init__(
        self,
        n_fft: int = 256,
        hop_length: int = 64,
        num_blocks: int = 3,
        emb_dim: int = 64,
        emb_ks: int = 4,
        emb_hs: int = 2,
        lstm_hidden: int = 256,
        num_heads: int = 4,
        qk_dim: int = 4,
        fusion_heads: int = 4,
        unet_depths: tuple[int, ...] | list[int] = (4, 3, 2, 1),
        num_speakers: int = 101,
        dropout: float = 0.1,
        eps: float = 1e-5,
        compat: bool = False,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        if emb_dim % num_heads or emb_dim % fusion_heads:
            raise ValueError(
                f"emb_dim {emb_dim} must be a multiple of num_heads {num_heads}, fusion_heads {fusion_heads}"
            )
        if not 0 < emb_hs <= emb_ks:
            raise ValueError(f"0 < emb_hs {emb_hs} <= emb_ks {emb_ks} must hold")
        if n_fft % 2 or not 0 < hop_length <= n_fft // 2:
            raise ValueError(f"n_fft {n_fft} must be even and hop_length {hop_length} at most half of it")
        kernels = [5, *[3] * (len(unet_depths) - 1)]
        check_halvings(n_fft, kernels, list(unet_depths))
        self.hop_length, self.gradient_checkpointing = hop_length, gradient_checkpointing
        self.pooled = 3 ** len(unet_depths)  # frames of an enrolment that become one
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        norm = GuardedNorm if compat else nn.LayerNorm

        def path() -> UnfoldedPath:
            lstm = nn.LSTM(emb_dim * emb_ks, lstm_hidden, batch_first=True, bidirectional=True)
            return UnfoldedPath(emb_dim, emb_ks, emb_hs, lstm, 2 * lstm_hidden, eps, stacked=False, norm=norm)

        def attention() -> FullBandAttention:
            return FullBandAttention(emb_dim, num_heads, qk_dim, n_fft // 2 + 1, eps, norm=norm)

        self.conv = nn.Conv2d(2, emb_dim, 3, padding=1)
        self.conv_norm = nn.GroupNorm(1, emb_dim, eps)
        self.unets = nn.Sequential(
            *(FrequencyUNet(emb_dim, kernel, depth) for kernel, depth in zip(kernels, unet_depths, strict=True))
        )
        self.speaker_linear = nn.Linear(emb_dim, emb_dim)
        self.classifier = nn.Linear(emb_dim, num_speakers)
        self.fusions = nn.ModuleList(Fusion(emb_dim, fusion_heads, dropout) for _ in range(num_blocks))
        self.blocks = nn.ModuleList(
            GridNetBlock(path(), path(), attention(), pad_both=False) for _ in range(num_blocks)
        )
        self.deconv = nn.ConvTranspose2d(emb_dim, 2, 3, padding=1)

    def encode(self, enroll: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Enrolments to a condition.

        Args:
            enroll: (B, E, T_e), zero-padded.
            lengths: (B, E) samples of each, on the CPU; 0 for an enrolment that is not there. None: all whole.

        Returns:
            {"embedding": (B, D)}, the mean over the enrolments of an item.
        """
        sizes = sizes_of(enroll, lengths)
        features = each_at_its_length(
            lambda waves: self._features(self._levelled(waves)[0]), enroll.flatten(0, 1), sizes
        )
        packed, shares = pack(features, self.pooled)  # batch norms see frames of enrolments only
        vectors = self.speaker_linear(means(self.unets(packed), shares))
        return {"embedding": mean_of_present(vectors, lengths, len(enroll))}

    def forward(self, mixture: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """mixture (B, C, T), condition of `encode` -> estimate (B, 1, C, T). Channels are extracted one by one."""
        batch, channels, size = mixture.shape
        waves, level = self._levelled(mixture.flatten(0, 1))
        voice = condition["embedding"].repeat_interleave(channels, 0)
        x = self._features(waves).permute(0, 2, 3, 1)  # (B*C, L, F, D)
        for fusion, block in zip(self.fusions, self.blocks, strict=True):
            x = fusion(x, voice)
            recompute = self.training and self.gradient_checkpointing
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        spectrum = self.deconv(x.permute(0, 3, 1, 2))  # (B*C, 2, L, F)
        estimate = from_grid(spectrum, self.window, self.hop_length, waves.shape[-1])[:, 0, :size] * level
        return estimate.view(batch, 1, channels, size)

    def speaker_logits(self, condition: dict[str, Tensor]) -> Tensor:
        """condition of `encode` -> (B, talkers it was trained with), for a cross-entropy beside the loss."""
        return self.classifier(condition["embedding"])

    def _levelled(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) -> at least half a window of samples with a deviation of 1, and what they were divided by, (B, 1)."""
        waves = F.pad(waves, (0, max(0, len(self.window) // 2 + 1 - waves.shape[-1])))  # the STFT reflects as many
        level = waves.std(-1, correction=0, keepdim=True).clamp_min(1e-8)
        return waves / level, level

    def _features(self, waves: Tensor) -> Tensor:
        """(B, T) -> (B, D, L, F)."""
        return self.conv_norm(self.conv(to_grid(waves, self.window, self.hop_length)))
