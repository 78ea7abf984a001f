"""USEF-TSE-Mamba: the contract of an extractor; positions and batch norms that no length changes."""

import functools

import pytest
import torch

from tests import extractor, separator
from tests.separator import noise
from tse_lib.models.usef_tse_mamba import ACTIVATIONS, USEFTSEMamba

SMALL = {"dim": 8, "num_blocks": 1, "num_heads": 2, "num_positions": 40}


def maker(**options):
    return functools.partial(USEFTSEMamba, **{**SMALL, **options})


@pytest.mark.parametrize("options", [{}, {"every_level": True, "kernel_sizes": [8, 5, 5], "strides": [3, 2, 2]}])
def test_an_extractor(options):
    extractor.check_all(maker(**options))


@pytest.mark.parametrize(("options", "count"), [({}, 27_558_531), ({"every_level": True}, 30_223_111)])
def test_parameters(options, count):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in USEFTSEMamba(**options).parameters()) == count


@torch.no_grad()
@pytest.mark.parametrize("compat", [False, True])
def test_a_frames_position_depends_on_its_place_only(compat):
    """With compat on all of them go when a signal has more frames than there are positions."""
    model, enroll = separator.build(maker(compat=compat)), noise(1, 1, 600)
    short, long = (model.encode(enroll[..., :size])["frames_2"] for size in (300, 600))  # 38 and 76 frames
    moved = (short[:, :30] - long[:, :30]).abs().amax()
    assert moved > 1e-4 if compat else moved < 1e-6


@torch.no_grad()
def test_compat_is_the_same_where_there_are_enough_positions():
    model, published = separator.build(maker()), separator.build(maker(compat=True))
    mixture, enroll = noise(2, 1, 300), noise(2, 2, 300, seed=1)
    lengths = [[300, 200], [150, 0]]
    ours, theirs = (extractor.run(one, mixture, enroll, lengths) for one in (model, published))
    torch.testing.assert_close(ours, theirs, **extractor.CLOSE)
    mixture = noise(2, 1, 600)
    ours, theirs = (extractor.run(one, mixture, enroll, lengths) for one in (model, published))
    assert (ours - theirs).abs().max() > 1e-4


def test_padding_to_more_frames_than_there_are_positions_changes_nothing():
    for compat in (False, True):
        extractor.check_padding_of_an_enrolment(maker(compat=compat, num_positions=20))


@torch.no_grad()
@pytest.mark.parametrize("compat", [False, True])
def test_an_item_without_any_enrolment_gets_numbers(compat):
    model = separator.build(maker(compat=compat))
    condition = model.encode(noise(2, 2, 300), torch.tensor([[0, 0], [300, 0]]))
    assert model(noise(2, 1, 200), condition).isfinite().all()


@torch.no_grad()
def test_compat_cuts_scores():
    """Where one frame would take all, cut scores leave some to the others."""
    model, published = separator.build(maker()), separator.build(maker(compat=True))
    for one in (model, published):
        one.attention["2"].query.weight *= 1e3
    mixture, enroll = noise(1, 1, 300), noise(1, 1, 300, seed=1)
    assert (extractor.run(model, mixture, enroll) - extractor.run(published, mixture, enroll)).abs().max() > 1e-4


@torch.no_grad()
def test_padding_is_no_part_of_a_batchs_statistics():
    alone, padded = (separator.build(maker()).train() for _ in range(2))
    enroll = noise(1, 1, 300)
    one = alone.encode(enroll[..., :150])["frames_2"]
    condition = padded.encode(enroll, torch.tensor([[150]]))
    torch.testing.assert_close(condition["frames_2"][condition["valid_2"]], one[0], **extractor.CLOSE)
    for ours, theirs in zip(alone.buffers(), padded.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, **extractor.CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kernel_sizes", [[16, 16, 16], [5, 7, 3], [4]])
def test_the_last_convolution_covers_every_mixture(kernel_sizes):
    for stride in (1, 2, 3):
        model = separator.build(maker(kernel_sizes=kernel_sizes, strides=[stride] * len(kernel_sizes)))
        condition = model.encode(noise(1, 1, 100))
        for size in (1, 2, 50, 51, 52, 53):
            assert size <= model.waves(noise(1, 1, size), condition).shape[-1] < size + stride ** len(kernel_sizes)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    model = separator.build(maker(activation=activation))
    assert extractor.run(model, noise(1, 1, 100), noise(1, 1, 100, seed=1)).isfinite().all()


def test_gradient_checkpointing_changes_nothing():
    extractor.check_recomputing(maker())
    statistics = []
    for recompute in (False, True):
        model = separator.build(maker(gradient_checkpointing=recompute)).train()
        model(noise(1, 1, 300), model.encode(noise(1, 1, 300, seed=1))).square().sum().backward()
        statistics.append(list(model.buffers()))
    assert all(torch.equal(one, other) for one, other in zip(*statistics, strict=True))


def test_dropout_is_for_training():
    for compat in (False, True):
        model, mixture = separator.build(maker(dropout=0.5, compat=compat)), noise(1, 1, 200)
        condition = model.encode(noise(1, 1, 200, seed=1))
        assert torch.equal(model(mixture, condition), model(mixture, condition))
        model.train()
        assert not torch.equal(model(mixture, condition), model(mixture, condition))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_heads": 3}, "dim 8: 32 features do not divide into 3 heads"),
        ({"num_heads": 1, "every_level": True}, "dim 8: 8 features do not divide into 0 heads"),
        ({"strides": [2, 2]}, r"kernel_sizes \[16, 16, 16\] and strides \[2, 2\] must be as many, at least 1"),
        ({"strides": [2, 17, 2]}, "must be above 0 and at most kernel_sizes"),
        ({"activation": "tanh"}, "activation: 'tanh' is none of silu, relu"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        maker(**options)()
