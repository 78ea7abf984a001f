"""PolSESS: pairs of Polish speakers in scenes with an event, ready-made, with all layers to take off again; 4 s.

    <root>/<train|val|test>/{clean,event,mix,scene,sp1_reverb,sp2_reverb,ev_reverb}/*.wav
    <root>/<train|val|test>/corpus_<name of root>_<train|val|test>_final.csv   34 columns, a mixture a row

Its generator (github.com/s17060/PolSESS, MATLAB) writes 16-bit mono wavs of 8 or 16 kHz and leaves the table in the
folder that it was started in; put it beside `mix`. Outdoors the three columns of reverberation are empty. Speech is of
CLARIN-PL EMU and the Polish part of MLS, scenes are of WHAM!, TAU and TUT, events of FSD50K and ESC-50.

The set becomes `data/<set>/layers.jsonl` (see tse_lib/manifest.py). Nothing of the corpus is changed, so what is known
to be wrong with it is counted and told: the same speaker twice in a mixture, scenes and speech in two sets, rows
that are copies, and mixtures that are not the sum of their layers.
"""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from tse_lib import audio
from tse_lib.corpora.sets import listed_path, report_faults
from tse_lib.corpora.tables import read_csv
from tse_lib.manifest import LayeredMix, write_layered
from tse_lib.parallel import parallel_map

HELP = "PolSESS: two Polish speakers in ready-made scenes with events and rooms (8 or 16 kHz)"
SUBSETS = {"train": "train", "val": "dev", "test": "test"}
RATES, SECONDS = (8000, 16000), 4
DRY = {  # column: the layer's name, its folder
    "speaker1File": ("speaker1", "clean"),
    "speaker2File": ("speaker2", "clean"),
    "sceneFile": ("scene", "scene"),
    "eventFile": ("event", "event"),
}
REVERBERATION = {
    "reverbForSpeaker1": ("reverb1", "sp1_reverb"),
    "reverbForSpeaker2": ("reverb2", "sp2_reverb"),
    "reverbForEvent": ("reverb_event", "ev_reverb"),
}
ORIGINALS = ("speech1OryginalPath", "speech2OryginalPath", "sceneOryginalPath", "eventOryginalPath")  # spelt so
COLUMNS = ("subset", "mixFile", *DRY, *REVERBERATION, *ORIGINALS, "sceneClass")
NAME = re.compile(r"[A-Za-z0-9_-]+\.wav")
NO_FILE = ("", "nan", "<missing>")
FULL_SCALE = 0.999  # where the generator limits, so that a sum may have lost something
SUMS_CHECKED = 200  # of each set's first mixtures; of those that are suspect all
TOLERANCE = 8 / 2**15  # eight files, each rounded to 16 bits
FAULTY_SHARE = 0.4  # of copies: PolSESS_C_both, "16k", has half


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare polsess --root corpora/PolSESS_C_final_128_v2 --out data"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder with train, val and test (or some of them)")
    add("--out", type=Path, default=Path("data"), help="where the sets go (default: %(default)s)")
    add("--prefix", default="", help="goes before the names of the sets (default: none)")
    add("--skip_bad", action="store_true", help="go on without mixtures that cannot be used")
    add("--nj", type=int, default=2, help="processes; changes nothing but the speed (default: %(default)s)")


def prepare(root: Path, out: Path, prefix: str = "", skip_bad: bool = False, nj: int = 2) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}/layers.jsonl` of the subsets that are there; prints what is wrong with them.

    Everything is checked before anything is written: every file is there, mono, of one rate and 4 s long.

    Raises:
        ValueError, FileNotFoundError: naming files, lines, and the way out.
    """
    subsets = [name for name in SUBSETS if (root / name).is_dir()]
    if not subsets:
        raise FileNotFoundError(f"--root {root}: none of the folders {', '.join(SUBSETS)} is there")
    faults: list[str] = []
    found: dict[str, list[Row]] = {}
    for subset in subsets:
        rows, bad = read_rows(root, subset)
        checked = parallel_map(partial(_check, root=root.resolve()), rows, nj, f"reading {subset}")
        faults += bad + [result for result in checked if isinstance(result, str)]
        found[subset] = [result for result in checked if isinstance(result, Row)]
        rates = Counter(row.mix.sample_rate for row in found[subset])
        if len(rates) > 1:
            shown = ", ".join(f"{count} of {rate} Hz" for rate, count in sorted(rates.items()))
            raise ValueError(f"{root / subset}: mixtures of one rate expected, these are {shown}; part them by rate")
    report_faults(faults, skip_bad)
    empty = [subset for subset in subsets if not found[subset]]
    if empty:
        raise ValueError(f"{root / empty[0]}: no mixture is left, all are faulty")
    kept = {subset: without_copies(rows) for subset, rows in found.items()}
    for line in defects(found, kept):
        print(line)
    folders = [out / f"{prefix}{SUBSETS[subset]}" for subset in subsets]
    for folder, rows in zip(folders, kept.values(), strict=True):
        write_layered(folder, [row.mix for row in rows])
    return folders


# ---------------------------------------------------------------------------------------------------------- the tables


@dataclass(frozen=True)
class Row:
    """A mixture, and what is known of it.

    Attributes:
        originals: the names of the files that its layers were cut from, in the order of ORIGINALS.
        talkers: the speakers as far as they can be told, else "".
        suspect: its layers are to be added up, to see whether they make the mixture.
        digest: of the mixture's samples; residual: how far the sum of the layers is off at most, None: not looked at.
    """

    mix: LayeredMix
    originals: tuple[str, str, str, str]
    talkers: tuple[str, str]
    suspect: bool = False
    digest: str = ""
    clipped: bool = False
    residual: float | None = None


def read_rows(root: Path, subset: str) -> tuple[list[Row], list[str]]:
    """The rows of a subset's table, and what is wrong with its lines."""
    path = find_table(root, subset)
    rows: list[Row] = []
    faults: list[str] = []
    for line, fields in read_csv(path, COLUMNS):
        try:
            rows.append(_row(root, subset, fields))
        except ValueError as error:
            faults.append(f"{path}:{line}: {error}")
    users = Counter(file for row in rows for file in row.mix.layers.values())
    first = {row.mix.mix_id for row in rows[:SUMS_CHECKED]}
    return [
        replace(row, suspect=row.mix.mix_id in first or any(users[file] > 1 for file in row.mix.layers.values()))
        for row in rows
    ], faults


def find_table(root: Path, subset: str) -> Path:
    """The table of a subset, also where its folder was given another name since."""
    wanted = root / subset / f"corpus_{root.resolve().name}_{subset}_final.csv"
    found = [wanted] if wanted.is_file() else sorted(wanted.parent.glob(f"corpus_*_{subset}_final.csv"))
    if not found:
        raise FileNotFoundError(
            f"{wanted}: no such table; the generator leaves it in the folder that it was started in, move it here"
        )
    if len(found) > 1:
        raise ValueError(f"{found[0]}: there is also {found[1].name}; which is the table? Remove the other")
    return found[0]


def _row(root: Path, subset: str, fields: dict[str, str]) -> Row:
    if fields["subset"] != subset:
        raise ValueError(f"subset '{fields['subset']}' in the table of {subset}")
    reverberation = [column for column in REVERBERATION if fields[column].lower() not in NO_FILE]
    if reverberation and len(reverberation) < len(REVERBERATION):
        lacks = next(column for column in REVERBERATION if column not in reverberation)
        raise ValueError(f"{lacks} is empty, {reverberation[0]} is not; all three (indoors) or none (outdoors)")
    for column in ("mixFile", *DRY, *reverberation):
        if not NAME.fullmatch(fields[column]):
            raise ValueError(f"{column} {ascii(fields[column])}: a file name of a-z, 0-9, - and _ with .wav expected")
    places = {**DRY, **{column: REVERBERATION[column] for column in reverberation}}
    originals = [re.split(r"[\\/]", fields[column])[-1] for column in ORIGINALS]
    talkers = talker_of(fields[ORIGINALS[0]]), talker_of(fields[ORIGINALS[1]])
    unknown = [Path(name).stem or "unknown" for name in originals[:2]]
    return Row(
        LayeredMix(
            mix_id=fields["mixFile"].removesuffix(".wav"),
            sample_rate=0,
            num_samples=0,
            mix=listed_path(root / subset / "mix" / fields["mixFile"]),
            layers={
                layer: listed_path(root / subset / folder / fields[column])
                for column, (layer, folder) in places.items()
            },
            talkers=(talkers[0] or unknown[0], talkers[1] or unknown[1]),
            place=fields["sceneClass"],
        ),
        (originals[0], originals[1], originals[2], originals[3]),
        talkers,
    )


def talker_of(path: str) -> str:
    """The speaker of an original file as far as its name tells, else "".

    MLS names files `<speaker>_<book>_<number>`; in EMU's databases a session (`<name>_ses`) is a speaker's.
    """
    *folders, name = re.split(r"[\\/]", path)
    if mls := re.fullmatch(r"(\d+)_\d+_\d+", name.rpartition(".")[0]):
        return f"mls-{mls[1]}"
    session = next((folder for folder in reversed(folders) if folder.endswith("_ses")), "")
    return f"emu-{session.removesuffix('_ses')}" if session else ""


# ----------------------------------------------------------------------------------------------------------- the files


def _check(row: Row, root: Path) -> Row | str:
    """The row with what its files hold, or why it cannot be used.

    Reads the mixture, the headers of its layers, and the layers where their sum is to be looked at.
    """
    paths = (row.mix.mix, *row.mix.layers.values())
    try:
        outside = next((path for path in paths if not Path(path).resolve().is_relative_to(root)), None)
        if outside:
            raise ValueError(f"{outside}: a link that leads out of {root}")
        rate = audio.info(row.mix.mix).sample_rate
        for path in paths:
            header = audio.info(path)
            if rate not in RATES or header != (rate, SECONDS * rate, 1):
                wanted = rate if rate in RATES else f"{RATES[0]} or {RATES[1]}"
                raise ValueError(
                    f"{path}: {header.num_samples} samples at {header.sample_rate} Hz, {header.num_channels} "
                    f"channel(s); {SECONDS} s at {wanted} Hz and one channel are wanted"
                )
        mixed = audio.read(row.mix.mix)[0]
        audio.refuse_silence(mixed, row.mix.mix)
        clipped, residual = bool(np.abs(mixed).max() >= FULL_SCALE), None
        if clipped or row.suspect:
            total = sum(audio.read(path)[0].astype(np.float64) for path in row.mix.layers.values())
            residual = float(np.abs(mixed - total).max())
    except (ValueError, OSError) as error:
        return str(error)
    digest = hashlib.sha256(mixed.tobytes()).hexdigest()[:24]
    mix = replace(row.mix, sample_rate=rate, num_samples=len(mixed))
    return replace(row, mix=mix, digest=digest, clipped=clipped, residual=residual)


# --------------------------------------------------------------------------------------------------------- the defects


def without_copies(rows: Sequence[Row]) -> list[Row]:
    """The first of the rows whose mixtures are the same, by name or sample by sample."""
    names, digests = set[str](), set[str]()
    kept = []
    for row in rows:
        if row.mix.mix_id not in names and row.digest not in digests:
            kept.append(row)
        names.add(row.mix.mix_id)
        digests.add(row.digest)
    return kept


def defects(found: Mapping[str, Sequence[Row]], kept: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """What is known to be wrong with this corpus, counted in these sets."""
    for subset, rows in kept.items():
        total, copies = len(found[subset]), len(found[subset]) - len(rows)
        known = [row for row in rows if all(row.talkers)]
        same_speaker = sum(row.talkers[0] == row.talkers[1] for row in known)
        same_file = sum(row.originals[0] == row.originals[1] != "" for row in rows)
        summed = [row.residual for row in rows if row.residual is not None]
        off = [residual for residual in summed if residual > TOLERANCE]
        indoors = sum(row.mix.indoor for row in rows)
        yield f"{subset}: {len(rows)} mixtures, {indoors} indoors, {len(rows) - indoors} outdoors"
        yield f"  copies of other rows, left out: {share(copies, total)}"
        if copies >= FAULTY_SHARE * total:
            yield "  warning: so many are copies in the faulty '16k' set (PolSESS_C_both); take a later release"
        yield f"  the same speaker twice: {share(same_speaker, len(known))} whose speakers can be told"
        yield f"  the same file of speech twice: {share(same_file, len(rows))}"
        clipped = sum(row.clipped for row in rows)
        yield f"  at full scale (|x| >= {FULL_SCALE}): {share(clipped, len(rows))}"
        worst = f", by {max(off):.4f} at most" if off else ""
        yield f"  not the sum of their layers: {share(len(off), len(summed))} that were added up{worst}"
    for one, other in combinations(kept, 2):
        texts = []
        for what, of in SHARED.items():
            first, second = ({name for row in kept[subset] for name in of(row) if name} for subset in (one, other))
            texts.append(f"{what} {len(first & second)} of {len(second)}")
        yield f"{one} and {other} share, by name, of {other}'s: {', '.join(texts)}"


SHARED = {
    "mixtures": lambda row: (row.digest,),
    "speakers": lambda row: row.talkers,
    "speech files": lambda row: row.originals[:2],
    "scenes": lambda row: row.originals[2:3],
    "events": lambda row: row.originals[3:],
}


def share(count: int, total: int) -> str:
    return f"{count} of {total}" + (f" ({100 * count / total:.1f} %)" if total else "")
