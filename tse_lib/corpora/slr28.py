"""Room responses and noises of openslr.org/28, 16 kHz: 325 measured responses, 60000 simulated ones, noises.

    <root>/real_rirs_isotropic_noises/{rir_list,noise_list,*.wav}       measured responses; noises of the same rooms
    <root>/simulated_rirs/{smallroom,mediumroom,largeroom}/Room001/Room001-00001.wav        as in openslr.org/26
    <root>/pointsource_noises/{noise_list,*.wav}                        843 noises of MUSAN

The lists are Kaldi's, `--rir-id 00001 --room-id … <path>` a line, the path beginning with RIRS_NOISES/. The rooms that
they name are not used: there every position of the AIR and RWCP databases is nearly a room of its own. The names of the
files tell the true ones:

    RVB2014_type{1,2}_{rir,noise}_<room>_…              REVERB challenge, 8 channels
    RWCP_type{1,2,3,5}_{rir,noise}_<array>_<room>_…     RWCP, up to 30 channels
    RWCP_type4_rir_<angle>{l,r}                         RWCP, the ears of a robot, one room
    air_type1_air_{binaural,phone,phone_bt}_<room>_…    Aachen, 2 channels

Rooms whose names differ in the last character only (e1a, e1b, e1c; lecture, lecture1) are taken as one: variants of a
room in two sets would be a leak, two rooms in one set are none.

An array's channels are not one response, and their mean would be a comb filter: the channels that are asked for become
files of their own below `<out>/corpus/slr28`. It has no split: one is drawn by rooms (point sources: by files).
"""

import argparse
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tse_lib import audio
from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import SHARES, Recording, add_set_options, make_sets, unpacked
from tse_lib.corpora.slr26 import SIZES, simulated
from tse_lib.corpora.speakers import read_lines
from tse_lib.corpora.tables import is_file_name
from tse_lib.parallel import parallel_map

SAMPLE_RATE = 16000
PARTS = {  # name: (kind of its sets, folder, list)
    "real": ("rir", "real_rirs_isotropic_noises", "rir_list"),
    "simulated": ("rir", "simulated_rirs", ""),
    "isotropic": ("noise", "real_rirs_isotropic_noises", "noise_list"),
    "pointsource": ("noise", "pointsource_noises", "noise_list"),
}
ROOMS = (
    (re.compile(r"RVB2014_type\d_(?:rir|noise)_([a-z]+\d+)_.+"), "RVB2014-{}"),
    (re.compile(r"RWCP_type4_rir_[mp]?\d+[lr]"), "RWCP-robot"),
    (re.compile(r"RWCP_type\d_(?:rir|noise)_[a-z]+_(e\d|[a-z]+\d*)[a-c]?_.+"), "RWCP-{}"),
    (re.compile(r"air_type1_air_(?:binaural|phone_bt|phone)_([a-z_]+?)\d*_(?:\d|hfrp|hhp).*"), "AIR-{}"),
)

HELP = "measured and simulated rooms, and noises, of openslr.org/28 (16 kHz)"
LICENCE = "Apache 2.0"
ARCHIVES = {
    "rirs_noises": Archive(
        "https://www.openslr.org/resources/28/rirs_noises.zip",
        md5="e6f48e257286e05de56413b4779d8ffb",
        sha256="3b50cfde915b3984738169b4beb341e9f6b8062ae4c2076146c5db71c2c05dc7",
        num_bytes=1311166223,
    )
}
DEFAULT_PARTS = ("rirs_noises",)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare slr28 --root corpora/RIRS_NOISES --out data --parts real simulated"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder RIRS_NOISES, or the one above it")
    add(
        "--parts",
        nargs="+",
        default=("real",),
        choices=PARTS,
        help="real and simulated responses, or isotropic and pointsource noises (default: real)",
    )
    add(
        "--channels",
        type=int,
        nargs="+",
        default=(1,),
        metavar="N",
        help="of files with several; each becomes a file, where there are so many (default: 1)",
    )
    add_set_options(parser, "rir_", split=True)
    parser.set_defaults(prefix=None)


def prepare(
    root: Path,
    out: Path,
    prefix: str | None = None,
    parts: Sequence[str] = ("real",),
    channels: Sequence[int] = (1,),
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}`, and `out/corpus/slr28` for files of several channels.

    Args:
        prefix: None: `rir_` or `noise_`, as the parts are.
        parts: names of PARTS, all responses or all noises.
        channels: from 1; files of one channel are used as they are.

    Raises:
        ValueError, FileNotFoundError: naming files and the way out.
    """
    kinds = sorted({PARTS[part][0] for part in parts})
    if len(kinds) > 1:
        raise ValueError(f"--parts {' '.join(parts)}: responses and noises are different sets; prepare them one by one")
    if min(channels) < 1:
        raise ValueError(f"--channels {min(channels)}: they are counted from 1")
    root = unpacked(root, "RIRS_NOISES")
    recordings: list[Recording] = []
    faults: list[str] = []
    for part in dict.fromkeys(parts):
        found, wrong = simulated(root / "simulated_rirs", SIZES) if part == "simulated" else _listed(root, part)
        if part in ("real", "isotropic"):
            split_up = partial(_channels, channels=tuple(sorted(set(channels))), folder=out / "corpus" / "slr28")
            for pieces, fault in parallel_map(split_up, found, nj, "channels"):
                recordings += pieces
                faults += [fault] if fault else []
        else:
            recordings += found
        faults += wrong
    return make_sets(
        recordings,
        root,
        out,
        f"{kinds[0]}_" if prefix is None else prefix,
        kinds[0],
        faults,
        SAMPLE_RATE,
        shares=shares,
        seed=seed,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
    )


def room_of(name: str) -> str:
    """The room in which a file of real_rirs_isotropic_noises was recorded, "" for a name that does not tell."""
    for pattern, room in ROOMS:
        if match := pattern.fullmatch(name):
            return room.format(*match.groups())
    return ""


def _listed(root: Path, part: str) -> tuple[list[Recording], list[str]]:
    """The files that a list names, and the lines that cannot be used."""
    _, folder, list_name = PARTS[part]
    table = root / folder / list_name
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such list; --root is the folder RIRS_NOISES")
    recordings, faults = [], []
    for number, line in enumerate(read_lines(table), 1):
        if not line.strip():
            continue
        name = line.split()[-1].rpartition("/")[2]
        stem = name.removesuffix(".wav")
        room = room_of(stem)
        if not name.endswith(".wav") or not is_file_name(name):
            faults.append(f"{table}:{number}: the path of a .wav file expected at its end, got '{line}'")
        elif part != "pointsource" and not room:
            faults.append(f"{table}:{number}: '{name}': the name does not tell the room")
        else:
            recordings.append(
                Recording(root / folder / name, f"{part}/{stem}", group="" if part == "pointsource" else room)
            )
    return recordings, faults


def _channels(recording: Recording, channels: tuple[int, ...], folder: Path) -> tuple[list[Recording], str]:
    """A file of one channel as it is; of several, each of `channels` that it has, written to `folder`."""
    try:
        if audio.info(recording.path).num_channels == 1:
            return [recording], ""
        wave, sample_rate = audio.read(recording.path, mono=False)
        pieces = []
        for channel in [channel for channel in channels if channel <= len(wave)]:
            path = folder / f"{recording.path.stem}-ch{channel}.wav"
            audio.write(path, wave[channel - 1], sample_rate)
            pieces.append(Recording(path, f"{recording.name}-ch{channel}", group=recording.group))
        return pieces, ""
    except (ValueError, OSError) as error:
        return [], str(error)
