"""A tiny PolSESS of the true layout: folders, the table's 34 columns, names, 16-bit mono wavs of 4 s at 8 kHz."""

import csv
from pathlib import Path

import numpy as np
import soundfile

from tse_lib.rng import rng

RATE, LENGTH = 8000, 32000
COLUMNS = (
    "subset speech1OryginalPath speech1Start speech1End speech2OryginalPath speech2Start speech2End SSR "
    "sceneOryginalPath sceneStart sceneEnd sceneRandomDB sceneOffsetDB sceneVolumeGain eventOryginalPath eventStart "
    "eventEnd speaker1File speaker2File eventFile sceneFile reverbForSpeaker1 reverbForSpeaker2 reverbForEvent mixFile "
    "sceneClass eventClass preDelayForEvent preDelay1 preDelay2 highCut diffusion decay freqDamp"
).split()
FOLDERS = {
    "speaker1": "clean", "speaker2": "clean", "scene": "scene", "event": "event",
    "reverb1": "sp1_reverb", "reverb2": "sp2_reverb", "reverb_event": "ev_reverb",
}  # fmt: skip


def table_of(root: Path, subset: str) -> Path:
    return root / subset / f"corpus_{root.name}_{subset}_final.csv"


def layers_of(name: str, indoor: bool) -> dict[str, np.ndarray]:
    """What a mixture is the sum of, in 16-bit integers."""
    draw, time = rng(0, "fake", name), np.arange(LENGTH) / RATE
    waves = {}
    for layer in ("speaker1", "speaker2", "scene", "event"):
        colour = np.convolve(draw.standard_normal(LENGTH), draw.uniform(-1, 1, 5), "same")
        waves[layer] = colour * np.clip(np.sin(2 * np.pi * draw.uniform(2, 4) * time + draw.uniform(0, 6)), 0.01, 1)
    if indoor:
        for layer, dry in (("reverb1", "speaker1"), ("reverb2", "speaker2"), ("reverb_event", "event")):
            waves[layer] = 0.5 * np.roll(waves[dry], 400)
    return {layer: np.round(800 * wave).astype(np.int16) for layer, wave in waves.items()}


def write_row(root: Path, subset: str, name: str, indoor: bool, **fields: str) -> dict[str, str]:
    """The files of a mixture and its line of the table."""
    ids = {layer: f"{layer[-1]}{subset}{name:0>10}" for layer in ("speaker1", "speaker2", "scene", "event")}
    reverb = f"r{subset}{name:0>10}"
    files = {layer: f"{word}.wav" for layer, word in ids.items()}
    if indoor:
        files |= {"reverb1": f"sp1_{reverb}.wav", "reverb2": f"sp2_{reverb}.wav", "reverb_event": f"ev_{reverb}.wav"}
    waves = layers_of(f"{subset}/{name}", indoor)
    mix = "-".join([*ids.values(), *([reverb] if indoor else [])]) + ".wav"
    total = sum(wave.astype(np.int32) for wave in waves.values())
    for folder, file, wave in [("mix", mix, total), *((FOLDERS[layer], files[layer], waves[layer]) for layer in waves)]:
        path = root / subset / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave.astype(np.int16), RATE, subtype="PCM_16")
    one, other = rng(0, "talkers", subset, name).permutation(4)[:2]
    number = 100 * (1 + ["train", "val", "test"].index(subset))
    row = {
        "subset": subset,
        "speech1OryginalPath": rf"C:\datasety\mls_polish\train\audio\{number + one}\7\{number + one}_7_{name:0>6}.flac",
        "speech2OryginalPath": rf"C:\datasety\clarin_emu\{number + other:04d}_ses\{name}_bndl\{subset}{name}.wav",
        "sceneOryginalPath": rf"C:\datasety\tau\audio\{subset}-{name}.wav",
        "eventOryginalPath": rf"C:\datasety\esc50\{subset}-{name}.wav",
        "SSR": "3", "sceneClass": "office" if indoor else "park", "eventClass": "dog",
        "speaker1File": files["speaker1"], "speaker2File": files["speaker2"], "sceneFile": files["scene"],
        "eventFile": files["event"], "mixFile": mix,
        "reverbForSpeaker1": files.get("reverb1", ""), "reverbForSpeaker2": files.get("reverb2", ""),
        "reverbForEvent": files.get("reverb_event", ""),
    }  # fmt: skip
    return {**dict.fromkeys(COLUMNS, "0"), **row, **fields}


def write_table(root: Path, subset: str, rows: list[dict[str, str]]) -> None:
    with open(table_of(root, subset), "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def read_table(root: Path, subset: str) -> list[dict[str, str]]:
    with open(table_of(root, subset), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def make(root: Path, train: int = 4, val: int = 2, test: int = 2) -> Path:
    """A corpus of so many mixtures; of each subset every other one is indoors."""
    for subset, count in (("train", train), ("val", val), ("test", test)):
        write_table(root, subset, [write_row(root, subset, str(n), indoor=n % 2 == 0) for n in range(count)])
    return root
