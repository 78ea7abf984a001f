"""tse models: the networks and their presets."""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tse_lib.hub.public import PUBLIC
from tse_lib.models import build_model
from tse_lib.models.presets import PRESETS, describe

MEASURED_S = 4.0


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse models",
        description="List the networks at their published sizes: parameters, multiply-accumulates per second of audio, "
        "public weights that `tse convert` reads, with their licences ('?': not known here).",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--only", nargs="+", choices=PRESETS, metavar="NAME", help="these presets alone")
    parser.add_argument(
        "--measure",
        action="store_true",
        help=f"also separate {MEASURED_S:g} s of noise with each, on one core, in a process of its own: CPU seconds a "
        "second of audio (RTF) and the memory that weights and separation take at most",
    )
    args = parser.parse_args(argv)
    names = args.only or list(PRESETS)
    rows = [describe(name) | {"weights": public_weights(name)} for name in names]
    if args.measure:
        for row in tqdm(rows, desc="measure", unit="network", disable=None):
            row |= measure_apart(row["preset"])
    print(json.dumps(rows, indent=2) if args.json else "\n".join(as_line(row) for row in rows))


def as_line(row: dict[str, Any]) -> str:
    columns = [
        f"{row['name']:<12} {row['preset']:<{max(map(len, PRESETS))}} {row['task']:<8} {row['params']:>12,}",
        f"{row['gmac_per_s']:>7.2f} GMAC/s  {row['sample_rate']:>6} Hz",
        f"{'causal' if row['causal'] else 'not causal':<10}",
    ]
    if "rtf" in row:
        columns.append(f"RTF {row['rtf']:>6.2f} {row['peak_mib']:>6.0f} MiB" if row["rtf"] else f"{'failed':>21}")
    columns.append(row["paper"])
    if row["weights"]:
        columns.append("weights: " + ", ".join(f"{name} ({licence})" for name, licence in row["weights"].items()))
    return "  ".join(columns)


def public_weights(preset: str) -> dict[str, str]:
    """The published checkpoints of this very network, and their licences."""
    return {name: public.licence or "?" for name, public in PUBLIC.items() if public.preset == preset}


def measure_apart(preset: str) -> dict[str, float | None]:
    """`measure` in a fresh process; what one that is killed would have said is None."""
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure, preset, MEASURED_S).result()
    except BrokenProcessPool:
        tqdm.write(f"{preset}: its process was killed; out of memory?", file=sys.stderr)
        return {"rtf": None, "peak_mib": None}


@torch.inference_mode()
def measure(preset: str, seconds: float) -> dict[str, float | None]:
    """Separate noise, after a little to warm up; its enrolment is as long.

    Returns:
        rtf: CPU seconds a second of audio, on one core, so that what else the machine does hardly matters.
        peak_mib: what this process held at most, beyond what it held before the network was built.
    """
    facts = PRESETS[preset]
    torch.set_num_threads(1)
    before = resident_mib("VmRSS")
    model = build_model(facts["name"], facts["params"], facts["sample_rate"], facts["task"]).eval()
    for size in (seconds / 8, seconds):
        noise = torch.randn(1, 1, round(size * facts["sample_rate"]), generator=torch.Generator().manual_seed(0))
        begin = time.process_time()
        if facts["task"] == "extract":
            model(noise, model.encode(noise))  # type: ignore[operator]
        else:
            model(noise)
        taken = time.process_time() - begin
    return {"rtf": round(taken / seconds, 4), "peak_mib": round(resident_mib("VmHWM") - before, 1)}


def resident_mib(name: str) -> float:
    """VmRSS, what this process holds in memory now, or VmHWM, the most that it ever held.

    Where the system does not tell, the most in both cases. `getrusage` is the second choice: on Linux its maximum also
    counts the process that this one was started from.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 2**20 if sys.platform == "darwin" else most / 2**10
    return next(int(line.split()[1]) for line in status if line.startswith(f"{name}:")) / 2**10
