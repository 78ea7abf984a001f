"""Files of look2hear's SPMamba: best_model.pth (model_name, state_dict, model_args, infos) or a Lightning checkpoint.

Li et al. 2024, "SPMamba: state-space model is all you need in speech separation" (arXiv 2404.02063). Its model_args say
nothing of the network; the conf.yml it was trained with does (audionet_config), and lies beside the file or is given.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tse_lib.hub import espnet
from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.options import Option, Options, our_params, their_config
from tse_lib.hub.source import Source

SPMAMBA: Options = {
    **espnet.SHARED_BINS,
    "lstm_hidden_units": Option(192),  # there are no LSTMs
    "eps": Option(1e-5, "", (1e-5,)),
    "sample_rate": Option(16000),
}
TABLE = espnet.V1_TABLE.replace(
    "    blocks.*.*.rnn.*                blocks.*.*_rnn.*", "    blocks.*.*.rnn.**  blocks.*.*_mamba.**"
)


def params_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for the arguments of SPMamba."""
    params = our_params(SPMAMBA, config, "look2hear's SPMamba")
    return params | {"qk_dim": math.ceil(params["qk_dim"] / (params["n_fft"] // 2 + 1))}


def config_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `params_of`; `params` is complete."""
    num_freqs = params["n_fft"] // 2 + 1
    return their_config(SPMAMBA, params) | {"attn_approx_qk_dim": params["qk_dim"] * num_freqs}


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    return Names(TABLE, params["num_heads"])


def recognise(source: Source) -> bool:
    return any(key.startswith("blocks.0.intra_mamba.") for key in source.tensors) or (
        isinstance(source.saved, dict) and source.saved.get("model_name") == "SPMamba"
    )


def read(source: Source, given: Given) -> Found:
    if given.model:
        return Found(*given.model, source.tensors, "look2hear SPMamba")
    args = source.saved.get("model_args") or {}
    conf = source.config or {}
    audionet = conf.get("audionet") or {}
    config = audionet.get("audionet_config") or ({} if audionet else conf) or (args if "n_fft" in args else {})
    if not config:
        raise ValueError(
            f"{source.name}: its options are not in it; --config with the conf.yml that it was trained with, or "
            "--preset spmamba or spmamba_16k"
        )
    kind = audionet.get("audionet_name", "SPMamba")
    if kind != "SPMamba":
        raise ValueError(f"{source.name}: look2hear's {kind!r} is not built here, only SPMamba")
    data = (conf.get("datamodule") or {}).get("data_config") or {}
    rate = given.sample_rate or config.get("sample_rate") or data.get("sample_rate")
    if not rate:
        raise ValueError(f"{source.name}: its sample rate is not in the configuration; --sample_rate 8000 or 16000")
    return Found("spmamba", params_of(config), int(rate), source.tensors, "look2hear SPMamba")


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    """A file for look2hear; model_args hold all options, which its own files lack."""
    args = config_of(params) | {"sample_rate": sample_rate}
    torch.save({"model_name": "SPMamba", "state_dict": tensors, "model_args": args, "infos": {}}, path)
