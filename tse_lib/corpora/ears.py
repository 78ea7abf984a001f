"""EARS: 107 speakers in an anechoic chamber, 48 kHz: reading in seven ways, emotions, free monologues, other sounds.

    <root>/EARS/speaker_statistics.json
    <root>/EARS/p001/{emo_adoration_sentences,freeform_speech_01,rainbow_01_whisper,sentences_01_loud,…}.wav

J. Richter et al., "EARS: an anechoic fullband speech dataset benchmarked for speech enhancement and dereverberation",
Interspeech 2024; github.com/facebookresearch/ears_dataset. The split and the styles that are left out (no speech) are
those of the benchmarks EARS-WHAM and EARS-Reverb (github.com/sp-uhh/ears_benchmark): p100 and p101 are dev, p102 to
p107 test, the others train.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import Recording, add_set_options, audio_files, make_sets
from tse_lib.corpora.speakers import compare_speakers, find_top, read_lines

HELP = "EARS: anechoic speech, whispered to shouted (48 kHz)"
LICENCE = "CC BY-NC 4.0: not for commercial use"
SAMPLE_RATE = 48000
SPEAKERS = [f"p{number:03d}" for number in range(1, 108)]
DEV, TEST = SPEAKERS[99:101], SPEAKERS[101:]
SPEECH = ("emo", "freeform", "rainbow", "sentences")  # the first word of a file's name
OTHER = ("interjection", "melodic", "nonverbal", "vegetative")
TABLE = "speaker_statistics.json"
GENDERS = {"female": "f", "male": "m"}  # four speakers have neither
URL = "https://github.com/facebookresearch/ears_dataset/releases/download/dataset"
ARCHIVES = {
    "speakers": Archive(
        f"https://raw.githubusercontent.com/facebookresearch/ears_dataset/main/{TABLE}",
        folder="EARS",
    ),
    **{speaker: Archive(f"{URL}/{speaker}.zip", folder="EARS") for speaker in SPEAKERS},
}
DEFAULT_PARTS = tuple(ARCHIVES)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tse prepare ears --root corpora --out data"
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder that holds EARS/, or that folder")
    add(
        "--styles",
        nargs="+",
        choices=(*SPEECH, *OTHER),
        default=SPEECH,
        metavar="STYLE",
        help=f"first words of the files' names (default: {' '.join(SPEECH)}; there are also {' '.join(OTHER)})",
    )
    add_set_options(parser)


def prepare(
    root: Path,
    out: Path,
    prefix: str = "",
    styles: Sequence[str] = SPEECH,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` of the recordings of those styles.

    Args:
        min_s, skip_bad, nj: as in `make_sets`.

    Raises:
        ValueError, FileNotFoundError: naming files, speakers, and the way out.
    """
    top = find_top(root, ["EARS"], TABLE)
    genders, faults = read_speakers(top / TABLE)
    recordings = []
    found = set()
    for path in audio_files(top, (".wav",)):
        match = re.fullmatch(r"(p\d{3})/(([a-z]+)[^/]*)\.wav", path.relative_to(top).as_posix())
        if not match or match[1] not in SPEAKERS or match[3] not in (*SPEECH, *OTHER):
            faults.append(
                f"{path}: {top}/<p001 to p107>/<style>_….wav is expected, style one of {', '.join(SPEECH + OTHER)}"
            )
            continue
        speaker, name, style = match.groups()
        found.add(speaker)
        if style in styles and speaker in genders:
            split = "test" if speaker in TEST else "dev" if speaker in DEV else "train"
            recordings.append(Recording(path, name, speaker, split, genders[speaker]))
    faults += compare_speakers(top / TABLE, genders, found)
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        faults=faults,
        sample_rate=SAMPLE_RATE,
        min_s=min_s,
        skip_bad=skip_bad,
        nj=nj,
    )


def read_speakers(table: Path) -> tuple[dict[str, str], list[str]]:
    """The gender of each speaker (f, m, or empty where the speaker did not say), and what is wrong with the table."""
    try:
        entries: Any = json.loads("\n".join(read_lines(table)))
    except json.JSONDecodeError as error:
        raise ValueError(f"{table}:{error.lineno}: not JSON ({error.msg}); fetch it again") from None
    if not isinstance(entries, dict):
        raise ValueError(
            f"{table}: speakers by their names are expected, got a {type(entries).__name__}; fetch it again"
        )
    genders: dict[str, str] = {}
    faults = []
    for speaker, entry in entries.items():
        gender = entry.get("gender") if isinstance(entry, dict) else None
        if speaker not in SPEAKERS or not isinstance(gender, str):
            faults.append(f"{table}: {ascii(speaker)}: p001 to p107 and a gender are expected, got {ascii(entry)[:80]}")
        else:
            genders[speaker] = GENDERS.get(gender, "")
    return genders, faults
