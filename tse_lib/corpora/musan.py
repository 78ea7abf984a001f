"""MUSAN: 930 noises (6 h), 660 pieces of music (42 h), 426 recordings of speech (60 h), 16 kHz.

    <root>/noise/{free-sound,sound-bible}/noise-free-sound-0000.wav
    <root>/music/{fma,fma-western-art,hd-classical,jamendo,rfm}/music-fma-0000.wav
    <root>/speech/{librivox,us-gov}/speech-librivox-0000.wav

D. Snyder, G. Chen, D. Povey, "MUSAN: a music, speech, and noise corpus", 2015, openslr.org/17. It has no split: one is
drawn by files. Each file is a recording of its own.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import SHARES, Recording, add_set_options, audio_files, make_sets, name_below, unpacked

SAMPLE_RATE = 16000
PARTS = ("noise", "music", "speech")

HELP = "MUSAN: noise, music, speech (16 kHz)"
LICENCE = "CC BY 4.0 and public domain, per file in LICENSE and ANNOTATIONS"
ARCHIVES = {
    "musan": Archive(
        "https://www.openslr.org/resources/17/musan.tar.gz",
        md5="0c472d4fc0c5141eca47ad1ffeb2a7df",
        num_bytes=11086114085,
    )
}
DEFAULT_PARTS = ("musan",)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare musan --root corpora/musan --out data"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder of noise/, music/ and speech/, or the one above it")
    add(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS[:1],
        help="speech would be talkers that nobody counts, and some of the music is sung (default: noise)",
    )
    add_set_options(parser, "noise_", split=True)


def prepare(
    root: Path,
    out: Path,
    prefix: str = "noise_",
    parts: Sequence[str] = PARTS[:1],
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` of the files of `parts`.

    Raises:
        ValueError, FileNotFoundError: naming files and the way out.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"--root {root}: no such folder")
    root = unpacked(root, "musan")
    recordings, faults = [], []
    for part in parts:
        found = audio_files(root / part, (".wav",)) if (root / part).is_dir() else []
        recordings += [Recording(path, name_below(path, root)) for path in found]
        if not found:
            faults.append(f"{root / part}: no .wav files; --root is the folder that holds {part}/")
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        "noise",
        faults,
        SAMPLE_RATE,
        shares=shares,
        seed=seed,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
    )
