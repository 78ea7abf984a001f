"""Does the memory of `tse separate` grow with the recording? Peak resident memory for recordings of several lengths.

    tools/bench/separation_memory.py --model MODEL [--minutes 6 60] [options of tse separate]
    tools/bench/separation_memory.py --full [--minutes 1 6] [options of tse separate]

Noise in stereo at the model's rate is written to a temporary file and separated by `tse separate`, in a process of its
own a length. `--full`: MDX23C at its published size, with random weights. One JSON line a length: `peak_mib` of the
process, `told_mib` that it said before it began (for a chunk, beside weights and Python), and CPU seconds a second.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

import tse_lib
from tse_lib.config import Deployed, build
from tse_lib.evaluation.results import machine
from tse_lib.inference.packed import write_packed
from tse_lib.models import build_model

FULL = {
    "sample_rate": 44100,
    "model": {"name": "tfc_tdf", "params": {}},
    "inference": {
        "chunk_s": 523776 / 44100, "overlap_count": 4, "stitch": False, "level": "model",
        "source_names": ["kick", "snare", "toms", "hh", "cymbals"],
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="what tse separate takes")
    parser.add_argument("--full", action="store_true", help="MDX23C at its published size")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 6.0], help="(default: 1 6)")
    args, options = parser.parse_known_args()
    if bool(args.model) == args.full:
        parser.error("one of --model and --full")
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or write_full(Path(folder) / "full")
        rate = tse_lib.load(model).conf.sample_rate
        for minutes in args.minutes:
            print(json.dumps(measure(str(model), rate, minutes, options, Path(folder))), flush=True)


def write_full(folder: Path) -> Path:
    """A packed MDX23C of published size with random weights."""
    torch.manual_seed(0)
    conf = build(Deployed, FULL, "FULL")
    model = build_model(conf.model.name, conf.model.params, conf.sample_rate, task=None)
    write_packed(folder, model.state_dict(), conf, "Random weights.\n")
    return folder


def measure(model: str, rate: int, minutes: float, options: list[str], folder: Path) -> dict[str, Any]:
    song, size = folder / "song.wav", round(minutes * 60 * rate)
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(song, "w", rate, 2, "PCM_16") as file:
        for first in range(0, size, 1 << 20):
            file.write(0.1 * generator.standard_normal((min(1 << 20, size - first), 2)))
    words = ["separate", str(song), "--model", model, "-o", str(folder / "out"), "--device", "cpu", *options]
    log, peak, before = folder / "log", 0, resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tse_lib.bin.main", *words], stdout=file, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            peak = max(peak, peak_mib_of(process.pid))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"tse {' '.join(words)} failed")
    told, usage = log.read_text(), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    found = re.search(r"memory: about ([\d,]+) MiB", told)
    return {
        "bench": "separation_memory",
        "case": f"{Path(model).name}, {minutes:g} min of stereo {' '.join(options)}".strip(),
        "peak_mib": peak,
        "told_mib": int(found[1].replace(",", "")) if found else None,
        "cpu_s_per_s": round(cpu_s / (minutes * 60), 3),
        "device": machine()["cpu"],
        "versions": {"torch": torch.__version__},
    }


def peak_mib_of(pid: int | str) -> int:
    """The most resident memory so far, 0 of a process that ended. `ru_maxrss` would count the parent's, too."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) // 1024 if found else 0


if __name__ == "__main__":
    main()
