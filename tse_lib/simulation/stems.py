"""Mixtures of stems: drawn as text, then rendered. A drum kit's stems come from hits put together as a drummer played.

What is drawn: the performance or track, where it is cropped, which stems come from another one, for each hit its
recording, by velocity, among near ranks; levels, channels, polarity. Every draw is `rng(seed, split, mix_id, knob)`.
"""

import functools
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tse_lib.config import Sets, Stems
from tse_lib.dsp.level import gain
from tse_lib.manifest import (
    ACTIVITY_BLOCK_S,
    Clip,
    Mixture,
    OneShot,
    Performance,
    Stem,
    StemSet,
    Track,
    read_stems,
)
from tse_lib.rng import rng

CROP_TRIES = 20  # for a crop in which something is heard
FULL_SCALE = 1 - 2**-23  # the most that 24 bits hold
STEP = 2.0**-23  # of 24 bits: stems are rounded to it, so that their sum is the mixture on the disk, too

# Notes of Roland's TD-11, as the page of the Groove MIDI Dataset lists them, and how they are played; the first word is
# the stem. Words after it choose among a stem's instruments by their names, as far as those say something.
NOTES: dict[int, tuple[str, ...]] = {
    36: ("kick",), 35: ("kick",),
    38: ("snare",), 40: ("snare", "rim"), 37: ("snare", "stick"), 39: ("snare", "clap"),
    48: ("toms", "1"), 50: ("toms", "1"), 45: ("toms", "2"), 47: ("toms", "2"), 43: ("toms", "3"), 58: ("toms", "3"),
    41: ("toms", "4"),
    46: ("hihat", "open"), 26: ("hihat", "open"), 42: ("hihat", "closed"), 22: ("hihat", "closed"),
    44: ("hihat", "pedal", "closed"),
    49: ("cymbals", "crash"), 55: ("cymbals", "crash"), 57: ("cymbals", "crash", "2"),
    52: ("cymbals", "china", "crash", "2"), 51: ("cymbals", "ride"), 59: ("cymbals", "ride", "2"),
    53: ("cymbals", "bell", "ride"),
}  # fmt: skip
OPEN, DAMPS = (46, 26), (42, 22, 44)  # an open hi-hat sounds until it is closed
WORDS = ("bell", "ride", "crash", "china", "splash", "open", "closed", "pedal", "rim", "stick", "clap")


# ---------------------------------------------------------------------------------------------------------- the corpus


@dataclass(frozen=True)
class Kit:
    """The one-shots of a drum kit: of each instrument of a stem its hits, softest first."""

    name: str
    instruments: Mapping[str, Mapping[str, Sequence[OneShot]]]  # by stem, by name

    @property
    def longest_s(self) -> float:
        return max(
            hit.num_samples / hit.sample_rate
            for of_stem in self.instruments.values()
            for hits in of_stem.values()
            for hit in hits
        )


@dataclass(frozen=True)
class StemCorpus:
    """What mixtures of stems are drawn from: performances with kits to play them on, and tracks."""

    performances: Sequence[Performance]
    oneshots: Sequence[OneShot]
    tracks: Sequence[Track]
    kits: Sequence[Kit] = field(init=False)
    hearing: Mapping[str, Sequence[int]] = field(init=False)  # of each stem the numbers of those that have it

    def __post_init__(self) -> None:
        hearing: dict[str, list[int]] = {}
        for number in range(len(self)):
            for stem in _stems_in(self[number]):
                hearing.setdefault(stem, []).append(number)
        object.__setattr__(self, "hearing", hearing)
        kits: dict[str, dict[str, dict[str, list[OneShot]]]] = {}
        for hit in sorted(self.oneshots, key=lambda hit: (hit.velocity_rank, hit.path)):
            kits.setdefault(hit.kit, {}).setdefault(hit.stem, {}).setdefault(hit.instrument, []).append(hit)
        object.__setattr__(self, "kits", [Kit(name, kits[name]) for name in sorted(kits)])

    def __len__(self) -> int:
        return len(self.performances) + len(self.tracks)

    def __getitem__(self, index: int) -> Performance | Track:
        performances = len(self.performances)
        return self.performances[index] if index < performances else self.tracks[index - performances]

    @property
    def names(self) -> list[str]:
        return [*(one.perf_id for one in self.performances), *(one.track_id for one in self.tracks)]


def read_stem_corpus(folders: Sequence[Path], conf: Stems, sample_rate: int) -> StemCorpus:
    """Read data sets of stems, and check that the conf's mixtures can be drawn from them.

    Raises:
        FileNotFoundError, ValueError: no such set; a stem that a kit or a track has not; tracks of another rate.
    """
    sets: list[StemSet] = [read_stems(folder) for folder in folders]
    shots = {hit.path: hit for one in sets for hit in one.oneshots}  # sets may share those, but no performance
    corpus = StemCorpus(
        [play for one in sets for play in one.performances],
        list(shots.values()),
        [track for one in sets for track in one.tracks],
    )
    shown, names = ", ".join(map(str, folders)), corpus.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown}: '{twice}' is in two of the sets; give each once")
    for kit in corpus.kits if corpus.performances else ():
        lacks = [stem for stem in conf.stems if stem not in kit.instruments]
        if lacks:
            raise ValueError(
                f"{shown}: no one-shots of stem '{lacks[0]}'; there are {', '.join(sorted(kit.instruments))}"
            )
    for track in corpus.tracks:
        lacks = [stem for stem in conf.stems if stem not in track.stems]
        if lacks:
            raise ValueError(
                f"{shown}: track '{track.track_id}' has no stem '{lacks[0]}', but {', '.join(track.stems)}"
            )
        if track.sample_rate != sample_rate:
            raise ValueError(
                f"{shown}: track '{track.track_id}' has {track.sample_rate} Hz, the conf {sample_rate} Hz; resample it"
            )
    return corpus


# ---------------------------------------------------------------------------------------------------------- the drawing


def sample_stems(
    corpus: StemCorpus, conf: Stems, sample_rate: int, seed: int, split: str, mix_id: str, attempt: int = 0
) -> Mixture:
    """Draw one mixture. A function of its arguments alone.

    A stem that is exchanged comes from another performance or track, and is heard there, if a crop can be found.

    Args:
        attempt: above 0: another mixture under the same id, for where a file of the first cannot be read.
    """
    draw = partial(rng, seed, split, mix_id, *(("attempt", attempt) if attempt else ()))
    num_samples = round(_uniform(draw, conf.segment_s, "segment_s") * sample_rate)
    seconds = num_samples / sample_rate
    number = int(draw("track").integers(len(corpus)))
    begin = _crop(draw("crop"), corpus[number], seconds, conf.stems, conf.min_stems)
    kit = corpus.kits[int(draw("kit").integers(len(corpus.kits)))] if corpus.kits else None
    stems = []
    for name in conf.stems:
        if _happens(draw, conf.drop_probability, "drop", name):
            stems.append(Stem(name, ""))
            continue
        origin, start = corpus[number], begin
        others = [other for other in corpus.hearing.get(name, ()) if other != number]
        if others and _happens(draw, conf.swap_probability, "swap", name):
            origin = corpus[others[int(draw("swap_track", name).integers(len(others)))]]
            start = _crop(draw("swap_crop", name), origin, seconds, (name,))
        if isinstance(origin, Track):
            own, clips = origin.track_id, _cut(origin, name, start, num_samples)
        else:
            assert kit
            own, clips = origin.perf_id, _played(draw, origin, name, start, seconds, sample_rate, kit, conf)
        stems.append(
            Stem(
                name,
                own,
                clips,
                gain_db=round(_uniform(draw, conf.gain_db, "gain_db", name), 3),
                swap_channels=_happens(draw, conf.channel_swap_probability, "channel_swap", name),
                invert=_happens(draw, conf.invert_probability, "invert", name),
            )
        )
    return _mixture_of(
        mix_id,
        sample_rate,
        num_samples,
        conf,
        stems,
        _uniform(draw, conf.peak_dbfs, "peak_dbfs") if conf.peak_dbfs else 0,
    )


def stem_set(data: str | Path, name: str, sets: Sets) -> list[Mixture]:
    """All mixtures of one set of `conf/sets.yaml`: drawn, or the whole tracks."""
    one, conf = sets.sets[name], sets.sets[name].simulation
    assert isinstance(conf, Stems)
    corpus = read_stem_corpus([Path(data) / folder for folder in one.tracks], conf, sets.sample_rate)
    if not conf.whole:
        assert one.num_mixtures
        return [
            sample_stems(corpus, conf, sets.sample_rate, sets.seed, name, f"{name}-{number:05d}")
            for number in range(one.num_mixtures)
        ]
    if not corpus.tracks:
        raise ValueError(f"{name}: whole: takes tracks; {', '.join(one.tracks)} has performances only")
    found = []
    for track in corpus.tracks:
        stems = [Stem(stem, track.track_id, _cut(track, stem, 0.0, track.num_samples)) for stem in conf.stems]
        found.append(_mixture_of(track.track_id, track.sample_rate, track.num_samples, conf, stems, 0.0))
    return found


def _mixture_of(
    mix_id: str, sample_rate: int, num_samples: int, conf: Stems, stems: Sequence[Stem], peak_dbfs: float
) -> Mixture:
    return Mixture(
        mix_id=mix_id,
        sample_rate=sample_rate,
        num_samples=num_samples,
        target_present=True,
        talkers=(),
        enrolls=(),
        stems=tuple(stems),
        num_channels=conf.num_channels,
        peak_dbfs=round(peak_dbfs, 3),
    )


def _crop(
    generator: np.random.Generator, origin: Performance | Track, seconds: float, stems: Sequence[str], wanted: int = 1
) -> float:
    """Where in a performance or track the mixture begins, in seconds.

    It is the first crop tried in which as many of the stems are heard as are wanted, else that with the most.
    """
    room, best, most = max(0.0, origin.seconds - seconds), 0.0, -1
    for _ in range(CROP_TRIES):
        begin = round(float(generator.uniform(0, room)), 6)
        count = _num_heard(origin, begin, seconds, stems)
        if count > most:
            best, most = begin, count
        if count >= wanted:
            break
    return best


def _num_heard(origin: Performance | Track, begin: float, seconds: float, stems: Sequence[str]) -> int:
    """How many of the stems are heard from `begin` on."""
    if isinstance(origin, Track):
        first, last = int(begin / ACTIVITY_BLOCK_S), math.ceil((begin + seconds) / ACTIVITY_BLOCK_S)
        return sum("1" in origin.activity[stem][first:last] for stem in stems)
    struck = {_stem_of(note) for _, note, _ in origin.hits[slice(*_between(origin, begin, begin + seconds))]}
    return len(struck & set(stems))


def _between(origin: Performance, begin: float, end: float) -> tuple[int, int]:
    """The places of the hits in the order of their times."""
    return bisect_left(origin.hits, (begin,)), bisect_left(origin.hits, (end,))


def _stems_in(origin: Performance | Track) -> list[str]:
    if isinstance(origin, Track):
        return [stem for stem, blocks in origin.activity.items() if "1" in blocks]
    return sorted({_stem_of(note) for _, note, _ in origin.hits} - {""})


def _stem_of(note: int) -> str:
    return NOTES[note][0] if note in NOTES else ""


def _cut(track: Track, stem: str, begin: float, num_samples: int) -> tuple[Clip, ...]:
    """A stem of a track from `begin` on; a track that is shorter than the mixture ends before it."""
    start = round(begin * track.sample_rate)
    length = min(num_samples, track.num_samples - start)
    return tuple(Clip(path, start, length) for path in track.stems[stem])


def _played(
    draw: partial,
    origin: Performance,
    stem: str,
    begin: float,
    seconds: float,
    sample_rate: int,
    kit: Kit,
    conf: Stems,
) -> tuple[Clip, ...]:
    """The hits of a stem from `begin` on, and those before that still sound then, on the instruments of a kit."""
    longest = kit.longest_s / min(1.0, conf.speed[0])
    first, end = _between(origin, begin - longest, begin + seconds)
    hits = [
        (number, time - begin, note, velocity)
        for number, (time, note, velocity) in enumerate(origin.hits[first:end], first)
        if _stem_of(note) == stem
    ]
    clips = []
    for place, (number, time, note, velocity) in enumerate(hits):
        instrument = _instrument(draw, note, kit.instruments[stem])
        shots = kit.instruments[stem][instrument]
        position = velocity / 127 * len(shots) - 0.5  # among the ranks, 0 is the softest
        low, high = math.floor(position) - conf.rank_spread, math.ceil(position) + conf.rank_spread
        rank = int(draw("rank", stem, number).integers(max(0, low), min(len(shots) - 1, high) + 1))
        shot = shots[rank]
        speed = round(_uniform(draw, conf.speed, "speed", instrument), 4)
        at = round(time * sample_rate)
        length, fade = shot.num_samples, 0.0
        damped = next((later for _, later, other, _ in hits[place + 1 :] if other in DAMPS), None)
        if note in OPEN and damped is not None:
            heard = math.ceil((damped - time + conf.choke_s) * shot.sample_rate * speed)
            if heard < length:
                length, fade = max(1, heard), conf.choke_s
        if at + length / shot.sample_rate / speed * sample_rate < 1:
            continue  # it is over before the mixture begins
        clips.append(
            Clip(
                shot.path,
                0,
                length,
                at,
                gain_db=round(conf.dynamics_db * (position - rank) / len(shots), 3),
                speed=speed,
                pan=round(_uniform(draw, conf.pan, "pan", instrument), 3) if shot.num_channels == 1 else 0.0,
                fade_s=fade,
            )
        )
    return tuple(clips)


def _instrument(draw: partial, note: int, instruments: Mapping[str, Sequence[OneShot]]) -> str:
    """The instrument that plays a note: the same one for all its hits in a mixture.

    A word of the note (open, ride…) chooses among the instruments that have it in their names. Toms are dealt out in
    the order of their names, highest first.
    """
    stem, *words = NOTES[note]
    names = sorted(instruments)
    if stem == "toms":
        return names[min(len(names) - 1, (int(words[0]) - 1) * len(names) // 3)]
    for word in words:
        fitting = [name for name in names if _word_of(name) == word]
        if fitting:
            break
    else:
        word, fitting = "", [name for name in names if not _word_of(name)] or names
    first = int(draw("instrument", stem, word).integers(len(fitting)))
    return fitting[(first + ("2" in words)) % len(fitting)]  # the second crash is another one, where there are two


def _word_of(name: str) -> str:
    """How an instrument is played, as far as its name says so; of RideBell the bell."""
    return next((word for word in WORDS if word in name.lower()), "")


def _uniform(draw: partial, limits: tuple[float, float], *names: str | int) -> float:
    """Between the limits; one number is not drawn."""
    return limits[0] if limits[0] == limits[1] else float(draw(*names).uniform(*limits))


def _happens(draw: partial, probability: float, *names: str | int) -> bool:
    """True with this probability; what is certain is not drawn."""
    if probability in (0, 1):
        return probability == 1
    return bool(draw(*names).random() < probability)


# -------------------------------------------------------------------------------------------------------- the rendering


@dataclass(frozen=True)
class RenderedStems:
    """`mixture` is the sum of the targets, sample by sample."""

    mixture: Tensor  # (C, T)
    targets: Tensor  # (S, C, T)


def render_stems(mixture: Mixture, read: Callable[[Clip], Tensor]) -> RenderedStems:
    """Add up the clips of each stem, and the stems.

    Args:
        read: gives a clip's samples (1 or C, n), at the mixture's rate and the clip's speed.
    """
    targets = torch.zeros(len(mixture.stems), mixture.num_channels, mixture.num_samples)
    for stem, into in zip(mixture.stems, targets, strict=True):
        for clip in stem.clips:
            wave = _panned(read(clip), clip, mixture.num_channels)
            wave = _faded(wave, clip.fade_s, mixture.sample_rate)[:, max(0, -clip.at) :]
            begin = max(0, clip.at)
            wave = wave[:, : max(0, mixture.num_samples - begin)]
            into[:, begin : begin + wave.shape[1]] += wave
        into *= gain(stem.gain_db) * (-1.0 if stem.invert else 1.0)
        if stem.swap_channels:
            into.copy_(into.flip(0))
    peak = targets.sum(0).abs().max()
    loudest = torch.maximum(peak, targets.abs().max())
    scale = torch.tensor(1.0)
    if mixture.peak_dbfs and peak > 0:
        scale = gain(mixture.peak_dbfs) / peak
    most = FULL_SCALE - len(mixture.stems) * STEP  # the rounding of every stem may add to the sum
    scale = torch.minimum(scale, most / loudest.clamp_min(1e-8))
    targets = (targets * (scale / STEP)).round() * STEP
    return RenderedStems(targets.sum(0), targets)


def _panned(wave: Tensor, clip: Clip, num_channels: int) -> Tensor:
    """(c, n) -> (C, n) with the clip's gain; a mono file is panned at constant power, 0 dB in the middle."""
    wave = wave * gain(clip.gain_db)
    if len(wave) == num_channels:
        return wave
    if num_channels == 1:
        return wave.mean(0, keepdim=True)
    angle = torch.tensor((clip.pan + 1) * math.pi / 4)
    return wave * torch.stack([angle.cos(), angle.sin()])[:, None] * math.sqrt(2)


def _faded(wave: Tensor, fade_s: float, sample_rate: int) -> Tensor:
    size = min(round(fade_s * sample_rate), wave.shape[1])
    if size == 0:
        return wave
    wave = wave.clone()
    wave[:, -size:] *= _fall(size)
    return wave


@functools.lru_cache(maxsize=16)
def _fall(size: int) -> Tensor:
    return torch.cos(torch.linspace(0, torch.pi / 2, size)).square()
