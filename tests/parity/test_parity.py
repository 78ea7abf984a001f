"""Our networks and losses reproduce the numbers of the published ones."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from tests.parity import rule
from tse_lib.losses.level import amplitude, energy
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.losses.spectral import l1, phase_sensitive
from tse_lib.models import MODELS, build_model
from tse_lib.models.discriminators import DISCRIMINATORS, build_discriminator


class Adapter(NamedTuple):
    """How a fixture's names and calls become ours."""

    model: str  # of tse_lib.models.MODELS, or of DISCRIMINATORS
    params: Callable[[dict[str, Any]], dict[str, Any]]  # the fixture's `config` -> our options
    rename: Callable[[str], str | None]  # published tensor name -> ours; None: we have no such tensor
    forward: Callable[..., Tensor | dict[str, Tensor]]  # (network, *inputs) -> the output(s) in the fixture's layout
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict  # published tensors to our shapes, before renaming
    computed: int = 0  # numbers among the fixture's parameters that ours computes


def same(key: str) -> str:
    return key


def hifi_tse_params(config: dict[str, Any]) -> dict[str, Any]:
    names = (
        "n_fft",
        "win_length",
        "hop_length",
        "bands",
        "feature_dim",
        "lstm_hidden",
        "num_heads",
        "reinject_at",
        "film",
    )
    return {**{name: config[name] for name in names}, "num_blocks": config["num_gridnet_blocks"]}


def extract(model: Any, mixture: Tensor, enroll: Tensor) -> Tensor:
    """(B, T), (B, T_e) -> (B, T)."""
    return model(mixture[:, None], model.encode(enroll[:, None]))[:, 0, 0]


def separate(model: Any, mixture: Tensor) -> Tensor:
    """(B, T) -> (B, S, T)."""
    return model(mixture[:, None])[:, :, 0]


def separate_rounded(model: Any, mixture: Tensor) -> Tensor:
    """As `separate`, with the STFT's input rounded to float32, as ESPnet's Stft does in whatever precision."""
    stft = torch.stft
    with mock.patch.object(torch, "stft", lambda waves, *args, **kwargs: stft(waves.float().double(), *args, **kwargs)):
        return separate(model, mixture)


def tf_gridnet_params(config: dict[str, Any]) -> dict[str, Any]:
    names = {"num_sources": "n_srcs", "n_fft": "n_fft", "hop_length": "stride", "num_blocks": "n_layers"}
    names |= {"emb_dim": "emb_dim", "emb_ks": "emb_ks", "emb_hs": "emb_hs", "lstm_hidden": "lstm_hidden_units"}
    params = {ours: config[theirs] for ours, theirs in names.items()} | {"num_heads": config["attn_n_head"]}
    if "attn_qk_output_channel" in config:  # V3
        return params | {"qk_dim": config["attn_qk_output_channel"], "full_band_norm": False, "normalize": False}
    return params | {"qk_dim": -(-config["attn_approx_qk_dim"] // (config["n_fft"] // 2 + 1))}


def tf_gridnet_v1_params(config: dict[str, Any]) -> dict[str, Any]:
    return tf_gridnet_params(config) | {"padding": "end"}


def tf_gridnet_key(key: str) -> str:
    names = {"conv.0.": "conv.", "conv.1.": "conv_norm.", "intra_": "intra.", "inter_": "inter."}
    names |= {"attn_concat_proj.0": "attention.proj", "attn_concat_proj.1": "attention.act"}
    names |= {"attn_concat_proj.2.gamma": "attention.norm.weight", "attn_concat_proj.2.beta": "attention.norm.bias"}
    for letter, role in {"Q": "query", "K": "key", "V": "value"}.items():
        names |= {f"attn_conv_{letter}": f"attention.{role}.linear", f"attn_norm_{letter}": f"attention.{role}"}
    names |= {".norm.gamma": ".norm.weight", ".norm.beta": ".norm.bias"}  # V1
    for theirs, ours in names.items():
        key = key.replace(theirs, ours)
    return key


def tf_gridnet_state(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """V1's heads joined as V2 has them, and features last instead of first."""
    heads: dict[str, list[Tensor]] = {}
    names = {"0": "attn_conv_{}.{}", "1": "attn_norm_{}.act.{}", "2": "attn_norm_{}.{}"}
    for key in sorted(published):
        if found := re.fullmatch(r"(.*)attn_conv_([QKV])_\d\.(\d)\.(\w+)", key):
            block, letter, part, name = found.groups()
            value = published[key][:, None] if part == "2" else published[key]  # gamma (1, E, 1, F) -> (1, 1, E, 1, F)
            heads.setdefault(block + names[part].format(letter, name), []).append(value)
    joined = {key: torch.cat(values, 1 if values[0].dim() == 5 else 0) for key, values in heads.items()}
    state = {key: value for key, value in published.items() if not re.search("attn_conv_[QKV]_", key)} | joined
    for key, value in state.items():
        if value.dim() == 5:  # (1, H, E, 1, F) -> (H, 1, F, E)
            state[key] = value[0].permute(0, 2, 3, 1)
        elif key.endswith(("gamma", "beta")):  # (1, D, 1, F) -> (F, D), or (D,) where F is 1
            state[key] = value[0, :, 0].T.squeeze(0)
        elif "attn" in key and value.dim() == 4:  # 1x1 convolution -> linear map
            state[key] = value.flatten(1)
    return state


def mossformer2_params(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_sources": config["num_spks"],
        "encoder_dim": config["encoder_embedding_dim"],
        "kernel_size": config["encoder_kernel_size"],
        "dim": config["mossformer_sequence_dim"],
        "num_layers": config["num_mossformer_layer"],
    }


MOSSFORMER2_NAMES = {  # applied one after the other
    r"mask_net\.mdl\.intra_mdl\.mossformerM\.layers\.(\d+)": r"layers.\1.attention",
    r"mask_net\.mdl\.intra_mdl\.mossformerM\.fsmn\.(\d+)": r"layers.\1.memory",
    r"^mask_net\.mdl\.intra_mdl\.norm": "norm",
    r"^mask_net\.mdl\.intra_norm": "norm_out",
    r"^mask_net\.norm": "norm_in",
    r"^mask_net\.conv1d_encoder": "proj_in",
    r"^mask_net\.conv1d_out": "split",
    r"^mask_net\.conv1_decoder": "proj_out",
    r"^mask_net\.prelu": "act",
    r"^mask_net\.(output|output_gate)\.0": r"\1",
    r"^mask_net\.pos_enc\.scale": "position_scale",
    r"^enc\.conv1d": "encoder",
    r"^dec\.": "decoder.",
    r"memory\.conv1\.0": "memory.proj_in",
    r"memory\.conv1\.1": "memory.act",
    r"memory\.conv2": "memory.proj_out",
    r"gated_fsmn\.fsmn\.(conv\.)?": "memory.",
    r"gated_fsmn\.": "",
    r"prelu([12])": r"act\1",
    r"qk_offset_scale\.": "",
    r"\.mdl\.0": ".norm",
    r"\.mdl\.1": ".linear",
    r"\.mdl\.3\.sequential\.1\.conv": ".conv",
}


def mossformer2_key(key: str) -> str | None:
    if key.endswith(("rotary_pos_emb.freqs", "pos_enc.inv_freq")):
        return None  # computed
    for theirs, ours in MOSSFORMER2_NAMES.items():
        key = re.sub(theirs, ours, key)
    return key


def mossformer2_state(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """1x1 convolutions to linear maps; (39, 1) convolutions to those along time."""
    return {key: value.squeeze(-1) if value.dim() > 2 else value for key, value in published.items()}


def renamed(names: dict[str, str]) -> Callable[[str], str]:
    """A `rename` that replaces patterns, one after the other."""

    def rename(key: str) -> str:
        for theirs, ours in names.items():
            key = re.sub(theirs, ours, key)
        return key

    return rename


def flat_norms(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Norms as vectors; toolkits keep them as (1, 1, D) or (1, D, 1)."""
    return {key: value.flatten() if key.endswith(("gamma", "beta")) else value for key, value in published.items()}


NORM_NAMES = {"gamma$": "weight", "beta$": "bias"}
ASTEROID_NAMES = NORM_NAMES | {r"filterbank\._filters": "weight", "^masker.": ""}
CONV_TASNET_NAMES = ASTEROID_NAMES | {"^TCN": "blocks", "bottleneck.0": "norm", "bottleneck.1": "bottleneck"}
CONV_TASNET_NAMES |= {"mask_net.0": "mask_act", "mask_net.1": "mask_conv"}
CONV_TASNET_NAMES |= {
    rf"shared_block\.{number}": ours
    for number, ours in enumerate(("in_conv", "in_act", "in_norm", "depth_conv", "depth_act", "depth_norm"))
}
CONV_TASNET_SPEECHBRAIN_NAMES = NORM_NAMES | {
    "^masknet.": "",
    r"conv1d\.": "",
    r"\.conv\.weight": ".weight",
    r"temporal_conv_net\.temporalblock_(\d+)_(\d+)\.layers\.": r"blocks.\1_\2.",
    **{rf"blocks\.{repeat}_{number}": f"blocks.{6 * repeat + number}" for repeat in range(4) for number in range(6)},
    r"DSconv\.conv_0": "depth_conv",
    r"DSconv\.act_0": "depth_norm",
    r"DSconv\.act": "depth_act",
    r"DSconv\.conv_1": "res_conv",
    r"(blocks\.\d+)\.(conv|act|norm)": r"\1.in_\2",
    "layer_norm": "norm",
    "_conv1x1": "",
    "^mask.weight": "mask_conv.weight",
}


def options_from(names: dict[str, str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """`params` of an adapter: our names for the fixture's."""
    return lambda config: {ours: config[theirs] for ours, theirs in names.items()}


CONV_TASNET_SIZES = {"num_sources": "n_src", "num_filters": "n_filters", "kernel_size": "kernel_size"}
CONV_TASNET_SIZES |= {"stride": "stride", "bottleneck_dim": "bn_chan", "hidden_dim": "hid_chan", "norm": "norm_type"}
CONV_TASNET_SIZES |= {"conv_kernel_size": "conv_kernel_size", "num_blocks": "n_blocks", "num_repeats": "n_repeats"}
CONV_TASNET_SIZES |= {"skip_dim": "skip_chan", "mask": "mask_act"}
CONV_TASNET_SPEECHBRAIN_SIZES = {"num_sources": "C", "num_filters": "N", "conv_kernel_size": "P", "num_blocks": "X"}
CONV_TASNET_SPEECHBRAIN_SIZES |= {"bottleneck_dim": "B", "hidden_dim": "H", "num_repeats": "R", "norm": "norm_type"}
CONV_TASNET_SPEECHBRAIN_SIZES |= {"kernel_size": "kernel_size", "stride": "stride", "mask": "mask_nonlinear"}
CONV_TASNET_SPEECHBRAIN_SIZES |= {"causal": "causal", "late": "causal"}


def conv_tasnet_speechbrain_params(config: dict[str, Any]) -> dict[str, Any]:
    fixed = {"skip_dim": 0, "input_norm": "LN", "encoder_relu": True, "bias": False}
    return options_from(CONV_TASNET_SPEECHBRAIN_SIZES)(config) | fixed


HEAD_NAMES = {"first_out.0": "head.act", "first_out.1": "head.source_conv", "mask_net": "head.mask_conv"}
HEAD_NAMES |= {"(net_out|^output).0": "head.output_conv", "(net_gate|^output_gate).0": "head.gate_conv"}
DPRNN_NAMES = ASTEROID_NAMES | {"bottleneck.0": "norm", "bottleneck.1": "bottleneck", r"^net\.": "blocks."}
DPRNN_NAMES |= {"_RNN.rnn": ".lstm", "_linear": ".linear"} | HEAD_NAMES
LAYER_NAMES = {"mha.": "attn.", "self_attn.": "attn.", "recurrent": "lstm", "rnn": "lstm", "norm_ff": "norm"}
LAYER_NAMES |= {"norm_(mha|attn)": "attn_norm", "feed_forward.2": "linear"}
DPTNET_NAMES = ASTEROID_NAMES | {r"layers\.(\d+)\.0": r"intra.\1", r"layers\.(\d+)\.1": r"inter.\1", "in_norm": "norm"}
DPTNET_NAMES |= LAYER_NAMES | HEAD_NAMES
DPTNET_ESPNET_NAMES = NORM_NAMES | {r"conv1d\.|convtrans1d\.|^separator\.": "", "enc_LN": "norm"}
DPTNET_ESPNET_NAMES |= {"dptnet.row_transformer": "intra", "dptnet.col_transformer": "inter"} | LAYER_NAMES | HEAD_NAMES
DPTNET_ESPNET_NAMES |= {"dptnet.output.0": "head.act", "dptnet.output.1": "head.source_conv"}
SEPFORMER_NAMES = {"^masknet.": "", "encoder.conv1d": "encoder", "^conv1d": "bottleneck", "dual_mdl": "blocks"}
SEPFORMER_NAMES |= {"prelu": "head.act", "conv2d": "head.source_conv", "end_conv1x1": "head.mask_conv"} | HEAD_NAMES
SEPFORMER_NAMES |= {"_mdl.mdl": "", "self_att.att": "attn", "norm1.norm": "attn_norm", "norm2.norm": "ffn_norm"}
SEPFORMER_NAMES |= {"pos_ffn.ffn.0": "linear_in", "pos_ffn.ffn.3": "linear_out", r"\.norm.norm": ".norm"}

SIZES = {"num_sources": "n_src", "num_filters": "n_filters", "kernel_size": "kernel_size", "stride": "stride"}
SIZES |= {"chunk_size": "chunk_size", "num_blocks": "n_repeats"}
DPRNN_SIZES = SIZES | {"bottleneck_dim": "bn_chan", "hidden_dim": "hid_size", "mask": "mask_act"}
DPTNET_SIZES = SIZES | {"hidden_dim": "ff_hid", "num_heads": "n_heads"}
DPTNET_ESPNET_SIZES = SIZES | {"num_sources": "num_spk", "num_filters": "channel", "num_blocks": "layer"}
DPTNET_ESPNET_SIZES |= {"chunk_size": "segment_size", "hidden_dim": "unit", "num_heads": "att_heads"}
SEPFORMER_SIZES = SIZES | {"num_sources": "num_spks", "num_filters": "N", "chunk_size": "K", "num_blocks": "num_dual"}
SEPFORMER_SIZES |= {"num_layers": "num_layers", "num_heads": "nhead", "ffn_dim": "d_ffn"}


def dptnet_espnet_params(config: dict[str, Any]) -> dict[str, Any]:
    return options_from(DPTNET_ESPNET_SIZES)(config) | {"norm_eps": torch.finfo(torch.float64).eps}


def sepformer_key(key: str) -> str | None:
    return None if key.endswith(".pe") else renamed(SEPFORMER_NAMES)(key)  # positions are computed


def discriminator_params(config: dict[str, Any]) -> dict[str, Any]:
    return {"periods": config["mpd_periods"], "num_scales": config["msd_scales"]}


def parametrized(key: str) -> str:
    """The names of torch's old norms, weight_g and weight_v (or weight_orig, _u, _v), to those of parametrizations."""
    stem, name = key.rsplit(".", 1)
    spectral = stem.startswith("msd.discriminators.0.")
    new = {"weight_g": "original0", "weight_v": "0._v" if spectral else "original1"}
    new |= {"weight_orig": "original", "weight_u": "0._u"}
    return f"{stem}.parametrizations.weight.{new[name]}" if name in new else key


def verdicts(model: Any, wave: Tensor) -> dict[str, Tensor]:
    """(1, T) -> every feature map and verdict by its name in the fixture."""
    found = model(wave[:, None])
    maps = {f"feat{i}_{j}": map_ for i, maps in enumerate(found) for j, map_ in enumerate(maps)}
    return maps | {f"out{i}": maps[-1].flatten(1) for i, maps in enumerate(found)}


SEPMAMBA_NAMES = {
    r"mamba_layer\.(forward|backward)_mamba_block\.mamba_blocks": r"mamba.\1_blocks",
    r"conv1d_fusion": "fusion",
    r"convT1d|(?<!mixer\.)conv1d": "conv",
}


def sepmamba_params(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("dim", "kernel_sizes", "strides", "num_blocks")}


def sepmamba_causal_params(config: dict[str, Any]) -> dict[str, Any]:
    return sepmamba_params(config) | {"causal": True}


def spmamba_params(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tf_gridnet_params(config).items() if key != "lstm_hidden"}


def spmamba_key(key: str) -> str:
    return tf_gridnet_key(key).replace(".mamba.", ".rnn.")


ADAPTERS = {  # the longest beginning of a fixture's name decides
    "conv_tasnet": Adapter("conv_tasnet", options_from(CONV_TASNET_SIZES), renamed(CONV_TASNET_NAMES), separate),
    "conv_tasnet_speechbrain": Adapter(
        "conv_tasnet",
        conv_tasnet_speechbrain_params,
        renamed(CONV_TASNET_SPEECHBRAIN_NAMES),
        separate,
        flat_norms,
    ),
    "dprnn": Adapter("dprnn", options_from(DPRNN_SIZES), renamed(DPRNN_NAMES), separate),
    "dptnet_asteroid": Adapter("dptnet", options_from(DPTNET_SIZES), renamed(DPTNET_NAMES), separate),
    "dptnet_espnet": Adapter("dptnet", dptnet_espnet_params, renamed(DPTNET_ESPNET_NAMES), separate, flat_norms),
    "sepformer": Adapter("sepformer", options_from(SEPFORMER_SIZES), sepformer_key, separate),
    "hifi_tse": Adapter("hifi_tse", hifi_tse_params, same, extract),
    "hifi_tse_discriminator": Adapter("mpd_msd", discriminator_params, parametrized, verdicts),
    "mossformer2": Adapter("mossformer2", mossformer2_params, mossformer2_key, separate, mossformer2_state, 16),
    "sepmamba": Adapter("sepmamba", sepmamba_params, renamed(SEPMAMBA_NAMES), separate),
    "sepmamba_s_causal": Adapter("sepmamba", sepmamba_causal_params, renamed(SEPMAMBA_NAMES), separate),
    "spmamba": Adapter("spmamba", spmamba_params, spmamba_key, separate, tf_gridnet_state),
    "tf_gridnet_v1": Adapter("tf_gridnet", tf_gridnet_v1_params, tf_gridnet_key, separate_rounded, tf_gridnet_state),
    "tf_gridnet_v2": Adapter("tf_gridnet", tf_gridnet_params, tf_gridnet_key, separate_rounded, tf_gridnet_state),
    "tf_gridnet_v3": Adapter("tf_gridnet", tf_gridnet_params, tf_gridnet_key, separate, tf_gridnet_state),
}


def adapter_for(name: str) -> Adapter | None:
    fitting = [prefix for prefix in ADAPTERS if name.startswith(prefix)]
    return ADAPTERS[max(fitting, key=len)] if fitting else None


def read_keys(file: Path) -> dict[str, list[int]]:
    data = file.read_bytes()
    return json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)


def fill(
    network: nn.Module, keys: dict[str, list[int]], kinds: dict[str, str], rename: Callable, convert: Callable = dict
) -> None:
    """Every tensor by the rule of its published name; none of ours may be left as it was."""
    state = {rename(key): value for key, value in convert(rule.state_of(keys, kinds)).items()}
    state.pop(None, None)
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    assert not missing and not unexpected


def test_network(network_fixture):
    adapter = adapter_for(network_fixture.stem)
    if adapter is None or adapter.model not in {*MODELS, *DISCRIMINATORS}:
        pytest.skip(f"no model for {network_fixture.stem}")
    spec = json.loads(network_fixture.read_text(encoding="utf-8"))
    torch.set_default_dtype(torch.float64)  # before building: windows and tables made in float32 are 1e-8 off
    params = adapter.params(spec["config"])
    if adapter.model in MODELS:
        network = build_model(adapter.model, params, spec["config"].get("sample_rate", 8000), task=None).eval()
    else:
        network = build_discriminator(adapter.model, params)
    keys_file = network_fixture.with_name(spec.get("keys_file", f"{network_fixture.stem}.keys.json"))
    fill(network, read_keys(keys_file), spec.get("kinds", {}), adapter.rename, adapter.convert)

    if "param_count" in spec:
        count = sum(parameter.numel() for parameter in network.parameters())
        assert count + adapter.computed == spec["param_count"]
    with torch.no_grad():
        outputs = adapter.forward(network, *[rule.input_of(one) for one in spec["inputs"]])
    outputs = outputs if isinstance(outputs, dict) else {"out": outputs}
    deviations = {name: rule.deviation(outputs[name], stored) for name, stored in spec["outputs"].items()}
    assert max(deviations.values()) <= spec["tol"], deviations


# ------------------------------------------------------------------------------------------------ losses

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # names of the fixture; a scalar there is a mean over items
    "si_sdr": lambda estimate, target: -neg_si_sdr(estimate, target),
    "si_sdr_loss": lambda estimate, target: neg_si_sdr(estimate, target).mean(),
    "amplitude_loss": lambda estimate, target: amplitude(estimate, target).mean(),
    "phase_sensitive": lambda estimate, target: phase_sensitive(estimate, target).mean(),
    "l1_waveform_loss": lambda estimate, target: l1(estimate, target).mean(),
    "energy_loss_v2": lambda estimate, target: energy(estimate, target),
}


def loss_inputs(count: int, offset: float) -> tuple[Tensor, Tensor]:
    """The estimates and targets (3, count) that `inputs` of the fixture describes."""
    targets = [rule.signal(count, f0 + offset, ph, 48000, c) for f0, ph, c in ((220, 0, 1), (330, 1, 2), (147, 0.5, 3))]
    rows = ((220, 0.3, 11, 1, 0), (330, 1.2, 12, 0.02, 0.01), (150, 0.5, 13, 0.4, -0.05))
    estimates = [
        0.8 * rule.signal(count, f0 + offset, ph, 48000, c) * scale + shift for f0, ph, c, scale, shift in rows
    ]
    return torch.stack(estimates), torch.stack(targets)


@pytest.mark.parametrize("name", LOSSES)
def test_loss(loss_fixture, name):
    torch.set_default_dtype(torch.float64)
    spec = json.loads(loss_fixture.read_text(encoding="utf-8"))
    if name not in spec["losses"]:
        pytest.skip(f"no {name} in {loss_fixture.stem}")
    stored, loss = spec["losses"][name], LOSSES[name]
    estimate, target = loss_inputs(spec["n"], spec["o"])
    silence = torch.zeros_like(estimate)
    estimate.requires_grad_()
    value = loss(estimate, target)
    (gradient,) = torch.autograd.grad(value.sum(), estimate)
    ours = {
        "value": value,
        "grad_l2": gradient.norm(),
        "grad_at_idx": gradient.flatten()[stored["grad_idx"]],
        "on_itself": loss(target, target),
        "on_minus_target": loss(-target, target),
        "silent_estimate": loss(silence, target),
        "silent_target": loss(estimate, silence),
        "both_silent": loss(silence, silence),
        "times_0.01": loss(0.01 * estimate, target),
    }
    assert set(stored) - {"grad_idx"} <= set(ours)
    for case in set(stored) - {"grad_idx"}:
        theirs = torch.tensor(stored[case]).flatten()
        scale = theirs.abs().max().clamp_min(1e-3 if case == "grad_at_idx" else 1.0)
        difference = (ours[case].detach().flatten() - theirs).abs().max() / scale
        assert difference <= spec["tol"], f"{case}: {ours[case].tolist()} is not {theirs.tolist()}"
