"""Several processes, of `tse train --nproc` or of torchrun; on one process everything here is a no-op, so no caller
asks which it is.
"""

import ctypes
import os
import signal
import sys

import torch
import torch.distributed as dist


def pick_device(wanted: str) -> torch.device:
    """Of "auto", "cpu", "cuda" or "cuda:1"; of several processes each takes its own GPU.

    Raises:
        ValueError: there is no such device.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {wanted}: torch sees no CUDA device (`tse doctor` tells more)")
    try:
        device = torch.device(wanted)
        if device.type not in ("cpu", "cuda"):
            torch.empty(0, device=device)  # mps and others, if this torch was built with them
    except (RuntimeError, AssertionError, ImportError):
        raise ValueError(f"--device {wanted}: no device of this torch; auto, cpu, cuda or cuda:1 is wanted") from None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise ValueError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; others are slower in it than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def start(device: torch.device) -> None:
    """Join the process group if we were started as one of several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def end_with_launcher() -> None:
    """As one of several processes, die when the one that started us dies."""
    if "WORLD_SIZE" in os.environ:
        end_with_parent()
        if os.environ.get("TSE_LAUNCHER", str(os.getppid())) != str(os.getppid()):  # it died before we asked
            sys.exit(1)


def end_with_parent() -> None:
    """Ask the system to be killed when the process that started us ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


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


def any_process(flag: bool) -> bool:
    """Whether `flag` is true on one process at least."""
    return bool(total(torch.tensor(float(flag))) > 0) if dist.is_initialized() else flag


def gather(text: str) -> list[str]:
    """The text of every process, in the order of their ranks."""
    if not dist.is_initialized():
        return [text]
    texts = [""] * world_size()
    dist.all_gather_object(texts, text)
    return texts


def share_buffers(module: torch.nn.Module) -> None:
    """Give all processes the first one's buffers: running statistics are those of what each process has seen."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def average_gradients(module: torch.nn.Module) -> None:
    """The mean of each gradient over all processes, as DistributedDataParallel makes it; a missing one counts as 0.

    For small networks, or those that a process may have no use for in some step.
    """
    if not dist.is_initialized():
        return
    gradients = []
    for parameter in module.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
        work.wait()
    torch._foreach_div_(gradients, world_size())
