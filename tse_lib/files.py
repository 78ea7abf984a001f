"""Writing files whole: under a temporary name in the same folder, then renamed."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def temporary_for(path: str | Path, sync: bool = True) -> Iterator[str]:
    """A temporary path that becomes `path` when the block ends well, and is removed when it does not.

    A process killed inside leaves `.partial-…`, never half a file; the stage engine removes those.

    Args:
        sync: also survive a power cut. Off for files that are cheap to make again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".partial-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes files for the owner alone
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def require_writable(path: str | Path) -> None:
    """Raise now what `temporary_for` would raise in the end, after the hours that make what is to be written."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".partial-", dir=path.parent):
        pass


@contextmanager
def replace_file(path: str | Path) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that appears under `path` only when the block ended well."""
    with temporary_for(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        yield file
