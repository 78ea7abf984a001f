"""One file per corpus: its folders become `data/<set>/`.

A corpus is a module with HELP (a line), `add_options(parser)` and `prepare(**those options) -> folders of the sets`.
"""

from types import ModuleType

from tse_lib.corpora import folder, mini

CORPORA: dict[str, ModuleType] = {
    "folder": folder,
    "mini": mini,
}
