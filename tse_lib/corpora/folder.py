"""Any folder of recordings: `<root>/<speaker>/**/*.{wav,flac,ogg}`, or files of noise or room responses.

A metadata table may say more: `path` (relative to the root) and any of `speaker` (else the folder), `gender`, `split`,
`group` (of noise and responses: what must not be in two sets), and whatever else `--where` filters by; then only the
files that it lists are taken. A cut list makes several utterances out of one recording.
"""

import argparse
import fnmatch
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tse_lib import audio
from tse_lib.corpora.sets import SHARES, Recording, add_set_options, audio_files, make_sets, name_below
from tse_lib.corpora.tables import read_csv

HELP = "any folder of wav, flac or ogg files"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare folder --root corpora/rirs --kind rir --prefix rir_ --where 'kind=room*'"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder; below it one folder per speaker (speech) or any (others)")
    add("--kind", default="speech", choices=("speech", "noise", "rir"), help="(default: %(default)s)")
    add("--metadata", type=Path, help="csv: path[,speaker][,gender][,split] (default: <root>/metadata.csv if there)")
    add("--ignore_split", action="store_true", help="draw the split although the metadata has one")
    add("--where", action="append", default=[], metavar="COLUMN=PATTERN", help="keep rows of the metadata; repeatable")
    add(
        "--cuts",
        type=Path,
        help="csv: path,speaker,split,role,start,end (samples): several utterances of one recording",
    )
    add_set_options(parser, split=True)


def prepare(
    root: Path,
    out: Path,
    prefix: str = "",
    kind: str = "speech",
    metadata: Path | None = None,
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    ignore_split: bool = False,
    where: Sequence[str] = (),
    cuts: Path | None = None,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` from the audio files below `root`; prints what it leaves out.

    Args:
        kind: "speech" (speakers, activity), "noise" or "rir" (every file, or every group of the metadata, is its own).
        metadata: a csv table; None takes `root/metadata.csv` where there is one.
        shares: of the speakers (of the groups or files, without speakers), where no metadata split is used.
        where: `column=pattern` filters on the metadata.
        cuts: csv with path, speaker, split, role, start, end (samples). Speakers with one recording are made of it;
            speakers with several stay as they are.
        min_s, skip_bad, nj: as in `make_sets`.

    Returns:
        The folders of the sets that were made.

    Raises:
        ValueError, FileNotFoundError: naming the file, the value and the way out.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"--root {root}: no such folder")
    if cuts is not None and kind != "speech":
        raise ValueError(f"--cuts {cuts}: cuts are utterances of speakers, --kind {kind} has none")
    if metadata is None and (root / "metadata.csv").is_file():
        metadata = root / "metadata.csv"
    recordings = _from_metadata(root, metadata, kind, where) if metadata else _from_folders(root, kind, where)
    if not recordings:
        raise ValueError(f"{root}: no {', '.join(audio.EXTENSIONS)} files" + (" left by --where" if where else ""))
    if cuts is not None:
        recordings = _cut(recordings, cuts, root)
    drawn = ignore_split or not any(recording.split for recording in recordings)
    return make_sets(
        recordings,
        metadata or cuts or root,
        out,
        prefix,
        kind,
        shares=shares if drawn else None,
        seed=seed,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
        split_hint="--ignore_split draws a split" + (" by speakers" if kind == "speech" else ""),
    )


# ------------------------------------------------------------------------------------------------------ what is there


def _from_folders(root: Path, kind: str, where: Sequence[str]) -> list[Recording]:
    if where:
        raise ValueError(f"--where {where[0]}: filters by a metadata table, and there is no {root}/metadata.csv")
    recordings = []
    for path in audio_files(root):
        parts = path.relative_to(root).parts
        if kind == "speech" and len(parts) < 2:
            raise ValueError(f"{path}: lies in no speaker's folder; <root>/<speaker>/… is expected (or a metadata.csv)")
        recordings.append(Recording(path, name_below(path, root), parts[0] if kind == "speech" else ""))
    return recordings


def _from_metadata(root: Path, metadata: Path, kind: str, where: Sequence[str]) -> list[Recording]:
    rows = [row for _, row in read_csv(metadata, ("path",), strip=False)]
    columns = list(rows[0])
    for condition in where:
        column, equals, pattern = condition.partition("=")
        if not equals or column not in columns:
            raise ValueError(f"--where {condition}: '<column>=<pattern>' expected; {metadata} has {', '.join(columns)}")
        rows = [row for row in rows if fnmatch.fnmatchcase(row[column], pattern)]
    recordings = []
    for row in rows:
        path = _inside(root, row["path"], metadata)
        top = path.relative_to(root).parts[0] if path.parent != root else ""
        speaker = row.get("speaker", top).strip() if kind == "speech" else ""
        if kind == "speech" and not speaker:
            raise ValueError(f"{metadata}: '{row['path']}' has no speaker, neither in a column nor as its folder")
        gender = row.get("gender", "").strip().lower()[:1]
        split = row.get("split", "").strip()
        gender = gender if gender in ("f", "m") else ""
        group = row.get("group", "").strip() if kind != "speech" else ""
        recordings.append(Recording(path, name_below(path, root), speaker, split, gender, group=group))
    twice = [path for path, count in Counter(recording.path for recording in recordings).items() if count > 1]
    if twice:
        raise ValueError(f"{metadata}: '{twice[0]}' is there twice")
    return sorted(recordings, key=lambda recording: os.fsencode(recording.path))


def _inside(root: Path, name: str, table: Path) -> Path:
    path = root / os.path.relpath(root / name, root)  # a table may have absolute paths, the root may be a relative one
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{table}: '{name}' leads out of {root}")
    return path


# -------------------------------------------------------------------------------------------------------------- cuts


def _cut(recordings: list[Recording], cuts: Path, root: Path) -> list[Recording]:
    """A speaker's only recording is replaced by its cuts; speakers with several recordings stay as they are."""
    rows: dict[Path, list[dict[str, str]]] = {}
    for _, row in read_csv(cuts, ("path", "start", "end"), strip=False):
        rows.setdefault(_inside(root, row["path"], cuts), []).append(row)
    if not any(recording.path in rows for recording in recordings):
        raise ValueError(f"{cuts}: none of its paths is among the recordings; they are relative to {root}")
    count = Counter(recording.speaker for recording in recordings)
    result = []
    for recording in recordings:
        if count[recording.speaker] > 1 or recording.path not in rows:
            result.append(recording)
            continue
        for number, row in enumerate(rows[recording.path], 1):
            if row.get("speaker", recording.speaker) != recording.speaker:
                raise ValueError(f"{cuts}: '{row['path']}': speaker {row['speaker']}, elsewhere {recording.speaker}")
            start, end = row["start"], row["end"]
            if not (start.isdecimal() and end.isdecimal() and int(start) < int(end)):
                raise ValueError(f"{cuts}: '{row['path']}': from sample {start!r} to {end!r} is no stretch")
            split = recording.split or row.get("split", "")
            role = row.get("role") or f"part{number}"
            result.append(replace(recording, split=split, start=int(start), end=int(end), role=role))
    return result
