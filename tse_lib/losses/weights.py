"""Weights of the conf's losses: fixed, scheduled over optimizer steps, or learned."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tse_lib.config import LossTerm, value_at

NOT_POSITIVE = (
    "neg_si_sdr",
    "neg_snr",
    "neg_snr_or_silence",
    "multi_scale_si_sdr",
    "neg_si_sdr_of_scales",
    "pit",
    "mixit",
    "energy",
    "attenuation",
)


def weights_at(terms: Sequence[LossTerm], step: int) -> list[float]:
    """The weight of each term at an optimizer step: linear between two steps of its schedule, else constant."""
    return [float(value_at("weight", term.schedule, step)) if term.schedule else term.weight for term in terms]


class UncertaintyWeights(nn.Module):
    """Weights that are learned with the model (Kendall, Gal, Cipolla, "Multi-task learning using uncertainty to weigh
    losses for scene geometry and semantics", CVPR 2018, eq. 7).

    sum_k exp(-s_k) L_k / 2 + s_k / 2 with a learned log-variance s_k a loss: the least over s_k is at s_k = ln L_k,
    where a loss has the weight 1 / (2 L_k), so all of them matter alike. Weights begin at 1/2. The parameters take no
    weight decay.

    Only for losses above 0. One in dB falls below, and one with a floor reaches 0: either has no least value over s_k,
    and its weight would grow without end.

    Raises:
        ValueError: a loss that is not always positive.
    """

    def __init__(self, names: Sequence[str]):
        super().__init__()
        wrong = [name for name in names if name in NOT_POSITIVE]
        if wrong:
            raise ValueError(f"loss: the weight of '{wrong[0]}' cannot be learned, it is not always above 0; fix it")
        self.log_variances = nn.Parameter(torch.zeros(len(names)))
        self.log_variances._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, losses: Tensor) -> Tensor:
        """(K,) losses -> their weighted sum with the regulariser."""
        return (self.weights() * losses + self.regularisers()).sum()

    def weights(self) -> Tensor:
        """(K,) weights, for losses that are summed over several batches of an optimizer step."""
        return 0.5 * torch.exp(-self.log_variances)

    def regularisers(self) -> Tensor:
        """(K,) prices of low weights: once an optimizer step that has items for the loss, not once a batch."""
        return 0.5 * self.log_variances
