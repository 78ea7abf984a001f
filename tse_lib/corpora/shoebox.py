"""Simulated rooms: not on the disk but computed, each a function of --seed and its number.

A room is a box with walls that absorb alike at all frequencies, one microphone and several talkers' positions. Its
image sources are summed by pyroomacoustics (an extra: `pip install -e .[sim]`), which is left at its defaults but for:

- its high-pass is off. It runs forwards and backwards, so there is sound before the direct sound. Without any, the
  reflections, all of one sign, add up to a half of the energy below 50 Hz, which no microphone would pass on. So there
  is one here that is causal, of second order at 50 Hz.
- the delay of its interpolation is cut off: the direct sound comes at distance / 343 m/s.

The absorption is not taken from Sabine's or Eyring's formula: sound in an empty box stays along its long axes, and the
decay is 1.2 to 1.7 times as long as Eyring's. It is the one for which the energy of the image sources decays as asked.

    <out>/corpus/shoebox/room0001/room0001-1.wav …      32-bit float; 1 / distance is the height of the direct sound
    <out>/corpus/shoebox/room0001/room.json             written last: the room is whole, and made with these settings
    <out>/corpus/shoebox/metadata.csv                   all of it in a table, as the corpus `folder` reads it

With a --prefix other than `rir_` they lie below <out>/corpus/<prefix>shoebox, so that sets of other rooms keep theirs.
"""

import argparse
import csv
import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tse_lib import audio
from tse_lib.corpora.sets import SETS, SHARES, Recording, add_set_options, make_sets
from tse_lib.files import replace_file
from tse_lib.parallel import parallel_map
from tse_lib.rng import rng

SOUND_MPS = 343.0
MARGIN_M = 0.5  # from the walls
HIGH_PASS_HZ = 50
ABSORPTION = (0.01, 0.9)  # of walls that there are
TRIES = 200
ENERGY_RATE = 1000  # of the curves that the absorption is found with, in Hz
PREFIX = "rir_"
RANGES = ("rt60_s", "size_m", "height_m", "distance_m")

HELP = "rooms that are simulated (needs pip install -e .[sim])"


@dataclass(frozen=True)
class Settings:
    """What rooms are drawn from; a range is drawn uniformly.

    Attributes:
        per_room: positions of talkers.
        rt60_s: until the sound of the room is 60 dB down.
        size_m: length and width.
        distance_m: from a talker to the microphone.
    """

    seed: int = 0
    per_room: int = 4
    sample_rate: int = 16000
    rt60_s: tuple[float, float] = (0.15, 0.7)
    size_m: tuple[float, float] = (3.0, 10.0)
    height_m: tuple[float, float] = (2.4, 4.0)
    distance_m: tuple[float, float] = (0.5, 3.0)


@dataclass(frozen=True)
class Room:
    """A room, decided before any sound is computed; positions are (length, width, height) in m."""

    size_m: tuple[float, float, float]
    rt60_s: float
    absorption: float
    microphone: tuple[float, float, float]
    talkers: tuple[tuple[float, float, float], ...]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare shoebox --out data --num_rooms 600 --rt60_s 0.15 0.7 --nj 8"
    add, default = parser.add_argument, Settings()
    add("--num_rooms", type=int, default=600, help="more of them leave the others as they are (default: %(default)s)")
    add("--per_room", type=int, default=default.per_room, help="positions of talkers in a room (default: %(default)s)")
    add("--sample_rate", type=int, default=default.sample_rate, help="in Hz (default: %(default)s)")
    for name, what in (
        ("rt60_s", "reverberation times"),
        ("size_m", "length and width"),
        ("height_m", "height"),
        ("distance_m", "from a talker to the microphone"),
    ):
        limits = getattr(default, name)
        shown = " ".join(f"{limit:g}" for limit in limits)
        add(f"--{name}", type=float, nargs=2, default=limits, metavar=("MIN", "MAX"), help=f"{what} (default: {shown})")
    add_set_options(parser, PREFIX, split=True)


def prepare(
    out: Path,
    prefix: str = PREFIX,
    num_rooms: int = 600,
    per_room: int = Settings.per_room,
    sample_rate: int = Settings.sample_rate,
    rt60_s: Sequence[float] = Settings.rt60_s,
    size_m: Sequence[float] = Settings.size_m,
    height_m: Sequence[float] = Settings.height_m,
    distance_m: Sequence[float] = Settings.distance_m,
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make the rooms below `out/corpus` and their sets `out/<prefix>{train,dev,test}`, split by rooms.

    Rooms that an earlier run made with the same settings are kept; `nj` changes nothing but the speed.

    Args:
        num_rooms: in all sets together.
        per_room, sample_rate, rt60_s, size_m, height_m, distance_m: as in Settings.
        seed: of the rooms and of the split.

    Raises:
        ValueError: pyroomacoustics is missing, or numbers that make no room.
    """
    ranges = dict(zip(RANGES, (rt60_s, size_m, height_m, distance_m), strict=True))
    if num_rooms < 1 or per_room < 1:
        raise ValueError(f"--num_rooms {num_rooms} --per_room {per_room}: at least 1 each")
    if not 8000 <= sample_rate <= 48000:
        raise ValueError(f"--sample_rate {sample_rate}: 8000 to 48000 Hz")
    for name, (low, high) in ranges.items():
        least = 2 * MARGIN_M if name in ("size_m", "height_m") else 0.0
        if not least < low <= high < math.inf:
            raise ValueError(f"--{name} {low:g} {high:g}: two numbers above {least:g}, the lower one first")
    settings = Settings(seed, per_room, sample_rate, **{name: (low, high) for name, (low, high) in ranges.items()})
    _pyroomacoustics()
    corpus = out / "corpus" / ("shoebox" if prefix == PREFIX else f"{prefix}shoebox")
    for leftover in corpus.glob("**/.partial-*"):  # of a process that was killed
        leftover.unlink()
    first = corpus / "room0001" / "room.json"
    if first.exists() and not _kept(first, settings, corpus):  # the sets that are there are of other rooms
        for name in SETS:
            (out / f"{prefix}{name}" / "wav.scp").unlink(missing_ok=True)
    make = partial(make_room, settings=settings, corpus=corpus)
    rows = [row for rows in parallel_map(make, range(1, num_rooms + 1), nj, "rooms") for row in rows]
    with replace_file(corpus / "metadata.csv") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    recordings = [Recording(corpus / row["path"], Path(row["path"]).stem, group=row["group"]) for row in rows]
    return make_sets(
        recordings,
        corpus,
        out,
        prefix,
        "rir",
        sample_rate=sample_rate,
        shares=shares,
        seed=seed,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
    )


# --------------------------------------------------------------------------------------------------------------- draw


def draw_room(settings: Settings, number: int) -> Room:
    """Room `number`; drawn again where a box of its size cannot have its reverberation time.

    Raises:
        ValueError: no room was found that fits the ranges.
    """
    for attempt in range(TRIES):
        draws = rng(settings.seed, "shoebox", number, attempt)
        size = (*draws.uniform(*settings.size_m, size=2), draws.uniform(*settings.height_m))
        rt60_s = float(draws.uniform(*settings.rt60_s))
        microphone = draws.uniform(MARGIN_M, np.subtract(size, MARGIN_M))
        found = [_at_distance(draws, size, microphone, settings.distance_m) for _ in range(settings.per_room)]
        talkers = tuple(_point(talker) for talker in found if talker is not None)
        if len(talkers) < settings.per_room or _eyring_s(size, ABSORPTION[1]) > rt60_s:
            continue
        room = Room(_point(size), rt60_s, 0.0, _point(microphone), talkers)
        room = replace(room, absorption=find_absorption(room))
        if ABSORPTION[0] <= room.absorption <= ABSORPTION[1]:
            return room
    shown = " ".join(f"--{name} {low:g} {high:g}" for name in RANGES for low, high in [getattr(settings, name)])
    raise ValueError(
        f"room {number}: none of {TRIES} draws has walls that absorb {ABSORPTION[0]:.0%} to {ABSORPTION[1]:.0%} and "
        f"place for its talkers {MARGIN_M} m from them; other ranges than {shown} are needed"
    )


def find_absorption(room: Room) -> float:
    """The share of energy that walls must absorb for the sound to decay in `rt60_s`; near 0 or 1 where none will do."""
    energy = _image_energy(room)
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        decay = ((1 - middle) ** np.arange(len(energy))) @ energy
        low, high = (middle, high) if reverberation_time(decay, ENERGY_RATE) > room.rt60_s else (low, middle)
    return (low + high) / 2


def reverberation_time(energy: np.ndarray, sample_rate: int) -> float:
    """Seconds until 60 dB below, by the fall of Schroeder's integral from -5 to -35 dB; 0.0 where there is none.

    Args:
        energy: `(T,)` squared samples, the first of them the direct sound; that and 3 ms after it are not counted, or
            near a talker the fall would be that of the direct sound.
    """
    left = np.cumsum(energy[round(0.003 * sample_rate) :][::-1])[::-1]
    level = 10 * np.log10(np.maximum(left / max(left[0], 1e-30), 1e-20))
    fitted = np.flatnonzero((level <= -5) & (level >= -35))
    return -60 / float(np.polyfit(fitted / sample_rate, level[fitted], 1)[0]) if len(fitted) > 1 else 0.0


def _image_energy(room: Room) -> np.ndarray:
    """`(orders, T)`: the energy that image sources of each order bring, walls absorbing nothing, all talkers together.

    T: from the direct sound to `rt60_s` after it.
    """
    num_bins = round(room.rt60_s * ENERGY_RATE) + 1
    parts = []
    for talker in room.talkers:
        direct = math.dist(talker, room.microphone)
        reach = direct + room.rt60_s * SOUND_MPS
        squares, orders = np.zeros((1, 1, 1)), np.zeros((1, 1, 1), int)
        for axis, (length, here, there) in enumerate(zip(room.size_m, talker, room.microphone, strict=True)):
            order = np.arange(-math.ceil(reach / length) - 1, math.ceil(reach / length) + 2)
            place = np.where(order % 2 == 0, order * length + here, (order + 1) * length - here)
            shape = [len(order) if other == axis else 1 for other in range(3)]
            squares = squares + ((place - there) ** 2).reshape(shape)
            orders = orders + abs(order).reshape(shape)
        heard = squares < reach**2
        squares, orders = squares[heard], orders[heard]
        bins = ((np.sqrt(squares) - direct) * (ENERGY_RATE / SOUND_MPS)).astype(int)
        energy = np.bincount(orders * num_bins + bins, 1 / squares, (orders.max() + 1) * num_bins).reshape(-1, num_bins)
        parts.append(energy)
    total = np.zeros((max(map(len, parts)), num_bins))
    for part in parts:
        total[: len(part)] += part
    return total


def _eyring_s(size: Sequence[float], absorption: float) -> float:
    length, width, height = size
    surface = 2 * (length * width + length * height + width * height)
    return 24 * math.log(10) / SOUND_MPS * length * width * height / (-surface * math.log(1 - absorption))


def _at_distance(
    draws: np.random.Generator, size: Sequence[float], microphone: np.ndarray, distance_m: tuple[float, float]
) -> np.ndarray | None:
    """A position at a distance of that range, in any direction, away from the walls; None where none was found."""
    for _ in range(100):
        direction = draws.standard_normal(3)
        position = microphone + direction * (draws.uniform(*distance_m) / np.linalg.norm(direction))
        if (position >= MARGIN_M).all() and (position <= np.subtract(size, MARGIN_M)).all():
            return position
    return None


def _point(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    length, width, height = (float(value) for value in values)
    return length, width, height


# --------------------------------------------------------------------------------------------------------------- make


def make_room(number: int, settings: Settings, corpus: Path) -> list[dict[str, Any]]:
    """Draw a room and write its responses, or keep those that are there; a row of metadata.csv for each."""
    name = f"room{number:04d}"
    told = corpus / name / "room.json"
    kept = _kept(told, settings, corpus)
    if kept:
        return kept
    told.unlink(missing_ok=True)  # from here on until it is written again, the room is not there
    room = draw_room(settings, number)
    rows = []
    for place, (talker, wave) in enumerate(zip(room.talkers, simulate(room, settings.sample_rate), strict=True), 1):
        path = f"{name}/{name}-{place}.wav"
        audio.write(corpus / path, wave, settings.sample_rate)
        distance_m = math.dist(talker, room.microphone)
        energy = wave[round(distance_m / SOUND_MPS * settings.sample_rate) :].astype(np.float64) ** 2
        rows.append(
            {
                "path": path,
                "group": name,
                "length_m": round(room.size_m[0], 3),
                "width_m": round(room.size_m[1], 3),
                "height_m": round(room.size_m[2], 3),
                "absorption": round(room.absorption, 3),
                "rt60_asked_s": round(room.rt60_s, 3),
                "rt60_s": round(reverberation_time(energy, settings.sample_rate), 3),
                "distance_m": round(distance_m, 3),
                "num_samples": len(wave),
            }
        )
    with replace_file(told) as file:
        json.dump({"settings": asdict(settings), "room": asdict(room), "rows": rows}, file)
    return rows


def simulate(room: Room, sample_rate: int) -> list[np.ndarray]:
    """The response `(T,)` float32 at each talker's position, until `rt60_s` after its direct sound."""
    from scipy.signal import butter, sosfilt  # slow to import, and every `tse prepare` reads this file

    pyroomacoustics = _pyroomacoustics()
    farthest = max(math.dist(talker, room.microphone) for talker in room.talkers) + room.rt60_s * SOUND_MPS
    # no image source of a higher order is as near as that
    max_order = math.ceil(farthest * math.sqrt(sum(1 / length**2 for length in room.size_m))) + 3
    box = pyroomacoustics.ShoeBox(
        room.size_m, fs=sample_rate, materials=pyroomacoustics.Material(room.absorption), max_order=max_order
    )
    box.set_sound_speed(SOUND_MPS)
    box.add_microphone(room.microphone)
    for talker in room.talkers:
        box.add_source(talker)
    box.compute_rir()
    early = pyroomacoustics.constants.get("frac_delay_length") // 2
    high_pass = butter(2, HIGH_PASS_HZ, "highpass", fs=sample_rate, output="sos")
    waves = []
    for talker, wave in zip(room.talkers, box.rir[0], strict=True):
        length = round((math.dist(talker, room.microphone) / SOUND_MPS + room.rt60_s) * sample_rate)
        waves.append(sosfilt(high_pass, wave[early : early + length]).astype(np.float32))
    return waves


def _kept(told: Path, settings: Settings, corpus: Path) -> list[dict[str, Any]]:
    """The rows of a room that an earlier run made with the same settings, all of whose files are whole; else none."""
    try:
        room = json.loads(told.read_text(encoding="utf-8"))
        whole = all(audio.info(corpus / row["path"]).num_samples == row["num_samples"] for row in room["rows"])
        same = room["settings"] == json.loads(json.dumps(asdict(settings)))
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return room["rows"] if whole and same else []


def _pyroomacoustics() -> ModuleType:
    """The package, set up as the top of this file says.

    Raises:
        ValueError: it is not installed.
    """
    try:
        pyroomacoustics = importlib.import_module("pyroomacoustics")
    except ImportError:
        raise ValueError("simulated rooms need pyroomacoustics: pip install -e .[sim]") from None
    pyroomacoustics.constants.set("rir_hpf_enable", False)
    pyroomacoustics.constants.set("num_threads", 1)  # --nj says how many processes there are
    return pyroomacoustics
