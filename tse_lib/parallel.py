"""One function over many items in several processes: results in the order of the items, whatever `nj` is.

And one process in a folder.
"""

import fcntl
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item], nj: int, label: str) -> list[Result]:
    """`[function(item) for item in items]` with a progress bar; `function` must be importable (no lambda) for nj > 1.

    Raises:
        ValueError: nj below 1.
        OSError: a process was killed, as a system does that runs out of memory.
        And whatever `function` raises.
    """
    if nj < 1:
        raise ValueError(f"--nj {nj}: at least 1 process")
    nj = min(nj, len(items))
    if nj <= 1:
        return [function(item) for item in tqdm(items, desc=label, disable=None)]
    # "spawn": a fork would copy whatever threads and locks this process holds
    spawn = multiprocessing.get_context("spawn")
    chunk = max(1, min(32, len(items) // (8 * nj)))
    try:
        with ProcessPoolExecutor(nj, mp_context=spawn, initializer=_end_with_parent) as pool:
            return list(tqdm(pool.map(function, items, chunksize=chunk), total=len(items), desc=label, disable=None))
    except BrokenProcessPool:
        raise OSError(f"{label}: a process was killed; out of memory? A smaller --nj needs less") from None


@contextmanager
def alone_in(folder: Path, busy: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a folder, as long as this process lives; others may read and write there, but not hold it.

    The folder itself is locked, where its file system can do that, so nothing is left of it.

    Args:
        busy: what is told while another process holds it.
        patience_s: for how long that is waited for, before it is an OSError; without end it is printed instead.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        end, told = time.monotonic() + patience_s, False
        while not _locked(handle):
            if time.monotonic() >= end:
                raise OSError(busy)
            if patience_s == math.inf and not told:
                print(busy, flush=True)
                told = True
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks in this file system
        pass
    return True


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
