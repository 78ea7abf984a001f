"""A training step, data excluded: ours against the plainest loop, and float32 against bfloat16 autocast.

    python tools/bench/train_step.py [--conf FILE] [--device auto] [--rounds 10] [--quick]

`train_step`: forward, losses, backward, clipping and update, written out here as plainly as it goes (baseline),
against the trainer's step with all that it adds: denominators from the whole step, the check for values that are not
finite, averaged weights, the schedule, the clock. `train_step_bf16`: the trainer's step in float32 (baseline), then
under bfloat16 autocast. Both sides of a case take turns in this process, on networks of the same weights and on one
batch. Seconds are CPU seconds on a CPU, else those of the device. On a CPU the network has one block and the batch
two mixtures of 1 s. The JSON lines are described in docs/architecture.md.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from tse_lib.bin.check import noise_item
from tse_lib.config import Config, build, load_config
from tse_lib.data.dataset import collate
from tse_lib.distributed import pick_device
from tse_lib.evaluation.results import machine
from tse_lib.losses import build_loss
from tse_lib.training.state import new_state
from tse_lib.training.steps import new_run, supervised_step, to_device

SMALL = ["simulation.segment_s=1", "simulation.enroll_s=1", "train.batch_size=2", "model.params.num_blocks=1"]
SMALL += ["model.params.reinject_at=[0]", "model.params.gradient_checkpointing=false"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="tools/bench/hifi_tse_v2.yaml", help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="within a minute: 3 rounds of the small size")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    device = pick_device(args.device)
    small = SMALL if args.quick or device.type == "cpu" else []
    conf = load_config(args.conf, [*small, *args.set])
    rounds = 3 if args.quick else args.rounds
    batch = to_device(collate([noise_item(conf, 0, place) for place in range(conf.train.batch_size)]), device)
    exact = with_bf16(conf, False)
    sides = {"plain loop": plain_step(exact, batch, device), "trainer": trainer_step(exact, batch, device)}
    print(json.dumps(compare("train_step", sides, conf, batch, device, rounds)), flush=True)
    sides = {
        "float32": trainer_step(exact, batch, device),
        "bfloat16": trainer_step(with_bf16(conf, True), batch, device),
    }
    print(json.dumps(compare("train_step_bf16", sides, conf, batch, device, rounds)), flush=True)


def with_bf16(conf: Config, wanted: bool) -> Config:
    values = conf.model_dump()
    values["train"] |= {"bf16": wanted, "warmup_steps": 0, "min_lr": conf.train.lr}  # one rate on both sides
    return build(Config, values, "train_step")


def plain_step(conf: Config, batch: dict[str, Any], device: torch.device) -> Callable[[], float]:
    model = new_state(conf, device).model.train()
    train = conf.train
    optimizer = torch.optim.AdamW(
        model.parameters(), train.lr, train.betas, weight_decay=train.weight_decay, foreach=True
    )
    losses = [(term.weight, term.when, build_loss(term.name, term.when, term.params)) for term in conf.loss]
    rows = {"present": batch["present"], "absent": ~batch["present"]}
    other = {"present": batch["target"][:, :, None], "absent": batch["mixture"][:, None]}
    losses = [one for one in losses if rows[one[1]].any()]

    def step() -> float:
        estimate = model(batch["mixture"], model.encode(batch["enroll"], batch["lengths"]))  # type: ignore[operator]
        loss = sum(weight * loss(estimate[rows[when]], other[when][rows[when]]).mean() for weight, when, loss in losses)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def trainer_step(conf: Config, batch: dict[str, Any], device: torch.device) -> Callable[[], float]:
    state = new_state(conf, device)
    run = new_run(conf, state, device)
    present = int(batch["present"].sum())
    counts = {"present": present, "absent": conf.train.batch_size - present}
    state.model.train()

    def step() -> float:
        scalars = supervised_step(state, run, [batch], counts)
        state.ema.update_parameters(state.model)
        state.parts["model"].scheduler.step()
        state.step += 1
        return float(scalars["loss"])

    return step


def compare(
    bench: str,
    sides: dict[str, Callable[[], float]],
    conf: Config,
    batch: dict[str, Any],
    device: torch.device,
    rounds: int,
) -> dict[str, Any]:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    memory: dict[str, float] = {}
    losses: dict[str, float] = {}
    for number in range(rounds + 2):  # the first two warm up
        for name, step in sides.items():
            torch.manual_seed(number)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            begin = clock()
            losses[name] = step()  # waits for the device
            if number >= 2:
                seconds[name].append(clock() - begin)
            if device.type == "cuda":
                memory[name] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    (baseline, theirs), (ours, mine) = ((name, statistics.median(values)) for name, values in seconds.items())
    return {
        "bench": bench,
        "case": f"{conf.model.name}, mixture {tuple(batch['mixture'].shape)}, {conf.sample_rate} Hz, {ours}",
        "baseline": baseline,
        "baseline_s": round(theirs, 4),
        "ours_s": round(mine, 4),
        "ratio": round(theirs / mine, 3),
        "rounds": rounds,
        "max_abs_diff": round(abs(losses[baseline] - losses[ours]), 6),
        "peak_gib": memory,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else machine()["cpu"],
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


if __name__ == "__main__":
    main()
