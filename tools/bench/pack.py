"""Reading of a packed set: random crops against soundfile on wav and flac, and a large index against the plain tables.

    python tools/bench/pack.py [--quick] [--utterances 1000000]

Crops: all sides read the same crops of the same 16-bit noise as float32, from a warm page cache. Index: every round
opens the set in a fresh process, on each side; `grew` is by how much that process grew, `draw_us` what a random
utterance of the packed set takes. One JSON line a case comes out (docs/architecture.md has its keys); seconds are CPU
seconds of one crop, or of opening a set.
"""

import argparse
import contextlib
import json
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from tse_lib import audio, store
from tse_lib.data.pack import pack
from tse_lib.evaluation.results import machine
from tse_lib.manifest import Utterance, read_data_dir, read_tables, write_data_dir
from tse_lib.rng import rng
from tse_lib.store import Shard, Stored

CROPS = ((48000, 20, 6), (16000, 15, 4))  # sample rate, seconds of an utterance, of a crop
SPEAKERS = 10_000
MAX_SAMPLES, UTTERANCES_A_SHARD = 256_000, 512  # of the synthetic index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=1_000_000, help="of the index (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="within a minute: 3 rounds, an index of 50000")
    args = parser.parse_args()
    rounds, count = (3, 50_000) if args.quick else (args.rounds, args.utterances)
    for sample_rate, utt_s, crop_s in CROPS:
        with tempfile.TemporaryDirectory() as folder:
            for line in crops(Path(folder), sample_rate, utt_s, crop_s, 10 if args.quick else 60, rounds):
                print(json.dumps(line), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(index(Path(folder), count, rounds)), flush=True)


def result(case: str, baseline: str, seconds: dict[str, list[float]], **more: object) -> dict[str, object]:
    median = {side: statistics.median(values) for side, values in seconds.items()}
    return {
        "bench": "pack",
        "case": case,
        "baseline": baseline,
        "baseline_s": round(median[baseline], 7),
        "ours_s": round(median["packed"], 7),
        "ratio": round(median[baseline] / median["packed"], 2),
        "rounds": len(seconds[baseline]),
        **more,
        "threads": 1,
        "device": machine()["cpu"],
        "versions": {
            "numpy": np.__version__,
            "soundfile": soundfile.__version__,
            "libsndfile": soundfile.__libsndfile_version__,
            "python": platform.python_version(),
        },
    }


# --------------------------------------------------------------------------------------------------------------- crops


def crops(folder: Path, sample_rate: int, utt_s: int, crop_s: int, count: int, rounds: int) -> Iterator[dict]:
    """Lines of random crops of `count` utterances: packed against wav and against flac."""
    length, wanted = utt_s * sample_rate, crop_s * sample_rate
    names = [f"utt-{number:03d}" for number in range(count)]
    for name in names:
        noise = (3000 * rng(0, name).standard_normal(length)).clip(-32768, 32767).astype(np.int16)
        for ending in ("wav", "flac"):
            soundfile.write(folder / f"{name}.{ending}", noise, sample_rate, subtype="PCM_16")
    write_data_dir(folder, [Utterance(name, str(folder / f"{name}.wav"), sample_rate, length) for name in names])
    with contextlib.redirect_stdout(sys.stderr):
        pack(folder)
    packed = read_data_dir(folder)

    def ours(number: int, start: int) -> np.ndarray:
        utt = packed[number]
        return audio.read(utt.path, start=utt.start + start, num_samples=wanted)[0]

    def theirs(ending: str) -> Callable[[int, int], np.ndarray]:
        def read(number: int, start: int) -> np.ndarray:
            path = str(folder / f"{names[number]}.{ending}")
            return soundfile.read(path, start=start, frames=wanted, dtype="float32")[0]

        return read

    sides = {"packed": ours, "soundfile wav, float32": theirs("wav"), "soundfile flac, float32": theirs("flac")}
    draws = [rng(0, "crop", number) for number in range(rounds + 1)]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    diff = dict.fromkeys(sides, 0.0)
    for number, draw in enumerate(draws):
        places = [(int(draw.integers(count)), int(draw.integers(length - wanted))) for _ in range(2 * count)]
        for name, read in sides.items():
            begin = time.process_time()
            for place in places:
                read(*place)
            if number:  # the first round warms up
                seconds[name].append((time.process_time() - begin) / len(places))
            diff[name] = max(diff[name], float(np.abs(read(*places[0]) - ours(*places[0])).max()))
    for baseline in list(sides)[1:]:
        case = f"random {crop_s} s of {utt_s} s at {sample_rate} Hz"
        yield result(case, baseline, seconds, max_abs_diff=diff[baseline])


# --------------------------------------------------------------------------------------------------------------- index


MEMORY = {"private_mib": ("Private_Clean", "Private_Dirty"), "resident_mib": ("Rss",)}


def index(folder: Path, count: int, rounds: int) -> dict[str, object]:
    """The line of opening a set of `count` utterances: its index against its tables. Its shards hold no audio."""
    write_data_dir(folder, (synthetic(number, count) for number in range(count)))
    store.packed_folder(folder).mkdir()
    begins = np.arange(count) % UTTERANCES_A_SHARD * MAX_SAMPLES
    rows = (
        Stored(replace(synthetic(number, count), start=int(begins[number])), number // UTTERANCES_A_SHARD, -3.0, -25.0)
        for number in range(count)
    )
    num_bytes = 44 + 2 * UTTERANCES_A_SHARD * MAX_SAMPLES
    shards = [
        Shard(f"audio-{number:05d}", 16000, num_bytes, "", "") for number in range(-(-count // UTTERANCES_A_SHARD))
    ]
    for shard in shards:
        with open(store.packed_folder(folder) / f"{shard.name}.wav", "wb") as file:
            file.truncate(num_bytes)  # sparse
    store.write_index(folder, shards, rows, store.hash_of_tables(folder), store.stamps_of(folder))

    found: dict[str, list[dict[str, float]]] = {"tables": [], "packed": []}
    for _ in range(rounds):
        for side, values in found.items():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                values.append(pool.submit(open_set, side, str(folder)).result())
    on_disk = {
        "tables": sum((folder / name).stat().st_size for name in store.TABLES if (folder / name).exists()),
        "packed": store.index_path(folder).stat().st_size,
    }
    seconds = {side: [value["seconds"] for value in values] for side, values in found.items()}
    memory = {
        side: {key: round(statistics.median(value[key] for value in values), 1) for key in MEMORY}
        for side, values in found.items()
    }
    more = {
        "max_abs_diff": abs(found["tables"][0]["samples"] - found["packed"][0]["samples"]),
        "grew": memory,
        "draw_us": round(statistics.median(value["draw_us"] for value in found["packed"]), 1),
        "on_disk_mib": {side: round(size / 2**20, 1) for side, size in on_disk.items()},
        "bytes_per_utterance": {side: round(size / count, 1) for side, size in on_disk.items()},
    }
    return result(f"opening {count} utterances", "tables", seconds, **more)


def synthetic(number: int, count: int) -> Utterance:
    """An utterance of 2 to 16 s of one of the speakers; numbers are in the order of the ids."""
    speaker = f"spk{number * SPEAKERS // count:05d}"
    utt_id = f"{speaker}-chapter-{number:08d}"
    num_samples = 32000 + number * 7919 % (MAX_SAMPLES - 32000)
    blocks = format(number * 0x9E3779B97F4A7C15 % 2**64, "064b") * 3
    activity = blocks[: -(-num_samples // 1600)]
    return Utterance(utt_id, f"corpus/{speaker}/chapter/{utt_id}.wav", 16000, num_samples, 0, speaker, activity)


def open_set(side: str, folder: str) -> dict[str, float]:
    """Open the set in this fresh process: CPU seconds, what the process grew by, microseconds of a random utterance."""
    before = memory_mib()
    begin = time.process_time()
    utterances = read_data_dir(folder) if side == "packed" else read_tables(folder)
    seconds = time.process_time() - begin
    grown = {name: value - before[name] for name, value in memory_mib().items()}
    places = rng(0, "places").integers(len(utterances), size=1000).tolist()
    begin = time.process_time()
    samples = sum(utterances[place].num_samples for place in places)
    return {"seconds": seconds, **grown, "samples": samples, "draw_us": (time.process_time() - begin) * 1e3}


def memory_mib() -> dict[str, float]:
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines())
    sizes = {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if words[-1] == "kB"}
    return {name: sum(sizes[part] for part in parts) for name, parts in MEMORY.items()}


if __name__ == "__main__":
    main()
