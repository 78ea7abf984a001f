"""What computes a separator's part `network`, between its transforms: torch in some precision, or an exported file.

A model that has such a part (TFC-TDF: spectra in, spectra out) can have it converted, exported and run by ONNX Runtime
or OpenVINO, while the transforms stay torch's and float32. An exported network lies beside the weights it was made of:

    network.onnx        network.int8.onnx           what tse_lib/export/network.py writes
    network.onnx.yaml   network.int8.onnx.yaml      of which weights it is (`Exported`), and what was measured
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tse_lib.config import Section, build, read_yaml
from tse_lib.distributed import has_bfloat16
from tse_lib.store import sha256_of

Run = Callable[[np.ndarray], np.ndarray]  # spectra (B, 2*C, F, L) -> (B, S*2*C, F, L), float32

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FILES = {"float32": "network.onnx", "int8": "network.int8.onnx"}
# What a backend takes beside weights for a byte that torch takes in float32: MDX23C, 1024 frames, at most.
MEMORY = {"onnxruntime": 1.7, "openvino": 3.2}


class Exported(Section):
    """The yaml beside an exported network."""

    sha256: str
    model: str  # fingerprint of the network that was exported
    report: dict[str, Any] = {}


def network_of(model: nn.Module) -> nn.Module:
    """The part between the transforms.

    Raises:
        ValueError: it has none.
    """
    network = getattr(model, "network", None)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"{type(model).__name__} has no network between transforms that could be converted or exported; it runs in "
            "float32 by torch"
        )
    return network


def refuse_slow(precision: str, device: torch.device) -> None:
    """ValueError where a precision costs time instead of saving it."""
    if precision == "float16" and device.type == "cpu":
        raise ValueError(
            "--precision float16: processors are far slower in it than in float32; bfloat16 is for those that have it"
        )
    if precision == "bfloat16" and not has_bfloat16(device):
        raise ValueError(f"--precision bfloat16: {device} has no arithmetic for it and would be slower; float32 there")


def refuse_backend(backend: str, precision: str, device: torch.device) -> None:
    """ValueError where a backend cannot compute in a precision, or is slower in it."""
    if device.type != "cpu":
        raise ValueError(f"--backend {backend}: it is for processors; --device cpu, or torch on {device}")
    if backend == "onnxruntime" and precision == "bfloat16":
        raise ValueError("--backend onnxruntime computes in float32 or int8 on a processor; openvino can in bfloat16")
    if precision != "int8":
        refuse_slow(precision, device)


def convert(model: nn.Module, precision: str, device: torch.device) -> None:
    """Have the network compute in a precision of PRECISIONS, its transforms in float32.

    Raises:
        ValueError: unknown, slow on this device, or the model has no such part.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision '{precision}': one of {', '.join(PRECISIONS)}; int8 is for exported networks")
    if precision != "float32":
        refuse_slow(precision, device)
        network_of(model).to(PRECISIONS[precision])


class ExportedNetwork(nn.Module):
    """An exported network in the place of torch's; `memory` is what it takes for a byte of torch's."""

    def __init__(self, run: Run, memory: float):
        super().__init__()
        self.run, self.memory = run, memory

    def forward(self, spectra: Tensor) -> Tensor:
        return torch.from_numpy(self.run(spectra.numpy()))


def with_onnxruntime(path: Path, precision: str) -> Run:
    runtime = imported("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda spectra: session.run(None, {"spectra": spectra})[0]


def with_openvino(path: Path, precision: str) -> Run:
    openvino = imported("openvino")
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", hints)
    return lambda spectra: compiled([spectra])[0]


BACKENDS: dict[str, Callable[[Path, str], Run]] = {"onnxruntime": with_onnxruntime, "openvino": with_openvino}


def imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModuleNotFoundError(f"--backend {module}: {error}; pip install {module}") from None


def exported(folder: Path, precision: str, model: str) -> Path | None:
    """The exported network of a packed model, if there is one.

    Args:
        precision: int8 or any other.
        model: fingerprint of the model that it has to be of.

    Raises:
        ValueError: it is damaged, or of other weights.
        FileNotFoundError: there is none in int8, which cannot be made without audio.
    """
    path = folder / FILES["int8" if precision == "int8" else "float32"]
    again = f"tse export --onnx {'--int8 --calibrate FILES ' if precision == 'int8' else ''}writes it"
    if not path.exists():
        if precision == "int8":
            raise FileNotFoundError(f"{path}: not there; {again}")
        return None
    about = build(Exported, read_yaml(yaml_of(path)), str(yaml_of(path)))
    if about.model != model:
        raise ValueError(f"{path}: exported from other weights than those of {folder}; {again} again")
    if about.sha256 != sha256_of(path):
        raise ValueError(f"{path}: cut short or damaged; {again} again")
    return path


def yaml_of(path: Path) -> Path:
    return path.with_name(path.name + ".yaml")
