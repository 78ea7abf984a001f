"""The selective scan: our ways of computing it (`SCANS`) against the plain loop and against mambapy's parallel scan.

    python tools/bench/selective_scan.py [--device auto] [--scan NAME ...] [--rounds 5] [--quick]

`loop` goes over unbound steps, `pscan` is mambapy's Blelloch scan in pure torch where that can be imported
(tools/install_oracles.sh). All sides run in this one process, in turns, forward, and forward and backward; one JSON
line for each of ours against each baseline comes out (docs/architecture.md has its keys). Seconds are CPU seconds on a
CPU, else those of the device. `peak_mib` is what forward and backward take at most beside their inputs: on a CPU the
highest resident memory of a fresh process; `states_mib` is what the states of all steps would take. `max_abs_diff` is
of the output, or of the gradient of `u`, whose largest number is `max_abs`.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import Tensor

from tse_lib.bin.models import resident_mib
from tse_lib.distributed import pick_device
from tse_lib.evaluation.results import machine
from tse_lib.nn import selective_scan_cpp
from tse_lib.nn.selective_scan import SCANS, choose_scan

try:
    from mambapy.pscan import pscan
except ImportError:
    pscan = None

CASES = {  # batch, length, features; with 16 states each
    "SPMamba, frames of 0.25 s": (31, 126, 512),
    "SepMamba S, first level of 1 s": (1, 4000, 128),
    "SepMamba S, last level of 4 s": (1, 4000, 512),
    "the same of 1 s": (1, 1000, 512),
}
CASES_GPU = {
    "SPMamba, frames of 1 s": (122, 126, 512),
    "SepMamba S, first level of 4 s": (1, 15993, 128),
    "SepMamba S, last level of 4 s": (1, 3989, 512),
}
QUICK = {"a sixteenth of SPMamba's": (8, 122, 512)}


def scan_mambapy(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    decays = torch.exp(delta[..., None] * A)
    states = pscan(decays, (delta * u)[..., None] * B[:, :, None])  # (batch, L, D, N)
    return (states @ C[..., None])[..., 0]


BASELINES = {"loop": SCANS["loop"], **({"pscan": scan_mambapy} if pscan else {})}
SIDES: dict[str, Callable[..., Tensor]] = {**SCANS, **BASELINES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--scan", nargs="+", choices=SCANS, help="(default: chunks and cpp; on a GPU the chosen one)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="within a minute: 2 rounds of small cases")
    args = parser.parse_args()
    device = pick_device(args.device)
    ours = args.scan or default_scans(device)
    cases = QUICK if args.quick else CASES if device.type == "cpu" else CASES_GPU
    for case, sizes in cases.items():
        for line in measure(case, sizes, ours, device, 2 if args.quick else args.rounds):
            print(json.dumps(line), flush=True)


def default_scans(device: torch.device) -> list[str]:
    if device.type == "cuda":
        return [choose_scan(device, torch.float32)]
    return ["chunks", "cpp"] if selective_scan_cpp.library() else ["chunks"]


def draw(sizes: tuple[int, int, int], device: torch.device) -> list[Tensor]:
    batch, length, dim = sizes
    torch.manual_seed(0)
    tensors = [torch.randn(batch, length, dim), 0.1 * torch.rand(batch, length, dim), -16 * torch.rand(dim, 16)]
    tensors += [torch.randn(batch, length, 16), torch.randn(batch, length, 16)]
    return [tensor.to(device).requires_grad_() for tensor in tensors]


def measure(
    case: str, sizes: tuple[int, int, int], ours: list[str], device: torch.device, rounds: int
) -> list[dict[str, object]]:
    tensors = draw(sizes, device)
    on_gpu = device.type == "cuda"

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() if on_gpu else time.process_time()

    seconds: dict[tuple[str, str], list[float]] = {}
    results: dict[tuple[str, str], Tensor] = {}
    peaks: dict[str, float] = {}
    sides = [*BASELINES, *ours]
    for number in range(rounds + 1):  # the first warms up
        for side in sides:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            begin = now()
            with torch.no_grad():
                y = SIDES[side](*tensors)
            forward = now() - begin
            begin = now()
            gradients = torch.autograd.grad(SIDES[side](*tensors).sum(), tensors)
            both = now() - begin
            if number:
                seconds.setdefault((side, "forward"), []).append(forward)
                seconds.setdefault((side, "forward and backward"), []).append(both)
            results[side, "forward"], results[side, "forward and backward"] = y, gradients[0]
            if on_gpu:
                peaks[side] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    if not on_gpu:
        peaks = {side: peak_in_a_process(side, sizes) for side in sides}
    lines = []
    for what in ("forward", "forward and backward"):
        for baseline in BASELINES:
            for one in ours:
                pairs = zip(seconds[baseline, what], seconds[one, what], strict=True)
                lines.append(
                    {
                        "bench": "selective_scan",
                        "case": f"{case}, {what}, {sizes}",
                        "baseline": baseline,
                        "ours": one,
                        "baseline_s": round(statistics.median(seconds[baseline, what]), 5),
                        "ours_s": round(statistics.median(seconds[one, what]), 5),
                        "ratio": round(statistics.median(theirs / mine for theirs, mine in pairs), 2),
                        "rounds": rounds,
                        "max_abs_diff": float((results[baseline, what] - results[one, what]).abs().max()),
                        "max_abs": float(results[baseline, what].abs().max()),
                        "peak_mib": {side: peaks[side] for side in (baseline, one)},
                        "states_mib": round(tensors[0].numel() * 16 * 4 / 2**20, 1),
                        "threads": torch.get_num_threads(),
                        "device": torch.cuda.get_device_name(device) if on_gpu else machine()["cpu"],
                        "versions": {"torch": torch.__version__, "python": platform.python_version()},
                    }
                )
    return lines


def peak_in_a_process(side: str, sizes: tuple[int, int, int]) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_mib, side, sizes, torch.get_num_threads()).result()


def peak_mib(side: str, sizes: tuple[int, int, int], threads: int) -> float:
    """The memory that one forward and backward pass takes at most, in this fresh process."""
    torch.set_num_threads(threads)
    small = draw((1, 20, sizes[2]), torch.device("cpu"))
    torch.autograd.grad(SIDES[side](*small).sum(), small)  # whatever is loaded or compiled first
    tensors = draw(sizes, torch.device("cpu"))
    before = resident_mib("VmRSS")
    torch.autograd.grad(SIDES[side](*tensors).sum(), tensors)
    return round(max(0.0, resident_mib("VmHWM") - before), 1)


if __name__ == "__main__":
    main()
