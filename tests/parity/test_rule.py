"""The rule gives the values that its description lists, and a wrong network is noticed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.parity import rule
from tests.parity.test_parity import ADAPTERS, extract, fill
from tse_lib.hub.names import Names
from tse_lib.models import build_model

HERE = Path(__file__).parent


def test_wave():
    expected = [0, 9.589574789074592e-05, 7.671659090500008e-04, 2.5891823040383285e-03]
    assert rule.wave(0, 4).tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(rule.long_wave(7, 70000)[65521:], rule.wave(7, 70000 - 65521))


def test_tensor():
    values = rule.tensor_of("encoder.weight", [4, 1, 3]).flatten()[:3].tolist()
    assert values == pytest.approx([0.11355510095633134, 0.812851281325824, 0.784711190414098], rel=1e-12)


def test_signal():
    expected = [0.09598868105161597, 0.20254512551420292, 0.3676875431916465, 0.48756724912334987]
    assert rule.signal(4, 220, 0, 8000, 220).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("key", "shape", "kind"),
    [
        ("a.weight", (3, 4), "w"),
        ("a.weight_hh_l0", (3, 4), "w"),
        ("a.bias", (3,), "b"),
        ("a.in_proj_bias", (3,), "b"),
        ("a.beta", (1, 3, 1), "b"),
        ("norm.weight", (3,), "n"),
        ("a.gamma", (1, 3, 1), "n"),
        ("act.weight", (1,), "p"),
        ("bn.running_var", (3,), "v"),
        ("bn.num_batches_tracked", (), "skip"),
        ("m.A_log", (3, 16), "A"),
        ("m.dt_proj.bias", (3,), "t"),
        ("m.pe", (5, 4), "pe"),
        ("r.inv_freq", (4,), "r"),
    ],
)
def test_kinds(key, shape, kind):
    assert rule.kind_of(key, shape) == kind


def test_spectral_norm_has_sigma_of_the_constant_vector():
    state = rule.state_of({"c.weight_orig": [3, 2, 2], "c.weight_u": [3], "c.weight_v": [4]}, {})
    matrix = state["c.weight_orig"].flatten(1)
    sigma = state["c.weight_u"] @ matrix @ state["c.weight_v"]
    torch.testing.assert_close(sigma, (matrix @ torch.full((4,), 0.5, dtype=torch.float64)).norm())


def small_network():
    torch.set_default_dtype(torch.float64)
    config = {"n_fft": 64, "win_length": 48, "hop_length": 24, "bands": [[0, 9], [8, 20], [20, 32]], "feature_dim": 8}
    config |= {"lstm_hidden": 6, "num_heads": 2, "reinject_at": [0, 1], "film": True, "num_gridnet_blocks": 2}
    network = build_model("hifi_tse", ADAPTERS["hifi_tse"].params(config, []), 8000).eval()
    keys = {key: list(value.shape) for key, value in network.state_dict().items()}
    fill(network, keys, {}, Names("** **"))
    return network


def stored(output):
    flat = output.detach().flatten()
    idx = list(range(3, flat.numel(), 97))
    numbers = {"mean": flat.mean(), "std": flat.std(unbiased=False), "l2": flat.norm(), "absmax": flat.abs().max()}
    lists = {"shape": list(output.shape), "first": flat[:8].tolist(), "idx": idx, "at_idx": flat[idx].tolist()}
    return {**{key: value.item() for key, value in numbers.items()}, **lists}


def test_a_wrong_network_is_noticed():
    """Batches work; exchanging two tensors, or the two directions of an LSTM, moves the numbers far beyond 1e-9."""
    network = small_network()
    mixture = rule.input_of({"shape": [2, 500], "rows": [{"n": 500, "f0": 220}, {"n": 500, "f0": 300, "c": 5}]})
    enroll = rule.input_of({"shape": [2, 700], "rows": [{"n": 700, "f0": 150}, {"n": 700, "f0": 400, "c": 9}]})
    numbers = stored(extract(network, mixture, enroll))
    assert rule.deviation(extract(network, mixture, enroll), numbers) == 0

    lstm = network.gridnet.blocks[0].time_lstm
    with torch.no_grad():
        lstm.weight_ih_l0, lstm.weight_ih_l0_reverse = lstm.weight_ih_l0_reverse, lstm.weight_ih_l0
    assert rule.deviation(extract(network, mixture, enroll), numbers) > 1e-6

    numbers["first"][0] = float("nan")
    assert rule.deviation(extract(network, mixture, enroll), numbers) == float("inf")


def test_another_folder(tmp_path):
    """`--fixtures DIR` runs that folder: its fixture of an unknown network is skipped, its wrong number fails."""
    losses = json.loads((HERE / "fixtures" / "hifi_tse_losses.json").read_text(encoding="utf-8"))
    losses["losses"]["l1_waveform_loss"]["value"] = [0.1]
    (tmp_path / "other_losses.json").write_text(json.dumps(losses), encoding="utf-8")
    (tmp_path / "unheard_of.json").write_text(json.dumps({"outputs": {}, "config": {}}), encoding="utf-8")
    others = [f"--ignore=tests/parity/{name}.py" for name in ("test_rule", "test_scan")]
    options = ["-q", "-p", "no:cacheprovider", *others, "--fixtures", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", "tests/parity", *options]
    result = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, check=False)
    assert "no model for unheard_of" in result.stdout, result.stdout + result.stderr
    assert "FAILED tests/parity/test_parity.py::test_loss[other_losses-l1_waveform_loss]" in result.stdout
    assert "1 failed, 5 passed, 1 skipped" in result.stdout
