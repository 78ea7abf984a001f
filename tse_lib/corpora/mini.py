"""A synthetic corpus to try everything on: talkers of espeak-ng and computed noises, made in seconds, no download.

It is for tests, first steps and comparisons within itself. Formant synthesis is not human speech: a figure reached
here says that a system works, not how well it will do on recordings.

Who speaks and what is decided first, as plain text (`plan`), by named draws; then every talker is synthesised on its
own. A talker is a variant of espeak-ng (its formants), an accent, a pitch, a pitch range, a speaking rate and a
length of the vocal tract (the waveform is resampled, which moves all formants together). No variant is used by
two of the sets train, dev and test.
"""

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tse_lib import audio
from tse_lib.corpora import espeak, sentences
from tse_lib.corpora.noises import NOISES
from tse_lib.corpora.sets import SETS, listed_path
from tse_lib.manifest import Utterance, write_data_dir
from tse_lib.parallel import parallel_map
from tse_lib.rng import rng

NUM_TALKERS = (120, 12, 16)
NUM_UTTS = 12
NUM_CLIPS = (8, 2, 2)  # of every kind of noise
CLIP_S = 10.0
LEVEL_DBFS = -25.0
ACCENTS = ("en", "en-us", "en-us-nyc", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
# Variants that sound like a person. Left out: whispers, robots, echoes, overdriven ones, and near copies of others.
VARIANTS = {
    "train": {
        "f": "f1 f2 f3 f4 f5 Alicia Annie anika aunty".split(),
        "m": """
            m1 m2 m3 m5 m6 m8 Alex Diogo Mario Reed adam benjamin boris gustave john kaukovalta marcelo max pablo
            paul pedro quincy rob sandro travis
        """.split(),
    },
    "dev": {"f": "grandma steph".split(), "m": "m4 Denis edward Gene".split()},
    "test": {"f": "Andrea belinda linda".split(), "m": "m7 antonio david norbert victor".split()},
}
SEMITONES = {"f": (-5.0, 3.0), "m": (-2.5, 6.0)}  # from the variant's own pitch; men's are all about 100 Hz
SEMITONES_PER_PITCH = 0.16  # what a step of espeak-ng's pitch setting was measured to be
TRACT = (0.9, 1.12)

HELP = "a synthetic corpus, made in seconds (needs pip install -e .[mini])"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare mini --out data --sample_rate 8000 --seed 0"
    add = parser.add_argument
    add("--out", type=Path, default=Path("data"), help="where the sets go, and corpus/ (default: %(default)s)")
    add("--sample_rate", type=int, default=8000, help="in Hz; nothing lies above 11 kHz (default: %(default)s)")
    add("--seed", type=int, default=0, help="another seed, other talkers and sentences (default: %(default)s)")
    sets = ("TRAIN", "DEV", "TEST")
    talkers, clips = (" ".join(map(str, numbers)) for numbers in (NUM_TALKERS, NUM_CLIPS))
    add("--num_talkers", type=int, nargs=3, metavar=sets, default=NUM_TALKERS, help=f"(default: {talkers})")
    add("--num_utts", type=int, default=NUM_UTTS, help="sentences of each talker (default: %(default)s)")
    add("--num_clips", type=int, nargs=3, metavar=sets, default=NUM_CLIPS, help=f"per noise (default: {clips})")
    add("--nj", type=int, default=2, help="processes; changes nothing but the speed (default: %(default)s)")


@dataclass(frozen=True)
class Talker:
    """One talker, decided before any audio is made.

    Attributes:
        tract: 1.1 shortens the vocal tract by 10 %: all formants (and the pitch) go up by that factor.
    """

    spk_id: str
    split: str
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
        draws = {knob: rng(seed, "mini", spk_id, knob) for knob in ("tract", "pitch", "accent", "rate", "range")}
        part = {
            knob: (rng(seed, "mini", split, variant, knob).permutation(turns)[turn] + draws[knob].uniform(0.35, 0.65))
            / turns
            for knob in ("tract", "pitch")
        }  # 0 to 1: where in the range; the talkers of a variant take its parts in random order
        tract = _between(TRACT, part["tract"])
        semitones = _between(SEMITONES[gender], part["pitch"])  # of the waveform; the tract has its share in it
        pitch = 50 + (semitones - 12 * math.log2(tract)) / SEMITONES_PER_PITCH
        accent = ACCENTS[draws["accent"].integers(len(ACCENTS))]
        words_per_minute = float(draws["rate"].uniform(150, 190))
        voice = espeak.Voice(
            name=f"{accent}+{variant}",
            pitch=min(99, max(0, round(pitch))),
            pitch_range=round(draws["range"].uniform(30, 80)),
            words_per_minute=round(words_per_minute / tract),
        )
        texts = [
            sentences.sentence(rng(seed, "mini", spk_id, "text", index), words_per_minute, used)
            for index in range(num_utts)
        ]
        talkers.append(Talker(spk_id, split, gender, voice, tract, tuple(texts)))
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
                listed_path(path),
                sample_rate,
                len(wave),
                spk_id=talker.spk_id,
                activity=audio.activity(wave, sample_rate),
            )
        )
    return utterances


@dataclass(frozen=True)
class Clip:
    """A noise clip to make; `speech`: paths of what babble may be made of."""

    clip_id: str
    kind: str
    split: str
    speech: tuple[str, ...]


def make_noise(clip: Clip, folder: Path, sample_rate: int, seed: int) -> Utterance:
    """Compute a clip into `folder/<kind>/<clip>.flac`."""
    path = folder / clip.kind / f"{clip.clip_id}.flac"
    wave = NOISES[clip.kind](rng(seed, "mini", clip.clip_id), sample_rate, round(CLIP_S * sample_rate), clip.speech)
    return Utterance(clip.clip_id, listed_path(path), sample_rate, len(_write(path, wave, sample_rate)))


def prepare(
    out: Path,
    sample_rate: int = 8000,
    seed: int = 0,
    num_talkers: Sequence[int] = NUM_TALKERS,
    num_utts: int = NUM_UTTS,
    num_clips: Sequence[int] = NUM_CLIPS,
    nj: int = 2,
) -> list[Path]:
    """Make the corpus under `out/corpus` and its sets `out/{train,dev,test,noise_train,noise_dev,noise_test}`.

    Args:
        num_talkers: in train, dev and test.
        num_utts: sentences of each talker.
        num_clips: clips of each kind of noise in train, dev and test.

    Returns:
        The folders of the sets.

    Raises:
        ValueError: espeak-ng is missing, or a number that makes no corpus.
    """
    if not 8000 <= sample_rate <= 48000:
        raise ValueError(f"--sample_rate {sample_rate}: 8000 to 48000 Hz")
    if num_utts < 2:
        raise ValueError(f"--num_utts {num_utts}: at least 2, target and enrolment are different utterances")
    if min(num_talkers) < 3:
        raise ValueError(f"--num_talkers {min(num_talkers)}: at least 3 in each set")
    if min(num_clips) < 1:
        raise ValueError(f"--num_clips {min(num_clips)}: at least 1 in each set")
    if nj < 1:
        raise ValueError(f"--nj {nj}: at least 1 process")
    espeak.installed()
    used: set[str] = set()
    talkers = [
        talker
        for split, count in zip(SETS, num_talkers, strict=True)
        for talker in plan(split, seed, count, num_utts, used)
    ]
    folders = [out / f"{kind}{split}" for split in SETS for kind in ("", "noise_")]
    for folder in folders:
        (folder / "wav.scp").unlink(missing_ok=True)  # from here on until it is written again, the set is not there
    corpus = out / "corpus"
    for name in (*(talker.spk_id for talker in talkers), "noise"):  # other corpora may just be made beside these
        for leftover in (corpus / name).glob("**/.partial-*"):  # of a process that was killed
            leftover.unlink()

    speak = partial(synthesise, folder=corpus, sample_rate=sample_rate)
    spoken = parallel_map(speak, talkers, nj, "talkers")

    # babble is made of train talkers only, and no talker is heard in the babble of two sets
    train = [utterances for talker, utterances in zip(talkers, spoken, strict=True) if talker.split == "train"]
    clips = [
        Clip(
            f"{kind}-{split}{number + 1:02d}", kind, split, tuple(utt.path for utts in train[index::3] for utt in utts)
        )
        for index, split in enumerate(SETS)
        for kind in NOISES
        for number in range(num_clips[index])
    ]
    make = partial(make_noise, folder=corpus / "noise", sample_rate=sample_rate, seed=seed)
    noises = parallel_map(make, clips, nj, "noises")

    genders = {talker.spk_id: talker.gender for talker in talkers}
    for split in SETS:
        of_set = [utts for talker, utts in zip(talkers, spoken, strict=True) if talker.split == split]
        write_data_dir(out / split, itertools.chain.from_iterable(of_set), genders)
        write_data_dir(
            out / f"noise_{split}", [noise for clip, noise in zip(clips, noises, strict=True) if clip.split == split]
        )
    return folders


def _write(path: Path, wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Set the level, round to 16 bits (flac then packs them as such), write."""
    wave = wave * (10 ** (LEVEL_DBFS / 20) / np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    peak = np.abs(wave).max()
    wave = (np.round(wave / max(1.0, peak / 0.98) * 32768) / 32768).astype(np.float32)
    audio.write(path, wave, sample_rate)
    return wave


def _between(limits: tuple[float, float], share: float) -> float:
    return float(limits[0] + (limits[1] - limits[0]) * share)


def _trim(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Without the pauses before the first and after the last sound (45 dB below the peak), 20 ms kept."""
    loud = np.flatnonzero(np.abs(wave) > np.abs(wave).max() * 10 ** (-45 / 20))
    margin = sample_rate // 50
    return wave[max(0, loud[0] - margin) : loud[-1] + margin]
