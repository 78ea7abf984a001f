"""Making training mixtures: the predecessor's chain (HiFi-TSE's, baseline) against ours, on one core, and our loader.

    python tools/bench/mixing.py [--draws 200] [--quick]

Both sides make the same mixtures, drawn once as text, of the same samples (synthetic voices, rooms and noise in a
temporary folder): three talkers, each in a room of 2 s, an enrolment, noise. They take turns, mixture by mixture, and
the seconds are of this process's CPU. The baseline is written here after what that project states it does: whole
utterances from HDF5 (float32), speed by an FFT resampler, peak to 0.9, a crop of the segment and 2 s, the full
convolution in double precision, crop, gains. Utterances are 8 s, so it handles no more of them than the segment and
those 2 s. Ours reads crops of 16-bit files and is `DrawnMixtures`. `null_db` is how far the target's images differ at
worst: the predecessor's resampler takes the utterance for periodic, and its lengths are rounded. Needs h5py
(pip install -e .[bench]). The JSON lines are described in docs/architecture.md.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # per core, on both sides

import numpy as np
import scipy.signal
import torch
from torch.utils.data import DataLoader

from tse_lib import audio
from tse_lib.config import Config, build
from tse_lib.data.dataset import (
    DrawnMixtures,
    assemble,
    at_rate,
    collate,
    load_rir,
    read_source,
    responses_of,
    set_up_worker,
    sources_of,
)
from tse_lib.evaluation.results import machine
from tse_lib.manifest import Mixture, Utterance, write_data_dir
from tse_lib.rng import rng
from tse_lib.simulation.render import render
from tse_lib.simulation.sample import read_corpus

UTTERANCE_S, ROOM_S = 8.0, 2.0
CASES = {  # sample rate, segment in s, RT60 in s
    "48 kHz, 6 s, RT60 0.5 s": (48000, 6.0, 0.5),
    "48 kHz, 6 s, RT60 1.5 s": (48000, 6.0, 1.5),
    "16 kHz, 4 s, RT60 0.5 s": (16000, 4.0, 0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="mixtures of each case (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="within a minute: 30 draws")
    args = parser.parse_args()
    set_up_worker(0)  # both sides keep the memory that they freed
    draws = 30 if args.quick else args.draws
    with tempfile.TemporaryDirectory() as folder:
        for number, (case, (sample_rate, segment_s, rt60_s)) in enumerate(CASES.items()):
            data = make_corpus(Path(folder) / str(number), sample_rate, rt60_s)
            store = make_store(data)
            drawn = DrawnMixtures(
                read_corpus(data / "train", data / "noise", data / "rir"), conf_of(sample_rate, segment_s, draws)
            )
            print(json.dumps(against_baseline(case, drawn, store, draws)), flush=True)
            print(json.dumps(loader_scaling(case, drawn, draws)), flush=True)


def conf_of(sample_rate: int, segment_s: float, draws: int) -> Config:
    values = {
        "seed": 0,
        "sample_rate": sample_rate,
        "simulation": {
            "segment_s": segment_s, "num_talkers": 3, "sir_db": [-5, 5], "snr_db": [-5, 15], "noise_probability": 1,
            "level_dbfs": [-35, -20], "speed": [0.9, 1.1], "speed_enroll": False, "rir_probability": 1,
            "enroll_s": segment_s,
        },
        "model": {"name": "hifi_tse"},
        "loss": [{"name": "neg_si_sdr", "weight": 1}],
        "train": {"max_steps": draws, "batch_size": 1, "lr": 1e-3},
    }  # fmt: skip
    return build(Config, values, "bench")


def make_corpus(data: Path, sample_rate: int, rt60_s: float) -> Path:
    """10 talkers of 4 utterances, 8 noises of 20 s, 40 rooms, as 16-bit wav."""
    counts = {"train": 40, "noise": 8, "rir": 40}
    seconds = {"train": UTTERANCE_S, "noise": 20.0, "rir": ROOM_S}
    for name, count in counts.items():
        size = round(seconds[name] * sample_rate)
        time_s = np.arange(size) / sample_rate
        utterances = []
        for number in range(count):
            generator = rng(0, name, number)
            wave = scipy.signal.lfilter([1.0], [1.0, -0.9], generator.standard_normal(size))  # as dark as speech
            if name == "train":
                wave *= np.clip(np.sin(2 * np.pi * 2 * time_s + generator.uniform(0, 6)), 0.01, 1)
            if name == "rir":
                wave *= 10 ** (-3 * time_s / rt60_s)
                wave[sample_rate // 100] = 3 * np.abs(wave).max()
            wave = np.round(wave / np.abs(wave).max() * 0.9 * 32767).astype(np.int16)
            path = data / name / f"{number:03d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            audio.soundfile.write(path, wave, sample_rate, subtype="PCM_16")
            speaker = f"talker{number // 4}" if name == "train" else ""
            utterances.append(Utterance(f"{name}{number:03d}", str(path), sample_rate, size, 0, speaker))
        write_data_dir(data / name, utterances)
    return data


def make_store(data: Path) -> Any:
    """The same audio in HDF5, as the predecessor keeps it."""
    import h5py  # pip install -e .[bench]

    store = h5py.File(data.with_suffix(".h5"), "w")
    for path in data.glob("*/*.wav"):
        store[str(path)] = audio.read(path)[0]
    return store


# -------------------------------------------------------------------------------------------------------- the baseline


def baseline(mixture: Mixture, store: Any, read_s: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixture, target and enrolment as the predecessor makes them: (T,) each, float64."""
    rate, total = mixture.sample_rate, mixture.num_samples

    def read(path: str) -> np.ndarray:
        begin = time.process_time()
        wave = store[path][:]
        read_s[0] += time.process_time() - begin
        return wave

    images = []
    for source in mixture.talkers:
        wave = read(source.path)
        if abs(source.speed - 1) > 0.01:
            wave = scipy.signal.resample(wave, int(len(wave) / source.speed))
        wave = wave / np.abs(wave).max() * 0.9
        assert source.rir is not None
        begin = round(source.start / source.speed)  # what was said before the crop is heard in the room
        wave = wave[begin:][: total + round(ROOM_S * rate)]
        response = read(source.rir.path)
        response = response[max(0, np.abs(response).argmax() - round(0.001 * rate)) :]
        response = response / np.sqrt(np.square(response).sum())
        image = scipy.signal.fftconvolve(wave, response)[max(0, -source.offset) :][:total]
        images.append(np.pad(image, (max(0, source.offset), total))[:total])
    for place, source in enumerate(mixture.talkers[1:], 1):
        images[place] *= np.sqrt(np.mean(images[0] ** 2) / np.mean(images[place] ** 2)) * 10 ** (-source.level_db / 20)
    speech = np.sum(images, axis=0)
    assert mixture.noise is not None
    noise = read(mixture.noise.path)[mixture.noise.start :][:total]
    noise = noise * np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-mixture.noise.level_db / 20)
    mixed = speech + noise
    peak = np.abs(mixed).max()
    if peak > 0.95:
        mixed, images[0] = mixed * 0.9 / peak, images[0] * 0.9 / peak
    enroll = read(mixture.enrolls[0].path)
    enroll = (enroll / np.abs(enroll).max() * 0.9)[mixture.enrolls[0].start :][: mixture.enrolls[0].num_samples]
    return mixed, images[0], enroll


def against_baseline(case: str, drawn: DrawnMixtures, store: Any, draws: int) -> dict[str, Any]:
    seconds = {"baseline": 0.0, "ours": 0.0}
    parts = dict.fromkeys(("draw", "read", "resample", "render"), 0.0)
    reading, worst = [0.0], -200.0
    for index in range(-2, draws):  # the first two warm up
        mixture = drawn.mixture(index % draws)
        begin = time.process_time()
        _, theirs, _ = baseline(mixture, store, reading)
        middle = time.process_time()
        item = drawn[index % draws]
        end = time.process_time()
        if index >= 0:
            seconds["baseline"] += middle - begin
            seconds["ours"] += end - middle
            for name, value in timed_parts(drawn, index).items():
                parts[name] += value
            if abs(mixture.talkers[0].speed - 1) > 0.01:  # else the baseline leaves the speed as it is
                worst = max(worst, null_db(item["target"][0].double().numpy(), theirs))
    return {
        "bench": "mixing",
        "case": f"{case}, 3 talkers, responses of 2 s, enrolment, noise",
        "baseline": "HDF5, scipy.signal.resample, fftconvolve",
        "baseline_s": round(seconds["baseline"] / draws, 5),
        "ours_s": round(seconds["ours"] / draws, 5),
        "ratio": round(seconds["baseline"] / seconds["ours"], 2),
        "rounds": draws,
        "null_db": round(worst, 1),
        "ours_ms": {name: round(1000 * value / draws, 2) for name, value in parts.items()},
        "threads": 1,
        "device": machine()["cpu"],
        "versions": versions(),
    }


def timed_parts(drawn: DrawnMixtures, index: int) -> dict[str, float]:
    """The CPU seconds of our parts, in a second pass."""
    times = [time.process_time()]
    mixture = drawn.mixture(index)
    times.append(time.process_time())
    raw = [read_source(source) for source in sources_of(mixture)]
    rirs = [load_rir(rir, mixture.sample_rate) for rir in responses_of(mixture)]
    times.append(time.process_time())
    waves = [at_rate(*read, source, mixture.sample_rate) for read, source in zip(raw, sources_of(mixture), strict=True)]
    times.append(time.process_time())
    render(mixture, assemble(mixture, waves, rirs))
    times.append(time.process_time())
    names = ("draw", "read", "resample", "render")
    return {name: after - before for name, before, after in zip(names, times, times[1:], strict=False)}


def null_db(ours: np.ndarray, theirs: np.ndarray) -> float:
    """What is left of ours after theirs is taken out of it, over ours."""
    rest = ours - theirs * (ours @ theirs) / (theirs @ theirs)
    return float(10 * np.log10((rest @ rest) / (ours @ ours)))


# ---------------------------------------------------------------------------------------------------------- the loader


def loader_scaling(case: str, drawn: DrawnMixtures, draws: int) -> dict[str, Any]:
    """Wall seconds a mixture with one worker (baseline) and with two."""
    wall = {workers: [] for workers in (1, 2)}  # type: dict[int, list[float]]
    for _ in range(2):
        for workers, values in wall.items():
            loader = DataLoader(
                drawn, batch_sampler=[[index] for index in range(draws)], num_workers=workers, collate_fn=collate,
                prefetch_factor=4, worker_init_fn=set_up_worker,
            )  # fmt: skip
            batches = iter(loader)
            next(batches)  # the workers have started
            begin = time.perf_counter()
            count = sum(1 for _ in batches)
            values.append((time.perf_counter() - begin) / count)
    one, two = (min(values) for values in wall.values())
    return {
        "bench": "mixing_loader",
        "case": case,
        "baseline": "1 worker",
        "baseline_s": round(one, 5),
        "ours_s": round(two, 5),
        "ratio": round(one / two, 2),
        "rounds": draws,
        "max_abs_diff": None,
        "threads": 2,
        "device": machine()["cpu"],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "scipy": scipy.__version__, "python": platform.python_version()}


if __name__ == "__main__":
    main()
