"""The selective scan of Mamba (Gu and Dao 2023, arXiv 2312.00752, section 3.2): one meaning, five ways to compute it.

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t,  h_0 = 0;     y_t = (C_t . h_t + D u_t) silu(z_t)

Every one of D features has a state of N numbers, which decay by its own row of A (D, N); B_t and C_t (N) are shared by
the features. B is discretised as delta B (Euler), as mamba_ssm does, not with the zero-order hold of the paper.

`scan_loop` is the definition. The others give the same numbers:
- `scan_chunks` for a CPU: some steps at a time, so that exp and products run over a block that stays in the cache, one
  `addcmul` a step; only the states between blocks are kept, and the backward pass computes those inside again.
- `scan_cpp` for a CPU where a C++ compiler is: the same compiled, 6 to 13 times as fast (selective_scan_cpp.py).
- `scan_triton` for CUDA: the same in one kernel forward and one backward (selective_scan_triton.py).
- `scan_mamba_ssm`: the kernels of mamba_ssm, where it is installed.

Products of decays, or sums of their logarithms, would make it parallel in time. Neither is used: with large steps exp
underflows to 0, and what is divided by it is lost.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tse_lib.nn import selective_scan_cpp

STEPS = 16  # between kept states: with N = 16 they take as much memory as u
BLOCK = 1 << 18  # numbers a thread works on at a time: 1 MiB in float32


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    scan: str = "",
) -> Tensor:
    """The scan over time, along dimension 1; never in half precision, also under autocast.

    Args:
        u, delta: (batch, L, D) input and step sizes.
        A: (D, N), negative.
        B, C: (batch, L, N).
        D: (D), the share of `u` that passes by the states.
        z: (batch, L, D), gate of the output, before its silu.
        delta_bias: (D), added to `delta` before its softplus.
        delta_softplus: whether `delta` still has to become positive.
        scan: one of SCANS; "" takes `choose_scan`'s.

    Returns:
        (batch, L, D) in the dtype of `u`.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    wide, delta, A, B, C = (x.to(dtype).contiguous() for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    y = SCANS[scan or choose_scan(u.device, dtype)](wide, delta, A, B, C)
    if D is not None:
        y = torch.addcmul(y, wide, D.to(dtype))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype)


def choose_scan(device: torch.device, dtype: torch.dtype) -> str:
    """The fastest of SCANS for tensors of this kind on this machine."""
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # then only torch's own operators are seen
    if device.type == "cpu" and not traced and selective_scan_cpp.library() is not None:
        return "cpp"
    if device.type != "cuda":
        return "chunks"
    if dtype == torch.float32 and _mamba_ssm_scan() is not None:
        return "mamba_ssm"
    return "triton" if importlib.util.find_spec("triton") else "chunks"


def scan_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The definition, step by step: u, delta (batch, L, D), A (D, N), B, C (batch, L, N) -> y (batch, L, D)."""
    h = u.new_zeros(u.shape[0], *A.shape)  # (batch, D, N)
    y = []
    for u_t, delta_t, b_t, c_t in zip(u.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        h = torch.exp(delta_t[:, :, None] * A) * h + (delta_t * u_t)[:, :, None] * b_t[:, None]
        y.append((h * c_t[:, None]).sum(-1))
    return torch.stack(y, 1)


# ------------------------------------------------------------------------------------------------- on a CPU


def _expand(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states of a block: u, delta (R, K, D), A (N, D), B (R, K, N), h (R, N, D) before -> (R, K, N, D) each.

    The features come last, so that products run along them.
    """
    decay = (delta[:, :, None] * A).exp_()
    states = (delta * u)[:, :, None] * B[..., None]  # what each step adds
    for decay_t, state in zip(decay.unbind(1), states.unbind(1), strict=True):
        h = torch.addcmul(state, decay_t, h, out=state)
    return decay, states


class _Chunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        batch, length, dim = u.shape
        A = A.t().contiguous()  # (N, D)
        rows = max(1, BLOCK * torch.get_num_threads() // (STEPS * A.numel()))
        bounds = u.new_zeros(-(-length // STEPS), batch, *A.shape)  # states before each block of steps
        y = torch.empty_like(u)
        for row in range(0, batch, rows):
            h = bounds[0, row : row + rows]
            for number, bound in enumerate(bounds):
                part = slice(row, row + rows), slice(number * STEPS, (number + 1) * STEPS)
                bound[part[0]] = h
                _, states = _expand(u[part], delta[part], A, B[part], h)
                y[part] = (C[part][:, :, None] @ states)[:, :, 0]
                h = states[:, -1]
        ctx.save_for_backward(u, delta, A, B, C, bounds)
        ctx.rows = rows
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(dy.device.type, enabled=False):
            return _chunks_backward(dy, ctx.rows, *ctx.saved_tensors)


def _chunks_backward(
    dy: Tensor, rows: int, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, bounds: Tensor
) -> tuple[Tensor, ...]:
    du, d_delta, dB, dC = map(torch.empty_like, (u, delta, B, C))
    dA = torch.zeros_like(A)
    for row in range(0, len(u), rows):
        later = torch.zeros_like(bounds[0, row : row + rows])  # gradient of a block's last state, from the next block
        for number in reversed(range(len(bounds))):
            part = slice(row, row + rows), slice(number * STEPS, (number + 1) * STEPS)
            u_k, delta_k, dy_k, before = u[part], delta[part], dy[part], bounds[number, part[0]]
            decay, states = _expand(u_k, delta_k, A, B[part], before)
            dC[part] = (states @ dy_k[..., None])[..., 0]
            grad = C[part][..., None] * dy_k[:, :, None]  # (R, K, N, D): of each state, from its own output
            grads, decays = grad.unbind(1), decay.unbind(1)
            grads[-1].add_(later)
            for k in reversed(range(len(grads) - 1)):
                torch.addcmul(grads[k], decays[k + 1], grads[k + 1], out=grads[k])
            later = decays[0] * grads[0]
            dB[part] = (grad @ (delta_k * u_k)[..., None])[..., 0]
            d_added = (B[part][:, :, None] @ grad)[:, :, 0]  # (R, K, D): of delta u
            du[part] = delta_k * d_added
            grad *= decay  # and times the state before: the gradient of delta A
            grad[:, 0] *= before
            grad[:, 1:] *= states[:, :-1]
            d_delta[part] = torch.addcmul((grad * A).sum(2), u_k, d_added)
            dA += (grad * delta_k[:, :, None]).sum((0, 1))
    return du, d_delta, dA.t(), dB, dC


def scan_chunks(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """`scan_loop` in blocks of steps; keeps batch L D N / STEPS numbers for the backward pass."""
    if u.is_meta:  # only shapes are wanted
        return torch.empty_like(u)
    with torch.autocast(u.device.type, enabled=False):  # it would multiply matrices in half precision
        return _Chunks.apply(u, delta, A, B, C)


def scan_cpp(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """`scan_loop` in C++, float32 or float64; keeps for the backward pass what `scan_chunks` keeps, else nothing.

    Raises:
        ValueError: there is no compiled library, or shapes or types do not fit.
    """
    if selective_scan_cpp.library() is None:
        raise ValueError("scan: no C++ compiler, or TSE_COMPILE=0; leave `scan` empty, or install a compiler")
    inputs = u, delta, A, B, C
    (batch, length, dim), states = u.shape, A.shape[1]
    fitting = [(batch, length, dim)] * 2 + [(dim, states)] + [(batch, length, states)] * 2
    if [tuple(x.shape) for x in inputs] != fitting or {(x.dtype, x.device.type) for x in inputs} != {(u.dtype, "cpu")}:
        raise ValueError(f"scan: {[f'{tuple(x.shape)} {x.dtype} {x.device}' for x in inputs]} do not fit each other")
    return selective_scan_cpp.CppScan.apply(torch.is_grad_enabled() and any(x.requires_grad for x in inputs), *inputs)


# ------------------------------------------------------------------------------------------------- on CUDA


def scan_triton(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """`scan_loop` by our own kernels."""
    from tse_lib.nn.selective_scan_triton import TritonScan  # triton comes with torch for CUDA only

    return TritonScan.apply(u, delta, A, B, C)


@functools.cache
def _mamba_ssm_scan() -> Callable[..., Tensor] | None:
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:  # also where it was compiled for another torch
        return None
    return selective_scan_fn


def scan_mamba_ssm(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """`scan_loop` by mamba_ssm, whose time axis comes last; float32 only.

    Raises:
        ValueError: mamba_ssm is not installed.
    """
    scan = _mamba_ssm_scan()
    if scan is None:
        raise ValueError("scan: mamba_ssm cannot be imported; leave `scan` empty, or install mamba-ssm")
    return scan(u.mT, delta.mT, A, B.mT, C.mT).mT


SCANS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "loop": scan_loop,
    "chunks": scan_chunks,
    "cpp": scan_cpp,
    "triton": scan_triton,
    "mamba_ssm": scan_mamba_ssm,
}
