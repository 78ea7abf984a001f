"""Published sizes of the networks, by name, and what they cost."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from tse_lib.models import OneCall, build_model
from tse_lib.models.hifi_tse import HiFiTSE
from tse_lib.models.mossformer2 import GatedAttention
from tse_lib.models.usef_tse_mamba import CrossAttention
from tse_lib.nn.conditioning import FrameAttention, SpectralMap
from tse_lib.nn.gridnet import FullBandAttention
from tse_lib.nn.mamba import Mamba

# inclusive STFT bins at 48 kHz, n_fft 2048 (23.4 Hz a bin): 10 bands to 1 kHz, 18 to 8 kHz, 25 to 24 kHz
BANDS_48K = [
    [0, 4], [3, 8], [7, 12], [11, 16], [15, 20], [19, 24], [23, 28], [27, 32], [31, 36], [35, 42],
    [41, 60], [58, 76], [74, 92], [90, 108], [106, 124], [122, 140], [138, 156], [154, 172], [170, 188], [186, 204],
    [202, 220], [218, 236], [234, 252], [250, 268], [266, 284], [282, 300], [298, 316], [314, 341],
    [340, 370], [368, 397], [395, 424], [422, 451], [449, 478], [476, 505], [503, 532], [530, 559], [557, 586],
    [584, 613], [611, 640], [638, 667], [665, 694], [692, 721], [719, 748], [746, 775], [773, 802], [800, 829],
    [827, 856], [854, 883], [881, 910], [908, 937], [935, 964], [962, 991], [989, 1024],
]  # fmt: skip


HIFI_TSE_V2 = {
    "n_fft": 2048,
    "win_length": 960,
    "hop_length": 480,
    "bands": BANDS_48K,
    "feature_dim": 128,
    "lstm_hidden": 256,
    "num_heads": 4,
    "num_blocks": 6,
    "reinject_at": [0, 1, 2, 3, 4, 5],
    "film": True,
}
HIFI_TSE_V1 = {**HIFI_TSE_V2, "lstm_hidden": 192, "reinject_at": [0, 2, 4], "film": False}

CONV_TASNET_SPEECHBRAIN = {
    "num_filters": 256,
    "bottleneck_dim": 256,
    "skip_dim": 0,
    "num_blocks": 6,
    "num_repeats": 4,
    "input_norm": "LN",
    "causal": True,
    "late": True,
    "encoder_relu": True,
    "mask": "relu",
    "bias": False,
}
DPRNN_SPEECHBRAIN = {
    "num_filters": 256,
    "kernel_size": 16,
    "stride": 8,
    "bottleneck_dim": 256,
    "hidden_dim": 256,
    "chunk_padding": "half",
    "encoder_relu": True,
    "mask": "relu",
    "bottleneck_bias": False,
}
DPTNET_ASTEROID = {"kernel_size": 16, "stride": 8, "hidden_dim": 256, "chunk_size": 100}

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
ATTENTIONS = (nn.MultiheadAttention, FullBandAttention, GatedAttention, CrossAttention, FrameAttention, SpectralMap)
COUNTED = (nn.Linear, nn.LSTM, Mamba, *ATTENTIONS, *CONVOLUTIONS)

# preset -> what `describe` reports, and the options of the model
PRESETS: dict[str, dict[str, Any]] = {
    "hifi_tse_v1": {
        "name": "hifi_tse",
        "task": "extract",
        "paper": "HiFi-TSE v1 (github.com/HailongDing/HiFi_TSE)",
        "sample_rate": 48000,
        "causal": False,
        "params": HIFI_TSE_V1,
    },
    "hifi_tse_v2": {
        "name": "hifi_tse",
        "task": "extract",
        "paper": "HiFi-TSE v2 (github.com/HailongDing/HiFi_TSE)",
        "sample_rate": 48000,
        "causal": False,
        "params": HIFI_TSE_V2,
    },
    "spex_plus": {
        "name": "spex_plus",
        "task": "extract",
        "paper": "Ge et al. 2020 (arXiv 2005.04686)",
        "sample_rate": 8000,
        "causal": False,
        "params": {},
    },
    "td_speakerbeam": {
        "name": "td_speakerbeam",
        "task": "extract",
        "paper": "Delcroix et al. 2020 (arXiv 2001.08378); the authors' conf",
        "sample_rate": 8000,
        "causal": False,
        "params": {},
    },
    "x_tf_gridnet": {
        "name": "x_tf_gridnet",
        "task": "extract",
        "paper": "Hao et al. 2024 (Information Fusion 112, 102550)",
        "sample_rate": 8000,
        "causal": False,
        "params": {},
    },
    "x_tf_gridnet_large": {
        "name": "x_tf_gridnet",
        "task": "extract",
        "paper": "Hao et al. 2024 (Information Fusion 112, 102550), Large",
        "sample_rate": 8000,
        "causal": False,
        "params": {"num_blocks": 5},
    },
    "usef_tf_gridnet": {
        "name": "usef_tf_gridnet",
        "task": "extract",
        "paper": "Zeng and Li 2024 (arXiv 2409.02615)",
        "sample_rate": 8000,
        "causal": False,
        "params": {},
    },
    "usef_sepformer": {
        "name": "usef_sepformer",
        "task": "extract",
        "paper": "Zeng and Li 2024 (arXiv 2409.02615)",
        "sample_rate": 8000,
        "causal": False,
        "params": {},
    },
    "usef_tse_mamba_v7": {
        "name": "usef_tse_mamba",
        "task": "extract",
        "paper": "USEF-TSE-Mamba v7 (github.com/HailongDing/USEF-TSE-Mamba-v7-2)",
        "sample_rate": 8000,
        "causal": False,
        "params": {"dropout": 0.2},
    },
    "usef_tse_mamba_v8_s": {
        "name": "usef_tse_mamba_v8",
        "task": "extract",
        "paper": "after the plans of github.com/HailongDing/USEF-TSE-Mamba-v7-2, small",
        "sample_rate": 16000,
        "causal": False,
        "params": {"dim": 128, "num_blocks": 3},
    },
    "usef_tse_mamba_v8": {
        "name": "usef_tse_mamba_v8",
        "task": "extract",
        "paper": "after the plans of github.com/HailongDing/USEF-TSE-Mamba-v7-2",
        "sample_rate": 16000,
        "causal": False,
        "params": {},
    },
    "usef_tse_mamba_v8_film": {
        "name": "usef_tse_mamba_v8",
        "task": "extract",
        "paper": "after the plans of github.com/HailongDing/USEF-TSE-Mamba-v7-2, without cross-attention",
        "sample_rate": 16000,
        "causal": False,
        "params": {"cross_attention": False},
    },
    "usef_tse_mamba_v8_causal": {
        "name": "usef_tse_mamba_v8",
        "task": "extract",
        "paper": "after the plans of github.com/HailongDing/USEF-TSE-Mamba-v7-2, causal but for blocks of 2 ms",
        "sample_rate": 16000,
        "causal": True,
        "params": {"num_blocks": 4, "causal": True},
    },
    "usef_tse_mamba_v8_l": {
        "name": "usef_tse_mamba_v8",
        "task": "extract",
        "paper": "after the plans of github.com/HailongDing/USEF-TSE-Mamba-v7-2, large",
        "sample_rate": 16000,
        "causal": False,
        "params": {"dim": 256},
    },
    "conv_tasnet": {
        "name": "conv_tasnet",
        "task": "separate",
        "paper": "Luo and Mesgarani 2019 (arXiv 1809.07454); Asteroid's",
        "sample_rate": 8000,
        "causal": False,
        "params": {},
    },
    "conv_tasnet_causal": {
        "name": "conv_tasnet",
        "task": "separate",
        "paper": "Luo and Mesgarani 2019 (arXiv 1809.07454), causal",
        "sample_rate": 8000,
        "causal": True,
        "params": {"norm": "cLN", "causal": True},
    },
    "conv_tasnet_speechbrain": {
        "name": "conv_tasnet",
        "task": "separate",
        "paper": "SpeechBrain's WSJ0Mix recipe; its norm hears the future",
        "sample_rate": 8000,
        "causal": False,
        "params": CONV_TASNET_SPEECHBRAIN,
    },
    "dprnn": {
        "name": "dprnn",
        "task": "separate",
        "paper": "Luo, Chen and Yoshioka 2020 (arXiv 1910.06379)",
        "sample_rate": 8000,
        "causal": False,
        "params": {},
    },
    "dprnn_asteroid": {
        "name": "dprnn",
        "task": "separate",
        "paper": "Asteroid's WHAM recipe, filters of 2 samples",
        "sample_rate": 8000,
        "causal": False,
        "params": {"bottleneck_dim": 128},
    },
    "dprnn_asteroid_ks16": {
        "name": "dprnn",
        "task": "separate",
        "paper": "Asteroid's WHAM recipe, filters of 16 samples",
        "sample_rate": 8000,
        "causal": False,
        "params": {"kernel_size": 16, "stride": 8, "bottleneck_dim": 128, "chunk_size": 100},
    },
    "dprnn_speechbrain": {
        "name": "dprnn",
        "task": "separate",
        "paper": "SpeechBrain's WSJ0Mix recipe",
        "sample_rate": 8000,
        "causal": False,
        "params": DPRNN_SPEECHBRAIN,
    },
    "dptnet": {
        "name": "dptnet",
        "task": "separate",
        "paper": "Chen, Mao and Liu 2020 (arXiv 2007.13975); ESPnet's",
        "sample_rate": 8000,
        "causal": False,
        "params": {"norm_eps": torch.finfo(torch.float32).eps},
    },
    "dptnet_asteroid": {
        "name": "dptnet",
        "task": "separate",
        "paper": "Asteroid's defaults",
        "sample_rate": 8000,
        "causal": False,
        "params": DPTNET_ASTEROID,
    },
    "dptnet_asteroid_r2": {
        "name": "dptnet",
        "task": "separate",
        "paper": "Asteroid's WHAM recipe, two repeats",
        "sample_rate": 8000,
        "causal": False,
        "params": {**DPTNET_ASTEROID, "num_blocks": 2},
    },
    "sepformer": {
        "name": "sepformer",
        "task": "separate",
        "paper": "Subakan et al. 2021 (arXiv 2010.13154); SpeechBrain's",
        "sample_rate": 8000,
        "causal": False,
        "params": {},
    },
    "sepformer_3": {
        "name": "sepformer",
        "task": "separate",
        "paper": "Subakan et al. 2021 (arXiv 2010.13154), three talkers",
        "sample_rate": 8000,
        "causal": False,
        "params": {"num_sources": 3},
    },
    "sepmamba_s": {
        "name": "sepmamba",
        "task": "separate",
        "paper": "Avenstrup et al. 2024 (arXiv 2410.20997)",
        "sample_rate": 8000,
        "causal": False,
        "params": {},
    },
    "sepmamba_s_causal": {
        "name": "sepmamba",
        "task": "separate",
        "paper": "Avenstrup et al. 2024 (arXiv 2410.20997), causal but for 105 samples",
        "sample_rate": 8000,
        "causal": True,
        "params": {"num_blocks": 8, "causal": True},
    },
    "sepmamba_m": {
        "name": "sepmamba",
        "task": "separate",
        "paper": "Avenstrup et al. 2024 (arXiv 2410.20997)",
        "sample_rate": 8000,
        "causal": False,
        "params": {"dim": 128, "num_blocks": 3},
    },
    "sepmamba_m_causal": {
        "name": "sepmamba",
        "task": "separate",
        "paper": "Avenstrup et al. 2024 (arXiv 2410.20997), causal but for 105 samples",
        "sample_rate": 8000,
        "causal": True,
        "params": {"dim": 128, "num_blocks": 6, "causal": True},
    },
    "spmamba": {
        "name": "spmamba",
        "task": "separate",
        "paper": "Li et al. 2024 (arXiv 2404.02063)",
        "sample_rate": 8000,
        "causal": False,
        "params": {},
    },
    "spmamba_16k": {
        "name": "spmamba",
        "task": "separate",
        "paper": "Li et al. 2024 (arXiv 2404.02063) at 16 kHz",
        "sample_rate": 16000,
        "causal": False,
        "params": {"n_fft": 512, "hop_length": 128, "qk_dim": 2},
    },
    "tf_gridnet": {
        "name": "tf_gridnet",
        "task": "separate",
        "paper": "Wang et al. 2023 (arXiv 2211.12433), the largest",
        "sample_rate": 8000,
        "causal": False,
        "params": {"n_fft": 256, "emb_dim": 64, "lstm_hidden": 256, "qk_dim": 4, "padding": "end"},
    },
    "tf_gridnet_v1_espnet": {
        "name": "tf_gridnet",
        "task": "separate",
        "paper": "Wang et al. 2023 (arXiv 2211.12433); ESPnet's recipe",
        "sample_rate": 8000,
        "causal": False,
        "params": {"padding": "end"},
    },
    "tf_gridnet_v2_espnet": {
        "name": "tf_gridnet",
        "task": "separate",
        "paper": "Wang et al. 2023 (arXiv 2211.12433); ESPnet's recipe without unfolding",
        "sample_rate": 8000,
        "causal": False,
        "params": {"emb_dim": 128, "emb_ks": 1},
    },
    "tf_gridnet_v3_espnet": {
        "name": "tf_gridnet",
        "task": "separate",
        "paper": "Wang et al. 2023 (arXiv 2211.12433); ESPnet's for any sample rate",
        "sample_rate": 8000,
        "causal": False,
        "params": {"qk_dim": 4, "full_band_norm": False, "normalize": False},
    },
    "mossformer2": {
        "name": "mossformer2",
        "task": "separate",
        "paper": "Zhao et al. 2024 (arXiv 2312.11825); ClearerVoice's",
        "sample_rate": 8000,
        "causal": False,
        "params": {},
    },
    "mossformer2_16k": {
        "name": "mossformer2",
        "task": "separate",
        "paper": "Zhao et al. 2024 (arXiv 2312.11825); ClearerVoice's at 16 kHz",
        "sample_rate": 16000,
        "causal": False,
        "params": {},
    },
    "mdx23c_drums": {
        "name": "tfc_tdf",
        "task": "separate",
        "paper": "Kim et al. 2023 (arXiv 2306.09382); jarredou's five drum stems",
        "sample_rate": 44100,
        "causal": False,
        "params": {},
    },
}


def describe(preset: str) -> dict[str, Any]:
    """Name, preset, task, paper, parameters, multiply-accumulates per second of mixture (enrolment as long), rate."""
    facts = PRESETS[preset]
    return {
        "name": facts["name"],
        "preset": preset,
        "task": facts["task"],
        "paper": facts["paper"],
        **cost_of(facts["name"], facts["params"], facts["sample_rate"]),
        "sample_rate": facts["sample_rate"],
        "causal": facts["causal"],
    }


def cost_of(name: str, params: dict[str, Any], sample_rate: int) -> dict[str, Any]:
    """`params`, and `gmac_per_s` of a second of mixture (with an enrolment as long) of a network with these options."""
    model = build_model(name, params, sample_rate, task=None).eval()
    needs_values = any(isinstance(module, HiFiTSE) for module in model.modules())
    device = "cpu" if needs_values else "meta"  # shapes suffice for all but torch.istft
    model, wave = model.to(device), torch.zeros(1, 1, sample_rate, device=device)
    if device == "meta":
        for module in model.modules():
            if isinstance(module, nn.LSTM):
                module.forward = functools.partial(lstm_shapes, module)  # type: ignore[method-assign, assignment]
    enroll = [wave] if hasattr(model, "encode") else []
    macs = count_macs(model, lambda: OneCall(model)(wave, *enroll))
    return {"params": sum(parameter.numel() for parameter in model.parameters()), "gmac_per_s": round(macs / 1e9, 3)}


def lstm_shapes(lstm: nn.LSTM, x: Tensor) -> tuple[Tensor, None]:
    """What an LSTM gives, without its values: without a kernel it would go through all steps one by one."""
    return x.new_zeros(*x.shape[:-1], lstm.hidden_size * (1 + lstm.bidirectional)), None


def count_macs(model: nn.Module, run: Any) -> int:
    """Multiply-accumulates of linear maps, convolutions, recurrences and attentions while `run()` uses the model."""
    total = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
            total += inputs[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.LSTM):
            per_frame = sum(weight.numel() for name, weight in module.named_parameters() if name.startswith("weight"))
            total += inputs[0].numel() // module.input_size * per_frame
        elif isinstance(module, nn.MultiheadAttention):
            batch, length, dim = inputs[0].shape
            length_e = inputs[1].shape[1]
            projections = 2 * length * dim * dim + 2 * length_e * dim * dim
            total += batch * (projections + 2 * length * length_e * dim)
        elif isinstance(module, FullBandAttention):
            batch, length, bins, dim = inputs[0].shape
            asked = inputs[1].shape[1] if len(inputs) > 1 else length
            total += batch * length * asked * bins * (module.query.linear.out_features + dim)
        elif isinstance(module, CrossAttention):
            batch, length, dim = inputs[0].shape
            total += batch * 2 * length * inputs[1].shape[1] * dim
        elif isinstance(module, FrameAttention):
            total += 2 * inputs[0].numel() * inputs[1].shape[1]
        elif isinstance(module, SpectralMap):
            total += 2 * inputs[1].numel() * inputs[2].shape[1]
        elif isinstance(module, GatedAttention):
            batch, length, _ = inputs[0].shape
            qk_dim, hidden_dim = module.to_qk.linear.out_features, module.to_hidden.linear.out_features
            near = min(module.group_size, length) * (qk_dim + hidden_dim)
            total += batch * length * (near + 2 * qk_dim * hidden_dim)
        elif isinstance(module, Mamba):  # besides the maps inside: the step sizes, and each state's update and use
            per_frame = module.dt_proj.weight.numel() + 2 * module.A_log.numel()
            total += inputs[0].numel() // inputs[0].shape[-1] * per_frame

    handles = [module.register_forward_hook(add) for module in model.modules() if isinstance(module, COUNTED)]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return total
