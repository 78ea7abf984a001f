"""What users load: a checkpoint or a packed model, ready to extract or to separate."""

from pathlib import Path

import torch
from torch import Tensor

from tse_lib import checkpoint
from tse_lib.config import Deployed, build
from tse_lib.inference.calibration import beside
from tse_lib.inference.extractor import Extractor
from tse_lib.inference.packed import read_packed
from tse_lib.inference.separator import Separator
from tse_lib.models import build_model, task_of


def load(path: str | Path, device: str | torch.device = "cpu", precision: str = "float32") -> Extractor | Separator:
    """A checkpoint (`exp/<name>/best.pt`) or a packed model folder, ready for its task. Nothing in it is executed.

    Args:
        precision: float32, bfloat16 or float16, of a separator whose network can be converted (`Separator.convert`).

    Raises:
        FileNotFoundError, ValueError: not there, damaged, carrying code, or not of this toolkit.
    """
    path = Path(path)
    if path.is_dir():
        weights, conf = read_packed(path)
    else:
        saved = checkpoint.load(path)
        if "config" not in saved or "model" not in saved.get("modules", {}):
            raise ValueError(f"{path}: holds no model of this toolkit (modules.model and config are wanted)")
        wanted = {key: saved["config"][key] for key in Deployed.model_fields if key in saved["config"]}
        weights, conf = checkpoint.averaged_weights(saved), build(Deployed, wanted, str(path))
        conf = conf.model_copy(update={"calibration": beside(path)})
    model = assemble(weights, conf, str(path), device)
    if precision != "float32":
        if isinstance(model, Extractor):
            raise ValueError(f"{path}: a network that extracts; it runs in float32")
        model.convert(precision)
    return model


def assemble(
    weights: dict[str, Tensor], conf: Deployed, path: str, device: str | torch.device = "cpu"
) -> Extractor | Separator:
    """A network with these weights, ready for its task.

    Raises:
        ValueError: they do not fit it.
    """
    model = build_model(conf.model.name, conf.model.params, conf.sample_rate, task=None)
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes
        raise ValueError(f"{path}: weights do not fit its conf; {' '.join(str(error).split())}") from None
    if missing or unexpected:
        raise ValueError(f"{path}: weights do not fit its conf; missing {missing[:3]}, unexpected {unexpected[:3]}")
    return (Extractor if task_of(conf.model.name) == "extract" else Separator)(model, conf, device)
