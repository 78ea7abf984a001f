"""One file per corpus: its folders become `data/<set>/`.

A corpus is a module with HELP (a line), `add_options(parser)` and `prepare(**those options) -> folders of the sets`.
"""

from types import ModuleType

from tse_lib.corpora import (
    audioset,
    demand,
    dns_noise,
    dns_speech,
    drums,
    ears,
    esc50,
    folder,
    fsd50k,
    librispeech,
    mini,
    musan,
    polsess,
    shoebox,
    slr26,
    slr28,
    stems,
    vctk,
    wham_noise,
    wsj0,
    wsj0_2mix,
)

CORPORA: dict[str, ModuleType] = {
    "audioset": audioset,
    "demand": demand,
    "dns_noise": dns_noise,
    "dns_speech": dns_speech,
    "drums": drums,
    "ears": ears,
    "esc50": esc50,
    "folder": folder,
    "fsd50k": fsd50k,
    "librispeech": librispeech,
    "mini": mini,
    "musan": musan,
    "polsess": polsess,
    "shoebox": shoebox,
    "slr26": slr26,
    "slr28": slr28,
    "stems": stems,
    "vctk": vctk,
    "wham_noise": wham_noise,
    "wsj0": wsj0,
    "wsj0_2mix": wsj0_2mix,
}
