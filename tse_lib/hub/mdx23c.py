"""MDX23C's files: a .ckpt with the tensors of TFC-TDF v3 and the YAML that it was trained with.

Kim, Choi, Jung, Lee 2023 (arXiv 2306.09382); the layout is that of Music-Source-Separation-Training, which Ultimate
Vocal Remover and python-audio-separator read, too. The tensors lie flat or under `state`, `state_dict` or
`model_state_dict`.
All options are in the YAML: it is given, lies beside the .ckpt under the same name, or as conf.yaml.

One YAML tells up to three lengths of a chunk. `audio.chunk_size` is what the network was trained on, and taken here;
`inference.dim_t` frames are what python-audio-separator takes; Ultimate Vocal Remover takes 256 frames by default. They
differ in what is computed, since the network normalises over the chunk.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.options import REQUIRED, Option, Options, our_params, their_config
from tse_lib.hub.source import Source

MODEL: Options = {
    "act": Option(REQUIRED, "act", {"gelu": "gelu", "relu": "relu", "elu1": "elu", "elu1.0": "elu"}),
    "bottleneck_factor": Option(REQUIRED, "bottleneck_factor"),
    "growth": Option(REQUIRED, "growth"),
    "norm": Option(REQUIRED, "", ("InstanceNorm",)),
    "num_blocks_per_scale": Option(REQUIRED, "num_blocks_per_scale"),
    "num_channels": Option(REQUIRED, "num_channels"),
    "num_scales": Option(REQUIRED, "num_scales"),
    "num_subbands": Option(REQUIRED, "num_subbands"),
    "scale": Option(REQUIRED, "scale"),
}
AUDIO = {"num_channels": "audio_channels", "n_fft": "n_fft", "hop_length": "hop_length", "dim_f": "dim_f"}
SAMPLE_RATE = 44100
FIXED = {"stitch": False, "level": "model", "window": "trapezoid"}  # of `inference`, whatever the YAML says

BLOCK = {"tfc1.norm.*": "tfc1.0.*", "tfc1.conv.*": "tfc1.2.*", "squeeze.norm.*": "tdf.0.*", "squeeze.conv.*": "tdf.2.*",
         "expand.norm.*": "tdf.3.*", "expand.conv.*": "tdf.5.*", "tfc2.norm.*": "tfc2.0.*", "tfc2.conv.*": "tfc2.2.*",
         "shortcut.*": "shortcut.*"}  # fmt: skip
STACKS = {"encoders.*.*": "encoder_blocks.*.tfc_tdf.blocks.*", "bottleneck.*": "bottleneck_block.blocks.*",
          "decoders.*.*": "decoder_blocks.*.tfc_tdf.blocks.*"}  # fmt: skip
TABLE = "\n".join(
    [f"network.{ours}.{own} {theirs}.{their}" for ours, theirs in STACKS.items() for own, their in BLOCK.items()]
    + """
    network.first_conv.weight   first_conv.weight
    network.downs.*.norm.*      encoder_blocks.*.downscale.conv.0.*
    network.downs.*.conv.*      encoder_blocks.*.downscale.conv.2.*
    network.ups.*.norm.*        decoder_blocks.*.upscale.conv.0.*
    network.ups.*.conv.*        decoder_blocks.*.upscale.conv.2.*
    network.mix_conv.weight     final_conv.0.weight
    network.final_conv.weight   final_conv.2.weight
    """.splitlines()
)


def params_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for a YAML's sections `audio`, `model` and `training`.

    Raises:
        ValueError: one is missing, or has an option that is not built here.
    """
    audio = _section(config, "audio")
    missing = [key for key in AUDIO if key not in audio]
    if missing:
        raise ValueError(f"MDX23C's configuration: audio.{missing[0]} is missing")
    own = our_params(MODEL, _section(config, "model"), "MDX23C's section `model`")
    return {**own, **{ours: audio[theirs] for theirs, ours in AUDIO.items()}, "num_sources": len(sources_of(config))}


def sources_of(config: Mapping[str, Any]) -> list[str]:
    """Names of what comes out: all instruments, or the only one that was trained."""
    training = _section(config, "training")
    names = [training["target_instrument"]] if training.get("target_instrument") else training.get("instruments")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("MDX23C's configuration: training.instruments has no names")
    return list(names)


def config_of(params: Mapping[str, Any], sources: list[str], sample_rate: int) -> dict[str, Any]:
    """A YAML's sections for our options; `params` is complete."""
    frames = 256 * params["scale"][0] ** params["num_scales"] // 32
    return {
        "audio": {
            **{theirs: params[ours] for theirs, ours in AUDIO.items()},
            "chunk_size": params["hop_length"] * (frames - 1),
            "dim_t": frames,
            "sample_rate": sample_rate,
        },
        "model": their_config(MODEL, params) | {"norm": "InstanceNorm", "scale": list(params["scale"])},
        "training": {"instruments": sources, "target_instrument": None},
        "inference": {"num_overlap": 4, "batch_size": 1},
    }


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    return Names(TABLE)


def recognise(source: Source) -> bool:
    return "encoder_blocks.0.tfc_tdf.blocks.0.tfc1.0.weight" in source.tensors


def read(source: Source, given: Given) -> Found:
    if given.model:
        return Found(*given.model, source.tensors, "MDX23C", FIXED)
    if source.config is None:
        raise ValueError(
            f"{source.name}: what it separates and at what sizes is not in it; --config with the YAML that was "
            "published with it"
        )
    params, names = params_of(source.config), sources_of(source.config)
    audio = _section(source.config, "audio")
    rate = given.sample_rate or audio.get("sample_rate", SAMPLE_RATE)
    chunk, told = chunk_of(source.config, rate)
    inference = {
        "chunk_s": chunk / rate,
        "overlap_count": int((source.config.get("inference") or {}).get("num_overlap") or 4),
        "source_names": names,
        **FIXED,
    }
    return Found("tfc_tdf", params, rate, source.tensors, f"MDX23C ({', '.join(names)}); {told}", inference)


def chunk_of(config: Mapping[str, Any], rate: int) -> tuple[int, str]:
    """Samples of a chunk, and which of the YAML's lengths that is.

    Raises:
        ValueError: it has none.
    """
    audio, inference = _section(config, "audio"), config.get("inference") or {}
    given = {
        "audio.chunk_size": audio.get("chunk_size"),
        "audio.dim_t": _samples(audio, audio.get("dim_t")),
        "inference.dim_t": _samples(audio, inference.get("dim_t")),
    }
    lengths = {name: length for name, length in given.items() if length}
    if not lengths:
        raise ValueError("MDX23C's configuration: audio.chunk_size is missing")
    chosen, size = next(iter(lengths.items()))
    others = [
        f"; {name} would be {length / rate:.2f} s, --chunk_s {length / rate:.6g}"
        for name, length in lengths.items()
        if length != size
    ]
    return size, f"chunks of {size:,} samples, {size / rate:.2f} s, by {chosen}{''.join(others)}"


def _samples(audio: Mapping[str, Any], frames: int | None) -> int | None:
    return audio["hop_length"] * (frames - 1) if frames else None


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    """A folder of model.ckpt and conf.yaml; the sources are numbered."""
    path.mkdir()
    torch.save(tensors, path / "model.ckpt")
    sources = [f"source{number + 1}" for number in range(params["num_sources"])]
    config = config_of(params, sources, sample_rate)
    (path / "conf.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    if not isinstance(section, Mapping):
        raise ValueError(f"MDX23C's configuration: the section `{name}` is missing; is it the YAML of this checkpoint?")
    return section
