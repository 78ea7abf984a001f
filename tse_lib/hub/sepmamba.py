"""SepMamba's checkpoints: model_state_dict beside the optimizer's; they hold no options.

Avenstrup et al. 2024, "SepMamba: state-space models for speaker separation using Mamba" (arXiv 2410.20997). All options
but the strides are seen in the tensors; the strides are those of its configurations, 2 at each step, unless --config
says others.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.options import REQUIRED, Option, Options, our_params
from tse_lib.hub.source import Source

SAMPLE_RATE = 8000  # of WSJ0-2mix, which its data loader is for
STRIDE = 2
SEPMAMBA: Options = {
    "dim": Option(REQUIRED, "dim"),
    "kernel_sizes": Option([12, 12, 12], "kernel_sizes"),
    "strides": Option([2, 2, 2], "strides"),
    "num_blocks": Option(3, "num_blocks"),
    "act_fn": Option("relu", "", ("relu",)),
    "_target_": Option(None),  # the class
}
TABLE = """
    down.*.conv.*                    down.*.conv1d.*
    up.*.conv.*                      up.*.convT1d.*
    up.*.fusion.*                    up.*.conv1d_fusion.*
    *.*.mamba.forward_blocks.**      *.*.mamba_layer.forward_mamba_block.mamba_blocks.**
    *.*.mamba.backward_blocks.**     *.*.mamba_layer.backward_mamba_block.mamba_blocks.**
    decoder.*                        decoder.*
"""
MAMBAS = re.compile(r"down\.0\.mamba_layer\.(\w+)_mamba_block\.mamba_blocks\.(\d+)\.mixer\.D")


def params_of(config: Mapping[str, Any], causal: bool) -> dict[str, Any]:
    """Our options for the arguments of SepMamba, or of SepMambaCausal."""
    return our_params(SEPMAMBA, config, "SepMamba") | {"causal": causal, "num_sources": 2}


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    return Names(TABLE)


def recognise(source: Source) -> bool:
    return any(MAMBAS.fullmatch(key) for key in source.tensors)


def read(source: Source, given: Given) -> Found:
    if given.model:
        return Found(*given.model, source.tensors, "SepMamba")
    tensors = source.tensors
    layers = [found.groups() for found in map(MAMBAS.fullmatch, tensors) if found]
    causal = all(direction == "forward" for direction, _ in layers)
    config = (source.config or {}).get("model", source.config)
    if config is None:
        kernels = [tensors[f"down.{step}.conv1d.weight"].shape for step in range(len(tensors)) if _has(tensors, step)]
        config = {
            "dim": kernels[0][0],
            "kernel_sizes": [shape[-1] for shape in kernels],
            "strides": [STRIDE] * len(kernels),
            "num_blocks": 1 + max(int(number) for _, number in layers),
        }
    params = params_of(config, causal) | {"num_sources": tensors["decoder.weight"].shape[1]}
    assumed = "" if source.config else f", strides {params['strides']} assumed: --config says others"
    told = f"SepMamba{', causal' if causal else ''}{assumed}"
    return Found("sepmamba", params, given.sample_rate or SAMPLE_RATE, tensors, told)


def _has(tensors: Mapping[str, Tensor], step: int) -> bool:
    return f"down.{step}.conv1d.weight" in tensors


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    torch.save({"model_state_dict": tensors}, path)
