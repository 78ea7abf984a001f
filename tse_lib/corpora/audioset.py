"""Clips of AudioSet, as they were downloaded: any rate, any of these names.

    <root>/**/{<id>,Y<id>,<id>_<start>,<id>_<start>_<end>}.{wav,flac,ogg}       <id>: the 11 characters of the video

With AudioSet's tables (research.google.com/audioset), clips can be left out by what is heard in them:

    {balanced_train,unbalanced_train,eval}_segments.csv     <id>, <start>, <end>, "<label>,<label>,…"
    ontology.json                                           labels, their names and what is below them

J. Gemmeke et al., "Audio Set: an ontology and human-labeled dataset for audio events", 2017. A split is drawn by
videos.
"""

import argparse
import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

from tse_lib.corpora.sets import SHARES, Recording, add_set_options, audio_files, make_sets, name_below
from tse_lib.corpora.speakers import read_lines

NAME = re.compile(r"Y?([\w-]{11})((_\d+(\.\d+)?){0,2})", re.ASCII)

HELP = "clips of AudioSet that were downloaded"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tse prepare audioset --root corpora/audioset --out data --exclude Speech Music "
        "--segments corpora/balanced_train_segments.csv --ontology corpora/ontology.json"
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder of the clips")
    add("--exclude", nargs="+", default=(), metavar="NAME", help="leave out these classes and all that are below them")
    add("--segments", type=Path, nargs="+", default=(), metavar="CSV", help="AudioSet's tables (for --exclude)")
    add("--ontology", type=Path, help="AudioSet's ontology.json (for --exclude)")
    add_set_options(parser, "noise_", split=True)


def prepare(
    root: Path,
    out: Path,
    prefix: str = "noise_",
    exclude: Sequence[str] = (),
    segments: Sequence[Path] = (),
    ontology: Path | None = None,
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` of the clips below `root`; prints how many `exclude` leaves out.

    Args:
        exclude: names of the ontology, as "Speech"; `segments` and `ontology` are needed then, and a clip that
            `segments` do not list is a fault.

    Raises:
        ValueError, FileNotFoundError: naming files and the way out.
    """
    if exclude and not (segments and ontology):
        raise ValueError(f"--exclude {' '.join(exclude)}: needs --segments and --ontology, which say what is in a clip")
    unwanted = _labels_below(exclude, ontology) if ontology else set()
    labels, faults = _read_segments(segments)
    recordings = []
    left_out = 0
    for path in audio_files(root):
        match = NAME.fullmatch(path.stem)
        if not match:
            faults.append(f"{path}: <id>, <id>_<start> or <id>_<start>_<end> expected as its name")
        elif exclude and match[1] not in labels:
            faults.append(f"{path}: none of --segments lists '{match[1]}', so its labels are not known")
        elif unwanted & labels.get(match[1], set()):
            left_out += 1
        else:
            recordings.append(Recording(path, name_below(path, root), group=match[1]))
    if left_out:
        print(f"left out, {left_out} clips with {', '.join(exclude)}")
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        "noise",
        faults,
        shares=shares,
        seed=seed,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
    )


def _read_segments(tables: Sequence[Path]) -> tuple[dict[str, set[str]], list[str]]:
    """The labels of each video (all of them, should it have several segments), and lines that cannot be read."""
    labels: dict[str, set[str]] = {}
    faults = []
    for table in tables:
        if not table.is_file():
            raise FileNotFoundError(f"--segments {table}: no such table")
        reader = csv.reader(read_lines(table), skipinitialspace=True)
        for row in reader:
            if not row or row[0].startswith("#"):
                continue
            if len(row) != 4 or len(row[0]) != 11:
                faults.append(f"{table}:{reader.line_num}: <id>, <start>, <end>, <labels> expected, got {row}")
                continue
            labels.setdefault(row[0], set()).update(row[3].split(","))
    return labels, faults


def _labels_below(names: Sequence[str], ontology: Path) -> set[str]:
    """The labels of the classes of these names and of all below them."""
    try:
        classes = {entry["id"]: entry for entry in json.loads(ontology.read_text(encoding="utf-8"))}
        by_name = {entry["name"]: entry["id"] for entry in classes.values()}
        below = {label: entry["child_ids"] for label, entry in classes.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--ontology {ontology}: not AudioSet's ontology.json ({error})") from None
    unknown = sorted(set(names) - set(by_name))
    if unknown:
        raise ValueError(f"--exclude {', '.join(unknown)}: no such name in {ontology}")
    labels: set[str] = set()
    left = [by_name[name] for name in names]
    while left:
        label = left.pop()
        if label not in labels:
            labels.add(label)
            left += below.get(label, [])
    return labels
