"""Step functions: each does the forward and backward passes of one optimizer step and the update itself."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tse_lib import distributed
from tse_lib.losses import Loss


class Objective:
    """The weighted sum of the conf's losses.

    Sums over the items are divided once, by how many targets are present (absent) in the whole optimizer step over
    all batches and processes. So accumulation and the number of processes change nothing.
    """

    def __init__(self, terms: list[tuple[str, float, str, Loss]]):
        self.terms = terms  # (name, weight, "present" or "absent", loss)

    def __call__(
        self, estimate: Tensor, batch: dict[str, Any], counts: dict[str, int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """estimate (B, 1, C, T) float32 -> the loss to go back from, and each term's share of its mean."""
        present = batch["present"]
        rows = {"present": present, "absent": ~present}
        other = {"present": batch["target"][:, None], "absent": batch["mixture"][:, None]}
        total, shares = estimate.sum() * 0.0, {}
        for name, weight, when, loss in self.terms:
            if rows[when].any():
                value = loss(estimate[rows[when]], other[when][rows[when]]).sum() / counts[when]
                total = total + weight * value
                shares[name] = value.detach()
            else:
                shares[name] = torch.zeros((), device=estimate.device)
        return total, shares


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move the tensors, all but `lengths`: encoders read those on the CPU, where they cost no synchronisation."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) and key != "lengths" else value
        for key, value in batch.items()
    }


def supervised_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[dict[str, Any]],
    counts: dict[str, int],
    objective: Objective,
    clip_norm: float,
    autocast: torch.autocast,
) -> dict[str, Tensor]:
    """One optimizer step over `batches`. Returns the loss, its terms and the gradient norm.

    A step whose gradient is not finite is not taken; `skipped` says so.
    """
    logs: dict[str, Tensor] = {}
    device = next(model.parameters()).device
    for number, batch in enumerate(batches):
        batch = to_device(batch, device)
        last = number == len(batches) - 1
        waits = isinstance(model, DistributedDataParallel) and not last  # the processes meet once a step
        with model.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
            with autocast:
                estimate = model(batch["mixture"], batch["enroll"], batch["lengths"])
            loss, shares = objective(estimate.float(), batch, counts)
            (loss * distributed.world_size()).backward()  # DistributedDataParallel averages what has to be summed
        for name, share in {"loss": loss.detach(), **shares}.items():
            logs[name] = logs.get(name, torch.zeros((), device=device)) + share
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    finite = bool(torch.isfinite(norm))
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {**logs, "grad_norm": norm.detach(), "skipped": torch.tensor(float(not finite), device=device)}
