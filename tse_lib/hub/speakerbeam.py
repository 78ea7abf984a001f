"""Checkpoints of TD-SpeakerBeam by its authors: Asteroid's dictionary of model_name, state_dict, model_args and infos.

Delcroix et al. 2020, "Improving speaker discrimination of target speech extraction with time-domain SpeakerBeam" (arXiv
2001.08378); layout and options as of github.com/BUTSpeechFIT/speakerbeam. The weights there are for evaluation only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tse_lib.hub import asteroid
from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.options import REQUIRED, Option, Options, our_params, their_config
from tse_lib.hub.source import Source

KIND = "TimeDomainSpeakerBeam"
OPTIONS: Options = {
    **asteroid.CONV_TASNET,
    "n_src": Option(1, "", (1,)),
    "i_adapt_layer": Option(REQUIRED, "adapt_at"),
    "adapt_layer_type": Option(REQUIRED, "adaptation"),
    "adapt_enroll_dim": Option(REQUIRED, "embedding_dim"),
}
BETWEEN = [line.split() for line in asteroid.TABLES["conv_tasnet"].splitlines() if line and "filterbank" not in line]
TABLE = """
    encoder.weight                 encoder.filterbank._filters
    decoder.weight                 decoder.filterbank._filters
    enroll_encoder.weight          auxiliary.1.filterbank._filters
    masker.adaptations.*.linear.*  masker.adapt_layer.transform.*.*
""" + "".join(
    f"    {part}.{ours.replace('mask_', 'out_')}  {there}.{theirs.removeprefix('masker.')}\n"
    for part, there in (("masker", "masker"), ("speaker_encoder", "auxiliary.2"))
    for ours, theirs in filter(None, BETWEEN)
)
CAUSAL = "    masker.blocks.*.depth_conv.*  masker.TCN.*.shared_block.3.0.*\n"  # followed there by what cuts the end


def params_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for the arguments of TimeDomainSpeakerBeam."""
    values = dict(config)
    num_filters = values.get("n_filters", OPTIONS["n_filters"].default)
    for name in ("in_chan", "out_chan"):
        if values.pop(name, None) not in (None, num_filters):
            raise ValueError(f"{KIND}: {name} {config[name]!r} is not built here, only n_filters ({num_filters})")
    if values.get("causal") and values.get("norm_type", "gLN") == "gLN":
        raise ValueError(f"{KIND}: causal with norm_type gLN is not built here: there its two networks' norms differ")
    return our_params(OPTIONS, values, KIND)


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    return Names((CAUSAL if params["causal"] else "") + TABLE)


def recognise(source: Source) -> bool:
    named = isinstance(source.saved, dict) and source.saved.get("model_name") == KIND
    return named or "auxiliary.1.filterbank._filters" in source.tensors


def read(source: Source, given: Given) -> Found:
    if given.model:
        return Found(*given.model, source.tensors, "TD-SpeakerBeam")
    args = source.saved.get("model_args")
    if not isinstance(args, dict):
        raise ValueError(f"{source.name}: it has no model_args; --preset td_speakerbeam if they are the published ones")
    rate = given.sample_rate or int(args.get("sample_rate") or 8000)
    return Found("td_speakerbeam", params_of(args), rate, source.tensors, "TD-SpeakerBeam")


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    args = their_config(OPTIONS, params) | {"sample_rate": float(sample_rate), "in_chan": params["num_filters"]}
    infos = {"software_versions": {"torch_version": str(torch.__version__)}}
    torch.save({"model_name": KIND, "state_dict": tensors, "model_args": args, "infos": infos}, path)
