"""The losses by name, each `loss(estimate, target) -> (B,)`; for an absent target, `mixture` stands for `target`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from tse_lib.config import check_params
from tse_lib.losses.level import amplitude, attenuation, energy
from tse_lib.losses.permutation import Loss, mixit, pit
from tse_lib.losses.sdr import multi_scale_si_sdr, neg_si_sdr, neg_si_sdr_of_scales, neg_snr
from tse_lib.losses.speaker import speaker_contrast, speaker_cross_entropy
from tse_lib.losses.spectral import l1, mixture_consistency, multi_resolution_stft, phase_sensitive
from tse_lib.losses.stems import masked_mse, multi_resolution_mel, neg_snr_or_silence, relative_error

LOSSES: dict[str, Callable[..., Tensor]] = {
    "neg_si_sdr": neg_si_sdr,
    "neg_snr": neg_snr,
    "multi_scale_si_sdr": multi_scale_si_sdr,
    "neg_si_sdr_of_scales": neg_si_sdr_of_scales,
    "amplitude": amplitude,
    "phase_sensitive": phase_sensitive,
    "multi_resolution_stft": multi_resolution_stft,
    "l1": l1,
    "mixture_consistency": mixture_consistency,
    "neg_snr_or_silence": neg_snr_or_silence,
    "relative_error": relative_error,
    "masked_mse": masked_mse,
    "multi_resolution_mel": multi_resolution_mel,
    "pit": pit,
    "mixit": mixit,
    "speaker_cross_entropy": speaker_cross_entropy,
    "speaker_contrast": speaker_contrast,
    "energy": energy,
    "attenuation": attenuation,
}
FOR_ABSENT = ("energy", "attenuation")  # the others need a target
OF_SPEAKERS = {  # what they get of a batch instead of signals
    "speaker_cross_entropy": ("logits", "speaker_number"),
    "speaker_contrast": ("output_embedding", "enroll_embedding", "speaker_number"),
}
OF_SCALES = ("neg_si_sdr_of_scales",)  # get all outputs of networks that have several of one target
OVER_SOURCES = ("pit", "mixit", "mixture_consistency")  # no loss between one estimate and one target
OF_ANY_ORDER = ("pit", "mixit")  # know no names of sources


def build_loss(name: str, when: str, params: dict[str, Any]) -> Loss:
    """A loss from one entry of the conf's `loss` list.

    `pit` and `mixit` have a loss as an option: its name, or `{name: neg_snr, params: {max_db: 30}}`.

    Raises:
        ValueError: unknown name or option, or a loss that does not fit present (absent) targets.
    """
    if name not in LOSSES:
        raise ValueError(f"loss: unknown loss '{name}'; known: {', '.join(LOSSES)}")
    if (name in FOR_ABSENT) != (when == "absent"):
        fitting = ", ".join(key for key in LOSSES if (key in FOR_ABSENT) == (when == "absent"))
        raise ValueError(f"loss: '{name}' does not fit `when: {when}`; these do: {fitting}")
    given = [None] * len(OF_SPEAKERS.get(name, ("estimate", "target")))  # these are no options
    check_params(partial(LOSSES[name], *given), params, f"loss {name}")
    if "loss" in params:
        params = {**params, "loss": _inner_loss(name, params["loss"])}
    return partial(LOSSES[name], **params)


def _inner_loss(outer: str, value: Any) -> Loss:
    choice = {"name": value} if isinstance(value, str) else value
    if not isinstance(choice, dict) or "name" not in choice or set(choice) - {"name", "params"}:
        raise ValueError(f"loss {outer}: loss: a name or {{name: …, params: {{…}}}} expected, got {value!r}")
    if choice["name"] in OVER_SOURCES:
        raise ValueError(f"loss {outer}: '{choice['name']}' is itself a loss over sources; neg_si_sdr is not")
    if choice["name"] in OF_SPEAKERS:
        raise ValueError(f"loss {outer}: '{choice['name']}' compares no signals; neg_si_sdr does")
    if choice["name"] in OF_SCALES:
        raise ValueError(f"loss {outer}: '{choice['name']}' is of several outputs for one target; neg_si_sdr is not")
    return build_loss(choice["name"], "present", choice.get("params") or {})
