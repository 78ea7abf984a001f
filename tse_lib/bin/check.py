"""tse check: build an experiment and take three steps, before a long run is started."""

import argparse
import resource
import time
from typing import Any

import torch
from tqdm import tqdm

from tse_lib.bin.device import add_device_options, device_of
from tse_lib.bin.train import add_data_options, corpus_of, positive
from tse_lib.config import Config, Simulation, given_dim_of, load_config
from tse_lib.data.dataset import to_batch
from tse_lib.data.layers import TrainingItems, training_items
from tse_lib.rng import rng
from tse_lib.training.state import new_state
from tse_lib.training.steps import STEPS, new_run


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse check",
        description="Build a conf's model, take three training steps at its batch, and print parameters, memory and "
        "time a step. Without --train the batches are noise of the right shape.",
        epilog="example: tse check conf/tse.yaml --train train --noise noise_train",
    )
    parser.add_argument("conf")
    add_data_options(parser)
    parser.set_defaults(train=None)
    add_device_options(parser)
    parser.add_argument("--steps", type=positive, default=3, help="(default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: train.lr=1e-4")
    args = parser.parse_args(argv)

    conf = load_config(args.conf, args.set)
    report = check(
        conf,
        device_of(args),
        args.steps,
        training_items(corpus_of(args, conf), conf) if args.train else None,
    )
    for name, value in report.items():
        print(f"{name:<22} {value}")


NOBODY = "nobody"  # speaks where there are no data


def check(conf: Config, device: torch.device, num_steps: int, data: TrainingItems | None) -> dict[str, Any]:
    """Take steps as the trainer would, and say what they cost.

    Raises:
        ValueError: the conf cannot be built, or a loss is not finite.
    """
    speakers = data.speakers if data else [NOBODY]
    state, step_function = new_state(conf, device, speakers), STEPS[conf.train.step]
    run = new_run(conf, state, device)
    state.step = conf.train.max_steps - 1  # where all that the step does is on
    size, count = conf.train.batch_size, conf.train.accumulate
    seconds, losses, draw_s = [], [], 0.0
    state.model.train()
    for step in tqdm(range(num_steps), desc="check", unit="step", leave=False):
        begin = time.perf_counter()
        items = [
            data[step * size * count + place] if data else noise_item(conf, step, place)
            for place in range(size * count)
        ]
        draw_s += time.perf_counter() - begin
        group = [to_batch(items[first : first + size], device) for first in range(0, len(items), size)]
        present = sum(int(batch["present"].sum()) for batch in group)
        counts = {"present": present, "absent": len(items) - present}
        begin = time.perf_counter()
        scalars = step_function(state, run, group, counts)
        losses.append(float(scalars["loss"]))
        if scalars["skipped"]:
            raise ValueError(f"step {step + 1}: the gradient is not finite; lower train.lr, or check the data")
        seconds.append(time.perf_counter() - begin)
    step_s = min(seconds[1:] or seconds)  # the first one allocates
    if device.type == "cuda":
        memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB on {torch.cuda.get_device_name(device)}"
    else:
        memory = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of the process (CPU)"
    hours = conf.train.max_steps * step_s / 3600
    return {
        "model": conf.model.name,
        "parameters": f"{sum(p.numel() for p in state.model.parameters()):,}",
        "batch": f"{size} x {count} of {conf.simulation.segment_s[1]:g} s at {conf.sample_rate} Hz",
        "precision": "bfloat16 autocast" if run.autocast._enabled else "float32",
        "loss": " ".join(f"{loss:.3f}" for loss in losses),
        "peak memory": memory,
        "time a step": f"{step_s:.3f} s",
        "time to draw a batch": f"{draw_s / num_steps:.3f} s on one core" if data else "not measured (give --train)",
        "the whole training": f"{conf.train.max_steps} steps, about {hours:.1f} h here, validation not counted",
    }


def noise_item(conf: Config, step: int, place: int) -> dict[str, Any]:
    """An item of the right shape for a conf without its data; every fifth one has no target."""
    generator = rng(conf.seed, "check", step, place)
    simulation = conf.simulation

    def noise(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.standard_normal(shape)).float() * 0.1

    present = simulation.target_absent == 0 or place % 5 != 4
    channels = [simulation.num_channels] if simulation.source_names else []
    talkers = noise(simulation.num_talkers[1], *channels, round(simulation.segment_s[1] * conf.sample_rate))
    wanted = talkers[:1] if simulation.task == "extract" else talkers
    return {
        "mix_id": f"{step}-{place}",
        "speaker": NOBODY,
        "mixture": talkers.sum(0),
        "target": wanted if present else torch.zeros_like(wanted),
        "enrolls": [
            noise(given_dim_of(conf.model) or round(simulation.enroll_s[1] * conf.sample_rate))
            for _ in range(simulation.num_enrolls[1])
            if simulation.enroll_s
        ]
        if isinstance(simulation, Simulation)
        else [],
        "present": present,
    }
