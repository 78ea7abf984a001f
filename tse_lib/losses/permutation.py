"""Losses over several sources whose order is not known.

References:
    M. Kolbæk, D. Yu, Z.-H. Tan, J. Jensen, "Multitalker speech separation with utterance-level permutation invariant
    training of deep recurrent neural networks", IEEE/ACM TASLP 25(10), 2017.
    S. Wisdom et al., "Unsupervised sound separation using mixture invariant training", NeurIPS 2020.
"""

from collections.abc import Callable
from functools import partial
from itertools import permutations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tse_lib.losses.sdr import neg_si_sdr, neg_snr

Loss = Callable[[Tensor, Tensor], Tensor]

EXHAUSTIVE = 3  # sources up to which all orders are tried on the device: 6 at most, and nothing waits for the host
BLOCK = 16  # assignments of MixIT that are in memory at once
THRESHOLDED_SNR = partial(neg_snr, max_db=30.0)  # of the MixIT paper


def pit(estimate: Tensor, target: Tensor, loss: Loss = neg_si_sdr) -> Tensor:
    """The mean over sources of `loss` in the order that makes it least: (B, S, ..., T), (B, S, ..., T) -> (B,).

    Utterance-level permutation invariant training (Kolbæk et al. 2017, eq. 11-12), S^2 losses an item.
    """
    costs = pairwise(estimate, target, loss)
    order = best_permutation(costs)
    return costs.gather(1, order[:, None])[:, 0].mean(1)


def pairwise(estimate: Tensor, target: Tensor, loss: Loss = neg_si_sdr) -> Tensor:
    """(B, S, ..., T), (B, S, ..., T) -> (B, S, S): [b, i, j] is the loss of estimate i against target j.

    Raises:
        ValueError: not as many estimates as targets.
    """
    if estimate.shape != target.shape:
        raise ValueError(f"estimates {tuple(estimate.shape)} and targets {tuple(target.shape)}: one shape expected")
    batch, sources, *rest = estimate.shape
    pairs = (batch, sources, sources, *rest)
    rows, columns = estimate[:, :, None].expand(pairs), target[:, None].expand(pairs)
    return loss(rows.reshape(-1, 1, *rest), columns.reshape(-1, 1, *rest)).view(batch, sources, sources)


def best_permutation(costs: Tensor) -> Tensor:
    """(B, S, S) costs[b, i, j] of estimate i as target j -> (B, S): [b, j] is the estimate that is target j.

    All orders for S <= 3, the Hungarian method on the host beyond (one transfer for the whole batch).
    """
    costs, sources = costs.detach(), costs.shape[-1]
    if sources <= EXHAUSTIVE:
        orders = torch.tensor(list(permutations(range(sources)))).to(costs.device, non_blocking=True)  # (S!, S)
        sums = costs[:, orders, torch.arange(sources, device=costs.device)].sum(-1)  # (B, S!)
        return orders[sums.argmin(1)]
    # What is not finite is left to the training step to notice; here any order does.
    matrices = costs.transpose(1, 2).nan_to_num(1e30, 1e30, -1e30).cpu().numpy()  # targets are rows
    orders = torch.tensor([linear_sum_assignment(matrix)[1].tolist() for matrix in matrices])
    return orders.to(costs.device, non_blocking=True)


def mixit(estimate: Tensor, target: Tensor, loss: Loss = THRESHOLDED_SNR) -> Tensor:
    """Mixture invariant training: (B, S, ..., T) estimates, (B, N, ..., T) mixtures -> (B,), the mean over mixtures.

    The model hears the sum of N mixtures (2 in the paper); every estimate belongs to exactly one of them, in the way
    that makes the mean of `loss(sum of its estimates, mixture)` least. All N^S ways are tried, 2^S of two mixtures,
    without a gradient and 16 at a time; the gradient is that of the best (Wisdom et al. 2020, eq. 3: there the sum).
    """
    sources, mixtures = estimate.shape[1], target.shape[1]
    owners = torch.cartesian_prod(*[torch.arange(mixtures, device=target.device)] * sources).view(-1, sources)
    masks = (owners[:, None] == torch.arange(mixtures, device=target.device)[:, None]).to(estimate)  # (N^S, N, S)
    with torch.no_grad():  # a matrix product may round (TF32, autocast): it only chooses
        costs = torch.cat([_assigned(block, estimate, target, loss) for block in masks.split(BLOCK)], 1)
    best = masks[costs.argmin(1)].view(len(target), mixtures, sources, *[1] * (estimate.dim() - 2))
    sums = (best * estimate[:, None]).sum(2)
    return loss(sums.flatten(0, 1)[:, None], target.flatten(0, 1)[:, None]).view(len(target), mixtures).mean(1)


def _assigned(masks: Tensor, estimate: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """Masks (A, N, S) of who belongs to which mixture -> the losses (B, A) of these assignments."""
    sums = (masks.flatten(0, 1) @ estimate.flatten(2)).view(len(target), len(masks), *target.shape[1:])
    others = target[:, None].expand_as(sums)
    return loss(sums.flatten(0, 2)[:, None], others.flatten(0, 2)[:, None]).view(sums.shape[:3]).mean(2)
