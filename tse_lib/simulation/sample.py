"""Decide what a mixture is, as text: who, where from, wanted levels, speed, room, crop, presence. No audio is touched.

Every draw is `rng(seed, split, mix_id, knob)`: a mixture is the same offline and on the fly, on one worker or eight,
and a new knob never moves the others.
"""

import dataclasses
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np

from tse_lib.config import MixtureSet, Sets, Simulation
from tse_lib.manifest import (
    ACTIVITY_BLOCK_S,
    Mask,
    Mixture,
    Response,
    Source,
    Utterance,
    by_speaker,
    read_data_dir,
    read_embeddings,
    read_genders,
)
from tse_lib.rng import rng

CROP_TRIES = 20
EQ_BANDS = 6  # of render.EQ_HZ


class Joined(Sequence[Utterance]):
    """Several sets as one sequence, without copying them."""

    def __init__(self, *parts: Sequence[Utterance]):
        self.parts = [part for part in parts if len(part)]
        self.ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...
    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self.ends, index)
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]

    def __iter__(self) -> Iterator[Utterance]:
        for part in self.parts:
            yield from part


@dataclass(frozen=True)
class Corpus:
    """What mixtures are drawn from: speech by speaker, noise, room responses by the name of their set.

    Where the talker is told by `embeddings` from elsewhere, these are there by utterance.
    """

    speech: Sequence[Utterance]
    noise: Sequence[Utterance] = ()
    rirs: Mapping[str, Sequence[Utterance]] = field(default_factory=dict)
    genders: Mapping[str, str] = field(default_factory=dict)
    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)
    by_speaker: Mapping[str, Sequence[int]] = field(init=False)  # numbers of `speech`
    speakers: list[str] = field(init=False)
    all_rirs: Sequence[Utterance] = field(init=False)
    by_room: Mapping[str, Sequence[int]] = field(init=False)  # numbers of `all_rirs`

    def __post_init__(self) -> None:
        rooms: dict[str, list[int]] = {}
        all_rirs = Joined(*self.rirs.values())
        for number, rir in enumerate(all_rirs):
            if rir.group:
                rooms.setdefault(rir.group, []).append(number)
        speakers = by_speaker(self.speech)
        derived = {"by_speaker": speakers, "speakers": list(speakers), "all_rirs": all_rirs, "by_room": rooms}
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def read_corpus(
    speech: Path | Sequence[Path],
    noise: Path | Sequence[Path] = (),
    rirs: Path | Sequence[Path] = (),
    task: str = "extract",
    embedding_dim: int = 0,
) -> Corpus:
    """Read data sets into a corpus and check that mixtures for the task (extract, separate) can be drawn from it.

    With `embedding_dim`, also the embeddings of that size of its speech.

    Raises:
        ValueError: fewer than 2 speakers, a speaker in two of the sets, or, where enrolments are needed, one with a
            single utterance (no enrolment would be left).
    """
    speech, noise, rirs = ([part] if isinstance(part, Path) else list(part) for part in (speech, noise, rirs))
    sets = [read_data_dir(folder) for folder in speech]
    owner: dict[str, Path] = {}
    for folder, utterances in zip(speech, sets, strict=True):
        for speaker in by_speaker(utterances):
            if owner.setdefault(speaker, folder) != folder:
                raise ValueError(
                    f"{folder}: speaker '{speaker}' is in {owner[speaker]} too; one of them must be renamed"
                )
    genders = {speaker: gender for folder in speech for speaker, gender in read_genders(folder).items()}
    corpus = Corpus(
        sets[0] if len(sets) == 1 else Joined(*sets),
        Joined(*(read_data_dir(folder) for folder in noise)),
        {folder.name: read_data_dir(folder) for folder in rirs},
        genders,
        {
            name: one
            for folder in speech
            if embedding_dim
            for name, one in read_embeddings(folder, embedding_dim).items()
        },
    )
    shown = ", ".join(map(str, speech))
    if len(corpus.speakers) < 2:
        raise ValueError(f"{shown}: {len(corpus.speakers)} speaker(s), at least 2 are needed to mix")
    single = [spk for spk, utts in corpus.by_speaker.items() if len(utts) < 2]
    if single and task == "extract":
        raise ValueError(
            f"{shown}: {len(single)} speaker(s) with one utterance ({', '.join(single[:3])}…); the enrolment must be "
            "another utterance than the mixed one: use a cut list or leave them out in the prepare stage"
        )
    return corpus


def sample(
    corpus: Corpus, conf: Simulation, sample_rate: int, seed: int, split: str, mix_id: str, attempt: int = 0
) -> Mixture:
    """Draw one mixture. A function of its arguments alone; the curriculum acts by handing in another `conf`.

    Args:
        attempt: above 0: another mixture under the same id, with the target present or absent as at first; for where
            a file of the first cannot be read.

    Raises:
        ValueError: the corpus lacks what the conf asks for (speakers, noise, rooms).
    """
    draw = partial(rng, seed, split, mix_id, *(("attempt", attempt) if attempt else ()))
    num_samples = round(_uniform(draw, conf.segment_s, "segment_s") * sample_rate)
    present = target_is_present(conf, seed, split, mix_id)
    count = _count(draw, conf.num_talkers, "num_talkers")
    wanted = count if present else count + 1  # an absent target is one more speaker, who only enrols
    if wanted > len(corpus.speakers):
        raise ValueError(f"num_talkers: {wanted} different speakers needed, the set has {len(corpus.speakers)}")

    # every utterance is a target equally often, so the speaker of a drawn utterance is the target
    first_number = int(draw("target").integers(len(corpus.speech)))
    first = corpus.speech[first_number]
    chosen = draw("interferers").choice(len(corpus.speakers) - 1, wanted - 1, replace=False)
    own_place = corpus.speakers.index(first.spk_id)
    utts = [first]
    for place, index in enumerate(chosen):
        of_speaker = corpus.by_speaker[corpus.speakers[int(index) + (index >= own_place)]]
        utts.append(corpus.speech[int(of_speaker[int(draw("utterance", place).integers(len(of_speaker)))])])
    speeds = [_speed(draw, place, conf) for place in range(wanted)]
    enroll_speed = speeds[0] if conf.speed_enroll else 1.0
    if not present:
        utts, speeds = utts[1:], speeds[1:]

    rirs = _rirs(draw, len(utts), corpus, conf)
    stretches = _stretches(draw, len(utts), num_samples, sample_rate, present, conf)
    talkers = []
    for place, (utt, speed, rir, stretch) in enumerate(zip(utts, speeds, rirs, stretches, strict=True)):
        crop = _crop(draw("crop", place), utt, stretch, sample_rate, speed, conf.min_activity)
        if stretch != (0, num_samples) and crop.num_samples < utt.num_samples:
            crop = dataclasses.replace(crop, fade_s=conf.fade_s)
        if rir and crop.offset == 0:
            crop = _run_in(crop, utt, rir, corpus, sample_rate)
        talkers.append(
            dataclasses.replace(
                crop,
                gender=corpus.genders.get(utt.spk_id, ""),
                level_db=_uniform(draw, conf.sir_db, "sir_db", place) if place else 0.0,
                rir=_response(rir),
            )
        )

    own = corpus.by_speaker[first.spk_id]
    spare = [int(number) for number in own if not present or int(number) != first_number]
    num_enrolls = _count(draw, conf.num_enrolls, "num_enrolls")
    order = draw("enroll").permutation(len(spare))[:num_enrolls]
    enrolls = []
    for place, index in enumerate(order):
        assert conf.enroll_s
        length = round(_uniform(draw, conf.enroll_s, "enroll_s", place) * sample_rate)
        utt = corpus.speech[spare[int(index)]]
        crop = _crop(draw("enroll_crop", place), utt, (0, length), sample_rate, enroll_speed, conf.min_activity)
        crop = dataclasses.replace(crop, offset=0, gender=corpus.genders.get(first.spk_id, ""))
        enrolls.append(_degraded(draw, place, crop, crop.num_samples / utt.sample_rate / enroll_speed, corpus, conf))

    return Mixture(
        mix_id=mix_id,
        sample_rate=sample_rate,
        num_samples=num_samples,
        target_present=present,
        talkers=tuple(talkers),
        enrolls=tuple(enrolls),
        noise=_noise(draw, corpus, conf, num_samples, sample_rate),
        level_dbfs=_uniform(draw, conf.level_dbfs, "level_dbfs"),
        target=conf.target,
        early_s=conf.early_s if conf.target == "early" else 0.0,
        band_limit_hz=_sometimes(draw, "band_limit", conf.band_limit_probability, conf.band_limit_hz),
        clip_db=_sometimes(draw, "clip", conf.clip_probability, conf.clip_db),
        masks=_masks(draw, conf, num_samples / sample_rate, sample_rate),
    )


def sample_set(data: str | Path, name: str, sets: Sets) -> tuple[Corpus, list[Mixture]]:
    """All mixtures of one set of `conf/sets.yaml`, drawn from the data sets below `data`."""
    conf, simulation = sets.sets[name], sets.sets[name].simulation
    assert isinstance(simulation, Simulation) and conf.num_mixtures
    corpus = corpus_of_set(Path(data), conf)
    ids = [f"{name}-{number:05d}" for number in range(conf.num_mixtures)]
    absent: dict[str, float] = {}  # the probability of each
    if conf.num_absent is not None:  # those that would be absent first if the probability rose
        order = sorted(ids, key=lambda mix_id: rng(sets.seed, name, mix_id, "target_absent").random())
        absent = {mix_id: float(place < conf.num_absent) for place, mix_id in enumerate(order)}
    confs = [
        simulation.model_copy(update={"target_absent": absent.get(mix_id, simulation.target_absent)}) for mix_id in ids
    ]
    return corpus, [
        sample(corpus, one, sets.sample_rate, sets.seed, name, mix_id) for one, mix_id in zip(confs, ids, strict=True)
    ]


def corpus_of_set(data: Path, conf: MixtureSet) -> Corpus:
    speech, noise, rirs = ([data / name for name in names] for names in (conf.speech, conf.noise, conf.rirs))
    return read_corpus(speech, noise, rirs, conf.simulation.task)


def target_is_present(conf: Simulation, seed: int, split: str, mix_id: str) -> bool:
    """The draw of presence alone: cheap, so that a loss's denominator is known before anything is rendered."""
    return not _happens(partial(rng, seed, split, mix_id), conf.target_absent, "target_absent")


def check_disjoint(data: str | Path, names: Sequence[str]) -> None:
    """ValueError when a speaker, the place of a noise or a room is in two of the data sets."""
    owner: dict[str, str] = {}
    for name in names:
        for item in {utt.spk_id or utt.group or utt.utt_id for utt in read_data_dir(Path(data) / name)}:
            if owner.setdefault(item, name) != name:
                raise ValueError(f"{data}: '{item}' is in {owner[item]} and in {name}; sets must be disjoint")


def _uniform(draw: partial, limits: tuple[float, float], *names: str | int) -> float:
    """Between the limits; one number is not drawn."""
    return limits[0] if limits[0] == limits[1] else float(draw(*names).uniform(*limits))


def _count(draw: partial, limits: tuple[int, int], *names: str | int) -> int:
    """Of the limits and what lies between; one number is not drawn."""
    return limits[0] if limits[0] == limits[1] else int(draw(*names).integers(limits[0], limits[1] + 1))


def _happens(draw: partial, probability: float, *names: str | int) -> bool:
    """True with this probability; what is certain is not drawn."""
    if probability in (0, 1):
        return probability == 1
    return bool(draw(*names).random() < probability)


def _sometimes(draw: partial, knob: str, probability: float, limits: tuple[float, float]) -> float:
    """A value with this probability, else 0."""
    return _uniform(draw, limits, knob) if _happens(draw, probability, f"{knob}_present") else 0.0


def _speed(draw: partial, place: int, conf: Simulation) -> float:
    perturbed = _happens(draw, conf.speed_probability, "speed_present", place)
    return _uniform(draw, conf.speed, "speed", place) if perturbed else 1.0


def _stretches(
    draw: partial, count: int, num_samples: int, sample_rate: int, present: bool, conf: Simulation
) -> list[tuple[int, int]]:
    """From where to where in the mixture each talker may speak.

    The target's stretch takes a share of the segment; each interferer covers a share of that stretch, from one of its
    ends outwards to the segment's end.
    """
    begin, end = 0, num_samples
    if present and conf.target_presence != (1.0, 1.0):
        length = max(1, round(_uniform(draw, conf.target_presence, "target_presence") * num_samples))
        begin = int(draw("target_begin").integers(0, num_samples - length + 1))
        if conf.target_begin_s is not None:
            begin = round(_uniform(draw, conf.target_begin_s, "target_begin_s") * sample_rate)
            begin = min(begin, num_samples - length)
        end = begin + length
    stretches = [(begin, end)]
    for place in range(1, count):
        share = _uniform(draw, conf.overlap_ratio, "overlap_ratio", place)
        covered = round(share * (end - begin))
        before, after = (0, begin + covered), (end - covered, num_samples)
        if share == 1.0:
            stretches.append((0, num_samples))
        else:  # the side with more room more often, so that nobody is squeezed out of the segment
            room = before[1], num_samples - after[0]
            left = draw("overlap_side", place).random() * max(1, sum(room)) < room[0]
            stretches.append(before if left else after)
    return stretches


def _crop(
    generator: np.random.Generator,
    utt: Utterance,
    stretch: tuple[int, int],
    sample_rate: int,
    speed: float,
    min_activity: float,
) -> Source:
    """A part of `utt` that fills the stretch (samples of the mixture) after resampling and speed, with speech in it.

    A shorter utterance is taken whole and begins somewhere inside.
    """
    num_samples = max(1, stretch[1] - stretch[0])
    needed = max(1, round(num_samples / sample_rate * utt.sample_rate * speed))  # at the file's rate
    source = Source(utt.path, utt.start, utt.num_samples, utt.utt_id, utt.spk_id, speed=speed, offset=stretch[0])
    room = utt.num_samples - needed
    if room <= 0:
        length = int(utt.num_samples / utt.sample_rate / speed * sample_rate)
        begin = int(generator.integers(0, max(0, num_samples - length) + 1))
        return dataclasses.replace(source, offset=stretch[0] + begin)
    best, best_share = 0, -1.0
    for _ in range(CROP_TRIES):  # the first crop with enough speech, else the best of them
        begin = int(generator.integers(0, room + 1))
        share = _active_share(utt, begin, needed)
        if share > best_share:
            best, best_share = begin, share
        if share >= min_activity:
            break
    if best_share < min_activity:
        best = _most_active(utt, needed, best, best_share)
    return dataclasses.replace(source, start=utt.start + best, num_samples=needed)


def _active_share(utt: Utterance, begin: int, num_samples: int) -> float:
    if not utt.activity:
        return 1.0
    block = ACTIVITY_BLOCK_S * utt.sample_rate
    part = utt.activity[int(begin / block) : int(np.ceil((begin + num_samples) / block))]
    return part.count("1") / max(1, len(part))


def _most_active(utt: Utterance, num_samples: int, begin: int, share: float) -> int:
    """Where of all crops on the grid of blocks most is said, where that is more than at `begin`."""
    block = ACTIVITY_BLOCK_S * utt.sample_rate
    blocks = np.frombuffer(utt.activity.encode(), np.uint8) == ord("1")
    said = np.concatenate([[0], np.cumsum(blocks)])
    starts = np.arange(int((utt.num_samples - num_samples) / block) + 1)
    ends = np.minimum(len(blocks), np.ceil(starts + num_samples / block).astype(int))
    shares = (said[ends] - said[starts]) / np.maximum(1, ends - starts)
    best = int(shares.argmax())
    return int(best * block) if shares[best] > share else begin


def _run_in(crop: Source, utt: Utterance, rir: Utterance, corpus: Corpus, sample_rate: int) -> Source:
    """As much of what was said before as the room still lets hear."""
    ratio = utt.sample_rate * crop.speed / sample_rate  # samples of the file in one of the mixture
    most = round(rir.num_samples / rir.sample_rate * sample_rate)
    lead = min(most, int((crop.start - utt.start) / ratio))
    read = min(crop.start - utt.start, round(lead * ratio))
    return dataclasses.replace(
        crop, start=crop.start - read, num_samples=crop.num_samples + read, offset=crop.offset - lead
    )


def _rirs(draw: partial, count: int, corpus: Corpus, conf: Simulation) -> list[Utterance | None]:
    """The response of each talker, or None where it is heard dry."""
    if conf.rir_probability == 0:
        return [None] * count
    _refuse_lack_of_rirs("rir_probability", corpus, conf)
    found: list[Utterance | None] = []
    taken: list[int] = []  # numbers of responses of the mixture's room
    for place in range(count):
        generator = draw("rir", place)
        if generator.random() >= conf.rir_probability:
            found.append(None)
            continue
        if conf.same_room and taken:
            room = corpus.by_room.get(corpus.all_rirs[taken[0]].group, taken)
            free = [number for number in room if number not in taken] or list(room)
            number = free[int(generator.integers(len(free)))]
            rir = corpus.all_rirs[number]
        else:
            rir, number = _any_rir(partial(draw, "rir_source", place), generator, corpus, conf)
        taken.append(number)
        found.append(rir)
    return found


def _any_rir(draw: partial, generator: np.random.Generator, corpus: Corpus, conf: Simulation) -> tuple[Utterance, int]:
    """A response and its number in `all_rirs`: of a set by its weight, or of all alike."""
    if not conf.rir_sources:
        number = int(generator.integers(len(corpus.all_rirs)))
        return corpus.all_rirs[number], number
    names = list(conf.rir_sources)
    weights = np.array([conf.rir_sources[name] for name in names])
    name = names[int(draw().choice(len(names), p=weights / weights.sum()))]
    before = sum(len(corpus.rirs[other]) for other in list(corpus.rirs)[: list(corpus.rirs).index(name)])
    number = int(generator.integers(len(corpus.rirs[name])))
    return corpus.rirs[name][number], before + number


def _refuse_lack_of_rirs(knob: str, corpus: Corpus, conf: Simulation) -> None:
    if not len(corpus.all_rirs):
        raise ValueError(f"{knob} is above 0, but no set of room responses was given")
    missing = sorted(set(conf.rir_sources) - set(corpus.rirs))
    if missing:
        given = ", ".join(corpus.rirs)
        raise ValueError(f"rir_sources: no set '{missing[0]}' of room responses was given; there are: {given}")


def _response(rir: Utterance | None) -> Response | None:
    return Response(rir.path, rir.start, rir.num_samples, rir.utt_id, rir.group) if rir else None


def _degraded(draw: partial, place: int, crop: Source, seconds: float, corpus: Corpus, conf: Simulation) -> Source:
    """An enrolment as a careless user would record it: in a room, with noise, through another microphone."""
    if conf.enroll_rir_probability:
        _refuse_lack_of_rirs("enroll_rir_probability", corpus, conf)
        generator = draw("enroll_rir", place)
        if generator.random() < conf.enroll_rir_probability:
            rir, _ = _any_rir(partial(draw, "enroll_rir_source", place), generator, corpus, conf)
            crop = dataclasses.replace(crop, rir=_response(rir))
    if conf.enroll_noise_probability:
        _refuse_lack_of_noise("enroll_noise_probability", corpus)
        if _happens(draw, conf.enroll_noise_probability, "enroll_noise_present", place):
            snr_db = _uniform(draw, conf.enroll_snr_db, "enroll_snr_db", place)
            noise = _noise_clip(draw("enroll_noise", place), corpus, seconds, snr_db)
            crop = dataclasses.replace(crop, noise=noise)
    if _happens(draw, conf.enroll_eq_probability, "enroll_eq_present", place):
        gains = draw("enroll_eq_db", place).uniform(*conf.enroll_eq_db, EQ_BANDS)
        crop = dataclasses.replace(crop, eq_db=tuple(round(float(gain), 3) for gain in gains))
    return crop


def _noise(draw: partial, corpus: Corpus, conf: Simulation, num_samples: int, sample_rate: int) -> Source | None:
    if conf.noise_probability == 0:
        return None
    _refuse_lack_of_noise("noise_probability", corpus)
    if not _happens(draw, conf.noise_probability, "noise_present"):
        return None
    snr_db = _uniform(draw, conf.snr_db, "snr_db")
    return _noise_clip(draw("noise"), corpus, num_samples / sample_rate, snr_db)


def _refuse_lack_of_noise(knob: str, corpus: Corpus) -> None:
    if not len(corpus.noise):
        raise ValueError(f"{knob} is above 0, but no set of noise was given")


def _noise_clip(generator: np.random.Generator, corpus: Corpus, seconds: float, snr_db: float) -> Source:
    clip = corpus.noise[int(generator.integers(len(corpus.noise)))]
    needed = round(seconds * clip.sample_rate)
    start = int(generator.integers(0, max(0, clip.num_samples - needed) + 1))
    length = min(needed, clip.num_samples)  # a shorter clip is repeated by render
    return Source(clip.path, clip.start + start, length, clip.utt_id, level_db=snr_db, group=clip.group)


def _masks(draw: partial, conf: Simulation, seconds: float, sample_rate: int) -> tuple[Mask, ...]:
    """SpecAugment: stretches of time and of frequency."""
    masks = []
    for axis, counts, widths, total in (
        ("time", conf.num_time_masks, conf.time_mask_s, seconds),
        ("freq", conf.num_freq_masks, conf.freq_mask_hz, sample_rate / 2),
    ):
        for place in range(_count(draw, counts, f"num_{axis}_masks")):
            generator = draw(f"{axis}_mask", place)
            width = min(float(generator.uniform(*widths)), total)
            begin = float(generator.uniform(0, total - width))
            masks.append(Mask(axis, round(begin, 6), round(begin + width, 6)))
    return tuple(masks)
