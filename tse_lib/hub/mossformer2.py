"""MossFormer2's two layouts: ClearerVoice-Studio's files, and the authors' folders on Hugging Face.

Zhao et al. 2024, "MossFormer2: combining transformer and RNN-free recurrent network for enhanced time-domain monaural
speech separation" (arXiv 2312.11825).

- ClearerVoice (`alibabasglab/MossFormer2_SS_16K`): a file `last_best_checkpoint` that names another, in which the
  tensors lie under `model`, as enc., mask_net. and dec.; no options, but sizes are seen in the tensors.
- Hugging Face (`alibabasglab/mossformer2-wsj0mix-3spk` and others): config.json with model.safetensors or, in older
  revisions, encoder.ckpt, masknet.ckpt and decoder.ckpt. The one trained on WHAMR! has no masking.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.options import Option, Options, our_params, their_config
from tse_lib.hub.source import Source, read_weights, tensors_in

PARTS = ("encoder", "masknet", "decoder")
EXPANSION = 4  # features of the attention's values, in multiples of the sequence's
ROTARY = 16  # frequencies, which are never trained
WITHOUT_MASKING = "mossformer2-whamr-2spk"

CLEARERVOICE: Options = {
    "num_spks": Option(2, "num_sources"),
    "encoder_embedding_dim": Option(512, "encoder_dim"),
    "encoder_kernel_size": Option(16, "kernel_size"),
    "mossformer_sequence_dim": Option(512, "dim"),
    "num_mossformer_layer": Option(24, "num_layers"),
}
HUGGING_FACE: Options = {
    "model_type": Option("mossformer2", "", ("mossformer2",)),
    "sample_rate": Option(8000),
    "config_name": Option(""),
    "encoder_kernel_size": Option(16, "kernel_size"),
    "encoder_out_nchannels": Option(512, "encoder_dim"),
    "encoder_in_nchannels": Option(1, "", (1,)),
    "masknet_numspks": Option(2, "num_sources"),
    "masknet_chunksize": Option(250),  # there are no chunks
    "masknet_numlayers": Option(1, "", (1,)),
    "masknet_norm": Option("ln", "", ("ln",)),
    "masknet_useextralinearlayer": Option(False, "", (False,)),
    "masknet_extraskipconnection": Option(True, "", (True,)),
    "intra_numlayers": Option(24, "num_layers"),
    "intra_nhead": Option(8),  # its layers have one
    "intra_dffn": Option(1024),  # and no feed-forward part
    "intra_dropout": Option(0, "dropout"),
    "intra_use_positional": Option(True),  # of a block that it does not have
    "intra_norm_before": Option(True),
}

CLEARERVOICE_TABLE = """
    encoder.weight                  enc.conv1d.weight
    decoder.weight                  dec.weight
    norm_in.*                       mask_net.norm.*
    proj_in.weight                  mask_net.conv1d_encoder.weight                    OI  OI1
    position_scale                  mask_net.pos_enc.scale
    norm.*                          mask_net.mdl.intra_mdl.norm.*
    norm_out.*                      mask_net.mdl.intra_norm.*
    act.weight                      mask_net.prelu.weight
    split.weight                    mask_net.conv1d_out.weight                        OI  OI1
    split.bias                      mask_net.conv1d_out.bias
    output.weight                   mask_net.output.0.weight                          OI  OI1
    output.bias                     mask_net.output.0.bias
    output_gate.weight              mask_net.output_gate.0.weight                     OI  OI1
    output_gate.bias                mask_net.output_gate.0.bias
    proj_out.weight                 mask_net.conv1_decoder.weight                     OI  OI1
    layers.*.attention.gamma        LAYERS.layers.*.qk_offset_scale.gamma
    layers.*.attention.beta         LAYERS.layers.*.qk_offset_scale.beta
    layers.*.attention.*.norm.*     LAYERS.layers.*.*.mdl.0.*
    layers.*.attention.*.linear.*   LAYERS.layers.*.*.mdl.1.*
    layers.*.attention.*.conv.*     LAYERS.layers.*.*.mdl.3.sequential.1.conv.*
    layers.*.memory.proj_in.weight  LAYERS.fsmn.*.conv1.0.weight                      OI  OI1
    layers.*.memory.proj_in.bias    LAYERS.fsmn.*.conv1.0.bias
    layers.*.memory.act.weight      LAYERS.fsmn.*.conv1.1.weight
    layers.*.memory.norm1.*         LAYERS.fsmn.*.norm1.*
    layers.*.memory.norm2.*         LAYERS.fsmn.*.norm2.*
    layers.*.memory.proj_out.weight LAYERS.fsmn.*.conv2.weight                        OI  OI1
    layers.*.memory.proj_out.bias   LAYERS.fsmn.*.conv2.bias
    layers.*.memory.memory.linear.* LAYERS.fsmn.*.gated_fsmn.fsmn.linear.*
    layers.*.memory.memory.project.weight  LAYERS.fsmn.*.gated_fsmn.fsmn.project.weight
    layers.*.memory.memory.conv1.weight    LAYERS.fsmn.*.gated_fsmn.fsmn.conv.conv1.weight   OIK  OIK1
    layers.*.memory.memory.conv2.weight    LAYERS.fsmn.*.gated_fsmn.fsmn.conv.conv2.weight   OIK  OIK1
    layers.*.memory.memory.norm1.*         LAYERS.fsmn.*.gated_fsmn.fsmn.conv.norm1.*
    layers.*.memory.memory.norm2.*         LAYERS.fsmn.*.gated_fsmn.fsmn.conv.norm2.*
    layers.*.memory.memory.act1.*          LAYERS.fsmn.*.gated_fsmn.fsmn.conv.prelu1.*
    layers.*.memory.memory.act2.*          LAYERS.fsmn.*.gated_fsmn.fsmn.conv.prelu2.*
    layers.*.memory.*.norm.*        LAYERS.fsmn.*.gated_fsmn.*.mdl.0.*
    layers.*.memory.*.linear.*      LAYERS.fsmn.*.gated_fsmn.*.mdl.1.*
    layers.*.memory.*.conv.*        LAYERS.fsmn.*.gated_fsmn.*.mdl.3.sequential.1.conv.*
""".replace("LAYERS", "mask_net.mdl.intra_mdl.mossformerM")
TO_HUGGING_FACE = {  # beginnings of names, the first that fits
    "enc.": "encoder.",
    "dec.": "decoder.",
    "mask_net.mdl.intra_mdl.mossformerM.": "masknet.dual_mdl.0.intra_mdl.mdl.flashT.",
    "mask_net.mdl.intra_mdl.norm.": "masknet.dual_mdl.0.intra_mdl.mdl.norm.norm.",
    "mask_net.mdl.intra_norm.": "masknet.dual_mdl.0.intra_norm.",
    "mask_net.": "masknet.",
}


def params_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for the arguments of ClearerVoice's MossFormer2_SS."""
    params = our_params(CLEARERVOICE, config, "ClearerVoice's MossFormer2")
    return params | {"hidden_dim": EXPANSION * params["dim"]}


def config_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `params_of`; `params` is complete."""
    return their_config(CLEARERVOICE, params)


def hugging_face_params_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for what config.json says."""
    params = our_params(HUGGING_FACE, config, "MossFormer2's config.json")
    params |= {"dim": params["encoder_dim"], "hidden_dim": EXPANSION * params["encoder_dim"]}
    return params | {"masking": config.get("config_name") != WITHOUT_MASKING}


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    rates = torch.tensor([10000.0 ** (-step / ROTARY) for step in range(ROTARY)], dtype=torch.float64)
    half = params["dim"] // 2
    positions = torch.tensor([10000.0 ** (-step / half) for step in range(half)], dtype=torch.float64)
    layers = range(params["num_layers"])
    computed = {f"mask_net.mdl.intra_mdl.mossformerM.layers.{layer}.rotary_pos_emb.freqs": rates for layer in layers}
    return Names(CLEARERVOICE_TABLE, computed={"mask_net.pos_enc.inv_freq": positions, **computed})


def hugging_face_names_of(name: str, params: Mapping[str, Any]) -> Names:
    names = names_of(name, params)
    lines = [line.split() for line in names.table.splitlines() if line.strip()]
    table = "\n".join(" ".join((ours, to_hugging_face(theirs), *axes)) for ours, theirs, *axes in lines)
    return Names(table, computed={to_hugging_face(key): value for key, value in names.computed.items()})


def to_hugging_face(name: str) -> str:
    old, new = next(pair for pair in TO_HUGGING_FACE.items() if name.startswith(pair[0]))
    return new + name.removeprefix(old)


# ------------------------------------------------------------------------------------------------------------- reading


def recognise(source: Source) -> bool:
    return any(".mossformerM." in key for key in source.tensors)


def read(source: Source, given: Given) -> Found:
    tensors = dict(source.tensors)
    told = "MossFormer2, ClearerVoice's layout"
    if given.model:
        return Found(*given.model, tensors, told)
    layers = {key.split(".layers.")[1].split(".")[0] for key in tensors if ".mossformerM.layers." in key}
    try:
        encoder_dim, _, kernel_size = tensors["enc.conv1d.weight"].shape
        wide, dim = tensors["mask_net.conv1d_out.weight"].shape[:2]
    except KeyError as error:
        raise ValueError(f"{source.name}: tensors do not fit; 1 missing: {error.args[0]}") from None
    sizes = {"encoder_embedding_dim": encoder_dim, "encoder_kernel_size": kernel_size, "mossformer_sequence_dim": dim}
    config = {**sizes, "num_mossformer_layer": len(layers), "num_spks": wide // dim}
    rate = given.sample_rate or given.known_rate
    if not rate:
        raise ValueError(f"{source.name}: its sample rate is not in it; --sample_rate 8000 or 16000")
    return Found("mossformer2", params_of(config), rate, tensors, told)


def recognise_hugging_face(source: Source) -> bool:
    if any(".flashT." in key for key in source.tensors):
        return True
    return source.has("config.json", *(f"{part}.ckpt" for part in PARTS))


def read_hugging_face(source: Source, given: Given) -> Found:
    tensors = dict(source.tensors)
    if not tensors:
        for part in PARTS:
            held = tensors_in(read_weights(source.path(f"{part}.ckpt")))
            tensors |= {f"{part}.{key}": value for key, value in held.items()}
    told = "MossFormer2, Hugging Face's layout"
    if given.model:
        return Found(*given.model, tensors, told)
    config = (source.config or {}).get("config", source.config)
    if not isinstance(config, dict):
        raise ValueError(f"{source.name}: config.json is missing beside it; --config config.json or --preset NAME")
    params = hugging_face_params_of(config)
    told += "" if params["masking"] else ", without masking"
    return Found("mossformer2", params, given.sample_rate or config.get("sample_rate", 8000), tensors, told)


# ------------------------------------------------------------------------------------------------------------- writing


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    torch.save({"model": tensors}, path)


def write_hugging_face(
    path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]
) -> None:
    path.mkdir()
    config = their_config(HUGGING_FACE, params) | {"sample_rate": sample_rate}
    config["config_name"] = "" if params["masking"] else WITHOUT_MASKING
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, path / "model.safetensors")
