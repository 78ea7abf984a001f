"""A small rendered set with estimates whose scores are known, for the tests of scoring, results and report."""

import json
from pathlib import Path

import numpy as np

from tse_lib import audio
from tse_lib.files import replace_file
from tse_lib.manifest import Mixture, Source, audio_path, write_mixtures

GENDERS = {"spk0": "f", "spk1": "m", "spk2": "f", "spk3": "m"}


def speech_like(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Coloured noise in syllables of a talker's own rhythm, RMS about 0.03."""
    time = np.arange(num_samples) / sample_rate
    carrier = np.convolve(rng.standard_normal(num_samples), rng.uniform(-1, 1, 6), "same")
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * time + rng.uniform(0, 6)), 0.01, 1)
    return 0.03 * carrier * syllables / np.sqrt(np.mean((carrier * syllables) ** 2))


def make_set(
    data_dir: Path,
    est_dir: Path | None = None,
    num_mixtures: int = 6,
    absent: tuple[int, ...] = (),
    confused: tuple[int, ...] = (),
    sample_rate: int = 8000,
    seconds: float = 1.5,
    noisy: bool = True,
    name: str = "mix",
) -> list[Mixture]:
    """Mixtures of two or three talkers. An estimate is the target with a tenth of the rest.

    So SI-SDR is about 20 dB above the mixture's. The mixtures in `confused` get the first interferer instead, those in
    `absent` have no target and get 1 % of the mixture (40 dB below it), except the first of them: half of it (6 dB).
    """
    rng = np.random.default_rng(11)
    num_samples = round(seconds * sample_rate)
    mixtures = []
    for index in range(num_mixtures):
        mix_id = f"{name}{index:03d}"
        present = index not in absent
        wanted, *others = np.roll(sorted(GENDERS), -index)[: 3 + index % 2]
        others = others[: 1 + index % 2]
        talkers = [str(spk) for spk in ([wanted, *others] if present else others)]
        noise = Source("noise.flac", 0, num_samples, level_db=10.0) if noisy else None
        mixtures.append(
            Mixture(
                mix_id, sample_rate, num_samples, present,
                talkers=tuple(Source(f"{spk}.flac", 0, num_samples, spk_id=spk, level_db=1.5) for spk in talkers),
                enrolls=(Source("e.flac", 0, num_samples, spk_id=str(wanted)),), noise=noise,
            )
        )  # fmt: skip
        images = [speech_like(rng, num_samples, sample_rate) for _ in talkers]
        parts = {"target": images[0]} if present else {}
        parts |= {f"interferer{n}": image for n, image in enumerate(images[1:] if present else images, 1)}
        if noisy:
            parts["noise"] = 0.006 * rng.standard_normal(num_samples)
        parts = {kind: np.round(part * 2**23) / 2**23 for kind, part in parts.items()}  # as 24 bit hold it
        mixed = sum(parts.values(), np.zeros(num_samples))
        waves = {**parts, "mixture": mixed, "enroll1": speech_like(rng, num_samples, sample_rate)}
        for kind, wave in waves.items():
            audio.write(audio_path(data_dir, kind, mix_id), wave.astype(np.float32), sample_rate)
        if not present:
            estimate = mixed * (0.5 if index == absent[0] else 0.01)
        elif index in confused:
            estimate = parts["interferer1"]
        else:
            estimate = parts["target"] + 0.1 * (mixed - parts["target"])
        if est_dir is not None:
            audio.write(est_dir / f"{mix_id}.wav", estimate.astype(np.float32), sample_rate)
    write_mixtures(data_dir / "mixtures.jsonl", mixtures)
    with replace_file(data_dir / "spk2gender") as file:
        file.writelines(f"{speaker} {gender}\n" for speaker, gender in sorted(GENDERS.items()))
    return mixtures


def write_logs(exp: Path) -> None:
    """Training logs of 1000 steps."""
    with replace_file(exp / "log" / "train.jsonl") as file:
        for step in range(100, 1001, 100):
            line = {"step": step, "loss": -step / 100, "lr": 1e-3 * (1 - step / 2000), "seconds": step / 10}
            file.write(json.dumps(line) + "\n")
    with replace_file(exp / "log" / "valid.jsonl") as file:
        for step in (500, 1000):
            file.write(json.dumps({"step": step, "si_sdri": step / 200, "seconds": step / 10}) + "\n")
