"""MossFormer2: the contract of a separator, its groups, its positions."""

import functools

import pytest
import torch

from tests import separator
from tse_lib.models.mossformer2 import GatedAttention, MossFormer2, angles, rotate

SMALL = {
    "encoder_dim": 12, "kernel_size": 8, "dim": 8, "num_layers": 2, "hidden_dim": 12, "qk_dim": 6, "group_size": 32,
    "memory_dim": 6, "memory_kernel": 7,
}  # fmt: skip


def maker(**options):
    return functools.partial(MossFormer2, **{**SMALL, **options})


@pytest.mark.parametrize("options", [{}, {"masking": False}, {"dim": 10, "qk_dim": 40}])
def test_a_separator(options):
    separator.check_all(maker(**options))


@pytest.mark.parametrize(("num_sources", "count"), [(2, 55_735_394), (3, 55_998_050)])
def test_parameters(num_sources, count):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in MossFormer2(num_sources).parameters()) == count


def test_gradient_checkpointing_changes_nothing():
    separator.check_recomputing(maker())


@torch.no_grad()
def test_dropout_is_for_training():
    model, mixture = separator.build(maker()), separator.noise(1, 1, 300)
    assert torch.equal(model(mixture), model(mixture))
    assert not torch.equal(model.train()(mixture), model(mixture))


def attend(group_size, qk, hidden):
    layer = GatedAttention(8, 12, 6, group_size, 0.0)
    return layer._attend(qk, hidden)


def random_inputs(length):
    generator = torch.manual_seed(0)
    qk = torch.randn(1, length, 4, 6, dtype=torch.float64, generator=generator)
    return qk, torch.randn(1, length, 12, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("group_size", [21, 32, 1000])
def test_a_group_longer_than_the_mixture_is_the_mixture(group_size):
    """And what the group is filled up with counts nowhere; the weights are those of its nominal size."""
    qk, hidden = random_inputs(21)
    near_q, far_q, near_k, far_k = qk.unbind(2)
    weights = torch.relu(near_q @ near_k.transpose(1, 2) / group_size).square()
    far = far_q @ (far_k.transpose(1, 2) @ hidden) / 21
    torch.testing.assert_close(attend(group_size, qk, hidden), weights @ hidden + far)


def test_groups_attend_among_themselves_and_through_the_sum_of_all():
    qk, hidden = random_inputs(21)
    other = hidden.clone()
    other[:, 10] += 1  # in the second group of 8
    for asked, reached in ((0, {8, 15}), (1, {0, 20})):
        qk[:, :, 1] = asked  # whether anybody asks the sum
        difference = (attend(8, qk, hidden) - attend(8, qk, other)).abs().amax((0, 2))
        changed = set(difference.nonzero().flatten().tolist())
        assert (min(changed) // 8, max(changed) // 8) == tuple(place // 8 for place in sorted(reached))


def test_turned_products_depend_on_the_distance():
    query, key = torch.randn(2, 1, 1, 10, dtype=torch.float64, generator=torch.manual_seed(0))
    turn = angles(20, 4, query)
    queries, keys = rotate(query.expand(1, 20, 10), turn)[0], rotate(key.expand(1, 20, 10), turn)[0]
    products = queries @ keys.T
    for distance in (0, 3, -7):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))
    assert (products.diagonal(0)[0] - products.diagonal(3)[0]).abs() > 1e-3
    assert torch.equal(queries[:, 8:], query[0].expand(20, 10)[:, 8:])  # features beyond the turned ones stay


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kernel_size": 15}, "kernel_size 15 must be even"),
        ({"dim": 7}, "dim 7 must be even"),
        ({"memory_kernel": 8}, "memory_kernel 8 must be odd"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(ValueError, match=told):
        MossFormer2(**{**SMALL, **options})
