"""The kernels of `scan_cpp` (selective_scan.py): compiled where a C++ compiler is, once, in a second.

They are plain C++ behind a plain C interface, without torch's headers, which take 40 s to compile. The library lies in
$XDG_CACHE_HOME/tse_lib (default ~/.cache/tse_lib) under a hash of the source and of what the compiler says of itself
and of this machine's processor: a home folder may be shared by unlike machines. Processes that compile at the same time
each rename a whole file to the same name, so there is no lock to wait for.

Nothing depends on it: without a compiler, or with TSE_COMPILE=0, there is no library and `scan_chunks` is used instead;
where compiling fails, a warning says why.
"""

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tse_lib.files import temporary_for

SOURCE = Path(__file__).with_name("selective_scan.cpp")
FLAGS = [
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fPIC",
    "-shared",
]  # no -ffast-math: NaN and infinity keep their meaning
COMPILE_S = 120  # longer than that, and it is given up
STEPS = 16  # between kept states, as in the source
VECTOR_BYTES = 64
NAMES = {torch.float32: "float", torch.float64: "double"}  # of the kernels


# --------------------------------------------------------------------------------------------------------- the library


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there are none."""
    compiler = find_compiler()
    if compiler is None or os.environ.get("TSE_COMPILE", "1") == "0":
        return None
    try:
        return ctypes.CDLL(str(build(compiler, cache_folder())))
    except subprocess.CalledProcessError as error:
        reason = f"{shlex.join(compiler)} failed: {error.stderr.strip()[:500]}"
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:  # RuntimeError: nobody's home folder
        reason = str(error)
    warnings.warn(f"{SOURCE.name}: not compiled, so Mamba runs slower; {reason}; TSE_COMPILE=0 ends this", stacklevel=2)
    return None


def find_compiler() -> list[str] | None:
    """$CXX with its options, or c++, g++ or clang++, whichever is there."""
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    return None


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tse_lib"


def build(compiler: list[str], folder: Path) -> Path:
    """Compile unless it is there already; returns the path of the library.

    Raises:
        OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired: it did not work; nothing is left behind.
    """
    machine = run([*compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])  # all it defines: version, instructions
    key = hashlib.sha256(SOURCE.read_bytes() + repr([compiler, FLAGS, machine]).encode()).hexdigest()[:16]
    path = folder / f"selective_scan-{key}.so"
    if not path.exists():
        with temporary_for(path) as temporary:
            run([*compiler, *FLAGS, "-o", temporary, str(SOURCE)])
    return path


def run(command: list[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=COMPILE_S,
        check=True,
    )
    return done.stdout


# ---------------------------------------------------------------------------------------------------------- its use


class Sizes(ctypes.Structure):
    """What a call works on, as in the source."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("length", "dim", "states", "first_item", "last_item", "first_tile", "last_tile")
    ]


def shares(u: Tensor, A: Tensor) -> list[Sizes]:
    """The work of each thread: some items with all tiles where there are enough items, else some tiles of all items."""
    (batch, length, dim), (tiles, states, _) = u.shape, A.shape
    by_item = batch >= min(torch.get_num_threads(), tiles)
    many = batch if by_item else tiles
    count = min(torch.get_num_threads(), many)
    parts = [(number * many // count, (number + 1) * many // count) for number in range(count)]
    return [
        Sizes(length, dim, states, *part, 0, tiles) if by_item else Sizes(length, dim, states, 0, batch, *part)
        for part in parts
    ]


def call(name: str, tensors: list[list[Tensor | None]], sizes: list[Sizes]) -> None:
    """Call a kernel once for each of `sizes`, all at the same time, with the tensors of the same place."""
    kernel: Callable[..., Any] = getattr(library(), name)

    def work(tensors: list[Tensor | None], sizes: Sizes) -> None:
        pointers = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in tensors]
        kernel(*pointers, ctypes.byref(sizes))  # ctypes lets other threads run meanwhile

    if len(sizes) == 1:
        work(tensors[0], sizes[0])
        return
    with ThreadPoolExecutor(len(sizes)) as pool:  # of its own each time: a kept one would not survive a fork
        list(pool.map(work, tensors, sizes))


def tiled(A: Tensor) -> Tensor:
    """(D, N) -> (tiles, N, lanes), zeros where there is no feature."""
    lanes = VECTOR_BYTES // A.element_size()
    padded = F.pad(A, (0, 0, 0, -len(A) % lanes))
    return padded.unflatten(0, (-1, lanes)).mT.contiguous()


class CppScan(torch.autograd.Function):
    """u, delta (batch, L, D), A (D, N), B, C (batch, L, N), all float32 or all float64 -> y (batch, L, D).

    `keep`: keep what the backward pass needs, batch L D N / STEPS numbers.
    """

    @staticmethod
    def forward(ctx: Any, keep: bool, *inputs: Tensor) -> Tensor:
        u, delta, A, B, C = (x.contiguous() for x in inputs)
        A = tiled(A)
        y = torch.empty_like(u)
        bounds = u.new_empty(len(u), -(-u.shape[1] // STEPS), *A.shape) if keep else None
        sizes = shares(u, A)
        call(f"forward_{NAMES[u.dtype]}", [[u, delta, A, B, C, y, bounds]] * len(sizes), sizes)
        if keep:
            ctx.save_for_backward(u, delta, A, B, C, bounds)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, bounds = ctx.saved_tensors
        dy, du, d_delta, dA = dy.contiguous(), torch.empty_like(u), torch.empty_like(u), A.new_zeros(len(u), *A.shape)
        sizes = shares(u, A)
        # What is summed over features is each thread's own where these are divided.
        num_sums = len(sizes) if sizes[0].last_tile < len(A) else 1
        dB, dC = B.new_zeros(num_sums, *B.shape), C.new_zeros(num_sums, *C.shape)
        tensors = [
            [u, delta, A, B, C, bounds, dy, du, d_delta, dA, dB[number % num_sums], dC[number % num_sums]]
            for number in range(len(sizes))
        ]
        call(f"backward_{NAMES[u.dtype]}", tensors, sizes)
        return None, du, d_delta, dA.sum(0).mT.flatten(0, 1)[: u.shape[2]], dB.sum(0), dC.sum(0)
