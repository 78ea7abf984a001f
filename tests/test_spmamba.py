"""SPMamba: the contract of a separator."""

import functools

import pytest
import torch

from tests import separator
from tse_lib.models.spmamba import SPMamba

SMALL = {
    "n_fft": 32, "hop_length": 8, "num_blocks": 1, "emb_dim": 4, "emb_ks": 3, "expand": 2, "num_heads": 2, "qk_dim": 2,
}  # fmt: skip


def maker(**options):
    return functools.partial(SPMamba, **{**SMALL, **options})


@pytest.mark.parametrize("options", [{}, {"emb_ks": 4, "emb_hs": 2}])
def test_a_separator(options):
    separator.check_all(maker(**options))


@torch.no_grad()
def test_both_directions_of_time_are_heard():
    model, mixture = separator.build(maker()), separator.noise(1, 1, 600)
    other = mixture.clone()
    other[..., 300] += 1
    moved = (model(mixture) - model(other)).abs()[0, 0, 0]
    assert moved[:250].max() > 0 and moved[350:].max() > 0


@torch.no_grad()
def test_the_output_follows_the_mixtures_level():
    model, mixture = separator.build(maker()), separator.noise(2, 1, 400)
    for gain in (1e-3, 50.0):
        torch.testing.assert_close(model(gain * mixture), gain * model(mixture), rtol=1e-3, atol=1e-4 * gain)


def test_gradient_checkpointing_changes_nothing():
    separator.check_recomputing(maker())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"emb_dim": 5}, "emb_dim 5 must be a multiple of num_heads 2"),
        ({"emb_hs": 4}, "0 < emb_hs 4 <= emb_ks 3 must hold"),
        ({"hop_length": 17}, "n_fft 32 must be even and hop_length 17 at most half of it"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        maker(**options)()
