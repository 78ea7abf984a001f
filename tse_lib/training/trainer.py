"""The training loop.

    state = new or restored from last.pt
    for each optimizer step: draw its batches (a function of the step) -> step function -> EMA -> log, validate, save

Everything random is named by the step, so a run that was killed at any moment and started again ends with the same
weights, bit for bit, as one that was not.
"""

import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from tse_lib import checkpoint, distributed
from tse_lib.config import Config, curriculum_scalars, simulation_at
from tse_lib.data.dataset import DrawnMixtures, RenderedMixtures, collate, collate_raw, render_raw, set_up_worker
from tse_lib.files import replace_file
from tse_lib.losses import build_loss
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.manifest import Mixture
from tse_lib.models import build_model
from tse_lib.rng import seed_of
from tse_lib.simulation.sample import Corpus
from tse_lib.training.schedule import lr_scale
from tse_lib.training.steps import Objective, supervised_step, to_device

STEPS = {"supervised": supervised_step}


class Extraction(nn.Module):
    """encode and forward in one call, as DistributedDataParallel wants it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, mixture: Tensor, enroll: Tensor, lengths: Tensor) -> Tensor:
        return self.model(mixture, self.model.encode(enroll, lengths))  # type: ignore[operator]


@dataclass
class State:
    """Everything that changes while training; `to_checkpoint` holds all of it."""

    model: nn.Module
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    step: int = 0
    best: float = -math.inf  # SI-SDRi in dB of the EMA on the development set's present targets
    patience: int = 0  # validations since the best
    seconds: float = 0.0  # of training, over restarts
    data: dict[str, str] = field(default_factory=dict)  # a hash of each set that it is trained on and chosen by

    def to_checkpoint(self, conf: Config) -> dict[str, Any]:
        return {
            "modules": {"model": self.model.state_dict()},
            "ema": self.ema.state_dict(),
            "optimizers": {"model": self.optimizer.state_dict()},
            "schedulers": {"model": self.scheduler.state_dict()},
            "step": self.step,
            "curriculum": {"step": self.step},
            "rng": {"seed": conf.seed},
            "best": self.best,
            "patience": self.patience,
            "seconds": self.seconds,
            "data": self.data,
            "config": conf.model_dump(mode="json"),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["modules"]["model"])
        self.ema.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizers"]["model"])
        self.scheduler.load_state_dict(saved["schedulers"]["model"])
        self.step, self.best, self.patience = saved["step"], saved["best"], saved["patience"]
        self.seconds = saved["seconds"]


def new_state(conf: Config, device: torch.device) -> State:
    """Model, EMA, optimizer and schedule as the conf says, with weights drawn from its seed."""
    torch.manual_seed(seed_of(conf.seed, "init") % 2**63)
    model = build_model(conf.model.name, conf.model.params, conf.sample_rate)
    if conf.train.init_from:
        model.load_state_dict(checkpoint.load(conf.train.init_from)["modules"]["model"])
    model.to(device)
    train = conf.train

    def average(ema: Any, current: Any, count: int | Tensor) -> None:
        count = int(count)  # young averages forget faster: the first steps are no part of a good mean
        torch._foreach_lerp_(ema, current, 1 - min(train.ema_decay, (1 + count) / (10 + count)))

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, foreach=True
    )
    floor = train.min_lr / train.lr
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_scale(step, train.warmup_steps, train.max_steps, floor)
    )
    return State(model, AveragedModel(model, multi_avg_fn=average), optimizer, scheduler)


def build_objective(conf: Config) -> Objective:
    ever_absent = any(simulation_at(conf, step).target_absent for step in conf.knots())
    if not ever_absent and any(term.when == "absent" for term in conf.loss):
        raise ValueError("loss: a term is `when: absent`, but simulation.target_absent is 0")
    return Objective(
        [(term.name, term.weight, term.when, build_loss(term.name, term.when, term.params)) for term in conf.loss]
    )


def autocast_for(device: torch.device, wanted: bool) -> torch.autocast:
    """bfloat16 where the processor computes in it, else a context that does nothing."""
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported()
    else:
        has = torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and has)


def train(conf: Config, corpus: Corpus, dev_dir: str, exp: str | Path, device: torch.device) -> State:
    """Train to `conf.train.max_steps`, or on from `exp/last.pt` if it is there.

    Writes exp/{config.yaml,last.pt,best.pt,log/train.jsonl,log/valid.jsonl,tensorboard/}.

    Raises:
        ValueError: `exp` holds a run of another conf or on other data, or the loss stayed not finite.
    """
    exp = Path(exp)
    dev = RenderedMixtures(dev_dir, conf.sample_rate)
    data = DrawnMixtures(corpus, conf)
    if conf.train.batch_size % distributed.world_size():
        raise ValueError(
            f"train.batch_size {conf.train.batch_size} must be a multiple of the {distributed.world_size()} processes"
        )
    for step in conf.knots():
        data.mixture(step * data.items_per_step)  # what the corpus lacks is said before anything is written
    state, objective, step_function = new_state(conf, device), build_objective(conf), STEPS[conf.train.step]
    state.data = {"train": hash_of_corpus(corpus), "dev": hash_of_mixtures(dev.mixtures)}
    if (exp / "last.pt").exists():
        saved = checkpoint.load(exp / "last.pt")
        refuse_other_conf(conf, saved["config"], exp)
        refuse_other_data(state.data, saved.get("data", {}), exp)
        state.restore(saved)
    elif distributed.is_main():
        write_config(conf, exp / "config.yaml")
    distributed.barrier()
    network: nn.Module = Extraction(state.model)
    if distributed.world_size() > 1:
        network = DistributedDataParallel(network)
    autocast = autocast_for(device, conf.train.bf16)
    log = Log(exp, state.step) if distributed.is_main() else None
    started = time.monotonic() - state.seconds
    batches = draw_batches(data, conf, state.step, device)
    bad_files = BadFiles(conf.train.bad_files)
    bar = tqdm(
        total=conf.train.max_steps, initial=state.step, unit="step", desc="train", disable=not distributed.is_main(),
        mininterval=1.0 if sys.stderr.isatty() else 30.0, dynamic_ncols=True,
    )  # fmt: skip
    skipped_in_a_row, interval = 0, []
    while state.step < conf.train.max_steps and not (0 < conf.train.patience <= state.patience):
        torch.manual_seed(seed_of(conf.seed, "step", state.step, distributed.rank()) % 2**63)
        present = data.num_present(state.step)
        counts = {"present": present, "absent": data.items_per_step - present}
        state.model.train()
        group = [next(batches) for _ in range(conf.train.accumulate)]
        lr = state.scheduler.get_last_lr()[0]
        drawn_anew = bad_files.note(group)
        scalars = step_function(network, state.optimizer, group, counts, objective, conf.train.clip_norm, autocast)
        scalars["bad_files"] = torch.tensor(float(drawn_anew), device=device)
        state.ema.update_parameters(state.model)
        state.scheduler.step()
        state.step += 1
        interval.append(scalars)
        skipped_in_a_row = skipped_in_a_row + 1 if scalars["skipped"] else 0
        if skipped_in_a_row >= 20:
            raise ValueError(
                f"{exp}: the gradient was not finite in 20 steps in a row, at step {state.step}; lower train.lr?"
            )
        due = state.step == conf.train.max_steps
        if due or state.step % conf.train.log_every == 0:
            numbers = mean_of(interval)
            numbers["bad_files"] = round(numbers["bad_files"] * len(interval))
            interval = []
            state.seconds = time.monotonic() - started
            if log:
                log.train(state.step, {**numbers, "lr": float(lr), "seconds": round(state.seconds, 1)})
                log.curriculum(state.step, curriculum_scalars(conf, state.step - 1))
                bar.set_postfix(loss=f"{numbers['loss']:.2f}", best=f"{state.best:.2f}", refresh=False)
        bar.update()
        if due or state.step % conf.train.valid_every == 0:
            scores = validate(state.ema.module, dev, device, autocast)
            state.seconds = time.monotonic() - started
            state.patience += 1
            if scores["si_sdri"] > state.best:
                state.best, state.patience = scores["si_sdri"], 0
                if log:
                    checkpoint.save(exp / "best.pt", deployable(state, conf))
            if log:
                log.valid(state.step, {**scores, "best": state.best, "seconds": round(state.seconds, 1)})
        if log and (due or state.step % conf.train.valid_every == 0 or state.step % conf.train.save_every == 0):
            checkpoint.save(exp / "last.pt", state.to_checkpoint(conf))
    bar.close()
    distributed.barrier()
    return state


def deployable(state: State, conf: Config) -> dict[str, Any]:
    """What inference needs: the averaged weights under the model's own names, and the conf."""
    return {
        "modules": {"model": state.ema.module.state_dict()},
        "step": state.step,
        "best": state.best,
        "seconds": state.seconds,
        "config": conf.model_dump(mode="json"),
    }


@torch.no_grad()
def validate(
    model: nn.Module, dev: RenderedMixtures, device: torch.device, autocast: torch.autocast
) -> dict[str, float]:
    """Mean SI-SDR and SI-SDRi over present targets and mean attenuation over absent ones, one mixture at a time.

    The processes share the mixtures; all return the same numbers.
    """
    model.eval()
    sums = torch.zeros(5, dtype=torch.float64)  # si_sdr, si_sdri, present | attenuation, absent
    for index in range(distributed.rank(), len(dev), distributed.world_size()):
        item = dev[index]
        batch = to_device(collate([item]), device)
        with autocast:
            estimate = model(batch["mixture"], model.encode(batch["enroll"], batch["lengths"]))  # type: ignore[operator]
        estimate, mixture = estimate.float().cpu()[0, 0], item["mixture"][None]  # (1, T)
        if item["present"]:
            after, before = (-neg_si_sdr(wave, item["target"][None]) for wave in (estimate, mixture))
            sums[:3] += torch.stack([after[0], (after - before)[0], torch.tensor(1.0)])
        else:
            power = estimate.square().mean().clamp_min(1e-10)
            sums[3:] += torch.stack([10 * torch.log10(mixture.square().mean() / power), torch.tensor(1.0)])
    si_sdr, si_sdri, present, attenuation, absent = distributed.total(sums).tolist()
    scores = {"si_sdr": si_sdr / max(1, present), "si_sdri": si_sdri / max(1, present)}
    return {**scores, "ta_attenuation_db": attenuation / absent} if absent else scores


def draw_batches(data: DrawnMixtures, conf: Config, first_step: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Batches from `first_step` on. Each process takes every world_size-th item: together they draw what one would."""
    size, world = conf.train.batch_size, distributed.world_size()
    first = first_step * data.items_per_step
    groups = (list(range(begin + distributed.rank(), begin + size, world)) for begin in range(first, len(data), size))
    workers, on_device = conf.train.num_workers, conf.simulation.render_on == "device"
    loader = DataLoader(
        data,
        batch_sampler=groups,
        num_workers=workers,
        collate_fn=collate_raw if on_device else collate,
        prefetch_factor=4 if workers else None,
        worker_init_fn=set_up_worker,
        pin_memory=torch.cuda.is_available(),
    )
    return (render_raw(batch, device) for batch in loader) if on_device else iter(loader)


class BadFiles:
    """Files that could not be read while drawing: named once each, counted in the log, or the end, as configured."""

    def __init__(self, policy: str):
        self.policy, self.named = policy, set[str]()

    def note(self, batches: list[dict[str, Any]]) -> int:
        """How many mixtures were drawn anew.

        Raises:
            ValueError: the policy is "stop".
        """
        found = [fault for batch in batches for fault in batch["bad_files"]]
        for fault in found:
            if self.policy == "stop":
                raise ValueError(f"{fault}; train.bad_files: skip goes on without such files")
            if fault not in self.named:
                tqdm.write(f"skipped: {fault}", file=sys.stderr)
                self.named.add(fault)
        return len(found)


def mean_of(steps: list[dict[str, Tensor]]) -> dict[str, float]:
    """The scalars' mean over steps. Of a loss each process holds a share, so shares add up; the rest is the same."""
    names = sorted(steps[0])
    values = torch.stack([torch.stack([scalars[name] for name in names]) for scalars in steps]).double().mean(0).cpu()
    shared = torch.tensor([name not in ("grad_norm", "skipped") for name in names])
    values = torch.where(shared, distributed.total(values), values)
    return {name: round(value, 6) for name, value in zip(names, values.tolist(), strict=True)}


def write_config(conf: Config, path: Path) -> None:
    with replace_file(path) as file:
        yaml.safe_dump(conf.model_dump(mode="json"), file, sort_keys=False, allow_unicode=True)


def refuse_other_conf(conf: Config, saved: dict[str, Any], exp: Path) -> None:
    """A run goes on only with the conf it was started with (infrastructure may change)."""
    free = ("num_workers", "log_every", "save_every", "bad_files")

    def flat(values: Any, name: str = "") -> dict[str, Any]:
        if isinstance(values, dict):
            return {key: value for part in values for key, value in flat(values[part], f"{name}.{part}").items()}
        return {name.lstrip("."): values}

    now, then = flat(conf.model_dump(mode="json")), flat(saved)
    changed = [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]
    changed = [key for key in changed if key.split(".")[-1] not in free and not key.startswith("inference.")]
    if changed:
        shown = ", ".join(f"{key} was {then.get(key)}, is {now.get(key)}" for key in changed[:4])
        raise ValueError(f"{exp}/last.pt: this run began with another conf ({shown}); {way_out(exp)}")


def refuse_other_data(data: dict[str, str], saved: dict[str, str], exp: Path) -> None:
    """A run goes on only with the data it was started with: what was trained on may be test data now."""
    changed = [name for name in data if name in saved and saved[name] != data[name]]
    if changed:
        what = {"train": "what it is trained on", "dev": "the development mixtures"}
        shown = " and ".join(what[name] for name in changed)
        raise ValueError(f"{exp}/last.pt: this run began with other data ({shown} changed); {way_out(exp)}")


def way_out(exp: Path) -> str:
    return f"to train anew remove {exp}, to keep both give the conf (or --exp) another name"


def hash_of_corpus(corpus: Corpus) -> str:
    """Of all that mixtures are drawn from, except where it lies: packing a set changes nothing."""
    return hash_of(
        (utt.utt_id, utt.spk_id, utt.num_samples, utt.sample_rate, utt.activity)
        for utt in chain(corpus.speech, corpus.noise, corpus.all_rirs)
    )


def hash_of_mixtures(mixtures: Iterable[Mixture]) -> str:
    """Of what is mixed, except where the files lie."""
    return hash_of(re.sub(r'("path": ")[^"]*/', r"\1", mixture.to_json()) for mixture in mixtures)


def hash_of(parts: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()[:16]


class Log:
    """train.jsonl, valid.jsonl and TensorBoard. After a restart, lines behind the restored step are dropped."""

    def __init__(self, exp: Path, step: int):
        self.paths = {name: exp / "log" / f"{name}.jsonl" for name in ("train", "valid")}
        for path in self.paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            with replace_file(path) as file:
                file.writelines(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
        self.board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(exp / "tensorboard"), purge_step=step + 1 if step else None)
        except ImportError:
            print("tensorboard is not installed (pip install -e .[train]); log/train.jsonl has the curves", flush=True)

    def train(self, step: int, scalars: dict[str, float]) -> None:
        self._write("train", step, scalars)

    def curriculum(self, step: int, scalars: dict[str, float]) -> None:
        if self.board:
            for key, value in scalars.items():
                self.board.add_scalar(f"curriculum/{key}", value, step)

    def valid(self, step: int, scalars: dict[str, float]) -> None:
        self._write("valid", step, scalars)
        if self.board:
            self.board.flush()

    def _write(self, name: str, step: int, scalars: dict[str, float]) -> None:
        with open(self.paths[name], "a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        if self.board:
            for key, value in scalars.items():
                self.board.add_scalar(f"{name}/{key}", value, step)
