"""One file per corpus: its folders become `data/<set>/`."""

from tse_lib.corpora import folder, mini

CORPORA = {"folder": folder, "mini": mini}
