"""What a training is made of: modules with their optimizers, and everything else that a checkpoint holds."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tse_lib import checkpoint, distributed
from tse_lib.config import Config, Deployed, Layers, Simulation, Stems, Train, build
from tse_lib.losses import OF_SCALES, OF_SPEAKERS
from tse_lib.losses.weights import UncertaintyWeights
from tse_lib.models import OneCall, build_model, num_sources_of
from tse_lib.models.discriminators import build_discriminator
from tse_lib.rng import seed_of
from tse_lib.training.schedule import lr_scale


@dataclass
class Part:
    """A module that is trained, and what trains it."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR


@dataclass
class State:
    """Everything that changes while training; `to_checkpoint` holds all of it."""

    parts: dict[str, Part]  # "model", and those of `new_state` that are trained beside it
    ema: AveragedModel
    teacher: nn.Module | None = None  # frozen, not in the checkpoint
    speakers: Sequence[str] = ()  # of the training set, as a classifier numbers them; not in the checkpoint
    step: int = 0
    best: float = -math.inf  # SI-SDRi (of stems SDR) in dB of the EMA on the development set's present targets
    patience: int = 0  # validations since the best
    alarms: dict[str, int] = field(default_factory=dict)  # reports in a row with the same warning
    interval: list[dict[str, Tensor]] = field(default_factory=list)  # this process's scalars since the last report
    seconds: float = 0.0  # of training, over restarts
    data: dict[str, str] = field(default_factory=dict)  # a hash of each set that it is trained on and chosen by
    stopped_by: str = ""  # the signal that ended the loop; not in the checkpoint

    @property
    def model(self) -> nn.Module:
        return self.parts["model"].module

    def to_checkpoint(self, conf: Config) -> dict[str, Any]:
        """For all processes to call together: each holds its part of the next report."""
        interval = json.dumps([{name: float(value) for name, value in scalars.items()} for scalars in self.interval])
        return {
            "modules": {name: part.module.state_dict() for name, part in self.parts.items()},
            "ema": self.ema.state_dict(),
            "optimizers": {name: part.optimizer.state_dict() for name, part in self.parts.items()},
            "schedulers": {name: part.scheduler.state_dict() for name, part in self.parts.items()},
            "step": self.step,
            "curriculum": {"step": self.step},
            "rng": {"seed": conf.seed},
            "best": self.best,
            "patience": self.patience,
            "alarms": self.alarms,
            "interval": [json.loads(rows) for rows in distributed.gather(interval)],
            "seconds": self.seconds,
            "data": self.data,
            "processes": distributed.world_size(),
            "config": conf.model_dump(mode="json"),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.module.load_state_dict(saved["modules"][name])
            part.optimizer.load_state_dict(saved["optimizers"][name])
            part.scheduler.load_state_dict(saved["schedulers"][name])
        self.ema.load_state_dict(saved["ema"])
        self.step, self.best, self.patience = saved["step"], saved["best"], saved["patience"]
        self.seconds, self.alarms = saved["seconds"], saved.get("alarms", {})
        interval = saved.get("interval", [])
        if len(interval) == distributed.world_size():  # else the next report has only what is to come
            rows = interval[distributed.rank()]
            self.interval = [{name: torch.tensor(value) for name, value in row.items()} for row in rows]


def new_state(conf: Config, device: torch.device, speakers: Sequence[str] = ()) -> State:
    """All modules, the EMA, optimizers and schedules as the conf says, with weights drawn from its seed.

    Beside "model" there may be "weights" (of losses), "classifier" (of speakers), "discriminator" and "projections".

    Args:
        speakers: of the training set; what a loss on speakers tells apart.
    """
    train = conf.train
    seed_init(conf, "init")
    model = build_model(conf.model.name, conf.model.params, conf.sample_rate, conf.simulation.task)
    talkers, outputs = conf.simulation.num_talkers[1], num_sources_of(conf.model.name, conf.model.params)
    if conf.simulation.task == "separate" and outputs != talkers:
        kind = {Simulation: "num_talkers", Layers: "goal", Stems: "stems"}[type(conf.simulation)]
        given = f"{kind} {talkers if kind == 'num_talkers' else getattr(conf.simulation, kind)}"
        raise ValueError(
            f"model.params.num_sources {outputs}, simulation.{given}: a separation has an output for every talker "
            f"that is wanted, here {talkers}"
        )
    if train.init_from:
        load_weights(model, checkpoint.load(train.init_from), train.init_from)
    model.to(device)
    begin = train.gan.discriminator_only_steps if train.gan else 0  # the model stays as it is until then
    parts = {"model": new_part(model, train, train.max_steps, begin)}
    learned = [term.name for term in conf.loss if term.learned]
    if learned:
        parts["weights"] = new_part(UncertaintyWeights(learned).to(device), train, train.max_steps, begin)
    several = [term.name for term in conf.loss if term.name in OF_SCALES]
    if several and not callable(getattr(model, "scales", None)):  # as a number it is an option of another network
        raise ValueError(f"loss: '{several[0]}' needs a network with several outputs of one target, as spex_plus")
    classifier = new_classifier(conf, model, speakers)
    if classifier is not None:
        parts["classifier"] = new_part(classifier.to(device), train, train.max_steps, begin)
    ema = new_ema(model, train.ema_decay, mature=train.init_from is not None)
    if train.gan:
        seed_init(conf, "init", "discriminator")
        choice = train.gan.discriminator
        discriminator = build_discriminator(choice.name, choice.params).to(device)
        parts["discriminator"] = new_part(discriminator, train.gan, train.max_steps)
    if not train.distill:
        return State(parts, ema, speakers=speakers)
    teacher = load_teacher(train.distill.teacher, conf.sample_rate, conf.simulation.task).to(device)
    seed_init(conf, "init", "projections")
    projections = feature_projections(model, teacher, train.distill.features, conf.sample_rate)
    if list(projections.parameters()):
        parts["projections"] = new_part(projections.to(device), train, train.max_steps)
    return State(parts, ema, teacher, speakers)


@torch.no_grad()
def new_classifier(conf: Config, model: nn.Module, speakers: Sequence[str]) -> nn.Module | None:
    """What maps embeddings to the speakers of the training set, for the loss that names them; None: not needed.

    Raises:
        ValueError: there is no embedding, or the model's own classifier knows fewer speakers.
    """
    wanted = [term.name for term in conf.loss if term.name in OF_SPEAKERS]
    if not wanted:
        return None
    if not speakers:
        raise ValueError(f"loss: '{wanted[0]}' needs the names of the training set's speakers; here are none")
    if getattr(model, "given_dim", 0):
        raise ValueError(
            f"loss: '{wanted[0]}' trains a speaker encoder, but with speaker: {{kind: given}} there is none"
        )
    device = next(model.parameters()).device
    wave = torch.zeros(1, 1, conf.sample_rate // 2, device=device)
    training = model.training
    condition = model.eval().encode(wave) if hasattr(model, "encode") else {}  # type: ignore[operator]
    model.train(training)
    if "embedding" not in condition:
        raise ValueError(
            f"loss: '{wanted[0]}' needs a model that makes an embedding of enrolments, as a joint `speaker`"
        )
    if "speaker_cross_entropy" not in wanted:
        return None
    if hasattr(model, "speaker_logits"):
        known = model.speaker_logits(condition).shape[1]  # type: ignore[operator]
        if known < len(speakers):
            raise ValueError(f"model.params.num_speakers {known}: the training set has {len(speakers)}")
        return None
    seed_init(conf, "init", "classifier")
    return nn.Linear(condition["embedding"].shape[1], len(speakers))


def seed_init(conf: Config, *names: str) -> None:
    torch.manual_seed(seed_of(conf.seed, *names) % 2**63)


def new_part(module: nn.Module, options: Any, max_steps: int, begin: int = 0) -> Part:
    """`module` with its optimizer; its learning rate warms up from step `begin` on and ends at `max_steps`.

    Parameters with the mark `_no_weight_decay` (mamba_ssm's convention) are not drawn towards 0.

    Args:
        options: a section of the conf with lr, min_lr, warmup_steps, weight_decay and betas.
    """
    decayed = [one for one in module.parameters() if not getattr(one, "_no_weight_decay", False)]
    others = [one for one in module.parameters() if getattr(one, "_no_weight_decay", False)]
    groups: list[dict[str, Any]] = [
        {"params": ones, "weight_decay": decay}
        for ones, decay in ((decayed, options.weight_decay), (others, 0.0))
        if ones
    ]
    optimizer = new_optimizer(groups, options)
    floor = options.min_lr / options.lr
    restart_at = options.restart_at if isinstance(options, Train) else ()  # a discriminator's rate has no restarts
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_scale(step - begin, options.warmup_steps, max_steps - begin, floor, restart_at)
    )
    return Part(module, optimizer, scheduler)


def new_optimizer(groups: list[dict[str, Any]], options: Any) -> torch.optim.Optimizer:
    if getattr(options, "optimizer", "adamw") == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, foreach=True)
    try:
        from prodigyopt import Prodigy
    except ImportError:
        raise ValueError("train.optimizer: prodigy needs prodigyopt: pip install prodigyopt, or take adamw") from None
    return Prodigy(groups, lr=options.lr, betas=options.betas)


def new_ema(model: nn.Module, decay: float, mature: bool) -> AveragedModel:
    """The running mean of the model's weights. A young one forgets faster: the first steps are no part of a good mean.

    Args:
        mature: the weights are good already (`init_from`), so the mean begins with them and forgets slowly at once.
    """

    def average(old: Any, new: Any, count: int | Tensor) -> None:
        number = int(ema.n_averaged)  # `count` is a copy on the device, which would have to be waited for
        torch._foreach_lerp_(old, new, 1 - min(decay, (1 + number) / (10 + number)))

    ema = AveragedModel(model, multi_avg_fn=average)
    ema.n_averaged = torch.tensor(math.ceil(10 / (1 - decay)) if mature else 0)
    return ema


# ----------------------------------------------------------------------------------------------- weights of other runs


def load_weights(model: nn.Module, saved: dict[str, Any], path: str) -> None:
    """The weights of a checkpoint that are deployed: the averaged ones, which a best.pt has as its model's.

    Raises:
        ValueError: they are of another model.
    """
    if "ema" not in saved and "model" not in saved.get("modules", {}):
        raise ValueError(f"{path}: holds no model (modules.model is wanted)")
    weights = checkpoint.averaged_weights(saved)
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes
        raise ValueError(f"{path}: of a model with other options; {' '.join(str(error).split())}") from None
    if missing or unexpected:
        raise ValueError(f"{path}: of another model; missing here {unexpected[:3]}, missing there {missing[:3]}")


def load_teacher(path: str, sample_rate: int, task: str) -> nn.Module:
    """The model of a checkpoint, as its own conf describes it, frozen.

    Raises:
        FileNotFoundError, ValueError: not there, damaged, or of another sample rate or task.
    """
    saved = checkpoint.load(path)
    values = {key: saved.get("config", {}).get(key) for key in ("sample_rate", "model")}
    wanted = build(Deployed, values, path)
    if wanted.sample_rate != sample_rate:
        raise ValueError(f"{path}: the teacher works at {wanted.sample_rate} Hz, this experiment at {sample_rate} Hz")
    teacher = build_model(wanted.model.name, wanted.model.params, wanted.sample_rate, task)
    load_weights(teacher, saved, path)
    return teacher.eval().requires_grad_(False)


class Outputs:
    """What named modules of a model return, call by call, since the last `clear`."""

    def __init__(self, model: nn.Module, names: Iterable[str]):
        """
        Raises:
            ValueError: the model has no such module.
        """
        modules = dict(model.named_modules())
        self.calls: list[list[Tensor]] = []
        self.handles = []
        for name in names:
            if name not in modules:
                raise ValueError(
                    f"train.distill.features: the model has no module '{name}'; it has {', '.join(list(modules)[1:9])}…"
                )
            self.calls.append([])
            self.handles.append(modules[name].register_forward_hook(self._hook(self.calls[-1])))

    @staticmethod
    def _hook(calls: list[Tensor]) -> Any:
        return lambda module, inputs, output: calls.append(output)

    def clear(self) -> None:
        for calls in self.calls:
            calls.clear()

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
def feature_projections(
    model: nn.Module, teacher: nn.Module, features: dict[str, str], sample_rate: int
) -> nn.ModuleList:
    """For each pair of modules a linear map from the student's features to the teacher's; nothing where widths agree.

    Raises:
        ValueError: the outputs differ in more than their last axis, or are no tensors.
    """
    wave = torch.zeros(1, 1, sample_rate // 2, device=next(model.parameters()).device)
    enroll = (wave, torch.tensor([[wave.shape[-1]]])) if hasattr(model, "encode") else ()
    shapes = []
    for network, names in ((model, features.keys()), (teacher, features.values())):
        outputs, training = Outputs(network, names), network.training
        network.eval()
        OneCall(network)(wave, *enroll)
        network.train(training)
        outputs.remove()
        bad = [name for name, calls in zip(names, outputs.calls, strict=True) if not is_tensors(calls)]
        if bad:
            raise ValueError(f"train.distill.features: '{bad[0]}' returns no tensor; name a module that does")
        shapes.append([[tuple(output.shape) for output in calls] for calls in outputs.calls])
    maps = nn.ModuleList()
    for (own, other), ours, theirs in zip(features.items(), *shapes, strict=True):
        if [shape[:-1] for shape in ours] != [shape[:-1] for shape in theirs]:
            raise ValueError(
                f"train.distill.features: '{own}' gives {ours} for half a second, the teacher's '{other}' {theirs}; "
                "only the last axis may differ"
            )
        same = ours[0][-1] == theirs[0][-1]
        maps.append(nn.Identity() if same else nn.Linear(ours[0][-1], theirs[0][-1]))
    return maps


def is_tensors(outputs: list[Any]) -> bool:
    return bool(outputs) and all(isinstance(output, Tensor) and output.ndim > 1 for output in outputs)


def hash_of_file(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
