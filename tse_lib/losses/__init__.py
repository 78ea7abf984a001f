"""The losses by name, each `loss(estimate, target) -> (B,)`; for an absent target, `mixture` stands for `target`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from tse_lib.config import check_params
from tse_lib.losses.level import amplitude, attenuation, energy
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.losses.spectral import l1, phase_sensitive

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "neg_si_sdr": neg_si_sdr,
    "amplitude": amplitude,
    "phase_sensitive": phase_sensitive,
    "l1": l1,
    "energy": energy,
    "attenuation": attenuation,
}
FOR_ABSENT = ("energy", "attenuation")  # the others need a target


def build_loss(name: str, when: str, params: dict[str, Any]) -> Loss:
    """A loss from one entry of the conf's `loss` list.

    Raises:
        ValueError: unknown name or option, or a loss that does not fit present (absent) targets.
    """
    if name not in LOSSES:
        raise ValueError(f"loss: unknown loss '{name}'; known: {', '.join(LOSSES)}")
    if (name in FOR_ABSENT) != (when == "absent"):
        fitting = ", ".join(key for key in LOSSES if (key in FOR_ABSENT) == (when == "absent"))
        raise ValueError(f"loss: '{name}' does not fit `when: {when}`; these do: {fitting}")
    check_params(LOSSES[name], params, f"loss {name}")
    return partial(LOSSES[name], **params)
