"""ESC-50: 2000 clips of 5 s in 50 categories, 44.1 kHz, in five folds.

    <root>/audio/1-100032-A-0.wav       <fold>-<id of the Freesound recording>-<take>-<number of the category>
    <root>/meta/esc50.csv               filename,fold,target,category,esc10,src_file,take

K. J. Piczak, "ESC: dataset for environmental sound classification", 2015, github.com/karolpiczak/ESC-50. Folds 1 to 3
are train, 4 is dev, 5 is test; no recording is in two folds, which is checked.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import Recording, add_set_options, make_sets, unpacked
from tse_lib.corpora.tables import read_csv

SAMPLE_RATE = 44100
SPLITS = {"1": "train", "2": "train", "3": "train", "4": "dev", "5": "test"}

HELP = "ESC-50: 50 categories of everyday sounds (44.1 kHz)"
LICENCE = "CC BY-NC 3.0; those of ESC-10 CC BY 3.0"
ARCHIVES = {"esc50": Archive("https://github.com/karolpiczak/ESC-50/archive/master.zip")}
DEFAULT_PARTS = ("esc50",)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare esc50 --root corpora/ESC-50-master --out data --categories rain wind engine"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder that holds audio/ and meta/, or the one above it")
    add("--categories", nargs="+", default=(), metavar="NAME", help="as in the table (default: all)")
    add_set_options(parser, "noise_")


def prepare(
    root: Path,
    out: Path,
    prefix: str = "noise_",
    categories: Sequence[str] = (),
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` of the clips of `categories` (none: of all) by their folds.

    Raises:
        ValueError, FileNotFoundError: naming files and the way out.
    """
    root = unpacked(root, "ESC-50-master")
    table = root / "meta" / "esc50.csv"
    recordings, faults = [], []
    seen = set()
    for line, row in read_csv(table, ("filename", "fold", "target", "category", "src_file", "take")):
        seen.add(row["category"])
        name = f"{row['fold']}-{row['src_file']}-{row['take']}-{row['target']}"
        if row["filename"] != f"{name}.wav" or row["fold"] not in SPLITS or "/" in name:
            faults.append(f"{table}:{line}: '{row['filename']}' is not <fold>-<src_file>-<take>-<target>.wav")
        elif not categories or row["category"] in categories:
            path = root / "audio" / row["filename"]
            recordings.append(Recording(path, name, split=SPLITS[row["fold"]], group=row["src_file"]))
    unknown = sorted(set(categories) - seen)
    if unknown:
        raise ValueError(f"--categories {' '.join(unknown)}: {table} has {', '.join(sorted(seen))}")
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        "noise",
        faults,
        SAMPLE_RATE,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
    )
