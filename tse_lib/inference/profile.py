"""Speaker profiles: what an extractor made of a talker's enrolments, kept in a file to be used again and again.

A profile is a plain .npz, whose arrays are `version`, `model` (the hash of the network that made it), `network`,
`sample_rate`, `seconds`, `files` and, under `condition.<name>`, the tensors of the condition. It fits one model only:
another network, or the same after more training, hears in other features.
"""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tse_lib.config import Deployed
from tse_lib.files import temporary_for

VERSION = 1
PREFIX = "condition."
KINDS = {"version": "i", "model": "U", "network": "U", "sample_rate": "i", "seconds": "f", "files": "U"}  # of dtypes


@dataclass(frozen=True)
class Profile:
    """A talker as one model knows them.

    Attributes:
        condition: of one item, as `encode` of the model made it.
        model: `fingerprint` of that model.
        network: its name.
        sample_rate: the model's.
        seconds: of all enrolments together.
        files: their names, without folders; empty where they were no files.
    """

    condition: dict[str, Tensor]
    model: str
    network: str
    sample_rate: int
    seconds: float
    files: tuple[str, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write `path`, which must end in .npz.

        Raises:
            ValueError: another ending.
        """
        require_npz(path)
        arrays: dict[str, Any] = {
            "version": np.array(VERSION),
            "model": np.array(self.model),
            "network": np.array(self.network),
            "sample_rate": np.array(self.sample_rate),
            "seconds": np.array(self.seconds, np.float64),
            "files": np.array(self.files, np.str_),
            **{PREFIX + name: value.numpy(force=True) for name, value in self.condition.items()},
        }
        with temporary_for(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)


def load_profile(path: str | Path) -> Profile:
    """Read a profile. Nothing in it is executed.

    Raises:
        FileNotFoundError: there is none.
        ValueError: cut short, damaged, or no profile.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such profile; tse enroll makes one")
    try:
        with zipfile.ZipFile(path) as archive:
            packed = next((entry.filename for entry in archive.infolist() if entry.compress_type), "")
        if packed:  # it might unpack to any size
            raise ValueError(f"{packed} is compressed")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, MemoryError) as error:
        raise ValueError(f"{path}: cut short, damaged or no profile of `tse enroll` ({error})") from None
    return _checked(arrays, str(path))


def _checked(arrays: dict[str, np.ndarray], name: str) -> Profile:
    condition = {key.removeprefix(PREFIX): value for key, value in arrays.items() if key.startswith(PREFIX)}
    about = {key: value for key, value in arrays.items() if not key.startswith(PREFIX)}
    if set(about) != set(KINDS) or not condition:
        odd = sorted(set(about) ^ set(KINDS)) or [PREFIX + "*"]
        raise ValueError(f"{name}: not a profile of `tse enroll` (wrong or missing: {', '.join(map(str, odd))})")
    for key, value in about.items():
        if value.dtype.kind != KINDS[key] or value.ndim != (key == "files"):
            raise ValueError(f"{name}: not a profile of `tse enroll` ('{key}' is {value.dtype} of shape {value.shape})")
    if about["version"] != VERSION:
        raise ValueError(f"{name}: profile version {about['version']}, this release reads {VERSION}; tse enroll again")
    for key, value in condition.items():
        if value.dtype.kind not in "fb" or not value.ndim or len(value) != 1 or not value.size:
            raise ValueError(f"{name}: '{key}' is {value.dtype} of shape {value.shape}; one item's features are wanted")
        if not np.isfinite(value).all():
            raise ValueError(f"{name}: '{key}' holds NaN or infinite values")
    return Profile(
        {key: torch.from_numpy(value) for key, value in condition.items()},
        str(about["model"]),
        str(about["network"]),
        int(about["sample_rate"]),
        float(about["seconds"]),
        tuple(map(str, about["files"])),
    )


def require_npz(path: str | Path) -> None:
    if Path(path).suffix != ".npz":
        raise ValueError(f"{path}: a profile is a .npz file")


def fingerprint(model: nn.Module, conf: Deployed) -> str:
    """A hash of a network, its options and its weights: the same wherever and in whatever file it is."""
    about = {"sample_rate": conf.sample_rate, "model": conf.model.model_dump(mode="json")}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def refuse_unfit(condition: dict[str, Tensor], short: dict[str, Tensor], long: dict[str, Tensor], name: str) -> None:
    """ValueError unless a condition could be one of a model: the names, types and sizes of its tensors.

    Args:
        short, long: conditions that the model made of enrolments of two lengths. Where sizes differ, any will do.
    """
    if condition.keys() != long.keys():
        raise ValueError(f"{name}: holds {', '.join(sorted(condition))}; the model makes {', '.join(sorted(long))}")
    for key, own in condition.items():
        wanted = long[key]
        free = [a != b for a, b in zip(short[key].shape, wanted.shape, strict=True)]
        fits = own.dtype == wanted.dtype and own.ndim == wanted.ndim
        if not fits or any(
            a != b for a, b, any_size in zip(own.shape, wanted.shape, free, strict=True) if not any_size
        ):
            raise ValueError(
                f"{name}: '{key}' is {own.dtype} of shape {tuple(own.shape)}; the model makes {wanted.dtype} like "
                f"{tuple(wanted.shape)}"
            )
