"""Several processes under torchrun; on one process everything here is a no-op, so no caller asks which it is."""

import ctypes
import os
import signal
import sys

import torch
import torch.distributed as dist


def pick_device(wanted: str) -> torch.device:
    """Of "auto", "cpu", "cuda" or "cuda:1"; under torchrun each process takes its own GPU."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {wanted}: torch sees no CUDA device (`tse doctor` tells more)")
    device = torch.device(wanted)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def start(device: torch.device) -> None:
    """Join the process group if torchrun started us."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def end_with_parent() -> None:
    """Die when torchrun dies. It gives its processes sessions of their own, so who ends torchrun's misses them."""
    if "WORLD_SIZE" not in os.environ or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.environ.get("TSE_TORCHRUN", str(os.getppid())) != str(os.getppid()):  # it died before we asked to be told
        sys.exit(1)


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def total(values: torch.Tensor) -> torch.Tensor:
    """Sum of `values` (on the CPU) over all processes."""
    if not dist.is_initialized():
        return values
    on_device = values.cuda() if dist.get_backend() == "nccl" else values.clone()  # nccl adds on GPUs only
    dist.all_reduce(on_device)
    return on_device.cpu()
