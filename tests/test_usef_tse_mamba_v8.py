"""USEF-TSE-Mamba v8: the contract of an extractor, what is heard of the future, and how its directions become one."""

import functools

import pytest
import torch

from tests import extractor, separator
from tests.separator import noise
from tse_lib.models.usef_tse_mamba_v8 import MERGES, Mambas, USEFTSEMambaV8

SMALL = {"dim": 8, "num_blocks": 1, "num_heads": 2, "enroll_dim": 12, "enroll_blocks": 1}


def maker(**options):
    return functools.partial(USEFTSEMambaV8, **{**SMALL, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"merge": "concat", "cross_attention": False},
        {"merge": "sum", "causal": True, "num_blocks": 2, "kernel_sizes": [7, 5], "strides": [3, 2]},
    ],
)
def test_an_extractor(options):
    extractor.check_all(maker(**options))


@torch.no_grad()
@pytest.mark.parametrize("cross_attention", [True, False])
@pytest.mark.parametrize(("kernel_sizes", "strides"), [([32, 8, 8], [8, 2, 2]), ([7, 5], [3, 2]), ([4], [4])])
def test_the_causal_one_hears_nothing_behind_a_samples_block(kernel_sizes, strides, cross_attention):
    """And all before it: no bit is changed by what follows, and every later block is by what was before."""
    options = {"kernel_sizes": kernel_sizes, "strides": strides, "cross_attention": cross_attention}
    model = separator.build(maker(causal=True, **options))
    condition, mixture = model.encode(noise(1, 1, 200, seed=1)), noise(1, 1, 10 * model.block)
    before = model(mixture, condition)
    for block in (1, 5, 9):
        changed = mixture.clone()
        changed[..., block * model.block :] = noise(1, 1, (10 - block) * model.block, seed=2)
        after = model(changed, condition)
        assert torch.equal(after[..., : block * model.block], before[..., : block * model.block])
        assert (after - before)[..., block * model.block :].abs().max() > 1e-5
    changed = mixture.clone()
    changed[..., 0] += 1
    assert ((model(changed, condition) - before).unflatten(-1, (10, -1)).abs().amax(-1) > 1e-7).all()


@torch.no_grad()
def test_the_causal_one_says_the_same_of_the_beginning_of_a_longer_mixture():
    model, mixture = separator.build(maker(causal=True)), noise(1, 1, 1000)
    condition = model.encode(noise(1, 1, 200, seed=1))
    part = model(mixture[..., :640], condition)
    torch.testing.assert_close(part, model(mixture, condition)[..., :640], **extractor.CLOSE)


@torch.no_grad()
def test_the_other_one_hears_everything_after():
    model, mixture = separator.build(maker()), noise(1, 1, 640)
    condition, changed = model.encode(noise(1, 1, 200, seed=1)), mixture.clone()
    changed[..., 320:] = changed[..., 320:].flip(-1)  # the level stays
    assert (model(changed, condition) - model(mixture, condition))[..., :100].abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_an_estimate_has_the_mixtures_level(causal):
    model, mixture = separator.build(maker(causal=causal)), noise(1, 1, 500)
    enroll = noise(1, 1, 200, seed=1)
    torch.testing.assert_close(
        model(100 * mixture, model.encode(enroll)),
        100 * model(mixture, model.encode(0.1 * enroll)),
        rtol=1e-3,
        atol=1e-3,
    )


@torch.no_grad()
def test_merges():
    """The mean is half the sum; joined, the first half of the map's columns is what comes from the past."""
    torch.manual_seed(0)
    mambas = {merge: Mambas(4, 2, merge) for merge in MERGES}
    for one in mambas.values():
        one.stack.load_state_dict(mambas["sum"].stack.state_dict())
    x = torch.randn(2, 4, 9)
    torch.testing.assert_close(mambas["mean"](x), mambas["sum"](x) / 2)
    mambas["concat"].join.weight.copy_(torch.cat([torch.eye(4), torch.eye(4)], 1))
    mambas["concat"].join.bias.zero_()
    torch.testing.assert_close(mambas["concat"](x), mambas["sum"](x))
    mambas["concat"].join.weight[:, 4:] = 0
    changed = x.clone()
    changed[..., 5:] = 1
    assert torch.equal(mambas["concat"](x)[..., :5], mambas["concat"](changed)[..., :5])


@torch.no_grad()
def test_the_lowest_rate_and_the_size_of_a_condition():
    for size in (1, 32, 33, 320):
        model = separator.build(maker())
        assert model.encode(noise(1, 1, size))["frames"].shape == (1, -(-size // 32), 32)
        model = separator.build(maker(cross_attention=False))
        assert model.encode(noise(1, 1, size))["embedding"].shape == (1, 12)


def test_gradient_checkpointing_changes_nothing():
    extractor.check_recomputing(maker())
    extractor.check_recomputing(maker(cross_attention=False, causal=True))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_heads": 3}, "dim 8: 32 features do not divide into 3 heads"),
        ({"merge": "max"}, "merge: 'max' is none of mean, sum, concat"),
        ({"strides": [2, 2]}, r"kernel_sizes \[32, 8, 8\] and strides \[2, 2\] must be as many, at least 1"),
        ({"strides": [2, 9, 2]}, "must be above 0 and at most kernel_sizes"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        maker(**options)()
