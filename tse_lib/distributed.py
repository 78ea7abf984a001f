"""Several processes under torchrun; on one process everything here is a no-op, so no caller asks which it is."""

import os

import torch
import torch.distributed as dist


def start(device: torch.device) -> None:
    """Join the process group if torchrun started us."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


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
