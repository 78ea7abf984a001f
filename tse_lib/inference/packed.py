"""Packed models: a folder of `model.safetensors`, `model.yaml` and a README; no code, nothing of training."""

from pathlib import Path

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tse_lib.config import Deployed, build, read_yaml
from tse_lib.files import replace_file, temporary_for

OWN = {"README.md", "model.safetensors", "model.yaml"}


def write_packed(folder: str | Path, weights: dict[str, Tensor], conf: Deployed, readme: str) -> None:
    """Write the three files; `model.yaml` last, so that a folder without it is not a model.

    Raises:
        ValueError: files of these names belong to something else there, like a checkpoint that was downloaded.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = {file.name for file in folder.iterdir()}
    others = [name for name in names - OWN if not name.startswith((".", "network."))]
    alone = names & OWN == {"README.md"}  # packing that is killed leaves the weights first, and nothing of others
    if "model.yaml" not in names and names & OWN and (others or alone):
        raise ValueError(f"{folder}: has a {min(names & OWN)} of something else, which is kept; name another folder")
    (folder / "model.yaml").unlink(missing_ok=True)
    try:
        with temporary_for(folder / "model.safetensors") as temporary:
            save_file({key: value.contiguous() for key, value in weights.items()}, temporary)
    except SafetensorError as error:
        raise OSError(f"{folder}/model.safetensors: cannot be written ({error}); disk full?") from None
    with replace_file(folder / "README.md") as file:
        file.write(readme)
    write_conf(folder, conf)


def write_conf(folder: Path, conf: Deployed) -> Path:
    """Write `model.yaml`; a calibration stands in it where there is one."""
    values = conf.model_dump(mode="json", exclude=None if conf.calibration else {"calibration"})
    with replace_file(folder / "model.yaml") as file:
        yaml.safe_dump(values, file, sort_keys=False, allow_unicode=True)
    return folder / "model.yaml"


def read_packed(folder: Path) -> tuple[dict[str, Tensor], Deployed]:
    """Weights and conf of a packed model.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged.
    """
    conf = build(Deployed, read_yaml(folder / "model.yaml"), str(folder / "model.yaml"))
    path = folder / "model.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no weights here; `tse export` writes such folders")
    try:
        return load_file(path), conf
    except SafetensorError as error:
        raise ValueError(f"{path}: cut short or damaged ({error})") from None
