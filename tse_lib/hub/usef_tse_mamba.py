"""USEF-TSE-Mamba's checkpoints (github.com/HailongDing/USEF-TSE-Mamba-v7-2): v7, with its options beside the weights.

Averaged weights (ema_state_dict) are taken where there are some: they were selected. The original deploys the others.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.options import REQUIRED, Option, Options, our_params, their_config
from tse_lib.hub.source import Source, tensors_in

SAMPLE_RATE = 8000
OPTIONS: Options = {
    "dim": Option(REQUIRED, "dim"),
    "kernel_sizes": Option(REQUIRED, "kernel_sizes"),
    "strides": Option(REQUIRED, "strides"),
    "num_blocks": Option(REQUIRED, "num_blocks"),
    "activation": Option(REQUIRED, "activation"),
    "num_heads": Option(REQUIRED, "num_heads"),
    "dropout": Option(REQUIRED, "dropout"),
    "use_bottleneck_attention_only": Option(True, "every_level", {True: False, False: True}),
    **dict.fromkeys(("attention_dropout", "attention_temperature", "use_layer_norm", "use_residual"), Option(None)),
}  # the last ones are in its configurations, and nothing reads them
TABLE = """
    down.*.conv.*         encoder_blocks.*.conv_block.0.*
    down.*.norm.*         encoder_blocks.*.conv_block.1.*
    down.*.act.*          encoder_blocks.*.conv_block.2.*
    down.*.out_norm.*     encoder_blocks.*.layer_norm.*
    down.*.mamba.stack.forward_blocks.**  encoder_blocks.*.mamba_layer.forward_mamba_block.mamba_blocks.**
    up.*.conv.*           decoder_blocks.*.convT_block.0.*
    up.*.norm.*           decoder_blocks.*.convT_block.1.*
    up.*.act.*            decoder_blocks.*.convT_block.2.*
    up.*.fusion.*         decoder_blocks.*.conv1d_fusion.0.*
    up.*.fusion_norm.*    decoder_blocks.*.conv1d_fusion.1.*
    up.*.fusion_act.*     decoder_blocks.*.conv1d_fusion.2.*
    up.*.gate.*.*         decoder_blocks.*.gated_skip.gate.*.*
    up.*.out_norm.*       decoder_blocks.*.layer_norm.*
    up.*.mamba.stack.forward_blocks.**    decoder_blocks.*.mamba_layer.forward_mamba_block.mamba_blocks.**
    decoder.*             final_decoder.0.*
    decoder_norm.*        final_decoder.1.*
    decoder_act.*         final_decoder.2.*
    output.*              final_decoder.3.*
"""
ATTENTION = """
    attention.{ours}.positions      {attention}.pos_encoding  LD  1LD
    attention.{ours}.query_norm.*   {attention}.q_norm.*
    attention.{ours}.source_norm.*  {attention}.k_norm.*
    attention.{ours}.query.*        {attention}.q_proj.*
    attention.{ours}.key.*          {attention}.k_proj.*
    attention.{ours}.value.*        {attention}.v_proj.*
    attention.{ours}.proj.*         {attention}.out_proj.*
    fusion.{ours}.weigh.*.*         {fusion}.attention.*.*
    fusion.{ours}.mix.*.*           {fusion}.fusion_net.*.*
    fusion.{ours}.norm.*            {fusion}.layer_norm.*
"""


def params_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for those in the section `model` of a configuration."""
    return our_params(OPTIONS, config, "USEF-TSE-Mamba") | {"compat": True}


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    if params["every_level"]:
        each = {"ours": "*", "attention": "cross_attention_modules.*", "fusion": "fusion_modules.*"}
    else:
        last = len(params["kernel_sizes"]) - 1
        each = {"ours": str(last), "attention": "bottleneck_attention", "fusion": "bottleneck_fusion"}
    return Names(TABLE + ATTENTION.format(**each))


def recognise(source: Source) -> bool:
    return "final_decoder.0.weight" in source.tensors and any("gated_skip" in key for key in source.tensors)


def read(source: Source, given: Given) -> Found:
    averaged = tensors_in(source.saved.get("ema_state_dict"))
    tensors, which = (averaged, "averaged weights") if averaged else (source.tensors, "raw weights")
    if given.model:
        name, params, rate = given.model
        return Found(name, {**params, "compat": True}, rate, tensors, f"USEF-TSE-Mamba, {which}")
    config = source.config or source.saved.get("config")
    if not isinstance(config, Mapping) or not isinstance(config.get("model"), Mapping):
        raise ValueError(f"{source.name}: holds no configuration; --config config.yaml or --preset usef_tse_mamba_v7")
    rate = given.sample_rate or (config.get("data") or {}).get("sample_rate") or SAMPLE_RATE
    return Found("usef_tse_mamba", params_of(config["model"]), rate, tensors, f"USEF-TSE-Mamba, {which}")


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    config = {"model": their_config(OPTIONS, params), "data": {"sample_rate": sample_rate}}
    torch.save({"model_state_dict": tensors, "config": config}, path)
