"""Checkpoints of the HiFi_TSE project (v1 and v2) are our `hifi_tse`.

Its files are dictionaries with `generator` (v1, v2) and `ema_generator` (v2: torch's AveragedModel, so `n_averaged` and
names under `module.`). They hold no configuration: the version follows from the tensors. Parameter names are the same
here, so nothing is renamed and every name is checked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.source import Source
from tse_lib.models.presets import HIFI_TSE_V2

SAMPLE_RATE = 48000
WIDTH = "gridnet.blocks.0.freq_lstm.weight_hh_l0"  # tells the size of the LSTMs


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    return Names("** **")


def recognise(source: Source) -> bool:
    saved = source.saved
    return isinstance(saved, dict) and isinstance(saved.get("generator"), dict) and WIDTH in saved["generator"]


def read(source: Source, given: Given) -> Found:
    """Averaged weights where there are some: they were selected."""
    saved = source.saved
    if "ema_generator" in saved:
        weights = {
            key.removeprefix("module."): value for key, value in saved["ema_generator"].items() if key != "n_averaged"
        }
        which = "averaged weights (ema_generator)"
    else:
        weights, which = saved["generator"], "raw weights (generator)"
    film = any(key.startswith("film.") for key in weights)
    told = f"HiFi-TSE {'v2' if film else 'v1'}, {which}, step {saved.get('step', 'unknown')}"
    if given.model:
        return Found(*given.model, weights, told)
    hidden = saved["generator"][WIDTH].shape[1]
    reinject = sorted({int(key.split(".")[2]) for key in weights if key.startswith("gridnet.reinject_layers.")})
    params = {**HIFI_TSE_V2, "lstm_hidden": hidden, "film": film, "reinject_at": reinject}
    return Found("hifi_tse", params, SAMPLE_RATE, weights, told)


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    torch.save({"generator": tensors}, path)
