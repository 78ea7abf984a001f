"""DEMAND: 18 environments of 5 minutes, 16 microphones each, at 48 kHz and (but SCAFE) at 16 kHz.

    <root>/DKITCHEN/ch01.wav … ch16.wav

J. Thiemann, N. Ito, E. Vincent, "DEMAND: a collection of multi-channel recordings of acoustic noise in diverse
environments", 2013, zenodo.org/records/1227121. It has no split: one is drawn by environments, and the channels of one
never part.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import SHARES, Recording, add_set_options, make_sets

ENVIRONMENTS = """
    DKITCHEN DLIVING DWASHING NFIELD NPARK NRIVER OHALLWAY OMEETING OOFFICE PCAFETER PRESTO PSTATION SCAFE SPSQUARE
    STRAFFIC TBUS TCAR TMETRO
""".split()
NUM_CHANNELS = 16

HELP = "DEMAND: 18 environments (48 or 16 kHz)"
LICENCE = "CC BY-SA 3.0 by its description, CC BY 4.0 by its record"
HOST = "https://zenodo.org/records/1227121/files"
ARCHIVES = {
    "48k": tuple(Archive(f"{HOST}/{name}_48k.zip") for name in ENVIRONMENTS),
    "16k": tuple(Archive(f"{HOST}/{name}_16k.zip") for name in ENVIRONMENTS if name != "SCAFE"),
}
DEFAULT_PARTS = ("48k",)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare demand --root corpora/demand --out data --channels 1 9"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder that holds DKITCHEN/, DLIVING/, …")
    add(
        "--channels",
        type=int,
        nargs="+",
        default=(1,),
        metavar="N",
        help="1 to 16; each is a file of its own (default: 1)",
    )
    add("--sample_rate", type=int, help="in Hz, what the release must have (default: whatever is there)")
    add_set_options(parser, "noise_", split=True)


def prepare(
    root: Path,
    out: Path,
    prefix: str = "noise_",
    channels: Sequence[int] = (1,),
    sample_rate: int | None = None,
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` of some channels of the environments that are there.

    Raises:
        ValueError, FileNotFoundError: naming files and the way out.
    """
    for channel in channels:
        if not 1 <= channel <= NUM_CHANNELS:
            raise ValueError(f"--channels {channel}: 1 to {NUM_CHANNELS}")
    found = [name for name in ENVIRONMENTS if (root / name).is_dir()]
    if not found:
        raise FileNotFoundError(f"--root {root}: none of DEMAND's folders, {', '.join(ENVIRONMENTS[:3])}, …")
    recordings = [
        Recording(root / name / f"ch{channel:02d}.wav", f"{name}/ch{channel:02d}", group=name)
        for name in found
        for channel in sorted(set(channels))
    ]
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        "noise",
        sample_rate=sample_rate,
        shares=shares,
        seed=seed,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
    )
