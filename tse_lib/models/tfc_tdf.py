"""TFC-TDF-UNet v3, known as MDX23C (Kim, Choi, Jung, Lee 2023, "Sound demixing challenge 2023 music demixing track
technical report: TFC-TDF-UNet v3", arXiv 2306.09382).

Idea: a U-Net over the complex spectrogram whose blocks look at neighbouring frames and bins with convolutions (TFC) and
at all frequencies of a frame at once with a bottleneck of two linear maps (TDF).

    mixture (B,C,T) -STFT, bins 0…F-1-> (B,2*C,F,L) -subbands-> (B,2*C*K,F/K,L) -1x1-> (B,D,F/K,L), frames first:
        (B,D,L,N) -[block, half as long and as high, growth channels more] x scales-> block
                  -[twice as long and as high, growth channels less, beside the skip, block] x scales-> (B,D,L,N)
        times what went in, beside the spectrogram -1x1, 1x1-> (B,S*2*C*K,F/K,L) -subbands-> (B,S,2*C,F,L)
        -zeros above bin F-1, iSTFT-> (B,S,C,T)

    block: x -norm, act, 3x3-> y; y + TDF(y) -norm, act, 3x3-> z; z + 1x1(x)

Letters: C audio channels, F bins (dim_f), K subbands, N bins of a subband, D features (num_channels), L frames.

All norms are of one channel over the whole input, so that a chunk's length is a part of what is computed. What differs
from the original (github.com/kuielab/sdx23):
- any length: a mixture is mirrored at its end to the next number of frames that the scales divide, and the estimates
  are cut again; the original takes those lengths only;
- one channel given to a network of two is heard twice, and the mean of the two is put out;
- spectra, `network` and waves are three steps, so that the network alone can be exported or run in bfloat16.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.dsp.stft import istft

ACTS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "elu": F.elu}
PIECE = 128  # frames that a convolution takes at once where no gradients are wanted
# The same numbers; with the sums of a block in place, too, a forward pass takes an eighth less memory.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": torch.ops.aten.gelu_, "relu": torch.relu_, "elu": torch.ops.aten.elu_,
}  # fmt: skip


class TFCTDF(nn.Module):
    """The separator (see the head of this file).

    Args:
        num_sources: S.
        audio_channels: C, 2 for stereo.
        n_fft, hop_length: STFT (periodic Hann of n_fft samples, centred).
        dim_f: F, the bins from 0 on that are separated; others are silent.
        num_channels, growth: D, and how many features a scale has more than the one before.
        num_scales, scale: how many, and by what frames and bins are divided from one to the next.
        num_blocks_per_scale: blocks in a row.
        num_subbands: K.
        bottleneck_factor: the TDF's inside has so many times fewer features than there are bins.
        act: gelu, relu or elu.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their activations.
    """

    window: Tensor

    def __init__(
        self,
        num_sources: int = 5,
        audio_channels: int = 2,
        n_fft: int = 2048,
        hop_length: int = 512,
        dim_f: int = 1024,
        num_channels: int = 128,
        growth: int = 128,
        num_scales: int = 5,
        scale: tuple[int, int] = (2, 2),
        num_blocks_per_scale: int = 2,
        num_subbands: int = 4,
        bottleneck_factor: int = 4,
        act: str = "gelu",
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        least = num_subbands * scale[1] ** num_scales
        if dim_f % least or dim_f // least < bottleneck_factor:
            raise ValueError(
                f"dim_f {dim_f} must be a multiple of num_subbands * scale[1]^num_scales = {least}, at least "
                f"bottleneck_factor {bottleneck_factor} times that"
            )
        if not 0 < dim_f <= n_fft // 2 + 1 or not 0 < hop_length <= n_fft // 2:
            raise ValueError(f"n_fft {n_fft}: dim_f at most {n_fft // 2 + 1}, hop_length at most {n_fft // 2}")
        if act not in ACTS:
            raise ValueError(f"act '{act}': one of {', '.join(ACTS)}")
        self.num_sources, self.audio_channels = num_sources, audio_channels
        self.hop_length, self.dim_f = hop_length, dim_f
        self.frame_multiple = scale[0] ** num_scales
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.network = TFCTDFNetwork(
            2 * audio_channels, 2 * audio_channels * num_sources, dim_f, num_channels, growth, num_scales, scale,
            num_blocks_per_scale, num_subbands, bottleneck_factor, act, gradient_checkpointing,
        )  # fmt: skip

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture (B, C, T) -> estimates (B, S, C, T); one channel to any network, else as many as it has.

        Raises:
            ValueError: another number of channels.
        """
        batch, channels, size = mixture.shape
        if self.audio_channels == 1:
            x = mixture.reshape(batch * channels, 1, size)
        elif channels in (1, self.audio_channels):
            x = mixture.expand(batch, self.audio_channels, size)
        else:
            raise ValueError(f"{channels} channels; this network takes {self.audio_channels}, or one")
        spectra = self.spectra(x)
        weight = next(self.network.parameters(), spectra)  # an exported network has none
        waves = self.waves(self.network(spectra.to(weight.dtype)).to(spectra.dtype), size)
        if self.audio_channels == 1:
            return waves.view(batch, channels, self.num_sources, size).transpose(1, 2)
        return waves if channels > 1 else waves.mean(2, keepdim=True)

    def spectra(self, mixture: Tensor) -> Tensor:
        """(B, C, T) -> (B, 2*C, F, L), real and imaginary part of each channel; L fits the scales."""
        waves = mirrored_to(mixture, self.padded_size(mixture.shape[-1])).flatten(0, 1)
        n_fft = len(self.window)
        spectra = torch.stft(
            waves, n_fft, self.hop_length, window=self.window, center=True, pad_mode="reflect", return_complex=True
        )
        parts = torch.view_as_real(spectra[:, : self.dim_f]).permute(0, 3, 1, 2)  # (B*C, 2, F, L)
        return parts.reshape(len(mixture), -1, *parts.shape[2:])

    def waves(self, spectra: Tensor, size: int) -> Tensor:
        """(B, S*2*C, F, L) -> (B, S, C, size)."""
        n_fft, frames = len(self.window), spectra.shape[-1]
        spectra = F.pad(spectra, (0, 0, 0, n_fft // 2 + 1 - self.dim_f))
        parts = spectra.reshape(-1, 2, n_fft // 2 + 1, frames).permute(0, 2, 3, 1).contiguous()
        waves = istft(torch.view_as_complex(parts), self.window, self.hop_length, size)
        return waves.view(len(spectra), self.num_sources, self.audio_channels, size)

    def padded_size(self, size: int) -> int:
        """The next number of samples whose frames the scales divide, and which the STFT can reflect."""
        frames = max(1 + -(-size // self.hop_length), 2 + len(self.window) // 2 // self.hop_length)
        frames = -(-frames // self.frame_multiple) * self.frame_multiple
        return self.hop_length * (frames - 1)


class TFCTDFNetwork(nn.Module):
    """What is between the two transforms: (B, 2*C, F, L) -> (B, S*2*C, F, L)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dim_f: int,
        num_channels: int,
        growth: int,
        num_scales: int,
        scale: tuple[int, int],
        num_blocks: int,
        num_subbands: int,
        bottleneck_factor: int,
        act: str,
        gradient_checkpointing: bool,
    ):
        super().__init__()
        time, freq = scale  # a conf's is a list
        self.num_subbands, self.act, self.gradient_checkpointing = num_subbands, act, gradient_checkpointing
        widths = [num_channels + growth * number for number in range(num_scales + 1)]
        bins = [dim_f // num_subbands // freq**number for number in range(num_scales + 1)]

        def stack(dim_in: int, number: int) -> nn.Sequential:
            dims = [dim_in] + [widths[number]] * num_blocks
            return nn.Sequential(
                *(
                    TFCTDFBlock(before, after, bins[number], bottleneck_factor, act)
                    for before, after in zip(dims, dims[1:], strict=False)
                )
            )

        self.first_conv = nn.Conv2d(in_channels * num_subbands, num_channels, 1, bias=False)
        self.encoders = nn.ModuleList(stack(widths[number], number) for number in range(num_scales))
        self.downs = nn.ModuleList(
            NormActConv(
                widths[number],
                nn.Conv2d(widths[number], widths[number + 1], (time, freq), (time, freq), bias=False),
                act,
            )
            for number in range(num_scales)
        )
        self.bottleneck = stack(widths[-1], num_scales)
        self.ups = nn.ModuleList(
            NormActConv(
                widths[number + 1],
                nn.ConvTranspose2d(widths[number + 1], widths[number], (time, freq), (time, freq), bias=False),
                act,
            )
            for number in reversed(range(num_scales))
        )
        self.decoders = nn.ModuleList(stack(2 * widths[number], number) for number in reversed(range(num_scales)))
        self.mix_conv = nn.Conv2d(in_channels * num_subbands + num_channels, num_channels, 1, bias=False)
        self.final_conv = nn.Conv2d(num_channels, out_channels * num_subbands, 1, bias=False)

    def forward(self, spectra: Tensor) -> Tensor:
        batch, _, dim_f, frames = spectra.shape
        mix = spectra.reshape(batch, -1, dim_f // self.num_subbands, frames)
        x, skips = self.first_conv(mix).transpose(2, 3), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            for block in encoder.children():
                x = self.run(block, x)
            skips.append(x)
            x = down(x)
        for block in self.bottleneck.children():
            x = self.run(block, x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = torch.cat([up(x), skips.pop()], 1)
            for block in decoder.children():
                x = self.run(block, x)
        x = x.transpose(2, 3) * self.first_conv(mix)  # again, as it would be large to keep
        x = self.final_conv(ACTS[self.act](self.mix_conv(torch.cat([mix, x], 1))))
        return x.reshape(batch, -1, dim_f, frames)

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return checkpoint(block, x, use_reentrant=False)
        return block(x)


class TFCTDFBlock(nn.Module):
    """(B, D, L, N) -> (B, D', L, N): see the head of this file."""

    def __init__(self, dim_in: int, dim_out: int, num_bins: int, bottleneck_factor: int, act: str):
        super().__init__()
        self.tfc1 = NormActConv(dim_in, nn.Conv2d(dim_in, dim_out, 3, padding=1, bias=False), act)
        self.squeeze = NormActConv(dim_out, nn.Linear(num_bins, num_bins // bottleneck_factor, bias=False), act)
        self.expand = NormActConv(dim_out, nn.Linear(num_bins // bottleneck_factor, num_bins, bias=False), act)
        self.tfc2 = NormActConv(dim_out, nn.Conv2d(dim_out, dim_out, 3, padding=1, bias=False), act)
        self.shortcut = nn.Conv2d(dim_in, dim_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tfc1(x)
        y = self.expand(self.squeeze(y)).add_(y)
        return self.tfc2(y).add_(self.shortcut(x))


class NormActConv(nn.Module):
    """Norm, activation, then a convolution, or a linear map along the bins."""

    def __init__(self, dim: int, conv: nn.Module, act: str):
        super().__init__()
        self.norm = nn.InstanceNorm2d(dim, affine=True)
        self.conv, self.act = conv, act

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if x.requires_grad:
            return self.conv(ACTS[self.act](x))
        return in_pieces(self.conv, IN_PLACE[self.act](x))


def in_pieces(conv: nn.Module, x: Tensor) -> Tensor:
    """conv(x), a 3x3 one for a few frames at once: the same numbers in a fourth less memory, as processors copy what
    goes in and out into a layout of their own."""
    frames = x.shape[2]
    whole = torch.compiler.is_compiling() or bool(conv._forward_hooks)  # those who count its work want to see it
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (3, 3) or whole:
        return conv(x)
    out = x.new_empty(len(x), conv.out_channels, *x.shape[2:])
    for begin in range(0, frames, PIECE):
        end = min(begin + PIECE, frames)
        piece = F.pad(x[:, :, max(0, begin - 1) : end + 1], (0, 0, int(begin == 0), int(end == frames)))
        out[:, :, begin:end] = F.conv2d(piece, conv.weight, padding=(0, 1))
    return out


def mirrored_to(x: Tensor, size: int) -> Tensor:
    """(…, T) -> (…, size): back and forth between its ends, however short it is."""
    length = x.shape[-1]
    if size == length:
        return x
    period = max(1, 2 * (length - 1))
    at = torch.arange(size, device=x.device) % period
    return x[..., torch.where(at < length, at, period - at)]
