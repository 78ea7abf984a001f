"""What an importer is told, and what it finds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Given:
    """What the user says of a checkpoint.

    Attributes:
        model: name, options and sample rate of our network, from a preset.
        sample_rate: where the checkpoint does not say it.
    """

    model: tuple[str, dict[str, Any], int] | None = None
    sample_rate: int | None = None


@dataclass(frozen=True)
class Found:
    """A recognised checkpoint.

    Attributes:
        name, params, sample_rate: our network.
        tensors: in the published layout.
        told: what was recognised, in a few words.
    """

    name: str
    params: dict[str, Any]
    sample_rate: int
    tensors: Mapping[str, Tensor]
    told: str
