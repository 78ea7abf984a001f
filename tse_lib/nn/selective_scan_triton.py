"""The kernels of `scan_triton` (selective_scan.py). Import it only where triton is installed.

One program walks along time for one item of the batch and CHANNELS features, with their states in registers. Forward it
stores the state before every STEPS steps; backward it goes from one of these to the next, computes the states between
again into `scratch`, and walks back over them. What programs would have to add up (the gradients of A, B and C) each
writes to a place of its own, and torch adds: no atomics, so the same input gives the same bits.

TRITON_INTERPRET=1 runs the kernels on a CPU, slowly.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

STEPS = 16
CHANNELS = 16  # of one program; with 16 states 256 numbers, 8 for each thread of a warp


@triton.jit
def forward_kernel(
    u, delta, A, B, C, y, bounds, length, dim, num_states,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, STATES)
    own_d, own_n = d < dim, n < num_states
    own = own_d[:, None] & own_n[None, :]
    square = d[:, None] * num_states + n[None, :]  # of a (D, N) table
    a = tl.load(A + square, mask=own, other=0.0)
    h = tl.zeros_like(a)
    num_blocks = tl.cdiv(length, STEPS)
    for block in range(num_blocks):
        tl.store(bounds + (item * num_blocks + block) * dim * num_states + square, h, mask=own)
        for t in range(block * STEPS, tl.minimum((block + 1) * STEPS, length)):
            row = item * length + t
            u_t = tl.load(u + row * dim + d, mask=own_d, other=0.0)
            delta_t = tl.load(delta + row * dim + d, mask=own_d, other=0.0)
            b = tl.load(B + row * num_states + n, mask=own_n, other=0.0)
            c = tl.load(C + row * num_states + n, mask=own_n, other=0.0)
            h = tl.exp(delta_t[:, None] * a) * h + (delta_t * u_t)[:, None] * b[None, :]
            tl.store(y + row * dim + d, tl.sum(h * c[None, :], 1), mask=own_d)


@triton.jit
def backward_kernel(
    u, delta, A, B, C, bounds, dy, scratch, du, d_delta, dA, dB, dC, batch, length, dim, num_states,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    d = tile * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, STATES)
    own_d, own_n = d < dim, n < num_states
    own = own_d[:, None] & own_n[None, :]
    square = d[:, None] * num_states + n[None, :]
    a = tl.load(A + square, mask=own, other=0.0)
    kept = scratch + (item * tl.num_programs(1) + tile) * STEPS * CHANNELS * STATES
    kept += tl.arange(0, CHANNELS)[:, None] * STATES + n[None, :]
    da = tl.zeros_like(a)
    later = tl.zeros_like(a)  # gradient of the state after t, from the steps after t
    num_blocks = tl.cdiv(length, STEPS)
    for number in range(num_blocks):
        block = num_blocks - 1 - number
        first = block * STEPS
        count = tl.minimum(STEPS, length - first)
        h = tl.load(bounds + (item * num_blocks + block) * dim * num_states + square, mask=own, other=0.0)
        for k in range(count):
            row = item * length + first + k
            tl.store(kept + k * CHANNELS * STATES, h)
            u_t = tl.load(u + row * dim + d, mask=own_d, other=0.0)
            delta_t = tl.load(delta + row * dim + d, mask=own_d, other=0.0)
            b = tl.load(B + row * num_states + n, mask=own_n, other=0.0)
            h = tl.exp(delta_t[:, None] * a) * h + (delta_t * u_t)[:, None] * b[None, :]
        tl.debug_barrier()  # another thread may read what this one wrote
        for back in range(count):
            k = count - 1 - back
            row = item * length + first + k
            u_t = tl.load(u + row * dim + d, mask=own_d, other=0.0)
            delta_t = tl.load(delta + row * dim + d, mask=own_d, other=0.0)
            dy_t = tl.load(dy + row * dim + d, mask=own_d, other=0.0)
            b = tl.load(B + row * num_states + n, mask=own_n, other=0.0)
            c = tl.load(C + row * num_states + n, mask=own_n, other=0.0)
            before = tl.load(kept + k * CHANNELS * STATES)
            decay = tl.exp(delta_t[:, None] * a)
            added = delta_t * u_t
            h = decay * before + added[:, None] * b[None, :]
            grad = dy_t[:, None] * c[None, :] + later
            d_added = tl.sum(grad * b[None, :], 1)
            d_decay = grad * decay * before  # of delta A
            place = ((tile * batch + item) * length + first + k) * num_states + n
            tl.store(dC + place, tl.sum(h * dy_t[:, None], 0), mask=own_n)
            tl.store(dB + place, tl.sum(grad * added[:, None], 0), mask=own_n)
            tl.store(du + row * dim + d, delta_t * d_added, mask=own_d)
            tl.store(d_delta + row * dim + d, tl.sum(d_decay * a, 1) + u_t * d_added, mask=own_d)
            da += d_decay * delta_t[:, None]
            later = decay * grad
        tl.debug_barrier()  # the next block's states take the place of these
    tl.store(dA + item * dim * num_states + square, da, mask=own)


class TritonScan(torch.autograd.Function):
    """u, delta (batch, L, D), A (D, N), B, C (batch, L, N), all contiguous and of one dtype -> y (batch, L, D)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        (batch, length, dim), num_states = u.shape, A.shape[1]
        y = torch.empty_like(u)
        bounds = u.new_empty(batch, triton.cdiv(length, STEPS), dim, num_states)
        sizes = {"STEPS": STEPS, "CHANNELS": CHANNELS, "STATES": triton.next_power_of_2(num_states), "num_warps": 1}
        grid = (batch, triton.cdiv(dim, CHANNELS))
        with torch.cuda.device_of(u):
            forward_kernel[grid](u, delta, A, B, C, y, bounds, length, dim, num_states, **sizes)
        ctx.save_for_backward(u, delta, A, B, C, bounds)
        ctx.grid, ctx.sizes = grid, sizes
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        u, delta, A, B, C, bounds = ctx.saved_tensors
        (batch, length, dim), num_states = u.shape, A.shape[1]
        (_, tiles), sizes = ctx.grid, ctx.sizes
        du, d_delta = torch.empty_like(u), torch.empty_like(delta)
        dA = u.new_empty(batch, dim, num_states)
        dB, dC = u.new_empty(2, tiles, batch, length, num_states)
        scratch = u.new_empty(batch * tiles * STEPS * CHANNELS * sizes["STATES"])
        with torch.cuda.device_of(u):
            backward_kernel[ctx.grid](
                u, delta, A, B, C, bounds, dy.contiguous(), scratch, du, d_delta, dA, dB, dC,
                batch, length, dim, num_states, **sizes,
            )  # fmt: skip
        return du, d_delta, dA.sum(0), dB.sum(0), dC.sum(0)
