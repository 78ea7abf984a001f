"""LibriSpeech: read English, 16 kHz, 2484 readers of audiobooks.

    <root>/LibriSpeech/SPEAKERS.TXT
    <root>/LibriSpeech/<part>/<reader>/<chapter>/<reader>-<chapter>-<number>.flac
    <root>/LibriSpeech/<part>/<reader>/<chapter>/<reader>-<chapter>.trans.txt      which utterances the chapter has

V. Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio books", ICASSP 2015; openslr.org/12, whose
md5sum.txt has the checksums. Parts are the split, and a reader is in one of them only. The utterances keep their names.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from tse_lib.corpora.download import Archive
from tse_lib.corpora.sets import Recording, add_set_options, audio_files, make_sets
from tse_lib.corpora.speakers import compare_speakers, find_top, read_lines

HELP = "LibriSpeech: read English (16 kHz)"
LICENCE = "CC BY 4.0"
SAMPLE_RATE = 16000
MIN_S = 0.5  # train-other-500 has utterances below the usual 1 s
URL = "https://www.openslr.org/resources/12"
ARCHIVES = {
    name: Archive(f"{URL}/{name}.tar.gz", md5=md5, num_bytes=num_bytes)
    for name, md5, num_bytes in (
        ("train-clean-100", "2a93770f6d5c6c964bc36631d331a522", 6387309499),
        ("train-clean-360", "c0e676e450a7ff2f54aeade5171606fa", 23049477885),
        ("train-other-500", "d1a0fd59409feb2c614ce4d30c387708", 30593501606),
        ("dev-clean", "42e2234ba48799c1f50f24a7926300a1", 337926286),
        ("dev-other", "c8d0bcc9cca99d4f8b62fcc847357931", 314305928),
        ("test-clean", "32fa31d27d2e1cad72775fee3f4849a9", 346663984),
        ("test-other", "fb5a50374b501bb3bac4815ee91d3135", 328757843),
    )
}
DEFAULT_PARTS = ("train-clean-100", "dev-clean", "test-clean")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tse prepare librispeech --root corpora --parts train-clean-100 dev-clean test-clean; "
        f"--min_s is {MIN_S} here"
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder that holds LibriSpeech/, or that folder")
    add(
        "--parts",
        nargs="+",
        choices=ARCHIVES,
        default=DEFAULT_PARTS,
        metavar="PART",
        help=f"train-* is train, dev-* dev, test-* test (default: {' '.join(DEFAULT_PARTS)})",
    )
    add_set_options(parser)


def prepare(
    root: Path,
    out: Path,
    prefix: str = "",
    parts: Sequence[str] = DEFAULT_PARTS,
    min_s: float | None = None,
    skip_bad: bool = False,
    nj: int = 2,
) -> list[Path]:
    """Make `out/<prefix>{train,dev,test}` of the utterances of `parts`.

    Args:
        min_s: None: 0.5 s, so that the corpus as it was published has no fault.
        skip_bad, nj: as in `make_sets`.

    Raises:
        ValueError, FileNotFoundError: naming files, lines, and the way out.
    """
    top = find_top(root, ["LibriSpeech"], "SPEAKERS.TXT")
    readers, faults = read_readers(top / "SPEAKERS.TXT")
    recordings: list[Recording] = []
    for part in dict.fromkeys(parts):
        listed = {reader: gender for reader, (gender, where) in readers.items() if where == part}
        found, more = _list_part(top / part, listed)
        recordings += found
        faults += more
    return make_sets(
        recordings,
        root,
        out,
        prefix,
        faults=faults,
        sample_rate=SAMPLE_RATE,
        min_s=MIN_S if min_s is None else min_s,
        skip_bad=skip_bad,
        nj=nj,
    )


def read_readers(table: Path) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Gender (f, m) and part of each reader of SPEAKERS.TXT, and what is wrong with its lines.

    A line is `14 | F | train-clean-360 | 25.03 | Kristin LeMoine`; a name may have bars (reader 60), `;` is a comment.
    """
    readers: dict[str, tuple[str, str]] = {}
    faults = []
    for number, line in enumerate(read_lines(table), 1):
        if not line.strip() or line.startswith(";"):
            continue
        reader, gender, part = ([field.strip() for field in line.split("|")] + [""] * 3)[:3]
        if not reader.isdecimal() or gender not in ("F", "M") or part not in ARCHIVES:
            faults.append(f"{table}:{number}: '<reader> | F or M | <part> | …' expected, got {line.strip()!r}")
        elif reader in readers:
            faults.append(f"{table}:{number}: reader {reader} has a line already")
        else:
            readers[reader] = gender.lower(), part
    return readers, faults


def _list_part(folder: Path, readers: dict[str, str]) -> tuple[list[Recording], list[str]]:
    """The utterances of a part whose readers (id: gender) are given, and what is wrong with it."""
    if not folder.is_dir():
        return [], [
            f"{folder}: no such folder; tse download librispeech --parts {folder.name} fetches it, or name others"
        ]
    recordings: list[Recording] = []
    faults = []
    names: dict[Path, set[str]] = {path.parent: set() for path in folder.glob("*/*/*.trans.txt")}  # by chapter
    for path in audio_files(folder, (".flac",)):
        match = re.fullmatch(r"(\d+)/(\d+)/(\1-\2-\d+)\.flac", path.relative_to(folder).as_posix())
        if not match:
            faults.append(f"{path}: <reader>/<chapter>/<reader>-<chapter>-<number>.flac is expected in {folder}")
            continue
        reader, chapter, name = match.groups()
        names.setdefault(path.parent, set()).add(name)
        if reader in readers:
            split = folder.name.partition("-")[0]
            recordings.append(Recording(path, name.removeprefix(f"{reader}-"), reader, split, readers[reader]))
    for chapter_folder, there in names.items():
        faults += _compare_transcript(chapter_folder, there)
    found = {chapter_folder.parent.name for chapter_folder in names if names[chapter_folder]}
    return recordings, faults + compare_speakers(folder.parent / "SPEAKERS.TXT", readers, found)


def _compare_transcript(chapter: Path, there: set[str]) -> list[str]:
    transcript = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
    if not transcript.is_file():
        return []
    told = {line.partition(" ")[0] for line in read_lines(transcript) if line.strip()}
    lost = [f"{chapter / name}.flac: missing; {transcript.name} has it" for name in sorted(told - there)]
    return lost + [f"{chapter / name}.flac: {transcript.name} does not have it" for name in sorted(there - told)]
