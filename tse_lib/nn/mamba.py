"""Mamba's block (Gu and Dao 2023, arXiv 2312.00752, figure 3) and its use as a layer with a residual path."""

import math

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

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, -1)
        x = F.silu(self.conv1d(x.mT)[..., : x.shape[1]]).mT  # (B, L, inner); what the padding adds at the end is cut
        step, b, c = self.x_proj(x).split(self.sizes, -1)
        step = F.linear(step, self.dt_proj.weight)  # its bias is added in the scan, in float32
        y = selective_scan(x, step, -self.A_log.exp(), b, c, self.D, z, self.dt_proj.bias, delta_softplus=True)
        return self.out_proj(y)


class MambaLayer(nn.Module):
    """x + Mamba(norm(x)): (B, L, D) -> (B, L, D), tensors named as in mamba_ssm's Block."""

    def __init__(self, norm: nn.Module, mixer: Mamba):
        super().__init__()
        self.norm = norm
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixer(self.norm(x))
