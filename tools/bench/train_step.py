"""A training step in float32 (baseline) against bfloat16 autocast: forward, losses, backward and update, data excluded.

    python tools/bench/train_step.py [--conf FILE] [--device auto] [--quick]

Both sides run in this one process, interleaved, and one JSON line comes out (docs/architecture.md has its keys).
"""

import argparse
import json
import platform
import time

import torch

from tse_lib.bin.check import noise_item
from tse_lib.config import Config, load_config
from tse_lib.data.dataset import collate
from tse_lib.distributed import pick_device
from tse_lib.evaluation.results import machine
from tse_lib.training.state import new_state
from tse_lib.training.steps import new_run, supervised_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="tools/bench/hifi_tse_v2.yaml", help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="within a minute: 2 rounds, one block, 0.2 s, batch 1")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()

    small = ["simulation.segment_s=0.2", "simulation.enroll_s=0.2", "train.batch_size=1"]
    small += ["model.params.num_blocks=1", "model.params.reinject_at=[0]"]
    conf = load_config(args.conf, [*(small if args.quick else []), *args.set])
    print(json.dumps(measure(conf, pick_device(args.device), 2 if args.quick else args.rounds)), flush=True)


def measure(conf: Config, device: torch.device, rounds: int) -> dict[str, object]:
    batch = collate([noise_item(conf, 0, place) for place in range(conf.train.batch_size)])
    present = int(batch["present"].sum())
    counts = {"present": present, "absent": conf.train.batch_size - present}
    sides = {}
    for name in ("float32", "bfloat16"):
        state = new_state(conf, device)
        run = new_run(conf, state, device)
        run.autocast = torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16")
        sides[name] = state, run
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    memory: dict[str, float] = {}
    losses: dict[str, float] = {}
    for number in range(rounds + 2):  # the first two warm up
        for name, (state, run) in sides.items():
            state.model.train()
            torch.manual_seed(number)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            begin = time.perf_counter()
            scalars = supervised_step(state, run, [batch], counts)
            losses[name] = float(scalars["loss"])  # waits for the device
            if number >= 2:
                seconds[name].append(time.perf_counter() - begin)
            if device.type == "cuda":
                memory[name] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    median = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    on_gpu = device.type == "cuda"
    return {
        "bench": "train_step",
        "case": f"{conf.model.name}, mixture {tuple(batch['mixture'].shape)}, {conf.sample_rate} Hz",
        "baseline": "float32",
        "baseline_s": round(median["float32"], 4),
        "ours_s": round(median["bfloat16"], 4),
        "ratio": round(median["float32"] / median["bfloat16"], 3),
        "rounds": rounds,
        "max_abs_diff": round(abs(losses["float32"] - losses["bfloat16"]), 4),
        "peak_gib": memory,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if on_gpu else machine()["cpu"],
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


if __name__ == "__main__":
    main()
