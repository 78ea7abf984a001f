"""Step functions: each does the forward and backward passes of one optimizer step and its updates.

    step(state, run, batches, counts) -> scalars

All sums over items are divided once, by how many targets are present (absent) in the whole optimizer step over all
batches and processes (`counts`). So accumulation and the number of processes change nothing but rounding.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tse_lib import distributed
from tse_lib.config import Config, LossTerm, simulation_at
from tse_lib.distributed import has_bfloat16
from tse_lib.losses import OF_ANY_ORDER, OF_SCALES, OF_SPEAKERS, OVER_SOURCES, build_loss
from tse_lib.losses.adversarial import adversarial, discriminator_loss, feature_matching
from tse_lib.losses.distillation import feature_distance
from tse_lib.losses.permutation import Loss, pit
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.losses.stems import MEL_RATE, neg_snr_or_silence
from tse_lib.losses.weights import UncertaintyWeights, weights_at
from tse_lib.models import OneCall
from tse_lib.models.discriminators import renew_spectral_norms
from tse_lib.training.schedule import gan_strength
from tse_lib.training.state import Outputs, Part, State

Scalars = dict[str, Tensor]
Batch = dict[str, Any]


class Objective:
    """The weighted sum of the conf's losses. `learned` has the weights of those terms that are `learned`."""

    def __init__(self, terms: list[LossTerm], learned: UncertaintyWeights | None = None):
        self.terms, self.learned = terms, learned
        self.losses = [build_loss(term.name, term.when, term.params) for term in terms]

    def __call__(self, estimate: Tensor, batch: Batch, counts: dict[str, int], step: int) -> tuple[Tensor, Scalars]:
        """estimate (B, S, C, T) float32 -> the loss to go back from, and each term's share of its mean."""
        total, shares = estimate.sum() * 0.0, Scalars()
        learned = iter(zip(self.learned.weights(), self.learned.regularisers(), strict=True)) if self.learned else None
        for term, weight, values in zip(
            self.terms, weights_at(self.terms, step), self.items(estimate, batch), strict=True
        ):
            value = values.sum() / max(1, counts[term.when])
            if learned and term.learned:
                own, price = next(learned)
                total = total + own * value + price * (len(values) / max(1, counts[term.when]))
            elif weight:
                total = total + weight * value
            add(shares, {term.name: value.detach()})
        return total, shares

    def items(self, estimate: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Of each term its loss of each item that it is for.

        Raises:
            ValueError: an option of another type than the loss takes.
        """
        for term, loss in zip(self.terms, self.losses, strict=True):
            rows = rows_of(batch, term.when)
            if term.name in OF_SPEAKERS:
                yield loss(*(batch[name][rows] for name in OF_SPEAKERS[term.name]))
                continue
            other = targets(batch) if term.when == "present" else batch["mixture"][:, None]
            own = batch["scales"] if term.name in OF_SCALES else estimate
            try:
                values = loss(own[rows], other[rows]) if rows.any() else estimate.new_zeros(0)
            except TypeError as error:
                raise ValueError(f"loss {term.name}: params {term.params}: {error}") from error
            yield values


def targets(batch: Batch) -> Tensor:
    """(B, S, C, T), of a mono mixture with one channel."""
    return batch["target"] if batch["target"].ndim == 4 else batch["target"][:, :, None]


def rows_of(batch: Batch, when: str) -> Tensor:
    return batch["present"] if when == "present" else ~batch["present"]


def build_objective(conf: Config, learned: UncertaintyWeights | None = None) -> Objective:
    ever_absent = any(simulation_at(conf, step).target_absent for step in conf.knots())
    if not ever_absent and any(term.when == "absent" for term in conf.loss):
        raise ValueError("loss: a term is `when: absent`, but simulation.target_absent is 0")
    for term in conf.loss:
        rate = term.params.get("sample_rate", MEL_RATE)
        if term.name == "multi_resolution_mel" and rate != conf.sample_rate:
            raise ValueError(
                f"loss: multi_resolution_mel: its bands are of {rate} Hz, the conf has {conf.sample_rate} Hz; give "
                f"params: {{sample_rate: {conf.sample_rate}}}"
            )
    masked = [term for term in conf.loss if term.name == "masked_mse" and term.params.get("coarse", True)]
    if masked and conf.train.batch_size < 2 * distributed.world_size():
        raise ValueError(
            f"loss: masked_mse leaves the worst item of each process's batch out; train.batch_size "
            f"{conf.train.batch_size} of {distributed.world_size()} process(es) leaves nothing; at least "
            f"{2 * distributed.world_size()}"
        )
    if conf.simulation.source_names:
        orderless = [term.name for term in conf.loss if term.name in OF_ANY_ORDER]
        if orderless:
            inner = orderless[0]
            raise ValueError(
                f"loss: '{inner}' takes sources in any order, but stems have names; name its inner loss alone"
            )
    elif conf.simulation.task == "separate" and conf.simulation.num_talkers[1] > 1:
        ordered = [term.name for term in conf.loss if term.name not in OVER_SOURCES]
        if ordered:
            raise ValueError(
                f"loss: '{ordered[0]}' compares the first output with the first talker, but talkers have no order; "
                f"{{name: pit, params: {{loss: {ordered[0]}}}}} does"
            )
    return Objective(conf.loss, learned)


class Clock:
    """Where the time of a step goes. On a GPU it is measured by events there, and waited for only by `means`.

    Also the processor's time of this process, which other work on the machine does not lengthen.
    """

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.marks: list[tuple[str, Any, float]] = []

    def mark(self, name: str) -> None:
        """The time since the last mark was spent on `name`; on "", nobody asks for it."""
        now: Any = torch.cuda.Event(enable_timing=True) if self.on_gpu else time.perf_counter()
        if self.on_gpu:
            now.record()
        self.marks.append((name, now, time.process_time()))

    def means(self) -> dict[str, float]:
        """Seconds a step by name, `cpu_s` those of the processor, over the steps (begun with "") since the last."""
        if self.on_gpu:
            torch.cuda.synchronize()
        seconds: dict[str, float] = {"cpu_s": 0.0}
        for (_, begin, cpu_begin), (name, end, cpu_end) in zip(self.marks, self.marks[1:], strict=False):
            if name:
                took = begin.elapsed_time(end) / 1000 if self.on_gpu else end - begin
                seconds[name] = seconds.get(name, 0.0) + took
                seconds["cpu_s"] += cpu_end - cpu_begin
        steps = max(1, sum(not name for name, *_ in self.marks))
        self.marks = []
        return {name: total / steps for name, total in seconds.items()}


@dataclass
class Run:
    """What a step needs beside the state; nothing of it changes while training."""

    conf: Config
    objective: Objective
    network: nn.Module  # the model in OneCall, of several processes and compiled where wanted
    autocast: torch.autocast
    clock: Clock
    features: tuple[Outputs, Outputs] | None = None  # of the student and of the teacher
    speakers: dict[str, int] = field(default_factory=dict)  # their numbers, for losses on them


def new_run(conf: Config, state: State, device: torch.device) -> Run:
    """Set up the steps of a new or restored state."""
    features = None
    if conf.train.distill and state.teacher is not None and conf.train.distill.features:
        names = conf.train.distill.features
        features = Outputs(state.model, names.keys()), Outputs(state.teacher, names.values())
    classifier = state.parts["classifier"].module if "classifier" in state.parts else None
    network: nn.Module = OneCall(state.model, told_for(conf), classifier)
    if distributed.world_size() > 1:
        idle = any(getattr(module, "has_idle_parameters", False) for module in state.model.modules())
        idle |= any(term.name in OF_SPEAKERS and 0 in term.schedule.values() for term in conf.loss)  # the classifier
        network = DistributedDataParallel(network, find_unused_parameters=idle)  # else their gradients are waited for
    if conf.train.compile:
        network.compile()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = conf.train.tf32
    autocast = autocast_for(device, conf.train.bf16)
    learned: Any = state.parts["weights"].module if "weights" in state.parts else None
    speakers = {name: number for number, name in enumerate(state.speakers)}
    return Run(conf, build_objective(conf, learned), network, autocast, Clock(device), features, speakers)


def told_for(conf: Config) -> list[str]:
    """What the losses want of the network beside its estimate (see `OneCall`)."""
    wanted = [name for term in conf.loss for name in OF_SPEAKERS.get(term.name, ()) if name != "speaker_number"]
    return wanted + ["scales"] * any(term.name in OF_SCALES for term in conf.loss)


def autocast_for(device: torch.device, wanted: bool) -> torch.autocast:
    """bfloat16 where the processor computes in it, else a context that does nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and has_bfloat16(device))


# ------------------------------------------------------------------------------------------------------ the steps


def supervised_step(state: State, run: Run, batches: list[Batch], counts: dict[str, int]) -> Scalars:
    """The conf's losses. Returns the loss, its terms, the gradient norm, and whether the step was skipped."""
    scalars: Scalars = {}
    for batch in each(run, batches):
        estimate = estimate_of(run, batch)
        loss, shares = run.objective(estimate, batch, counts, state.step)
        run.clock.mark("forward_s")
        (loss * distributed.world_size()).backward()  # DistributedDataParallel averages what has to be summed
        run.clock.mark("backward_s")
        add(scalars, {"loss": loss.detach(), **shares})
    return {**scalars, **update_model(state, run.conf.train.clip_norm)}


def distill_step(state: State, run: Run, batches: list[Batch], counts: dict[str, int]) -> Scalars:
    """The conf's losses, the SI-SDR to a teacher's estimate, and the distance of features to the teacher's.

    Of stems it is `neg_snr_or_silence` to the teacher's, output by output, with the options that the conf's own loss of
    this name has: with a `silent_db` above the default, what the teacher leaks is judged by its level.
    Present targets have soft targets; the output of a teacher for an absent one is hardly a signal.
    """
    distill, teacher, projections = run.conf.train.distill, state.teacher, state.parts.get("projections")
    assert distill and teacher is not None
    scalars: Scalars = {}
    for batch in each(run, batches):
        for outputs in run.features or ():
            outputs.clear()
        estimate = estimate_of(run, batch)
        with torch.no_grad(), run.autocast:
            soft = OneCall(teacher)(*inputs(batch)).float()
        loss, shares = run.objective(estimate, batch, counts, state.step)
        likeness: Loss = neg_si_sdr if soft.shape[1] == 1 else pit
        if run.conf.simulation.source_names:
            likeness = functools.partial(neg_snr_or_silence, **stems_options(run.conf))
        shares["soft"] = share(likeness, estimate, soft, batch["present"], counts["present"])
        loss = loss + distill.weight * shares["soft"]
        if run.features:
            maps = projections.module if projections else [nn.Identity()] * len(distill.features)
            shares["features"] = distance_of(run.features, maps) / sum(counts.values())  # type: ignore[arg-type]
            loss = loss + distill.feature_weight * shares["features"]
        run.clock.mark("forward_s")
        (loss * distributed.world_size()).backward()
        run.clock.mark("backward_s")
        add(scalars, {"loss": loss.detach(), **{name: value.detach() for name, value in shares.items()}})
    if projections:
        distributed.average_gradients(projections.module)
        scalars |= prefixed("projections", update(projections, run.conf.train.clip_norm))
    return together(scalars, update_model(state, run.conf.train.clip_norm))


def gan_step(state: State, run: Run, batches: list[Batch], counts: dict[str, int]) -> Scalars:
    """The conf's losses and those of a discriminator of present targets: the extractor first, then the discriminator.

    While the discriminator learns alone, the extractor does not move: it has no gradient, so its update does nothing.
    Returns also `level_db`, how much louder the output is than the target, the mean over present targets.
    """
    gan = run.conf.train.gan
    assert gan
    strength = gan_strength(state.step, gan.discriminator_only_steps, gan.ramp_steps)
    moves = state.step >= gan.discriminator_only_steps
    part, scalars, pairs = state.parts["discriminator"], dict[str, Tensor](), []
    discriminator = part.module
    renew_spectral_norms(discriminator)
    discriminator.requires_grad_(False)
    for batch in each(run, batches):
        with torch.set_grad_enabled(moves):
            estimate = estimate_of(run, batch)
            real, fake = judged(batch, estimate)
            loss, shares = run.objective(estimate, batch, counts, state.step)
            shares |= {"adversarial": estimate.new_zeros(()), "feature_matching": estimate.new_zeros(())}
            if strength and len(real):
                with run.autocast:
                    maps = discriminator(fake)
                    with torch.no_grad():
                        wanted = discriminator(real)
                shares["adversarial"] = adversarial(maps).sum() / counts["present"]
                shares["feature_matching"] = feature_matching(wanted, maps).sum() / counts["present"]
                heard = gan.adversarial_weight * shares["adversarial"] + gan.feature_weight * shares["feature_matching"]
                loss = loss + strength * heard
        run.clock.mark("forward_s")
        if moves:
            (loss * distributed.world_size()).backward()
        run.clock.mark("backward_s")
        shares["level_db"] = level_db(fake.detach(), real).sum() / max(1, counts["present"])
        add(scalars, {"loss": loss.detach(), **{name: value.detach() for name, value in shares.items()}})
        pairs.append((real, fake.detach()))
    updated = update_model(state, run.conf.train.clip_norm)
    run.clock.mark("optimizer_s")

    discriminator.requires_grad_(True)
    for real, fake in pairs:
        value = fake.new_zeros(())
        if len(real):
            with run.autocast:
                verdicts = discriminator(real), discriminator(fake)
            value = discriminator_loss(*verdicts).sum() / counts["present"]
            run.clock.mark("forward_s")
            (value * distributed.world_size()).backward()
            run.clock.mark("backward_s")
        add(scalars, {"discriminator": value.detach()})
    if counts["present"]:
        distributed.average_gradients(discriminator)
    scalars |= prefixed("discriminator", update(part, run.conf.train.clip_norm))
    return together(scalars, updated)


STEPS: dict[str, Callable[[State, Run, list[Batch], dict[str, int]], Scalars]] = {
    "supervised": supervised_step,
    "gan": gan_step,
    "distill": distill_step,
}


# ------------------------------------------------------------------------------------------------- what they share


def each(run: Run, batches: list[Batch]) -> Iterator[Batch]:
    """The batches, on the device; while one is worked on, the processes exchange gradients only if it is the last."""
    device = next(run.network.parameters()).device
    for number, batch in enumerate(batches):
        waits = isinstance(run.network, DistributedDataParallel) and number < len(batches) - 1
        with run.network.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
            yield to_device(batch, device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors, all but `lengths`: encoders read those on the CPU, where they cost no synchronisation."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) and key != "lengths" else value
        for key, value in batch.items()
    }


def estimate_of(run: Run, batch: Batch) -> Tensor:
    """What the network makes of a batch, (B, S, C, T), in float32; what losses want beside it stays in the batch."""
    return told(run.network, run, batch)


def told(network: nn.Module, run: Run, batch: Batch) -> Tensor:
    with run.autocast:
        output = network(*inputs(batch))
    if isinstance(output, Tensor):
        return output.float()
    estimate, others = output
    batch |= {name: value.float() for name, value in others.items()}
    if "speaker" in batch:
        numbers = [run.speakers.get(name, -1) for name in batch["speaker"]]
        batch["speaker_number"] = torch.tensor(numbers, device=estimate.device)
    return estimate.float()


def inputs(batch: Batch) -> tuple[Tensor, ...]:
    """What OneCall takes of a batch."""
    return tuple(batch[name] for name in ("mixture", "enroll", "lengths") if name in batch)


def update_model(state: State, clip_norm: float) -> Scalars:
    """Update the model, and the weights of the losses and the classifier of speakers where they are learned."""
    updated = update(state.parts["model"], clip_norm)
    for name in ("weights", "classifier"):
        if name in state.parts:
            if name == "weights":  # the classifier is a part of the network that is called
                distributed.average_gradients(state.parts[name].module)
            updated = together(prefixed(name, update(state.parts[name], clip_norm)), updated)
    return updated


def update(part: Part, clip_norm: float) -> Scalars:
    """Clip the gradient and step. A step whose gradient is not finite is not taken; `skipped` says so."""
    device = next(part.module.parameters()).device  # without any gradient the norm would be a 0 on the CPU
    norm = nn.utils.clip_grad_norm_(part.module.parameters(), clip_norm).detach().to(device)
    finite = bool(torch.isfinite(norm))
    if finite:
        part.optimizer.step()
    part.optimizer.zero_grad(set_to_none=True)
    return {"grad_norm": norm, "skipped": torch.tensor(float(not finite))}


def add(sums: Scalars, shares: Scalars) -> None:
    for name, value in shares.items():
        sums[name] = sums[name] + value if name in sums else value


def prefixed(name: str, updated: Scalars) -> Scalars:
    return {f"{name}_grad_norm": updated["grad_norm"], "skipped": updated["skipped"]}


def together(scalars: Scalars, updated: Scalars) -> Scalars:
    """The scalars of a step with two updates: it was skipped if one of them was."""
    skipped = torch.maximum(scalars.get("skipped", updated["skipped"]), updated["skipped"])
    return {**scalars, **updated, "skipped": skipped}


def stems_options(conf: Config) -> dict[str, Any]:
    """The options of the conf's `neg_snr_or_silence`; without one, its defaults."""
    return next((term.params for term in conf.loss if term.name == "neg_snr_or_silence"), {})


def share(loss: Callable[..., Tensor], estimate: Tensor, target: Tensor, rows: Tensor, count: int) -> Tensor:
    """Of these rows their part of the mean over all `count` that the optimizer step has."""
    return loss(estimate[rows], target[rows]).sum() / count if rows.any() else estimate.new_zeros(())


def distance_of(features: tuple[Outputs, Outputs], projections: nn.ModuleList) -> Tensor:
    """Of the modules' outputs, the mean over modules and calls, summed over the items."""
    distances = [
        feature_distance(project(own), other).sum()
        for project, ours, theirs in zip(projections, features[0].calls, features[1].calls, strict=True)
        for own, other in zip(ours, theirs, strict=True)
    ]
    return torch.stack(distances).mean()


def judged(batch: Batch, estimate: Tensor) -> tuple[Tensor, Tensor]:
    """What a discriminator is to tell apart: present targets and their estimates, both (B', 1, T).

    Both over the target's RMS, so that a quiet recording's are judged, too, and a wrong level can be heard.
    """
    rows = batch["present"]
    real, fake = batch["target"][rows].flatten(0, 1)[:, None], estimate[rows].flatten(0, 2)[:, None]
    level = real.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-4)
    return real / level, fake / level


def level_db(estimate: Tensor, target: Tensor) -> Tensor:
    """RMS of the estimate over that of the target in dB: (B, 1, T), (B, 1, T) -> (B,)."""
    ratio = estimate.square().mean((1, 2)).clamp_min(1e-10) / target.square().mean((1, 2)).clamp_min(1e-10)
    return 10 * torch.log10(ratio)


# --------------------------------------------------------------------------------------------------------- diagnosis


@torch.no_grad()
def find_fault(run: Run, batches: list[Batch]) -> str:
    """What is not finite in this process's part of a step whose gradient is not, and in which mixtures; "": nothing."""
    device = next(run.network.parameters()).device
    network = run.network.module if isinstance(run.network, DistributedDataParallel) else run.network
    faults: dict[str, list[str]] = {}

    def note(what: str, values: Tensor, ids: list[str]) -> None:
        bad = ~values.flatten(1).isfinite().all(1)
        if bad.any():
            faults.setdefault(what, []).extend(name for name, wrong in zip(ids, bad.tolist(), strict=True) if wrong)

    for batch in batches:
        batch = to_device(batch, device)
        ids = batch["mix_id"]
        for what in ("mixture", "enroll", "target"):
            if what in batch:
                note(f"the {what}'s samples", batch[what], ids)
        estimate = told(network, run, batch)
        note("the model's output", estimate, ids)
        for term, values in zip(run.objective.terms, run.objective.items(estimate, batch), strict=True):
            rows = rows_of(batch, term.when).tolist()
            note(f"the loss {term.name}", values[:, None], [name for name, row in zip(ids, rows, strict=True) if row])
    return "; ".join(f"{what} of {', '.join(ids[:4])}{'…' if len(ids) > 4 else ''}" for what, ids in faults.items())
