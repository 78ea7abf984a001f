"""Checkpoints: plain data, written atomically, checked on reading, never able to run code.

A training checkpoint is `{"modules", "ema", "optimizers", "schedulers", "step", "curriculum", "rng", "best",
"patience", "alarms", "interval", "seconds", "data", "processes", "config", "version"}`. Each record inside the file
carries a CRC-32 (the file is a zip archive), which `load` verifies before it believes anything.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from tse_lib.files import temporary_for

VERSION = 1
RECONSTRUCT: Any = np.empty(0).__reduce__()[0]  # makes an array, which is then filled; numpy 1 and 2 name it otherwise
PLAIN: list[Any] = [  # what else is data: a string that tells torch's version, and states of numpy's random generators
    TorchVersion,
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
    *((RECONSTRUCT, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write under a temporary name in the same folder, sync, rename. A killed process leaves the old file whole."""
    try:
        with temporary_for(path) as temporary, open(temporary, "wb") as file:
            torch.save({**state, "version": VERSION}, file)  # a file, since a path's name would be written into it
    except RuntimeError as error:  # torch reports a full disk as a RuntimeError of its zip writer
        if "DataLoader" in str(error):  # that a worker was killed is raised wherever the process is
            raise
        raise OSError(f"{path}: cannot be written ({str(error).splitlines()[0]}); disk full?") from None


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        FileNotFoundError: there is none.
        ValueError: cut short, damaged, carrying code, or of a version this release does not know.
    """
    state = read_tensors(path)
    if not isinstance(state, dict) or "version" not in state:
        raise ValueError(
            f"{path}: not a checkpoint of this toolkit (`tse convert` reads those of other projects, and so does `tse "
            "separate` with --config)"
        )
    if state["version"] > VERSION:
        raise ValueError(f"{path}: checkpoint version {state['version']}, this release reads up to {VERSION}")
    return state


def read_tensors(path: str | Path) -> Any:
    """`torch.load` that only ever reads data: verified, onto the CPU, `weights_only`. For any project's files."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, a checkpoint file is wanted")
    with open(path, "rb") as file:
        legacy = file.read(2) == b"\x80\x02"  # files of torch before 1.6 are no zip archives
        if not legacy:
            verify_records(path, file)
    try:
        with torch.serialization.safe_globals(PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = str(error).split("GLOBAL ")[-1].split(" ")[0] if "GLOBAL " in str(error) else "a Python object"
        raise ValueError(
            f"{path}: refused, it asks to run code when loaded ({what}); only plain tensors and data are read"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # pickles that torch did not write end in errors of any kind
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: cannot be read ({what})") from None


def verify_records(path: Path, file: BinaryIO) -> None:
    """Raises: ValueError: no zip archive, a CRC-32 does not match, or a record is compressed, as torch's never are."""
    try:
        with zipfile.ZipFile(file) as archive:
            packed = next((record for record in archive.infolist() if record.compress_type), None)
            damaged = None if packed else archive.testzip()
    except Exception as error:  # zipfile ends at a flipped bit in BadZipFile, UnicodeDecodeError, OSError, EOFError, …
        raise ValueError(f"{path}: cut short or not a checkpoint ({path.stat().st_size} bytes)") from error
    if packed:
        raise ValueError(f"{path}: refused, its record {packed.filename} is compressed; how far it grows is not known")
    if damaged:
        raise ValueError(f"{path}: damaged (checksum of record {damaged} does not match); take an older checkpoint")


def averaged_weights(saved: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged weights: a `last.pt` carries them beside the raw ones, in a `best.pt` they are the model."""
    if "ema" not in saved:
        return saved["modules"]["model"]
    return {key.removeprefix("module."): value for key, value in saved["ema"].items() if key.startswith("module.")}
