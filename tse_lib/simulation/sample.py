"""Decide what a mixture is, as text: who, where from, wanted levels, speed, room, crop, presence. No audio is touched.

Every draw is `rng(seed, split, mix_id, knob)`: a mixture is the same offline and on the fly, on one worker or eight,
and a new knob never moves the others.
"""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from tse_lib.config import Sets, Simulation
from tse_lib.manifest import ACTIVITY_BLOCK_S, Mixture, Source, Utterance, read_data_dir, read_genders
from tse_lib.rng import rng

CROP_TRIES = 20


@dataclass(frozen=True)
class Corpus:
    """What mixtures are drawn from: speech by speaker, noise, room responses."""

    speech: list[Utterance]
    noise: list[Utterance] = field(default_factory=list)
    rirs: list[Utterance] = field(default_factory=list)
    genders: dict[str, str] = field(default_factory=dict)

    @property
    def speakers(self) -> list[str]:
        return list(self.by_speaker)

    def __post_init__(self) -> None:
        table: dict[str, list[Utterance]] = {}
        for utt in self.speech:
            table.setdefault(utt.spk_id, []).append(utt)
        object.__setattr__(self, "by_speaker", {spk: table[spk] for spk in sorted(table, key=str.encode)})

    by_speaker: dict[str, list[Utterance]] = field(init=False, default_factory=dict)


def read_corpus(speech: Path, noise: Path | None = None, rirs: Path | None = None) -> Corpus:
    """Read data sets into a corpus and check that extraction can be drawn from it.

    Raises:
        ValueError: fewer than 2 speakers, or a speaker with a single utterance (no enrolment would be left).
    """
    corpus = Corpus(
        read_data_dir(speech),
        read_data_dir(noise) if noise else [],
        read_data_dir(rirs) if rirs else [],
        read_genders(speech),
    )
    if len(corpus.speakers) < 2:
        raise ValueError(f"{speech}: {len(corpus.speakers)} speaker(s), at least 2 are needed to mix")
    single = [spk for spk, utts in corpus.by_speaker.items() if len(utts) < 2]
    if single:
        raise ValueError(
            f"{speech}: {len(single)} speaker(s) with one utterance ({', '.join(single[:3])}…); the enrolment must be "
            "another utterance than the mixed one: use a cut list or leave them out in the prepare stage"
        )
    return corpus


def sample(corpus: Corpus, conf: Simulation, sample_rate: int, seed: int, split: str, mix_id: str) -> Mixture:
    """Draw one mixture. A function of its arguments alone; the curriculum acts by handing in another `conf`.

    Raises:
        ValueError: the corpus lacks what the conf asks for (speakers, noise, rooms).
    """
    draw = partial(rng, seed, split, mix_id)
    num_samples = round(conf.segment_s * sample_rate)
    present = target_is_present(conf, seed, split, mix_id)
    count = int(draw("num_talkers").integers(conf.num_talkers[0], conf.num_talkers[1] + 1))
    wanted = count if present else count + 1  # an absent target is one more speaker, who only enrols
    if wanted > len(corpus.speakers):
        raise ValueError(f"num_talkers: {wanted} different speakers needed, the set has {len(corpus.speakers)}")

    # every utterance is a target equally often, so the speaker of a drawn utterance is the target
    first = corpus.speech[int(draw("target").integers(len(corpus.speech)))]
    others = [spk for spk in corpus.speakers if spk != first.spk_id]
    chosen = draw("interferers").choice(len(others), wanted - 1, replace=False)
    utts = [first]
    for place, index in enumerate(chosen):
        of_speaker = corpus.by_speaker[others[int(index)]]
        utts.append(of_speaker[int(draw("utterance", place).integers(len(of_speaker)))])
    speeds = [_uniform(draw("speed", place), conf.speed) for place in range(wanted)]
    if present:
        mixed, enrolled, enroll_speed = utts, first, speeds[0]
    else:
        mixed, enrolled, enroll_speed = utts[1:], first, speeds[0]
        speeds = speeds[1:]

    talkers = []
    for place, (utt, speed) in enumerate(zip(mixed, speeds, strict=True)):
        crop = _crop(draw("crop", place), utt, num_samples, sample_rate, speed, conf.min_activity)
        talkers.append(
            dataclasses.replace(
                crop,
                gender=corpus.genders.get(utt.spk_id, ""),
                level_db=_uniform(draw("sir_db", place), conf.sir_db) if place else 0.0,
                rir=_rir(draw("rir", place), corpus, conf),
            )
        )

    taken = {utt.utt_id for utt in mixed}
    spare = [utt for utt in corpus.by_speaker[enrolled.spk_id] if utt.utt_id not in taken]
    num_enrolls = int(draw("num_enrolls").integers(conf.num_enrolls[0], conf.num_enrolls[1] + 1))
    order = draw("enroll").permutation(len(spare))[:num_enrolls]
    enrolls = []
    for place, index in enumerate(order):
        length = round(_uniform(draw("enroll_s", place), conf.enroll_s) * sample_rate)
        crop = _crop(
            draw("enroll_crop", place), spare[int(index)], length, sample_rate, enroll_speed, conf.min_activity
        )
        enrolls.append(dataclasses.replace(crop, offset=0, gender=corpus.genders.get(enrolled.spk_id, "")))

    return Mixture(
        mix_id=mix_id,
        sample_rate=sample_rate,
        num_samples=num_samples,
        target_present=present,
        talkers=tuple(talkers),
        enrolls=tuple(enrolls),
        noise=_noise(draw, corpus, conf, num_samples, sample_rate),
        level_dbfs=_uniform(draw("level_dbfs"), conf.level_dbfs),
    )


def sample_set(data: str | Path, name: str, sets: Sets) -> tuple[Corpus, list[Mixture]]:
    """All mixtures of one set of `conf/sets.yaml`, drawn from the data sets below `data`."""
    conf = sets.sets[name]
    data = Path(data)
    corpus = read_corpus(
        data / conf.speech, data / conf.noise if conf.noise else None, data / conf.rirs if conf.rirs else None
    )
    ids = [f"{name}-{number:05d}" for number in range(conf.num_mixtures)]
    return corpus, [sample(corpus, conf.simulation, sets.sample_rate, sets.seed, name, mix_id) for mix_id in ids]


def target_is_present(conf: Simulation, seed: int, split: str, mix_id: str) -> bool:
    """The draw of presence alone: cheap, so that a loss's denominator is known before anything is rendered."""
    return bool(rng(seed, split, mix_id, "target_absent").random() >= conf.target_absent)


def check_disjoint(corpora: dict[str, Corpus]) -> None:
    """ValueError when a speaker is in two of the named speech sets."""
    owner: dict[str, str] = {}
    for name, corpus in corpora.items():
        for speaker in corpus.speakers:
            if owner.setdefault(speaker, name) != name:
                raise ValueError(f"speaker '{speaker}' is in {owner[speaker]} and in {name}; sets must be disjoint")


def _uniform(generator: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(generator.uniform(*limits))


def _crop(
    generator: np.random.Generator,
    utt: Utterance,
    num_samples: int,
    sample_rate: int,
    speed: float,
    min_activity: float,
) -> Source:
    """A stretch of `utt` that fills `num_samples` after resampling and speed, with enough speech in it.

    A shorter utterance is taken whole and begins somewhere inside.
    """
    needed = round(num_samples / sample_rate * utt.sample_rate * speed)  # at the file's rate
    source = Source(utt.path, utt.start, utt.num_samples, utt.utt_id, utt.spk_id, speed=speed)
    room = utt.num_samples - needed
    if room <= 0:
        length = int(utt.num_samples / utt.sample_rate / speed * sample_rate)
        return dataclasses.replace(source, offset=int(generator.integers(0, max(0, num_samples - length) + 1)))
    best, best_share = 0, -1.0
    for _ in range(CROP_TRIES):  # the first crop with enough speech, else the best of them
        begin = int(generator.integers(0, room + 1))
        share = _active_share(utt, begin, needed)
        if share > best_share:
            best, best_share = begin, share
        if share >= min_activity:
            break
    return dataclasses.replace(source, start=utt.start + best, num_samples=needed)


def _active_share(utt: Utterance, begin: int, num_samples: int) -> float:
    if not utt.activity:
        return 1.0
    block = ACTIVITY_BLOCK_S * utt.sample_rate
    part = utt.activity[int(begin / block) : int(np.ceil((begin + num_samples) / block))]
    return part.count("1") / max(1, len(part))


def _rir(generator: np.random.Generator, corpus: Corpus, conf: Simulation) -> str:
    if conf.rir_probability == 0:
        return ""
    if not corpus.rirs:
        raise ValueError("rir_probability is above 0, but no set of room responses was given")
    if generator.random() >= conf.rir_probability:
        return ""
    return corpus.rirs[int(generator.integers(len(corpus.rirs)))].path


def _noise(draw: partial, corpus: Corpus, conf: Simulation, num_samples: int, sample_rate: int) -> Source | None:
    if conf.noise_probability == 0:
        return None
    if not corpus.noise:
        raise ValueError("noise_probability is above 0, but no set of noise was given")
    if draw("noise_present").random() >= conf.noise_probability:
        return None
    generator = draw("noise")
    clip = corpus.noise[int(generator.integers(len(corpus.noise)))]
    needed = round(num_samples / sample_rate * clip.sample_rate)
    start = int(generator.integers(0, max(0, clip.num_samples - needed) + 1))
    return Source(
        clip.path,
        clip.start + start,
        min(needed, clip.num_samples),  # a shorter clip is repeated by render
        clip.utt_id,
        level_db=_uniform(draw("snr_db"), conf.snr_db),
    )
