"""The parity rule: every tensor and every input signal of a fixture as a function of its name. See README.md here."""

import math
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

PRIME = 65521


def wave(offset: int, count: int) -> Tensor:
    """sin(2 pi (j^3 mod P) / P) for j = offset, offset + 1, … mod P. The cubes are exact integers."""
    cubes = torch.tensor([pow((offset + i) % PRIME, 3, PRIME) for i in range(count)], dtype=torch.float64)
    return (2 * math.pi * cubes / PRIME).sin()


def long_wave(offset: int, count: int) -> Tensor:
    """`wave` for millions of elements: it repeats after `PRIME`."""
    period = wave(offset, min(count, PRIME))
    return period.repeat(-(-count // PRIME))[:count]


def _weight(key: str, shape: tuple[int, ...], noise: Tensor) -> Tensor:
    return noise * math.sqrt(2 * shape[0] / noise.numel())


def _log_of_states(key: str, shape: tuple[int, ...], noise: Tensor) -> Tensor:
    return torch.arange(1, shape[-1] + 1, dtype=torch.float64).log() + 0.01 * noise


def _frequencies(key: str, shape: tuple[int, ...], noise: Tensor) -> Tensor:
    count = noise.numel()
    return torch.tensor([10000.0 ** (-i / count) for i in range(count)], dtype=torch.float64).view(shape)


def _sinusoids(key: str, shape: tuple[int, ...], noise: Tensor) -> Tensor:
    length, dim = shape[-2:]
    rates = torch.tensor([10000.0 ** (-even / dim) for even in range(0, dim, 2)], dtype=torch.float64)
    angles = torch.arange(length, dtype=torch.float64).outer(rates)
    table = torch.empty(length, dim, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    return table.view(shape)


KINDS: dict[str, Callable[[str, tuple[int, ...], Tensor], Tensor]] = {
    "w": _weight,
    "b": lambda key, shape, noise: 0.1 * noise,
    "n": lambda key, shape, noise: 1 + 0.1 * noise,
    "p": lambda key, shape, noise: 0.25 + 0.1 * noise,
    "m": lambda key, shape, noise: 0.1 * noise,
    "v": lambda key, shape, noise: 1 + 0.25 * noise,
    "A": _log_of_states,
    "t": lambda key, shape, noise: -4 + 0.05 * noise,
    "r": _frequencies,
    "pe": _sinusoids,
}


def kind_of(key: str, shape: tuple[int, ...]) -> str:
    """Which of KINDS a published tensor is, by its name and shape; "skip": it keeps the module's own value."""
    name = key.split(".")[-1]
    by_name = {"num_batches_tracked": "skip", "running_mean": "m", "running_var": "v", "pe": "pe", "dt_bias": "t"}
    by_name |= dict.fromkeys(("freqs", "inv_freq"), "r") | dict.fromkeys(("gamma", "D", "g", "scale", "weight_g"), "n")
    if name in by_name:
        return by_name[name]
    if name.endswith("_log"):
        return "A"
    if key.endswith("dt_proj.bias"):
        return "t"
    if name == "weight" and len(shape) == 1:
        return "p" if shape[0] == 1 else "n"
    return "w" if len(shape) > 1 and name not in ("beta", "bias") else "b"


def tensor_of(key: str, shape: list[int], kind: str | None = None) -> Tensor:
    size = tuple(shape)
    noise = long_wave(zlib.crc32(key.encode()), math.prod(size)).view(size)
    return KINDS[kind or kind_of(key, size)](key, size, noise)


def state_of(keys: dict[str, list[int]], kinds: dict[str, str]) -> dict[str, Tensor]:
    """All tensors of a published module; `kinds` lists the exceptions."""
    state = {}
    for key, shape in keys.items():
        kind = kinds.get(key) or kind_of(key, tuple(shape))
        if kind != "skip":
            state[key] = tensor_of(key, shape, kind)
    for key in [key for key in state if key.endswith(".weight_orig")]:  # spectral norm: sigma is |W v|
        matrix = state[key].flatten(1)
        v = torch.ones(matrix.shape[1], dtype=torch.float64) / math.sqrt(matrix.shape[1])
        stem = key.removesuffix("orig")
        state[stem + "v"], state[stem + "u"] = v, torch.nn.functional.normalize(matrix @ v, dim=0)
    return state


def signal(n: int, f0: float, ph: float = 0.0, fs: int = 8000, c: int = 0) -> Tensor:
    """One row of an input: two sines, a sweep and some of `wave`."""
    t = torch.arange(n, dtype=torch.float64) / fs
    sines = 0.3 * (2 * math.pi * f0 * t + ph).sin() + 0.2 * (2 * math.pi * 3.1 * f0 * t).sin()
    return sines + 0.1 * (2 * math.pi * (200 + 900 * t) * t).cos() + 0.05 * long_wave(c, n)


def input_of(spec: dict[str, Any]) -> Tensor:
    return torch.cat([signal(**row) for row in spec["rows"]]).view(spec["shape"])


def deviation(output: Tensor, stored: dict[str, Any]) -> float:
    """The largest difference from what a fixture stores, relative to its largest sample (the l2 norm to itself)."""
    assert list(output.shape) == stored["shape"]
    flat = output.detach().double().flatten()
    pairs = [
        *zip(flat[: len(stored["first"])].tolist(), stored["first"], strict=True),
        *zip(flat[stored["idx"]].tolist(), stored["at_idx"], strict=True),
        (flat.mean().item(), stored["mean"]),
        (flat.std(unbiased=False).item(), stored["std"]),
        (flat.abs().max().item(), stored["absmax"]),
    ]
    differences = [abs(ours - theirs) / stored["absmax"] for ours, theirs in pairs]
    differences.append(abs(flat.norm().item() - stored["l2"]) / stored["l2"])
    return max(differences) if all(map(math.isfinite, differences)) else math.inf
