"""The training loop.

    state = new, or restored from the newest checkpoint
    for each optimizer step: draw its batches (a function of the step) -> step function -> EMA -> report, validate, save

Everything random is named by the step, so a run that was killed at any moment and started again ends with the same
weights, bit for bit, as one that was not.
"""

import signal
import sys
import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from tse_lib import distributed
from tse_lib.config import Config, curriculum_scalars, given_dim_of
from tse_lib.data.dataset import RenderedMixtures, collate, collate_raw, render_raw, set_up_worker
from tse_lib.data.layers import TrainingData, TrainingItems, training_items
from tse_lib.files import replace_file
from tse_lib.losses.permutation import pit
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.metrics.sdr import is_silent_track, track_sdr
from tse_lib.models import OneCall
from tse_lib.parallel import alone_in
from tse_lib.rng import seed_of
from tse_lib.training import saving
from tse_lib.training.guards import BadFiles, NotFinite, StopSignal, note_alarms
from tse_lib.training.log import SPLIT, Log, mean_of, say, warn
from tse_lib.training.schedule import gan_strength
from tse_lib.training.state import State, hash_of_file, new_state
from tse_lib.training.steps import STEPS, Run, inputs, new_run, to_device


def train(conf: Config, corpus: TrainingData, dev_dir: str, exp: str | Path, device: torch.device) -> State:
    """Train to `conf.train.max_steps`, or on from the newest checkpoint in `exp`.

    Items are drawn from a corpus, or are ready-made mixtures with their layers, as the conf's `simulation` says.

    Writes exp/{config.yaml,last.pt,best.pt,step_*.pt,milestone_*.pt,tensorboard/}, exp/log/{train,valid}.jsonl and
    exp/log/train.log.
    After a SIGTERM or SIGUSR1 the step is finished and saved; the state's `stopped_by` names the signal.

    Raises:
        ValueError: `exp` holds a run of another conf or on other data, or the training went wrong for good.
        OSError: another training runs in `exp`: each would remove the other's checkpoints.
    """
    exp, options = Path(exp), conf.train
    dev = RenderedMixtures(dev_dir, conf.sample_rate, given_dim_of(conf.model))
    dev.refuse_other_task(conf.simulation.task, conf.simulation.num_talkers[1], conf.simulation.source_names)
    data = training_items(corpus, conf)
    if options.batch_size % distributed.world_size():
        raise ValueError(
            f"train.batch_size {options.batch_size} must be a multiple of the {distributed.world_size()} processes"
        )
    for step in conf.knots():
        data.mixture(step * data.items_per_step)  # what the corpus lacks is said before anything is written
    saving.refuse_own_source(conf, exp)
    state = new_state(conf, device, data.speakers)
    state.data = {"train": saving.hash_of_corpus(corpus), "dev": saving.hash_of_mixtures(dev.mixtures)}
    if options.distill:
        state.data["teacher"] = hash_of_file(options.distill.teacher)
    restore(state, conf, exp)
    run, step_function = new_run(conf, state, device), STEPS[options.step]
    started = time.monotonic() - state.seconds
    bad_files, not_finite = BadFiles(options.bad_files), NotFinite()
    bar = tqdm(
        total=options.max_steps, initial=state.step, unit="step", desc="train", dynamic_ncols=True,
        disable=not (distributed.is_main() and sys.stderr.isatty()),
    )  # fmt: skip
    busy = f"{exp}: another training runs here; wait for it, or give this one another --exp"
    with (
        alone_in(exp, busy, patience_s=5) if distributed.is_main() else nullcontext(),  # a killed one may be ending
        closing(Log(exp, state.step)) if distributed.is_main() else nullcontext() as log,
        closing(draw_batches(data, conf, state.step, device)) as batches,
        StopSignal() as stop,
    ):
        while state.step < options.max_steps and not is_patience_over(state, conf) and not state.stopped_by:
            torch.manual_seed(seed_of(conf.seed, "step", state.step, distributed.rank()) % 2**63)
            present = data.num_present(drawn_step(conf, state.step))
            counts = {"present": present, "absent": data.items_per_step - present}
            state.model.train()
            run.clock.mark("")
            group = [next(batches) for _ in range(options.accumulate)]
            run.clock.mark("data_s")
            rates, drawn_anew = rates_of(state, conf), bad_files.note(group)
            scalars = step_function(state, run, group, counts)
            state.interval.append(scalars | {"bad_files": torch.tensor(float(drawn_anew))})
            state.ema.update_parameters(state.model)
            for part in state.parts.values():
                part.scheduler.step()
            run.clock.mark("optimizer_s")
            state.step += 1
            state.seconds = time.monotonic() - started
            not_finite.note(bool(scalars["skipped"]), state, run, group, rates["lr"], exp)
            bar.update()

            last = state.step == options.max_steps
            if last or state.step % options.log_every == 0:
                report(state, run, rates, log, exp)
            validates = last or state.step % options.valid_every == 0 or state.step in options.milestones
            if validates:
                choose(state, run, dev, log, exp)
            if not last and distributed.any_process(bool(stop.name)):
                state.stopped_by = stop.name or "a signal to another process"
            if validates or state.stopped_by or state.step % options.save_every == 0:
                saved = state.to_checkpoint(conf)
                if log:
                    saving.save_last(saved, conf, exp)
    bar.close()
    if state.stopped_by:
        say(f"{state.stopped_by}: step {state.step} of {options.max_steps} is finished and saved; start it again", exp)
    distributed.barrier()
    return state


def restore(state: State, conf: Config, exp: Path) -> None:
    """Put a new state where the newest whole checkpoint of `exp` was; without any, note the conf there."""
    saved = saving.newest_whole(exp, lambda line: warn(line, exp))
    distributed.barrier()  # before one of them writes there
    if saved is None:
        if distributed.is_main():
            write_config(conf, exp / "config.yaml")
        return
    saving.refuse_other_conf(conf, saved["config"], exp)
    saving.refuse_other_data(state.data, saved.get("data", {}), exp)
    state.restore(saved)
    now, then = distributed.world_size(), saved.get("processes", distributed.world_size())
    if now != then:
        say(f"{exp}: {now} processes, before there were {then}: the same mixtures, but sums are rounded otherwise", exp)


def is_patience_over(state: State, conf: Config) -> bool:
    return 0 < conf.train.patience <= state.patience


def rates_of(state: State, conf: Config) -> dict[str, float]:
    """The learning rates of the next step, and how much of the discriminator is heard."""
    rates = {"lr": float(state.parts["model"].scheduler.get_last_lr()[0])}
    if conf.train.gan:
        rates["discriminator_lr"] = float(state.parts["discriminator"].scheduler.get_last_lr()[0])
        gan = conf.train.gan
        rates["gan_strength"] = gan_strength(state.step, gan.discriminator_only_steps, gan.ramp_steps)
    return rates


def report(state: State, run: Run, rates: dict[str, float], log: Log | None, exp: Path) -> None:
    """Log the means over the steps since the last report; warn of a GAN that goes wrong."""
    seconds = run.clock.means()
    numbers = mean_of(state.interval) | rates | {name: round(seconds.get(name, 0.0), 5) for name in (*SPLIT, "cpu_s")}
    state.interval = []
    if run.objective.learned:
        names = [term.name for term in run.conf.loss if term.learned]
        weights = run.objective.learned.weights().tolist()
        numbers |= {f"weight_{name}": round(weight, 6) for name, weight in zip(names, weights, strict=True)}
    if log:
        numbers["seconds"] = round(state.seconds, 1)
        log.train(state.step, run.conf.train.max_steps, numbers, curriculum_scalars(run.conf, state.step - 1))
    if run.conf.train.gan:
        note_alarms(state, run.conf.train.gan, numbers, exp)


def choose(state: State, run: Run, dev: RenderedMixtures, log: Log | None, exp: Path) -> None:
    """Validate the averaged weights, and keep them if they are the best so far."""
    model, device = state.ema.module, next(state.model.parameters()).device
    distributed.share_buffers(model)  # the first process's are kept
    chosen_by = "si_sdri"
    if run.conf.simulation.source_names:
        chosen_by = "sdr"
        scores = validate_stems(model, dev, device, run.autocast, chunk_of(run.conf))
    else:
        scores = validate(model, dev, device, run.autocast)
    state.patience += 1
    if scores[chosen_by] > state.best:
        state.best, state.patience = scores[chosen_by], 0
        if log:
            saving.save_best(state, run.conf, exp)
    if log:
        log.valid(state.step, {**scores, "best": state.best, "seconds": round(state.seconds, 1)}, state.patience == 0)
    if log and log.board:
        examples = dev_audio(model, dev, run.conf.train.audio_examples, device, run.autocast, chunk_of(run.conf))
        log.audio(state.step, examples, run.conf.sample_rate)


# --------------------------------------------------------------------------------------------------------- validation


@torch.no_grad()
def validate(
    model: nn.Module, dev: RenderedMixtures, device: torch.device, autocast: torch.autocast
) -> dict[str, float]:
    """Mean SI-SDR and SI-SDRi over present targets and mean attenuation over absent ones, one mixture at a time.

    Several sources are taken in the order that is best for them, and their mean counts. Of ready-made mixtures the
    variants count alike, however many mixtures each has, and the SI-SDRi of each is told. The processes share the
    mixtures; all return the same numbers.
    """
    model.eval()
    variants = list(dict.fromkeys(mixture.ready.variant if mixture.ready else "" for mixture in dev.mixtures))
    sums = torch.zeros(len(variants), 5, dtype=torch.float64)  # si_sdr, si_sdri, present | attenuation, absent
    for index in range(distributed.rank(), len(dev), distributed.world_size()):
        item = dev[index]
        own = sums[variants.index(item["variant"])]
        estimate, mixture = separate_item(model, item, device, autocast), item["mixture"][None]  # (S, T), (1, T)
        if item["present"]:
            target = item["target"]
            after = -pit(estimate[None], target[None])[0]
            before = -neg_si_sdr(mixture.expand_as(target), target).mean()
            own[:3] += torch.stack([after, after - before, torch.tensor(1.0)])
        else:
            power = estimate.square().mean().clamp_min(1e-10)
            own[3:] += torch.stack([10 * torch.log10(mixture.square().mean() / power), torch.tensor(1.0)])
    sums = distributed.total(sums)
    means = (sums[:, :2] / sums[:, 2:3].clamp_min(1)).mean(0).tolist()
    scores = dict(zip(("si_sdr", "si_sdri"), means, strict=True))
    if len(variants) > 1:
        scores |= {f"si_sdri_{name}": float(own[1] / own[2]) for name, own in zip(variants, sums, strict=True)}
    attenuation, absent = sums[:, 3:].sum(0).tolist()
    return {**scores, "ta_attenuation_db": attenuation / absent} if absent else scores


@torch.no_grad()
def validate_stems(
    model: nn.Module, dev: RenderedMixtures, device: torch.device, autocast: torch.autocast, chunk: int
) -> dict[str, float]:
    """Of sources with names the mean over them of their mean SDR and SI-SDRi, and the SDR of each, in chunks.

    A source that is silent in a mixture (`metrics.sdr.is_silent_track`) does not count there; one that is silent
    everywhere counts nowhere. The processes share the mixtures; all return the same numbers.
    """
    model.eval()
    names = dev.mixtures[0].source_names
    sums = torch.zeros(len(names), 3, dtype=torch.float64)  # sdr, si_sdri, heard
    for index in range(distributed.rank(), len(dev), distributed.world_size()):
        item = dev[index]
        estimates = separate_item(model, item, device, autocast, chunk)  # (S, C, T)
        for own, estimate, target in zip(sums, estimates, item["target"], strict=True):
            if is_silent_track(target.numpy()):
                continue
            after, before = -neg_si_sdr(torch.stack([estimate, item["mixture"]]), target.expand(2, -1, -1))
            sdr = track_sdr(target.numpy(), estimate.numpy())
            own += torch.tensor([sdr, float(after - before), 1.0], dtype=torch.float64)
    sums = distributed.total(sums)
    heard = sums[:, 2] > 0
    if not heard.any():
        raise ValueError(f"{dev.data_dir}: all stems of all mixtures are silent; nothing can be validated")
    means = sums[:, :2] / sums[:, 2:].clamp_min(1)
    scores = dict(zip(("sdr", "si_sdri"), means[heard].mean(0).tolist(), strict=True))
    return scores | {f"sdr_{name}": float(own[0]) for name, own, some in zip(names, means, heard, strict=True) if some}


def chunk_of(conf: Config) -> int:
    """Samples that a network with stems is run on at once, as many as in training; 0: all. Its norms see so much."""
    return round(conf.simulation.segment_s[1] * conf.sample_rate) if conf.simulation.source_names else 0


@torch.no_grad()
def dev_audio(
    model: nn.Module, dev: RenderedMixtures, count: int, device: torch.device, autocast: torch.autocast, chunk: int = 0
) -> dict[str, Tensor]:
    """What the first mixtures of the development set sound like now: their estimates (T,), mixtures and targets.

    Several channels are averaged.
    """
    waves = {}
    for index in range(min(count, len(dev))):
        item = dev[index]
        names = dev.mixtures[index].stems and dev.mixtures[index].source_names
        waves[f"{item['mix_id']}/mixture"] = mono(item["mixture"])
        estimates = separate_item(model, item, device, autocast, chunk)
        for kind, several in (("estimate", estimates), ("target", item["target"])):
            for number, wave in enumerate(several):
                which = names[number] if names else number + 1 if len(several) > 1 else ""
                waves[f"{item['mix_id']}/{kind}{which and f'_{which}' if names else which}"] = mono(wave)
    return waves


def mono(wave: Tensor) -> Tensor:
    """(T,) or (C, T) -> (T,)."""
    return wave.mean(0) if wave.ndim == 2 else wave


def separate_item(
    model: nn.Module, item: dict[str, Any], device: torch.device, autocast: torch.autocast, chunk: int = 0
) -> Tensor:
    """The estimates of one item, on the CPU: (S, T) of a mixture (T,), (S, C, T) of one with channels.

    Args:
        chunk: samples at once, 0: all. The last chunk ends with the mixture and begins earlier instead.
    """
    batch = to_device(collate([item]), device)
    size = batch["mixture"].shape[-1]
    begins = [0] if not 0 < chunk < size else [*range(0, size - chunk, chunk), size - chunk]
    estimate = torch.empty(0)
    for begin in begins:
        part = batch if len(begins) == 1 else batch | {"mixture": batch["mixture"][..., begin : begin + chunk]}
        with autocast:
            output = OneCall(model)(*inputs(part)).float().cpu()[0]
        estimate = torch.cat([estimate[..., :begin], output], -1)
    return estimate[:, 0] if item["mixture"].ndim == 1 else estimate


# --------------------------------------------------------------------------------------------------------------- data


def drawn_step(conf: Config, step: int) -> int:
    """The step whose mixtures are drawn: the step itself, unless the first ones are repeated."""
    return step % conf.train.overfit_batches if conf.train.overfit_batches else step


def draw_batches(
    data: TrainingItems, conf: Config, first_step: int, device: torch.device
) -> Generator[dict[str, Any], None, None]:
    """Batches from `first_step` on. Each process takes every world_size-th item: together they draw what one would."""
    size, world = conf.train.batch_size, distributed.world_size()
    groups = (
        list(range(first + distributed.rank(), first + size, world))
        for step in range(first_step, conf.train.max_steps)
        for first in range(
            drawn_step(conf, step) * data.items_per_step, (drawn_step(conf, step) + 1) * data.items_per_step, size
        )
    )
    workers, on_device = conf.train.num_workers, conf.simulation.render_on == "device"
    loader = DataLoader(
        data,
        batch_sampler=groups,
        num_workers=workers,
        collate_fn=collate_raw if on_device else collate,
        prefetch_factor=4 if workers else None,
        worker_init_fn=set_up_data_worker,
        pin_memory=torch.cuda.is_available(),
    )
    drawn = iter(loader)
    try:
        for batch in drawn:
            yield render_raw(batch, device) if on_device else batch
    except ValueError as error:
        if not workers:
            raise
        # a worker's traceback comes as text, its last line is the error
        raise ValueError(str(error).splitlines()[-1].removeprefix("ValueError: ")) from None
    finally:
        if workers:  # after an error something may still hold `drawn`: Python's end would wait for its workers for ever
            drawn._shutdown_workers()  # type: ignore[attr-defined]


def set_up_data_worker(worker: int) -> None:
    """It outlives a request to stop, since the step is to be finished, but not the process that it draws for."""
    for number in StopSignal.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    distributed.end_with_parent()
    set_up_worker(worker)


def write_config(conf: Config, path: Path) -> None:
    with replace_file(path) as file:
        yaml.safe_dump(conf.model_dump(mode="json"), file, sort_keys=False, allow_unicode=True)
