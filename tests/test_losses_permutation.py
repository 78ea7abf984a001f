"""PIT and MixIT: the right order is found, by either method, and the rest is the inner loss."""

import pytest
import torch

import tse_lib.losses.permutation as permutation
from tse_lib.losses import build_loss
from tse_lib.losses.permutation import best_permutation, mixit, pairwise, pit
from tse_lib.losses.sdr import neg_si_sdr, neg_snr
from tse_lib.losses.spectral import l1, mixture_consistency


def sources(batch, count, samples=800):
    return torch.randn(batch, count, 1, samples, dtype=torch.float64, generator=torch.manual_seed(batch + count))


def orders(batch, count):
    return torch.stack([torch.randperm(count, generator=torch.manual_seed(item)) for item in range(batch)])


def shuffled(x, order):
    return torch.stack([item[row] for item, row in zip(x, order, strict=True)])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("loss", [neg_si_sdr, l1])
def test_pit_of_shuffled_estimates_is_the_loss_in_order(count, loss):
    target = sources(5, count)
    estimate = target + 0.3 * sources(6, count)[:5]
    value = pit(shuffled(estimate, orders(5, count)), target, loss)
    torch.testing.assert_close(value, loss(estimate, target))


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_best_permutation_puts_the_estimates_in_order(count):
    target, order = sources(5, count), orders(5, count)
    estimate = shuffled(target, order)
    found = best_permutation(pairwise(estimate, target))
    assert torch.equal(shuffled(estimate, found), target)
    assert torch.equal(order.gather(1, found), torch.arange(count).expand(5, -1))


@pytest.mark.parametrize("count", [2, 3])
def test_both_methods_find_the_same(count, monkeypatch):
    costs = torch.randn(50, count, count, generator=torch.manual_seed(0))
    tried = best_permutation(costs)
    monkeypatch.setattr(permutation, "EXHAUSTIVE", 1)
    assert torch.equal(best_permutation(costs), tried)


def test_greedy_choices_are_not_best():
    """Estimate 0 fits both targets, target 0 best; it is needed for target 1."""
    costs = torch.tensor([[[0.0, 1.0], [2.0, 9.0]]])
    assert best_permutation(costs).tolist() == [[1, 0]]


def test_pairwise_is_estimate_by_target():
    estimate, target = sources(2, 3), sources(4, 3)[:2]
    matrix = pairwise(estimate, target, l1)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                torch.testing.assert_close(matrix[b, i, j], (estimate[b, i] - target[b, j]).abs().mean())


def test_the_gradient_is_that_of_the_best_order():
    target, order = sources(3, 2), orders(3, 2)
    estimate = (target + 0.3 * sources(4, 2)[:3]).requires_grad_()
    (found,) = torch.autograd.grad(pit(shuffled(estimate, order), target).sum(), estimate)
    (known,) = torch.autograd.grad(neg_si_sdr(estimate, target).sum(), estimate)
    torch.testing.assert_close(found, known)


@pytest.mark.parametrize("count", [2, 4])
def test_what_is_not_finite_stays_so(count):
    """The training step leaves a step out whose gradient is not finite: a loss must come back, not an exception."""
    target = sources(2, count)
    estimate = target.clone()
    estimate[0, 0, 0, 0] = torch.nan
    value = pit(estimate, target, l1)
    assert value[0].isnan() and value[1] == 0


def test_pit_needs_as_many_estimates_as_targets():
    with pytest.raises(ValueError, match=r"estimates \(2, 3, 1, 800\) and targets \(2, 2, 1, 800\): one shape"):
        pit(sources(2, 3), sources(2, 2))


# ---------------------------------------------------------------------------------------- MixIT


@pytest.mark.parametrize("count", [2, 4, 5])
def test_mixit_finds_who_is_in_which_mixture(count):
    """Estimates that are the sources: a perfect thresholded SNR, whatever the assignment is."""
    estimate = sources(6, count)
    owner = torch.randint(2, (6, count), generator=torch.manual_seed(1))
    owner[:, 0], owner[1:, -1], owner[0] = 0, 1, 0  # in item 0 the second mixture is silent
    mixtures = torch.stack([(estimate * (owner == n)[:, :, None, None]).sum(1) for n in (0, 1)], 1)
    value = mixit(estimate, mixtures)
    torch.testing.assert_close(value, torch.tensor([-15.0, *[-30.0] * 5], dtype=torch.float64))
    assert mixit(estimate, mixtures, l1).abs().max() < 1e-12


def test_mixit_is_the_loss_of_the_best_sums_with_its_gradient():
    estimate = sources(3, 4).requires_grad_()
    mixtures = torch.stack([estimate[:, [0, 3]].sum(1), estimate[:, [1, 2]].sum(1)], 1).detach()
    mixtures = mixtures + 0.2 * sources(4, 2)[:3]
    (found,) = torch.autograd.grad(mixit(estimate, mixtures).sum(), estimate)
    sums = torch.stack([estimate[:, 0] + estimate[:, 3], estimate[:, 1] + estimate[:, 2]], 1)
    torch.testing.assert_close(mixit(estimate, mixtures), neg_snr(sums, mixtures, max_db=30.0))
    (known,) = torch.autograd.grad(neg_snr(sums, mixtures, max_db=30.0).sum(), estimate)
    torch.testing.assert_close(found, known)


def test_mixit_does_not_depend_on_its_blocks(monkeypatch):
    estimate, mixtures = sources(2, 5), sources(3, 2)[:2]
    whole = mixit(estimate, mixtures)
    monkeypatch.setattr(permutation, "BLOCK", 3)
    assert torch.equal(mixit(estimate, mixtures), whole)


# ---------------------------------------------------------------------------------------- in a conf


def test_inner_losses_by_name():
    target = sources(3, 2)
    estimate = target.flip(1) + 0.3 * sources(4, 2)[:3]
    torch.testing.assert_close(build_loss("pit", "present", {})(estimate, target), neg_si_sdr(estimate.flip(1), target))
    torch.testing.assert_close(
        build_loss("pit", "present", {"loss": "l1"})(estimate, target), l1(estimate.flip(1), target)
    )
    inner = {"name": "neg_snr", "params": {"max_db": 5.0}}
    torch.testing.assert_close(
        build_loss("pit", "present", {"loss": inner})(estimate, target), neg_snr(estimate.flip(1), target, 5.0)
    )
    torch.testing.assert_close(
        build_loss("mixit", "present", {"loss": inner})(estimate, target), neg_snr(estimate.flip(1), target, 5.0)
    )


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"loss": "si_sdr"}, "unknown loss 'si_sdr'"),
        ({"loss": "pit"}, "loss pit: 'pit' is itself a loss over sources"),
        ({"loss": "energy"}, "'energy' does not fit `when: present`"),
        (
            {"loss": {"name": "neg_snr", "params": {"max": 5}}},
            "loss neg_snr: unknown option 'max'; did you mean 'max_db'",
        ),
        ({"loss": {"params": {}}}, "loss pit: loss: a name or {name: …, params: {…}} expected"),
        ({"loss": 3}, "loss pit: loss: a name or .* expected, got 3"),
        ({"inner": "l1"}, "loss pit: unknown option 'inner'; known: loss"),
        ({"target": 1}, "loss pit: unknown option 'target'"),
    ],
)
def test_inner_loss_errors(params, told):
    with pytest.raises(ValueError, match=told):
        build_loss("pit", "present", params)


# ---------------------------------------------------------------------------------------- mixture consistency


def test_mixture_consistency_is_against_the_sum_or_the_mixture():
    target = sources(3, 3)
    mixture = target.sum(1, keepdim=True)
    assert mixture_consistency(target.flip(1), target).abs().max() < 1e-12
    torch.testing.assert_close(mixture_consistency(target + 0.1, mixture), torch.full((3,), 0.3, dtype=torch.float64))
    torch.testing.assert_close(mixture_consistency(0 * target, mixture), mixture.abs().mean((1, 2, 3)))
