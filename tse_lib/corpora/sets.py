"""From the recordings that a corpus lists to data sets: every file is opened, and all faults are told together."""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tse_lib import audio
from tse_lib.manifest import Utterance, make_id, write_data_dir
from tse_lib.parallel import parallel_map
from tse_lib.rng import seed_of

SETS = ("train", "dev", "test")
SHARES = (0.8, 0.1, 0.1)
MIN_S = {"speech": 1.0, "noise": 0.1, "rir": 0.0}
SHOWN = 20  # faults listed by name before the rest is counted


@dataclass(frozen=True)
class Recording:
    """A file, or the part `start` to `end` (samples; 0: to its end) of one.

    Attributes:
        name: the path below the root, without the extension.
        speaker: as it is called in the corpus; empty for noise and room responses.
        split: train, dev, test, or empty where the corpus does not say.
        gender: f, m or empty.
        role: what a cut list calls this part.
        group: of noise and room responses: what must not be in two sets (the place of a noise, the room of a response).
    """

    path: Path
    name: str
    speaker: str = ""
    split: str = ""
    gender: str = ""
    start: int = 0
    end: int = 0
    role: str = ""
    group: str = ""

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


def make_sets(
    recordings: Sequence[Recording],
    root: Path,
    out: Path,
    prefix: str = "",
    kind: str = "speech",
    faults: Sequence[str] = (),
    sample_rate: int | None = None,
    shares: tuple[float, float, float] | None = None,
    seed: int = 0,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
    split_hint: str = "",
) -> list[Path]:
    """Open every recording and write `out/<prefix>{train,dev,test}`; prints what it leaves out.

    Everything is checked before anything is written.

    Args:
        kind: "speech" (speakers, activity), "noise" or "rir".
        faults: what was wrong already when the corpus was listed; told with those of the files.
        sample_rate: of the corpus; another rate in a file is a fault. None: whatever the files have.
        shares: of the speakers (of the groups, of the files) in train, dev and test; None: as each recording's `split`.
        min_s: shorter ones are faults; None: 1 s for speech, 0.1 s for noise, 0 for room responses.
        skip_bad: go on without what is faulty.
        split_hint: the way out where `split` cannot be used.

    Returns:
        The folders of the sets that were made.

    Raises:
        ValueError: naming files, values and the way out.
    """
    if kind not in MIN_S:
        raise ValueError(f"--kind {kind}: one of {', '.join(MIN_S)}")
    if not recordings and not faults:
        raise ValueError(f"{root}: no {', '.join(audio.EXTENSIONS)} files")
    refuse_clashes(recordings)
    check = partial(_check, kind=kind, min_s=MIN_S[kind] if min_s is None else min_s, sample_rate=sample_rate)
    checked = parallel_map(check, recordings, nj, "reading")
    report_faults([*faults, *(result.fault for result in checked if result.fault)], skip_bad)
    several = sum(result.num_channels > 1 for result in checked)
    if several:
        what = "the first is taken" if kind == "rir" else "they are averaged to one"
        print(f"warning: {several} files have several channels; {what} when they are read")
    good = [(recording, result.utt) for recording, result in zip(recordings, checked, strict=True) if result.utt]
    if not good:
        raise ValueError(f"{root}: no file is left, all {len(checked) + len(faults)} are faulty")
    if kind == "speech":
        good = _with_two_utterances(good, root)
    split_of = _listed_split(good, root, split_hint) if shares is None else _drawn_split(good, kind, shares, seed)

    genders = {recording.spk_id: recording.gender for recording, _ in good if recording.gender}
    sets = {name: [utt for _, utt in good if split_of[_owner(utt)] == name] for name in SETS}
    for name in SETS:
        if sets[name]:
            (out / f"{prefix}{name}" / "wav.scp").unlink(missing_ok=True)  # old and new sets are never there together
        elif (out / f"{prefix}{name}" / "wav.scp").exists():
            print(f"warning: {out / f'{prefix}{name}'} is left as an earlier run made it; nothing is in this set now")
    folders = {name: out / f"{prefix}{name}" for name in SETS if sets[name]}
    for name, folder in folders.items():
        write_data_dir(folder, sets[name], genders)
    return list(folders.values())


# ----------------------------------------------------------------------------------------------------------- options


def add_set_options(parser: argparse.ArgumentParser, prefix: str = "", split: bool = False) -> None:
    """The options that `prepare` of every corpus on the disk has.

    Args:
        prefix: what goes before the names of the sets.
        split: whether a split can be drawn: `--split` and `--seed`.
    """
    add = parser.add_argument
    add("--out", type=Path, default=Path("data"), help="where the sets go (default: %(default)s)")
    add("--prefix", default=prefix, help=f"goes before the names of the sets (default: {prefix or 'none'})")
    if split:
        add(
            "--split",
            dest="shares",
            type=float,
            nargs=3,
            default=SHARES,
            metavar=("TRAIN", "DEV", "TEST"),
            help=f"shares of train, dev and test (default: {' '.join(map(str, SHARES))})",
        )
        add("--seed", type=int, default=0, help="of the split (default: %(default)s)")
    add("--min_s", type=float, help="shorter files are faults (default: 1 for speech, 0.1 for noise, 0 for rir)")
    add("--skip_bad", action="store_true", help="go on without files that cannot be used")
    add("--nj", type=int, default=2, help="processes; changes nothing but the speed (default: %(default)s)")


# ------------------------------------------------------------------------------------------------------------- files


def listed_path(path: Path) -> str:
    """How a table names a file: relative to the current folder if it lies below (a project can move), else absolute.

    Raises:
        ValueError: a table, which is lines of UTF-8, cannot hold the name.
    """
    absolute, here = Path(os.path.abspath(path)), Path.cwd()
    listed = str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
    if {"\n", "\r"} & set(listed) or listed.endswith("|") or listed != listed.encode(errors="replace").decode():
        raise ValueError(f"{ascii(str(path))}: a table cannot hold this name; rename the file")
    return listed


def audio_files(root: Path, extensions: Sequence[str] = audio.EXTENSIONS) -> list[Path]:
    """All audio files below `root`, sorted; links that lead out of it are not followed, which is printed.

    A file that links lead to is there once, or it would be its own enrolment, or in two sets.
    Hidden files and folders are none of the corpus: macOS keeps `._name.wav` beside `name.wav`, file servers
    `.AppleDouble/name.wav`.

    Raises:
        FileNotFoundError: no such folder.
        OSError: a folder below it cannot be read.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"--root {root}: no such folder")

    def refuse(error: OSError) -> None:  # os.walk would go on without what it cannot read
        raise error

    inside = root.resolve()
    found: dict[Path, Path] = {}  # by where it really lies
    links = 0
    outside: list[Path] = []
    seen: set[Path] = set()
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = Path(folder).resolve()
        if not real.is_relative_to(inside):
            outside.append(Path(folder))
        if real in seen or not real.is_relative_to(inside):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in [Path(folder) / name for name in sorted(names) if not name.startswith(".")]:
            if path.suffix.lower() not in extensions:
                continue
            real = path.resolve()
            if not real.is_relative_to(inside):
                outside.append(path)
                continue
            links += real in found
            if real not in found or not path.is_symlink():
                found[real] = path
    if outside:
        more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
        first = printable(str(min(outside)))
        print(f"warning: left out, links that lead out of {root}: {first}{more}; copy what they lead to")
    if links:
        print(f"left out, {links} links to files that are there already")
    return sorted(found.values(), key=lambda path: os.fsencode(path))


def printable(text: str) -> str:
    """With names of files in it that are no UTF-8, which the standard output would refuse."""
    return text.encode(errors="backslashreplace").decode()


def unpacked(root: Path, name: str) -> Path:
    """`root/name`, the folder that the corpus's archive unpacks, or `root` where that is this folder itself."""
    return root / name if (root / name).is_dir() else root


def name_below(path: Path, root: Path) -> str:
    return str(path.relative_to(root).with_suffix(""))


# ------------------------------------------------------------------------------------------------------------ checks


class Checked(NamedTuple):
    """What opening a recording gave: its utterance, or why it cannot be used."""

    utt: Utterance | None
    fault: str
    num_channels: int


Member = tuple[Recording, Utterance]


def refuse_clashes(recordings: Sequence[Recording]) -> None:
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


def _check(recording: Recording, kind: str, min_s: float, sample_rate: int | None) -> Checked:
    """Read one recording in full."""
    path = recording.path
    try:
        listed = listed_path(path)
        header = audio.info(path)
        if sample_rate is not None and header.sample_rate != sample_rate:
            raise ValueError(f"{path}: {header.sample_rate} Hz, this corpus has {sample_rate} Hz")
        length = (recording.end or header.num_samples) - recording.start
        wave, rate = audio.read(path, start=recording.start, num_samples=length, mono=False)
        used, how = (wave[0], "first channel") if kind == "rir" else (wave.mean(0), "mean of its channels")
        audio.refuse_silence(used, path if len(wave) == 1 else f"{path} ({how})")
        if length < min_s * rate:
            raise ValueError(f"{path}: {length / rate:.2f} s, shorter than --min_s {min_s:g}")
    except (ValueError, OSError) as error:
        return Checked(None, str(error), 1)
    activity = audio.activity(used, rate) if kind == "speech" else ""
    group = make_id(recording.group) if recording.group else ""
    utt = Utterance(recording.utt_id, listed, rate, length, recording.start, recording.spk_id, activity, group)
    return Checked(utt, "", header.num_channels)


def report_faults(faults: Sequence[str], skip_bad: bool) -> None:
    if not faults:
        return
    lines = [*faults[:SHOWN], *([f"… and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])]
    text = printable("\n  ".join(lines))
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
    """What is in one set only: a speaker, the group of a noise or room response, else the file."""
    return utt.spk_id or utt.group or utt.utt_id


def _listed_split(good: list[Member], root: Path, hint: str) -> dict[str, str]:
    split_of: dict[str, str] = {}
    way_out = f"; {hint}" if hint else ""
    for recording, utt in good:
        if recording.split not in SETS:
            raise ValueError(f"{root}: '{utt.path}': split '{recording.split}' is none of {', '.join(SETS)}{way_out}")
        if split_of.setdefault(_owner(utt), recording.split) != recording.split:
            what = "speaker" if utt.spk_id else "group"
            raise ValueError(
                f"{root}: {what} '{_owner(utt)}' is in {split_of[_owner(utt)]} and in {recording.split}{way_out}"
            )
    return split_of


def _drawn_split(good: list[Member], kind: str, shares: tuple[float, float, float], seed: int) -> dict[str, str]:
    """Each owner to one set, by a hash of its name; every set with a share gets at least one."""
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"--split {' '.join(f'{share:g}' for share in shares)}: three shares that add up to 1")
    owners = sorted({_owner(utt) for _, utt in good}, key=lambda owner: seed_of(seed, "split", owner))
    wanted = [index for index, share in enumerate(shares) if share > 0]
    if len(owners) < len(wanted):
        what = "speakers with two utterances" if kind == "speech" else "files or groups of files"
        raise ValueError(f"{len(owners)} {what}, too few for {len(wanted)} disjoint sets; --split 1 0 0 makes one set")
    counts = [max(1, round(share * len(owners))) if share > 0 else 0 for share in shares]
    counts[counts.index(max(counts))] += len(owners) - sum(counts)
    names = [name for name, count in zip(SETS, counts, strict=True) for _ in range(count)]
    return dict(zip(owners, names, strict=True))
