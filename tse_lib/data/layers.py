"""Training items of ready-made mixtures: a mixture and a variant, named by the item's number, then read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tse_lib.config import Config, Layers, simulation_at
from tse_lib.data.dataset import ATTEMPTS, DrawnMixtures, load_source, read_source, to_item
from tse_lib.data.stems import StemMixtures
from tse_lib.dsp.level import rms
from tse_lib.manifest import LayeredMix, Mixture, Source
from tse_lib.rng import rng
from tse_lib.simulation.layers import mixture_of, refuse_other_kind, variants_of
from tse_lib.simulation.render import Rendered
from tse_lib.simulation.sample import Corpus
from tse_lib.simulation.stems import StemCorpus

FULL_SCALE = 1 - 2**-23  # the most that 24 bits hold


def read_ready(mixture: Mixture) -> Rendered:
    """A ready-made mixture less what its variant leaves out, its talkers and enrolments: no file is read but these.

    The levels are those of the corpus, unless something would be above full scale without the layers that
    cancelled it: then all is turned down together. Enrolments get the mixture's rate and level.

    Raises:
        ValueError, FileNotFoundError: a file cannot be read; but for enrolments, it has another sample rate.
    """
    ready = mixture.ready
    assert ready

    def read(source: Source) -> Tensor:
        wave, rate = read_source(source)
        if rate != mixture.sample_rate:
            raise ValueError(f"{source.path}: {rate} Hz, its mixture has {mixture.sample_rate} Hz; prepare it again")
        return torch.from_numpy(wave)

    def total(sources: Sequence[Source]) -> Tensor:
        return sum(map(read, sources), torch.zeros(mixture.num_samples))

    mixed = read(ready.mix) - total(ready.minus)
    talkers = torch.stack([total((talker, *talker.plus)) for talker in mixture.talkers])
    loudest = max(float(mixed.abs().max()), float(talkers.abs().max()))
    if loudest > FULL_SCALE:
        mixed, talkers = mixed * (FULL_SCALE / loudest), talkers * (FULL_SCALE / loudest)
    enrolls = []
    for source in mixture.enrolls:
        wave = load_source(source, mixture.sample_rate)
        loudness = torch.minimum(rms(mixed) / rms(wave).clamp_min(1e-8), FULL_SCALE / wave.abs().max().clamp_min(1e-8))
        enrolls.append(wave * loudness)
    return Rendered(mixed, talkers[: len(mixture.targets)], images=list(talkers), noise=None, enrolls=enrolls)


class LayeredMixtures(Dataset):
    """Endless training mixtures, as `DrawnMixtures`: item i belongs to optimizer step i // (batch_size * accumulate).

    In every pass over the mixtures that can have one of the step's variants each of them is there once, in an order of
    its own. One with a file that cannot be read gives its place to another; the item's `bad_files` says why.
    """

    def __init__(self, mixes: list[LayeredMix], conf: Config):
        """
        Raises:
            ValueError: the mixtures have another rate or length than the conf.
        """
        assert isinstance(conf.simulation, Layers)
        refuse_other_kind(mixes, conf.simulation, conf.sample_rate)
        self.mixes, self.conf = mixes, conf
        self.speakers: list[str] = []  # nobody is enrolled
        self.items_per_step = conf.train.batch_size * conf.train.accumulate
        self._step, self._usable = -1, list[LayeredMix]()
        self._variants: tuple[str, ...] = ()
        self._pass, self._order = (-1, 0), np.empty(0, int)

    def __len__(self) -> int:
        return self.conf.train.max_steps * self.items_per_step

    def usable(self, step: int) -> list[LayeredMix]:
        """The mixtures that can have one of the variants of a step."""
        if step != self._step:
            now = simulation_at(self.conf, step)
            assert isinstance(now, Layers)
            if now.variants != self._variants:
                self._variants = now.variants
                self._usable = [mix for mix in self.mixes if variants_of(mix, now.variants)]
            if not self._usable:
                raise ValueError(
                    f"step {step}: none of the {len(self.mixes)} mixtures has one of the variants "
                    f"{', '.join(now.variants)}"
                )
            self._step = step
        return self._usable

    def mixture(self, index: int, attempt: int = 0) -> Mixture:
        """What item `index` is; above attempt 0 another, where a file of the first cannot be read."""
        usable, seed, name = self.usable(index // self.items_per_step), self.conf.seed, f"train-{index}"
        assert isinstance(self.conf.simulation, Layers)
        if attempt:
            place = int(rng(seed, "train", name, "attempt", attempt).integers(len(usable)))
        else:
            number, place = divmod(index, len(usable))
            if self._pass != (number, len(usable)):
                self._pass = number, len(usable)
                self._order = rng(seed, "train", "order", number).permutation(len(usable))
            place = int(self._order[place])
        mix = usable[place]
        own = variants_of(mix, self._variants)
        variant = own[int(rng(seed, "train", name, "variant").integers(len(own)))]
        return mixture_of(mix, variant, self.conf.simulation.goal)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Raises:
            ValueError: ten mixtures in a row cannot be read.
        """
        bad_files: list[str] = []
        for attempt in range(ATTEMPTS):
            mixture = self.mixture(index, attempt)
            try:
                return {**to_item(mixture, read_ready(mixture)), "bad_files": bad_files}
            except (ValueError, OSError) as error:
                bad_files.append(str(error))
        raise ValueError(f"train-{index}: {ATTEMPTS} mixtures in a row cannot be read; the last: {bad_files[-1]}")

    def num_present(self, step: int) -> int:
        return self.items_per_step


TrainingData = Corpus | StemCorpus | list[LayeredMix]
TrainingItems = DrawnMixtures | StemMixtures | LayeredMixtures


def training_items(corpus: TrainingData, conf: Config) -> TrainingItems:
    """Of data sets, mixtures to be drawn; of ready-made mixtures, these."""
    if isinstance(corpus, StemCorpus):
        return StemMixtures(corpus, conf)
    return DrawnMixtures(corpus, conf) if isinstance(corpus, Corpus) else LayeredMixtures(corpus, conf)
