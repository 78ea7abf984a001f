"""Any folder of recordings: `<root>/<speaker>/**/*.{wav,flac,ogg}`, or files of noise or room responses.

A metadata table may say more: `path` (relative to the root) and any of `speaker`, `gender`, `split`, and whatever else
`--where` filters by. A cut list makes several utterances out of one recording.
"""

import csv
import fnmatch
import os
from collections.abc import Iterable
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
    """A file, or the part `start` to `end` (samples; 0: to its end) that a cut list names."""

    path: Path
    name: str  # relative to the root, without the extension
    speaker: str
    split: str = ""
    gender: str = ""
    start: int = 0
    end: int = 0
    role: str = ""

    @property
    def utt_id(self) -> str:
        parts = list(Path(self.name).parts)
        if self.speaker and parts[0] != self.speaker:
            parts.insert(0, self.speaker)
        if self.role:
            parts.append(self.role)
        return make_id(*parts)


class Checked(NamedTuple):
    """What opening a recording gave: its utterance, or why it cannot be used."""

    utterance: Utterance | None
    fault: str
    num_channels: int


def prepare(
    root: Path,
    out: Path,
    prefix: str = "",
    kind: str = "speech",
    metadata: Path | None = None,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    ignore_split: bool = False,
    where: Iterable[str] = (),
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
    if metadata is None and (root / "metadata.csv").is_file():
        metadata = root / "metadata.csv"
    recordings = _from_metadata(root, metadata, kind, list(where)) if metadata else _from_folders(root, kind, list(where))
    if cuts is not None:
        recordings = _cut(recordings, _read_csv(cuts, ("path", "speaker", "start", "end")), root, cuts)
    if not recordings:
        raise ValueError(f"{root}: no {', '.join(audio.EXTENSIONS)} files" + (" left by --where" if where else ""))
    _refuse_clashes(recordings)

    check = partial(_check, kind=kind, min_s=MIN_S[kind] if min_s is None else min_s)
    checked = parallel_map(check, recordings, nj, "reading")
    _report_faults([result.fault for result in checked if result.fault], skip_bad)
    stereo = sum(result.num_channels > 1 for result in checked)
    if stereo and kind != "rir":
        print(f"warning: {stereo} files have several channels; they are averaged to one when they are read")
    good = [
        (recording, result.utterance)
        for recording, result in zip(recordings, checked, strict=True)
        if result.utterance is not None
    ]
    if kind == "speech":
        good = _with_two_utterances(good)
        if not good:
            raise ValueError(f"{root}: no speaker has two utterances; target and enrolment need one each")
    has_split = not ignore_split and any(recording.split for recording, _ in good)
    split_of = _split_column(good, str(metadata)) if has_split else _draw_split(good, kind, shares, seed)

    folders = []
    for name in SETS:
        utterances = [utt for recording, utt in good if split_of[recording.speaker or utt.utt_id] == name]
        if utterances:
            genders = {utt.spk_id: recording.gender for recording, utt in good if utt.spk_id and recording.gender}
            write_data_dir(out / f"{prefix}{name}", utterances, genders)
            folders.append(out / f"{prefix}{name}")
    return folders


# ------------------------------------------------------------------------------------------------------ what is there


def _from_folders(root: Path, kind: str, where: list[str]) -> list[Recording]:
    if where:
        raise ValueError(f"--where {where[0]}: filters the columns of a metadata table, and {root}/metadata.csv is missing")
    recordings = []
    for path in _audio_files(root):
        parts = path.relative_to(root).parts
        if kind == "speech" and len(parts) < 2:
            raise ValueError(f"{path}: lies in no speaker's folder; <root>/<speaker>/… is expected (or a metadata.csv)")
        speaker = "_".join(parts[0].split()) if kind == "speech" else ""
        recordings.append(Recording(path, _name(path, root), speaker))
    return recordings


def _audio_files(root: Path) -> list[Path]:
    """All audio files below `root`, sorted; links that lead out of it are not followed."""
    inside = root.resolve()
    found = []
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in seen or not real.is_relative_to(inside):
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            path = Path(folder) / name
            if path.suffix.lower() in audio.EXTENSIONS and not name.startswith("."):
                if path.resolve().is_relative_to(inside):
                    found.append(path)
    return sorted(found, key=lambda path: os.fsencode(path))


def _from_metadata(root: Path, metadata: Path, kind: str, where: list[str]) -> list[Recording]:
    rows = _read_csv(metadata, ("path", "speaker") if kind == "speech" else ("path",))
    for condition in where:
        column, equals, pattern = condition.partition("=")
        if not equals or column not in rows[0]:
            raise ValueError(f"--where {condition}: '<column>=<pattern>' expected; columns: {', '.join(rows[0])}")
        rows = [row for row in rows if fnmatch.fnmatchcase(row[column], pattern)]
    recordings = []
    for row in rows:
        path = _inside(root, row["path"], metadata)
        speaker = "_".join(row["speaker"].split()) if kind == "speech" else ""
        gender = row.get("gender", "").strip().lower()[:1]
        if kind == "speech" and not speaker:
            raise ValueError(f"{metadata}: '{row['path']}' has no speaker")
        recordings.append(
            Recording(path, _name(path, root), speaker, row.get("split", "").strip(), gender if gender in "fm" else "")
        )
    return sorted(recordings, key=lambda recording: os.fsencode(recording.path))


def _read_csv(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table")
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file)]
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


def _cut(recordings: list[Recording], rows: list[dict[str, str]], root: Path, cuts: Path) -> list[Recording]:
    """Speakers with one recording are replaced by its cuts, or dropped where there are none."""
    by_path: dict[Path, list[dict[str, str]]] = {}
    for row in rows:
        by_path.setdefault(_inside(root, row["path"], cuts), []).append(row)
    count: dict[str, int] = {}
    for recording in recordings:
        count[recording.speaker] = count.get(recording.speaker, 0) + 1
    result = []
    for recording in recordings:
        if count[recording.speaker] > 1:
            result.append(recording)
            continue
        for number, row in enumerate(by_path.get(recording.path, ())):
            try:
                start, end = int(row["start"]), int(row["end"])
            except ValueError:
                start, end = 0, -1
            if not 0 <= start < end:
                raise ValueError(f"{cuts}: '{row['path']}': start {row['start']}, end {row['end']}: not a stretch of samples")
            result.append(replace(recording, start=start, end=end, role=row.get("role") or f"part{number + 1}"))
    return result


# ------------------------------------------------------------------------------------------------------------ checks


def _refuse_clashes(recordings: list[Recording]) -> None:
    seen: dict[str, Path] = {}
    for recording in recordings:
        if recording.utt_id in seen:
            raise ValueError(
                f"{recording.path} and {seen[recording.utt_id]} would both be utterance '{recording.utt_id}'; rename one"
            )
        seen[recording.utt_id] = recording.path


def _check(recording: Recording, kind: str, min_s: float) -> Checked:
    """Read one recording in full."""
    path = recording.path
    try:
        header = audio.info(path)
        length = (recording.end or header.num_samples) - recording.start
        wave, rate = audio.read(path, start=recording.start, num_samples=length, mono=False)
        audio.refuse_silence(wave, path)
        if length < min_s * rate:
            raise ValueError(f"{path}: {length / rate:.2f} s, shorter than --min_s {min_s:g}")
    except (ValueError, OSError) as error:
        return Checked(None, str(error), 1)
    activity = audio.activity(np.mean(wave, axis=0), rate) if kind == "speech" else ""
    absolute, here = Path(os.path.abspath(path)), Path.cwd()
    shown = absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
    utterance = Utterance(recording.utt_id, str(shown), rate, length, recording.start, recording.speaker, activity)
    return Checked(utterance, "", header.num_channels)


def _report_faults(faults: list[str], skip_bad: bool) -> None:
    if not faults:
        return
    lines = faults[:SHOWN] + ([f"… and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])
    text = "\n  ".join(lines)
    if not skip_bad:
        raise ValueError(f"{len(faults)} files cannot be used (--skip_bad goes on without them):\n  {text}")
    print(f"left out, {len(faults)} files that cannot be used:\n  {text}")


def _with_two_utterances(good: list[tuple[Recording, Utterance]]) -> list[tuple[Recording, Utterance]]:
    count: dict[str, int] = {}
    for _, utt in good:
        count[utt.spk_id] = count.get(utt.spk_id, 0) + 1
    lonely = [speaker for speaker, number in count.items() if number < 2]
    if lonely:
        print(f"left out, {len(lonely)} speakers with one utterance: target and enrolment must differ")
    return [(recording, utt) for recording, utt in good if count[utt.spk_id] > 1]


# ------------------------------------------------------------------------------------------------------------- split


def _split_column(good: list[tuple[Recording, Utterance]], table: str) -> dict[str, str]:
    split_of: dict[str, str] = {}
    for recording, utt in good:
        key = recording.speaker or utt.utt_id
        if recording.split not in SETS:
            raise ValueError(f"{table}: '{utt.path}': split '{recording.split}' is none of {', '.join(SETS)}; --ignore_split")
        if split_of.setdefault(key, recording.split) != recording.split:
            raise ValueError(f"{table}: speaker '{key}' is in {split_of[key]} and in {recording.split}; --ignore_split")
    return split_of


def _draw_split(
    good: list[tuple[Recording, Utterance]], kind: str, shares: tuple[float, float, float], seed: int
) -> dict[str, str]:
    """Each speaker (or file) to one set, by a hash of its name; every set with a share gets at least one."""
    names = {recording.speaker or utt.utt_id for recording, utt in good}
    order = sorted(names, key=lambda name: (seed_of(seed, "split", name), name))
    wanted = [index for index, share in enumerate(shares) if share > 0]
    if len(order) < len(wanted):
        what = "speakers with two utterances" if kind == "speech" else "files"
        raise ValueError(f"{len(order)} {what}, too few for {len(wanted)} disjoint sets; --split 1 0 0 makes only train")
    counts = [max(1, round(share * len(order))) if share > 0 else 0 for share in shares]
    largest = max(wanted, key=lambda index: counts[index])
    counts[largest] += len(order) - sum(counts)
    sets = [name for name, count in zip(SETS, counts, strict=True) for _ in range(count)]
    return dict(zip(order, sets, strict=True))
