"""A model, a conf and a corpus as small as they can be, for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tse_lib import audio, checkpoint
from tse_lib.bin.render import write_rendered
from tse_lib.config import Config, Sets, build
from tse_lib.manifest import Utterance, write_data_dir, write_mixtures
from tse_lib.models import build_model
from tse_lib.rng import rng
from tse_lib.simulation.sample import sample_set

RATE = 8000

MODEL: dict[str, Any] = {
    "n_fft": 64,
    "hop_length": 32,
    "bands": 4,
    "feature_dim": 8,
    "lstm_hidden": 8,
    "num_heads": 2,
    "num_blocks": 1,
    "reinject_at": [0],
    "film": True,
    "normalize": True,
}

SIMULATION: dict[str, Any] = {
    "segment_s": 0.4,
    "num_talkers": [2, 3],
    "sir_db": [-5, 5],
    "snr_db": [5, 20],
    "noise_probability": 0.8,
    "level_dbfs": [-35, -20],
    "target_absent": 0.25,
    "enroll_s": 0.3,
}


def values() -> dict[str, Any]:
    """What a conf file would hold; change it and hand it to `conf_of`, or write it as YAML."""
    return {
        "seed": 5,
        "sample_rate": RATE,
        "simulation": dict(SIMULATION),
        "model": {"name": "hifi_tse", "params": dict(MODEL)},
        "loss": [
            {"name": "neg_si_sdr", "weight": 1.0},
            {"name": "attenuation", "weight": 0.1, "when": "absent"},
        ],
        "train": {
            "max_steps": 8,
            "batch_size": 2,
            "lr": 1e-3,
            "warmup_steps": 2,
            "ema_decay": 0.9,
            "bf16": False,
            "num_workers": 0,
            "log_every": 1,
            "save_every": 2,
            "valid_every": 4,
        },
    }


def conf_of(**train: Any) -> Config:
    """The tiny conf with other values in its section `train`."""
    wanted = values()
    wanted["train"].update(train)
    return build(Config, wanted, "tiny")


def make_model(seed: int = 0, **params: Any) -> torch.nn.Module:
    """The tiny network. The mask's weights are drawn large enough that the enrolment matters."""
    torch.manual_seed(seed)
    model = build_model("hifi_tse", {**MODEL, **params}, RATE)
    for project in model.decoder.projections:
        torch.nn.init.normal_(project.weight, std=0.3)
    return model


def make_checkpoint(path: Path, sample_rate: int = RATE) -> Path:
    conf = build(Config, {**values(), "sample_rate": sample_rate}, "tiny")
    state = {"modules": {"model": make_model().state_dict()}, "step": 1, "config": conf.model_dump(mode="json")}
    checkpoint.save(path, state)
    return path


def voice(name: str, num_samples: int, sample_rate: int = RATE) -> np.ndarray:
    """Noise with a talker's own colour in syllables; `name` is `<talker>-<utterance>`."""
    talker = name.split("-")[0]
    colour, draw = rng(1, "colour", talker).uniform(-1, 1, 8), rng(1, name)
    time = np.arange(num_samples) / sample_rate
    carrier = np.convolve(draw.standard_normal(num_samples), colour, "same")
    syllables = np.clip(np.sin(2 * np.pi * 3 * time + draw.uniform(0, 6)), 0.02, 1)
    wave = carrier * syllables
    return (0.1 * wave / np.sqrt(np.mean(wave**2))).clip(-1, 1).astype(np.float32)


def write_set(folder: Path, waves: dict[str, np.ndarray], sample_rate: int = RATE, speech: bool = True) -> None:
    """Recordings by utterance id (`<talker>-<utterance>`) to wav files and the tables of a data set."""
    utterances = []
    for utt_id, wave in waves.items():
        path = folder / "wav" / f"{utt_id}.wav"
        audio.write(path, wave, sample_rate)
        talker = utt_id.split("-")[0] if speech else ""
        activity = audio.activity(wave, sample_rate) if speech else ""
        utterances.append(Utterance(utt_id, str(path), sample_rate, len(wave), 0, talker, activity))
    write_data_dir(folder, utterances, {utt.spk_id: "f" for utt in utterances} if speech else None)


def make_data(data: Path) -> Path:
    """data/{train,dev_speech,noise,noise_dev,rir}, and data/dev with four rendered mixtures."""
    for name, talkers in (("train", "abcde"), ("dev_speech", "vwxyz")):
        ids = [f"{talker}-{number}" for talker in talkers for number in range(3)]
        write_set(data / name, {utt_id: voice(utt_id, RATE + 400 * (len(utt_id) % 2)) for utt_id in ids})
    for name in ("noise", "noise_dev"):
        noise = {f"{name}-{n}": rng(2, name, n).standard_normal(3 * RATE).astype(np.float32) * 0.05 for n in range(2)}
        write_set(data / name, noise, speech=False)
    decay = np.exp(-np.arange(1200) / 200).astype(np.float32)
    rirs = {f"room-{n}": rng(2, "rir", n).standard_normal(1200).astype(np.float32) * 0.1 * decay for n in range(2)}
    for rir in rirs.values():
        rir[20] = 0.9  # the direct sound
    write_set(data / "rir", rirs, speech=False)
    dev = {"num_mixtures": 4, "speech": "dev_speech", "noise": "noise_dev", "simulation": SIMULATION}
    sets = build(Sets, {"seed": 3, "sample_rate": RATE, "sets": {"dev": dev}}, "tiny")
    _, mixtures = sample_set(data, "dev", sets)
    write_mixtures(data / "dev" / "mixtures.jsonl", mixtures)
    for mixture in mixtures:
        write_rendered(str(data / "dev"), mixture)
    return data
