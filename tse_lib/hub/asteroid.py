"""Asteroid's files (`.pth`, `.bin`): a dictionary of model_name, state_dict, model_args and infos.

Pariente et al. 2020, "Asteroid: the PyTorch-based audio source separation toolkit for researchers" (arXiv 2005.04132);
layout and options as of its release 0.7.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.options import REQUIRED, Option, Options, our_params, their_config
from tse_lib.hub.source import Source

MASKS = {"sigmoid": "sigmoid", "relu": "relu"}
ACTIVATIONS = {None: False, "linear": False, "relu": True}
CHUNKS: Options = {"chunk_size": Option(100, "chunk_size"), "n_repeats": Option(6, "num_blocks")}


def filters(n_filters: int) -> Options:
    """Of the encoder and decoder; only free filters, not STFT or gammatones."""
    return {
        "fb_name": Option("free", "", ("free", "FreeFB")),
        "kernel_size": Option(16, "kernel_size"),
        "n_filters": Option(n_filters, "num_filters"),
        "stride": Option(8, "stride"),
        "sample_rate": Option(8000.0),
    }


CONV_TASNET: Options = {
    "n_src": Option(REQUIRED, "num_sources"),
    "n_blocks": Option(8, "num_blocks"),
    "n_repeats": Option(3, "num_repeats"),
    "bn_chan": Option(128, "bottleneck_dim"),
    "hid_chan": Option(512, "hidden_dim"),
    "skip_chan": Option(128, "skip_dim"),
    "conv_kernel_size": Option(3, "conv_kernel_size"),
    "norm_type": Option("gLN", "norm", {"gLN": "gLN", "cgLN": "cLN", "cLN": "LN"}),
    "mask_act": Option("sigmoid", "mask", MASKS),
    "causal": Option(False, "causal", {False: False, True: True}),
    "encoder_activation": Option(None, "encoder_relu", ACTIVATIONS),
    **filters(512),
}
DPRNN: Options = {
    "n_src": Option(REQUIRED, "num_sources"),
    "bn_chan": Option(128, "bottleneck_dim"),
    "hid_size": Option(128, "hidden_dim"),
    "norm_type": Option("gLN", "", ("gLN",)),
    "mask_act": Option("sigmoid", "mask", MASKS),
    "bidirectional": Option(True, "", (True,)),
    "rnn_type": Option("LSTM", "", ("LSTM", "lstm")),
    "num_layers": Option(1, "", (1,)),
    "dropout": Option(0),  # between layers of an LSTM, which has one
    "use_mulcat": Option(False, "", (False,)),
    "encoder_activation": Option(None, "encoder_relu", ACTIVATIONS),
    **CHUNKS,
    **filters(64),
}
DPTNET: Options = {
    "n_src": Option(REQUIRED, "num_sources"),
    "n_heads": Option(4, "num_heads"),
    "ff_hid": Option(256, "hidden_dim"),
    "norm_type": Option("gLN", "", ("gLN",)),
    "ff_activation": Option("relu", "", ("relu",)),
    "encoder_activation": Option("relu", "", ("relu",)),
    "mask_act": Option("relu", "", ("relu",)),
    "bidirectional": Option(True, "", (True,)),
    "dropout": Option(0, "dropout"),
    **CHUNKS,
    **filters(64),
}
CLASSES = {"ConvTasNet": ("conv_tasnet", CONV_TASNET), "DPRNNTasNet": ("dprnn", DPRNN), "DPTNet": ("dptnet", DPTNET)}

FILTERS = """
    encoder.weight  encoder.filterbank._filters
    decoder.weight  decoder.filterbank._filters
"""
HEAD = """
    head.act.weight     masker.first_out.0.weight
    head.source_conv.*  masker.first_out.1.*
    head.output_conv.*  masker.net_out.0.*
    head.gate_conv.*    masker.net_gate.0.*
    head.mask_conv.*    masker.mask_net.*
"""
TABLES = {
    "conv_tasnet": FILTERS
    + """
    norm.weight                 masker.bottleneck.0.gamma
    norm.bias                   masker.bottleneck.0.beta
    bottleneck.*                masker.bottleneck.1.*
    blocks.*.in_conv.*          masker.TCN.*.shared_block.0.*
    blocks.*.in_act.*           masker.TCN.*.shared_block.1.*
    blocks.*.in_norm.weight     masker.TCN.*.shared_block.2.gamma
    blocks.*.in_norm.bias       masker.TCN.*.shared_block.2.beta
    blocks.*.depth_conv.*       masker.TCN.*.shared_block.3.*
    blocks.*.depth_act.*        masker.TCN.*.shared_block.4.*
    blocks.*.depth_norm.weight  masker.TCN.*.shared_block.5.gamma
    blocks.*.depth_norm.bias    masker.TCN.*.shared_block.5.beta
    blocks.*.res_conv.*         masker.TCN.*.res_conv.*
    blocks.*.skip_conv.*        masker.TCN.*.skip_conv.*
    mask_act.*                  masker.mask_net.0.*
    mask_conv.*                 masker.mask_net.1.*
""",
    "dprnn": FILTERS
    + HEAD
    + """
    norm.weight                 masker.bottleneck.0.gamma
    norm.bias                   masker.bottleneck.0.beta
    bottleneck.*                masker.bottleneck.1.*
    blocks.*.intra.lstm.*       masker.net.*.intra_RNN.rnn.*
    blocks.*.intra.linear.*     masker.net.*.intra_linear.*
    blocks.*.intra_norm.weight  masker.net.*.intra_norm.gamma
    blocks.*.intra_norm.bias    masker.net.*.intra_norm.beta
    blocks.*.inter.lstm.*       masker.net.*.inter_RNN.rnn.*
    blocks.*.inter.linear.*     masker.net.*.inter_linear.*
    blocks.*.inter_norm.weight  masker.net.*.inter_norm.gamma
    blocks.*.inter_norm.bias    masker.net.*.inter_norm.beta
""",
    "dptnet": FILTERS
    + HEAD
    + """
    norm.weight                masker.in_norm.gamma
    norm.bias                  masker.in_norm.beta
    intra.*.attn.**            masker.layers.*.0.mha.**
    intra.*.attn_norm.weight   masker.layers.*.0.norm_mha.gamma
    intra.*.attn_norm.bias     masker.layers.*.0.norm_mha.beta
    intra.*.lstm.*             masker.layers.*.0.recurrent.*
    intra.*.linear.*           masker.layers.*.0.linear.*
    intra.*.norm.weight        masker.layers.*.0.norm_ff.gamma
    intra.*.norm.bias          masker.layers.*.0.norm_ff.beta
    inter.*.attn.**            masker.layers.*.1.mha.**
    inter.*.attn_norm.weight   masker.layers.*.1.norm_mha.gamma
    inter.*.attn_norm.bias     masker.layers.*.1.norm_mha.beta
    inter.*.lstm.*             masker.layers.*.1.recurrent.*
    inter.*.linear.*           masker.layers.*.1.linear.*
    inter.*.norm.weight        masker.layers.*.1.norm_ff.gamma
    inter.*.norm.bias          masker.layers.*.1.norm_ff.beta
""",
}
CAUSAL = "    blocks.*.depth_conv.*  masker.TCN.*.shared_block.3.0.*\n"  # followed there by what cuts the end


def params_of(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for the arguments of Asteroid's class `kind`."""
    _, options = CLASSES[kind]
    what, values = f"Asteroid's {kind}", dict(config)
    num_filters = values.get("n_filters", options["n_filters"].default)
    for name in ("in_chan", "out_chan"):
        if values.pop(name, None) not in (None, num_filters):
            raise ValueError(f"{what}: {name} {config[name]!r} is not built here, only n_filters ({num_filters})")
    if "chunk_size" in options:
        half = values.get("chunk_size", options["chunk_size"].default) // 2
        if values.pop("hop_size", None) not in (None, half):
            raise ValueError(f"{what}: hop_size {config['hop_size']!r} is not built here, only half of chunk_size")
    if kind == "ConvTasNet":
        if not values.get("skip_chan", 1):
            raise ValueError(f"{what}: skip_chan {config['skip_chan']!r} is not built here, only above 0")
        if values.get("causal") and values.get("norm_type", "gLN") not in ("cgLN", "cLN"):
            values["norm_type"] = "cLN"  # its constructor does so
    return our_params(options, values, what)


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    return Names((CAUSAL if params.get("causal") else "") + TABLES[name])


def recognise(source: Source) -> bool:
    return "encoder.filterbank._filters" in source.tensors


def read(source: Source, given: Given) -> Found:
    saved = source.saved
    kind, args = saved.get("model_name"), saved.get("model_args")
    if given.model:
        return Found(*given.model, source.tensors, f"Asteroid {kind or ''}".strip())
    if kind not in CLASSES:
        raise ValueError(
            f"{source.name}: Asteroid's model {kind!r} is not built here, only {', '.join(CLASSES)}"
            if kind
            else f"{source.name}: Asteroid's tensors without model_name and model_args; --preset NAME says what it is"
        )
    if not isinstance(args, dict):
        raise ValueError(f"{source.name}: it has no model_args; --preset NAME says what it is")
    rate = given.sample_rate or int(args.get("sample_rate") or 8000)
    return Found(CLASSES[kind][0], params_of(kind, args), rate, source.tensors, f"Asteroid {kind}")


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    """A file that `asteroid.models.BaseModel.from_pretrained` takes."""
    kind, options = next((kind, options) for kind, (ours, options) in CLASSES.items() if ours == name)
    args = their_config(options, params) | {"sample_rate": float(sample_rate), "in_chan": params["num_filters"]}
    infos = {"software_versions": {"torch_version": str(torch.__version__)}}
    torch.save({"model_name": kind, "state_dict": tensors, "model_args": args, "infos": infos}, path)
