"""TFC-TDF v3 (MDX23C): its published size, awkward lengths and channels."""

import json
from pathlib import Path

import pytest
import torch

from tse_lib.hub import complete, mdx23c
from tse_lib.hub.names import to_published
from tse_lib.models import build_model, tfc_tdf
from tse_lib.models.presets import PRESETS, cost_of
from tse_lib.models.tfc_tdf import mirrored_to

FIXTURES = Path(__file__).parent / "parity" / "fixtures"
SMALL = {
    "num_sources": 3, "n_fft": 64, "hop_length": 16, "dim_f": 32, "num_channels": 4, "growth": 2, "num_scales": 2,
    "num_subbands": 2, "bottleneck_factor": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_model("tfc_tdf", SMALL, 44100, task=None).eval()


def test_the_published_network_has_its_published_tensors():
    """Names and shapes of all 319; no memory is taken."""
    spec = json.loads((FIXTURES / "tfc_tdf_full.json").read_text())
    keys = json.loads((FIXTURES / spec["keys_file"]).read_text())
    params = PRESETS["mdx23c_drums"]["params"]
    with torch.device("meta"):
        model = build_model("tfc_tdf", params, 44100, task=None)
    assert sum(parameter.numel() for parameter in model.parameters()) == spec["param_count"] == 109_376_576
    published = to_published(model.state_dict(), mdx23c.names_of("tfc_tdf", complete("tfc_tdf", params)))
    assert {key: list(value.shape) for key, value in published.items()} == keys
    assert len(keys) == 319


@pytest.mark.parametrize("size", [1, 2, 15, 16, 100, 176, 177, 1000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_length(network, size, channels):
    with torch.no_grad():
        estimates = network(torch.randn(2, channels, size))
    assert estimates.shape == (2, 3, channels, size) and estimates.isfinite().all()


def test_a_length_that_fits_is_not_padded(network):
    """What is mirrored beyond the end is a part of the norms, so a fitting length must be left alone."""
    assert network.padded_size(16 * 11) == 16 * 11  # 12 frames, a multiple of 4
    assert network.padded_size(16 * 11 + 1) == 16 * 15
    full = build_model(
        "tfc_tdf", {**SMALL, "n_fft": 2048, "hop_length": 512, "num_scales": 4, "dim_f": 64}, 44100, task=None
    )
    assert full.padded_size(512 * 1023) == 512 * 1023


def test_mono_is_heard_twice(network):
    wave = torch.randn(1, 1, 500)
    with torch.no_grad():
        assert torch.equal(network(wave), network(wave.expand(1, 2, 500)).mean(2, keepdim=True))


def test_a_network_of_one_channel_takes_channels_one_by_one():
    mono = build_model("tfc_tdf", {**SMALL, "audio_channels": 1}, 44100, task=None).eval()
    wave = torch.randn(2, 3, 400)
    with torch.no_grad():
        together, alone = mono(wave), mono(wave[1:, 2:])
    assert together.shape == (2, 3, 3, 400)
    torch.testing.assert_close(together[1:, :, 2:], alone, rtol=1e-4, atol=1e-5)


def test_more_channels_than_the_network_has_are_refused(network):
    with pytest.raises(ValueError, match="6 channels; this network takes 2, or one"):
        network(torch.zeros(1, 6, 100))


@pytest.mark.parametrize(
    "params, told",
    [
        ({"dim_f": 30}, "dim_f 30 must be a multiple of num_subbands"),
        ({"dim_f": 64}, "dim_f at most 33"),
        ({"act": "swish"}, "act 'swish': one of gelu"),
    ],
)
def test_sizes_that_cannot_be(params, told):
    with pytest.raises(ValueError, match=told):
        build_model("tfc_tdf", {**SMALL, **params}, 44100, task=None)


def test_recomputing_changes_no_gradient():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = build_model("tfc_tdf", {**SMALL, "gradient_checkpointing": recompute}, 44100, task=None)
        model(torch.linspace(-1, 1, 400).expand(1, 2, 400)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_mirroring_goes_back_and_forth(size):
    wave = torch.arange(size)
    walk = [*range(size), *reversed(range(1, size - 1))] if size > 1 else [0]
    assert mirrored_to(wave, 20).tolist() == [walk[place % len(walk)] for place in range(20)]


@pytest.mark.parametrize("act", ["gelu", "relu", "elu"])
@pytest.mark.parametrize("piece", [1, 2, 7, 128])
def test_without_gradients_the_same_numbers_are_made_in_place_and_in_pieces(act, piece, monkeypatch):
    monkeypatch.setattr(tfc_tdf, "PIECE", piece)
    torch.manual_seed(0)
    model, wave = build_model("tfc_tdf", {**SMALL, "act": act}, 44100, task=None), torch.randn(2, 2, 300)
    kept = wave.clone()
    with torch.no_grad():
        in_place = model(wave)
    assert torch.equal(model(wave), in_place) and torch.equal(wave, kept)


def test_all_of_its_work_is_counted():
    """In the pieces that save memory convolutions are not called as modules, which counting listens to."""
    params = {"n_fft": 1024, "hop_length": 512, "dim_f": 512, "num_channels": 16, "growth": 0, "num_scales": 3}
    outermost = 5 * 9 * 16 * 16 * (44100 // 512) * 128  # the 3x3 convolutions of one block before and one after
    assert cost_of("tfc_tdf", {**params, "num_blocks_per_scale": 1}, 44100)["gmac_per_s"] * 1e9 > outermost
