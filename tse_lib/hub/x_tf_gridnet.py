"""Checkpoints of the X-TF-GridNet project (best.pt.tar): model_state_dict beside the optimizer's; they hold no options.

Hao et al., Information Fusion 112 (2024) 102550. All options are seen in the tensors but emb_hs, 2 in its
configurations, and the hop of the STFT, a quarter of its window; --config may say another emb_hs and eps.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tse_lib.hub import espnet
from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.options import Option, Options, our_params
from tse_lib.hub.source import Source

SAMPLE_RATE = 8000  # of WSJ0-2mix, WHAMR! and Libri2Mix as its lists have them
QUERY = "separate_blocks.0.attn_conv_Q_0.2.gamma"
SEEN = {QUERY, "separate_blocks.0.intra_linear.weight", "aux_encoder.speaker.weight"}  # what tells the sizes
OPTIONS: Options = {
    "emb_hs": Option(2, "emb_hs"),
    "eps": Option(1e-5, "eps"),
    "activation": Option("prelu", "", ("prelu",)),
    **{seen: Option(None) for seen in ("n_fft", "n_layers", "lstm_hidden_units", "attn_n_head", "attn_approx_qk_dim")},
    **{seen: Option(None) for seen in ("emb_dim", "emb_ks", "num_spks")},
}
TABLE = """
    speaker_linear.*       aux_encoder.out_conv.*
    classifier.*           aux_encoder.speaker.*
    unets.*.in_conv.*      aux_encoder.aux_enc.*.in_conv.0.conv.1.*
    unets.*.in_norm.*      aux_encoder.aux_enc.*.in_conv.1.*
    unets.*.in_act.*       aux_encoder.aux_enc.*.in_conv.2.*
    unets.*.down.*.*.*     aux_encoder.aux_enc.*.encoder.*.conv.*.*
    unets.*.up.*.*.*       aux_encoder.aux_enc.*.decoder.*.deconv.*.*
    fusions.*.alpha        fusion_blocks.*.alpha          D   11D
    fusions.*.attn.**      fusion_blocks.*.attn.**
    fusions.*.linear.bias  fusion_blocks.*.fusion.bias
    fusions.*.linear.*     fusion_blocks.*.fusion.*       OI  OI11
""" + re.sub(r"(\S+ +)blocks\.", r"\1separate_blocks.", espnet.V1_TABLE)  # theirs, the second word of a line


def params_of(config: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for the arguments of pTFGridNet and the shapes of its tensors."""
    _, qk_dim, _, bins = shapes[QUERY]
    both_hidden, emb_dim, emb_ks = shapes["separate_blocks.0.intra_linear.weight"]

    def count(pattern: str) -> int:
        return sum(pattern.format(number) in shapes for number in range(len(shapes)))

    unets = count("aux_encoder.aux_enc.{}.in_conv.1.weight")
    return our_params(OPTIONS, config, "X-TF-GridNet") | {
        "n_fft": 2 * (bins - 1),
        "hop_length": (bins - 1) // 2,
        "num_blocks": count("separate_blocks.{}.intra_linear.weight"),
        "emb_dim": emb_dim,
        "emb_ks": emb_ks,
        "lstm_hidden": both_hidden // 2,
        "num_heads": count("separate_blocks.0.attn_conv_Q_{}.2.gamma"),
        "qk_dim": qk_dim,
        "unet_depths": [count(f"aux_encoder.aux_enc.{unet}.encoder.{{}}.conv.0.weight") for unet in range(unets)],
        "num_speakers": shapes["aux_encoder.speaker.weight"][0],
        "compat": True,
    }


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    return Names(TABLE, params["num_heads"])


def recognise(source: Source) -> bool:
    return source.tensors.keys() >= SEEN


def read(source: Source, given: Given) -> Found:
    if given.model:
        name, params, rate = given.model
        return Found(name, {**params, "compat": True}, rate, source.tensors, "X-TF-GridNet")
    params = params_of(source.config or {}, {key: list(value.shape) for key, value in source.tensors.items()})
    told = f"X-TF-GridNet of {params['num_blocks']} blocks"
    return Found("x_tf_gridnet", params, given.sample_rate or SAMPLE_RATE, source.tensors, told)


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    torch.save({"epoch": 0, "model_state_dict": tensors}, path)
