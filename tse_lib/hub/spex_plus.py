"""Checkpoints of the SpEx_Plus project (best.pt.tar): model_state_dict beside the optimizer's; they hold no options.

Ge et al. 2020, "SpEx+: a complete time domain speaker extraction network" (arXiv 2005.04686). All options are seen in
the tensors but `causal` and `non_linear`, which are its defaults unless --config says others.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.options import Option, Options, our_params
from tse_lib.hub.source import Source

SAMPLE_RATE = 8000  # of WSJ0-2mix, which its data loader is for
SCALES = ("short", "middle", "long")
SEEN = {f"encoder_1d_{scale}.weight" for scale in SCALES}  # what tells the sizes
SEEN |= {"proj.weight", "conv_block_1.dconv.weight", "pred_linear.weight"}
OPTIONS: Options = {
    "causal": Option(False, "causal", {False: False, True: True}),
    "non_linear": Option("relu", "mask", {"relu": "relu", "sigmoid": "sigmoid"}),
    **{seen: Option(None) for seen in ("L", "N", "X", "R", "B", "H", "P", "norm", "num_spks")},
}
TABLE = """
    norm.*                       ln.*
    bottleneck.*                 proj.*
    classifier.*                 pred_linear.*
    speaker_encoder.*.in_conv.*  aux_enc3.*.conv1.*
    speaker_encoder.*.in_norm.*  aux_enc3.*.batch_norm1.*
    speaker_encoder.*.in_act.*   aux_enc3.*.prelu1.*
    speaker_encoder.*.out_conv.* aux_enc3.*.conv2.*
    speaker_encoder.*.out_norm.* aux_enc3.*.batch_norm2.*
    speaker_encoder.*.out_act.*  aux_enc3.*.prelu2.*
    speaker_encoder.*.shortcut.* aux_enc3.*.conv_downsample.*
    speaker_encoder.*.*          aux_enc3.*.*
""" + "".join(
    f"""
    encoders.{number}.*    encoder_1d_{scale}.*
    mask_convs.{number}.*  mask{number + 1}.*
    decoders.{number}.*    decoder_1d_{number + 1}.*
"""
    for number, scale in enumerate(SCALES)
)
GLOBAL_NORMS = """
    {ours}.in_norm.weight     {theirs}.lnorm1.gamma  D  D1
    {ours}.in_norm.bias       {theirs}.lnorm1.beta   D  D1
    {ours}.depth_norm.weight  {theirs}.lnorm2.gamma  D  D1
    {ours}.depth_norm.bias    {theirs}.lnorm2.beta   D  D1
"""
BLOCK = """
    {ours}.in_conv.*     {theirs}.conv1x1.*
    {ours}.in_act.*      {theirs}.prelu1.*
    {ours}.in_norm.*     {theirs}.lnorm1.*
    {ours}.depth_conv.*  {theirs}.dconv.*
    {ours}.depth_act.*   {theirs}.prelu2.*
    {ours}.depth_norm.*  {theirs}.lnorm2.*
    {ours}.res_conv.*    {theirs}.sconv.*
"""


def params_of(config: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for the arguments of the published ConvTasNet and the shapes of its tensors."""
    kernels = [shapes[f"encoder_1d_{scale}.weight"] for scale in SCALES]
    hidden, _, kernel = shapes["conv_block_1.dconv.weight"]
    norms = {"conv_block_1.lnorm1.gamma": "gLN", "conv_block_1.lnorm1.running_mean": "BN"}
    return our_params(OPTIONS, config, "SpEx+") | {
        "num_filters": kernels[0][0],
        "kernel_sizes": [shape[-1] for shape in kernels],
        "stride": kernels[0][-1] // 2,
        "bottleneck_dim": shapes["proj.weight"][0],
        "hidden_dim": hidden,
        "conv_kernel_size": kernel,
        "num_blocks": 1 + sum(f"conv_block_1_other.{number}.dconv.weight" in shapes for number in range(len(shapes))),
        "num_repeats": sum(f"conv_block_{number}.dconv.weight" in shapes for number in range(len(shapes))),
        "embedding_dim": shapes["pred_linear.weight"][1],
        "num_speakers": shapes["pred_linear.weight"][0],
        "norm": next((norm for key, norm in norms.items() if key in shapes), "LN"),
        "compat": True,
    }


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    block = (GLOBAL_NORMS if params["norm"] == "gLN" else "") + BLOCK
    table = TABLE
    for number in range(params["num_repeats"] * params["num_blocks"]):
        repeat, later = divmod(number, params["num_blocks"])
        theirs = f"conv_block_{repeat + 1}" + (f"_other.{later - 1}" if later else "")
        table += block.format(ours=f"blocks.{number}", theirs=theirs)
    return Names(table)


def recognise(source: Source) -> bool:
    return source.tensors.keys() >= SEEN


def read(source: Source, given: Given) -> Found:
    if given.model:
        name, params, rate = given.model
        return Found(name, {**params, "compat": True}, rate, source.tensors, "SpEx+")
    params = params_of(source.config or {}, {key: list(value.shape) for key, value in source.tensors.items()})
    return Found("spex_plus", params, given.sample_rate or SAMPLE_RATE, source.tensors, "SpEx+")


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    torch.save({"epoch": 0, "model_state_dict": tensors}, path)
