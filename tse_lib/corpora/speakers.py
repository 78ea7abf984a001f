"""What corpora of speech share: the check of their speaker tables, and the split of HiFi-TSE."""

from collections.abc import Iterable
from pathlib import Path

HIFI_TSE_DEV_SHARE = 0.05


def find_top(root: Path, names: Iterable[str], holds: str) -> Path:
    """`root`, or the first of `names` below it, that has the folder or file `holds`.

    Raises:
        FileNotFoundError: naming both.
    """
    candidates = [root, *(root / name for name in names)]
    for folder in candidates:
        if (folder / holds).exists():
            return folder
    raise FileNotFoundError(f"--root {root}: no '{holds}' in {' or '.join(map(str, candidates))}")


def read_lines(path: Path) -> list[str]:
    """The lines of a text that came with a corpus.

    Raises:
        FileNotFoundError, ValueError: not there, or not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; is the corpus whole?")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); get it again") from None


def compare_speakers(table: Path, listed: Iterable[str], found: Iterable[str]) -> list[str]:
    """Faults: speakers with recordings and no entry in the table (one each), and the other way round (one together)."""
    listed, found = set(listed), set(found)
    faults = [f"{table}: speaker {speaker} has recordings and no entry" for speaker in sorted(found - listed)]
    missing = sorted(listed - found)
    if missing:
        shown = ", ".join(missing[:5]) + ", …" * (len(missing) > 5)
        faults.append(f"{table}: {len(missing)} speakers have an entry and no recordings ({shown})")
    return faults


def hifi_tse_split(speakers: Iterable[str]) -> dict[str, str]:
    """The last 5 % of the sorted ids (at least one) are dev, the others train; there is no test set."""
    ordered = sorted(set(speakers))
    count = max(1, int(HIFI_TSE_DEV_SHARE * len(ordered)))
    return {speaker: "train" if place < len(ordered) - count else "dev" for place, speaker in enumerate(ordered)}
