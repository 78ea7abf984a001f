"""Training items: drawn as text, read, rendered. Item i is a function of the conf and i alone."""

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tse_lib import audio
from tse_lib.allocator import keep_freed_memory
from tse_lib.config import Config, Layers, Simulation, Stems, given_dim_of, simulation_at
from tse_lib.dsp.resample import resample
from tse_lib.manifest import Mixture, Response, Source, audio_path, read_embeddings, read_mixtures
from tse_lib.rng import rng
from tse_lib.simulation.render import Rendered, Waveforms, render, render_batch
from tse_lib.simulation.sample import Corpus, sample, target_is_present

Embeddings = Mapping[str, np.ndarray]  # (E,) by utterance
ATTEMPTS = 10  # draws for one item before giving up, where files cannot be read
RIR_RANGE_DB = 90.0  # what 16 bits hold


# ------------------------------------------------------------------------------------------------------------ reading


def sources_of(mixture: Mixture) -> list[Source]:
    """All crops that a mixture is made of; `assemble` takes their samples in this order."""
    noises = [source.noise for source in mixture.enrolls if source.noise]
    return [*mixture.talkers, *mixture.enrolls, *([mixture.noise] if mixture.noise else []), *noises]


def responses_of(mixture: Mixture) -> list[Response]:
    return [source.rir for source in (*mixture.talkers, *mixture.enrolls) if source.rir]


def assemble(mixture: Mixture, waves: list[Tensor], rirs: list[Tensor]) -> Waveforms:
    """The samples of `sources_of` and `responses_of`, where they belong."""
    samples, responses = iter(waves), iter(rirs)
    return Waveforms(
        talkers=[next(samples) for _ in mixture.talkers],
        enrolls=[next(samples) for _ in mixture.enrolls],
        noise=next(samples) if mixture.noise else None,
        rirs=[next(responses) if source.rir else None for source in mixture.talkers],
        enroll_rirs=[next(responses) if source.rir else None for source in mixture.enrolls],
        enroll_noises=[next(samples) if source.noise else None for source in mixture.enrolls],
    )


def read_source(source: Source) -> tuple[np.ndarray, int]:
    """A crop as it lies in its file: (T,) and the file's rate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the prepare stage has told of stereo files already
        try:
            return audio.read(source.path, start=source.start, num_samples=source.num_samples)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{error} (utterance {source.utt_id})") from None


def load_source(source: Source, sample_rate: int) -> Tensor:
    """Read a crop and resample it to `sample_rate` and its speed in one pass: (T,)."""
    return at_rate(*read_source(source), source, sample_rate)


def at_rate(wave: np.ndarray, rate: int, source: Source, sample_rate: int) -> Tensor:
    return torch.from_numpy(audio.resample(wave, rate * source.speed, sample_rate))


def load_rir(rir: Response, sample_rate: int) -> Tensor:
    return _load_rir(rir.path, rir.start, rir.num_samples, sample_rate)


@functools.lru_cache(maxsize=32)
def _load_rir(path: str, start: int, num_samples: int, sample_rate: int) -> Tensor:
    """The response (first channel) from just before its direct sound on, so that images stay aligned with the dry, to
    where 90 dB less than all of it are left.
    """
    channels, rate = audio.read(path, start=start, num_samples=num_samples, mono=False)
    response = audio.resample(channels[0], rate, sample_rate)
    direct = int(np.abs(response).argmax())
    response = response[max(0, direct - round(0.001 * sample_rate)) :]
    left = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
    return torch.from_numpy(response[: np.count_nonzero(left > left[0] * 10 ** (RIR_RANGE_DB / -10))].copy())


def load_waveforms(mixture: Mixture) -> Waveforms:
    """Read everything a mixture names."""
    rate = mixture.sample_rate
    waves = [load_source(source, rate) for source in sources_of(mixture)]
    return assemble(mixture, waves, [load_rir(rir, rate) for rir in responses_of(mixture)])


# -------------------------------------------------------------------------------------------------------------- items


def to_item(mixture: Mixture, rendered: Rendered, embeddings: Embeddings | None = None) -> dict[str, Any]:
    """`enrolls` are waves (T_e,), or where there are embeddings these (E,): networks that are told by one hear none."""
    return {
        "mix_id": mixture.mix_id,
        "speaker": mixture.enrolls[0].spk_id if mixture.enrolls else "",
        "mixture": rendered.mixture,
        "target": rendered.targets,
        "enrolls": rendered.enrolls if embeddings is None else embeddings_of(mixture, embeddings),
        "present": mixture.target_present,
    }


def embeddings_of(mixture: Mixture, embeddings: Embeddings) -> list[Tensor]:
    """Of each enrolment (E,).

    Raises:
        ValueError: an utterance has none.
    """
    missing = [source.utt_id for source in mixture.enrolls if source.utt_id not in embeddings]
    if missing:
        raise ValueError(f"{mixture.mix_id}: its enrolment '{missing[0]}' has no embedding; tse embed that data set")
    return [torch.from_numpy(embeddings[source.utt_id]) for source in mixture.enrolls]


def refuse_other_speed(simulation: object) -> None:
    """ValueError where a talker's speed is changed in the enrolment too: embeddings are of the utterance as it is."""
    if not isinstance(simulation, Simulation) or not simulation.speed_enroll:
        return
    if simulation.speed != (1, 1) and simulation.speed_probability > 0:
        raise ValueError("simulation.speed: embeddings are of utterances as they are; speed: 1, or speed_enroll: false")


def of_one_length(conf: Config, step: int) -> Simulation | Layers | Stems:
    """How the mixtures of a step are drawn, with the length that all of them have."""
    now = simulation_at(conf, step)
    if now.segment_s[0] < now.segment_s[1]:
        length = float(rng(conf.seed, "train", "segment_s", step).uniform(*now.segment_s))
        now = now.model_copy(update={"segment_s": (length, length)})
    return now


class DrawnMixtures(Dataset):
    """Endless training mixtures: item i belongs to optimizer step i // (batch_size * accumulate).

    With `render_on: device` an item holds the samples as read; `collate_raw` and `render_raw` make a batch of them.
    A mixture with a file that cannot be read is drawn anew (with the target present or absent as before); the item's
    `bad_files` says what was wrong.
    """

    def __init__(self, corpus: Corpus, conf: Config):
        self.corpus, self.conf = corpus, conf
        self.speakers = sorted(corpus.speakers)
        self.items_per_step = conf.train.batch_size * conf.train.accumulate
        assert isinstance(conf.simulation, Simulation)
        self._step, self._simulation = -1, conf.simulation
        self.embeddings = corpus.embeddings if given_dim_of(conf.model) else None
        if self.embeddings is not None:
            for step in conf.knots():
                refuse_other_speed(simulation_at(conf, step))

    def __len__(self) -> int:
        return self.conf.train.max_steps * self.items_per_step

    def simulation(self, step: int) -> Simulation:
        """How the mixtures of a step are drawn; they have one length, so that none is padded."""
        if step != self._step:
            now = of_one_length(self.conf, step)
            assert isinstance(now, Simulation)
            self._step, self._simulation = step, now
        return self._simulation

    def mixture(self, index: int, attempt: int = 0) -> Mixture:
        simulation = self.simulation(index // self.items_per_step)
        seed, rate = self.conf.seed, self.conf.sample_rate
        return sample(self.corpus, simulation, rate, seed, "train", f"train-{index}", attempt)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Raises:
            ValueError: ten draws in a row cannot be used.
        """
        bad_files = []
        for attempt in range(ATTEMPTS):
            mixture = self.mixture(index, attempt)
            try:
                raw = [read_source(source) for source in sources_of(mixture)]
                rirs = [load_rir(rir, mixture.sample_rate) for rir in responses_of(mixture)]
            except (ValueError, OSError) as error:
                bad_files.append(str(error))
                continue
            if not raw[0][0].any():  # no activity was measured, and the crop lies in a pause
                continue
            sources = sources_of(mixture)
            if self.conf.simulation.render_on == "device":
                ratios = [
                    rate * source.speed / mixture.sample_rate for source, (_, rate) in zip(sources, raw, strict=True)
                ]
                waves = [torch.from_numpy(wave) for wave, _ in raw]
                given = embeddings_of(mixture, self.embeddings) if self.embeddings is not None else None
                raw_item = {"text": mixture, "waves": [*waves, *rirs], "ratios": ratios, "embeddings": given}
                return {**raw_item, "bad_files": bad_files}
            waves = [at_rate(*read, source, mixture.sample_rate) for read, source in zip(raw, sources, strict=True)]
            item = to_item(mixture, render(mixture, assemble(mixture, waves, rirs)), self.embeddings)
            return {**item, "bad_files": bad_files}
        why = bad_files[-1] if bad_files else "only silence was drawn"
        raise ValueError(f"train-{index}: {ATTEMPTS} draws in a row cannot be used; the last: {why}")

    def num_present(self, step: int) -> int:
        """How many targets are present in a whole optimizer step: known from the text, before rendering."""
        simulation = self.simulation(step)
        first = step * self.items_per_step
        return sum(
            target_is_present(simulation, self.conf.seed, "train", f"train-{index}")
            for index in range(first, first + self.items_per_step)
        )


def target_kinds(mixture: Mixture) -> list[str]:
    """The names under which the references of a mixture are rendered."""
    if mixture.enrolls:
        return ["target"] if mixture.target_present else []
    return list(mixture.source_names)


class RenderedMixtures(Dataset):
    """The mixtures that the simulate stage rendered, for validation and inference.

    With `embedding_dim`, their enrolments are those embeddings of the set's utterances.
    """

    def __init__(self, data_dir: str, sample_rate: int, embedding_dim: int = 0):
        self.data_dir = data_dir
        self.embeddings = read_embeddings(data_dir, embedding_dim) if embedding_dim else None
        self.mixtures = read_mixtures(f"{data_dir}/mixtures.jsonl")
        wrong = next((mix for mix in self.mixtures if mix.sample_rate != sample_rate), None)
        if wrong:
            raise ValueError(
                f"{data_dir}/mixtures.jsonl: {wrong.mix_id} has {wrong.sample_rate} Hz, the model {sample_rate} Hz; "
                "conf/sets.yaml and the experiment's conf must agree"
            )

    def refuse_other_task(self, task: str, num_sources: int = 1, names: tuple[str, ...] = ()) -> None:
        """ValueError unless these mixtures are for the task, and of a separation into these sources."""
        for mixture in self.mixtures:
            own = "extract" if mixture.enrolls else "separate"
            fault = f"is there to {own}, the model to {task}" if own != task else ""
            if task == own == "separate" and len(mixture.source_names) != num_sources:
                what = "stems" if mixture.stems else "talkers"
                fault = f"has {len(mixture.source_names)} {what}, the model {num_sources} outputs"
            elif task == own == "separate" and mixture.stems and mixture.source_names != names:
                fault = f"has the stems {', '.join(mixture.source_names)}, the model {', '.join(names) or 'no names'}"
            if fault:
                raise ValueError(
                    f"{self.data_dir}/mixtures.jsonl: {mixture.mix_id} {fault}; conf/sets.yaml and the experiment's "
                    "conf must agree"
                )

    def __len__(self) -> int:
        return len(self.mixtures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        mixture = self.mixtures[index]

        def read(kind: str) -> Tensor:
            path = audio_path(self.data_dir, kind, mixture.mix_id)
            return torch.from_numpy(audio.read(path, mono=not mixture.stems)[0])

        mixed = read("mixture")
        kinds = target_kinds(mixture)
        return {
            "mix_id": mixture.mix_id,
            "mixture": mixed,
            "target": torch.stack([read(kind) for kind in kinds]) if kinds else torch.zeros_like(mixed)[None],
            "enrolls": embeddings_of(mixture, self.embeddings)
            if self.embeddings is not None
            else [read(f"enroll{number}") for number in range(1, len(mixture.enrolls) + 1)],
            "present": mixture.target_present,
            "variant": mixture.ready.variant if mixture.ready else "",
        }


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items to a batch: mixture (B, 1, T), target (B, S, T), present (B,), and of an extraction `enrolments`.

    Items of stems have channels: mixture (B, C, T), target (B, S, C, T).

    `speaker` has the names of those who are enrolled, empty where they are of no training set.
    """
    size = max(item["mixture"].shape[-1] for item in items)

    def stack(key: str) -> Tensor:
        return torch.stack([torch.nn.functional.pad(item[key], (0, size - item[key].shape[-1])) for item in items])

    return {
        "mix_id": [item["mix_id"] for item in items],
        "speaker": [item.get("speaker", "") for item in items],
        "mixture": stack("mixture")[:, None] if items[0]["mixture"].ndim == 1 else stack("mixture"),
        "target": stack("target"),
        **(enrolments([item["enrolls"] for item in items]) if items[0]["enrolls"] else {}),
        "present": torch.tensor([item["present"] for item in items]),
        "bad_files": [name for item in items for name in item.get("bad_files", ())],
    }


def enrolments(several: list[list[Tensor]]) -> dict[str, Tensor]:
    """The enrolments (T_e,) of each item -> enroll (B, E, T_e), padded, and lengths (B, E)."""
    count, size = max(map(len, several)), max(len(wave) for waves in several for wave in waves)
    enroll = several[0][0].new_zeros(len(several), count, size)
    lengths = torch.zeros(len(several), count, dtype=torch.long)
    for row, waves in enumerate(several):
        for place, wave in enumerate(waves):
            enroll[row, place, : len(wave)] = wave
            lengths[row, place] = len(wave)
    return {"enroll": enroll, "lengths": lengths}


def collate_raw(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items of `render_on: device` to a batch whose samples are one tensor, so that one copy moves them all."""
    waves = [wave for item in items for wave in item["waves"]]
    return {
        "texts": [item["text"] for item in items],
        "ratios": [item["ratios"] for item in items],
        "embeddings": [item["embeddings"] for item in items],
        "sizes": [len(wave) for wave in waves],
        "samples": torch.cat(waves),
        "bad_files": [name for item in items for name in item["bad_files"]],
    }


def render_raw(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What `collate_raw` made -> what `collate` makes, resampled and rendered together on the device."""
    pieces = iter(batch["samples"].to(device, non_blocking=True).split(batch["sizes"]))
    waveforms = []
    for text, ratios in zip(batch["texts"], batch["ratios"], strict=True):
        waves = [resample(next(pieces), ratio) for ratio in ratios]
        waveforms.append(assemble(text, waves, [next(pieces) for _ in responses_of(text)]))
    rendered = render_batch(batch["texts"], waveforms)
    items = [to_item(text, one) for text, one in zip(batch["texts"], rendered, strict=True)]
    for item, given in zip(items, batch["embeddings"], strict=True):
        item["enrolls"] = item["enrolls"] if given is None else [one.to(device) for one in given]
    return {**collate(items), "bad_files": batch["bad_files"]}


def to_batch(items: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """Items of `DrawnMixtures`, wherever they are rendered, to a batch."""
    return collate(items) if "mixture" in items[0] else render_raw(collate_raw(items), device)


def set_up_worker(worker: int) -> None:
    """For a process of a DataLoader: one thread, and memory that was freed is kept for the next mixture.

    glibc would give each large array back to the system and take it anew: a fifth of the time to render at 48 kHz.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
