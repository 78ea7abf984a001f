"""Strict, typed configuration: YAML in, pydantic models out.

An unknown key is an error that names the nearest one. `--set train.lr=1e-4` overrides a value. The options of a model
or a loss (`params`) are checked against its constructor where it is built.
"""

import difflib
import inspect
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _as_range(value: Any) -> Any:
    return (value, value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the range [{value[0]:g}, {value[1]:g}] ends before it begins")
    return value


Range = Annotated[tuple[float, float], BeforeValidator(_as_range), AfterValidator(_ordered)]
IntRange = Annotated[tuple[int, int], BeforeValidator(_as_range), AfterValidator(_ordered)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Simulation(Section):
    """How mixtures are drawn. A range is drawn uniformly; one number stands for itself."""

    segment_s: float = Field(gt=0)
    num_talkers: IntRange = Field(description="talkers in a mixture, the target counted when present")
    sir_db: Range = Field(description="target's image over one interferer's image")
    snr_db: Range = Field(description="all speech over noise")
    noise_probability: Probability
    level_dbfs: Range = Field(description="RMS of the mixture")
    speed: Range = Field((1.0, 1.0), description="speed perturbation, one factor a talker, enrolment included")
    rir_probability: Probability = 0.0
    target_absent: Probability = 0.0
    enroll_s: Range = Field(description="length of one enrolment; shorter where the utterance is")
    num_enrolls: IntRange = (1, 1)
    min_activity: Probability = Field(0.4, description="least share of the target's crop that must be speech")

    @model_validator(mode="after")
    def _sane(self) -> "Simulation":
        if self.num_talkers[0] < 1:
            raise ValueError("num_talkers: at least 1")
        if self.num_enrolls[0] < 1:
            raise ValueError("num_enrolls: at least 1")
        if self.enroll_s[0] <= 0 or self.speed[0] <= 0:
            raise ValueError("enroll_s and speed must be above 0")
        return self


class Stretch(Section):
    """A stretch of training: until this optimizer step, these values replace those of `simulation`."""

    until_step: int = Field(gt=0)
    simulation: dict[str, Any]


class MixtureSet(Section):
    num_mixtures: int = Field(gt=0)
    speech: str = Field(description="data set (below the data folder) that talkers come from")
    noise: str | None = None
    rirs: str | None = None
    simulation: Simulation


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
    """A loss from `tse_lib.losses.LOSSES`, averaged over the targets that are present (or absent)."""

    name: str
    weight: float = Field(gt=0)
    when: Literal["present", "absent"] = "present"
    params: dict[str, Any] = {}


class Train(Section):
    step: Literal["supervised"] = "supervised"
    max_steps: int = Field(gt=0, description="optimizer steps; every other count here is in them too")
    batch_size: int = Field(gt=0)
    accumulate: int = Field(1, gt=0, description="batches in one optimizer step")
    lr: float = Field(gt=0)
    min_lr: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = Field(5.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    bf16: bool = Field(True, description="bfloat16 autocast where the processor has it; losses stay in float32")
    num_workers: int = Field(1, ge=0)
    log_every: int = Field(50, gt=0)
    save_every: int = Field(500, gt=0)
    valid_every: int = Field(1000, gt=0)
    patience: int = Field(0, ge=0, description="validations without a new best before stopping; 0: never")
    init_from: str | None = Field(None, description="start from the weights of this checkpoint")


class Inference(Section):
    chunk_s: float = Field(30.0, gt=0, description="longer mixtures are cut into overlapping chunks of this length")
    overlap_count: int = Field(2, ge=1, description="how many chunks cover a sample")
    batch_size: int = Field(1, gt=0)


class Deployed(Section):
    """What a trained model needs to be used: `model.yaml` of a packed model, and a part of every checkpoint's conf."""

    sample_rate: int = Field(gt=0)
    model: Choice
    inference: Inference = Inference()


class Config(Section):
    """`conf/<experiment>.yaml`: one complete experiment."""

    seed: int
    sample_rate: int = Field(gt=0)
    simulation: Simulation
    curriculum: list[Stretch] = []
    model: Choice
    loss: list[LossTerm] = Field(min_length=1)
    train: Train
    inference: Inference = Inference()

    @model_validator(mode="after")
    def _curriculum_in_order(self) -> "Config":
        ends = [stretch.until_step for stretch in self.curriculum]
        if ends != sorted(set(ends)):
            raise ValueError(f"curriculum: until_step must rise from stretch to stretch, got {ends}")
        for stretch in self.curriculum:
            for step in (0, stretch.until_step - 1):
                override_simulation(self.simulation, stretch, step, 0)
        return self


# ------------------------------------------------------------------------------------------------------- curriculum


def simulation_at(conf: Config, step: int) -> Simulation:
    """The drawing of mixtures at an optimizer step: `simulation`, overridden by the stretch that `step` lies in.

    In a stretch, `snr_db: {ramp: [[15, 20], [-5, 10]]}` goes linearly from the first value to the second.
    """
    begin = 0
    for stretch in conf.curriculum:
        if step < stretch.until_step:
            return override_simulation(conf.simulation, stretch, step, begin)
        begin = stretch.until_step
    return conf.simulation


def override_simulation(base: Simulation, stretch: Stretch, step: int, begin: int) -> Simulation:
    share = (step - begin) / max(1, stretch.until_step - begin)

    def value(wanted: Any) -> Any:
        if not isinstance(wanted, dict):
            return wanted
        if set(wanted) != {"ramp"} or not isinstance(wanted["ramp"], list) or len(wanted["ramp"]) != 2:
            raise ValueError(f"curriculum: a value, a range or {{ramp: [from, to]}} expected, got {wanted}")
        first, last = wanted["ramp"]
        try:
            if isinstance(first, list):
                return [a + share * (b - a) for a, b in zip(first, last, strict=True)]
            return first + share * (last - first)
        except (TypeError, ValueError):
            raise ValueError(f"curriculum: a ramp goes between two numbers or two ranges, got {wanted}") from None

    overrides = {key: value(wanted) for key, wanted in stretch.simulation.items()}
    return build(Simulation, {**base.model_dump(), **overrides}, "curriculum.simulation")


# ---------------------------------------------------------------------------------------------------- YAML to models


class _Loader(yaml.SafeLoader):
    """Plain YAML 1.1 without tags, but `1e-4` is a number and a key given twice is an error."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789"),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"the key '{twice.pop()}' is given twice", node.start_mark)
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


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
    return parse_yaml(path.read_text(encoding="utf-8"), str(path))


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
    where = ".".join(str(part) for part in fault["loc"])
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


def check_params(function: Any, params: dict[str, Any], name: str) -> None:
    """ValueError unless `params` are keyword arguments of `function` (a model's or a loss's constructor)."""
    known = [key for key in inspect.signature(function).parameters if key != "self"]
    for key in params:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{name}: unknown option '{key}'; {hint}")
