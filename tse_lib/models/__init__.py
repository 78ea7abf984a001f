"""The networks by name. Adding one: import it, add a line.

An extractor has `encode(enroll, lengths) -> condition` and `forward(mixture, condition) -> (B, 1, C, T)`, a separator
has `forward(mixture) -> (B, S, C, T)`. What needs the sample rate takes it as `sample_rate`.
Where some parameters do not lead to the estimate, `has_idle_parameters` says so.
"""

import inspect
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from tse_lib.config import check_params
from tse_lib.models.conditioned import Conditioned
from tse_lib.models.conv_tasnet import ConvTasNet
from tse_lib.models.dprnn import DPRNN
from tse_lib.models.dptnet import DPTNet
from tse_lib.models.hifi_tse import HiFiTSE
from tse_lib.models.mossformer2 import MossFormer2
from tse_lib.models.sepformer import SepFormer
from tse_lib.models.sepmamba import SepMamba
from tse_lib.models.spex_plus import SpExPlus
from tse_lib.models.spmamba import SPMamba
from tse_lib.models.td_speakerbeam import TDSpeakerBeam
from tse_lib.models.tf_gridnet import TFGridNet
from tse_lib.models.tfc_tdf import TFCTDF
from tse_lib.models.usef_sepformer import USEFSepFormer
from tse_lib.models.usef_tf_gridnet import USEFTFGridNet
from tse_lib.models.usef_tse_mamba import USEFTSEMamba
from tse_lib.models.usef_tse_mamba_v8 import USEFTSEMambaV8
from tse_lib.models.x_tf_gridnet import XTFGridNet

MODELS: dict[str, type[nn.Module]] = {
    "hifi_tse": HiFiTSE,
    "conditioned": Conditioned,
    "spex_plus": SpExPlus,
    "td_speakerbeam": TDSpeakerBeam,
    "usef_tf_gridnet": USEFTFGridNet,
    "usef_sepformer": USEFSepFormer,
    "usef_tse_mamba": USEFTSEMamba,
    "usef_tse_mamba_v8": USEFTSEMambaV8,
    "x_tf_gridnet": XTFGridNet,
    "conv_tasnet": ConvTasNet,
    "dprnn": DPRNN,
    "dptnet": DPTNet,
    "sepformer": SepFormer,
    "mossformer2": MossFormer2,
    "sepmamba": SepMamba,
    "spmamba": SPMamba,
    "tf_gridnet": TFGridNet,
    "tfc_tdf": TFCTDF,
}


def task_of(name: str) -> str:
    """What the network is for: extract or separate."""
    return "extract" if hasattr(MODELS[name], "encode") else "separate"


def num_sources_of(name: str, params: dict[str, Any]) -> int:
    """How many sources a separator puts out; 1 of an extractor."""
    options = inspect.signature(MODELS[name]).parameters
    return params.get("num_sources", options["num_sources"].default) if "num_sources" in options else 1


class OneCall(nn.Module):
    """A network in one call, as DistributedDataParallel wants it: an extractor encodes the enrolments first.

    Args:
        model: the network.
        tells: what it also tells, beside the estimate: "logits" (B, speakers of the training set), whose the
            enrolments are, by the network's own `speaker_logits` or by `classifier`; "enroll_embedding" and
            "output_embedding" (B, D), what `encode` makes of the enrolments and of the estimate; "scales" (B, K, C, T),
            the outputs of a network that has several of one target, of which the first is the estimate.
        classifier: embeddings (B, D) to logits.
    """

    def __init__(self, model: nn.Module, tells: Collection[str] = (), classifier: nn.Module | None = None):
        super().__init__()
        self.model, self.tells, self.classifier = model, tuple(tells), classifier

    def forward(self, mixture: Tensor, enroll: Tensor | None = None, lengths: Tensor | None = None) -> Any:
        """mixture (B, C, T), for an extractor with enroll (B, E, T_e) and lengths (B, E) -> (B, S, C, T).

        Where it `tells` more, that and a dictionary.
        """
        if enroll is None:
            return self.model(mixture)
        condition = self.model.encode(enroll, lengths)  # type: ignore[operator]
        if "scales" in self.tells:
            scales = self.model.scales(mixture, condition)  # type: ignore[operator]
            estimate, told = scales[:, :1], {"scales": scales}
        else:
            estimate, told = self.model(mixture, condition), {}
        if "logits" in self.tells:
            own: Any = self.model.speaker_logits if self.classifier is None else None
            told["logits"] = own(condition) if own else self.classifier(condition["embedding"])  # type: ignore[misc]
        if "output_embedding" in self.tells:
            told["enroll_embedding"] = condition["embedding"]
            told["output_embedding"] = self.model.encode(estimate[:, 0])["embedding"]  # type: ignore[operator]
        return (estimate, told) if self.tells else estimate


def build_model(name: str, params: dict[str, Any], sample_rate: int, task: str | None = "extract") -> nn.Module:
    """A network from the conf's `model` section. `task`: what it has to do, extract or separate; None: either.

    Raises:
        ValueError: unknown name or option (the nearest is named), values the network refuses, or one of another task.
    """
    if name not in MODELS:
        raise ValueError(f"model.name: unknown model '{name}'; known: {', '.join(MODELS)}")
    kind = MODELS[name]
    if task and task != task_of(name):
        fitting = ", ".join(other for other in MODELS if task_of(other) == task)
        raise ValueError(f"model.name: '{name}' can {task_of(name)}, not {task}; networks that can: {fitting}")
    if "sample_rate" in params:
        raise ValueError("model.params: sample_rate stands once, at the top of the conf")
    check_params(kind.__init__, params, f"model {name}")
    rate = {"sample_rate": sample_rate} if "sample_rate" in inspect.signature(kind).parameters else {}
    try:
        return kind(**rate, **params)
    except TypeError as error:
        raise ValueError(f"model {name}: {error}".replace("__init__() ", "")) from None
