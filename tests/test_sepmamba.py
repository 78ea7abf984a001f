"""SepMamba: the contract of a separator, and how far ahead the causal one hears."""

import functools

import pytest
import torch

from tests import separator
from tse_lib.models.sepmamba import SepMamba

SMALL = {"dim": 12, "num_blocks": 1, "kernel_sizes": [8, 6, 4]}


def maker(**options):
    return functools.partial(SepMamba, **{**SMALL, **options})


@pytest.mark.parametrize(
    "options", [{}, {"causal": True, "num_blocks": 2}, {"kernel_sizes": [5, 5], "strides": [3, 1]}]
)
def test_a_separator(options):
    separator.check_all(maker(**options))


@torch.no_grad()
def test_every_length_around_the_shortest_that_reaches_all_levels():
    model = separator.build(maker())  # the deepest frame is 8 + 5 * 2 + 3 * 4 = 30 samples
    for size in range(1, 40):
        assert model(separator.noise(1, 1, size)).shape == (1, 2, 1, size)


@pytest.mark.parametrize("kernel_sizes", [[8, 6, 4], [16, 16, 16]])
@torch.no_grad()
def test_the_causal_one_hears_no_further_than_its_convolutions(kernel_sizes):
    model = separator.build(maker(causal=True, num_blocks=2, kernel_sizes=kernel_sizes))
    ahead = sum((kernel - 1) * 2**level for level, kernel in enumerate(kernel_sizes))
    assert ahead == {8: 29, 16: 105}[kernel_sizes[0]]
    mixture = separator.noise(1, 1, 320)
    for place in (160, 163, 168):
        changed = mixture.clone()
        changed[..., place:] = separator.noise(1, 1, 320 - place, seed=1)
        moved = (model(changed) - model(mixture)).abs().amax((0, 1, 2))
        assert moved[: place - ahead].max() == 0
        assert moved[place:].min() > 0
    changed = mixture.clone()
    changed[..., 160 + ahead] += 1  # 160: where a frame of each level begins
    assert (model(changed) - model(mixture))[..., 160].abs().max() > 0


@torch.no_grad()
def test_the_other_one_hears_everything_after():
    model, mixture = separator.build(maker()), separator.noise(1, 1, 320)
    changed = mixture.clone()
    changed[..., 310] += 1
    assert (model(changed) - model(mixture))[..., :100].abs().max() > 0


def test_gradient_checkpointing_changes_nothing():
    separator.check_recomputing(maker())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"strides": [2, 2]}, r"kernel_sizes \[8, 6, 4\] and strides \[2, 2\] must be as many"),
        ({"strides": [2, 2, 5]}, r"strides \[2, 2, 5\] must be above 0 and at most kernel_sizes"),
        ({"kernel_sizes": [], "strides": []}, "at least 1"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        maker(**options)()
