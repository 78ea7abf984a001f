"""Does the device wait for its mixtures? Rendering of a batch on the device, and training steps on drawn mixtures.

    python tools/bench/feeding.py [--device auto] [--workers 8] [--quick]

Two JSON lines (docs/architecture.md has their keys). `feeding_render`: CPU seconds to render a mixture in a worker
(baseline) against seconds of the device for a mixture in a batch of 16, both from samples in memory. `feeding`: seconds
of a training step of HiFi-TSE v2 on drawn mixtures, for each place of rendering (baseline), against the same step on a
batch that lies ready; `utilisation` is the share of the time in which the device computes the step. 48 kHz, 4 s, three
talkers in rooms of 2 s; the corpus is that of tools/bench/mixing.py.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mixing import at_rate, conf_of, load_rir, make_corpus

from tse_lib.config import Config, build, load_config
from tse_lib.data.dataset import (
    DrawnMixtures,
    assemble,
    collate_raw,
    keep_freed_memory,
    read_source,
    render_raw,
    responses_of,
    sources_of,
)
from tse_lib.distributed import pick_device
from tse_lib.evaluation.results import machine
from tse_lib.simulation.render import render
from tse_lib.simulation.sample import read_corpus
from tse_lib.training.state import new_state
from tse_lib.training.steps import new_run, supervised_step
from tse_lib.training.trainer import draw_batches

RATE, BATCH = 48000, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="within a minute: a small network, batch 2, 6 steps")
    args = parser.parse_args()
    device = pick_device(args.device)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        data = make_corpus(Path(folder) / "data", RATE, 0.5)
        corpus = read_corpus(data / "train", data / "noise", data / "rir")
        print(json.dumps(rendering(corpus, device, 2 if args.quick else 10)), flush=True)
        for place in ("worker", "device"):
            drawn = DrawnMixtures(corpus, training_conf(place, args.workers, args.quick))
            steps = 6 if args.quick else args.steps
            print(json.dumps(feeding(drawn, device, args.workers, steps)), flush=True)


def training_conf(place: str, workers: int, quick: bool) -> Config:
    small = [
        "model.params.num_blocks=1",
        "model.params.reinject_at=[0]",
        "simulation.segment_s=1",
        "train.batch_size=2",
    ]
    conf = load_config(Path(__file__).with_name("hifi_tse_v2.yaml"), small if quick else [])
    values = conf.model_dump()
    values["simulation"] |= {"render_on": place, "rir_probability": 1.0, "speed": [0.9, 1.1]}
    values["train"]["num_workers"] = workers
    return build(Config, values, "feeding")


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def rendering(corpus: Any, device: torch.device, rounds: int) -> dict[str, Any]:
    values = conf_of(RATE, 4.0, BATCH).model_dump()
    values["simulation"]["render_on"] = "device"
    drawn = DrawnMixtures(corpus, build(Config, values, "rendering"))
    batch = collate_raw([drawn[index] for index in range(BATCH)])
    if device.type == "cuda":
        batch["samples"] = batch["samples"].pin_memory()
    read = []
    for index in range(BATCH):
        mixture = drawn.mixture(index)
        rirs = [load_rir(rir, RATE) for rir in responses_of(mixture)]
        read.append((mixture, [read_source(source) for source in sources_of(mixture)], rirs))

    def in_worker() -> None:
        torch.set_num_threads(1)
        for mixture, raw, rirs in read:
            waves = [at_rate(*one, source, RATE) for one, source in zip(raw, sources_of(mixture), strict=True)]
            render(mixture, assemble(mixture, waves, rirs))

    times: dict[str, list[float]] = {"worker": [], "device": []}
    for number in range(rounds + 1):
        for name, function in (("worker", in_worker), ("device", lambda: render_raw(batch, device))):
            taken = seconds(function, device) / BATCH
            if number:
                times[name].append(taken)
    worker, on_device = (sorted(values)[len(values) // 2] for values in times.values())
    return {
        "bench": "feeding_render", "case": "48 kHz, 4 s, batch of 16", "baseline": "one CPU core",
        "baseline_s": round(worker, 5), "ours_s": round(on_device, 5), "ratio": round(worker / on_device, 2),
        "rounds": rounds, "max_abs_diff": None, **where(device),
    }  # fmt: skip


def feeding(drawn: DrawnMixtures, device: torch.device, workers: int, steps: int) -> dict[str, Any]:
    conf = drawn.conf
    state = new_state(conf, device)
    run = new_run(conf, state, device)
    batches = draw_batches(drawn, conf, 0, device)
    counts = {"present": conf.train.batch_size, "absent": conf.train.batch_size}

    def step(batch: dict[str, Any]) -> None:
        supervised_step(state, run, [batch], counts)

    def run_on_drawn() -> None:
        for _ in range(steps):
            step(next(batches))

    def run_on_ready() -> None:
        for _ in range(steps):
            step(ready)

    for _ in range(4):  # the workers fill their queues, the device allocates
        ready = next(batches)
        step(ready)
    waiting, computing = seconds(run_on_drawn, device) / steps, seconds(run_on_ready, device) / steps
    return {
        "bench": "feeding", "case": f"{conf.model.name} batch {conf.train.batch_size}, {workers} workers",
        "baseline": f"drawn, rendered on the {conf.simulation.render_on}", "baseline_s": round(waiting, 4),
        "ours_s": round(computing, 4), "ratio": round(waiting / computing, 3),
        "utilisation": round(min(1.0, computing / waiting), 3), "rounds": steps, "max_abs_diff": None, **where(device),
    }  # fmt: skip


def where(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()["cpu"]
    return {
        "threads": torch.get_num_threads(),
        "device": name,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


if __name__ == "__main__":
    main()
