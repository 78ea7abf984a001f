"""The tables that corpora come with, read with care: they were downloaded, and nothing in them is trusted."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path


def read_csv(path: Path, columns: Sequence[str], strip: bool = True) -> Iterator[tuple[int, dict[str, str]]]:
    """The line number (of a row's last line) and the fields of each row; what a short row lacks is "".

    Args:
        strip: fields without blanks around them; a name that a user gave a file may have some.

    Raises:
        FileNotFoundError: no such table.
        ValueError: it is not UTF-8 text, has no rows, or lacks one of `columns`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table; is this the folder of the corpus, and whole?")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, {key: value or "" for key, value in row.items() if key}) for row in reader]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
    except csv.Error as error:  # no ValueError; a quotation mark that nothing closes takes in all lines after it
        raise ValueError(f"{path}: line {reader.line_num}: {error}; is a quotation mark not closed?") from None
    if not rows:
        raise ValueError(f"{path}: no rows in it")
    missing = [column for column in columns if column not in rows[0][1]]
    if missing:
        raise ValueError(f"{path}: no column '{missing[0]}'; it has {', '.join(rows[0][1])}")
    return ((line, {key: value.strip() for key, value in row.items()} if strip else row) for line, row in rows)


def is_file_name(name: str) -> bool:
    """Whether it names a file of one folder, and nothing outside it."""
    return name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)
