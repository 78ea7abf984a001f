"""Read checkpoints of the HiFi_TSE project (v1 and v2) into our `hifi_tse`.

Its files are dictionaries with `generator` (v1, v2) and `ema_generator` (v2: torch's AveragedModel, so `n_averaged` and
names under `module.`). They hold no configuration: the version follows from the tensors. Parameter names are the same
here, so nothing is renamed and every name is checked.
"""

from typing import Any

from torch import Tensor

from tse_lib.models.presets import HIFI_TSE_V2

SAMPLE_RATE = 48000
WIDTH = "gridnet.blocks.0.freq_lstm.weight_hh_l0"  # tells the size of the LSTMs


def recognise(saved: Any) -> bool:
    return isinstance(saved, dict) and isinstance(saved.get("generator"), dict) and WIDTH in saved["generator"]


def read(saved: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """(weights, model params, what was recognised). Averaged weights where there are some: they were selected."""
    if "ema_generator" in saved:
        weights = {
            key.removeprefix("module."): value for key, value in saved["ema_generator"].items() if key != "n_averaged"
        }
        which = "averaged weights (ema_generator)"
    else:
        weights, which = saved["generator"], "raw weights (generator)"
    film = any(key.startswith("film.") for key in weights)
    hidden = saved["generator"][WIDTH].shape[1]
    reinject = sorted({int(key.split(".")[2]) for key in weights if key.startswith("gridnet.reinject_layers.")})
    params = {**HIFI_TSE_V2, "lstm_hidden": hidden, "film": film, "reinject_at": reinject}
    return weights, params, f"HiFi-TSE {'v2' if film else 'v1'}, {which}, step {saved.get('step', 'unknown')}"
