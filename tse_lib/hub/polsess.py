"""Checkpoints of the polsess_separation project: model_state_dict and config (model, data, training).

github.com/traktorex/polsess_separation. Its Conv-TasNet, DPRNN and SepFormer are SpeechBrain's in a wrapper, its
SPMamba is look2hear's and its MossFormer2 ClearerVoice's; its corpora are sampled at 8 kHz. RE-SepFormer, Mamba-TasNet
and DPMamba, which it has too, are not built here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tse_lib.hub import look2hear, mossformer2, speechbrain
from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.source import Source

SAMPLE_RATE = 8000
OLD_PREFIX = (".transformer.", ".mdl.")  # of SepFormers before March 2026, which had no positions either


class Kind(NamedTuple):
    """One of the project's models.

    Attributes:
        name: ours.
        defaults: its options.
        base: what an option is called where the network comes from, where the names differ; "": it has no effect.
        prefix: (there, here) of the tensors' names.
    """

    name: str
    defaults: dict[str, Any]
    base: dict[str, str]
    prefix: tuple[str, str]


KINDS = {
    "convtasnet": Kind(
        "conv_tasnet",
        {"N": 256, "B": 256, "H": 512, "P": 3, "X": 8, "R": 4, "C": 2, "norm_type": "gLN", "causal": False}
        | {"mask_nonlinear": "relu", "kernel_size": 16, "stride": 8},
        {},
        ("masknet.", "mask_net."),
    ),
    "dprnn": Kind(
        "dprnn",
        {"N": 64, "kernel_size": 16, "stride": 8, "C": 1, "num_layers": 6, "chunk_size": 100, "rnn_type": "LSTM"}
        | {"hidden_size": 128, "num_rnn_layers": 1, "dropout": 0.0, "bidirectional": True, "norm_type": "ln"},
        {"C": "num_spks", "num_layers": "num_dual", "chunk_size": "K", "hidden_size": "hidden_channels"}
        | {"num_rnn_layers": "num_layers", "norm_type": "norm"},
        ("masknet.", "separator."),
    ),
    "sepformer": Kind(
        "sepformer",
        {"N": 256, "kernel_size": 16, "stride": 8, "C": 2, "causal": False, "num_blocks": 2, "num_layers": 8}
        | {"d_model": None, "nhead": 8, "d_ffn": 1024, "dropout": 0.0, "chunk_size": 250, "hop_size": 125}
        | {"use_positional_encoding": False},  # of checkpoints that do not say it
        {"C": "num_spks", "num_blocks": "num_dual", "chunk_size": "K", "causal": "", "hop_size": "", "d_model": ""},
        ("masknet.", "masknet."),
    ),
    "spmamba": Kind(
        "spmamba",
        {"input_dim": 64, "n_srcs": 1, "n_fft": 256, "stride": 64, "window": "hann", "n_layers": 6}
        | {"lstm_hidden_units": 256, "attn_n_head": 4, "attn_approx_qk_dim": 512, "emb_dim": 16, "emb_ks": 4}
        | {"emb_hs": 1, "activation": "prelu", "eps": 1e-5, "sample_rate": SAMPLE_RATE},
        {},
        ("", ""),
    ),
    "mossformer2": Kind(
        "mossformer2",
        {"N": 512, "kernel_size": 16, "C": 2, "num_blocks": 24, "attn_dropout": 0.1},
        {"N": "encoder_embedding_dim", "kernel_size": "encoder_kernel_size", "C": "num_spks"}
        | {"num_blocks": "num_mossformer_layer", "attn_dropout": ""},
        ("", "model.model."),
    ),
}


def params_of(kind: str, config: Mapping[str, Any], training: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Our options for those of the project's model `kind`; `training` is the section of this name."""
    name, defaults, base, _ = KINDS[kind]
    unknown = sorted(config.keys() - defaults.keys())
    if unknown:
        raise ValueError(f"polsess_separation's {kind}: unknown option '{unknown[0]}'")
    values = {**defaults, **config}
    if values.get("d_model") not in (None, values.get("N")):
        raise ValueError(f"polsess_separation's {kind}: d_model {values['d_model']!r} is not built here, only N")
    there = {base.get(key, key): value for key, value in values.items() if base.get(key, key)}
    if name == "spmamba":
        return look2hear.params_of(there)
    if name == "mossformer2":
        there["mossformer_sequence_dim"] = values["N"]
        return mossformer2.params_of(there) | {"dropout": values["attn_dropout"]}
    params = speechbrain.params_of(name, there)
    if name == "conv_tasnet" and training and training.get("use_amp"):  # then it raises eps, in evaluation too
        params["norm_eps"] = training.get("amp_eps", 1e-4)
    return params


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    source = {"spmamba": look2hear, "mossformer2": mossformer2}.get(name, speechbrain)
    names: Names = source.names_of(name, params)
    there, here = next(kind.prefix for kind in KINDS.values() if kind.name == name)
    lines = [line.split() for line in names.table.splitlines() if line.strip()]
    table = "\n".join(" ".join((ours, _moved(theirs, there, here), *axes)) for ours, theirs, *axes in lines)
    return Names(table, names.num_heads, {_moved(key, there, here): value for key, value in names.computed.items()})


def _moved(name: str, there: str, here: str) -> str:
    return here + name.removeprefix(there) if name.startswith(there) else name


def recognise(source: Source) -> bool:
    saved = source.saved
    return (
        isinstance(saved, dict)
        and isinstance(saved.get("config"), dict)
        and isinstance(saved["config"].get("model"), dict)
        and "model_type" in saved["config"]["model"]
    )


def read(source: Source, given: Given) -> Found:
    config = source.saved["config"]
    model = config["model"]
    kind = model["model_type"]
    if kind not in KINDS:
        raise ValueError(f"{source.name}: polsess_separation's {kind!r} is not built here, only {', '.join(KINDS)}")
    tensors = {key.replace(*OLD_PREFIX) if kind == "sepformer" else key: value for key, value in source.tensors.items()}
    told = f"polsess_separation {kind}"
    if given.model:
        return Found(*given.model, tensors, told)
    params = params_of(kind, model.get(kind) or {}, config.get("training"))
    return Found(KINDS[kind].name, params, given.sample_rate or SAMPLE_RATE, tensors, told)


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    kind, (_, defaults, base, _) = next(item for item in KINDS.items() if item[1].name == name)
    if name == "spmamba":
        there = look2hear.config_of(params)
    elif name == "mossformer2":
        there = mossformer2.config_of(params)
    else:
        there = speechbrain.config_of(name, params)
    config = {key: there.get(base.get(key, key), default) for key, default in defaults.items()}
    if name == "mossformer2":
        config["attn_dropout"] = params["dropout"]
    config.pop("d_model", None)
    config.pop("sample_rate", None)
    sections: dict[str, Any] = {"model": {"model_type": kind, kind: config}}
    if name == "conv_tasnet":
        sections["training"] = {"use_amp": params["norm_eps"] != 1e-8, "amp_eps": params["norm_eps"]}
    torch.save({"model_state_dict": tensors, "config": sections}, path)
