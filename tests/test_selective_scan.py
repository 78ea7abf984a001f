"""The ways of computing the selective scan agree with its definition, and Mamba's mixer with its own contract."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tse_lib.nn import selective_scan as module
from tse_lib.nn.mamba import Mamba
from tse_lib.nn.selective_scan import SCANS, choose_scan, selective_scan

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
no_mamba_ssm = pytest.mark.skipif(module._mamba_ssm_scan() is None, reason="mamba_ssm is not installed")
FAST = [
    "chunks",
    pytest.param("triton", marks=needs_gpu),
    pytest.param("mamba_ssm", marks=[*needs_gpu, no_mamba_ssm]),
]


def inputs(batch=2, length=37, dim=20, states=5, dtype=torch.float64, largest_step=0.1):
    """u, delta, A, B, C that need gradients."""
    draw = torch.Generator().manual_seed(0)
    u = torch.randn(batch, length, dim, generator=draw, dtype=torch.float64)
    delta = largest_step * torch.rand(batch, length, dim, generator=draw, dtype=torch.float64)
    a = -16 * torch.rand(dim, states, generator=draw, dtype=torch.float64)
    b, c = torch.randn(2, batch, length, states, generator=draw, dtype=torch.float64)
    return [x.to(dtype).requires_grad_() for x in (u, delta, a, b, c)]


def outcome(scan, tensors):
    """y and the gradients of a weighted sum of it."""
    y = SCANS[scan](*tensors)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    return [y, *torch.autograd.grad((y * weights).sum(), tensors)]


def deviation(ours, wanted):
    """The largest difference, relative to the largest number of its tensor."""
    assert all(one.isfinite().all() for one in ours)
    pairs = zip(ours, wanted, strict=True)
    return max(float((one.detach() - two.detach()).abs().max() / two.detach().abs().max()) for one, two in pairs)


def device_of(scan):
    return "cpu" if scan == "chunks" else "cuda"


@pytest.mark.parametrize("scan", FAST)
@pytest.mark.parametrize("length", [2, 15, 16, 17, 32, 100])
def test_values_and_gradients_are_those_of_the_definition(scan, length):
    tensors = inputs(length=length, dtype=torch.float32 if scan == "mamba_ssm" else torch.float64)
    wanted = outcome("loop", tensors)
    ours = outcome(scan, [x.detach().to(device_of(scan)).requires_grad_() for x in tensors])
    limit = 1e-4 if scan == "mamba_ssm" else 1e-12
    assert deviation([one.cpu() for one in ours], wanted) < limit


@pytest.mark.parametrize("scan", FAST)
@pytest.mark.parametrize(("largest_step", "underflows"), [(0.1, False), (100.0, True)])
def test_float32(scan, largest_step, underflows):
    """With large steps exp(delta A) is 0 in float32, which is right: the past is forgotten."""
    tensors = inputs(3, 50, 33, 16, torch.float32, largest_step)
    assert bool((torch.exp(tensors[1].max() * tensors[2]) == 0).any()) == underflows
    wanted = outcome("loop", [x.detach().double().requires_grad_() for x in tensors])
    ours = outcome(scan, [x.detach().to(device_of(scan)).requires_grad_() for x in tensors])
    assert deviation([one.cpu() for one in ours], wanted) < 1e-5


@pytest.mark.parametrize("block", [1, 2 * 16 * 100, 1 << 30])
def test_items_taken_in_groups_change_nothing(monkeypatch, block):
    tensors = inputs(batch=5)
    wanted = outcome("loop", tensors)
    monkeypatch.setattr(module, "BLOCK", block)  # one item at a time, two, all
    assert deviation(outcome("chunks", tensors), wanted) < 1e-12


def test_gradcheck():
    tensors = inputs(2, 19, 3, 2)
    assert torch.autograd.gradcheck(SCANS["chunks"], tensors)
    skip, gate, bias = (
        x.requires_grad_()
        for x in (torch.ones(3).double(), torch.rand(2, 19, 3).double(), tensors[2][:, 0].detach() / 16)
    )
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, delta_softplus=True), [*tensors, skip, gate, bias])


def test_a_second_derivative_is_refused():
    tensors = inputs(1, 5, 3, 2)
    (gradient,) = torch.autograd.grad(SCANS["chunks"](*tensors).square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_memory_for_the_backward_pass_does_not_hold_every_state():
    tensors = inputs(2, 320, 64, 16)
    kept = sum(x.numel() for x in SCANS["chunks"](*tensors).grad_fn.saved_tensors)
    assert kept < 2 * 320 * 64 * 16 / 4  # states of all steps


def test_strides_do_not_matter():
    u, delta, a, b, c = (x.detach() for x in inputs())
    strided = u.mT.contiguous().mT, delta.mT.contiguous().mT, a, b.mT.contiguous().mT, c.mT.contiguous().mT
    torch.testing.assert_close(selective_scan(*strided), selective_scan(u, delta, a, b, c), rtol=0, atol=0)


def test_the_scan_is_never_in_half_precision():
    u, delta, a, b, c = (x.detach() for x in inputs(dtype=torch.float32))
    halves = u.bfloat16(), delta.bfloat16(), a, b.bfloat16(), c.bfloat16()
    wanted = selective_scan(*(x.float() for x in halves), scan="loop")
    with torch.autocast("cpu", torch.bfloat16):
        ours = selective_scan(*halves)
        assert torch.equal(selective_scan(u, delta, a, b, c), selective_scan(u, delta, a, b, c))
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, wanted.bfloat16(), rtol=2**-7, atol=0)


def test_a_backward_pass_under_autocast_is_as_outside():
    tensors = inputs(dtype=torch.float32)
    wanted = outcome("chunks", tensors)
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(*tensors)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
        gradients = torch.autograd.grad((y * weights).sum(), tensors)
    assert all(torch.equal(one, two) for one, two in zip(gradients, wanted[1:], strict=True))


def test_the_choice():
    assert choose_scan(torch.device("cpu"), torch.float32) == "chunks"
    assert choose_scan(torch.device("cuda"), torch.float64) != "mamba_ssm"
    with pytest.raises(KeyError):
        selective_scan(*inputs(), scan="parallel")


def test_mamba_ssm_that_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(module, "_mamba_ssm_scan", lambda: None)
    with pytest.raises(ValueError, match="mamba_ssm cannot be imported"):
        selective_scan(*inputs(), scan="mamba_ssm")


INTERPRETED = """
import torch
from tests.test_selective_scan import deviation, inputs, outcome
for sizes in ((2, 37, 20, 5), (1, 16, 16, 16), (2, 2, 3, 1)):
    for largest_step in (0.1, 100):
        tensors = inputs(*sizes, largest_step=largest_step)
        assert deviation(outcome("triton", tensors), outcome("loop", tensors)) < 1e-12, sizes
"""


@pytest.mark.slow
def test_the_triton_kernels_interpreted_on_the_cpu():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", INTERPRETED], cwd=root, env=environment, check=True)


# ---------------------------------------------------------------------------------------- Mamba


def test_mamba_is_causal():
    torch.manual_seed(0)
    mixer, x = Mamba(12).eval(), torch.randn(2, 40, 12)
    changed = x.clone()
    changed[:, 25:] += 1
    with torch.no_grad():
        before, after = mixer(x), mixer(changed)
    assert torch.equal(before[:, :25], after[:, :25])
    assert (before[:, 25:] - after[:, 25:]).abs().amax((0, 2)).min() > 0


def test_mamba_starts_with_small_steps_and_gradients_everywhere():
    torch.manual_seed(0)
    mixer = Mamba(40)
    step = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert 0.00099 < step.min() < 0.002 and 0.05 < step.max() < 0.101
    mixer(torch.randn(2, 30, 40)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in mixer.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mamba_on_cpu_and_gpu(dtype):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    mixer, x = Mamba(40), torch.randn(2, 300, 40)
    on_cpu = mixer(x)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        on_gpu = mixer.cuda()(x.cuda()).float().cpu()
    assert (on_cpu - on_gpu).abs().max() < (1e-4 if dtype == torch.float32 else 0.05) * on_cpu.abs().max()
