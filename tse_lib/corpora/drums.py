"""Drum kits as one-shots, and what drummers played as MIDI: together, mixtures of stems without end.

    <root>/oneshots.csv       path,stem,instrument,velocity_rank[,kit][,split]: a recorded hit a row, path below <root>
    <root>/gmd_midi/info.csv  drummer,midi_filename,split,…: of the Groove MIDI Dataset, and its files below gmd_midi/

A kit of one's own is such a table and its files, wav or flac, mono or stereo, each cut at its onset: `stem` is kick,
snare, toms, hihat or cymbals, `instrument` a drum or cymbal, `velocity_rank` counts from its softest hit. Which
instrument plays which note is told by words in its name: open, closed or pedal of a hi-hat, ride, bell, crash, china
or splash of a cymbal. The Groove MIDI Dataset (magenta.tensorflow.org/datasets/groove) lies as it is unpacked, its
files as `midi_filename` says, or in a folder a split, the session left out: `train/drummer1_5_funk_116_beat_4-4.mid`.

Splits: performances as info.csv has them (train, validation, test); without a validation set a tenth of those to train
with is for development. Hits as the table has them; without that column the hits of an instrument are dealt out by
rank, two to train and one each to dev and test, if it has four or more. All sets hear the same drums, but no set hears
another's recording of a hit.
"""

import argparse
import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tse_lib import audio
from tse_lib.corpora.sets import SETS, listed_path, report_faults
from tse_lib.corpora.tables import read_csv
from tse_lib.manifest import OneShot, Performance, StemSet, make_id, write_stems
from tse_lib.parallel import parallel_map
from tse_lib.rng import seed_of

HELP = "drum one-shots and MIDI performances (Groove MIDI Dataset), to be drawn as stems"
STEMS = ("kick", "snare", "toms", "hihat", "cymbals")
SPLITS = {"train": "train", "validation": "dev", "dev": "dev", "test": "test"}
DEV_SHARE = 0.1  # of the performances to train with, where the corpus has none for development
DEALT = ("train", "dev", "train", "test")  # hits of one instrument, from the softest on


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare drums --root corpora/drums --out data"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder with oneshots.csv")
    add("--midi", type=Path, help="the folder with info.csv of the performances (default: <root>/gmd_midi)")
    add("--out", type=Path, default=Path("data"), help="where the sets go (default: %(default)s)")
    add("--prefix", default="", help="goes before the names of the sets (default: none)")
    add("--beat_only", action="store_true", help="leave out fills: performances of beat_type other than beat")
    add("--skip_bad", action="store_true", help="go on without files that cannot be used")
    add("--nj", type=int, default=2, help="processes; changes nothing but the speed (default: %(default)s)")


def prepare(
    root: Path,
    out: Path,
    midi: Path | None = None,
    prefix: str = "",
    beat_only: bool = False,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}/{oneshots,performances}.jsonl`; prints what it leaves out.

    Everything is checked before anything is written: every one-shot is read, every MIDI file parsed.

    Raises:
        ValueError, FileNotFoundError: naming files, lines, and the way out.
    """
    if importlib.util.find_spec("mido") is None:
        raise ValueError("MIDI files are read by mido, which is missing: pip install mido")
    midi = midi or root / "gmd_midi"
    shots, faults = read_shots(root, root / "oneshots.csv")
    plays, bad = read_performances(midi, midi / "info.csv", beat_only)
    checked = parallel_map(partial(_check_shot, root=root.resolve()), shots, nj, "reading one-shots")
    parsed = parallel_map(_parse, plays, nj, "reading MIDI")
    faults += bad + [result for result in (*checked, *parsed) if isinstance(result, str)]
    report_faults(faults, skip_bad)
    good = [(row, result) for row, result in zip(shots, checked, strict=True) if isinstance(result, OneShot)]
    splits = [row.split for row, _ in good] if any(row.split for row in shots) else deal([row for row, _ in good])
    hits = [(split, result) for split, (_, result) in zip(splits, good, strict=True)]
    played = [(row.split, result) for row, result in zip(plays, parsed, strict=True) if isinstance(result, Performance)]
    missing = [stem for stem in STEMS if not any(hit.stem == stem for _, hit in hits)]
    if missing:
        raise ValueError(f"{root / 'oneshots.csv'}: no one-shot of stem {missing[0]}; stems are {', '.join(STEMS)}")
    sets = [
        StemSet(
            oneshots=tuple(hit for split, hit in hits if split in (name, "")),
            performances=tuple(play for split, play in played if split == name),
        )
        for name in SETS
    ]
    kinds = [(one, {hit.instrument for hit in one.oneshots}) for one in sets]
    for name, (one, instruments) in zip(SETS, kinds, strict=True):
        lacks = sorted({hit.instrument for _, hit in hits} - instruments)
        if one.performances and lacks:
            raise ValueError(
                f"{root / 'oneshots.csv'}: no hit of '{lacks[0]}' for {name}; leave its split empty: all sets"
            )
    shared = sum(split == "" for split, _ in hits)
    if shared:
        print(f"{shared} of {len(hits)} one-shots are in all sets: their instruments have fewer than {len(DEALT)} hits")
    for name, one in zip(SETS, sets, strict=True):
        if one.performances:
            seconds = sum(play.seconds for play in one.performances)
            print(
                f"{name}: {len(one.performances)} performances, {seconds / 60:.0f} min, {len(one.oneshots)} one-shots"
            )
    folders = [out / f"{prefix}{name}" for name, one in zip(SETS, sets, strict=True) if one.performances]
    for folder, one in zip(folders, (one for one in sets if one.performances), strict=True):
        write_stems(folder, one)
    return folders


# ----------------------------------------------------------------------------------------------------------- one-shots


@dataclass(frozen=True)
class ShotRow:
    path: Path
    stem: str
    instrument: str
    velocity_rank: int
    kit: str
    split: str  # of SETS, or empty: in all of them


def read_shots(root: Path, table: Path) -> tuple[list[ShotRow], list[str]]:
    """The rows of the table, and what is wrong with its lines."""
    rows: list[ShotRow] = []
    faults: list[str] = []
    for line, fields in read_csv(table, ("path", "stem", "instrument", "velocity_rank")):
        rank, split = fields["velocity_rank"], fields.get("split", "")
        if fields["stem"] not in STEMS:
            faults.append(f"{table}:{line}: stem '{fields['stem']}' is none of {', '.join(STEMS)}")
        elif not fields["instrument"]:
            faults.append(f"{table}:{line}: no instrument")
        elif not rank.isdecimal() or int(rank) < 1:
            faults.append(f"{table}:{line}: velocity_rank '{rank}': 1, 2… from the softest hit on expected")
        elif split and split not in SPLITS:
            faults.append(f"{table}:{line}: split '{split}' is none of {', '.join(SPLITS)}, and not empty")
        else:
            path = root / fields["path"]
            kit = fields.get("kit", "")
            rows.append(ShotRow(path, fields["stem"], fields["instrument"], int(rank), kit, SPLITS.get(split, "")))
    twice = [path for path, count in Counter(row.path for row in rows).items() if count > 1]
    faults += [f"{table}: '{path}' is there twice" for path in twice]
    return rows, faults


def deal(rows: Sequence[ShotRow]) -> list[str]:
    """The set of each hit: those of an instrument are dealt out by rank; if it has few, they are in all sets ("")."""
    of_instrument: dict[tuple[str, str], list[ShotRow]] = {}
    for row in rows:
        of_instrument.setdefault((row.kit, row.instrument), []).append(row)
    split_of = {}
    for hits in of_instrument.values():
        for place, row in enumerate(sorted(hits, key=lambda row: (row.velocity_rank, str(row.path)))):
            split_of[row.path] = DEALT[place % len(DEALT)] if len(hits) >= len(DEALT) else ""
    return [split_of[row.path] for row in rows]


def _check_shot(row: ShotRow, root: Path) -> OneShot | str:
    """Read a one-shot in full: the hit, or why it cannot be used."""
    try:
        if not row.path.resolve().is_relative_to(root):
            raise ValueError(f"{row.path}: leads out of {root}")
        listed = listed_path(row.path)
        wave, rate = audio.read(row.path, mono=False)
        audio.refuse_silence(wave, row.path)
        if len(wave) > 2:
            raise ValueError(f"{row.path}: {len(wave)} channels, one or two are wanted")
    except (ValueError, OSError) as error:
        return str(error)
    return OneShot(
        path=listed,
        stem=row.stem,
        instrument=row.instrument,
        velocity_rank=row.velocity_rank,
        sample_rate=rate,
        num_samples=wave.shape[1],
        num_channels=len(wave),
        kit=row.kit,
    )


# -------------------------------------------------------------------------------------------------------- performances


@dataclass(frozen=True)
class PlayRow:
    perf_id: str
    path: Path
    split: str


def read_performances(midi: Path, table: Path, beat_only: bool = False) -> tuple[list[PlayRow], list[str]]:
    """The rows of the table whose files are there, and what is wrong with its lines."""
    rows: list[PlayRow] = []
    faults: list[str] = []
    for line, fields in read_csv(table, ("drummer", "midi_filename", "split")):
        if beat_only and fields.get("beat_type", "beat") != "beat":
            continue
        if fields["split"] not in SPLITS:
            faults.append(f"{table}:{line}: split '{fields['split']}' is none of {', '.join(SPLITS)}")
            continue
        name = Path(fields["midi_filename"])
        flat = midi / fields["split"] / f"{fields['drummer']}_{name.name}"
        path = next((path for path in (midi / name, flat) if path.is_file()), None)
        if path is None:
            faults.append(f"{table}:{line}: {midi / name} is not there (nor {flat})")
        elif not path.resolve().is_relative_to(midi.resolve()):
            faults.append(f"{table}:{line}: '{name}' leads out of {midi}")
        else:
            rows.append(PlayRow(make_id(*name.with_suffix("").parts), path, SPLITS[fields["split"]]))
    twice = [name for name, count in Counter(row.perf_id for row in rows).items() if count > 1]
    faults += [f"{table}: '{name}' is there twice" for name in twice]
    return (rows if any(row.split == "dev" for row in rows) else with_dev(rows)), faults


def with_dev(rows: Sequence[PlayRow]) -> list[PlayRow]:
    """A tenth of the performances to train with, by a hash of their names, becomes the development set."""
    names = sorted((row.perf_id for row in rows if row.split == "train"), key=lambda name: seed_of(0, "dev", name))
    dev = set(names[: max(1, round(DEV_SHARE * len(names)))]) if len(names) > 1 else set()
    return [PlayRow(row.perf_id, row.path, "dev" if row.perf_id in dev else row.split) for row in rows]


def _parse(row: PlayRow) -> Performance | str:
    """A performance, or why it cannot be used."""
    try:
        hits, listed = tuple(read_hits(row.path)), listed_path(row.path)
    except ValueError as error:
        return str(error)
    if not hits:
        return f"{row.path}: no notes in it"
    return Performance(row.perf_id, listed, hits[-1][0], hits)


def read_hits(path: Path) -> Iterator[tuple[float, int, int]]:
    """(seconds, note, velocity) of every note that is struck in a MIDI file.

    Raises:
        ValueError: it is no MIDI file.
    """
    import mido

    broken = (OSError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, mido.KeySignatureError)
    seconds = 0.0
    try:
        for message in mido.MidiFile(path):
            if message.time < 0:  # of a file that counts in frames of a video
                raise ValueError("it has no beats")
            seconds += message.time
            if message.type == "note_on" and message.velocity > 0:
                yield round(seconds, 6), message.note, message.velocity
    except broken as error:
        raise ValueError(f"{path}: not a MIDI file that can be read ({error or 'it ends too early'})") from None
