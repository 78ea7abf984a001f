"""One file per corpus: its folders become `data/<set>/`.

A corpus is a module with HELP (a line), `add_options(parser)` and `prepare(**those options) -> folders of the sets`.
"""

from types import ModuleType

from tse_lib.corpora import audioset, demand, dns_noise, esc50, folder, fsd50k, mini, musan, wham_noise

CORPORA: dict[str, ModuleType] = {
    "audioset": audioset,
    "demand": demand,
    "dns_noise": dns_noise,
    "esc50": esc50,
    "folder": folder,
    "fsd50k": fsd50k,
    "mini": mini,
    "musan": musan,
    "wham_noise": wham_noise,
}
