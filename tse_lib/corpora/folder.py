"""Any folder of recordings: `<root>/<speaker>/**/*.{wav,flac,ogg}`, or files of noise or room responses.

A metadata table may say more: `path` (relative to the root) and any of `speaker` (else the folder), `gender`, `split`,
and whatever else `--where` filters by; then only the files that it lists are taken. A cut list makes several utterances
out of one recording.
"""

import csv
import fnmatch
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tse_lib import audio
from tse_lib.corpora.parallel import parallel_map
from tse_lib.manifest import Utterance, make_id, write_data_dir
from tse_lib.rng import seed_of

SETS = ("train", "dev", "test")
MIN_S = {"speech": 1.0, "noise": 0.1, "rir": 0.0}
SHOWN = 20  # faults listed by name before the rest is counted


@dataclass(frozen=True)
class Recording:
    """A file, or the part `start` to `end` (samples; 0: to its end) that a cut list names.

    Attributes:
        name: the path below the root, without the extension.
        speaker: as it is called in the corpus; empty for noise and room responses.
        role: what a cut list calls this part.
    """

    path: Path
    name: str
    speaker: str
    split: str = ""
    gender: str = ""
    start: int = 0
    end: int = 0
    role: str = ""

    @property
    def spk_id(self) -> str:
        return make_id(self.speaker)

    @property
    def utt_id(self) -> str:
        """The speaker, then the folders and the name: `103-train-clean-100-103-1240-0000`."""
        parts = list(Path(self.name).parts)
        if self.speaker in parts:
            parts.remove(self.speaker)
        return make_id(*filter(None, [self.speaker, *parts, self.role]))


class Checked(NamedTuple):
    """What opening a recording gave: its utterance, or why it cannot be used."""

    utt: Utterance | None
    fault: str
    num_channels: int


Member = tuple[Recording, Utterance]


def prepare(
    root: Path,
    out: Path,
    prefix: str = "",
    kind: str = "speech",
    metadata: Path | None = None,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    ignore_split: bool = False,
    where: Sequence[str] = (),
    cuts: Path | None = None,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` from the audio files below `root`; prints what it leaves out.

    Everything is checked before anything is written.

    Args:
        kind: "speech" (speakers, activity), "noise" or "rir" (every file is its own).
        metadata: a csv table; None takes `root/metadata.csv` where there is one.
        shares: of the speakers (of the files, without speakers), where no metadata split is used.
        where: `column=pattern` filters on the metadata.
        cuts: csv with path, speaker, split, role, start, end (samples). Speakers with one recording are made of it;
            speakers with several stay as they are.
        min_s: shorter ones are faults; None: 1 s for speech, 0.1 s for noise, 0 for room responses.
        skip_bad: go on without faulty files.

    Returns:
        The folders of the sets that were made.

    Raises:
        ValueError, FileNotFoundError: naming the file, the value and the way out.
    """
    if kind not in MIN_S:
        raise ValueError(f"--kind {kind}: one of {', '.join(MIN_S)}")
    if not root.is_dir():
        raise FileNotFoundError(f"--root {root}: no such folder")
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"--split {' '.join(f'{share:g}' for share in shares)}: three shares that add up to 1")
    if cuts is not None and kind != "speech":
        raise ValueError(f"--cuts {cuts}: cuts are utterances of speakers, --kind {kind} has none")
    if metadata is None and (root / "metadata.csv").is_file():
        metadata = root / "metadata.csv"
    recordings = _from_metadata(root, metadata, kind, where) if metadata else _from_folders(root, kind, where)
    if not recordings:
        raise ValueError(f"{root}: no {', '.join(audio.EXTENSIONS)} files" + (" left by --where" if where else ""))
    if cuts is not None:
        recordings = _cut(recordings, cuts, root)
    _refuse_clashes(recordings)

    check = partial(_check, kind=kind, min_s=MIN_S[kind] if min_s is None else min_s)
    checked = parallel_map(check, recordings, nj, "reading")
    _report_faults([result.fault for result in checked if result.fault], skip_bad)
    several = sum(result.num_channels > 1 for result in checked)
    if several:
        print(f"warning: {several} files have several channels; they are averaged to one when they are read")
    good = [(recording, result.utt) for recording, result in zip(recordings, checked, strict=True) if result.utt]
    if not good:
        raise ValueError(f"{root}: no file is left, all {len(checked)} are faulty")
    if kind == "speech":
        good = _with_two_utterances(good, root)
    drawn = ignore_split or not any(recording.split for recording, _ in good)
    split_of = _draw_split(good, kind, shares, seed) if drawn else _split_column(good, metadata or cuts)

    genders = {recording.spk_id: recording.gender for recording, _ in good if recording.gender}
    sets = {name: [utt for _, utt in good if split_of[_owner(utt)] == name] for name in SETS}
    for name in SETS:
        if sets[name]:
            (out / f"{prefix}{name}" / "wav.scp").unlink(missing_ok=True)  # old and new sets are never there together
        elif (out / f"{prefix}{name}" / "wav.scp").exists():
            print(f"warning: {out / f'{prefix}{name}'} is left as an earlier run made it; nothing is in this set now")
    folders = [out / f"{prefix}{name}" for name in SETS if sets[name]]
    for folder in folders:
        write_data_dir(folder, sets[folder.name.removeprefix(prefix)], genders)
    return folders


def listed_path(path: Path) -> str:
    """How a table names a file: relative to the current folder if it lies below (a project can move), else absolute."""
    absolute, here = Path(os.path.abspath(path)), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


# ------------------------------------------------------------------------------------------------------ what is there


def _from_folders(root: Path, kind: str, where: Sequence[str]) -> list[Recording]:
    if where:
        raise ValueError(f"--where {where[0]}: filters by a metadata table, and there is no {root}/metadata.csv")
    recordings = []
    for path in _audio_files(root):
        parts = path.relative_to(root).parts
        if kind == "speech" and len(parts) < 2:
            raise ValueError(f"{path}: lies in no speaker's folder; <root>/<speaker>/… is expected (or a metadata.csv)")
        recordings.append(Recording(path, _name(path, root), parts[0] if kind == "speech" else ""))
    return recordings


def _audio_files(root: Path) -> list[Path]:
    """All audio files below `root`, sorted; links that lead out of it are not followed."""
    inside = root.resolve()
    found: list[Path] = []
    seen: set[Path] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in seen or not real.is_relative_to(inside):
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        paths = [Path(folder) / name for name in names if not name.startswith(".")]
        found += [
            path for path in paths if path.suffix.lower() in audio.EXTENSIONS and path.resolve().is_relative_to(inside)
        ]
    return sorted(found, key=lambda path: os.fsencode(path))


def _from_metadata(root: Path, metadata: Path, kind: str, where: Sequence[str]) -> list[Recording]:
    rows = _read_csv(metadata, ("path",))
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
        recordings.append(Recording(path, _name(path, root), speaker, split, gender if gender in ("f", "m") else ""))
    return sorted(recordings, key=lambda recording: os.fsencode(recording.path))


def _read_csv(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
    if not rows:
        raise ValueError(f"{path}: no rows in it")
    missing = [column for column in needed if column not in rows[0]]
    if missing:
        raise ValueError(f"{path}: no column '{missing[0]}'; it has {', '.join(rows[0])}")
    return rows


def _inside(root: Path, name: str, table: Path) -> Path:
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{table}: '{name}' leads out of {root}")
    return path


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root).with_suffix(""))


# -------------------------------------------------------------------------------------------------------------- cuts


def _cut(recordings: list[Recording], cuts: Path, root: Path) -> list[Recording]:
    """A speaker's only recording is replaced by its cuts; speakers with several recordings stay as they are."""
    rows: dict[Path, list[dict[str, str]]] = {}
    for row in _read_csv(cuts, ("path", "start", "end")):
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


# ------------------------------------------------------------------------------------------------------------ checks


def _refuse_clashes(recordings: list[Recording]) -> None:
    """Two files, or two speakers, must not get the same id."""
    files: dict[str, Recording] = {}
    speakers: dict[str, Recording] = {}
    for recording in recordings:
        other = files.setdefault(recording.utt_id, recording)
        if other is not recording:
            raise ValueError(f"'{other.path}' and '{recording.path}' would both be {recording.utt_id}; rename one")
        other = speakers.setdefault(recording.spk_id, recording)
        if other.speaker != recording.speaker:
            raise ValueError(
                f"the speakers '{other.speaker}' and '{recording.speaker}' would both be {recording.spk_id} "
                f"('{other.path}', '{recording.path}'); rename one"
            )


def _check(recording: Recording, kind: str, min_s: float) -> Checked:
    """Read one recording in full."""
    path = recording.path
    try:
        listed = listed_path(path)
        if {"\n", "\r"} & set(listed) or listed.endswith("|") or listed != listed.encode(errors="replace").decode():
            raise ValueError(f"{ascii(str(path))}: a table cannot hold this name; rename the file")
        header = audio.info(path)
        length = (recording.end or header.num_samples) - recording.start
        wave, rate = audio.read(path, start=recording.start, num_samples=length, mono=False)
        audio.refuse_silence(wave, path)
        if length < min_s * rate:
            raise ValueError(f"{path}: {length / rate:.2f} s, shorter than --min_s {min_s:g}")
    except (ValueError, OSError) as error:
        return Checked(None, str(error), 1)
    activity = audio.activity(np.mean(wave, axis=0), rate) if kind == "speech" else ""
    utt = Utterance(recording.utt_id, listed, rate, length, recording.start, recording.spk_id, activity)
    return Checked(utt, "", header.num_channels)


def _report_faults(faults: list[str], skip_bad: bool) -> None:
    if not faults:
        return
    lines = faults[:SHOWN] + ([f"… and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])
    text = "\n  ".join(lines)
    if not skip_bad:
        raise ValueError(f"{len(faults)} files cannot be used (--skip_bad goes on without them):\n  {text}")
    print(f"left out, {len(faults)} files that cannot be used:\n  {text}")


def _with_two_utterances(good: list[Member], root: Path) -> list[Member]:
    """Without the speakers that have one utterance; prints how many."""
    count = Counter(utt.spk_id for _, utt in good)
    lonely = sum(number < 2 for number in count.values())
    if lonely == len(count):
        raise ValueError(f"{root}: none of {lonely} speakers has two utterances; target and enrolment need one each")
    if lonely:
        print(f"left out, {lonely} speakers with one utterance: target and enrolment must differ")
    return [(recording, utt) for recording, utt in good if count[utt.spk_id] > 1]


# ------------------------------------------------------------------------------------------------------------- split


def _owner(utt: Utterance) -> str:
    """What is in one set only: a speaker, or a file where there are no speakers."""
    return utt.spk_id or utt.utt_id


def _split_column(good: list[Member], table: Path | None) -> dict[str, str]:
    split_of: dict[str, str] = {}
    for recording, utt in good:
        if recording.split not in SETS:
            raise ValueError(
                f"{table}: '{utt.path}': split '{recording.split}' is none of {', '.join(SETS)}; "
                "--ignore_split draws the split"
            )
        if split_of.setdefault(_owner(utt), recording.split) != recording.split:
            raise ValueError(
                f"{table}: speaker '{utt.spk_id}' is in {split_of[utt.spk_id]} and in {recording.split}; "
                "--ignore_split draws a split by speakers"
            )
    return split_of


def _draw_split(good: list[Member], kind: str, shares: tuple[float, float, float], seed: int) -> dict[str, str]:
    """Each speaker (or file) to one set, by a hash of its name; every set with a share gets at least one."""
    owners = sorted({_owner(utt) for _, utt in good}, key=lambda owner: seed_of(seed, "split", owner))
    wanted = [index for index, share in enumerate(shares) if share > 0]
    if len(owners) < len(wanted):
        what = "speakers with two utterances" if kind == "speech" else "files"
        raise ValueError(f"{len(owners)} {what}, too few for {len(wanted)} disjoint sets; --split 1 0 0 makes one set")
    counts = [max(1, round(share * len(owners))) if share > 0 else 0 for share in shares]
    counts[counts.index(max(counts))] += len(owners) - sum(counts)
    names = [name for name, count in zip(SETS, counts, strict=True) for _ in range(count)]
    return dict(zip(owners, names, strict=True))
