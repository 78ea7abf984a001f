"""Training items: drawn as text, read, rendered. Item i is a function of the conf and i alone."""

import functools
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tse_lib import audio
from tse_lib.config import Config, simulation_at
from tse_lib.manifest import Mixture, Source, audio_path, read_mixtures
from tse_lib.simulation.render import Rendered, Waveforms, render
from tse_lib.simulation.sample import Corpus, sample, target_is_present


def load_source(source: Source, sample_rate: int) -> Tensor:
    """Read a crop and resample it to `sample_rate` and its speed in one pass: (T,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the prepare stage has told of stereo files already
        wave, rate = audio.read(source.path, start=source.start, num_samples=source.num_samples)
    return torch.from_numpy(audio.resample(wave, rate * source.speed, sample_rate))


@functools.lru_cache(maxsize=256)
def _load_rir(path: str, sample_rate: int) -> Tensor:
    """The response from just before its direct sound on (first channel), so that images stay aligned with the dry."""
    channels, rate = audio.read(path, mono=False)
    response = audio.resample(channels[0], rate, sample_rate)
    direct = int(np.abs(response).argmax())
    return torch.from_numpy(response[max(0, direct - round(0.001 * sample_rate)) :].copy())


def load_waveforms(mixture: Mixture) -> Waveforms:
    """Read everything a mixture names."""
    rate = mixture.sample_rate
    return Waveforms(
        talkers=[load_source(source, rate) for source in mixture.talkers],
        enrolls=[load_source(source, rate) for source in mixture.enrolls],
        noise=load_source(mixture.noise, rate) if mixture.noise else None,
        rirs=[_load_rir(source.rir, rate) if source.rir else None for source in mixture.talkers],
    )


def to_item(mixture: Mixture, rendered: Rendered) -> dict[str, Any]:
    return {
        "mix_id": mixture.mix_id,
        "mixture": rendered.mixture,
        "target": rendered.target,
        "enrolls": rendered.enrolls,
        "present": mixture.target_present,
    }


class DrawnMixtures(Dataset):
    """Endless training mixtures: item i belongs to optimizer step i // (batch_size * accumulate)."""

    def __init__(self, corpus: Corpus, conf: Config):
        self.corpus, self.conf = corpus, conf
        self.items_per_step = conf.train.batch_size * conf.train.accumulate

    def __len__(self) -> int:
        return self.conf.train.max_steps * self.items_per_step

    def mixture(self, index: int) -> Mixture:
        simulation = simulation_at(self.conf, index // self.items_per_step)
        return sample(self.corpus, simulation, self.conf.sample_rate, self.conf.seed, "train", f"train-{index}")

    def __getitem__(self, index: int) -> dict[str, Any]:
        mixture = self.mixture(index)
        return to_item(mixture, render(mixture, load_waveforms(mixture)))

    def num_present(self, step: int) -> int:
        """How many targets are present in a whole optimizer step: known from the text, before rendering."""
        simulation = simulation_at(self.conf, step)
        first = step * self.items_per_step
        return sum(
            target_is_present(simulation, self.conf.seed, "train", f"train-{index}")
            for index in range(first, first + self.items_per_step)
        )


class RenderedMixtures(Dataset):
    """The mixtures that the simulate stage rendered, for validation and inference."""

    def __init__(self, data_dir: str, sample_rate: int):
        self.data_dir = data_dir
        self.mixtures = read_mixtures(f"{data_dir}/mixtures.jsonl")
        wrong = next((mix for mix in self.mixtures if mix.sample_rate != sample_rate), None)
        if wrong:
            raise ValueError(
                f"{data_dir}/mixtures.jsonl: {wrong.mix_id} has {wrong.sample_rate} Hz, the model {sample_rate} Hz; "
                "conf/sets.yaml and the experiment's conf must agree"
            )

    def __len__(self) -> int:
        return len(self.mixtures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        mixture = self.mixtures[index]

        def read(kind: str) -> Tensor:
            return torch.from_numpy(audio.read(audio_path(self.data_dir, kind, mixture.mix_id))[0])

        mixed = read("mixture")
        return {
            "mix_id": mixture.mix_id,
            "mixture": mixed,
            "target": read("target") if mixture.target_present else torch.zeros_like(mixed),
            "enrolls": [read(f"enroll{number}") for number in range(1, len(mixture.enrolls) + 1)],
            "present": mixture.target_present,
        }


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items to a batch: mixture and target (B, 1, T), enroll (B, E, T_e) padded with lengths (B, E), present (B,)."""
    size = max(len(item["mixture"]) for item in items)
    count = max(len(item["enrolls"]) for item in items)
    enroll_size = max(len(wave) for item in items for wave in item["enrolls"])
    enroll = torch.zeros(len(items), count, enroll_size)
    lengths = torch.zeros(len(items), count, dtype=torch.long)
    for row, item in enumerate(items):
        for place, wave in enumerate(item["enrolls"]):
            enroll[row, place, : len(wave)] = wave
            lengths[row, place] = len(wave)

    def stack(key: str) -> Tensor:
        return torch.stack([torch.nn.functional.pad(item[key], (0, size - len(item[key]))) for item in items])[:, None]

    return {
        "mix_id": [item["mix_id"] for item in items],
        "mixture": stack("mixture"),
        "target": stack("target"),
        "enroll": enroll,
        "lengths": lengths,
        "present": torch.tensor([item["present"] for item in items]),
    }
