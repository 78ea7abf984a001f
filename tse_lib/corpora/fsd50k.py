"""FSD50K: 51197 clips of Freesound in 200 classes, 44.1 kHz, with its official split by uploaders.

    <root>/FSD50K.dev_audio/64760.wav
    <root>/FSD50K.eval_audio/37199.wav
    <root>/FSD50K.ground_truth/dev.csv          fname,labels,mids,split (train or val)
    <root>/FSD50K.ground_truth/eval.csv         fname,labels,mids
    <root>/FSD50K.ground_truth/vocabulary.csv   <number>,<label>,<mid>, without a header

E. Fonseca et al., "FSD50K: an open dataset of human-labeled sound events", 2022, zenodo.org/records/4060432. A clip has
the labels of its class and of all classes above it, so that `Speech` is on every clip with a talker.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import Recording, add_set_options, make_sets
from tse_lib.corpora.speakers import read_lines
from tse_lib.corpora.tables import is_file_name, read_csv

SAMPLE_RATE = 44100
VOICES = ("Speech", "Shout", "Whispering", "Singing")
SPLITS = {"train": "train", "val": "dev", "eval": "test"}

HELP = "FSD50K: sound events of Freesound (44.1 kHz)"
LICENCE = "CC BY 4.0; each clip CC0, CC BY, CC BY-NC or Sampling+, listed in FSD50K.metadata"
HOST = "https://zenodo.org/records/4060432/files"
ARCHIVES = {
    "dev": (
        Archive(f"{HOST}/FSD50K.dev_audio.z01", "faa7cf4cc076fc34a44a479a5ed862a3", num_bytes=3221225472),
        Archive(f"{HOST}/FSD50K.dev_audio.z02", "8f9b66153e68571164fb1315d00bc7bc", num_bytes=3221225472),
        Archive(f"{HOST}/FSD50K.dev_audio.z03", "1196ef47d267a993d30fa98af54b7159", num_bytes=3221225472),
        Archive(f"{HOST}/FSD50K.dev_audio.z04", "d088ac4e11ba53daf9f7574c11cccac9", num_bytes=3221225472),
        Archive(f"{HOST}/FSD50K.dev_audio.z05", "81356521aa159accd3c35de22da28c7f", num_bytes=3221225472),
        Archive(f"{HOST}/FSD50K.dev_audio.zip", "c480d119b8f7a7e32fdb58f3ea4d6c5a", num_bytes=2306663327),
    ),
    "eval": (
        Archive(f"{HOST}/FSD50K.eval_audio.z01", "3090670eaeecc013ca1ff84fe4442aeb", num_bytes=3221225472),
        Archive(f"{HOST}/FSD50K.eval_audio.zip", "6fa47636c3a3ad5c7dfeba99f2637982", num_bytes=3037675767),
    ),
    "ground_truth": Archive(f"{HOST}/FSD50K.ground_truth.zip", "ca27382c195e37d2269c4c866dd73485", num_bytes=334701),
}
DEFAULT_PARTS = ("dev", "eval", "ground_truth")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare fsd50k --root corpora/fsd50k --out data --exclude Speech Music"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder that holds FSD50K.dev_audio/, FSD50K.eval_audio/, …")
    add(
        "--exclude",
        nargs="*",
        default=VOICES,
        metavar="LABEL",
        help=f"leave out clips with one of these labels; none: keep all (default: {' '.join(VOICES)})",
    )
    add_set_options(parser, "noise_")


def prepare(
    root: Path,
    out: Path,
    prefix: str = "noise_",
    exclude: Sequence[str] = VOICES,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` of the clips without the labels of `exclude`; prints how many it leaves out.

    Raises:
        ValueError, FileNotFoundError: naming files and the way out.
    """
    truth = root / "FSD50K.ground_truth"
    _refuse_unknown(exclude, truth / "vocabulary.csv")
    recordings, faults = [], []
    left_out = 0
    for part in ("dev", "eval"):
        table = truth / f"{part}.csv"
        for line, row in read_csv(table, ("fname", "labels", *(("split",) if part == "dev" else ()))):
            name, split = row["fname"], row.get("split", part)
            if not is_file_name(name) or not row["labels"] or split not in SPLITS:
                faults.append(f"{table}:{line}: a name, labels and a split expected, got {', '.join(row.values())}")
            elif set(row["labels"].split(",")) & set(exclude):
                left_out += 1
            else:
                path = root / f"FSD50K.{part}_audio" / f"{name}.wav"
                recordings.append(Recording(path, f"{part}/{name}", split=SPLITS[split]))
    if left_out:
        print(f"left out, {left_out} clips with {', '.join(exclude)}")
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


def _refuse_unknown(labels: Sequence[str], vocabulary: Path) -> None:
    """A label that is spelled wrongly would leave nothing out, and nobody would notice."""
    if not vocabulary.is_file():
        raise FileNotFoundError(f"{vocabulary}: no such table; is this the folder of the corpus, and whole?")
    known = {row[1] for row in csv.reader(read_lines(vocabulary)) if len(row) > 1}
    unknown = sorted(set(labels) - known)
    if unknown:
        raise ValueError(f"--exclude {' '.join(unknown)}: not in {vocabulary}")
