"""tse prepare: a corpus becomes data sets, `data/<set>/{wav.scp,utt2spk,…}`."""

import argparse
from pathlib import Path

from tse_lib.corpora import CORPORA
from tse_lib.manifest import read_tables


def main(argv: list[str] | None = None) -> None:
    arguments = vars(_parser().parse_args(argv))
    folders = CORPORA[arguments.pop("corpus")].prepare(**arguments)
    print(summary(folders))


def summary(folders: list[Path]) -> str:
    """A table: speakers, utterances and hours of each set."""
    width = max(len(str(folder)) for folder in folders)
    lines = [f"{'set':<{width}}  speakers  utterances   hours"]
    for folder in folders:
        utterances = read_tables(folder)
        speakers = len({utt.spk_id for utt in utterances if utt.spk_id})
        hours = sum(utt.seconds for utt in utterances) / 3600
        lines.append(f"{folder!s:<{width}}  {speakers or '-':>8}  {len(utterances):>10}  {hours:>6.2f}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tse prepare", description=__doc__)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    for name, corpus in CORPORA.items():
        about = (corpus.__doc__ or "").partition("\n\n")[0]
        corpus.add_options(corpora.add_parser(name, help=corpus.HELP, description=about))
    return parser
