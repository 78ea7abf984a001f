"""SepMamba: separation of waveforms by a U-Net of Mambas (Avenstrup et al. 2024, arXiv 2410.20997).

Idea: strided convolutions halve the rate again and again, state-space layers remember at each rate, and the way back up
joins what each rate knows; the waveforms come out directly, without spectrum or mask.

    mixture (B,C,T) -> (B*C,1,T) -down-> D at T/2 -down-> 2*D at T/4 -down-> 4*D at T/8
                                         |skip            |skip                 |
        (B,S,C,T) <-decoder-  D at T/2 <-up-  2*D at T/4      <-up-             +

Each step down is convolution, ReLU, Mambas; each step up is transposed convolution, ReLU, skip joined, 1x1 convolution,
ReLU, Mambas. The Mambas are pre-norm layers forwards in time and others backwards, their outputs added. `causal: true`
leaves the latter out, and its presets have twice as many of the former, so that the sizes are the same.

Causal means that the Mambas know no future. The convolutions are not shifted, so that an output sample still hears the
(16 - 1) * (1 + 2 + 4) = 105 samples after it, 13 ms at 8 kHz.

What differs from the original: a mixture is padded with zeros to the next length that the convolutions use up, and the
estimates are cut to its length (the original's may be a sample shorter than the mixture).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tse_lib.nn.conditioning import Inject, as_it_is
from tse_lib.nn.filterbank import checked_steps, full_precision
from tse_lib.nn.mamba import MambaStack


class Down(nn.Module):
    """(B, D, T) -> (B, D', T'), T' = (T - kernel) // stride + 1."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, num_blocks: int, causal: bool):
        super().__init__()
        self.conv = nn.Conv1d(in_dim, dim, kernel, stride)
        self.mamba = MambaStack(dim, num_blocks, nn.LayerNorm, causal=causal)

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):  # the first one's input is a wave
            x = self.conv(x.to(self.conv.weight.dtype))
        return self.mamba(F.relu(x).mT).mT


class Up(nn.Module):
    """x (B, D', T') and a skip (B, D, T) -> (B, D, T)."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, num_blocks: int, causal: bool):
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_dim, dim, kernel, stride)
        self.fusion = nn.Conv1d(2 * dim, dim, 1)
        self.mamba = MambaStack(dim, num_blocks, nn.LayerNorm, causal=causal)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = F.pad(x, (0, skip.shape[-1] - x.shape[-1]))  # what no step of the convolution down reached
        return self.mamba(F.relu(self.fusion(torch.cat([skip, x], 1))).mT).mT


class SepMamba(nn.Module):
    """The separator (see the head of this file).

    Args:
        num_sources: S.
        dim: features D after the first convolution; each further one doubles them.
        kernel_sizes, strides: of the convolutions down, the first first; those up have them in reverse.
        num_blocks: Mambas in each direction at each of the steps.
        causal: forwards in time only.
        gradient_checkpointing: recompute each step in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        num_sources: int = 2,
        dim: int = 64,
        kernel_sizes: tuple[int, ...] = (16, 16, 16),
        strides: tuple[int, ...] = (2, 2, 2),
        num_blocks: int = 4,
        causal: bool = False,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.steps = checked_steps(kernel_sizes, strides)
        self.num_sources, self.gradient_checkpointing = num_sources, gradient_checkpointing
        dims = [1, *(dim * 2**number for number in range(len(self.steps)))]
        self.feature_dims = dims[1:]
        sizes = list(zip(dims, dims[1:], kernel_sizes, strides, strict=False))
        self.down = nn.ModuleList(Down(low, high, k, s, num_blocks, causal) for low, high, k, s in sizes)
        self.up = nn.ModuleList(Up(high, low, k, s, num_blocks, causal) for low, high, k, s in reversed(sizes[1:]))
        self.decoder = nn.ConvTranspose1d(dim, num_sources, kernel_sizes[0], strides[0])

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture (B, C, T) -> estimates (B, S, C, T). Channels are separated one by one."""
        x, _ = self.front(mixture)
        return self.back(self.body(x), None, mixture)

    def front(self, mixture: Tensor) -> tuple[Tensor, None]:
        """(B, C, T) -> the features (B*C, D, T') of the first step down; there is no spectrum."""
        batch, channels, size = mixture.shape
        waves = F.pad(mixture.reshape(batch * channels, 1, size), (0, self._used_size(size) - size))
        return self._run(self.down[0], waves), None

    def body(self, x: Tensor, inject: Inject = as_it_is) -> Tensor:
        """(B, D, T') -> (B, D, T'). What is injected after a step down goes on through its skip, too."""
        skips = [inject(x, 0)]
        for number, down in enumerate(self.down[1:], 1):
            skips.append(inject(self._run(down, skips[-1]), number))
        x = skips.pop()
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = self._run(up, x, skip)
        return x

    def back(self, x: Tensor, spectrum: None, mixture: Tensor) -> Tensor:
        batch, channels, size = mixture.shape
        with full_precision(x):
            estimates = self.decoder(x.to(self.decoder.weight.dtype))[..., :size]  # (B*C, S, T)
        return estimates.view(batch, channels, self.num_sources, size).transpose(1, 2)

    def _used_size(self, size: int) -> int:
        """The fewest samples, `size` or more, that the first convolution uses up and the last can begin on."""
        least = 1
        for kernel, stride in reversed(self.steps):
            least = (least - 1) * stride + kernel
        kernel, stride = self.steps[0]
        return max(least, size + (kernel - size) % stride)

    def _run(self, step: nn.Module, *inputs: Tensor) -> Tensor:
        if self.training and self.gradient_checkpointing:
            return checkpoint(step, *inputs, use_reentrant=False)
        return step(*inputs)
