"""A model's calibration of presence: `calibration.yaml` beside a checkpoint, a section of a packed model.yaml."""

from pathlib import Path

import yaml

from tse_lib.config import Calibration, Deployed, build, read_yaml
from tse_lib.files import replace_file
from tse_lib.inference.packed import write_conf

NAME = "calibration.yaml"


def beside(checkpoint: Path) -> Calibration | None:
    """The calibration beside a checkpoint, if there is one."""
    path = place_of(checkpoint)
    return build(Calibration, read_yaml(path), str(path)) if path.exists() else None


def place_of(model: Path) -> Path:
    """The file that holds the calibration of a checkpoint, or of a packed model folder."""
    return model / "model.yaml" if model.is_dir() else model.with_name(NAME)


def write_calibration(model: Path, conf: Deployed, calibration: Calibration) -> Path:
    """Write it where `load` finds it.

    Args:
        model: a checkpoint or a packed model folder, and its `conf`.
    """
    if model.is_dir():
        return write_conf(model, conf.model_copy(update={"calibration": calibration}))
    with replace_file(place_of(model)) as file:
        yaml.safe_dump(calibration.model_dump(mode="json"), file, sort_keys=False)
    return place_of(model)
