"""Public checkpoints by name: where they are, whose they are, and at what rate they work.

`tse convert NAME` looks for one in Hugging Face's cache and downloads nothing: no checksum of these files is known for
certain here, and what cannot be verified is fetched by its own client (`huggingface-cli download REPO`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Public:
    """A published checkpoint.

    Attributes:
        repo: on Hugging Face.
        sample_rate: Hz.
        licence: of the weights, as their card says it; "": not known for certain here. The data have their own.
        preset: of tse_lib.models.presets, the same network; "": there is none.
    """

    repo: str
    sample_rate: int
    licence: str = ""
    preset: str = ""


PUBLIC = {
    "sepformer_wsj02mix": Public("speechbrain/sepformer-wsj02mix", 8000, preset="sepformer"),
    "sepformer_wsj03mix": Public("speechbrain/sepformer-wsj03mix", 8000, preset="sepformer_3"),
    "sepformer_wham": Public("speechbrain/sepformer-wham", 8000, preset="sepformer"),
    "sepformer_whamr": Public("speechbrain/sepformer-whamr", 8000, preset="sepformer"),
    "sepformer_whamr16k": Public("speechbrain/sepformer-whamr16k", 16000),
    "sepformer_libri3mix": Public("speechbrain/sepformer-libri3mix", 8000, preset="sepformer_3"),
    "sepformer_whamr_enhancement": Public("speechbrain/sepformer-whamr-enhancement", 8000),
    "mossformer2_ss_16k": Public("alibabasglab/MossFormer2_SS_16K", 16000, "Apache-2.0", preset="mossformer2_16k"),
    "mossformer2_librimix": Public("alibabasglab/mossformer2-librimix-2spk", 8000, preset="mossformer2"),
    "mossformer2_wsj03mix": Public("alibabasglab/mossformer2-wsj0mix-3spk", 8000),
    "mossformer2_whamr": Public("alibabasglab/mossformer2-whamr-2spk", 8000),  # without masking
    "conv_tasnet_libri2mix_clean": Public("JorisCos/ConvTasNet_Libri2Mix_sepclean_8k", 8000, preset="conv_tasnet"),
    "dprnn_ks2_wham_clean": Public("mpariente/DPRNNTasNet-ks2_WHAM_sepclean", 8000, preset="dprnn_asteroid"),
}
