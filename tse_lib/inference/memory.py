"""How much memory a chunk takes in a network, and how much there is."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SHARE = 0.5  # of what is free may be used: allocators leave holes, and kernels have buffers of their own
PROBE = 16  # the part of a chunk by which a whole one is judged
PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def bytes_of_chunk(process: Callable[[Tensor], Tensor], mixture: Tensor, there: list[Tensor]) -> int:
    """About how many bytes tensors hold at one time while `process` has a chunk: judged by a small part of it.

    Args:
        process: (B, C, K) -> anything.
        mixture: (1, C, K // 8), on the device; it is run, and its first half. Memory grows by length and its square.
        there: tensors that are in memory already, such as the weights.
    """
    half = peak_bytes(process, mixture[..., : (mixture.shape[-1] + 1) // 2], there)
    square = max(0, peak_bytes(process, mixture, there) - 2 * half) / 2
    return round((half - square) * PROBE + square * PROBE**2)


class _Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside, and of what convolutions copy inside: now, and at most."""

    def __init__(self, there: list[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakSet(tensor.untyped_storage() for tensor in there)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage() not in self.known:
                storage = leaf.untyped_storage()
                self.known.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._drop, storage.nbytes())
        if function is torch.ops.aten.convolution.default and max(args[1].shape[2:]) > 1:  # into a layout of its own
            self.most = max(self.most, self.now + args[0].nbytes + out.nbytes)
        return out

    def _drop(self, size: int) -> None:
        self.now -= size


def peak_bytes(function: Callable[[Tensor], Tensor], x: Tensor, there: list[Tensor]) -> int:
    """The most bytes that tensors made in `function(x)` hold at one time; `there`: those that were made before."""
    with _Peak([x, *there]) as peak:
        function(x)
    return peak.most


def available_bytes(device: torch.device) -> int | None:
    """Free memory of the device, of a CPU what the system and the process's control group have left; None: unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    system = _numbers(PROC / "meminfo").get("MemAvailable:")
    left = [] if system is None else [system * 1024]
    for line in (PROC / "self/cgroup").read_text().splitlines() if left else []:
        _, kind, place = line.split(":", 2)
        if kind in ("", "memory"):
            group = GROUPS / kind / place.lstrip("/")  # in a container it is not there, but one of those above
            left += [room for folder in (group, *group.parents) if (room := _room(folder)) is not None]
    return min(left, default=None)


def _room(group: Path) -> int | None:
    """What a control group, of either version, may still take: its file cache is given back when it is needed."""
    for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        if (group / limit).exists() and (group / usage).exists():
            allowed = (group / limit).read_text().strip()
            stat = _numbers(group / "memory.stat")
            cache = stat.get("total_inactive_file", stat.get("inactive_file", 0))  # in version 1 the latter is its own
            return None if allowed == "max" else int(allowed) - int((group / usage).read_text()) + cache
    return None


def _numbers(path: Path) -> dict[str, int]:
    """Lines `name number …` of a file; none if it is not there."""
    if not path.exists():
        return {}
    words = (line.split() for line in path.read_text().splitlines())
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}
