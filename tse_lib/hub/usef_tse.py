"""USEF-TSE's checkpoints (github.com/ZBang/USEF-TSE): USEF-TFGridNet and USEF-SepFormer, in temp_best.pth.tar.

Zeng and Li 2024, "USEF-TSE: universal speaker embedding free target speaker extraction" (arXiv 2409.02615). The files
hold model_state_dict beside states of the optimizer and of random generators, and no options. Sizes are seen in the
tensors; what those cannot say (TOLD) is that of the published networks, unless --config config.yaml says otherwise.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.source import Source, Tagged
from tse_lib.hub.speechbrain import sinusoids

SAMPLE_RATE = 8000
POSITIONS = 20000  # of the tables that a USEF-SepFormer stores
TOLD = {  # class of config.yaml -> what its arguments say and tensors do not
    "STFT": ("hop_length", "win_length"),
    "Decoder": ("stride",),
    "TransformerEncoder": ("nhead", "dropout", "normalize_before"),
    "Tar_Model": ("K", "emb_hs"),
}

ATTENTION = (
    "".join(
        f"""
    {{ours}}.{role}.linear.weight  {{theirs}}.attn_conv_{letter}.weight      OI    OI11
    {{ours}}.{role}.linear.bias    {{theirs}}.attn_conv_{letter}.bias
    {{ours}}.{role}.act.weight     {{theirs}}.attn_norm_{letter}.act.weight
    {{ours}}.{role}.gamma          {{theirs}}.attn_norm_{letter}.gamma       H1FE  1HE1F
    {{ours}}.{role}.beta           {{theirs}}.attn_norm_{letter}.beta        H1FE  1HE1F
"""
        for letter, role in (("Q", "query"), ("K", "key"), ("V", "value"))
    )
    + """
    {ours}.proj.weight  {theirs}.attn_concat_proj.0.weight  OI  OI11
    {ours}.proj.bias    {theirs}.attn_concat_proj.0.bias
    {ours}.act.weight   {theirs}.attn_concat_proj.1.weight
    {ours}.norm.weight  {theirs}.attn_concat_proj.2.gamma   FD  1D1F
    {ours}.norm.bias    {theirs}.attn_concat_proj.2.beta    FD  1D1F
"""
)
TF_GRIDNET_TABLE = f"""
    {ATTENTION.format(ours="usef", theirs="att")}
    {ATTENTION.format(ours="blocks.*.attention", theirs="dual_mdl.*")}
    conv.*               conv.0.*
    conv_norm.*          conv.1.*
    deconv.*             deconv.*
    blocks.*.*.norm.*    dual_mdl.*.*_norm.*
    blocks.*.*.rnn.*     dual_mdl.*.*_rnn.*
    blocks.*.*.linear.*  dual_mdl.*.*_linear.*
"""
SEPFORMER_TABLE = """
    encoder.weight         encoder.conv1d.weight
    norm.*                 norm_m.*
    bottleneck.weight      conv1d1.weight
    scale.*                film.linear1.*
    shift.*                film.linear2.*
    fusion_norm.*          fusion_norm.*
    head.act.weight        prelu.weight
    head.source_conv.*     conv2d.*
    head.output_conv.*     output.0.*
    head.gate_conv.*       output_gate.0.*
    head.mask_conv.weight  end_conv1x1.weight
    decoder.weight         decoder.weight
    blocks.*.*_linear.*    dual_mdl.*.*_linear.*
    blocks.*.*_norm.*      dual_mdl.*.*_norm.*
""" + "".join(
    f"""
    {ours}.layers.*.attn.**       {theirs}.layers.*.self_att.att.**
    {ours}.layers.*.attn_norm.*   {theirs}.layers.*.norm1.norm.*
    {ours}.layers.*.ffn_norm.*    {theirs}.layers.*.norm2.norm.*
    {ours}.layers.*.linear_in.*   {theirs}.layers.*.pos_ffn.ffn.0.*
    {ours}.layers.*.linear_out.*  {theirs}.layers.*.pos_ffn.ffn.3.*
    {ours}.norm.*                 {theirs}.norm.norm.*
"""
    for ours, theirs in (("fusion", "fusion_mdl"), ("blocks.*.*", "dual_mdl.*.*_mdl"))
)


def params_of(name: str, shapes: Mapping[str, Sequence[int]], told: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for published tensors of these shapes, and what config.yaml says besides."""
    if name == "usef_sepformer":
        num_filters, _, kernel_size = shapes["encoder.conv1d.weight"]
        return {
            "num_filters": num_filters,
            "kernel_size": kernel_size,
            "stride": told.get("stride", kernel_size // 2),
            "fusion_layers": _count(shapes, "fusion_mdl.layers."),
            "num_blocks": _count(shapes, "dual_mdl."),
            "intra_layers": _count(shapes, "dual_mdl.0.intra_mdl.layers."),
            "inter_layers": _count(shapes, "dual_mdl.0.inter_mdl.layers."),
            "num_heads": told.get("nhead", 8),
            "ffn_dim": shapes["fusion_mdl.layers.0.pos_ffn.ffn.0.weight"][0],
            "chunk_size": told.get("K", 250),
            "dropout": float(told.get("dropout", 0.0)),
            "norm_first": told.get("normalize_before", False),
            "compat": True,
        }
    _, num_heads, qk_dim, _, num_freqs = shapes["att.attn_norm_Q.gamma"]
    emb_dim, n_fft = shapes["conv.0.weight"][0], 2 * (num_freqs - 1)
    emb_ks = shapes["dual_mdl.0.intra_rnn.weight_ih_l0"][1] // (2 * emb_dim)
    stacked = len(shapes["dual_mdl.0.intra_linear.weight"]) == 2
    return {
        "n_fft": n_fft,
        "hop_length": told.get("hop_length", n_fft // 2),
        "win_length": told.get("win_length", n_fft),
        "num_blocks": _count(shapes, "dual_mdl."),
        "emb_dim": emb_dim,
        "emb_ks": emb_ks,
        "emb_hs": emb_ks if stacked else told.get("emb_hs", 1),
        "lstm_hidden": shapes["dual_mdl.0.intra_rnn.weight_hh_l0"][1],
        "num_heads": num_heads,
        "qk_dim": qk_dim,
        "compat": True,
    }


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    if name == "usef_tf_gridnet":
        return Names(TF_GRIDNET_TABLE)
    table = sinusoids(POSITIONS, params["num_filters"])[None]
    stored = ["pos_enc.pe", *(f"dual_mdl.{block}.pos_enc.pe" for block in range(params["num_blocks"]))]
    return Names(SEPFORMER_TABLE, computed=dict.fromkeys(stored, table))


def recognise(source: Source) -> bool:
    return any(key in source.tensors for key in ("att.attn_conv_Q.weight", "fusion_mdl.norm.norm.weight"))


def read(source: Source, given: Given) -> Found:
    name = "usef_tf_gridnet" if "att.attn_conv_Q.weight" in source.tensors else "usef_sepformer"
    if given.model:
        kind, params, rate = given.model
        return Found(kind, {**params, "compat": True}, rate, source.tensors, f"USEF-TSE {kind}")
    shapes = {key: tuple(value.shape) for key, value in source.tensors.items()}
    try:
        params = params_of(name, shapes, _told(source.config or {}))
    except (KeyError, ValueError):
        raise ValueError(f"{source.name}: tensors of a USEF-TSE {name} are missing or of another shape") from None
    return Found(name, params, given.sample_rate or SAMPLE_RATE, source.tensors, f"USEF-TSE {name}")


def _told(config: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for value in config.values():
        if isinstance(value, Tagged) and isinstance(value.value, dict):
            names = TOLD.get(value.tag.rpartition(".")[2], ())
            told |= {name: value.value[name] for name in names if name in value.value}
    return told


def _count(shapes: Mapping[str, Any], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)})


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    torch.save({"model_state_dict": {f"module.{key}": value for key, value in tensors.items()}}, path)
