"""SpeechBrain's folders (hyperparams.yaml, encoder.ckpt, masknet.ckpt, decoder.ckpt) of SepFormer, Conv-TasNet, DPRNN.

Ravanelli et al. 2021, "SpeechBrain: a general-purpose speech toolkit" (arXiv 2106.04624); layout and options as of its
release 1.1. hyperparams.yaml names classes in tags; they are read as text and looked up in MASKNETS and BLOCKS.
"""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.options import REQUIRED, Option, Options, our_params, their_config
from tse_lib.hub.source import Source, Tagged, read_config, read_weights, tensors_in

PARTS = ("encoder", "masknet", "decoder")
HYPERPARAMS = "hyperparams.yaml"
POSITIONS = 2500  # of the table that a SepFormer stores

FILTERS: Options = {
    "N": Option(REQUIRED, "num_filters"),
    "kernel_size": Option(REQUIRED, "kernel_size"),
    "stride": Option(REQUIRED, "stride"),
}
CONV_TASNET: Options = {  # conv_tasnet.MaskNet
    "B": Option(REQUIRED, "bottleneck_dim"),
    "H": Option(REQUIRED, "hidden_dim"),
    "P": Option(REQUIRED, "conv_kernel_size"),
    "X": Option(REQUIRED, "num_blocks"),
    "R": Option(REQUIRED, "num_repeats"),
    "C": Option(REQUIRED, "num_sources"),
    "norm_type": Option("gLN", "norm", {"gLN": "gLN", "cLN": "LN"}),
    "causal": Option(False, "causal", {False: False, True: True}),
    "mask_nonlinear": Option("relu", "mask", {"relu": "relu"}),
    **FILTERS,
}
DUAL_PATH: Options = {  # dual_path.Dual_Path_Model
    "num_spks": Option(2, "num_sources"),
    "num_dual": Option(1, "num_blocks"),
    "K": Option(200, "chunk_size"),
    "norm": Option("ln", "", ("ln",)),
    "skip_around_intra": Option(True, "", (True,)),
    "use_global_pos_enc": Option(False, "", (False,)),
    "max_length": Option(20000),  # of the positions that there are none of
    **FILTERS,
}
SEPFORMER: Options = {  # dual_path.SBTransformerBlock
    "num_layers": Option(REQUIRED, "num_layers"),
    "nhead": Option(REQUIRED, "num_heads"),
    "d_ffn": Option(2048, "ffn_dim"),
    "dropout": Option(0.1, "dropout"),
    "activation": Option("relu", "", ("relu",)),
    "use_positional_encoding": Option(True, "use_positions", {True: True, False: False}),
    "norm_before": Option(True, "", (True,)),
    "attention_type": Option("regularMHA", "", ("regularMHA",)),
    "linear_layer_after_inter_intra": Option(False, "", (False,)),
    **DUAL_PATH,
}
DPRNN: Options = {  # dual_path.SBRNNBlock
    "hidden_channels": Option(REQUIRED, "hidden_dim"),
    "num_layers": Option(1, "", (1,)),
    "rnn_type": Option("LSTM", "", ("LSTM",)),
    "dropout": Option(0),  # between layers of an LSTM, which has one
    "bidirectional": Option(True, "", (True,)),
    "linear_layer_after_inter_intra": Option(True, "", (True,)),
    "bottleneck_dim": Option(REQUIRED, "bottleneck_dim"),  # out_channels of Dual_Path_Model
    **DUAL_PATH,
}
OPTIONS = {"conv_tasnet": CONV_TASNET, "sepformer": SEPFORMER, "dprnn": DPRNN}
ALWAYS: dict[str, dict[str, Any]] = {  # what our networks make optional and SpeechBrain's always are
    "conv_tasnet": {"skip_dim": 0, "input_norm": "LN", "encoder_relu": True, "bias": False},
    "dprnn": {"chunk_padding": "half", "encoder_relu": True, "mask": "relu", "bottleneck_bias": False},
    "sepformer": {},
}
BLOCKS = {"SBTransformerBlock": "sepformer", "SBRNNBlock": "dprnn"}

FILTER_NAMES = """
    encoder.weight  encoder.conv1d.weight
    decoder.weight  decoder.weight
"""
DUAL_PATH_NAMES = """
    norm.*                  masknet.norm.*
    bottleneck.weight       masknet.conv1d.weight
    blocks.*.intra_norm.*   masknet.dual_mdl.*.intra_norm.*
    blocks.*.inter_norm.*   masknet.dual_mdl.*.inter_norm.*
    head.act.weight         masknet.prelu.weight
    head.source_conv.*      masknet.conv2d.*
    head.output_conv.*      masknet.output.0.*
    head.gate_conv.*        masknet.output_gate.0.*
    head.mask_conv.weight   masknet.end_conv1x1.weight
"""
SEPFORMER_NAMES = """
    blocks.*.*.layers.*.attn.**       masknet.dual_mdl.*.*_mdl.mdl.layers.*.self_att.att.**
    blocks.*.*.layers.*.attn_norm.*   masknet.dual_mdl.*.*_mdl.mdl.layers.*.norm1.norm.*
    blocks.*.*.layers.*.ffn_norm.*    masknet.dual_mdl.*.*_mdl.mdl.layers.*.norm2.norm.*
    blocks.*.*.layers.*.linear_in.*   masknet.dual_mdl.*.*_mdl.mdl.layers.*.pos_ffn.ffn.0.*
    blocks.*.*.layers.*.linear_out.*  masknet.dual_mdl.*.*_mdl.mdl.layers.*.pos_ffn.ffn.3.*
    blocks.*.*.norm.*                 masknet.dual_mdl.*.*_mdl.mdl.norm.norm.*
"""
DPRNN_NAMES = """
    blocks.*.*.lstm.*    masknet.dual_mdl.*.*_mdl.mdl.rnn.*
    blocks.*.*.linear.*  masknet.dual_mdl.*.*_linear.w.*
"""
CONV_TASNET_NAMES = """
    norm.weight        masknet.layer_norm.gamma                D  11D
    norm.bias          masknet.layer_norm.beta                 D  11D
    bottleneck.weight  masknet.bottleneck_conv1x1.conv.weight
    mask_conv.weight   masknet.mask_conv1x1.conv.weight
"""
BLOCK_NAMES = """
    blocks.{i}.in_conv.weight     masknet.temporal_conv_net.temporalblock_{r}_{x}.layers.conv.conv.weight
    blocks.{i}.in_act.weight      masknet.temporal_conv_net.temporalblock_{r}_{x}.layers.act.weight
    blocks.{i}.in_norm.weight     masknet.temporal_conv_net.temporalblock_{r}_{x}.layers.norm.gamma           D  11D
    blocks.{i}.in_norm.bias       masknet.temporal_conv_net.temporalblock_{r}_{x}.layers.norm.beta            D  11D
    blocks.{i}.depth_conv.weight  masknet.temporal_conv_net.temporalblock_{r}_{x}.layers.DSconv.conv_0.conv.weight
    blocks.{i}.depth_act.weight   masknet.temporal_conv_net.temporalblock_{r}_{x}.layers.DSconv.act.weight
    blocks.{i}.depth_norm.weight  masknet.temporal_conv_net.temporalblock_{r}_{x}.layers.DSconv.act_0.gamma   D  11D
    blocks.{i}.depth_norm.bias    masknet.temporal_conv_net.temporalblock_{r}_{x}.layers.DSconv.act_0.beta    D  11D
    blocks.{i}.res_conv.weight    masknet.temporal_conv_net.temporalblock_{r}_{x}.layers.DSconv.conv_1.conv.weight
"""


def params_of(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for SpeechBrain's, those of encoder, blocks and masknet in one dictionary (see OPTIONS)."""
    what, values = f"SpeechBrain's {name}", dict(config)
    if values.get("stride") != values.get("kernel_size", 0) // 2:
        raise ValueError(f"{what}: stride {values.get('stride')!r} is not half of kernel_size, as its encoder has it")
    if name == "dprnn":
        values.setdefault("bottleneck_dim", values.get("N"))
    params = our_params(OPTIONS[name], values, what) | ALWAYS[name]
    if name == "conv_tasnet":
        params |= {"late": params["causal"], "reflect": not params["causal"]}
    return params


def config_of(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `params_of`; `params` is complete."""
    return their_config(OPTIONS[name], params)


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    if name == "conv_tasnet":
        repeats, blocks = params["num_repeats"], params["num_blocks"]
        places = [(r, x) for r in range(repeats) for x in range(blocks)]
        table = "".join(BLOCK_NAMES.format(i=i, r=r, x=x) for i, (r, x) in enumerate(places))
        return Names(FILTER_NAMES + CONV_TASNET_NAMES + table)
    if name == "dprnn":
        return Names(FILTER_NAMES + DUAL_PATH_NAMES + DPRNN_NAMES)
    computed = {}
    if params["use_positions"]:
        positions = sinusoids(POSITIONS, params["num_filters"])[None]
        computed = {
            f"masknet.dual_mdl.{block}.{path}_mdl.pos_enc.pe": positions
            for block in range(params["num_blocks"])
            for path in ("intra", "inter")
        }
    return Names(FILTER_NAMES + DUAL_PATH_NAMES + SEPFORMER_NAMES, computed=computed)


def sinusoids(steps: int, dim: int) -> Tensor:
    """Positions (steps, dim), sine and cosine interleaved, float64."""
    rates = torch.tensor([10000.0 ** (-even / dim) for even in range(0, dim, 2)], dtype=torch.float64)
    angles = torch.arange(steps, dtype=torch.float64).outer(rates)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)


# ------------------------------------------------------------------------------------------------------------- reading


def recognise(source: Source) -> bool:
    if source.has(*(f"{part}.ckpt" for part in PARTS)):
        return not source.has("config.json")  # MossFormer2's old folders have that
    return "encoder.conv1d.weight" in source.tensors and any(key.startswith("masknet.") for key in source.tensors)


def read(source: Source, given: Given) -> Found:
    tensors = dict(source.tensors)
    if not tensors:
        for part in PARTS:
            held = tensors_in(read_weights(source.path(f"{part}.ckpt")))
            tensors |= {f"{part}.{key}": value for key, value in held.items()}
    if given.model:
        return Found(*given.model, tensors, f"SpeechBrain {given.model[0]}")
    hyperparams = source.config
    if hyperparams is None and source.has(HYPERPARAMS):
        hyperparams = read_config(source.path(HYPERPARAMS))
    if hyperparams is None:
        raise ValueError(
            f"{source.name}: {HYPERPARAMS} is missing, and sizes of chunks and heads cannot be seen in the tensors; "
            f"--config {HYPERPARAMS} or --preset NAME"
        )
    name, config = flattened(hyperparams, source.name)
    rate = given.sample_rate or hyperparams.get("sample_rate")
    if not isinstance(rate, int):
        raise ValueError(f"{source.name}: {HYPERPARAMS} has no sample_rate; --sample_rate 8000 or what it is")
    return Found(name, params_of(name, config), rate, tensors, f"SpeechBrain {name}")


def flattened(hyperparams: Mapping[str, Any], path: str) -> tuple[str, dict[str, Any]]:
    """The network's name and its options of hyperparams.yaml in one dictionary."""
    masknet = _one(hyperparams, ("MaskNet", "Dual_Path_Model"), path)
    encoder = _one(hyperparams, ("Encoder",), path)
    decoder = _one(hyperparams, ("Decoder",), path)
    filters = {"N": encoder.get("out_channels", 64), "kernel_size": encoder.get("kernel_size", 2)}
    _same(path, "in_channels of the encoder", encoder.get("in_channels", 1), 1)
    _same(path, "kernel_size of the decoder", decoder.get("kernel_size"), filters["kernel_size"])
    _same(path, "bias of the decoder", decoder.get("bias", True), False)
    filters["stride"] = decoder.get("stride", 1)
    if "X" in masknet:
        _same(path, "N of the MaskNet", masknet.get("N"), filters["N"])
        return "conv_tasnet", {**masknet, **filters}
    config = dict(masknet)
    blocks = [config.pop(key, None) for key in ("intra_model", "inter_model")]
    kinds = {_class(block) for block in blocks}
    if blocks[0] != blocks[1] or not kinds <= BLOCKS.keys():
        raise ValueError(
            f"{path}: intra_model and inter_model must be alike and of {', '.join(BLOCKS)}; there are "
            f"{', '.join(sorted(kinds))}"
        )
    name, block = BLOCKS[kinds.pop()], dict(blocks[0].value)
    _same(path, "in_channels of the masknet", config.pop("in_channels", None), filters["N"])
    inner = config.pop("out_channels", None)
    _same(
        path, "the features of the blocks", block.pop("d_model" if name == "sepformer" else "input_size", None), inner
    )
    if name == "sepformer":
        _same(path, "out_channels of the masknet", inner, filters["N"])
        block.setdefault("use_positional_encoding", False)
        block.setdefault("norm_before", False)
    else:
        config["bottleneck_dim"] = inner
    config["num_dual"] = config.pop("num_layers", 1)
    config.setdefault("linear_layer_after_inter_intra", True)
    return name, {**config, **block, **filters}


def _class(value: Any) -> str:
    return value.tag.rpartition(".")[2] if isinstance(value, Tagged) and value.tag.startswith("new:") else "none"


def _one(hyperparams: Mapping[str, Any], kinds: tuple[str, ...], path: str) -> dict[str, Any]:
    """The arguments of the only object of a class among `kinds`."""
    found = [value.value for value in hyperparams.values() if _class(value) in kinds and isinstance(value.value, dict)]
    different = [value for number, value in enumerate(found) if value not in found[:number]]
    if len(different) != 1:
        classes = sorted({_class(value) for value in hyperparams.values()} - {"none"})
        raise ValueError(f"{path}: one {' or '.join(kinds)} expected in {HYPERPARAMS}, which has {', '.join(classes)}")
    return different[0]


def _same(path: str, what: str, value: Any, expected: Any) -> None:
    if value != expected:
        raise ValueError(f"{path}: {what} is {reprlib.repr(value)}, only {expected!r} is built here")


# ------------------------------------------------------------------------------------------------------------- writing


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    """A folder that `speechbrain.inference.SepformerSeparation.from_hparams` takes."""
    path.mkdir()
    for part in PARTS:
        held = {key: value for key, value in tensors.items() if key.startswith(f"{part}.")}
        torch.save({key.removeprefix(f"{part}."): value for key, value in held.items()}, path / f"{part}.ckpt")
    config = config_of(name, params)
    filters = {key: config.pop(key) for key in FILTERS}
    objects: list[tuple[str, str, dict[str, Any]]]
    if name == "conv_tasnet":
        objects = [("MaskNet", "conv_tasnet.MaskNet", {"N": filters["N"], **config})]
    else:
        inner = config.pop("bottleneck_dim", filters["N"])
        size = {"d_model": inner} if name == "sepformer" else {"input_size": inner}
        own = OPTIONS[name].keys() - DUAL_PATH.keys() - {"linear_layer_after_inter_intra"}
        block = size | {key: value for key, value in config.items() if key in own}
        masknet = {key: value for key, value in config.items() if key not in own}
        masknet |= {"num_layers": masknet.pop("num_dual"), "in_channels": filters["N"], "out_channels": inner}
        masknet |= {"intra_model": "!ref <intra>", "inter_model": "!ref <inter>"}
        kind = next(kind for kind, ours in BLOCKS.items() if ours == name)
        objects = [(side, f"dual_path.{kind}", block) for side in ("intra", "inter")]
        objects.append(("MaskNet", "dual_path.Dual_Path_Model", masknet))
    sizes = {"out_channels": filters["N"], "kernel_size": filters["kernel_size"]}
    objects.append(("Encoder", "dual_path.Encoder", sizes))
    decoder = {"in_channels": filters["N"], "out_channels": 1, "kernel_size": filters["kernel_size"]}
    objects.append(("Decoder", "dual_path.Decoder", {**decoder, "stride": filters["stride"], "bias": False}))
    text = f"sample_rate: {sample_rate}\nnum_spks: {params['num_sources']}\n"
    for key, kind, arguments in objects:
        text += f"{key}: !new:speechbrain.lobes.models.{kind}\n"
        text += "".join(f"    {option}: {value}\n" for option, value in arguments.items())
    parts = "".join(
        f"    {part}: !ref <{key}>\n" for part, key in zip(PARTS, ("Encoder", "MaskNet", "Decoder"), strict=True)
    )
    text += f"modules:\n{parts}pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer\n    loadables:\n"
    text += parts.replace("    ", "        ")
    (path / HYPERPARAMS).write_text(text, encoding="utf-8")
