"""VCTK: 110 speakers of many accents read newspaper sentences, 48 kHz.

    0.92:  <root>/speaker-info.txt   <root>/wav48_silence_trimmed/p225/p225_001_mic1.flac   (and _mic2)
    0.80:  <root>/speaker-info.txt   <root>/wav48/p225/p225_001.wav

C. Veaux, J. Yamagishi, K. MacDonald, "CSTR VCTK Corpus", University of Edinburgh, doi 10.7488/ds/2645 (0.92, 2019).
p280 and p315 have no second microphone; p315 has no texts, which are not used here. There is no official split: it is
drawn by speakers.
"""

import argparse
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from tse_lib import audio
from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import SHARES, Recording, add_set_options, audio_files, make_sets
from tse_lib.corpora.speakers import compare_speakers, find_top, hifi_tse_split, read_lines
from tse_lib.parallel import parallel_map

HELP = "VCTK 0.92 or 0.80: read English, many accents (48 kHz)"
LICENCE = "CC BY 4.0"
SAMPLE_RATE = 48000
MIN_S = 0.5  # trimmed, the shortest sentences last less than the usual 1 s
HIFI_TSE_MIN_S = 4.0
ONE_MICROPHONE = ("p280", "p315")
UNLISTED = ("p280", "s5")  # have recordings, and no line in some releases' speaker-info.txt
ARCHIVES = {
    "0.92": Archive(
        "https://datashare.ed.ac.uk/server/api/core/bitstreams/535f4286-e54c-4038-838c-a02285e32cb2/content",
        md5="8a6ba2946b36fcbef0212cad601f4bfa",
        num_bytes=11747302977,
        folder="VCTK-Corpus-0.92",
        file_name="VCTK-Corpus-0.92.zip",
    )
}
DEFAULT_PARTS = ("0.92",)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"example: tse prepare vctk --root corpora/VCTK-Corpus-0.92 --out data; --min_s is {MIN_S} here"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder with speaker-info.txt, or the one above it")
    add("--mic", type=int, choices=(1, 2), default=1, help="microphone, of version 0.92 (default: %(default)s)")
    add(
        "--hifi_tse",
        action="store_true",
        help="the split of HiFi-TSE: files of at least 4 s, the last 5 %% of the sorted speakers are dev, no test",
    )
    add_set_options(parser, split=True)


def prepare(
    root: Path,
    out: Path,
    prefix: str = "",
    mic: int = 1,
    hifi_tse: bool = False,
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}`, or train and dev as HiFi-TSE did; prints what it leaves out.

    Args:
        mic: 1 or 2, of version 0.92.
        shares, seed: of the speakers, without `hifi_tse`.
        min_s: None: 0.5 s, so that the corpus as it was published has no fault.
        skip_bad, nj: as in `make_sets`.

    Raises:
        ValueError, FileNotFoundError: naming files, lines, and the way out.
    """
    top = find_top(root, ["VCTK-Corpus-0.92", "VCTK-Corpus"], "speaker-info.txt")
    genders, faults = read_speakers(top / "speaker-info.txt")
    recordings, more = _list(top, mic, genders)
    faults += more
    if hifi_tse:
        recordings = _with_hifi_tse_split(recordings, nj)
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        faults=faults,
        sample_rate=SAMPLE_RATE,
        shares=None if hifi_tse else shares,
        seed=seed,
        min_s=MIN_S if min_s is None else min_s,
        skip_bad=skip_bad,
        nj=nj,
    )


def read_speakers(table: Path) -> tuple[dict[str, str], list[str]]:
    """The gender (f, m) of each speaker of speaker-info.txt, and what is wrong with its lines.

    A line is `p225  23  F  English  Southern England`, in 0.80 without the p; accent and region have blanks, may be
    missing, and a comment in brackets may follow.
    """
    genders: dict[str, str] = {}
    faults = []
    for number, line in enumerate(read_lines(table), 1):
        if not line.strip() or line.split()[0] == "ID":
            continue
        match = re.match(r"\s*(p?\d+|s\d+)\s+(?:\d+\s+)?([FM])(\s|$)", line)
        if not match:
            faults.append(f"{table}:{number}: '<speaker> <age> F or M …' expected, got {line.strip()!r}")
            continue
        speaker = f"p{match[1]}" if match[1].isdecimal() else match[1]
        if speaker in genders:
            faults.append(f"{table}:{number}: speaker {speaker} has a line already")
        genders[speaker] = match[2].lower()
    return genders, faults


def _list(top: Path, mic: int, genders: dict[str, str]) -> tuple[list[Recording], list[str]]:
    new = (top / "wav48_silence_trimmed").is_dir()
    folder = top / ("wav48_silence_trimmed" if new else "wav48")
    if not folder.is_dir():
        return [], [f"{top}: neither wav48_silence_trimmed (version 0.92) nor wav48 (0.80) is there"]
    recordings: list[Recording] = []
    faults = []
    found = set()
    for path in audio_files(folder, (".flac", ".wav")):
        match = re.fullmatch(r"([ps]\d+)/\1_(\d+)(?:_mic([12]))?\.(?:flac|wav)", path.relative_to(folder).as_posix())
        if not match or bool(match[3]) != new:
            name = "p225/p225_001_mic1.flac" if new else "p225/p225_001.wav"
            faults.append(f"{path}: not of this layout, which is {folder}/{name}")
            continue
        found.add(match[1])
        known = match[1] in genders or match[1] in UNLISTED
        if known and (not new or match[3] == str(mic)):
            name = match[2] + (f"_mic{mic}" if new else "")
            recordings.append(Recording(path, name, match[1], gender=genders.get(match[1], "")))
    faults += compare_speakers(top / "speaker-info.txt", {*genders, *(found & set(UNLISTED))}, found)
    silent = found - {recording.speaker for recording in recordings}
    lost = sorted(silent & set(genders) - (set(ONE_MICROPHONE) if mic == 2 else set()))
    return recordings, faults + [f"{folder / speaker}: no recording of microphone {mic}" for speaker in lost]


def _with_hifi_tse_split(recordings: list[Recording], nj: int) -> list[Recording]:
    """Those of at least 4 s, with the split of HiFi-TSE. What cannot be opened stays, to be told as a fault."""
    paths = [recording.path for recording in recordings]
    long = parallel_map(partial(_is_long, min_s=HIFI_TSE_MIN_S), paths, nj, "length")
    kept = [recording for recording, wanted in zip(recordings, long, strict=True) if wanted]
    print(f"left out, {len(recordings) - len(kept)} files shorter than {HIFI_TSE_MIN_S:g} s")
    count = Counter(recording.speaker for recording in kept)
    split = hifi_tse_split(speaker for speaker in count if count[speaker] > 1)
    return [replace(recording, split=split.get(recording.speaker, "train")) for recording in kept]


def _is_long(path: Path, min_s: float) -> bool:
    try:
        header = audio.info(path)
    except (ValueError, OSError):
        return True
    return header.num_samples >= min_s * header.sample_rate
