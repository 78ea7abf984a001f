"""Learned filters in place of a spectrogram: what the networks after TasNet begin and end with."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKS = {"sigmoid": torch.sigmoid, "relu": torch.relu}  # what masks on the frames end with


def check_mask(name: str) -> None:
    """Raises: ValueError: none of MASKS."""
    if name not in MASKS:
        raise ValueError(f"mask: '{name}' is none of {', '.join(MASKS)}")


def full_precision(x: Tensor) -> AbstractContextManager:
    """No autocast for what is computed of `x`; the meta device, where only shapes are wanted, knows none."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def to_frames(encoder: nn.Conv1d, mixture: Tensor) -> Tensor:
    """mixture (B, C, T) -> frames (B*C, N, L), never in half precision under autocast.

    Zeros at the end fill the last frame, so that no sample is left out.
    """
    kernel, stride, size = encoder.kernel_size[0], encoder.stride[0], mixture.shape[-1]
    missing = max(kernel - size, (kernel - size) % stride)
    with full_precision(mixture):
        return encoder(F.pad(mixture.flatten(0, 1)[:, None], (0, missing)))


def to_waves(decoder: nn.ConvTranspose1d, frames: Tensor, mixture: Tensor) -> Tensor:
    """frames (B*C, S, N, L) of S sources -> (B, S, C, T), as long as the mixture (B, C, T) they were made of.

    Never in half precision under autocast: 8 bits of a wave are heard.
    """
    batch, channels, size = mixture.shape
    with full_precision(mixture):
        waves = decoder(frames.flatten(0, 1).to(decoder.weight.dtype))  # (B*C*S, 1, at least T)
    return waves.view(batch, channels, -1, waves.shape[-1])[..., :size].transpose(1, 2)


def checked_steps(kernel_sizes: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """The (kernel size, stride) of each step down.

    Raises:
        ValueError: not as many of both, none, or a stride that leaves samples out.
    """
    if len(kernel_sizes) != len(strides) or not kernel_sizes:
        raise ValueError(f"kernel_sizes {list(kernel_sizes)} and strides {list(strides)} must be as many, at least 1")
    if any(not 0 < stride <= kernel for kernel, stride in zip(kernel_sizes, strides, strict=True)):
        raise ValueError(f"strides {list(strides)} must be above 0 and at most kernel_sizes {list(kernel_sizes)}")
    return list(zip(kernel_sizes, strides, strict=True))
