"""The selective scan and Mamba's mixer reproduce the published numbers, gradients too."""

import json
import math
import zlib
from pathlib import Path

import pytest
import torch

from tests.parity import rule
from tse_lib.nn.mamba import Mamba
from tse_lib.nn.selective_scan import selective_scan
from tse_lib.nn.selective_scan_cpp import library

FIXTURES = Path(__file__).parent / "fixtures"
SCAN = json.loads((FIXTURES / "selective_scan.json").read_text(encoding="utf-8"))
MAMBA = json.loads((FIXTURES / "mamba_d24.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def in_float64():
    torch.set_default_dtype(torch.float64)


def deviation(output, stored):
    """Of one step, A's gradient is nothing but zeros."""
    return rule.deviation(output, stored) if stored["absmax"] else float(output.abs().max())


def drawn(name, shape):
    return rule.long_wave(zlib.crc32(name.encode()), math.prod(shape)).view(shape)


CPP = pytest.param("cpp", marks=pytest.mark.skipif(library() is None, reason="no C++ compiler"))


@pytest.mark.parametrize("scan", ["loop", "chunks", CPP])
@pytest.mark.parametrize("case", SCAN["cases"], ids=lambda case: case["name"])
def test_scan(case, scan):
    name, (batch, dim, states, length) = case["name"], [case[k] for k in ("batch", "dim", "d_state", "length")]
    wave, table = (batch, dim, length), (batch, states, length)
    shapes = {"u": wave, "delta": wave, "B": table, "C": table, "D": (dim,), "z": wave, "delta_bias": (dim,)}
    inputs = {key: drawn(f"{name}.{key}", shape) for key, shape in shapes.items() if case["has"].get(key, True)}
    inputs["A"] = -rule.tensor_of(f"{name}.A_log", [dim, states], "A").exp()
    if not case["delta_softplus"]:
        inputs["delta"] = 0.05 * inputs["delta"] + 0.06
    if "D" in inputs:
        inputs["D"] = 0.1 * inputs["D"] + 1
    if "delta_bias" in inputs:
        inputs["delta_bias"] = 0.5 * inputs["delta_bias"] + case["delta_bias_offset"]
    for tensor in inputs.values():
        tensor.requires_grad_()
    ours = {key: tensor.mT if tensor.dim() == 3 else tensor for key, tensor in inputs.items()}  # time comes second here
    out = selective_scan(**ours, delta_softplus=case["delta_softplus"], scan=scan).mT
    (out * drawn(f"{name}.loss_weight", wave)).sum().backward()
    deviations = {"out": deviation(out, case["out"])}
    assert case["grad"].keys() == inputs.keys()
    deviations |= {key: deviation(inputs[key].grad, stored) for key, stored in case["grad"].items()}
    assert max(deviations.values()) <= SCAN["tol"], deviations


def test_mamba():
    config = {key: MAMBA["config"][key] for key in ("d_model", "d_state", "d_conv", "expand")}
    mixer = Mamba(**config)
    mixer.load_state_dict(rule.state_of(MAMBA["keys"], {}))
    x = drawn("mamba_d24.input", MAMBA["out"]["shape"]).requires_grad_()
    out = mixer(x)
    (out * drawn("mamba_d24.loss_weight", out.shape)).sum().backward()
    gradients = {"input": x.grad} | {key: parameter.grad for key, parameter in mixer.named_parameters()}
    assert MAMBA["grad"].keys() == gradients.keys()
    deviations = {"out": deviation(out, MAMBA["out"])}
    deviations |= {key: deviation(gradients[key], stored) for key, stored in MAMBA["grad"].items()}
    assert max(deviations.values()) <= MAMBA["tol"], deviations
