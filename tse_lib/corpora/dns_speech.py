"""The read speech of the DNS Challenges 4 and 5, 48 kHz: cuts of LibriVox audiobooks, chosen by their rated quality.

    <root>/datasets_fullband/clean_fullband/read_speech/book_00000_chp_0009_reader_06709_0_seg_1.wav

H. Dubey et al., "ICASSP 2022 Deep Noise Suppression Challenge"; github.com/microsoft/DNS-Challenge. The speaker is the
reader in the name; genders are not told. There is no official split: it is drawn by readers. LibriSpeech was made of
LibriVox, too: a model trained on one may have heard talkers of the other's test set.
"""

import argparse
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import SHARES, Recording, add_set_options, audio_files, make_sets
from tse_lib.corpora.speakers import find_top, hifi_tse_split

HELP = "DNS Challenge 4/5: read speech (48 kHz)"
LICENCE = "LibriVox recordings, public domain; the challenge's terms are at github.com/microsoft/DNS-Challenge"
SAMPLE_RATE = 48000
FOLDERS = ("datasets_fullband/clean_fullband", "clean_fullband")
URL = "https://dns4public.blob.core.windows.net/dns4archive/datasets_fullband/clean_fullband"
_RATINGS = (  # the archives are sorted by rated quality, and have its limits in their names
    "0.00 3.75 3.88 3.96 4.02 4.06 4.10 4.13 4.16 4.19 4.21 4.24 4.26 4.29 4.31 4.33 4.35 4.38 4.40 4.42 4.45 4.48 "
    "4.52 4.57 4.67"
).split() + ["NA"] * 16
ARCHIVES = {
    f"{number:03d}": Archive(f"{URL}/datasets_fullband.clean_fullband.read_speech_{number:03d}_{low}_{high}.tar.bz2")
    for number, (low, high) in enumerate(zip(_RATINGS, _RATINGS[1:], strict=False))
}
DEFAULT_PARTS = tuple(ARCHIVES)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare dns_speech --root corpora --out data"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder that holds datasets_fullband/, or read_speech/ itself")
    add(
        "--hifi_tse",
        action="store_true",
        help="the split of HiFi-TSE: the last 5 %% of the sorted readers are dev, no test",
    )
    add_set_options(parser, split=True)


def prepare(
    root: Path,
    out: Path,
    prefix: str = "",
    hifi_tse: bool = False,
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}`, or train and dev as HiFi-TSE did.

    Args:
        shares, seed: of the readers, without `hifi_tse`.
        min_s, skip_bad, nj: as in `make_sets`.

    Raises:
        ValueError, FileNotFoundError: naming files and the way out.
    """
    top = root if root.name == "read_speech" else find_top(root, FOLDERS, "read_speech") / "read_speech"
    recordings, faults = _list(top)
    if hifi_tse:
        count = Counter(recording.speaker for recording in recordings)
        split = hifi_tse_split(speaker for speaker in count if count[speaker] > 1)
        recordings = [replace(recording, split=split.get(recording.speaker, "train")) for recording in recordings]
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        faults=faults,
        sample_rate=SAMPLE_RATE,
        shares=None if hifi_tse else shares,
        seed=seed,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
    )


def _list(top: Path) -> tuple[list[Recording], list[str]]:
    recordings: dict[str, Recording] = {}
    faults = []
    copies = 0
    # some copies of the corpus hold a second read_speech inside read_speech
    for path in sorted(audio_files(top, (".wav",)), key=lambda path: (len(path.parts), path)):
        match = re.fullmatch(r"book_\d+_chp_\d+_reader_(\d+)_.+", path.stem)
        if not match:
            faults.append(f"{path}: book_<number>_chp_<number>_reader_<number>_….wav is expected")
        elif path.stem in recordings:
            copies += 1
        else:
            recordings[path.stem] = Recording(path, path.stem, f"reader_{match[1]}")
    if copies:
        print(f"left out, {copies} second copies of files")
    return list(recordings.values()), faults
