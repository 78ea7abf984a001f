"""Our networks and losses reproduce the numbers of the published ones."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from tests.parity import rule
from tse_lib.hub import (
    asteroid,
    complete,
    espnet,
    hifi_tse,
    look2hear,
    mdx23c,
    mossformer2,
    sepmamba,
    speechbrain,
    spex_plus,
    usef_tse,
    usef_tse_mamba,
    x_tf_gridnet,
)
from tse_lib.hub.names import Names, from_published, to_published
from tse_lib.losses.level import amplitude, energy
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.losses.spectral import l1, phase_sensitive
from tse_lib.models import MODELS, build_model
from tse_lib.models.discriminators import DISCRIMINATORS, build_discriminator


class Adapter(NamedTuple):
    """How a fixture's names and calls become ours."""

    model: str  # of tse_lib.models.MODELS, or of DISCRIMINATORS
    params: Callable[[dict[str, Any], Any], dict[str, Any]]  # the fixture's `config` and tensor names -> our options
    names: Callable[[str, dict[str, Any]], Names]  # of a published layout
    forward: Callable[..., Tensor | dict[str, Tensor]]  # (network, *inputs) -> the output(s) in the fixture's layout
    computed: int = 0  # numbers among the fixture's parameters that ours computes


def hifi_tse_params(config: dict[str, Any], keys: Any) -> dict[str, Any]:
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


def discriminator_params(config: dict[str, Any], keys: Any) -> dict[str, Any]:
    return {"periods": config["mpd_periods"], "num_scales": config["msd_scales"]}


def discriminator_names(name: str, params: dict[str, Any]) -> Names:
    """Torch's old norms, weight_g and weight_v (or weight_orig, _u, _v), are parametrizations here."""
    stem = "**.parametrizations.weight"
    spectral = f"{stem}.original **.weight_orig\n{stem}.0._u **.weight_u\n{stem}.0._v **.weight_v\n"
    return Names(f"{stem}.original0 **.weight_g\n{stem}.original1 **.weight_v\n{spectral}** **")


def verdicts(model: Any, wave: Tensor) -> dict[str, Tensor]:
    """(1, T) -> every feature map and verdict by its name in the fixture."""
    found = model(wave[:, None])
    maps = {f"feat{i}_{j}": map_ for i, maps in enumerate(found) for j, map_ in enumerate(maps)}
    return maps | {f"out{i}": maps[-1].flatten(1) for i, maps in enumerate(found)}


def espnet_params(separator: str) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    return lambda config, keys: espnet.params_of(separator, config)


def asteroid_params(kind: str) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    return lambda config, keys: asteroid.params_of(kind, config)


def speechbrain_params(name: str) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    return lambda config, keys: speechbrain.params_of(name, config)


def mossformer2_params(config: dict[str, Any], keys: Any) -> dict[str, Any]:
    return mossformer2.params_of(config)


def sepmamba_params(config: dict[str, Any], keys: Any) -> dict[str, Any]:
    return sepmamba.params_of(config, causal=not any("backward" in key for key in keys))


def tfc_tdf_params(config: dict[str, Any], keys: Any) -> dict[str, Any]:
    """The fixture's flat options in the sections of a YAML."""
    audio = {name: config[name] for name in ("n_fft", "hop_length", "dim_f", "num_channels")}
    of_model = [name for name in mdx23c.MODEL if name in config and name != "num_channels"]
    model = {name: config[name] for name in of_model} | {"num_channels": config["model_channels"]}
    model |= {"act": "gelu", "norm": "InstanceNorm"}
    return mdx23c.params_of({"audio": audio, "model": model, "training": {"instruments": config["instruments"]}})


def spmamba_params(config: dict[str, Any], keys: Any) -> dict[str, Any]:
    return look2hear.params_of(config)


def spex_plus_outputs(model: Any, mixture: Tensor, enroll: Tensor) -> dict[str, Tensor]:
    """(B, T), (B, T_e) -> the estimates (B, T) of the three scales, and the talkers' logits."""
    condition = model.encode(enroll[:, None])
    estimates = model.scales(mixture[:, None], condition)[:, :, 0]
    assert torch.equal(model(mixture[:, None], condition)[:, 0, 0], estimates[:, 0])
    logits = {"speaker_logits": model.speaker_logits(condition)}
    return dict(zip(("short", "middle", "long"), estimates.unbind(1), strict=True)) | logits


def x_tf_gridnet_outputs(model: Any, mixture: Tensor, enroll: Tensor) -> dict[str, Tensor]:
    """(B, T), (B, T_e) -> the estimate (B, T) and the talkers' logits."""
    condition = model.encode(enroll[:, None])
    return {"out": model(mixture[:, None], condition)[:, 0, 0], "speaker_logits": model.speaker_logits(condition)}


def usef_tse_params(name: str, told: dict[str, str]) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    """`told`: what config.yaml calls the fixture's options that tensors do not say."""
    return lambda config, keys: usef_tse.params_of(
        name, keys, {theirs: config[key] for key, theirs in told.items() if key in config}
    )


def usef_tse_mamba_params(config: dict[str, Any], keys: Any) -> dict[str, Any]:
    activation = {"activation": config["act_fn"]}
    return usef_tse_mamba.params_of({key: value for key, value in config.items() if key != "act_fn"} | activation)


def extract_whole_hops(model: Any, mixture: Tensor, enroll: Tensor) -> Tensor:
    """As `extract`, without the rest that the original leaves out and `compat` makes 0."""
    estimate = extract(model, mixture, enroll)
    whole = estimate.shape[-1] // model.hop_length * model.hop_length
    assert not estimate[:, whole:].any()
    return estimate[:, :whole]


def extract_uncut(model: Any, mixture: Tensor, enroll: Tensor) -> Tensor:
    """(B, T), (B, T_e) -> (B, 1, T or T + 1): as the network's last convolution leaves it."""
    return model.waves(mixture[:, None], model.encode(enroll[:, None]))


USEF_TF_GRIDNET_TOLD = {"hop": "hop_length", "win": "win_length", "emb_hs": "emb_hs"}
USEF_SEPFORMER_TOLD = {"K": "K", "n_head": "nhead", "encoder_stride": "stride"}
ADAPTERS = {  # the longest beginning of a fixture's name decides
    "conv_tasnet": Adapter("conv_tasnet", asteroid_params("ConvTasNet"), asteroid.names_of, separate),
    "conv_tasnet_speechbrain": Adapter(
        "conv_tasnet", speechbrain_params("conv_tasnet"), speechbrain.names_of, separate
    ),
    "dprnn": Adapter("dprnn", asteroid_params("DPRNNTasNet"), asteroid.names_of, separate),
    "dprnn_speechbrain": Adapter("dprnn", speechbrain_params("dprnn"), speechbrain.names_of, separate),
    "dptnet_asteroid": Adapter("dptnet", asteroid_params("DPTNet"), asteroid.names_of, separate),
    "dptnet_espnet": Adapter("dptnet", espnet_params("dptnet"), espnet.names_of, separate),
    "sepformer": Adapter("sepformer", speechbrain_params("sepformer"), speechbrain.names_of, separate),
    "hifi_tse": Adapter("hifi_tse", hifi_tse_params, hifi_tse.names_of, extract),
    "hifi_tse_discriminator": Adapter("mpd_msd", discriminator_params, discriminator_names, verdicts),
    "mossformer2": Adapter("mossformer2", mossformer2_params, mossformer2.names_of, separate, mossformer2.ROTARY),
    "sepmamba": Adapter("sepmamba", sepmamba_params, sepmamba.names_of, separate),
    "spexplus": Adapter("spex_plus", spex_plus.params_of, spex_plus.names_of, spex_plus_outputs),
    "spmamba": Adapter("spmamba", spmamba_params, look2hear.names_of, separate),
    "tf_gridnet_v1": Adapter("tf_gridnet", espnet_params("tfgridnet"), espnet.names_of, separate_rounded),
    "tf_gridnet_v2": Adapter("tf_gridnet", espnet_params("tfgridnetv2"), espnet.names_of, separate_rounded),
    "tf_gridnet_v3": Adapter("tf_gridnet", espnet_params("tfgridnetv3"), espnet.names_of, separate),
    "tfc_tdf": Adapter("tfc_tdf", tfc_tdf_params, mdx23c.names_of, lambda model, mixture: model(mixture)),
    "xtfgridnet": Adapter("x_tf_gridnet", x_tf_gridnet.params_of, x_tf_gridnet.names_of, x_tf_gridnet_outputs),
    "usef_sepformer": Adapter(
        "usef_sepformer", usef_tse_params("usef_sepformer", USEF_SEPFORMER_TOLD), usef_tse.names_of, extract
    ),
    "usef_tfgridnet": Adapter(
        "usef_tf_gridnet",
        usef_tse_params("usef_tf_gridnet", USEF_TF_GRIDNET_TOLD),
        usef_tse.names_of,
        extract_whole_hops,
    ),
    "usef_tse_mamba": Adapter("usef_tse_mamba", usef_tse_mamba_params, usef_tse_mamba.names_of, extract_uncut),
}


def adapter_for(name: str) -> Adapter | None:
    fitting = [prefix for prefix in ADAPTERS if name.startswith(prefix)]
    return ADAPTERS[max(fitting, key=len)] if fitting else None


def read_keys(file: Path) -> dict[str, list[int]]:
    data = file.read_bytes()
    return json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)


def fill(network: nn.Module, keys: dict[str, list[int]], kinds: dict[str, str], names: Names) -> None:
    """Every tensor by the rule of its published name; none of ours may be left as it was.

    The tensors are the published ones again when they are written in that layout.
    """
    counts = {key: torch.tensor(0) for key in keys if key.endswith("num_batches_tracked")}
    published = rule.state_of(keys, kinds) | counts
    network.load_state_dict(from_published(published, names, network.state_dict(), "fixture"))
    back = to_published(network.state_dict(), names)
    assert back.keys() == published.keys()
    assert [key for key in back if not torch.equal(back[key], published[key])] == []


def test_network(network_fixture):
    adapter = adapter_for(network_fixture.stem)
    if adapter is None or adapter.model not in {*MODELS, *DISCRIMINATORS}:
        pytest.skip(f"no model for {network_fixture.stem}")
    spec = json.loads(network_fixture.read_text(encoding="utf-8"))
    torch.set_default_dtype(torch.float64)  # before building: windows and tables made in float32 are 1e-8 off
    keys_file = network_fixture.with_name(spec.get("keys_file", f"{network_fixture.stem}.keys.json"))
    keys = read_keys(keys_file)
    params = adapter.params(spec["config"], keys)
    if adapter.model in MODELS:
        network = build_model(adapter.model, params, spec["config"].get("sample_rate", 8000), task=None).eval()
    else:
        network = build_discriminator(adapter.model, params)
    full = complete(adapter.model, params) if adapter.model in MODELS else params
    fill(network, keys, spec.get("kinds", {}), adapter.names(adapter.model, full))

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
