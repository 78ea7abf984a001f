"""Strict importers of other projects' checkpoints: nothing is executed, no name may be missing or left over."""

from pathlib import Path
from typing import Any

from torch import Tensor

from tse_lib import checkpoint
from tse_lib.hub import hifi_tse
from tse_lib.models import build_model

# name -> (module with `recognise` and `read`, our model, its sample rate)
IMPORTERS = {
    "hifi_tse": (hifi_tse, "hifi_tse", hifi_tse.SAMPLE_RATE),
}


def import_checkpoint(path: str | Path) -> tuple[str, dict[str, Any], int, dict[str, Tensor], str]:
    """(model name, its params, sample rate, weights, what was recognised) of a checkpoint of another project.

    Raises:
        ValueError: not recognised, asks to run code, or its tensors do not fit the network exactly.
    """
    saved = checkpoint.read_tensors(path)
    for module, name, sample_rate in IMPORTERS.values():
        if module.recognise(saved):
            weights, params, told = module.read(saved)
            refuse_misfit(path, weights, build_model(name, params, sample_rate).state_dict())
            return name, params, sample_rate, weights, told
    keys = ", ".join(list(saved)[:5]) if isinstance(saved, dict) else type(saved).__name__
    raise ValueError(f"{path}: not recognised (it holds {keys}); known: {', '.join(IMPORTERS)}")


def refuse_misfit(path: str | Path, weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    missing, unexpected = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    wrong = [key for key in wanted.keys() & weights.keys() if wanted[key].shape != weights[key].shape]
    faults = [
        f"{len(keys)} {kind}: {', '.join(keys[:5])}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(wrong)))
        if keys
    ]
    if faults:
        raise ValueError(f"{path}: tensors do not fit; {'; '.join(faults)}")
