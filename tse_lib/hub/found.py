"""What an importer is told, and what it finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Given:
    """What is known of a checkpoint besides what it holds.

    Attributes:
        model: name, options and sample rate of our network, from a preset.
        sample_rate: as it is, whatever the checkpoint says.
        known_rate: of a public checkpoint, where it does not say it itself.
    """

    model: tuple[str, dict[str, Any], int] | None = None
    sample_rate: int | None = None
    known_rate: int | None = None


@dataclass(frozen=True)
class Found:
    """A recognised checkpoint.

    Attributes:
        name, params, sample_rate: our network.
        tensors: in the published layout.
        told: what was recognised, in a few words.
        inference: settings that the checkpoint brings, of tse_lib.config.Inference.
    """

    name: str
    params: dict[str, Any]
    sample_rate: int
    tensors: Mapping[str, Tensor]
    told: str
    inference: Mapping[str, Any] = field(default_factory=dict)
