"""Training items of mixtures of stems: drawn as text, read, added up. Item i is a function of the conf and i alone."""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tse_lib import audio
from tse_lib.config import Config, Stems
from tse_lib.data.dataset import ATTEMPTS, of_one_length
from tse_lib.manifest import Clip, Mixture
from tse_lib.simulation.stems import RenderedStems, StemCorpus, render_stems, sample_stems

CACHED_SAMPLES = 1 << 19  # of one-shots that are kept as they are read; tracks are longer than their crops


@functools.lru_cache(maxsize=256)
def _read_shot(path: str) -> tuple[np.ndarray, int] | None:
    """A file whole, as every hit of it may be choked at another place; None where it is too long to be kept."""
    return audio.read(path, mono=False) if audio.info(path).num_samples <= CACHED_SAMPLES else None


def load_clip(clip: Clip, sample_rate: int) -> Tensor:
    """A clip's samples (C, n) at `sample_rate` and its speed."""
    shot = _read_shot(clip.path) if clip.start == 0 and clip.num_samples <= CACHED_SAMPLES else None
    if shot and clip.num_samples <= shot[0].shape[1]:
        wave, rate = shot[0][:, : clip.num_samples], shot[1]
    else:
        wave, rate = audio.read(clip.path, start=clip.start, num_samples=clip.num_samples, mono=False)
    return torch.from_numpy(audio.resample(wave, rate * clip.speed, sample_rate))


def load_stems(mixture: Mixture) -> RenderedStems:
    """Read and add up what a mixture of stems names; a one-shot that is hit twice is resampled once.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or not as long as it was.
    """
    waves: dict[tuple[str, int, int, float], Tensor] = {}

    def read(clip: Clip) -> Tensor:
        key = clip.path, clip.start, clip.num_samples, clip.speed
        if key not in waves:
            waves[key] = load_clip(clip, mixture.sample_rate)
        return waves[key]

    return render_stems(mixture, read)


def to_stem_item(mixture: Mixture, rendered: RenderedStems) -> dict[str, Any]:
    return {
        "mix_id": mixture.mix_id,
        "speaker": "",
        "mixture": rendered.mixture,
        "target": rendered.targets,
        "enrolls": [],
        "present": True,
    }


class StemMixtures(Dataset):
    """Endless training mixtures, as `DrawnMixtures`: item i belongs to optimizer step i // (batch_size * accumulate).

    Items have mixture (C, T) and target (S, C, T). One with a file that cannot be read is drawn anew; the item's
    `bad_files` says what was wrong.
    """

    def __init__(self, corpus: StemCorpus, conf: Config):
        assert isinstance(conf.simulation, Stems)
        self.corpus, self.conf = corpus, conf
        self.speakers: list[str] = []
        self.items_per_step = conf.train.batch_size * conf.train.accumulate
        self._step, self._simulation = -1, conf.simulation

    def __len__(self) -> int:
        return self.conf.train.max_steps * self.items_per_step

    def simulation(self, step: int) -> Stems:
        """How the mixtures of a step are drawn; they have one length, so that none is padded."""
        if step != self._step:
            now = of_one_length(self.conf, step)
            assert isinstance(now, Stems)
            self._step, self._simulation = step, now
        return self._simulation

    def mixture(self, index: int, attempt: int = 0) -> Mixture:
        simulation = self.simulation(index // self.items_per_step)
        seed, rate = self.conf.seed, self.conf.sample_rate
        return sample_stems(self.corpus, simulation, rate, seed, "train", f"train-{index}", attempt)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Raises:
            ValueError: ten draws in a row cannot be used.
        """
        mixture, rendered, bad_files = self.usable(index)
        return {**to_stem_item(mixture, rendered), "bad_files": bad_files}

    def usable(self, index: int) -> tuple[Mixture, RenderedStems, list[str]]:
        """The first draw of an item that can be used, rendered, and what was wrong with those before."""
        bad_files: list[str] = []
        for attempt in range(ATTEMPTS):
            mixture = self.mixture(index, attempt)
            try:
                rendered = load_stems(mixture)
            except (ValueError, OSError) as error:
                bad_files.append(str(error))
                continue
            if rendered.mixture.any():  # else every crop tried lay in a pause
                return mixture, rendered, bad_files
        why = bad_files[-1] if bad_files else "only silence was drawn"
        raise ValueError(f"train-{index}: {ATTEMPTS} draws in a row cannot be used; the last: {why}")

    def num_present(self, step: int) -> int:
        return self.items_per_step
