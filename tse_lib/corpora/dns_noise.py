"""The noise of the DNS challenges 4 and 5, 48 kHz: clips of AudioSet and Freesound in one flat folder.

    <root>/4hlyuUXRd4o.wav                              AudioSet: the id of the video
    <root>/door_Freesound_validated_235661_0.wav        Freesound: kind, id of the recording, number of the clip

github.com/microsoft/DNS-Challenge, `datasets_fullband/noise_fullband`. It has no split: one is drawn, and the clips of
one video or recording never part. A file with any other name is its own.
"""

import argparse
import re
from pathlib import Path

from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import SHARES, Recording, add_set_options, audio_files, make_sets, name_below

SAMPLE_RATE = 48000
FREESOUND = re.compile(r".*Freesound_validated_(.+)_\d+")
VIDEO = re.compile(r"([\w-]{11})(_\d+)?", re.ASCII)

HELP = "noise of the DNS challenges 4 and 5 (48 kHz)"
LICENCE = "that of AudioSet and Freesound, per clip; see the README of the challenge"
HOST = "https://dnschallengepublic.blob.core.windows.net/dns5archive/V5_training_dataset/noise_fullband"
ARCHIVES = {
    source: tuple(
        Archive(f"{HOST}/datasets_fullband.noise_fullband.{source}_{number:03d}.tar.bz2") for number in range(count)
    )
    for source, count in (("audioset", 7), ("freesound", 2))
}
DEFAULT_PARTS = tuple(ARCHIVES)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare dns_noise --root corpora/dns/datasets_fullband/noise_fullband --out data"
    parser.add_argument("--root", type=Path, required=True, help="the folder noise_fullband")
    add_set_options(parser, "noise_", split=True)


def prepare(
    root: Path,
    out: Path,
    prefix: str = "noise_",
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` of all clips below `root`.

    Raises:
        ValueError, FileNotFoundError: naming files and the way out.
    """
    recordings = [Recording(path, name_below(path, root), group=source_of(path.stem)) for path in audio_files(root)]
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        "noise",
        sample_rate=SAMPLE_RATE,
        shares=shares,
        seed=seed,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
    )


def source_of(name: str) -> str:
    """The recording or video that a clip was cut from, "" where its name does not tell."""
    if match := FREESOUND.fullmatch(name):
        return f"freesound-{match[1]}"
    match = VIDEO.fullmatch(name)
    return f"youtube-{match[1]}" if match else ""
