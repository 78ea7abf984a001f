"""ESPnet's packed models (zip, or the folder it unpacks to) of TF-GridNet V1 to V3 and DPTNet.

Li et al. 2021, "ESPnet-SE: end-to-end speech enhancement and separation toolkit" (arXiv 2011.03706); layout and options
as of its release 202511. meta.yaml names the configuration and the file of tensors, whose names begin with encoder.,
separator. or decoder.
"""

import math
import reprlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tse_lib.hub.found import Found, Given
from tse_lib.hub.names import Names
from tse_lib.hub.options import REQUIRED, Option, Options, our_params, their_config
from tse_lib.hub.source import Source, read_config, read_weights, tensors_in

META = "meta.yaml"

STFT: Options = {
    "n_fft": Option(128, "n_fft"),
    "stride": Option(64, "hop_length"),
    "window": Option("hann", "", ("hann",)),
}
GRIDNET: Options = {
    "input_dim": Option(None),  # a placeholder
    "n_srcs": Option(2, "num_sources"),
    "n_imics": Option(1, "", (1,)),
    "n_layers": Option(6, "num_blocks"),
    "lstm_hidden_units": Option(192, "lstm_hidden"),
    "attn_n_head": Option(4, "num_heads"),
    "emb_dim": Option(48, "emb_dim"),
    "emb_ks": Option(4, "emb_ks"),
    "emb_hs": Option(1, "emb_hs"),
    "activation": Option("prelu", "", ("prelu",)),
    "eps": Option(1e-5, "eps"),
    "use_builtin_complex": Option(False),
    **STFT,
}
SHARED_BINS: Options = {"attn_approx_qk_dim": Option(512, "qk_dim"), **GRIDNET}  # becomes features a bin, see params_of
EACH_BIN: Options = {"attn_qk_output_channel": Option(4, "qk_dim"), **GRIDNET}
DPTNET: Options = {
    "input_dim": Option(None),  # of what the encoder gives
    "post_enc_relu": Option(True, "", (True, False)),  # its encoder has ended with one already
    "rnn_type": Option("lstm", "", ("lstm", "LSTM")),
    "bidirectional": Option(True, "", (True,)),
    "num_spk": Option(2, "num_sources"),
    "predict_noise": Option(False, "", (False,)),
    "unit": Option(256, "hidden_dim"),
    "att_heads": Option(4, "num_heads"),
    "dropout": Option(0.0, "dropout"),
    "activation": Option("relu", "", ("relu",)),
    "norm_type": Option("gLN", "", ("gLN",)),
    "layer": Option(6, "num_blocks"),
    "segment_size": Option(20, "chunk_size"),
    "nonlinear": Option("relu", "", ("relu",)),
    "channel": Option(REQUIRED, "num_filters"),
    "kernel_size": Option(REQUIRED, "kernel_size"),
    "stride": Option(REQUIRED, "stride"),
}
VERSIONS: dict[str, dict[str, Any]] = {  # of TF-GridNet, as options of ours
    "tfgridnet": {"padding": "end", "full_band_norm": True, "normalize": True},
    "tfgridnetv2": {"padding": "both", "full_band_norm": True, "normalize": True},
    "tfgridnetv3": {"padding": "both", "full_band_norm": False},
}
OPTIONS = {"tfgridnet": SHARED_BINS, "tfgridnetv2": SHARED_BINS, "tfgridnetv3": EACH_BIN, "dptnet": DPTNET}
MODEL: Options = {  # of the model around the separator
    "normalize_variance": Option(False, "normalize", {False: False, True: True}),
    "normalize_variance_per_ch": Option(False, "per_channel", {False: False, True: True}),
    "always_forward_in_48k": Option(False, "", (False,)),
    "flexible_numspk": Option(False, "", (False,)),
    "categories": Option([], "", ([],)),
    **dict.fromkeys(  # of its training
        ("loss_type", "mask_type", "stft_consistency", "extract_feats_in_collect_stats", "category_weights"),
        Option(None),
    ),
}

GRIDNET_TABLE = """
    conv.*                          conv.0.*
    conv_norm.*                     conv.1.*
    deconv.*                        deconv.*
    blocks.*.*.rnn.*                blocks.*.*_rnn.*
    blocks.*.*.linear.*             blocks.*.*_linear.*
    blocks.*.attention.proj.weight  blocks.*.attn_concat_proj.0.weight  OI  OI11
    blocks.*.attention.proj.bias    blocks.*.attn_concat_proj.0.bias
    blocks.*.attention.act.weight   blocks.*.attn_concat_proj.1.weight
"""
BIN_NORM = """
    blocks.*.attention.norm.weight  blocks.*.attn_concat_proj.2.gamma   FD  1D1F
    blocks.*.attention.norm.bias    blocks.*.attn_concat_proj.2.beta    FD  1D1F
"""
HEADS = "".join(
    f"""
    blocks.*.attention.{role}.linear.weight  blocks.*.attn_conv_{letter}_{{h}}.0.weight  OI    OI11
    blocks.*.attention.{role}.linear.bias    blocks.*.attn_conv_{letter}_{{h}}.0.bias
    blocks.*.attention.{role}.act.weight     blocks.*.attn_conv_{letter}_{{h}}.1.weight
    blocks.*.attention.{role}.gamma          blocks.*.attn_conv_{letter}_{{h}}.2.gamma   11FE  1E1F
    blocks.*.attention.{role}.beta           blocks.*.attn_conv_{letter}_{{h}}.2.beta    11FE  1E1F
"""
    for letter, role in (("Q", "query"), ("K", "key"), ("V", "value"))
)
JOINED_HEADS = "".join(
    f"""
    blocks.*.attention.{role}.linear.weight  blocks.*.attn_conv_{letter}.weight  OI    OI11
    blocks.*.attention.{role}.linear.bias    blocks.*.attn_conv_{letter}.bias
    blocks.*.attention.{role}.act.weight     blocks.*.attn_norm_{letter}.act.weight
    blocks.*.attention.{role}.gamma          blocks.*.attn_norm_{letter}.gamma   H1FE  1HE1F
    blocks.*.attention.{role}.beta           blocks.*.attn_norm_{letter}.beta    H1FE  1HE1F
"""
    for letter, role in (("Q", "query"), ("K", "key"), ("V", "value"))
)
V1_NORMS = """
    blocks.*.*.norm.weight  blocks.*.*_norm.gamma  D  1D11
    blocks.*.*.norm.bias    blocks.*.*_norm.beta   D  1D11
"""
LATER_NORMS = """
    blocks.*.*.norm.*  blocks.*.*_norm.*
"""
V1_TABLE = GRIDNET_TABLE + BIN_NORM + HEADS + V1_NORMS
V2_TABLE = GRIDNET_TABLE + BIN_NORM + JOINED_HEADS + LATER_NORMS
V3_TABLE = GRIDNET_TABLE + BIN_NORM.replace("FD  1D1F", "D  1D11") + JOINED_HEADS + LATER_NORMS
DPTNET_TABLE = """
    encoder.weight      encoder.conv1d.weight
    decoder.weight      decoder.convtrans1d.weight
    norm.weight         separator.enc_LN.gamma        D  1D1
    norm.bias           separator.enc_LN.beta         D  1D1
    head.act.weight     separator.dptnet.output.0.weight
    head.source_conv.*  separator.dptnet.output.1.*
    head.output_conv.*  separator.output.0.*
    head.gate_conv.*    separator.output_gate.0.*
""" + "".join(
    f"""
    {ours}.*.attn.**           separator.dptnet.{theirs}_transformer.*.self_attn.**
    {ours}.*.attn_norm.weight  separator.dptnet.{theirs}_transformer.*.norm_attn.gamma  D  1D1
    {ours}.*.attn_norm.bias    separator.dptnet.{theirs}_transformer.*.norm_attn.beta   D  1D1
    {ours}.*.lstm.*            separator.dptnet.{theirs}_transformer.*.rnn.*
    {ours}.*.linear.*          separator.dptnet.{theirs}_transformer.*.feed_forward.2.*
    {ours}.*.norm.weight       separator.dptnet.{theirs}_transformer.*.norm_ff.gamma    D  1D1
    {ours}.*.norm.bias         separator.dptnet.{theirs}_transformer.*.norm_ff.beta     D  1D1
"""
    for ours, theirs in (("intra", "row"), ("inter", "col"))
)


def params_of(separator: str, config: Mapping[str, Any], normalize: bool = False) -> dict[str, Any]:
    """Our options for those of ESPnet's `separator`.

    Args:
        config: separator_conf; n_fft and stride of a V3, and channel, kernel_size and stride of a DPTNet, are the
            encoder's.
        normalize: the model around it divides by the level, which V1 and V2 do themselves.
    """
    params = our_params(OPTIONS[separator], config, f"ESPnet's {separator}")
    if separator == "dptnet":
        return params | {"norm_eps": torch.finfo(torch.get_default_dtype()).eps}  # as it computes its own
    if separator == "tfgridnetv3":
        return params | VERSIONS[separator] | {"normalize": normalize}
    return params | VERSIONS[separator] | {"qk_dim": math.ceil(params["qk_dim"] / (params["n_fft"] // 2 + 1))}


def names_of(name: str, params: Mapping[str, Any]) -> Names:
    if name == "dptnet":
        return Names(DPTNET_TABLE)
    if not params["full_band_norm"]:
        return Names(V3_TABLE)
    return Names(V1_TABLE, params["num_heads"]) if params["padding"] == "end" else Names(V2_TABLE)


def separator_of(name: str, params: Mapping[str, Any]) -> str:
    if name == "dptnet":
        return name
    kept = ("padding", "full_band_norm")
    return next(kind for kind, ours in VERSIONS.items() if all(ours[key] == params[key] for key in kept))


# ------------------------------------------------------------------------------------------------------------- reading


def recognise(source: Source) -> bool:
    if source.has(META):
        return True
    return any(key.startswith(("separator.conv.0.", "separator.enc_LN.")) for key in source.tensors)


def read(source: Source, given: Given) -> Found:
    tensors, config = source.tensors, source.config
    if not tensors:
        meta = read_config(source.path(META))
        held = list((meta.get("files") or {}).values())
        told = list((meta.get("yaml_files") or {}).values())
        if len(held) != 1 or len(told) != 1:
            raise ValueError(f"{source.name}: {META} must name one file of tensors and one configuration")
        tensors = tensors_in(read_weights(source.path(str(held[0]))))
        config = config or read_config(source.path(str(told[0])))
    if given.model:
        return Found(*given.model, _bare(tensors), f"ESPnet {given.model[0]}")
    if config is None:
        raise ValueError(f"{source.name}: no configuration beside it; --config config.yaml or --preset NAME")
    separator = config.get("separator")
    if separator not in OPTIONS:
        raise ValueError(
            f"{source.name}: ESPnet's separator {separator!r} is not built here, only {', '.join(OPTIONS)}"
        )
    conf = dict(config.get("separator_conf") or {})
    around = our_params(MODEL, config.get("model_conf") or {}, f"{source.name}: model_conf")
    normalize = around["normalize"] or around["per_channel"]  # one channel at a time here
    encoder, encoder_conf = config.get("encoder"), dict(config.get("encoder_conf") or {})
    rate = given.sample_rate or encoder_conf.get("default_fs") or 8000
    if separator == "dptnet":
        _expect(source, "encoder", encoder, ("conv",))
        _expect(source, "decoder", config.get("decoder"), ("conv",))
        _expect(source, "model_conf.normalize_variance", normalize, (False,))
        conf |= encoder_conf
    elif separator == "tfgridnetv3":
        _expect(source, "encoder", encoder, ("stft",))
        _expect(source, "decoder", config.get("decoder"), ("stft",))
        conf |= _stft(source, encoder_conf)
    else:
        _expect(source, "encoder", encoder, ("same",))
        _expect(source, "decoder", config.get("decoder"), ("same",))
    name = "dptnet" if separator == "dptnet" else "tf_gridnet"
    params = params_of(separator, conf, normalize)
    stated = given.sample_rate or "default_fs" in encoder_conf
    told_rate = "" if stated else ", sample rate not stated: 8000 Hz taken, --sample_rate says another"
    return Found(name, params, rate, _bare(tensors), f"ESPnet {separator}{told_rate}")


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where all there is lies in the separator, it lies there without saying so."""
    inside = all(key.startswith("separator.") for key in tensors)
    return {key.removeprefix("separator.") if inside else key: value for key, value in tensors.items()}


def _expect(source: Source, what: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise ValueError(
            f"{source.name}: {what} {reprlib.repr(value)} is not built here with this separator, only {known[0]!r}"
        )


def _stft(source: Source, conf: Mapping[str, Any]) -> dict[str, Any]:
    """n_fft, stride and window of a V3, from its encoder's options."""
    known = {
        "win_length": (None, conf.get("n_fft", 512)),
        "center": (True,),
        "normalized": (False,),
        "onesided": (True,),
        "spec_transform_type": (None, "none"),
    }
    for key, values in known.items():
        _expect(source, f"encoder_conf.{key}", conf.get(key, values[0]), values)
    return {
        "n_fft": conf.get("n_fft", 512),
        "stride": conf.get("hop_length", 128),
        "window": conf.get("window", "hann"),
    }


# ------------------------------------------------------------------------------------------------------------- writing


def write(path: Path, name: str, params: Mapping[str, Any], sample_rate: int, tensors: dict[str, Tensor]) -> None:
    """A zip as `espnet2.bin.pack` makes it."""
    separator = separator_of(name, params)
    conf = their_config(OPTIONS[separator], params)
    conf.pop("input_dim")
    config: dict[str, Any] = {"separator": separator, "separator_conf": conf, "encoder": "same", "decoder": "same"}
    config |= {"encoder_conf": {}, "decoder_conf": {}, "model_conf": {}}
    if separator == "dptnet":
        config |= {"encoder": "conv", "decoder": "conv"}
        config["encoder_conf"] = {key: conf.pop(key) for key in ("channel", "kernel_size", "stride")}
        config["decoder_conf"] = dict(config["encoder_conf"])
    else:
        tensors = {f"separator.{key}": value for key, value in tensors.items()}
    if separator == "tfgridnetv3":
        config |= {"encoder": "stft", "decoder": "stft", "model_conf": {"normalize_variance": params["normalize"]}}
        stft = {"n_fft": conf.pop("n_fft"), "hop_length": conf.pop("stride"), "window": conf.pop("window")}
        config["encoder_conf"] = {**stft, "default_fs": sample_rate}
        config["decoder_conf"] = dict(config["encoder_conf"])
        conf.pop("use_builtin_complex")
    elif separator != "dptnet":
        conf["attn_approx_qk_dim"] = params["qk_dim"] * (params["n_fft"] // 2 + 1)
    folder = "exp/enh_converted"
    names = {"model_file": f"{folder}/valid.loss.ave.pth", "train_config": f"{folder}/config.yaml"}
    meta = {"files": {"model_file": names["model_file"]}, "yaml_files": {"train_config": names["train_config"]}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(META, yaml.safe_dump(meta))
        archive.writestr(names["train_config"], yaml.safe_dump(config))
        with archive.open(names["model_file"], "w", force_zip64=True) as file:
            torch.save(tensors, file)
