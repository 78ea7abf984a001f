"""A tiny drum corpus of the true layout: one-shots and MIDI performances with their tables; tracks with stems."""

import csv
from pathlib import Path

import numpy as np

from tse_lib import audio
from tse_lib.rng import rng

RATE = 8000
STEMS = ("kick", "snare", "toms", "hihat", "cymbals")
INSTRUMENTS = {
    "Kick1": "kick", "Snare1": "snare", "Tom1": "toms", "Tom2": "toms", "HihatOpen": "hihat", "HihatClosed": "hihat",
    "RideR": "cymbals", "RideRBell": "cymbals", "CrashL": "cymbals",
}  # fmt: skip
PITCH_HZ = {"kick": 60, "snare": 400, "toms": 150, "hihat": 3500, "cymbals": 2500}
NUM_HITS = 4
BAR = ((36, 0.0), (42, 0.0), (46, 0.25), (38, 0.5), (42, 0.5), (48, 0.6), (51, 0.7), (99, 0.8))  # notes; 99 is nobody's
PLAYS = {"train": 3, "validation": 1, "test": 2}


def hit(instrument: str, rank: int, channels: int = 2) -> np.ndarray:
    """A decaying tone and noise; louder by rank: (C, T)."""
    draw, time = rng(0, "hit", instrument, rank), np.arange(RATE // 4) / RATE
    tone = np.sin(2 * np.pi * PITCH_HZ[INSTRUMENTS[instrument]] * time) + 0.3 * draw.standard_normal(len(time))
    wave = 0.1 * rank * tone * np.exp(-time * 20)
    return np.stack([wave, 0.8 * wave][:channels]).clip(-1, 1).astype(np.float32)


def make_shots(root: Path, channels: int = 2) -> Path:
    rows = []
    for instrument, stem in INSTRUMENTS.items():
        for rank in range(1, NUM_HITS + 1):
            path = Path("shots") / stem / f"{instrument}_{rank}.wav"
            audio.write(root / path, hit(instrument, rank, channels), RATE)
            rows.append({"path": path, "stem": stem, "instrument": instrument, "velocity_rank": rank})
    write_csv(root / "oneshots.csv", rows)
    return root


def write_midi(path: Path, bars: int, notes=BAR) -> None:
    """Bars of one second at 120 beats a minute."""
    import mido

    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500000, time=0)])
    ticks = 0
    for bar in range(bars):
        for note, at in notes:
            now = round((bar + at) * 960)
            track.append(mido.Message("note_on", note=note, velocity=30 + 10 * (bar % 9), time=now - ticks, channel=9))
            ticks = now
            track.append(mido.Message("note_off", note=note, velocity=0, time=0, channel=9))
    path.parent.mkdir(parents=True, exist_ok=True)
    mido.MidiFile(type=0, tracks=[track], ticks_per_beat=480).save(str(path))


def make_midi(midi: Path, plays: dict[str, int] = PLAYS, flat: bool = False) -> Path:
    rows = []
    for split, count in plays.items():
        for number in range(count):
            name = f"{number}_funk_120_beat_4-4.mid"
            listed = Path("drummer1") / f"session_{split}" / name
            write_midi(midi / split / f"drummer1_{name}" if flat else midi / listed, bars=4 + number)
            rows.append({"drummer": "drummer1", "midi_filename": listed, "split": split, "beat_type": "beat"})
    write_csv(midi / "info.csv", rows)
    return midi


def make(root: Path, channels: int = 2, flat: bool = False) -> Path:
    make_shots(root, channels)
    make_midi(root / "gmd_midi", flat=flat)
    return root


def make_tracks(root: Path, splits=("train", "test"), count: int = 2, seconds: float = 2.0, rate: int = RATE) -> Path:
    """Tracks in the manner of StemGMD: two toms, two hi-hats, no crash; the second of a split has silent toms."""
    for split in splits:
        for number in range(count):
            for name, stem in (("kick", "kick"), ("snare", "snare"), ("high_tom", "toms"), ("low-mid_tom", "toms"),
                               ("closed_hh", "hihat"), ("open_hh", "hihat"), ("ride", "cymbals")):  # fmt: skip
                draw, time = rng(0, "track", split, number, name), np.arange(round(seconds * rate)) / rate
                wave = 0.1 * np.sin(2 * np.pi * PITCH_HZ[stem] * time) * (np.sin(2 * np.pi * 2 * time) > 0.5)
                wave = wave + 0.01 * draw.standard_normal(len(time))
                wave = wave * (0.0 if number and stem == "toms" else 1.0)
                audio.write(root / split / f"{split}{number}" / f"{name}.wav", np.stack([wave, wave * 0.5]), rate)
    return root


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
