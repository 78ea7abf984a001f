"""tse validate: check data sets, tables and audio headers, and list every fault at once."""

import argparse
import itertools
import math
from functools import partial
from pathlib import Path

from tse_lib import audio
from tse_lib.manifest import ACTIVITY_BLOCK_S, STEM_TABLES, read_layered, read_stems
from tse_lib.parallel import parallel_map

SHOWN = 20  # faults of a set listed before the rest is counted
Table = dict[str, str]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="tse validate",
        description=__doc__,
        epilog="Example: tse validate data/train data/dev data/test",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="a data set, as data/train")
    parser.add_argument("--nj", type=int, default=1, help="processes that read headers (default: %(default)s)")
    arguments = parser.parse_args(argv)

    speakers: dict[Path, set[str]] = {}
    faults: list[str] = []
    for folder in arguments.folders:
        found, speakers[folder], described = check_set(folder, arguments.nj)
        faults += found[:SHOWN] + ([f"{folder}: … and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])
        print(f"{folder}: {f'{len(found)} faults' if found else f'ok, {described}'}")
    for line in overlaps(speakers):
        print(line)
    if faults:
        raise ValueError("\n".join(faults))


def check_set(folder: Path, nj: int = 1) -> tuple[list[str], set[str], str]:
    """All faults of one data set, its speakers, and what is in it in words; it may be of several kinds."""
    kinds = {
        check_layered: ["layers.jsonl"],
        check_stems: [f"{name}.jsonl" for name in STEM_TABLES],
        check_tables: ["wav.scp"],
    }
    found = [check(folder, nj) for check, names in kinds.items() if any((folder / name).is_file() for name in names)]
    if not found:
        return [f"{folder}: no data set here (wav.scp is missing); run the prepare stage"], set(), ""
    faults, speakers, described = zip(*found, strict=True)
    return list(itertools.chain(*faults)), set().union(*speakers), ", ".join(described)


def check_tables(folder: Path, nj: int) -> tuple[list[str], set[str], str]:
    """The same of a set of speech, noise or room responses."""
    faults: list[str] = []
    names = (
        "wav.scp",
        "segments",
        "utt2num_samples",
        "utt2fs",
        "utt2spk",
        "spk2utt",
        "spk2gender",
        "utt2activity",
        "utt2group",
    )
    tables: dict[str, Table] = {}
    for name in names:
        if (folder / name).is_file():
            tables[name], found = read_leniently(folder / name)
            faults += found
    utterances = tables.get("segments", tables["wav.scp"])
    if not utterances:
        faults.append(f"{folder}: no utterances in it")
    for name in ("utt2num_samples", "utt2fs", "utt2spk", "utt2activity", "utt2group"):
        if name in tables:
            faults += _same_keys(folder / name, set(tables[name]), set(utterances))
        elif name in ("utt2num_samples", "utt2fs"):
            faults.append(f"{folder}/{name}: missing; prepare the set again")
    faults += _check_speakers(folder, tables)
    faults += _check_audio(folder, tables, nj)
    speakers = set(tables.get("utt2spk", {}).values())
    count = f"{len(speakers)} speakers, " if speakers else ""
    return faults, speakers, f"{count}{len(utterances)} utterances"


def check_layered(folder: Path, nj: int) -> tuple[list[str], set[str], str]:
    """The same of a set of ready-made mixtures: their files are there, with the rate and length of the table."""
    mixes = read_layered(folder)
    files = {path: mix for mix in mixes for path in (mix.mix, *mix.layers.values())}
    found = parallel_map(
        _header_fault, [(path, mix.sample_rate, mix.num_samples) for path, mix in files.items()], nj, folder.name
    )
    return [fault for fault in found if fault], set(), f"{len(mixes)} ready-made mixtures"


def check_stems(folder: Path, nj: int) -> tuple[list[str], set[str], str]:
    """The same of a set of stems: its one-shots and the files of its tracks are as long as the tables say."""
    stems = read_stems(folder)
    files = [(hit.path, hit.sample_rate, hit.num_samples) for hit in stems.oneshots]
    tracks = {path: track for track in stems.tracks for paths in track.stems.values() for path in paths}
    of_tracks = [(path, track.sample_rate, track.num_samples) for path, track in tracks.items()]
    found = parallel_map(_header_fault, files, nj, folder.name)
    found += parallel_map(partial(_header_fault, longer=True), of_tracks, nj, folder.name)
    described = f"{len(stems.performances)} performances on {len(stems.oneshots)} one-shots, {len(stems.tracks)} tracks"
    return [fault for fault in found if fault], set(), described


def _header_fault(wanted: tuple[str, int, int], longer: bool = False) -> str | None:
    """What is wrong with a file of that rate and length; the files of a track may be `longer` than it."""
    path, sample_rate, num_samples = wanted
    header = _header(path)
    if isinstance(header, str):
        return header
    size = header.num_samples
    if header.sample_rate == sample_rate and (size == num_samples or (longer and size > num_samples)):
        return None
    return (
        f"{path}: {size} samples at {header.sample_rate} Hz, the table says {num_samples} at {sample_rate} Hz; "
        "prepare it again"
    )


def read_leniently(path: Path) -> tuple[Table, list[str]]:
    """A table as far as it can be read, and what is wrong with its lines."""
    table: Table = {}
    faults: list[str] = []
    previous = b""
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), 1):
        raw_key, _, raw_value = line.partition(b" ")
        try:
            key, value = raw_key.decode(), raw_value.decode()
        except UnicodeDecodeError:
            faults.append(f"{path}:{number}: not UTF-8")
            continue
        if not key or not value:
            faults.append(f"{path}:{number}: '<key> <value>' expected, got {line.decode()!r}")
            continue
        if key in table:
            faults.append(f"{path}:{number}: duplicate id '{key}'")
        elif raw_key < previous:
            faults.append(f"{path}:{number}: '{key}' is not in bytewise order; sort with LC_ALL=C sort")
        previous = raw_key
        table[key] = value
    return table, faults


def overlaps(speakers: dict[Path, set[str]]) -> list[str]:
    """A line for each two sets that share speakers; no fault, some corpora share them between train and dev."""
    lines = []
    for (one, ours), (other, theirs) in itertools.combinations(speakers.items(), 2):
        shared = sorted(ours & theirs)
        if shared:
            more = ", …" if len(shared) > 3 else ""
            lines.append(f"warning: {one} and {other} share {len(shared)} speakers ({', '.join(shared[:3])}{more})")
    return lines


def _same_keys(path: Path, keys: set[str], wanted: set[str]) -> list[str]:
    faults = []
    for what, odd in (("lacks", wanted - keys), ("has ids that no utterance has:", keys - wanted)):
        if odd:
            faults.append(f"{path}: {what} {', '.join(sorted(odd)[:3])}{f' and {len(odd) - 3} more' * (len(odd) > 3)}")
    return faults


def _check_speakers(folder: Path, tables: dict[str, Table]) -> list[str]:
    """utt2spk and spk2utt say the same; a gender is f or m."""
    faults = []
    utt2spk, spk2utt = tables.get("utt2spk"), tables.get("spk2utt")
    if (utt2spk is None) != (spk2utt is None):
        have, lack = ("utt2spk", "spk2utt") if spk2utt is None else ("spk2utt", "utt2spk")
        faults.append(f"{folder}: {have} is there and {lack} is not; prepare the set again")
    elif utt2spk is not None and spk2utt is not None:
        ours = set(utt2spk.items())
        theirs = {(utt, spk) for spk, utts in spk2utt.items() for utt in utts.split()}
        for utt, spk in sorted(ours ^ theirs)[:3]:
            has, lacks = ("utt2spk", "spk2utt") if (utt, spk) in ours else ("spk2utt", "utt2spk")
            faults.append(f"{folder}/{has}: '{utt}' is of speaker '{spk}', which {lacks} does not say")
    speakers = None if utt2spk is None else set(utt2spk.values())
    for spk, gender in tables.get("spk2gender", {}).items():
        if gender not in ("f", "m"):
            faults.append(f"{folder}/spk2gender: '{spk}' is '{gender}'; f or m")
        if speakers is not None and spk not in speakers:
            faults.append(f"{folder}/spk2gender: '{spk}' has no utterance in this set")
    return faults


def _check_audio(folder: Path, tables: dict[str, Table], nj: int) -> list[str]:
    """Files exist; their headers and the tables agree; segments and activity fit."""
    recordings = tables["wav.scp"]
    results = parallel_map(_header, list(recordings.values()), nj, folder.name)
    headers = dict(zip(recordings, results, strict=True))
    faults = [f"{folder}/wav.scp: '{key}': {header}" for key, header in headers.items() if isinstance(header, str)]

    rates = _integers(folder / "utt2fs", tables, faults)
    lengths = _integers(folder / "utt2num_samples", tables, faults)
    segments = tables.get("segments")
    for utt in segments or recordings:
        rate, length = rates.get(utt), lengths.get(utt)
        recording, start = utt, 0.0
        if segments:
            try:
                recording, begin, end = segments[utt].split()
                start, stop = float(begin), float(end)
            except ValueError:
                faults.append(
                    f"{folder}/segments: '{utt}': '<recording> <start> <end>' expected, got '{segments[utt]}'"
                )
                continue
            if recording not in recordings:
                faults.append(f"{folder}/segments: '{utt}' names recording '{recording}', which wav.scp lacks")
                continue
            if not 0 <= start < stop < math.inf:
                faults.append(f"{folder}/segments: '{utt}': from {begin} to {end} s is no stretch")
                continue
            if rate and length and abs(round((stop - start) * rate) - length) > 1:
                faults.append(f"{folder}/utt2num_samples: '{utt}': {length}, its segment lasts {stop - start:.3f} s")
        header = headers[recording]
        if rate is None or length is None or isinstance(header, str):
            continue
        if rate != header.sample_rate:
            faults.append(f"{folder}/utt2fs: '{utt}': {rate}, the file has {header.sample_rate} Hz")
        elif segments is None and length != header.num_samples:
            faults.append(f"{folder}/utt2num_samples: '{utt}': {length}, the file has {header.num_samples} samples")
        elif round(start * rate) + length > header.num_samples:
            faults.append(f"{folder}/segments: '{utt}' ends after its file, which has {header.num_samples} samples")
        blocks = tables.get("utt2activity", {}).get(utt)
        wanted = max(1, math.ceil(length / rate / ACTIVITY_BLOCK_S - 1e-9))
        if blocks is not None and (len(blocks) != wanted or set(blocks) - {"0", "1"}):
            faults.append(
                f"{folder}/utt2activity: '{utt}': {wanted} times 0 or 1 expected, got {len(blocks)} characters"
            )
    return faults


def _integers(path: Path, tables: dict[str, Table], faults: list[str]) -> dict[str, int]:
    numbers = {}
    for key, value in tables.get(path.name, {}).items():
        if value.isdecimal() and int(value) > 0:
            numbers[key] = int(value)
        else:
            faults.append(f"{path}: '{key}': a positive integer expected, got '{value}'")
    return numbers


def _header(path: str) -> audio.Info | str:
    """The header, or why it cannot be read."""
    if path.rstrip().endswith("|"):
        return f"'{path}' is a shell pipe; pipes are not run, write the audio to a file"
    try:
        return audio.info(path)
    except (ValueError, OSError) as error:
        return str(error)
