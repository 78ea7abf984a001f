"""tse download: fetch and unpack an open corpus; what was interrupted goes on where it stopped."""

import argparse
import textwrap
from pathlib import Path
from types import ModuleType

from tse_lib.corpora import CORPORA
from tse_lib.corpora.download import archives_of, fetch, total_text

SHOWN = 12  # names of parts in the list before the middle is left out


def main(argv: list[str] | None = None) -> None:
    open_ones = {name: corpus for name, corpus in CORPORA.items() if hasattr(corpus, "ARCHIVES")}
    closed = {name: corpus for name, corpus in CORPORA.items() if hasattr(corpus, "ADDRESS")}
    parser = argparse.ArgumentParser(
        prog="tse download",
        description=__doc__,
        epilog="example: tse download librispeech --root corpora --parts train-clean-100 dev-clean test-clean",
    )
    parser.add_argument("corpus", nargs="?", choices=[*open_ones, *closed], metavar="CORPUS", help="see --list")
    parser.add_argument("--root", type=Path, help="folder in which the corpus appears")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="what to fetch (default: those with * in --list)")
    parser.add_argument("--keep", action="store_true", help="keep the archives when they are unpacked")
    parser.add_argument("--list", action="store_true", help="show what there is: parts, sizes, licences")
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join([*map(_described, open_ones, open_ones.values()), *map(_named, closed, closed.values())]))
        return
    if arguments.corpus is None or (arguments.root is None and arguments.corpus in open_ones):
        parser.error("a corpus and --root are needed (or --list)")
    if arguments.corpus in closed:
        raise ValueError(_named(arguments.corpus, closed[arguments.corpus]))
    corpus = open_ones[arguments.corpus]
    print(f"licence of {arguments.corpus}: {corpus.LICENCE}")
    fetch(archives_of(corpus.ARCHIVES, arguments.parts or corpus.DEFAULT_PARTS), arguments.root, arguments.keep)


def _described(name: str, corpus: ModuleType) -> str:
    size = total_text([archive.num_bytes for archive in archives_of(corpus.ARCHIVES, corpus.DEFAULT_PARTS)])
    parts = [part + "*" * (part in corpus.DEFAULT_PARTS) for part in corpus.ARCHIVES]
    if len(parts) > SHOWN:
        parts = [*parts[: SHOWN // 2], "…", *parts[-SHOWN // 2 :]]
    lines = textwrap.wrap(" ".join(parts), 100, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join([f"{name}: {size}; {corpus.LICENCE}", *lines])


def _named(name: str, corpus: ModuleType) -> str:
    return f"{name}: not open, {corpus.LICENCE}; one gets it at {corpus.ADDRESS}"
