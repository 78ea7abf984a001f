"""WSJ0-2mix in small: WSJ0 converted to wav, two mixtures in cv and two in tt, and SpEx+'s lists of enrolments."""

from pathlib import Path

import numpy as np
import soundfile

from tse_lib.rng import rng

SPEAKERS = {"si_tr_s": ("011", "01a", "022"), "si_dt_05": ("050", "051"), "si_et_05": ("440", "441")}
NUMBERS = range(1, 5)
MIXES = {
    "cv": ("011c0201_1.9857_01ac0201_-1.9857", "01ac0202_0.5_022c0201_-0.5"),
    "tt": ("050c0201_0.30_440c0201_-0.30", "441c0202_2.25_051c0202_-2.25"),
}
AUX = {
    "cv": ("011c0202", "01ac0203", "01ac0203", "022c0202"),
    "tt": ("050c0203", "440c0202", "441c0204", "051c0201"),
}


def wave(name: str, size: int) -> np.ndarray:
    return (0.1 * rng(0, name).standard_normal(size)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")


def make(top: Path, rate: int = 8000) -> tuple[Path, Path, Path]:
    """The folders of WSJ0, of the mixtures, and of the lists."""
    root, mixtures, lists = top / "wsj0", top / "2speakers" / "wav8k" / "min", top / "lists"
    for part, speakers in SPEAKERS.items():
        for speaker in speakers:
            for number in NUMBERS:
                name = f"{speaker}c020{number}"
                write(root / part / speaker / f"{name}.wav", wave(name, 17600), 16000)
    for subset, names in MIXES.items():
        for name in names:
            one, two = wave(name + "1", 8000), 0.5 * wave(name + "2", 8000)
            for kind, samples in {"mix": one + two, "s1": one, "s2": two}.items():
                write(mixtures / subset / kind / f"{name}.wav", samples, rate)
        (lists / subset).mkdir(parents=True)
        lines = [
            f"{names[place // 2]}_{enroll} /a/server/{enroll[:3]}/{enroll}.wav\n"
            for place, enroll in enumerate(AUX[subset])
        ]
        (lists / subset / "aux.scp").write_text("".join(lines))
    return root, mixtures, lists
