"""Mamba's block (Gu and Dao 2023, arXiv 2312.00752, figure 3) and its use as a layer with a residual path."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tse_lib.nn.selective_scan import selective_scan


class Mamba(nn.Module):
    """A selective scan between two linear maps: (B, L, D) -> (B, L, D), causal, tensors named as in mamba_ssm.Mamba.

    in_proj -> x, z;  x -> conv1d over d_conv frames -> silu -> x_proj -> step, B, C -> scan, gated by z -> out_proj.
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2):
        super().__init__()
        inner, dt_rank = expand * d_model, math.ceil(d_model / 16)
        self.sizes = [dt_rank, d_state, d_state]
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        with torch.no_grad():  # so that softplus(bias) is a step size between 0.001 and 0.1, log-uniform
            step = torch.empty(inner).uniform_(math.log(0.001), math.log(0.1)).exp().clamp_min(1e-4)
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))
        for parameter in (self.A_log, self.D, self.dt_proj.bias):  # rates and a gain: 0 means nothing for them
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, -1)
        x = F.silu(self.conv1d(x.mT)[..., : x.shape[1]]).mT  # (B, L, inner); what the padding adds at the end is cut
        step, b, c = self.x_proj(x).split(self.sizes, -1)
        step = F.linear(step, self.dt_proj.weight)  # its bias is added in the scan, in float32
        y = selective_scan(x, step, -self.A_log.exp(), b, c, self.D, z, self.dt_proj.bias, delta_softplus=True)
        return self.out_proj(y)


class MambaLayer(nn.Module):
    """x + Mamba(norm(x)): (B, L, D) -> (B, L, D), tensors named as in mamba_ssm's Block.

    Norm and sum are never in half precision under autocast.
    """

    def __init__(self, norm: nn.Module, mixer: Mamba):
        super().__init__()
        self.norm = norm
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.mixer.D.dtype)
        return x + self.mixer(self.norm(x))


class MambaStack(nn.Module):
    """Layers forwards in time and, unless causal, as many others backwards: (B, L, D) -> (B, L, D), or 2*D joined.

    Args:
        dim: features D.
        num_layers: in each direction.
        norm: makes the norm of a layer from `dim`.
        expand: features of a mixer's inside, in multiples of D.
        causal: forwards only.
        merge: of the directions: "sum" or "cat" (then 2*D features come out).
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        norm: Callable[[int], nn.Module],
        expand: int = 2,
        causal: bool = False,
        merge: str = "sum",
    ):
        super().__init__()

        def layers() -> nn.Sequential:
            return nn.Sequential(*(MambaLayer(norm(dim), Mamba(dim, expand=expand)) for _ in range(num_layers)))

        self.forward_blocks = layers()
        self.backward_blocks = None if causal else layers()
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        ahead = self.forward_blocks(x)
        if self.backward_blocks is None:
            return ahead
        back = self.backward_blocks(x.flip(1)).flip(1)
        return torch.cat([ahead, back], -1) if self.merge == "cat" else ahead + back
