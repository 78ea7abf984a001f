"""tse prepare: a corpus becomes data sets, `data/<set>/{wav.scp,utt2spk,…}`."""

import argparse
from pathlib import Path

from tse_lib.corpora import CORPORA
from tse_lib.manifest import STEM_TABLES, read_layered, read_stems, read_tables


def main(argv: list[str] | None = None) -> None:
    arguments = vars(_parser().parse_args(argv))
    folders = CORPORA[arguments.pop("corpus")].prepare(**arguments)
    print(summary(folders))


def summary(folders: list[Path]) -> str:
    """A table: speakers, utterances (or ready-made mixtures, performances, tracks) and hours of each set.

    What a corpus of another kind made of a set before is still there; what was made last is told.
    """
    stems = {f"{name}.jsonl" for name in STEM_TABLES}
    width = max(len(str(folder)) for folder in folders)
    lines = [f"{'set':<{width}}  speakers  utterances   hours"]
    for folder in folders:
        tables = [path for name in ("wav.scp", "layers.jsonl", *stems) if (path := folder / name).exists()]
        last = max(tables, key=lambda path: path.stat().st_mtime_ns).name
        if last == "layers.jsonl":
            mixes = read_layered(folder)
            speakers, count = {speaker for mix in mixes for speaker in mix.talkers}, len(mixes)
            seconds = sum(mix.seconds for mix in mixes)
        elif last in stems:
            found = read_stems(folder)
            lengths = [*(one.seconds for one in found.performances), *(one.seconds for one in found.tracks)]
            speakers, count, seconds = set(), len(lengths), sum(lengths)
        else:
            utterances = read_tables(folder)
            speakers, count = {utt.spk_id for utt in utterances if utt.spk_id}, len(utterances)
            seconds = sum(utt.seconds for utt in utterances)
        lines.append(f"{folder!s:<{width}}  {len(speakers) or '-':>8}  {count:>10}  {seconds / 3600:>6.2f}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tse prepare", description=__doc__)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    for name, corpus in CORPORA.items():
        about = (corpus.__doc__ or "").partition("\n\n")[0]
        corpus.add_options(corpora.add_parser(name, help=corpus.HELP, description=about))
    return parser
