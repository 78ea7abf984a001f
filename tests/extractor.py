"""What every extractor has to do. A test file hands in `make(**options)`, which builds a small one."""

import copy

import torch

from tests import separator
from tests.separator import SIZES, build, noise

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@torch.no_grad()
def run(model, mixture, enroll, lengths=None):
    return model(mixture, model.encode(enroll, None if lengths is None else torch.tensor(lengths)))


def check_shapes(make):
    """Any length and number of channels, which are extracted one by one; any length of an enrolment."""
    model, enroll = build(make), noise(1, 1, 300, seed=1)
    for size in SIZES:
        estimate = run(model, noise(1, 1, size), enroll)
        assert estimate.shape == (1, 1, 1, size)
        assert estimate.isfinite().all() and estimate.dtype == torch.float32
        assert run(model, noise(1, 1, 200), noise(1, 1, size)).isfinite().all()
    mixture, enroll = noise(2, 3, 333), noise(2, 2, 300, seed=1)
    estimate = run(model, mixture, enroll, [[300, 200], [300, 0]])
    assert estimate.shape == (2, 1, 3, 333)
    alone = [run(model, mixture[:, [channel]], enroll, [[300, 200], [300, 0]]) for channel in range(3)]
    torch.testing.assert_close(estimate, torch.cat(alone, 2), **CLOSE)


def check_items_do_not_mix(make):
    model, mixture, enroll = build(make), noise(2, 1, 400), noise(2, 2, 300, seed=1)
    together = run(model, mixture, enroll)
    torch.testing.assert_close(together[:1], run(model, mixture[:1], enroll[:1]), **CLOSE)
    assert (together[0] - together[1]).abs().max() > 1e-4


def check_the_enrolment_matters(make, least=1e-3):
    model, mixture = build(make), noise(1, 1, 400)
    one, other = (run(model, mixture, noise(1, 1, 300, seed=seed)) for seed in (1, 2))
    assert (one - other).abs().max() > least * one.abs().max()


def check_every_sample_is_extracted(make, size):
    """The end of a mixture reaches the estimate, though it fills no whole frame."""
    model, mixture, enroll = build(make), noise(1, 1, size), noise(1, 1, 300, seed=1)
    other = mixture.clone()
    other[..., -1] += 1
    assert (run(model, mixture, enroll) - run(model, other, enroll))[..., -1].abs().max() > 1e-6


def check_padding_of_an_enrolment(make, owns=(1, 17, 150, 299)):
    """Neither its length nor what stands in it changes anything, nor does an enrolment that is not there."""
    model, mixture, enroll = build(make), noise(2, 1, 400), noise(2, 2, 300, seed=1)
    whole = run(model, mixture[1:], enroll[1:])
    for own in owns:
        padded = enroll.clone()
        padded[0, 0, own:], padded[0, 1] = 9, 9
        estimate = run(model, mixture, padded, [[own, 0], [300, 300]])
        torch.testing.assert_close(estimate[:1], run(model, mixture[:1], enroll[:1, :1, :own]), **CLOSE)
        torch.testing.assert_close(estimate[1:], whole, **CLOSE)


def check_several_enrolments(make):
    """All of them count, in any order."""
    model, mixture, enroll = build(make), noise(1, 1, 400), noise(1, 3, 300, seed=1)
    three = run(model, mixture, enroll)
    torch.testing.assert_close(three, run(model, mixture, enroll[:, [2, 0, 1]]), **CLOSE)
    for number in range(3):
        assert (three - run(model, mixture, enroll[:, [number]])).abs().max() > 1e-5 * three.abs().max()


@torch.no_grad()
def check_a_condition_is_plain(make):
    """Tensors of the batch; those of one item serve for many."""
    model, mixture, enroll = build(make), noise(3, 1, 400), noise(1, 2, 300, seed=1)
    for lengths in (None, torch.tensor([[300, 120]])):
        condition = model.encode(enroll, lengths)
        assert all(isinstance(value, torch.Tensor) and len(value) == 1 for value in condition.values())
        expanded = {key: value.expand(3, *value.shape[1:]) for key, value in condition.items()}
        alone = torch.cat([model(mixture[item : item + 1], condition) for item in range(3)])
        torch.testing.assert_close(model(mixture, expanded), alone, **CLOSE)


def check_gradients(make, dead=()):
    """They reach every parameter but those that lead nowhere, and are finite, also of silence."""
    model = build(make).train()
    condition = model.encode(noise(2, 2, 300, seed=1), torch.tensor([[300, 200], [300, 0]]))
    (model(noise(2, 1, 400), condition) * noise(2, 1, 1, 400, seed=2)).sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == list(dead)
    assert getattr(model, "has_idle_parameters", False) or not dead  # several processes would wait for their gradients
    model.zero_grad()
    model(torch.zeros(1, 1, 400), model.encode(torch.zeros(1, 1, 300))).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def check_float32(make):
    """Close to float64."""
    model, mixture, enroll = build(make), noise(1, 1, 1000), noise(1, 1, 700, seed=1)
    exact = run(copy.deepcopy(model).double(), mixture.double(), enroll.double())
    assert (run(model, mixture, enroll) - exact).norm() < 1e-4 * exact.norm()


def check_autocast(make):
    """bf16 inside, waves in float32 that are close to those without it."""
    model, mixture, enroll = build(make), noise(1, 1, 1000), noise(1, 1, 700, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        estimate = run(model, mixture, enroll)
    assert estimate.dtype == torch.float32
    exact = run(model, mixture, enroll)
    assert 0 < (estimate - exact).norm() < 0.1 * exact.norm()


def check_recomputing(make):
    """See separator.check_recomputing."""
    enroll = noise(1, 1, 300, seed=1)
    separator.check_recomputing(make, lambda model, mixture: model(mixture, model.encode(enroll)))


def check_all(make, dead=()):
    check_shapes(make)
    check_items_do_not_mix(make)
    check_the_enrolment_matters(make)
    check_every_sample_is_extracted(make, 501)
    check_padding_of_an_enrolment(make)
    check_several_enrolments(make)
    check_a_condition_is_plain(make)
    check_gradients(make, dead)
    check_float32(make)
    check_autocast(make)
