"""The noise of WHAM!: bars, cafés, restaurants and parks, two channels, with its official split by places.

At 16 kHz, cut to the utterances of wsj0-2mix, without intelligible speech (20000 + 5000 + 3000 clips, 80 h):

    <root>/{tr,cv,tt}/40na010x_1.9857_01xo031a_-1.9857.wav
    <root>/metadata/noise_meta_{tr,cv,tt}.csv       utterance_id (the file's name), File ID, Location ID, …

At 48 kHz (`--high_res`), the recordings that those were cut from; there may be speech in them:

    <root>/audio/file000_000000000_loc05_day1.wav   the place is in the name
    <root>/high_res_metadata.csv                    Filename, WHAM! Split (Train, Valid, Test), …

G. Wichern et al., "WHAM!: extending speech separation to noisy environments", 2019, wham.whisper.ai. No place is in two
of its sets, which is checked.
"""

import argparse
import re
from pathlib import Path

from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import Recording, add_set_options, make_sets, unpacked
from tse_lib.corpora.tables import is_file_name, read_csv

FOLDERS = {"tr": "train", "cv": "dev", "tt": "test"}
SPLITS = {"Train": "train", "Valid": "dev", "Test": "test"}
PLACE = re.compile(r"_(loc\d+)_")

HELP = "the noise of WHAM! (16 kHz, or 48 kHz with --high_res)"
LICENCE = "CC BY-NC 4.0"
HOST = "https://my-bucket-a8b4b49c25c811ee9a7e8bba05fa24c7.s3.amazonaws.com"
ARCHIVES = {
    "16k": Archive(f"{HOST}/wham_noise.zip"),
    "high_res": Archive(f"{HOST}/high_res_wham.zip"),
}
DEFAULT_PARTS = ("16k",)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare wham_noise --root corpora/wham_noise --out data"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder wham_noise (or high_res_wham), or the one above it")
    add("--high_res", action="store_true", help="it is the 48 kHz release, high_res_wham")
    add_set_options(parser, "noise_")


def prepare(
    root: Path,
    out: Path,
    prefix: str = "noise_",
    high_res: bool = False,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` of the files that the metadata lists, by its split.

    Raises:
        ValueError, FileNotFoundError: naming files and the way out.
    """
    root = unpacked(root, "high_res_wham" if high_res else "wham_noise")
    recordings, faults = _high_res(root) if high_res else _cut(root)
    listed = {recording.path for recording in recordings}
    others = sum(path not in listed for folder in ("audio", *FOLDERS) for path in (root / folder).glob("[!.]*.wav"))
    if others:  # other tools put copies at other speeds there
        print(f"left out, {others} files that the metadata does not list")
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        "noise",
        faults,
        sample_rate=48000 if high_res else 16000,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
    )


def _cut(root: Path) -> tuple[list[Recording], list[str]]:
    recordings, faults = [], []
    for folder, split in FOLDERS.items():
        table = root / "metadata" / f"noise_meta_{folder}.csv"
        for line, row in read_csv(table, ("utterance_id", "Location ID")):
            name, place = row["utterance_id"], row["Location ID"]
            if not is_file_name(name) or not name.endswith(".wav") or not place:
                faults.append(f"{table}:{line}: a file and its place expected, got '{name}', '{place}'")
                continue
            stem = name.removesuffix(".wav")
            recordings.append(Recording(root / folder / name, f"{folder}/{stem}", split=split, group=f"loc{place}"))
    return recordings, faults


def _high_res(root: Path) -> tuple[list[Recording], list[str]]:
    table = root / "high_res_metadata.csv"
    recordings, faults = [], []
    for line, row in read_csv(table, ("Filename", "WHAM! Split")):
        name, split = row["Filename"], row["WHAM! Split"]
        if not is_file_name(name) or not name.endswith(".wav"):
            faults.append(f"{table}:{line}: the name of a .wav file expected, got '{name}'")
        elif split.lower() in ("", "none"):
            continue
        elif split not in SPLITS:
            faults.append(f"{table}:{line}: '{name}': split '{split}' is none of {', '.join(SPLITS)}")
        else:
            place = PLACE.search(name)
            group = place[1] if place else ""
            recordings.append(
                Recording(root / "audio" / name, name.removesuffix(".wav"), split=SPLITS[split], group=group)
            )
    return recordings, faults
