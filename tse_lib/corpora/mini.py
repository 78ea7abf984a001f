"""A synthetic corpus to try everything on: talkers of espeak-ng and computed noises, made in seconds, no download.

It is for tests, first steps and comparisons within itself. Formant synthesis is not human speech: a figure reached
here says that a system works, not how well it will do on recordings.

Who speaks and what is decided first, as plain text (`plan`), by named draws; then every talker is synthesised on its
own. A talker is a variant of espeak-ng (its formants), an accent, a pitch, a pitch range, a speaking rate and a
length of the vocal tract (the waveform is resampled, which moves all formants together). No variant is used by
two of the sets train, dev and test.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tse_lib import audio
from tse_lib.corpora import espeak, sentences
from tse_lib.corpora.noises import NOISES
from tse_lib.corpora.parallel import parallel_map
from tse_lib.manifest import Utterance, write_data_dir
from tse_lib.rng import rng

SETS = ("train", "dev", "test")
NUM_TALKERS = {"train": 120, "dev": 12, "test": 16}
NUM_CLIPS = {"train": 8, "dev": 2, "test": 2}  # noise clips of every kind
CLIP_S = 10.0
LEVEL_DBFS = -25.0
ACCENTS = ("en", "en-us", "en-us-nyc", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
# Variants that sound like a person. Left out: whispers, robots, echoes, overdriven ones, and near copies of others.
VARIANTS = {
    "train": {
        "f": "f1 f2 f3 f4 f5 Alicia Annie anika aunty".split(),
        "m": """m1 m2 m3 m5 m6 m8 Alex Diogo Mario Reed adam benjamin boris gustave john kaukovalta marcelo max pablo paul
            pedro quincy rob sandro travis""".split(),
    },
    "dev": {"f": "grandma steph".split(), "m": "m4 Denis edward Gene".split()},
    "test": {"f": "Andrea belinda linda".split(), "m": "m7 antonio david norbert victor".split()},
}
SEMITONES = {"f": (-5.0, 3.0), "m": (-2.5, 6.0)}  # from the variant's own pitch; men's are all about 100 Hz
SEMITONES_PER_PITCH = 0.16  # what a step of espeak-ng's pitch setting was measured to be
TRACT = (0.9, 1.12)


@dataclass(frozen=True)
class Talker:
    """One talker, decided before any audio is made.

    Attributes:
        tract: 1.1 shortens the vocal tract by 10 %: all formants (and the pitch) go up by that factor.
    """

    spk_id: str
    gender: str
    voice: espeak.Voice
    tract: float
    texts: tuple[str, ...]


def plan(split: str, seed: int, num_talkers: int, num_utts: int, used: set[str]) -> list[Talker]:
    """The talkers of one set, women and men in turn; `used` collects the sentences so that no two are the same.

    The talkers of one variant share out the ranges of pitch and of tract length: each has a part of them to itself.
    """
    talkers = []
    for number in range(num_talkers):
        spk_id, gender = f"{split}{number + 1:03d}", "fm"[number % 2]
        variants = VARIANTS[split][gender]
        variant, turn = variants[number // 2 % len(variants)], number // 2 // len(variants)
        turns = math.ceil((num_talkers + 1) // 2 / len(variants))

        def draw(knob: str, low: float, high: float, spk_id: str = spk_id) -> float:
            return float(rng(seed, "mini", spk_id, knob).uniform(low, high))

        def part(knob: str, low: float, high: float, variant: str = variant, turn: int = turn, turns: int = turns) -> float:
            order = rng(seed, "mini", split, variant, knob).permutation(turns)
            return low + (high - low) * float(order[turn] + draw(knob, 0.35, 0.65)) / turns

        tract = part("tract", *TRACT)
        semitones = part("pitch", *SEMITONES[gender])  # of the waveform; the tract has its share in it
        pitch = 50 + (semitones - 12 * math.log2(tract)) / SEMITONES_PER_PITCH
        accent = ACCENTS[rng(seed, "mini", spk_id, "accent").integers(len(ACCENTS))]
        words_per_minute = draw("rate", 150, 190)
        voice = espeak.Voice(
            name=f"{accent}+{variant}",
            pitch=min(99, max(0, round(pitch))),
            pitch_range=round(draw("range", 30, 80)),
            words_per_minute=round(words_per_minute / tract),
        )
        texts = [
            sentences.sentence(rng(seed, "mini", spk_id, "text", index), words_per_minute, used)
            for index in range(num_utts)
        ]
        talkers.append(Talker(spk_id, gender, voice, tract, tuple(texts)))
    return talkers


def synthesise(talker: Talker, folder: Path, sample_rate: int) -> list[Utterance]:
    """Speak a talker's sentences into `folder/<speaker>/<utterance>.flac`."""
    utterances = []
    for number, samples in enumerate(espeak.speak(talker.voice, list(talker.texts)), 1):
        wave = np.frombuffer(samples, "<i2").astype(np.float32) / 32768
        wave = audio.resample(_trim(wave, espeak.SAMPLE_RATE), espeak.SAMPLE_RATE * talker.tract, sample_rate)
        utt_id = f"{talker.spk_id}-{number:02d}"
        path = folder / talker.spk_id / f"{utt_id}.flac"
        wave = _write(path, wave, sample_rate)
        utterances.append(
            Utterance(
                utt_id,
                str(path),
                sample_rate,
                len(wave),
                spk_id=talker.spk_id,
                activity=audio.activity(wave, sample_rate),
            )
        )
    return utterances


def make_noise(job: tuple[str, str, tuple[str, ...]], folder: Path, sample_rate: int, seed: int) -> Utterance:
    """One clip; job: (kind, id, paths of the speech that babble may be made of)."""
    kind, clip_id, speech = job
    path = folder / kind / f"{clip_id}.flac"
    clip = NOISES[kind](rng(seed, "mini", clip_id), sample_rate, round(CLIP_S * sample_rate), speech)
    return Utterance(clip_id, str(path), sample_rate, len(_write(path, clip, sample_rate)))


def prepare(
    out: Path,
    sample_rate: int = 8000,
    seed: int = 0,
    nj: int = 2,
    num_talkers: dict[str, int] | None = None,
    num_utts: int = 12,
    num_clips: dict[str, int] | None = None,
) -> list[Path]:
    """Make the corpus under `out/corpus` and its sets `out/{train,dev,test,noise_train,noise_dev,noise_test}`.

    Returns:
        The folders of the sets.

    Raises:
        ValueError: espeak-ng is missing, or a sample rate it cannot serve.
    """
    if not 8000 <= sample_rate <= 48000:
        raise ValueError(f"--sample_rate {sample_rate}: 8000 to 48000 Hz")
    if num_utts < 2:
        raise ValueError(f"--num_utts {num_utts}: at least 2, a talker's enrolment is another utterance than the target")
    num_talkers, num_clips = num_talkers or NUM_TALKERS, num_clips or NUM_CLIPS
    used: set[str] = set()
    talkers = {split: plan(split, seed, num_talkers[split], num_utts, used) for split in SETS}
    folders = {name: out / name for split in SETS for name in (split, f"noise_{split}")}
    for folder in folders.values():
        (folder / "wav.scp").unlink(missing_ok=True)  # from here on until it is written again, the set is not there
    corpus = out / "corpus"
    for leftover in corpus.glob("**/.partial-*"):  # of a process that was killed
        leftover.unlink()

    everybody = [talker for split in SETS for talker in talkers[split]]
    speak = partial(synthesise, folder=corpus, sample_rate=sample_rate)
    spoken = dict(zip([t.spk_id for t in everybody], parallel_map(speak, everybody, nj, "talkers"), strict=True))

    # babble is made of train talkers only, and no talker is heard in the babble of two sets
    crowds = {
        split: tuple(utt.path for talker in talkers["train"][index::3] for utt in spoken[talker.spk_id])
        for index, split in enumerate(SETS)
    }
    jobs = [
        (kind, f"{kind}-{split}{number + 1:02d}", crowds[split])
        for split in SETS
        for kind in NOISES
        for number in range(num_clips[split])
    ]
    clips = parallel_map(
        partial(make_noise, folder=corpus / "noise", sample_rate=sample_rate, seed=seed), jobs, nj, "noises"
    )
    for split in SETS:
        write_data_dir(
            folders[split],
            [utt for talker in talkers[split] for utt in spoken[talker.spk_id]],
            {talker.spk_id: talker.gender for talker in talkers[split]},
        )
        write_data_dir(
            folders[f"noise_{split}"],
            [clip for clip, job in zip(clips, jobs, strict=True) if job[1].rpartition("-")[2].startswith(split)],
        )
    return list(folders.values())


def _write(path: Path, wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Set the level, round to 16 bits (flac then packs them as such), write."""
    wave = wave * (10 ** (LEVEL_DBFS / 20) / np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    peak = np.abs(wave).max()
    wave = (np.round(wave / max(1.0, peak / 0.98) * 32768) / 32768).astype(np.float32)
    audio.write(path, wave, sample_rate)
    return wave


def _trim(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Without the pauses before the first and after the last sound (45 dB below the peak), 20 ms kept."""
    loud = np.flatnonzero(np.abs(wave) > np.abs(wave).max() * 10 ** (-45 / 20))
    margin = sample_rate // 50
    return wave[max(0, loud[0] - margin) : loud[-1] + margin]
