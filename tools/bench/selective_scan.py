"""The selective scan step by step (baseline) against what this machine would choose: forward, and forward and backward.

    python tools/bench/selective_scan.py [--device auto] [--scan NAME] [--rounds 5] [--quick]

Both sides run in this one process, interleaved, and one JSON line a case comes out (docs/architecture.md has its keys).
`peak_mib` is what forward and backward take at most, beside the inputs; on a GPU only.
"""

import argparse
import json
import platform
import time

import torch

from tse_lib.distributed import pick_device
from tse_lib.evaluation.results import machine
from tse_lib.nn.selective_scan import SCANS, choose_scan

CASES = {  # batch, length, features; with 16 states each
    "SPMamba, frames of 1 s": (122, 126, 512),
    "SepMamba S, first level of 4 s": (1, 15993, 128),
    "SepMamba S, last level of 4 s": (1, 3989, 512),
}
QUICK = {"a sixteenth of SPMamba's": (8, 122, 512), "long and narrow": (1, 2000, 64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--scan", choices=SCANS, help="(default: what the library would choose)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="within a minute: 2 rounds of small cases")
    args = parser.parse_args()
    device = pick_device(args.device)
    scan = args.scan or choose_scan(device, torch.float32)
    for case, sizes in (QUICK if args.quick else CASES).items():
        for line in measure(case, sizes, scan, device, 2 if args.quick else args.rounds):
            print(json.dumps(line), flush=True)


def measure(case: str, sizes: tuple[int, int, int], scan: str, device: torch.device, rounds: int) -> list[dict]:
    batch, length, dim = sizes
    torch.manual_seed(0)
    tensors = [torch.randn(batch, length, dim), 0.1 * torch.rand(batch, length, dim), -16 * torch.rand(dim, 16)]
    tensors += [torch.randn(batch, length, 16), torch.randn(batch, length, 16)]
    tensors = [tensor.to(device).requires_grad_() for tensor in tensors]
    on_gpu = device.type == "cuda"

    def wait() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    seconds: dict[tuple[str, str], list[float]] = {}
    results: dict[tuple[str, str], torch.Tensor] = {}
    peaks: dict[str, float] = {}
    for number in range(rounds + 1):  # the first warms up
        for side in ("loop", scan):
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            begin = wait()
            with torch.no_grad():
                y = SCANS[side](*tensors)
            forward = wait() - begin
            begin = wait()
            gradients = torch.autograd.grad(SCANS[side](*tensors).sum(), tensors)
            both = wait() - begin
            if number:
                seconds.setdefault((side, "forward"), []).append(forward)
                seconds.setdefault((side, "forward and backward"), []).append(both)
            results[side, "forward"], results[side, "forward and backward"] = y, gradients[0]
            if on_gpu:
                peaks[side] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    lines = []
    for what in ("forward", "forward and backward"):
        baseline, ours = (sorted(seconds[side, what])[rounds // 2] for side in ("loop", scan))
        lines.append(
            {
                "bench": "selective_scan",
                "case": f"{case}, {what}, {sizes}",
                "baseline": "loop",
                "ours": scan,
                "baseline_s": round(baseline, 5),
                "ours_s": round(ours, 5),
                "ratio": round(baseline / ours, 2),
                "rounds": rounds,
                "max_abs_diff": float((results["loop", what] - results[scan, what]).abs().max()),
                "peak_mib": peaks,
                "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name(device) if on_gpu else machine()["cpu"],
                "versions": {"torch": torch.__version__, "python": platform.python_version()},
            }
        )
    return lines


if __name__ == "__main__":
    main()
