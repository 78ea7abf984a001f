"""HiFi-TSE: target speaker extraction with a band-split grid of LSTMs (v1 and v2 of the HiFi_TSE project, 2025).

Idea: cut the spectrogram into overlapping bands, let every band of the mixture attend to the same band of the enrolment
(USEF), refine on the grid of frames and bands with the enrolment injected again and again, and mask the mixture.

    mixture (B,1,T) -STFT-> (B,L,F,2) -split-> (B,L,N,D) -USEF-> -FiLM-> [reinject, grid block] x M -merge-> mask
    enroll (B,E,T_e) -the same STFT and split-> frames (B,L_e,N,D)                mask x mixture -iSTFT-> (B,1,1,T)

Letters: L frames, F bins, N bands, D features, M blocks, w bins of one band.

v1 and v2 are configurations of this file: v1 has lstm_hidden 192, reinject_at [0,2,4], film false; v2 has lstm_hidden
256, reinject before every block, film true. Parameters at the 53 bands of 48 kHz: 7,805,420 and 11,785,196.

What differs from the original, all of it off in v1 and v2:
- `attention: false` leaves the self-attention out of the blocks (cheap on a CPU, where LSTMs already dominate);
- `normalize: true` divides mixture and enrolment by their RMS and multiplies the mixture's back, so that the level of
  a recording cannot matter (the original sees it; its training levels were never varied);
- `levels: true` adds each band's log power to its features: the norm of a band, frame by frame, makes a pause look
  like speech, and a small network learns much faster when it need not guess;
- `bands` may be a number: then they are cut on the mel scale for any sample rate;
- the next steps that its authors planned: `adaln: true` lets the enrolment's mean set gains and shifts of every norm in
  the blocks (with `film: false`: in place of the one FiLM); `enroll_scales: [1, 2, 4]` offers the attentions the
  enrolment's frames and the means of every two and four; `time_rnn: mamba` has a selective scan in each direction where
  the LSTM along time was. Larger sizes than v2 at 48 kHz: lstm_hidden 384 has 21,640,172 parameters, 8 blocks have
  15,476,204, both 28,616,172 (their plans say 18, 16 and 24 M).
Several enrolments are concatenated along time, so the attention chooses among all of them; padding is masked.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.conditioning import Film, Inject, UsefAttention, as_it_is, drop_condition, mean_over_time
from tse_lib.nn.enrolment import at_scales, check_scales, frames_of_each
from tse_lib.nn.grid_block import GridBlock

TIME_RNNS = ("lstm", "mamba")


def mel_bands(num_bands: int, n_fft: int, sample_rate: int) -> list[tuple[int, int]]:
    """Neighbouring bands (first bin, last bin) of equal width on the mel scale, each of at least 2 bins.

    Raises:
        ValueError: more bands than the bins allow.
    """
    bins = n_fft // 2 + 1
    if not 1 <= num_bands <= bins // 2:
        raise ValueError(f"bands: {num_bands} bands do not fit into {bins} bins; at most {bins // 2}")
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = [0]
    for number in range(1, num_bands):
        hertz = 700 * (10 ** (top * number / num_bands / 2595) - 1)
        wanted = round(hertz / (sample_rate / 2) * (bins - 1))
        edges.append(min(max(wanted, edges[-1] + 2), bins - 2 * (num_bands - number)))
    return [(first, last - 1) for first, last in zip(edges, edges[1:] + [bins], strict=True)]


class BandSplit(nn.Module):
    """Each band's bins, real and imaginary interleaved, to D features: (B, L, F, 2) -> (B, L, N, D)."""

    def __init__(self, bands: list[tuple[int, int]], dim: int, levels: bool):
        super().__init__()
        self.bands = bands
        widths = [2 * (last - first + 1) for first, last in bands]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.projections = nn.ModuleList(nn.Linear(width, dim) for width in widths)
        self.level_proj = nn.Linear(1, dim) if levels else None

    def forward(self, spectrum: Tensor) -> Tensor:
        features = [
            project(norm(spectrum[:, :, first : last + 1].flatten(2)))  # (B, L, 2w) -> (B, L, D)
            for (first, last), norm, project in zip(self.bands, self.norms, self.projections, strict=True)
        ]
        x = torch.stack(features, 2)
        if self.level_proj is None:
            return x
        power = spectrum.square().sum(-1)  # (B, L, F)
        powers = [power[:, :, first : last + 1].mean(-1) for first, last in self.bands]
        return x + self.level_proj(torch.log10(torch.stack(powers, 2) + 1e-6)[..., None])


class BandMerge(nn.Module):
    """D features a band to a complex mask, averaged where bands overlap: (B, L, N, D) -> (B, L, F, 2)."""

    bins: Tensor
    cover: Tensor

    def __init__(self, bands: list[tuple[int, int]], dim: int, num_bins: int):
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(dim, 2 * (last - first + 1)) for first, last in bands)
        bins = torch.cat([torch.arange(first, last + 1) for first, last in bands])
        self.register_buffer("bins", bins, persistent=False)
        cover = torch.zeros(num_bins).index_add(0, bins, torch.ones(len(bins)))  # how many bands a bin is in
        self.register_buffer("cover", cover[:, None], persistent=False)
        for project in self.projections:  # the mask starts as 1 + 0i: the untrained output is the mixture
            nn.init.normal_(project.weight, std=1e-4)  # type: ignore[arg-type]
            with torch.no_grad():
                project.bias.view(-1, 2).copy_(torch.tensor([1.0, 0.0]))  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.cat([project(x[:, :, band]) for band, project in enumerate(self.projections)], -1)
        parts = parts.float() if parts.dtype == torch.bfloat16 else parts
        parts = parts.unflatten(-1, (-1, 2))  # (B, L, sum of w, 2)
        mask = parts.new_zeros(*parts.shape[:2], len(self.cover), 2)
        return mask.index_add(2, self.bins, parts) / self.cover


class GridNet(nn.Module):
    """The stack of blocks, and what injects the enrolment again before those in `reinject_at`.

    `options` are those of a `GridBlock` behind its sizes.
    """

    def __init__(self, dim: int, hidden: int, num_heads: int, num_blocks: int, reinject_at: list[int], **options: Any):
        super().__init__()
        self.blocks = nn.ModuleList(GridBlock(dim, hidden, num_heads, **options) for _ in range(num_blocks))
        self.reinject_layers = nn.ModuleDict({str(i): UsefAttention(dim, num_heads) for i in sorted(reinject_at)})

    def forward(self, x: Tensor, inject: Inject, talker: Tensor | None, recompute: bool) -> Tensor:
        """(B, L, N, D) -> (B, L, N, D); `inject` gets (B, D, L, N), `talker` (B, N, D) the norms of `adaln`."""
        for number, block in enumerate(self.blocks):
            x = inject(x.permute(0, 3, 1, 2), number).permute(0, 2, 3, 1)
            x = checkpoint(block, x, talker, use_reentrant=False) if recompute else block(x, talker)
        return x


class HiFiTSE(nn.Module):
    """The extractor (see the head of this file).

    Args:
        sample_rate: of mixtures and enrolments.
        n_fft, win_length, hop_length: STFT (periodic Hann, centred); win_length 0 means n_fft.
        bands: inclusive bin ranges [[first, last], …] that cover every bin (they may overlap), or how many to cut.
        feature_dim, lstm_hidden, num_heads, num_blocks: sizes.
        reinject_at: numbers of the blocks that the enrolment is injected before.
        film: scale and shift by the enrolment's mean after the first injection.
        attention: self-attention over time in each block.
        normalize: make the network blind to levels.
        levels: give each band's level to its features (the band's norm hides it).
        adaln: the norms of the blocks take their gains and shifts from the enrolment's mean (Peebles and Xie 2023,
            arXiv 2212.09748).
        enroll_scales: the attentions see the enrolment at these resolutions, as means of so many frames.
        time_rnn: of the blocks along time, lstm or mamba (Gu and Dao 2023, arXiv 2312.00752).
        condition_dropout: probability (training) that an item's whole condition is zeroed.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their activations.
    """

    window: Tensor

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        bands: list[list[int]] | int,
        feature_dim: int,
        lstm_hidden: int,
        num_blocks: int,
        reinject_at: list[int],
        num_heads: int = 4,
        win_length: int = 0,
        film: bool = True,
        attention: bool = True,
        normalize: bool = False,
        levels: bool = False,
        adaln: bool = False,
        enroll_scales: list[int] | tuple[int, ...] = (1,),
        time_rnn: str = "lstm",
        condition_dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        table = mel_bands(bands, n_fft, sample_rate) if isinstance(bands, int) else [(a, b) for a, b in bands]
        num_bins = n_fft // 2 + 1
        covered = {number for first, last in table for number in range(first, last + 1)}
        if covered != set(range(num_bins)):
            odd = sorted(covered ^ set(range(num_bins)))
            raise ValueError(f"bands: must cover the bins 0 to {num_bins - 1} exactly; wrong at {odd[:5]}")
        bad = [number for number in reinject_at if not 0 <= number < num_blocks]
        if bad:
            raise ValueError(f"reinject_at: {bad} name no block; there are 0 to {num_blocks - 1}")
        if feature_dim % num_heads:
            raise ValueError(f"feature_dim {feature_dim} must be a multiple of num_heads {num_heads}")
        if not 0 < hop_length <= (win_length or n_fft) <= n_fft:
            raise ValueError(f"0 < hop_length {hop_length} <= win_length {win_length} <= n_fft {n_fft} must hold")
        check_scales("enroll_scales", enroll_scales)
        if time_rnn not in TIME_RNNS:
            raise ValueError(f"time_rnn: '{time_rnn}' is none of {', '.join(TIME_RNNS)}")
        self.sample_rate = sample_rate
        self.n_fft, self.win_length, self.hop_length = n_fft, win_length or n_fft, hop_length
        self.normalize, self.condition_dropout = normalize, condition_dropout
        self.adaln, self.enroll_scales = adaln, tuple(enroll_scales)
        self.gradient_checkpointing, self.feature_dims = gradient_checkpointing, [feature_dim] * num_blocks
        self.register_buffer("window", torch.hann_window(self.win_length), persistent=False)
        self.encoder = BandSplit(table, feature_dim, levels)
        self.usef = UsefAttention(feature_dim, num_heads)
        self.film = Film(feature_dim) if film else None
        options = {"attention": attention, "time_rnn": time_rnn, "adaln": adaln}
        self.gridnet = GridNet(feature_dim, lstm_hidden, num_heads, num_blocks, reinject_at, **options)
        self.decoder = BandMerge(table, feature_dim, num_bins)

    # ------------------------------------------------------------------------------------------------- the contract

    def encode(self, enroll: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Enrolments to a condition: plain tensors that can be kept for a long file or saved as a profile.

        Args:
            enroll: (B, E, T_e), zero-padded.
            lengths: (B, E) samples of each, on the CPU; 0 for an enrolment that is not there. None: all whole.

        Returns:
            {"frames": (B, L_e, N, D)}: features of all E enrolments one after the other, each at all its scales; with
            "valid" (B, L_e), false for padding, where items differ in L_e.
        """

        def features(waves: Tensor) -> Tensor:
            return at_scales(self.encoder(self._stft(waves)), self.enroll_scales)

        frames, valid = frames_of_each(features, enroll, lengths)
        condition = {"frames": frames}
        return condition if valid is None else {**condition, "valid": valid}

    def forward(self, mixture: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """mixture (B, C, T), condition of `encode` -> estimate (B, 1, C, T). Channels are extracted one by one."""
        channels = mixture.shape[1]
        if self.training and self.condition_dropout > 0:
            condition = drop_condition(condition, self.condition_dropout)
        frames, valid = condition["frames"], condition.get("valid")
        if channels > 1:
            frames = frames.repeat_interleave(channels, 0)
            valid = None if valid is None else valid.repeat_interleave(channels, 0)

        def inject(x: Tensor, place: int) -> Tensor:
            x = x.permute(0, 2, 3, 1)  # (B*C, L, N, D)
            if place == 0:
                x = self.usef(x, frames, valid)
                x = x if self.film is None else self.film(x, frames, valid)
            if str(place) in self.gridnet.reinject_layers:
                x = self.gridnet.reinject_layers[str(place)](x, frames, valid)
            return x.permute(0, 3, 1, 2)

        talker = mean_over_time(frames, valid) if self.adaln else None
        x, spectrum = self.front(mixture)
        return self.back(self.body(x, inject, talker), spectrum, mixture)

    def front(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) -> features (B*C, D, L, N) and the spectrum (B*C, L, F, 2)."""
        spectrum = self._stft(mixture.flatten(0, 1))
        return self.encoder(spectrum).permute(0, 3, 1, 2), spectrum

    def body(self, x: Tensor, inject: Inject = as_it_is, talker: Tensor | None = None) -> Tensor:
        """(B, D, L, N) -> (B, D, L, N); `talker` (B, N, D) is for the norms of `adaln`."""
        recompute = self.training and self.gradient_checkpointing
        return self.gridnet(x.permute(0, 2, 3, 1), inject, talker, recompute).permute(0, 3, 1, 2)

    def back(self, x: Tensor, spectrum: Tensor, mixture: Tensor) -> Tensor:
        batch, channels, size = mixture.shape
        mask = torch.view_as_complex(self.decoder(x.permute(0, 2, 3, 1)))  # (B*C, L, F)
        estimate = self._istft(mask * torch.view_as_complex(spectrum), size)
        return (estimate * self._level(mixture.flatten(0, 1))).view(batch, 1, channels, size)

    # --------------------------------------------------------------------------------------------------- transforms

    def _level(self, waves: Tensor) -> Tensor | float:
        if not self.normalize:
            return 1.0
        return waves.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-5)

    def _stft(self, waves: Tensor) -> Tensor:
        """(B, T) -> (B, L, F, 2), never in half precision."""
        waves = waves / self._level(waves)
        shortfall = self.n_fft // 2 + 1 - waves.shape[-1]  # reflecting at the edge needs more than half a window
        if shortfall > 0:
            waves = F.pad(waves, (0, shortfall))
        spectrum = torch.stft(waves, self.n_fft, self.hop_length, self.win_length, self.window, return_complex=True)
        return torch.view_as_real(spectrum.transpose(1, 2).contiguous())

    def _istft(self, spectrum: Tensor, size: int) -> Tensor:
        """(B, L, F) complex -> (B, T)."""
        length = max(size, self.n_fft // 2 + 1)
        waves = torch.istft(
            spectrum.transpose(1, 2), self.n_fft, self.hop_length, self.win_length, self.window, length=length
        )
        return waves[..., :size]
