"""MDX23C at full size: what a song costs with each switch of ours, and in the loops of other programs.

    tools/bench/separation.py [--frames 1024] [--rounds 3] [--only NAME …] [--quick]
    tools/bench/separation.py --small exp/small/best.pt --set data/test [--only NAME …]

The network has its 109,376,576 parameters, drawn at random: speed does not depend on what they are. Each engine (a
loop, a precision, a backend) runs in a process of its own, so that allocators do not meet, with one thread, and they
take turns. In a round a process sends noise through its loop until the network has had two chunks; from the end of the
first to the end of the second, the loop's own work included, are CPU seconds (user and system) a chunk. How many chunks
three minutes take is counted by running each loop with a network that does nothing. So `baseline_s` and `ours_s` are
CPU seconds of one core for a second of a three-minute song, and `ratio` is of these; `ratio_per_chunk` leaves the
numbers of chunks aside. On a GPU they are its own seconds, and `real_time_factor` is what one says.

The baseline is the predecessor's loop: 8 chunks over a sample, one at a time, float32, glibc's allocator as it comes,
nothing computed in place, as in the published network.
`uncovered` are the samples of the three minutes that a loop leaves without a value.

With `--small` a trained network separates the mixtures of a set in the same ways instead: `sdr_db` is the mean over the
stems that are there of SDR against the truth, `sdr_loss_db` what is lost against the baseline, `null_db` the mean ratio
of the difference from the baseline to the baseline where both have a value. Four more lines tell how much of a chunk's
error depends on where it begins, which is what the mean of several chunks takes away.

`--quick`: 256 frames (130,560 samples), one round of three engines.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from rival_loops import LOOPS, compute_as_published
from separation_memory import peak_mib_of, write_full
from torch import Tensor, nn

import tse_lib
from tse_lib.allocator import keep_freed_memory
from tse_lib.config import Inference
from tse_lib.data.dataset import RenderedMixtures
from tse_lib.evaluation.results import machine
from tse_lib.export.network import export_network, quantise
from tse_lib.inference.chunked import infer_blocks
from tse_lib.inference.network import FILES
from tse_lib.inference.packed import write_packed
from tse_lib.inference.separator import Separator
from tse_lib.metrics.sdr import Undefined, track_sdr

RATE, SONG_S = 44100, 180.0
BASELINE = "predecessor"


class Engine(NamedTuple):
    """What runs a chunk: a loop of LOOPS or ours ("ours"), and how the network is run."""

    loop: str = "ours"
    precision: str = "float32"
    backend: str = "torch"
    compiled: bool = False  # by torch, on a GPU
    keep_freed: bool = True  # whether glibc keeps freed memory
    sum_to_mixture: bool = False


ENGINES = {
    BASELINE: Engine("predecessor", keep_freed=False),
    "audio_separator": Engine("audio_separator", keep_freed=False),
    "msst": Engine("msst", keep_freed=False),
    "glibc's own allocator": Engine(keep_freed=False),
    "float32": Engine(),
    "bfloat16": Engine(precision="bfloat16"),
    "bfloat16, sum_to_mixture": Engine(precision="bfloat16", sum_to_mixture=True),
    "float16": Engine(precision="float16"),
    "float16 compiled": Engine(precision="float16", compiled=True),
    "onnxruntime": Engine(backend="onnxruntime"),
    "onnxruntime int8": Engine(backend="onnxruntime", precision="int8"),
    "openvino": Engine(backend="openvino"),
    "openvino bfloat16": Engine(backend="openvino", precision="bfloat16"),
}
OVERLAPS = {  # how chunks overlap -> of Inference; "8" is --quality best, "2" balanced, "tiling" fast
    "8": {"overlap_count": 8},
    "4": {"overlap_count": 4},
    "2": {"overlap_count": 2},
    "tiling": {"overlap_count": 1, "crossfade": 0.125},
}
ON_GPU_ONLY = ("float16", "float16 compiled")
QUICK = (BASELINE, "float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1024, help="of a chunk, 512 samples each (default: 1024)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=ENGINES, metavar="NAME", help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=1, help="chunks at a time in our loop (default: 1)")
    parser.add_argument("--quick", action="store_true", help="256 frames, one round, three engines")
    parser.add_argument("--small", help="a trained network: what the switches do to its separations")
    parser.add_argument("--set", type=Path, help="rendered mixtures of stems for --small, as egs/drums/sep1/data/test")
    parser.add_argument("--mixtures", type=int, default=12, help="of the set, the first so many (default: 12)")
    parser.add_argument("--engine", help=argparse.SUPPRESS)  # this process is one side
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.engine:
        print(json.dumps(chunk_seconds(args)))
        return
    wanted = {BASELINE, *(args.only or (QUICK if args.quick else ENGINES))}
    names = [name for name in ENGINES if name in wanted and runs_on(args.device, name)]
    if args.small:
        own, rendered = tse_lib.load(args.small), RenderedMixtures(str(args.set), RATE)
        assert isinstance(own, Separator)
        items = [rendered[number] for number in range(min(args.mixtures, len(rendered)))]
        chunk = round(own.conf.inference.chunk_s * RATE)
        facts = {"mixtures": len(items), "chunk_s": round(chunk / RATE, 3), "device": machine()["cpu"]}
        for line in [*qualities(own, args.set, items, names, chunk), *moved(own, items, chunk)]:
            told = {"bench": "separation_quality", **line, **facts, "versions": versions()}
            print(json.dumps(told), flush=True)
        return
    frames, rounds = (256, 1) if args.quick else (args.frames, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        model = write_full(Path(folder) / "full")
        noise = Path(folder) / "noise.wav"
        soundfile.write(noise, 0.1 * np.random.default_rng(0).standard_normal((20 * RATE, 2)), RATE)
        export(model, names, [str(noise)])
        for line in costs(model, names, frames, rounds, args.device, args.batch_size):
            print(json.dumps(line), flush=True)


def export(folder: Path, names: list[str], files: list[str]) -> None:
    """The networks of a packed model that engines want, beside its weights; `files` calibrate int8."""
    wanted = {ENGINES[name].precision for name in names if ENGINES[name].backend != "torch"}
    if wanted:
        separator = tse_lib.load(folder)
        path, _ = export_network(separator, folder)
        if "int8" in wanted:
            quantise(separator, path, files)


def ready(engine: Engine, model: str | Path, device: str = "cpu") -> Separator:
    separator = tse_lib.load(model, device)
    assert isinstance(separator, Separator)
    if engine.backend == "torch":
        separator.convert(engine.precision)
        if engine.compiled:
            separator.compile()
    else:
        file = FILES["int8" if engine.precision == "int8" else "float32"]
        separator.run_exported(Path(model) / file, engine.backend, engine.precision)
    return separator


# -------------------------------------------------------------------------------------------------------------- speed


def runs_on(device: str, name: str) -> bool:
    return name not in ON_GPU_ONLY if device == "cpu" else ENGINES[name].backend == "torch"


def costs(
    model: Path, names: list[str], frames: int, rounds: int, device: str, batch_size: int
) -> list[dict[str, Any]]:
    """A line for each engine and each way of overlapping; other programs' loops overlap 8 times."""
    chunk = 512 * (frames - 1)
    cases = cases_of(names)
    counts = {case: count_chunks(ENGINES[case[0]], chunk, case[1]) for case in cases}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, int] = {}
    for _ in range(rounds):
        for name in names:
            told = side(name, model, frames, device, batch_size)
            seconds[name].append(told["chunk_s"])
            peaks[name] = max(peaks.get(name, 0), told["peak_mib"])
    of_baseline, uncovered = counts[BASELINE, "8"]
    lines = []
    for name, overlap in cases:
        number, left = counts[name, overlap]
        per_chunk = statistics.median(b / o for b, o in zip(seconds[BASELINE], seconds[name], strict=True))
        line = {
            "bench": "separation",
            "case": f"{name}, overlap {overlap}, chunks of {chunk} samples",
            "baseline": f"{BASELINE}, overlap 8",
            "baseline_s": round(statistics.median(seconds[BASELINE]) * of_baseline / SONG_S, 3),
            "ours_s": round(statistics.median(seconds[name]) * number / SONG_S, 3),
            "ratio": round(per_chunk * of_baseline / number, 2),
            "ratio_per_chunk": round(per_chunk, 2),
            "chunks": [of_baseline, number],
            "uncovered": [uncovered, left],
            "peak_mib": peaks[name],
            "batch_size": batch_size if ENGINES[name].loop == "ours" else 1,
            "rounds": rounds,
            "threads": 1,
            "device": torch.cuda.get_device_name() if device != "cpu" else machine()["cpu"],
            "versions": versions(),
        }
        if device != "cpu":
            line["real_time_factor"] = round(1 / line["ours_s"], 1)
        lines.append(line)
    return lines


def cases_of(names: list[str]) -> list[tuple[str, str]]:
    """Engines and how chunks overlap; other programs' loops overlap 8 times."""
    return [(name, overlap) for name in names for overlap in (OVERLAPS if ENGINES[name].loop == "ours" else ("8",))]


def side(name: str, model: Path, frames: int, device: str, batch_size: int) -> dict[str, Any]:
    """What a process of its own tells of an engine."""
    words = ["--engine", name, "--model", str(model), "--frames", str(frames), "--device", device]
    words += ["--batch_size", str(batch_size)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    environment |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, *words], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


class Enough(Exception):
    """The network has had its chunks."""


class Timed(nn.Module):
    """A network that notes when its first chunks were done, and ends the loop after the second."""

    def __init__(self, network: nn.Module, device: str):
        super().__init__()
        self.network, self.device, self.ends = network, device, list[float]()

    def forward(self, chunks: Tensor) -> Tensor:
        output = self.network(chunks)
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.ends.append(time.process_time() if self.device == "cpu" else time.perf_counter())
        if len(self.ends) == 2:
            raise Enough
        return output


def chunk_seconds(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds a chunk from the end of the first batch to the end of the second, and the peak of memory in MiB."""
    engine, chunk, on_gpu = ENGINES[args.engine], 512 * (args.frames - 1), args.device != "cpu"
    batch_size = args.batch_size if engine.loop == "ours" else 1
    if engine.keep_freed:
        keep_freed_memory()
    if engine.loop != "ours":
        compute_as_published()
    network = Timed(ready(engine, args.model, args.device).model, args.device)
    noise = 0.1 * torch.randn(2, chunk * (2 + batch_size // 4), generator=torch.manual_seed(0)).to(args.device)
    with suppress(Enough):
        run_loop(engine, network, noise, chunk, "8", batch_size)
    peak_mib = torch.cuda.max_memory_allocated() // 2**20 if on_gpu else peak_mib_of("self")
    return {"chunk_s": (network.ends[1] - network.ends[0]) / batch_size, "peak_mib": peak_mib}


@torch.no_grad()
def run_loop(engine: Engine, network: nn.Module, song: Tensor, chunk: int, overlap: str, batch_size: int = 1) -> Tensor:
    """(C, L) -> (S, C, L)."""
    if engine.loop != "ours":
        return LOOPS[engine.loop](network, song, chunk, int(overlap))
    values = {"chunk_s": chunk / RATE, "batch_size": batch_size, "stitch": False, "level": "model"}
    settings = Inference(**values, window="trapezoid", sum_to_mixture=engine.sum_to_mixture, **OVERLAPS[overlap])
    return torch.cat(list(infer_blocks(network, song.split(1 << 18, -1), None, settings, RATE)), -1)


class Counting(nn.Module):
    """Does nothing; counts its chunks."""

    num_chunks = 0

    def forward(self, chunks: Tensor) -> Tensor:
        self.num_chunks += len(chunks)
        return chunks[:, None]


def count_chunks(engine: Engine, chunk: int, overlap: str) -> tuple[int, int]:
    """Of three minutes: chunks, and samples that get no value."""
    network = Counting()
    output = run_loop(engine, network, torch.ones(1, round(SONG_S * RATE)), chunk, overlap)
    return network.num_chunks, int(output.isnan().sum())


# ------------------------------------------------------------------------------------------------------------ quality


def qualities(
    own: Separator, folder: Path, items: list[dict[str, Any]], names: list[str], chunk: int
) -> list[dict[str, Any]]:
    """A line for each engine and overlap: what a trained network's separations of a set are worth."""
    cases, found = cases_of(names), dict[str, list[tuple[list[float], float]]]()
    with tempfile.TemporaryDirectory() as temporary:
        packed = Path(temporary) / "model"
        write_packed(packed, own.model.state_dict(), own.conf, "")
        calibrate = [str(folder / "mixtures" / "mixture" / f"{item['mix_id']}.flac") for item in items]
        export(packed, names, calibrate[:8])
        networks = {name: ready(ENGINES[name], packed).model for name in names}
    for item in items:
        reference = torch.empty(0)
        for name, overlap in cases:
            output = run_loop(ENGINES[name], networks[name], item["mixture"], chunk, overlap)
            if name == BASELINE:
                reference = output
            has = ~reference.isnan() & ~output.isnan()
            null = 10 * torch.log10(reference[has].square().sum() / (output - reference)[has].square().sum())
            found.setdefault(f"{name}, overlap {overlap}", []).append(
                (sdrs(item["target"], torch.nan_to_num(output)), float(null.clamp(max=200)))
            )
    best = mean_of(found[f"{BASELINE}, overlap 8"])
    return [
        {
            "case": case,
            "baseline": f"{BASELINE}, overlap 8",
            "sdr_db": round(mean_of(values), 3),
            "sdr_loss_db": round(best - mean_of(values), 3),
            "null_db": round(statistics.fmean(null for _, null in values), 1),
        }
        for case, values in found.items()
    ]


@torch.no_grad()
def moved(own: Separator, items: list[dict[str, Any]], chunk: int) -> list[dict[str, Any]]:
    """What of a chunk's error is another one when the chunk begins elsewhere: a line for each distance.

    Half the energy of the difference of both outputs over that of the first one's error, the mean over stems: 0 if both
    err alike, 1 if their errors have nothing in common. Counted is the middle half of the chunk.
    """
    frame, begin, shares = own.model.hop_length, RATE, dict[str, list[Tensor]]()
    shifts = {"16 frames": 16 * frame, "a frame": frame, "half a frame": frame // 2, "a quarter of a frame": frame // 4}
    middle = slice(chunk // 4, chunk // 4 + chunk // 2)
    for item in items:
        first = own.model(item["mixture"][None, :, begin : begin + chunk])[0, ..., middle]
        target = item["target"][..., begin : begin + chunk][..., middle]
        error = (first - target).square().sum((1, 2))
        for name, shift in shifts.items():
            mixture = item["mixture"][None, :, begin - shift : begin - shift + chunk]
            later = own.model(mixture)[0, ..., middle.start + shift : middle.stop + shift]
            shares.setdefault(name, []).append((first - later).square().sum((1, 2)) / 2 / error)
    return [
        {
            "case": f"a chunk that begins {name} earlier",
            "share_of_error_that_differs": round(float(torch.stack(values).mean()), 4),
        }
        for name, values in shares.items()
    ]


def sdrs(stems: Tensor, output: Tensor) -> list[float]:
    """SDR of each stem that is there: (S, C, L), (S, C, L)."""
    values = []
    for stem, wave in zip(stems, output, strict=True):
        try:
            values.append(track_sdr(stem.numpy(), wave.numpy()))
        except Undefined:
            continue
    return values


def mean_of(values: list[tuple[list[float], float]]) -> float:
    return statistics.fmean(sdr for several, _ in values for sdr in several)


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "onnxruntime", "openvino") if installed(name)}


def installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
