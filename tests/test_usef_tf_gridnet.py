"""USEF-TFGridNet: the contract of an extractor; with `compat` it leaves the end out as the original does."""

import functools

import pytest
import torch

from tests import extractor, separator
from tests.separator import noise
from tse_lib.models.usef_tf_gridnet import USEFTFGridNet

SMALL = {"n_fft": 32, "hop_length": 16, "num_blocks": 1, "emb_dim": 4, "lstm_hidden": 5, "num_heads": 2, "qk_dim": 2}


def maker(**options):
    return functools.partial(USEFTFGridNet, **{**SMALL, **options})


@pytest.mark.parametrize("options", [{}, {"emb_ks": 3, "win_length": 24, "hop_length": 8}, {"emb_ks": 2, "emb_hs": 2}])
def test_an_extractor(options):
    extractor.check_all(maker(**options))


def test_compat_differs_only_where_no_whole_hop_is_filled():
    ours, published = separator.build(maker()), separator.build(maker(compat=True))
    enroll = noise(1, 1, 320, seed=1)
    whole, odd = noise(2, 1, 480), noise(2, 1, 490)
    assert torch.equal(extractor.run(ours, whole[:1], enroll), extractor.run(published, whole[:1], enroll))
    for size in (490, 495, 496, 497):
        odd = noise(1, 1, size)
        cut = extractor.run(published, odd, enroll)
        assert cut.shape == (1, 1, 1, size)
        assert cut[..., : size // 16 * 16].abs().min() > 0 and not cut[..., size // 16 * 16 :].any()
        assert extractor.run(ours, odd, enroll).abs().min() > 0


@torch.no_grad()
def test_the_end_of_a_mixture_is_not_loud():
    """Samples behind the last frame's centre would lie under the window's end, where little noise becomes much."""
    model = separator.build(maker())
    mixture, enroll = noise(8, 1, 48 * 16 + 15), noise(8, 1, 320, seed=1)
    estimate = extractor.run(model, mixture, enroll)[:, 0, 0]
    assert estimate[:, -15:].abs().max() < 3 * estimate[:, :-15].abs().max()


@pytest.mark.parametrize("gain", [1e-3, 50.0])
def test_the_output_follows_the_mixtures_level_and_no_enrolments(gain):
    model, mixture, enroll = separator.build(maker()), noise(1, 1, 400), noise(1, 1, 300, seed=1)
    estimate = extractor.run(model, mixture, enroll)
    torch.testing.assert_close(extractor.run(model, gain * mixture, enroll), gain * estimate, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(extractor.run(model, mixture, gain * enroll), estimate, rtol=1e-3, atol=1e-6)


def test_gradient_checkpointing_changes_nothing():
    extractor.check_recomputing(maker())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"emb_dim": 5}, "emb_dim 5 must be a multiple of num_heads 2"),
        ({"emb_hs": 2}, "0 < emb_hs 2 <= emb_ks 1 must hold"),
        ({"hop_length": 17}, "0 < 2 [*] hop_length 17 <= win_length 32 <= n_fft"),
        ({"win_length": 48}, "win_length 48 <= n_fft"),
        ({"n_fft": 33}, "n_fft 33 must be even"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        maker(**options)()
