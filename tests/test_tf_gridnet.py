"""TF-GridNet: the contract of a separator, its versions, its padding, and the inverse STFT it uses."""

import functools

import pytest
import torch

from tests import separator
from tse_lib.dsp.stft import istft
from tse_lib.models.tf_gridnet import TFGridNet
from tse_lib.nn.gridnet import FullBandAttention, UnfoldedPath, pad_grid

SMALL = {
    "n_fft": 32, "hop_length": 16, "num_blocks": 1, "emb_dim": 4, "emb_ks": 3, "lstm_hidden": 5, "num_heads": 2,
    "qk_dim": 2,
}  # fmt: skip
VERSIONS = {
    "v1": {"padding": "end"},
    "v2": {},
    "v2_stacked": {"emb_hs": 3},
    "v3": {"full_band_norm": False, "normalize": False},
}


def maker(version):
    return functools.partial(TFGridNet, **{**SMALL, **VERSIONS[version]})


@pytest.mark.parametrize("version", VERSIONS)
def test_a_separator(version):
    separator.check_all(maker(version))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"n_fft": 256, "emb_dim": 64, "lstm_hidden": 256, "qk_dim": 4, "padding": "end"}, 14_521_042),  # the paper's
        ({"n_fft": 256, "emb_dim": 128, "emb_ks": 1, "lstm_hidden": 200, "qk_dim": 4}, 7_631_122),
        ({"padding": "end"}, 8_175_874),
        ({}, 8_175_874),
        ({"emb_dim": 128, "emb_ks": 1}, 7_034_194),
        ({"qk_dim": 4, "full_band_norm": False}, 8_043_202),
    ],
)
def test_parameters(options, count):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in TFGridNet(**options).parameters()) == count


@pytest.mark.parametrize("options", [{}, {"emb_ks": 2, "emb_hs": 2}, {"emb_ks": 1}, {"padding": "end"}])
def test_gradient_checkpointing_changes_nothing(options):
    separator.check_recomputing(functools.partial(maker("v2"), **options))


@pytest.mark.parametrize("gain", [1e-3, 50.0])
@torch.no_grad()
def test_the_output_follows_the_mixtures_level(gain):
    mixture = separator.noise(2, 1, 400)
    for version, follows in (("v1", True), ("v2", True), ("v3", False)):
        model = separator.build(maker(version))
        scaled, expected = model(gain * mixture), gain * model(mixture)
        assert ((scaled - expected).norm() < 1e-4 * expected.norm()) == follows


@torch.no_grad()
def test_v3_takes_another_number_of_bins():
    """Weights of one sample rate run at another; those with gains for each bin do not."""
    weights = separator.build(maker("v3")).state_dict()
    other = separator.build(maker("v3"), n_fft=96, hop_length=48)
    other.load_state_dict(weights)
    assert other(separator.noise(1, 1, 500)).isfinite().all()
    with pytest.raises(RuntimeError, match="size mismatch"):
        separator.build(maker("v2"), n_fft=96, hop_length=48).load_state_dict(separator.build(maker("v2")).state_dict())


@pytest.mark.parametrize("both_ends", [False, True])
@pytest.mark.parametrize(("kernel", "hop"), [(1, 1), (4, 1), (4, 2), (4, 3), (4, 4)])
def test_padding_lets_unfolding_use_everything(kernel, hop, both_ends):
    for size in range(1, 14):
        padded = pad_grid(torch.ones(1, size, 7, 1), kernel, hop, both_ends)
        length, margin = padded.shape[1], (kernel - hop) if both_ends else 0
        assert length >= kernel and (length - kernel) % hop == 0
        assert padded[:, margin : margin + size, margin : margin + 7].min() == 1 and padded.sum() == 7 * size
        behind = length - margin - size
        assert behind >= margin and (behind < margin + hop or length == kernel)  # and not more than it takes


@torch.no_grad()
def test_a_path_hears_neighbours_of_each_step():
    """With a map in place of the recurrence, kernel 3 and hop 1 reach two steps to either side."""
    torch.manual_seed(0)
    path = UnfoldedPath(4, 3, 1, torch.nn.Linear(12, 6), 6, 1e-5, stacked=True)
    x = torch.randn(1, 2, 12, 4)
    other = x.clone()
    other[0, 0, 6, 0] += 1
    reached = (path(x) - path(other)).abs().amax((0, 3)) > 0
    assert reached[0].nonzero().flatten().tolist() == [4, 5, 6, 7, 8] and not reached[1].any()


@torch.no_grad()
def test_attention_weighs_whole_frames():
    """Frames in another order give the same in that order: attention knows frames, not positions."""
    torch.manual_seed(0)
    attention = FullBandAttention(4, 2, 3, 5, 1e-5)
    x, order = torch.randn(2, 7, 5, 4), torch.randperm(7)
    torch.testing.assert_close(attention(x)[:, order], attention(x[:, order]))
    other = x.clone()
    other[:, 3, 2] += 1
    assert ((attention(x) - attention(other)).abs().amax((2, 3)) > 0).all()  # each frame heard of it


@pytest.mark.parametrize("size", [17, 64, 500, 511, 512, 513])
@pytest.mark.parametrize("hop", [5, 8, 16])
def test_inverse_stft_is_torchs(size, hop):
    window = torch.hann_window(32, dtype=torch.float64)
    waves = separator.noise(3, size).double()
    spectrum = torch.stft(waves, 32, hop, window=window, return_complex=True)
    torch.testing.assert_close(istft(spectrum, window, hop, size), waves)
    bent = spectrum * torch.linspace(0, 2, spectrum.shape[-1])  # no longer the transform of any wave
    torch.testing.assert_close(
        istft(bent, window, hop, size), torch.istft(bent, 32, hop, window=window, length=size), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"padding": "left"}, "padding: 'left' is neither 'end' nor 'both'"),
        ({"emb_dim": 5}, "emb_dim 5 must be a multiple of num_heads 2"),
        ({"emb_hs": 4}, "0 < emb_hs 4 <= emb_ks 3 must hold"),
        ({"hop_length": 17}, "n_fft 32 must be even and hop_length 17 at most half of it"),
        ({"n_fft": 33}, "n_fft 33 must be even"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        TFGridNet(**{**SMALL, **options})
