"""Strict, typed configuration: YAML in, pydantic models out.

An unknown key is an error that names the nearest one. `--set train.lr=1e-4` overrides a value. The options of a model
or a loss (`params`) are checked against its constructor where it is built.
"""

import difflib
import inspect
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _as_range(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value, value)
    raise ValueError("a number or a range [low, high] expected")


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the range [{value[0]:g}, {value[1]:g}] ends before it begins")
    return value


Range = Annotated[tuple[float, float], BeforeValidator(_as_range), AfterValidator(_ordered)]
IntRange = Annotated[tuple[int, int], BeforeValidator(_as_range), AfterValidator(_ordered)]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value or ())]
Probability = Annotated[float, Field(ge=0, le=1)]


class Simulation(Section):
    """How mixtures are drawn. A range is drawn uniformly; one number stands for itself.

    In an experiment each value may also be a schedule over optimizer steps: `snr_db: {0: [15, 20], 50000: [-5, 10]}`
    goes linearly from the first to the second and stays there (see `simulation_at`).
    """

    segment_s: Range = Field(description="length of a mixture; all mixtures of a training step have one length")
    # who speaks, and when
    num_talkers: IntRange = Field(description="talkers in a mixture, the target counted when present")
    target_absent: Probability = 0.0
    target_presence: Range = Field((1.0, 1.0), description="share of the segment that the target's stretch takes")
    target_begin_s: Range | None = Field(None, description="where that stretch begins; none: anywhere")
    overlap_ratio: Range = Field((1.0, 1.0), description="share of the target's stretch that an interferer covers")
    fade_s: float = Field(0.05, ge=0, description="of speech that begins or ends inside the segment")
    min_activity: Probability = Field(0.4, description="least share of a talker's crop that must be speech")
    speed: Range = Field((1.0, 1.0), description="speed perturbation, one factor a talker")
    speed_probability: Probability = 1.0
    speed_enroll: bool = Field(
        True, description="the enrolment has the talker's speed: a new talker; false: it has not"
    )
    # levels
    sir_db: Range = Field(description="target's image over one interferer's image")
    snr_db: Range = Field(description="all speech over noise")
    noise_probability: Probability
    level_dbfs: Range = Field(description="RMS of the mixture")
    # rooms
    rir_probability: Probability = Field(0.0, description="of each talker to be heard in a room")
    rir_sources: dict[str, float] = Field({}, description="weights of the sets of responses; none: all responses alike")
    same_room: bool = Field(False, description="all talkers of a mixture in one room (its group in utt2group)")
    target: Literal["dry", "early", "reverberant"] = "reverberant"
    early_s: float = Field(0.05, gt=0, description="of the response after the direct sound, where the target is early")
    # enrolments
    enroll_s: Range | None = Field(None, description="length of one enrolment; shorter where the utterance is")
    num_enrolls: IntRange = Field((1, 1), description="0: nobody is singled out, all talkers are wanted (separation)")
    enroll_noise_probability: Probability = 0.0
    enroll_snr_db: Range = (5.0, 20.0)
    enroll_rir_probability: Probability = 0.0
    enroll_eq_probability: Probability = 0.0
    enroll_eq_db: Range = Field((-6.0, 6.0), description="of a random equaliser, at six frequencies 64 to 24000 Hz")
    # the channel: what is done to the mixture; all but the band limit leave the target alone
    band_limit_probability: Probability = 0.0
    band_limit_hz: Range = Field(
        (3400.0, 3400.0), description="upper edge; mixture, target and parts are limited alike"
    )
    clip_probability: Probability = 0.0
    clip_db: Range = Field((1.0, 10.0), description="how far the peaks would rise above the level where they are cut")
    num_time_masks: IntRange = Field((0, 0), description="SpecAugment of the mixture's spectrogram")
    time_mask_s: Range = (0.0, 0.5)
    num_freq_masks: IntRange = (0, 0)
    freq_mask_hz: Range = (0.0, 500.0)
    render_on: Literal["worker", "device"] = Field("worker", description="where the audio of training items is made")

    @model_validator(mode="after")
    def _sane(self) -> "Simulation":
        least = {
            "num_talkers": 1, "num_enrolls": 0, "num_time_masks": 0, "num_freq_masks": 0, "time_mask_s": 0,
            "freq_mask_hz": 0, "overlap_ratio": 0, "clip_db": 0,
        }  # fmt: skip
        for name, limit in least.items():
            if getattr(self, name)[0] < limit:
                raise ValueError(f"{name}: at least {limit}")
        for name in ("segment_s", "speed", "target_presence", "band_limit_hz"):
            if getattr(self, name)[0] <= 0:
                raise ValueError(f"{name} must be above 0")
        self._fits_the_task()
        for name in ("target_presence", "overlap_ratio"):
            if getattr(self, name)[1] > 1:
                raise ValueError(f"{name}: a share, at most 1")
        if any(weight < 0 for weight in self.rir_sources.values()) or (
            self.rir_sources and not sum(self.rir_sources.values())
        ):
            raise ValueError("rir_sources: weights of at least 0, not all 0")
        return self

    def _fits_the_task(self) -> None:
        if self.task == "extract":
            if self.num_enrolls[0] == 0:
                raise ValueError("num_enrolls: 0 for a separation, else at least 1")
            if self.enroll_s is None or self.enroll_s[0] <= 0:
                raise ValueError("enroll_s must be there and above 0 (or num_enrolls: 0, for a separation)")
            return
        if self.target_absent:
            raise ValueError("target_absent must be 0 where all talkers are wanted (num_enrolls: 0)")
        if self.num_talkers[0] != self.num_talkers[1]:
            raise ValueError(
                "num_talkers: one number where all are wanted (num_enrolls: 0); a network has so many outputs"
            )

    @property
    def task(self) -> str:
        """What a network has to do with such mixtures: extract whom the enrolment names, or separate all talkers."""
        return "extract" if self.num_enrolls[1] else "separate"

    @property
    def source_names(self) -> tuple[str, ...]:
        return ()

    @property
    def num_channels(self) -> int:
        return 1


VARIANTS = {  # of layered mixtures, named by what is kept: reverberation and event, scene; C has neither
    "indoor": ("SER", "SR", "ER", "R", "C"),
    "outdoor": ("SE", "S", "E", "C"),
}


class Layers(Section):
    """How mixtures are drawn that a corpus brings ready-made with the layers that they are the sum of (PolSESS).

    A training item is one of the set's mixtures, once in every pass over the set, in one of the variants that it can
    have, each as likely as the others. `variants` may be a schedule over optimizer steps, as values of `Simulation`.
    """

    goal: Literal["ES", "EB", "SB"] = Field(
        description="enhance the first speaker (the second is taken out), enhance both as one, separate both; all dry"
    )
    variants: Names = Field(description="of VARIANTS")
    segment_s: Range = Field((4.0, 4.0), description="length of the corpus's mixtures")

    @model_validator(mode="after")
    def _sane(self) -> "Layers":
        known = {name for names in VARIANTS.values() for name in names}
        unknown = [name for name in self.variants if name not in known]
        if unknown or not self.variants:
            raise ValueError(f"variants: {unknown[0] if unknown else 'none'}; there are {', '.join(sorted(known))}")
        if len(set(self.variants)) < len(self.variants):
            raise ValueError(f"variants: one is there twice in {', '.join(self.variants)}")
        if self.segment_s[0] != self.segment_s[1] or self.segment_s[0] <= 0:
            raise ValueError("segment_s: one number above 0, the length that the mixtures have")
        return self

    # what is asked of any drawing

    @property
    def task(self) -> str:
        return "separate"

    @property
    def num_talkers(self) -> tuple[int, int]:
        """How many sources are wanted: enhanced together, two speakers are one."""
        return (2, 2) if self.goal == "SB" else (1, 1)

    @property
    def target_absent(self) -> float:
        return 0.0

    @property
    def render_on(self) -> str:
        return "worker"

    @property
    def source_names(self) -> tuple[str, ...]:
        return ()

    @property
    def num_channels(self) -> int:
        return 1


NO_STEMS = ("mixture", "target", "noise")  # folders of audio beside those of the stems


class Stems(Section):
    """How mixtures of stems are drawn: sources that have names and an order, as the instruments of a drum kit.

    They come from sets of `tse prepare drums` (one-shots put together as drummers played) or `stems` (tracks). The
    mixture is exactly the sum of its stems. Values may be schedules, as those of `Simulation`.
    """

    stems: Names = Field(description="what is separated, in the order of the network's outputs")
    segment_s: Range = Field((10.0, 10.0), description="length of a mixture")
    whole: bool = Field(False, description="of a fixed set: whole tracks as they are, instead of drawn mixtures")
    num_channels: int = Field(2, ge=1, le=2)
    min_stems: int = Field(1, ge=1, description="a crop is sought in which so many stems are heard")
    gain_db: Range = Field((0.0, 0.0), description="of each stem, drawn by itself")
    peak_dbfs: Range | None = Field((-12.0, -1.0), description="of the mixture; null: as the stems add up")
    swap_probability: Probability = Field(0.0, description="of each stem to come from another performance or track")
    drop_probability: Probability = Field(0.0, description="of each stem to be silent")
    channel_swap_probability: Probability = Field(0.0, description="of each stem to have left and right exchanged")
    invert_probability: Probability = Field(0.0, description="of each stem to have its polarity turned around")
    pan: Range = Field((0.0, 0.0), description="of an instrument with mono files: -1 left to 1 right")
    # of performances
    rank_spread: int = Field(1, ge=0, description="a hit's recording is drawn so many velocity ranks around its own")
    dynamics_db: float = Field(30.0, ge=0, description="from the softest velocity to the loudest, between the ranks")
    speed: Range = Field((1.0, 1.0), description="of an instrument's one-shots: higher and shorter above 1")
    choke_s: float = Field(0.02, ge=0, description="in which an open hi-hat fades when it is closed")

    @model_validator(mode="after")
    def _sane(self) -> "Stems":
        if not self.stems or len(set(self.stems)) < len(self.stems):
            raise ValueError(f"stems: one name each expected, got {', '.join(self.stems) or 'none'}")
        for name in self.stems:
            if not re.fullmatch(r"\w[\w.+-]*", name) or name in NO_STEMS:
                raise ValueError(f"stems: '{name}' would not do as the name of a folder beside {', '.join(NO_STEMS)}")
        for name in ("segment_s", "speed"):
            if getattr(self, name)[0] <= 0:
                raise ValueError(f"{name} must be above 0")
        if self.pan[0] < -1 or self.pan[1] > 1:
            raise ValueError("pan: from -1, left, to 1, right")
        if self.peak_dbfs is not None and self.peak_dbfs[1] > 0:
            raise ValueError("peak_dbfs: at most 0, which is full scale")
        return self

    # what is asked of any drawing

    @property
    def task(self) -> str:
        return "separate"

    @property
    def source_names(self) -> tuple[str, ...]:
        return self.stems

    @property
    def num_talkers(self) -> tuple[int, int]:
        return len(self.stems), len(self.stems)

    @property
    def target_absent(self) -> float:
        return 0.0

    @property
    def render_on(self) -> str:
        return "worker"


KINDS: dict[str, type[Section]] = {"Simulation": Simulation, "Layers": Layers, "Stems": Stems}
OWN_KEYS = {"goal": "Layers", "stems": "Stems"}  # tell the kind of a drawing; without any it is a Simulation


def _kind_of(value: Any) -> str:
    if isinstance(value, Section):
        return type(value).__name__
    return next((kind for key, kind in OWN_KEYS.items() if isinstance(value, dict) and key in value), "Simulation")


Drawing = Annotated[
    Annotated[Simulation, Tag("Simulation")] | Annotated[Layers, Tag("Layers")] | Annotated[Stems, Tag("Stems")],
    Discriminator(_kind_of),
]


class Stretch(Section):
    """A stretch of training: until this optimizer step, these values replace those of `simulation`."""

    until_step: int = Field(gt=0)
    simulation: dict[str, Any]


class MixtureSet(Section):
    num_mixtures: int | None = Field(
        None, gt=0, description="none: of layered mixtures, or of whole tracks, all that the sets have"
    )
    num_absent: int | None = Field(None, ge=0, description="exactly so many targets are absent; none: by chance")
    speech: Names = Field((), description="data sets (below the data folder) that talkers come from")
    noise: Names = ()
    rirs: Names = ()
    tracks: Names = Field((), description="data sets that stems come from")
    simulation: Drawing

    @model_validator(mode="after")
    def _fits_the_drawing(self) -> "MixtureSet":
        wanted, other = ("tracks", "speech") if isinstance(self.simulation, Stems) else ("speech", "tracks")
        if not getattr(self, wanted):
            raise ValueError(f"the key '{wanted}' is missing: the data sets that are drawn from")
        if getattr(self, other):
            raise ValueError(f"{other}: these mixtures are drawn from '{wanted}'")
        if isinstance(self.simulation, Stems):
            given = [name for name in ("num_absent", "noise", "rirs") if getattr(self, name)]
            if given:
                raise ValueError(f"{given[0]}: not with simulation.stems, whose mixtures are the sum of their stems")
            if (self.num_mixtures is None) != self.simulation.whole:
                raise ValueError("num_mixtures: for drawn mixtures; of whole tracks (simulation.whole) all are taken")
            return self
        if isinstance(self.simulation, Layers):
            given = [name for name in ("num_absent", "noise", "rirs") if getattr(self, name)]
            if given:
                raise ValueError(f"{given[0]}: not with simulation.goal; layered mixtures are as the corpus made them")
            return self
        if self.num_mixtures is None:
            raise ValueError("the key 'num_mixtures' is missing; only layered mixtures have a number of their own")
        if self.num_absent is not None and self.num_absent > self.num_mixtures:
            raise ValueError(f"num_absent {self.num_absent}: there are {self.num_mixtures} mixtures")
        return self


class Sets(Section):
    """`conf/sets.yaml`: the fixed development and test mixtures of a recipe."""

    seed: int
    sample_rate: int = Field(gt=0)
    sets: dict[str, MixtureSet]


class Choice(Section):
    """A model from `tse_lib.models.MODELS`."""

    name: str
    params: dict[str, Any] = {}


class LossTerm(Section):
    """A loss from `tse_lib.losses.LOSSES`, averaged over the targets that are present (or absent).

    The weight may be a schedule over optimizer steps, `weight: {0: 1.0, 5000: 0.1}`, as values of `simulation` may, or
    the word `learned`: it is trained with the model (`tse_lib.losses.weights.UncertaintyWeights`) and begins at 1/2.
    """

    name: str
    weight: float = Field(ge=0, allow_inf_nan=False, description="at step 0, where it does not stay")
    schedule: dict[int, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        {}, description="the weight where it was given as a schedule"
    )
    learned: bool = Field(False, description="whether the weight was given as `learned`")
    when: Literal["present", "absent"] = "present"
    params: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _take_schedule(cls, values: Any) -> Any:
        """Move a schedule, or the word `learned`, out of `weight` and leave its value at step 0 there."""
        if not isinstance(values, dict):
            return values
        weight, knots = values.get("weight"), values.get("schedule")
        if weight == "learned":
            return {**values, "learned": True, "weight": 0.5}
        if isinstance(weight, dict):
            weight, knots = None, weight
        if not isinstance(knots, dict) or not knots:
            return values
        if not all(_is_step(key) for key in knots):
            raise ValueError(f"weight: a number or a schedule {{step: weight}} expected, got {knots}")
        knots = {int(step): knots[step] for step in knots}
        first = value_at("weight", knots, 0)
        if weight not in (None, first):
            raise ValueError(f"weight: {weight}, but {first} at step 0 of `schedule`; give one of the two")
        return {**values, "schedule": knots, "weight": first}

    @model_validator(mode="after")
    def _counts(self) -> "LossTerm":
        if not any(self.schedule.values() or [self.weight]):
            raise ValueError(f"weight: above 0, at some step at least; to do without '{self.name}', remove it")
        if self.learned and (self.weight != 0.5 or self.schedule):
            raise ValueError(f"weight: 'learned', a number or a schedule; for '{self.name}' there are two of them")
        return self


def _no_rise(lr: float, min_lr: float) -> None:
    if min_lr > lr:
        raise ValueError(f"min_lr {min_lr:g} is above lr {lr:g}: the learning rate would rise; lower it, too")


class Gan(Section):
    """`train.gan`: the discriminator of `step: gan`, and how much of it the extractor hears.

    At first the discriminator learns alone and the extractor stays as it is, then the weights of its losses grow
    linearly from 0, then they are full. The learning rate of each warms up when it begins to move.
    """

    discriminator: Choice = Field(description="of tse_lib.models.discriminators.DISCRIMINATORS")
    lr: float = Field(gt=0)
    min_lr: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.8, 0.99)
    discriminator_only_steps: int = Field(ge=0)
    ramp_steps: int = Field(ge=0)
    adversarial_weight: float = Field(gt=0)
    feature_weight: float = Field(ge=0, description="of feature matching")
    level_ratio: Range = Field((0.5, 2.0), description="warn where output over target level leaves this")
    collapse_below: float = Field(0.01, ge=0, description="warn where the discriminator's loss falls below this")
    stop_after: int = Field(10, ge=0, description="reports in a row with the same warning before stopping; 0: never")

    @model_validator(mode="after")
    def _falls(self) -> "Gan":
        _no_rise(self.lr, self.min_lr)
        return self

    @model_validator(mode="after")
    def _warms_up_alone(self) -> "Gan":
        if self.warmup_steps > self.discriminator_only_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} must lie inside discriminator_only_steps "
                f"{self.discriminator_only_steps}: a discriminator that hardly learns is no use to the extractor"
            )
        return self


class Distill(Section):
    """`train.distill`: what `step: distill` learns from a frozen teacher, beside the losses of the conf."""

    teacher: str = Field(description="a checkpoint; its own conf says which model it is")
    weight: float = Field(gt=0, description="of the negative SI-SDR to the teacher's output, of present targets")
    features: dict[str, str] = Field({}, description="modules whose outputs are matched: the student's, the teacher's")
    feature_weight: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _features_have_a_weight(self) -> "Distill":
        if bool(self.features) != (self.feature_weight > 0):
            raise ValueError("features and a feature_weight above 0 belong together")
        return self


class Train(Section):
    step: Literal["supervised", "gan", "distill"] = "supervised"
    gan: Gan | None = None
    distill: Distill | None = None
    max_steps: int = Field(gt=0, description="optimizer steps; every other count here is in them too")
    batch_size: int = Field(gt=0)
    accumulate: int = Field(1, gt=0, description="batches in one optimizer step")
    optimizer: Literal["adamw", "prodigy"] = Field("adamw", description="prodigy finds its learning rate itself; lr: 1")
    lr: float = Field(gt=0)
    min_lr: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    restart_at: tuple[int, ...] = Field((), description="steps at which the learning rate is whole again")
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = Field(5.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    bf16: bool = Field(True, description="bfloat16 autocast where the processor has it; losses stay in float32")
    tf32: bool = Field(True, description="products of float32 matrices in TensorFloat-32, on GPUs that have it")
    compile: bool = Field(False, description="torch.compile: minutes at the start for faster steps")
    num_workers: int = Field(1, ge=0)
    bad_files: Literal["stop", "skip"] = Field("stop", description="what to do about a file that cannot be read")
    log_every: int = Field(50, gt=0)
    save_every: int = Field(500, gt=0)
    keep_last: int = Field(2, gt=0, description="checkpoints, the newest counted, besides milestones")
    milestones: tuple[int, ...] = Field((), description="steps that are validated and whose checkpoints stay for ever")
    valid_every: int = Field(1000, gt=0)
    audio_examples: int = Field(3, ge=0, description="dev mixtures to hear in TensorBoard after each validation")
    patience: int = Field(0, ge=0, description="validations without a new best before stopping; 0: never")
    init_from: str | None = Field(None, description="start from the weights of this checkpoint")
    overfit_batches: int = Field(0, ge=0, description="repeat those of the first steps: can it learn at all? 0: never")

    @model_validator(mode="after")
    def _falls(self) -> "Train":
        _no_rise(self.lr, self.min_lr)
        return self

    @model_validator(mode="after")
    def _sections_fit_the_step(self) -> "Train":
        for name in ("gan", "distill"):
            if (getattr(self, name) is not None) != (self.step == name):
                raise ValueError(f"a section '{name}' belongs to 'step: {name}' and to no other, got step: {self.step}")
        if self.gan and self.gan.discriminator_only_steps >= self.max_steps:
            raise ValueError(f"gan.discriminator_only_steps must be below max_steps {self.max_steps}")
        return self

    @model_validator(mode="after")
    def _restarts_in_order(self) -> "Train":
        if not self.restart_at:
            return self
        ends = [self.warmup_steps, *self.restart_at, self.max_steps]
        if any(later <= earlier for earlier, later in zip(ends, ends[1:], strict=False)):
            raise ValueError(
                f"restart_at {list(self.restart_at)}: steps in ascending order, above warmup_steps {self.warmup_steps} "
                f"and below max_steps {self.max_steps}"
            )
        if self.gan:
            raise ValueError("restart_at: not with a section 'gan', whose discriminator has no restarts")
        return self


class Inference(Section):
    chunk_s: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="longer mixtures are cut into overlapping chunks of this length"
    )
    overlap_count: int = Field(2, ge=1, description="how many chunks cover a sample")
    crossfade: float = Field(
        0.0, ge=0, lt=0.5, description="share of a chunk that it has in common with the next one at overlap_count 1"
    )
    batch_size: int = Field(1, gt=0)
    window: Literal["hann", "flat", "trapezoid"] = Field(
        "hann",
        description="chunks are cross-faded, or their plain mean is taken; trapezoid: plain but near their ends",
    )
    # of separators
    stitch: bool = Field(True, description="sources come in any order, chunk by chunk; false: always in the same")
    level: Literal["mixture", "model"] = Field(
        "mixture", description="sources are scaled so that their sum fits the mixture; model: they come scaled"
    )
    sum_to_mixture: bool = Field(
        False, description="what the sources' sum lacks of the mixture is dealt out to them, bin by bin, by their power"
    )
    source_names: Names = Field((), description="of the sources in the model's order, for file names; none: numbers")

    @model_validator(mode="after")
    def _overlaps_in_one_way(self) -> "Inference":
        if self.crossfade and self.overlap_count > 1:
            raise ValueError(f"crossfade is for overlap_count 1; here chunks overlap {self.overlap_count} times")
        return self

    @model_validator(mode="after")
    def _names_of_files(self) -> "Inference":
        for name in self.source_names:
            if not re.fullmatch(r"\w[\w .+-]*", name):
                raise ValueError(f"source_names: '{name}' would not do in the name of a file")
        if len(set(self.source_names)) < len(self.source_names):
            raise ValueError(f"source_names: one is given twice: {', '.join(self.source_names)}")
        return self


Finite = Annotated[float, Field(allow_inf_nan=False)]


class Calibration(Section):
    """`calibration.yaml` beside a checkpoint: how the wanted talker's presence follows from an output.

    See `tse_lib.metrics.detection`, which fits and uses it.
    """

    model: str = Field(description="fingerprint of the network that was calibrated")
    weights: tuple[Finite, Finite] = Field(description="log odds a dB of each of the two features")
    bias: Finite
    threshold: Probability = Field(description="the talker is judged present from this probability on")
    equal_error_rate: Probability = Field(description="of the seconds below, at the threshold")
    seconds_present: int = Field(gt=0, description="what it was fitted on")
    seconds_absent: int = Field(gt=0)
    data: str = Field(description="the set that they are of")


class Deployed(Section):
    """What a trained model needs to be used: `model.yaml` of a packed model, and a part of every checkpoint's conf."""

    sample_rate: int = Field(gt=0)
    model: Choice
    inference: Inference = Inference()
    calibration: Calibration | None = Field(None, description="of an extractor; none: it was not calibrated")


class Config(Section):
    """`conf/<experiment>.yaml`: one complete experiment."""

    seed: int
    sample_rate: int = Field(gt=0)
    simulation: Drawing = Field(description="at step 0, before the curriculum")
    schedule: dict[str, dict[int, Any]] = Field(
        {}, description="the values of `simulation` that were given as schedules"
    )
    curriculum: list[Stretch] = []
    model: Choice
    loss: list[LossTerm] = Field(min_length=1)
    train: Train
    inference: Inference = Inference()

    @model_validator(mode="before")
    @classmethod
    def _take_schedules(cls, values: Any) -> Any:
        """Move schedules out of `simulation` and leave their values at step 0 there."""
        if not isinstance(values, dict) or not isinstance(values.get("simulation"), dict):
            return values
        schedule = {
            name: {int(step): value[step] for step in value}
            for section in (values.get("schedule") or {}, values["simulation"])
            for name, value in section.items()
            if isinstance(value, dict) and value and all(_is_step(key) for key in value)
        }
        first = {name: value_at(name, knots, 0) for name, knots in schedule.items()}
        return {**values, "schedule": schedule, "simulation": {**values["simulation"], **first}}

    @model_validator(mode="before")
    @classmethod
    def _name_the_outputs(cls, values: Any) -> Any:
        """Stems have names, one order and their own level, and this goes with the network to wherever it is used."""
        if not isinstance(values, dict) or not isinstance(values.get("simulation"), dict):
            return values
        stems, given = values["simulation"].get("stems"), values.get("inference") or {}
        if not isinstance(stems, (list, tuple)) or not isinstance(given, dict):
            return values
        return {**values, "inference": {"source_names": list(stems), "stitch": False, "level": "model", **given}}

    @model_validator(mode="after")
    def _stems_fit_inference(self) -> "Config":
        names = self.simulation.source_names
        if names and (self.inference.source_names != names or self.inference.stitch):
            raise ValueError(
                f"inference: the outputs of simulation.stems are {', '.join(names)}, in this order; remove "
                "source_names and stitch"
            )
        if isinstance(self.simulation, Stems) and self.simulation.whole:
            raise ValueError("simulation.whole: for fixed sets; a training takes crops of segment_s")
        return self

    @model_validator(mode="after")
    def _step_fits_the_task(self) -> "Config":
        if self.train.step == "gan" and self.simulation.task == "separate":
            raise ValueError(
                "train.step: gan is for extractions; a separation (num_enrolls: 0) has no one target to judge"
            )
        return self

    @model_validator(mode="after")
    def _weights_of_one_kind(self) -> "Config":
        learned = [term.name for term in self.loss if term.learned]
        scheduled = [term.name for term in self.loss if term.schedule]
        if learned and scheduled:
            raise ValueError(
                f"loss: the weight of '{learned[0]}' is learned, that of '{scheduled[0]}' scheduled, and would pull "
                "against the schedule; fix one of the two"
            )
        if len(set(learned)) < len(learned):
            raise ValueError(
                f"loss: '{max(learned, key=learned.count)}' is there twice; of which is the weight logged?"
            )
        return self

    @model_validator(mode="after")
    def _curriculum_in_order(self) -> "Config":
        ends = [stretch.until_step for stretch in self.curriculum]
        if ends != sorted(set(ends)):
            raise ValueError(f"curriculum: until_step must rise from stretch to stretch, got {ends}")
        for step in self.knots():
            now = simulation_at(self, step)
            if isinstance(now, Layers) and isinstance(self.simulation, Layers) and now.goal != self.simulation.goal:
                raise ValueError("curriculum: goal is the same for the whole training")
            if (now.source_names, now.num_channels) != (self.simulation.source_names, self.simulation.num_channels):
                raise ValueError("curriculum: stems and num_channels are the same for the whole training")
            if now.render_on != self.simulation.render_on:
                raise ValueError("curriculum: render_on is the same for the whole training")
            if now.task != self.simulation.task or (
                now.task == "separate" and now.num_talkers != self.simulation.num_talkers
            ):
                raise ValueError(
                    "curriculum: a separation's num_enrolls and num_talkers are the same for the whole training"
                )
        return self

    def knots(self) -> list[int]:
        """The steps at which the drawing of mixtures turns, and those just before."""
        ends = [stretch.until_step for stretch in self.curriculum]
        steps = {step for knots in self.schedule.values() for step in knots}
        return sorted({0, *steps, *ends, *(end - 1 for end in ends)})


# ------------------------------------------------------------------------------------------------------- curriculum


def simulation_at(conf: Config, step: int) -> Simulation | Layers | Stems:
    """The drawing of mixtures at an optimizer step: `simulation` and its schedules, overridden by the curriculum.

    A schedule is a mapping from steps to values: linear between two steps, constant before the first and after the
    last (a word, or a list of words, jumps at its step). A stretch of the curriculum replaces values until its step;
    in it, `snr_db: {ramp: [[15, 20], [-5, 10]]}` goes linearly from the first value to the second.
    """
    changes = {name: value_at(name, knots, step) for name, knots in conf.schedule.items()}
    begin = 0
    for stretch in conf.curriculum:
        if step < stretch.until_step:
            share = (step - begin) / max(1, stretch.until_step - begin)
            changes |= {name: _ramped(name, wanted, share) for name, wanted in stretch.simulation.items()}
            break
        begin = stretch.until_step
    if not changes:
        return conf.simulation
    return build(type(conf.simulation), {**conf.simulation.model_dump(), **changes}, "curriculum.simulation")


def value_at(name: str, knots: dict[int, Any], step: int) -> Any:
    steps = sorted(knots)
    before = [knot for knot in steps if knot <= step]
    after = [knot for knot in steps if knot > step]
    if not before or not after:
        return knots[before[-1] if before else after[0]]
    first, last = before[-1], after[0]
    some = knots[first][0] if isinstance(knots[first], list) and knots[first] else knots[first]
    if isinstance(some, (str, bool)):
        return knots[first]
    return _between(name, knots[first], knots[last], (step - first) / (last - first))


def _is_step(key: Any) -> bool:
    return (isinstance(key, int) and not isinstance(key, bool) and key >= 0) or (
        isinstance(key, str) and key.isdecimal()  # JSON has no other keys
    )


def _ramped(name: str, wanted: Any, share: float) -> Any:
    if not isinstance(wanted, dict) or name == "rir_sources":
        return wanted
    if set(wanted) != {"ramp"} or not isinstance(wanted["ramp"], list) or len(wanted["ramp"]) != 2:
        raise ValueError(f"curriculum: {name}: a value, a range or {{ramp: [from, to]}} expected, got {wanted}")
    first, last = wanted["ramp"]
    return _between(name, first, last, share)


def _between(name: str, first: Any, last: Any, share: float) -> Any:
    """Linearly between two numbers or ranges; counts are rounded."""
    try:
        if isinstance(first, list) or isinstance(last, list):
            first, last = _as_range(first), _as_range(last)
            return [_between(name, a, b, share) for a, b in zip(first, last, strict=True)]
        value = first + share * (last - first)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: between two numbers or two ranges, not from {first!r} to {last!r}") from None
    return round(value) if name.startswith("num_") else value


def curriculum_scalars(conf: Config, step: int) -> dict[str, float]:
    """The numbers of `simulation` that change in the course of the training, as they are at `step`: for the log."""
    moving = {*conf.schedule, *(name for stretch in conf.curriculum for name in stretch.simulation)}
    now = simulation_at(conf, step)
    scalars: dict[str, float] = {}
    for name in sorted(moving):
        limits = limits_of(getattr(now, name))
        if limits:
            low, high = limits
            scalars |= {name: low} if low == high else {f"{name}_low": low, f"{name}_high": high}
    return scalars


def limits_of(value: Any) -> tuple[float, float] | None:
    """The two ends of a range, or of a number, which stands for itself; None for words and all else."""
    low, high = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    both = isinstance(low, (int, float)) and isinstance(high, (int, float))
    return (float(low), float(high)) if both else None


# ---------------------------------------------------------------------------------------------------- YAML to models


class _Loader(yaml.SafeLoader):
    """Plain YAML 1.1 without tags, but `1e-4` is a number and a key given twice is an error."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789"),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    merge = "tag:yaml.org,2002:merge"
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value if key.tag != merge]
    if not all(isinstance(key, Hashable) for key in keys):
        raise yaml.constructor.ConstructorError(
            None, None, "a list or mapping stands where a key should", node.start_mark
        )
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"the key '{twice.pop()}' is given twice", node.start_mark)
    loader.flatten_mapping(node)  # `<<: *other` stands for the other's keys, which one's own override
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value
    }


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse_yaml(text: str, name: str = "YAML") -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{name}{where}: {getattr(error, 'problem', None) or error}") from None


def read_yaml(path: str | Path) -> Any:
    path = Path(path)
    if not path.exists():
        others = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise FileNotFoundError(
            f"{path}: no such configuration" + (f"; there are: {', '.join(others)}" if others else "")
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not in UTF-8 (byte {error.start}); save it in that encoding") from None
    return parse_yaml(text, str(path))


T = TypeVar("T", bound=Section)


def build(kind: type[T], values: Any, name: str) -> T:
    """Values to a model of `kind`; every fault in one ValueError, an unknown key with the nearest known one."""
    if not isinstance(values, dict):
        raise ValueError(f"{name}: a mapping of keys expected, got {values!r}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(kind, fault, name) for fault in error.errors())) from None


def _explain(kind: type[BaseModel], fault: Any, name: str) -> str:
    where = ".".join(str(part) for part in fault["loc"] if part not in KINDS)
    if fault["type"] == "extra_forbidden":
        known = _known_keys(kind, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, 1, 0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known))}"
        return f"{name}: unknown key '{where}'; {hint}"
    if fault["type"] == "missing":
        return f"{name}: the key '{where}' is missing"
    message = fault["msg"].removeprefix("Value error, ")
    value = fault["input"]
    shown = "" if isinstance(value, dict) else f" (got {value!r})"
    return f"{name}: {where + ': ' if where else ''}{message}{shown}"


def _known_keys(kind: Any, path: tuple[Any, ...]) -> list[str]:
    for part in path:
        if isinstance(part, int):
            continue
        if part in KINDS:
            kind = KINDS[part]
            continue
        fields = getattr(kind, "model_fields", None)
        if fields and part in fields:
            kind = fields[part].annotation
        for candidate in getattr(kind, "__args__", ()):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                kind = candidate
    return list(getattr(kind, "model_fields", {}))


def override(values: Any, assignments: list[str], name: str) -> Any:
    """Apply `a.b=c` assignments (the value is YAML; a number picks a list's item) to nested mappings, in place."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {assignment}: 'key.subkey=value' expected")
        *parents, last = key.split(".")
        target = values
        for part in parents:
            if isinstance(target, list) and part.isdigit() and int(part) < len(target):
                target = target[int(part)]
            elif isinstance(target, dict):
                target = target.setdefault(part, {})
            else:
                raise ValueError(f"{name}: --set {assignment}: there is no '{part}' to go into")
        if isinstance(target, list) and last.isdigit() and int(last) < len(target):
            target[int(last)] = parse_yaml(text, f"--set {assignment}")
        elif isinstance(target, dict):
            target[last] = parse_yaml(text, f"--set {assignment}")
        else:
            raise ValueError(f"{name}: --set {assignment}: '{'.'.join(parents)}' is not a section")
    return values


def load_config(path: str | Path, assignments: list[str] | None = None) -> Config:
    """An experiment's conf with `--set` overrides.

    Raises:
        FileNotFoundError, ValueError: naming the file, the key, the value and the nearest known key.
    """
    return build(Config, override(read_yaml(path), assignments or [], str(path)), str(path))


def load_sets(path: str | Path) -> Sets:
    return build(Sets, read_yaml(path), str(path))


def given_dim_of(model: Choice) -> int:
    """How many numbers an embedding has that a conf's model is given in place of enrolments; 0: it hears enrolments."""
    speaker = model.params.get("speaker")
    if not isinstance(speaker, dict) or speaker.get("kind") != "given":
        return 0
    return int(speaker.get("embedding_dim", 0))


def check_params(function: Any, params: dict[str, Any], name: str) -> None:
    """ValueError unless `params` are keyword arguments of `function` (a model's or a loss's constructor)."""
    known = [key for key in inspect.signature(function).parameters if key != "self"]
    for key in params:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{name}: unknown option '{key}'; {hint}")
