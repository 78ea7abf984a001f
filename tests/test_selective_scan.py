"""The ways of computing the selective scan agree with its definition, and Mamba's mixer with its own contract."""

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tse_lib.nn import selective_scan as module
from tse_lib.nn import selective_scan_cpp
from tse_lib.nn.mamba import Mamba
from tse_lib.nn.selective_scan import SCANS, choose_scan, selective_scan

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
no_mamba_ssm = pytest.mark.skipif(module._mamba_ssm_scan() is None, reason="mamba_ssm is not installed")
no_library = pytest.mark.skipif(selective_scan_cpp.library() is None, reason="no C++ compiler")
FAST = [
    "chunks",
    pytest.param("cpp", marks=no_library),
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
    return "cpu" if scan in ("chunks", "cpp") else "cuda"


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


ON_CPU = FAST[:2]


@pytest.mark.parametrize("scan", ON_CPU)
def test_gradcheck(scan):
    tensors = inputs(2, 19, 3, 2)
    assert torch.autograd.gradcheck(SCANS[scan], tensors)
    skip, gate, bias = (
        x.requires_grad_()
        for x in (torch.ones(3).double(), torch.rand(2, 19, 3).double(), tensors[2][:, 0].detach() / 16)
    )
    assert torch.autograd.gradcheck(
        lambda *x: selective_scan(*x, delta_softplus=True, scan=scan), [*tensors, skip, gate, bias]
    )


@pytest.mark.parametrize("scan", ON_CPU)
def test_a_second_derivative_is_refused(scan):
    tensors = inputs(1, 5, 3, 2)
    (gradient,) = torch.autograd.grad(SCANS[scan](*tensors).square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@pytest.mark.parametrize("scan", ON_CPU)
def test_memory_for_the_backward_pass_does_not_hold_every_state(scan):
    tensors = inputs(2, 320, 64, 16)
    kept = sum(x.numel() for x in SCANS[scan](*tensors).grad_fn.saved_tensors)
    assert kept < 2 * 320 * 64 * 16 / 4  # states of all steps


@pytest.mark.parametrize("scan", ON_CPU)
def test_strides_do_not_matter(scan):
    tensors = inputs()
    strided = [x.detach().mT.contiguous().mT.requires_grad_() for x in tensors]
    assert not any(x.is_contiguous() for x in strided)
    assert deviation(outcome(scan, strided), outcome(scan, tensors)) < 1e-12


def test_the_scan_is_never_in_half_precision():
    u, delta, a, b, c = (x.detach() for x in inputs(dtype=torch.float32))
    halves = u.bfloat16(), delta.bfloat16(), a, b.bfloat16(), c.bfloat16()
    wanted = selective_scan(*(x.float() for x in halves), scan="loop")
    with torch.autocast("cpu", torch.bfloat16):
        ours = selective_scan(*halves)
        assert torch.equal(selective_scan(u, delta, a, b, c), selective_scan(u, delta, a, b, c))
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, wanted.bfloat16(), rtol=2**-7, atol=0)


@pytest.mark.parametrize("scan", ON_CPU)
def test_a_backward_pass_under_autocast_is_as_outside(scan):
    tensors = inputs(dtype=torch.float32)
    wanted = outcome(scan, tensors)
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(*tensors, scan=scan)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
        gradients = torch.autograd.grad((y * weights).sum(), tensors)
    assert all(torch.equal(one, two) for one, two in zip(gradients, wanted[1:], strict=True))


def test_the_choice(monkeypatch):
    assert choose_scan(torch.device("meta"), torch.float32) == "chunks"
    monkeypatch.setattr(selective_scan_cpp, "library", lambda: object())
    assert choose_scan(torch.device("cpu"), torch.float32) == "cpp"
    monkeypatch.setattr(selective_scan_cpp, "library", lambda: None)
    assert choose_scan(torch.device("cpu"), torch.float32) == "chunks"
    assert choose_scan(torch.device("cuda"), torch.float64) != "mamba_ssm"
    with pytest.raises(KeyError):
        selective_scan(*inputs(), scan="parallel")


def test_mamba_ssm_that_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(module, "_mamba_ssm_scan", lambda: None)
    with pytest.raises(ValueError, match="mamba_ssm cannot be imported"):
        selective_scan(*inputs(), scan="mamba_ssm")


# ---------------------------------------------------------------------------------------- C++


@no_library
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_threads_of_the_kernels_share_the_work(batch):
    """One item: its features are divided, three tiles among four threads; five: the items are."""
    tensors = inputs(batch, 40, 20, 3)
    wanted = outcome("loop", tensors)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert deviation(outcome("cpp", tensors), wanted) < 1e-12
    finally:
        torch.set_num_threads(before)


@no_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernels_exp_over_its_whole_range(dtype):
    """y_2 = exp(A) of steps that add 1, 0: from what is 0 in this type to what is infinite, and NaN."""
    limit = 90 if dtype == torch.float32 else 712
    x = torch.cat(
        [torch.linspace(-limit, limit, 4001, dtype=dtype), torch.tensor([-torch.inf, torch.nan], dtype=dtype)]
    )
    u = torch.stack([torch.ones_like(x), torch.zeros_like(x)])[None]
    one = torch.ones(1, 2, 1, dtype=dtype)
    y = SCANS["cpp"](u, torch.ones_like(u), x[:, None], one, one)[0, 1]
    wanted = x.exp()
    normal = (wanted > torch.finfo(dtype).tiny * 1.1) & (wanted < torch.finfo(dtype).max / 2)
    assert ((y / wanted - 1)[normal].abs().max()) < 3 * torch.finfo(dtype).eps
    assert (y[x <= -limit + 1] == 0).all() and y[-1].isnan()
    assert y[x >= limit - 1].isnan().all()  # infinity times the state before the first step, 0, as in the loop


@no_library
def test_the_kernels_keep_nothing_where_nobody_goes_backward(monkeypatch):
    asked = []
    real = selective_scan_cpp.call
    monkeypatch.setattr(
        selective_scan_cpp,
        "call",
        lambda name, tensors, sizes: asked.append(tensors[0][-1]) or real(name, tensors, sizes),
    )
    tensors = inputs()
    with torch.no_grad():
        quiet = SCANS["cpp"](*tensors)
    assert torch.equal(quiet, SCANS["cpp"](*tensors)) and asked[0] is None and asked[1] is not None


@no_library
@pytest.mark.parametrize("place", range(5))
def test_tensors_that_do_not_fit_never_reach_the_kernels(place):
    tensors = [x.detach() for x in inputs()]
    for wrong in (tensors[place][:-1], tensors[place].float(), tensors[place].to("meta")):
        with pytest.raises(ValueError, match="do not fit"):
            SCANS["cpp"](*tensors[:place], wrong, *tensors[place + 1 :])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_tracer_sees_operators_only():
    """It would take what the kernels give for a constant."""
    tensors = [x.detach() for x in inputs()]
    traced = torch.jit.trace(selective_scan, tensors)
    tensors[0] = tensors[0] + 1
    torch.testing.assert_close(traced(*tensors), selective_scan(*tensors))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TSE_COMPILE", raising=False)
    return tmp_path / "cache" / "tse_lib"


def compiler(path, last):
    """A program in the place of the compiler: it says what the real one says, and `last` is what it does then."""
    path.write_text(f'#!/bin/sh\ncase "$*" in *-dM*) echo "#define here";; *) {last};; esac\n')
    path.chmod(0o755)
    return str(path)


@no_library
def test_builds_at_the_same_time_and_once(cache):
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: selective_scan_cpp.build(selective_scan_cpp.find_compiler(), cache), range(3)))
    assert paths == [paths[0]] * 3 and list(cache.iterdir()) == [paths[0]]
    made = paths[0].stat()
    assert ctypes.CDLL(str(paths[0])).forward_float
    assert selective_scan_cpp.build(selective_scan_cpp.find_compiler(), cache).stat().st_ino == made.st_ino


def test_another_machine_or_compiler_has_another_library(cache, tmp_path):
    paths = [
        selective_scan_cpp.build([compiler(tmp_path / name, f'echo {name} >"$7"')], cache) for name in ("one", "two")
    ]
    assert [path.read_text() for path in paths] == ["one\n", "two\n"]


@pytest.mark.parametrize(
    ("last", "told"),
    [("echo no headers >&2; exit 1", "no headers"), ("exec sleep 60", "timed out"), ("true", "too short")],
)
def test_a_compiler_that_fails_is_told_and_stops_nothing(cache, tmp_path, monkeypatch, last, told):
    monkeypatch.setenv("CXX", compiler(tmp_path / "c++", last))
    monkeypatch.setattr(selective_scan_cpp, "COMPILE_S", 0.5)
    with pytest.warns(UserWarning, match=f"Mamba runs slower.*{told}.*TSE_COMPILE=0"):
        assert selective_scan_cpp.library.__wrapped__() is None
    assert told == "too short" or not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("CXX", compiler(tmp_path / "c++", "true"))
    with pytest.warns(UserWarning, match="Not a directory|File exists"):
        assert selective_scan_cpp.library.__wrapped__() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where nobody knows whose process this is
    with pytest.warns(UserWarning, match="home directory"):
        assert selective_scan_cpp.library.__wrapped__() is None


def test_without_a_compiler_or_unwanted_there_is_no_word(cache, monkeypatch, recwarn):
    monkeypatch.setenv("TSE_COMPILE", "0")
    assert selective_scan_cpp.library.__wrapped__() is None
    monkeypatch.delenv("TSE_COMPILE")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert selective_scan_cpp.library.__wrapped__() is None
    assert not recwarn.list and not cache.exists()
    monkeypatch.setattr(selective_scan_cpp, "library", lambda: None)
    with pytest.raises(ValueError, match="no C\\+\\+ compiler"):
        selective_scan(*inputs(), scan="cpp")


def test_an_installed_package_has_the_source(tmp_path):
    root = Path(__file__).parent.parent
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "egg_info",
        "-e",
        str(tmp_path),
        "build_py",
        "-d",
        str(tmp_path / "lib"),
    ]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    assert (tmp_path / "lib/tse_lib/nn/selective_scan.cpp").exists()


# ---------------------------------------------------------------------------------------- Triton


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
