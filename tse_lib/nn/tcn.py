"""Dilated convolutions over frames, the separator of Conv-TasNet (Luo and Mesgarani, 2019, arXiv 1809.07454).

    D -1x1-> H, PReLU, norm, depthwise with a dilation, PReLU, norm -1x1-> D (residual), D' (skip)

Letters: L frames, D features, H hidden, D' skip.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CumulativeNorm(nn.Module):
    """Mean and variance of all channels from the beginning to each frame (the paper's cLN)."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, L) -> (B, D, L)."""
        frames = torch.arange(1, x.shape[-1] + 1, device=x.device)
        mean = x.mean(1, keepdim=True).cumsum(-1) / frames  # (B, 1, L)
        power = x.square().mean(1, keepdim=True).cumsum(-1) / frames
        deviation = ((power - mean.square()).clamp_min(0) + self.eps).sqrt()
        return (x - mean) / deviation * self.weight[:, None] + self.bias[:, None]


class FrameNorm(nn.Module):
    """Mean and variance of all channels of each frame by itself."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, L) -> (B, D, L)."""
        return F.layer_norm(x.transpose(1, 2), self.weight.shape, self.weight, self.bias, self.eps).transpose(1, 2)


NORMS: dict[str, Callable[[int, float], nn.Module]] = {
    "gLN": lambda dim, eps: nn.GroupNorm(1, dim, eps),  # over channels and all frames
    "cLN": CumulativeNorm,
    "LN": FrameNorm,
    "BN": nn.BatchNorm1d,  # over the frames of all items while training, by what was seen then later
}


def check_norm(option: str, name: str) -> None:
    """Raises: ValueError: none of NORMS."""
    if name not in NORMS:
        raise ValueError(f"{option}: '{name}' is none of {', '.join(NORMS)}")


def new_norm(name: str, dim: int, eps: float = 1e-8) -> nn.Module:
    return NORMS[name](dim, eps)


class TCNBlock(nn.Module):
    """One dilated block.

    Args:
        dim, hidden_dim: D and H.
        skip_dim: D'; 0: there is no skip.
        kernel_size, dilation: of the depthwise convolution.
        norm: of NORMS.
        causal: the convolution sees the past only.
        late: it ends half its reach earlier.
        reflect: frames are reflected at both ends, where zeros would be padded.
        bias: of the convolutions.
        extra_dim: features that come with x beside its D and get no residual.
        eps: of the norms.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        skip_dim: int,
        kernel_size: int,
        dilation: int,
        norm: str,
        causal: bool,
        late: bool = False,
        reflect: bool = False,
        bias: bool = True,
        extra_dim: int = 0,
        eps: float = 1e-8,
    ):
        super().__init__()
        self.padding_mode = "reflect" if reflect else "constant"
        reach = (kernel_size - 1) * dilation
        before = reach if causal else reach // 2
        self.padding = (before + (reach // 2 if late else 0), reach - before)
        self.in_conv = nn.Conv1d(dim + extra_dim, hidden_dim, 1, bias=bias)
        self.in_act = nn.PReLU()
        self.in_norm = new_norm(norm, hidden_dim, eps)
        self.depth_conv = nn.Conv1d(
            hidden_dim, hidden_dim, kernel_size, dilation=dilation, groups=hidden_dim, bias=bias
        )
        self.depth_act = nn.PReLU()
        self.depth_norm = new_norm(norm, hidden_dim, eps)
        self.res_conv = nn.Conv1d(hidden_dim, dim, 1, bias=bias)
        self.skip_conv = nn.Conv1d(hidden_dim, skip_dim, 1, bias=bias) if skip_dim else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, D + extra, L) -> the residual (B, D, L), which the caller adds to its x, and the skip (B, D', L)."""
        y = self.in_norm(self.in_act(self.in_conv(x)))
        y = self.depth_conv(F.pad(y, self.padding, self.padding_mode))[..., : x.shape[-1]]
        y = self.depth_norm(self.depth_act(y))
        return self.res_conv(y), None if self.skip_conv is None else self.skip_conv(y)
