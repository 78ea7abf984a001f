"""Tracks with stems: `<root>/<split>/<track>/<file a stem>.wav`, as MUSDB18-HQ has them, or StemGMD rendered by track.

    musdb18hq/train/A Classic Education - NightOwl/{bass,drums,other,vocals,mixture}.wav
    <StemGMD>/<split>/<track>/{kick,snare,high_tom,low-mid_tom,high_floor_tom,closed_hh,open_hh,ride,crash}.wav

A folder of audio files is a track. `--stems` says which of them make which stem: `toms=high_tom+low-mid_tom` adds two
up. The first folder below the root is the split (train, validation or dev, test); without one, whole tracks are dealt
out by a hash of their names. All files of a track have one rate, and one length but for 0.1 s, which is cut off. What
no stem is made of is left alone (`mixture.wav`): the mixture is the sum of the stems.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tse_lib import audio
from tse_lib.corpora.sets import SETS, SHARES, audio_files, listed_path, report_faults
from tse_lib.manifest import StemSet, Track, make_id, write_stems
from tse_lib.parallel import parallel_map
from tse_lib.rng import seed_of

HELP = "tracks with a file a stem: MUSDB18-HQ, StemGMD, your own"
SPLITS = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test", "eval": "test"}
STEMS = (
    "kick=kick",
    "snare=snare",
    "toms=toms+high_tom+low-mid_tom+high_floor_tom",
    "hihat=hihat+hh+closed_hh+open_hh",
    "cymbals=cymbals+ride+crash",
)
UNEVEN_S = 0.1  # files of one track may differ by so much


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare stems --root musdb18hq --stems vocals drums bass other --out data"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder of the tracks, or of the splits with the tracks")
    add("--stems", nargs="+", default=STEMS, metavar="STEM[=FILE+FILE…]",
        help="stems and the names of the files that make them, without extension; of several those that a track has "
        "(default: the five of a drum kit from the names of StemGMD)")  # fmt: skip
    add("--out", type=Path, default=Path("data"), help="where the sets go (default: %(default)s)")
    add("--prefix", default="", help="goes before the names of the sets (default: none)")
    add("--split", dest="shares", type=float, nargs=3, default=SHARES, metavar=("TRAIN", "DEV", "TEST"),
        help="shares of the tracks, where the folders are no splits (default: 0.8 0.1 0.1)")  # fmt: skip
    add("--only", nargs="+", choices=SETS, default=SETS, help="the sets to make (default: all that there are)")
    add("--skip_bad", action="store_true", help="go on without tracks that cannot be used")
    add("--nj", type=int, default=2, help="processes; changes nothing but the speed (default: %(default)s)")


def prepare(
    root: Path,
    out: Path,
    stems: Sequence[str] = STEMS,
    prefix: str = "",
    shares: tuple[float, float, float] = SHARES,
    only: Sequence[str] = SETS,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}/tracks.jsonl`; prints what it leaves out.

    Everything is checked before anything is written: every file is read.

    Raises:
        ValueError, FileNotFoundError: naming files, values and the way out.
    """
    wanted = parse_stems(stems)
    rows = find_tracks(root, shares)
    rows = [row for row in rows if row.split in only]
    if not rows:
        raise ValueError(f"{root}: no tracks of {', '.join(only)}; <root>/<split>/<track>/<stem>.wav is expected")
    twice = [name for name, count in Counter(row.track_id for row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{root}: two tracks would both be {twice[0]}; rename one, no track is in two sets")
    checked = parallel_map(partial(_check, stems=wanted), rows, nj, "reading tracks")
    report_faults([result for result in checked if isinstance(result, str)], skip_bad)
    sets = {
        name: tuple(result for row, result in zip(rows, checked, strict=True)
                    if isinstance(result, Track) and row.split == name)
        for name in SETS
    }  # fmt: skip
    if not any(sets.values()):
        raise ValueError(f"{root}: no track is left, all {len(rows)} are faulty")
    made = [name for name in SETS if sets[name]]
    for name in made:
        silent = Counter(stem for track in sets[name] for stem in wanted if "1" not in track.activity[stem])
        told = "".join(f", {stem} silent in {count}" for stem, count in silent.items())
        print(f"{name}: {len(sets[name])} tracks{told}")
    for name in made:
        write_stems(out / f"{prefix}{name}", StemSet(tracks=sets[name]))
    return [out / f"{prefix}{name}" for name in made]


def parse_stems(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`toms=high_tom+low_tom` a stem -> the names of the files that may make it."""
    stems: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, files = text.partition("=")
        names = tuple(files.split("+")) if equals else (name,)
        if not name or not all(names):
            raise ValueError(f"--stems {text}: <stem> or <stem>=<file>+<file>… expected")
        if name in stems:
            raise ValueError(f"--stems {text}: '{name}' is there twice")
        stems[name] = names
    owners = Counter(file for names in stems.values() for file in names)
    several = [file for file, count in owners.items() if count > 1]
    if several:
        raise ValueError(f"--stems: the file '{several[0]}' is in two stems; the mixture would have it twice")
    return stems


@dataclass(frozen=True)
class TrackRow:
    track_id: str
    files: dict[str, Path]  # by name without extension
    split: str


def find_tracks(root: Path, shares: tuple[float, float, float]) -> list[TrackRow]:
    """Every folder with audio files below `root`, and its set."""
    folders: dict[Path, dict[str, Path]] = {}
    for path in audio_files(root):
        files = folders.setdefault(path.parent, {})
        if path.stem in files:
            raise ValueError(f"{path}: there is also {files[path.stem].name}; which is the stem? Remove the other")
        files[path.stem] = path
    if root in folders:
        raise ValueError(f"{root}: audio files lie in the root itself; <root>/<track>/<stem>.wav is expected")
    below = {folder: folder.relative_to(root).parts for folder in folders}
    others = [folder for folder, parts in below.items() if parts[0] not in SPLITS or len(parts) == 1]
    listed = not others
    if others and len(others) < len(folders):  # dealt out anew, tracks of the corpus's test set could be trained on
        raise ValueError(
            f"{others[0]}: lies in none of the folders {', '.join(SPLITS)}, as other tracks do; move it or rename those"
        )
    rows = []
    for folder, parts in below.items():
        track_id = make_id(*(parts[1:] if listed else parts))
        rows.append(TrackRow(track_id, folders[folder], SPLITS[parts[0]] if listed else ""))
    return rows if listed else deal(rows, shares)


def deal(rows: Sequence[TrackRow], shares: tuple[float, float, float]) -> list[TrackRow]:
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"--split {' '.join(f'{share:g}' for share in shares)}: three shares that add up to 1")
    order = sorted(rows, key=lambda row: seed_of(0, "split", row.track_id))
    ends = np.round(np.cumsum(shares) * len(order)).astype(int)
    return [
        TrackRow(row.track_id, row.files, SETS[int(np.searchsorted(ends, place, "right"))])
        for place, row in enumerate(order)
    ]


def _check(row: TrackRow, stems: dict[str, tuple[str, ...]]) -> Track | str:
    """Read a track in full, or say why it cannot be used."""
    found = {stem: [row.files[name] for name in names if name in row.files] for stem, names in stems.items()}
    folder = next(iter(row.files.values())).parent
    lacks = [stem for stem, paths in found.items() if not paths]
    if lacks:
        return f"{folder}: no file of stem {lacks[0]} ({' or '.join(stems[lacks[0]])}); --stems names the files"
    try:
        listed = {stem: tuple(listed_path(path) for path in paths) for stem, paths in found.items()}
        headers = {path: audio.info(path) for paths in found.values() for path in paths}
        rates = {header.sample_rate for header in headers.values()}
        lengths = [header.num_samples for header in headers.values()]
        if len(rates) > 1:
            raise ValueError(f"{folder}: files of {' and '.join(map(str, sorted(rates)))} Hz; one rate is wanted")
        (rate,) = rates
        if max(lengths) - min(lengths) > UNEVEN_S * rate:
            raise ValueError(f"{folder}: files of {min(lengths)} to {max(lengths)} samples; one length is wanted")
        wide = next((path for path, header in headers.items() if header.num_channels > 2), None)
        if wide:
            raise ValueError(f"{wide}: {headers[wide].num_channels} channels, one or two are wanted")
        activity = {}
        for stem, paths in found.items():
            waves = [audio.read(path, num_samples=min(lengths), mono=False)[0] for path in paths]
            activity[stem] = audio.activity(np.sum([wave.mean(0) for wave in waves], axis=0), rate)
    except (ValueError, OSError) as error:
        return str(error)
    if not any("1" in blocks for blocks in activity.values()):
        return f"{folder}: all stems are silent"
    return Track(row.track_id, rate, min(lengths), listed, activity)
