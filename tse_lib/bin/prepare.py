"""tse prepare: a corpus becomes data sets, `data/<set>/{wav.scp,utt2spk,…}`."""

import argparse
from pathlib import Path

from tse_lib.corpora import CORPORA
from tse_lib.corpora.mini import NUM_CLIPS, NUM_TALKERS, NUM_UTTS
from tse_lib.manifest import read_data_dir


def main(argv: list[str] | None = None) -> None:
    arguments = vars(_parser().parse_args(argv))
    folders = CORPORA[arguments.pop("corpus")].prepare(**arguments)
    print(summary(folders))


def summary(folders: list[Path]) -> str:
    """A table: speakers, utterances and hours of each set."""
    width = max(len(str(folder)) for folder in folders)
    lines = [f"{'set':<{width}}  speakers  utterances   hours"]
    for folder in folders:
        utterances = read_data_dir(folder)
        speakers = len({utt.spk_id for utt in utterances if utt.spk_id})
        hours = sum(utt.seconds for utt in utterances) / 3600
        lines.append(f"{folder!s:<{width}}  {speakers or '-':>8}  {len(utterances):>10}  {hours:>6.2f}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tse prepare", description=__doc__)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")

    folder = corpora.add_parser(
        "folder",
        help="any folder of wav, flac or ogg files",
        description="Any folder: <root>/<speaker>/**/*.{wav,flac,ogg} -> data/{train,dev,test}.",
        epilog="Example: tse prepare folder --root corpora/rirs --kind rir --prefix rir_ --where 'kind=room*'",
    )
    add = folder.add_argument
    add("--root", type=Path, required=True, help="the folder; below it one folder per speaker (speech) or any (others)")
    add("--out", type=Path, default=Path("data"), help="where the sets go (default: %(default)s)")
    add("--prefix", default="", help="goes before the names of the sets: noise_ makes noise_train, … (default: none)")
    add("--kind", default="speech", choices=("speech", "noise", "rir"), help="(default: %(default)s)")
    add("--metadata", type=Path, help="csv: path[,speaker][,gender][,split] (default: <root>/metadata.csv if there)")
    add(
        "--split",
        dest="shares",
        type=float,
        nargs=3,
        default=(0.8, 0.1, 0.1),
        metavar=("TRAIN", "DEV", "TEST"),
        help="shares of the speakers, where the metadata has no split column (default: 0.8 0.1 0.1)",
    )
    add("--seed", type=int, default=0, help="of the split (default: %(default)s)")
    add("--ignore_split", action="store_true", help="draw the split although the metadata has one")
    add("--where", action="append", default=[], metavar="COLUMN=PATTERN", help="keep rows of the metadata; repeatable")
    add(
        "--cuts",
        type=Path,
        help="csv: path,speaker,split,role,start,end (samples): several utterances of one recording",
    )
    add("--min_s", type=float, help="shorter files are faults (default: 1 for speech, 0.1 for noise, 0 for rir)")
    add("--skip_bad", action="store_true", help="go on without files that cannot be used")
    add("--nj", type=int, default=2, help="processes; changes nothing but the speed (default: %(default)s)")

    mini = corpora.add_parser(
        "mini",
        help="a synthetic corpus, made in seconds (needs pip install -e .[mini])",
        description="Synthetic talkers and noises -> data/{train,dev,test,noise_train,noise_dev,noise_test}.",
        epilog="Example: tse prepare mini --out data --sample_rate 8000 --seed 0",
    )
    add = mini.add_argument
    add("--out", type=Path, default=Path("data"), help="where the sets go, and corpus/ (default: %(default)s)")
    add("--sample_rate", type=int, default=8000, help="in Hz; nothing lies above 11 kHz (default: %(default)s)")
    add("--seed", type=int, default=0, help="another seed, other talkers and sentences (default: %(default)s)")
    sets = ("TRAIN", "DEV", "TEST")
    shown = {"talkers": " ".join(map(str, NUM_TALKERS)), "clips": " ".join(map(str, NUM_CLIPS))}
    add("--num_talkers", type=int, nargs=3, metavar=sets, default=NUM_TALKERS, help=f"(default: {shown['talkers']})")
    add("--num_utts", type=int, default=NUM_UTTS, help="sentences of each talker (default: %(default)s)")
    add(
        "--num_clips", type=int, nargs=3, metavar=sets, default=NUM_CLIPS, help=f"per noise (default: {shown['clips']})"
    )
    add("--nj", type=int, default=2, help="processes; changes nothing but the speed (default: %(default)s)")
    return parser
