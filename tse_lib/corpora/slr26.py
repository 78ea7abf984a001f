"""Simulated responses of 600 rooms, 100 positions each (openslr.org/26), at 16 kHz, or 48 kHz as in DNS 4 and 5.

    <root>/simulated_rirs_{16k,48k}/{smallroom,mediumroom,largeroom}/Room001/Room001-00001.wav
    <root>/simulated_rirs_{16k,48k}/{smallroom,mediumroom,largeroom}/rir_list
                                --rir-id small-00001 --room-id small-Room001 simulated_rirs_16k/smallroom/…

T. Ko et al., "A study on data augmentation of reverberant speech for robust speech recognition", 2017. It has no split:
one is drawn by rooms. The three sizes number their rooms alike, so that a room is its size and its number.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import SHARES, Recording, add_set_options, audio_files, make_sets, unpacked
from tse_lib.corpora.speakers import read_lines

SIZES = ("smallroom", "mediumroom", "largeroom")
RATES = (16000, 48000)
FILE = re.compile(r"(smallroom|mediumroom|largeroom)/(Room\d+)/\2-\d+\.wav")

HELP = "600 simulated rooms of openslr.org/26 (16 or 48 kHz)"
LICENCE = "Apache 2.0"
ARCHIVES = {
    "16k": Archive("https://www.openslr.org/resources/26/sim_rir_16k.zip"),
    "48k": Archive(  # below datasets_fullband/impulse_responses/SLR26; the rooms of openslr.org/28 are in it, too
        "https://dnschallengepublic.blob.core.windows.net/dns5archive/V5_training_dataset/"
        "datasets_fullband.impulse_responses_000.tar.bz2"
    ),
}
DEFAULT_PARTS = ("16k",)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare slr26 --root corpora/slr26 --out data --sizes smallroom mediumroom"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder that holds simulated_rirs_16k/")
    add("--sample_rate", type=int, default=RATES[0], choices=RATES, help="which release (default: %(default)s)")
    add("--sizes", nargs="+", default=SIZES, choices=SIZES, help=f"(default: {' '.join(SIZES)})")
    add_set_options(parser, "rir_", split=True)


def prepare(
    root: Path,
    out: Path,
    prefix: str = "rir_",
    sample_rate: int = RATES[0],
    sizes: Sequence[str] = SIZES,
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` of the responses of the rooms of `sizes`.

    Raises:
        ValueError, FileNotFoundError: naming files and the way out.
    """
    root = unpacked(root, "datasets_fullband/impulse_responses/SLR26")
    recordings, faults = simulated(root / f"simulated_rirs_{sample_rate // 1000}k", sizes)
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        "rir",
        faults,
        sample_rate,
        shares=shares,
        seed=seed,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
    )


def simulated(folder: Path, sizes: Sequence[str]) -> tuple[list[Recording], list[str]]:
    """What the lists of `folder` name (without a list: what is there), and what is wrong with that."""
    recordings, faults = [], []
    for size in sizes:
        table = folder / size / "rir_list"
        if table.is_file():
            lines = enumerate(read_lines(table), 1)
            names = [(f"{table}:{number}", line.split()[-1]) for number, line in lines if line.strip()]
        elif (folder / size).is_dir():
            names = [(str(path), str(path)) for path in audio_files(folder / size, (".wav",))]
        else:
            raise FileNotFoundError(f"{folder / size}: no such folder; --root is the folder that holds {folder.name}/")
        for place, path in names:
            name = "/".join(Path(path).parts[-3:])
            match = FILE.fullmatch(name)
            if match and match[1] == size:
                recordings.append(Recording(folder / name, name.removesuffix(".wav"), group=f"{size}-{match[2]}"))
            else:
                faults.append(f"{place}: {size}/Room<number>/Room<number>-<number>.wav expected, got '{path}'")
    return recordings, faults
