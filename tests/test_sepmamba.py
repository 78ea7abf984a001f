"""SepMamba: the contract of a separator, at lengths that are awkward."""

import copy

import pytest
import torch

from tse_lib.models import build_model

SMALL = {"dim": 12, "num_blocks": 1, "kernel_sizes": [8, 6, 4]}  # the deepest frame is 8 + 5 * 2 + 3 * 4 = 30 samples


def make(seed=0, **params):
    torch.manual_seed(seed)
    return build_model("sepmamba", {**SMALL, **params}, 8000, "separate").eval()


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(model, mixture):
    with torch.no_grad():
        return model(mixture)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("num_sources", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 29, 30, 31, 32, 101, 256])
def test_shapes(size, num_sources, causal):
    estimates = run(make(num_sources=num_sources, causal=causal), noise(2, 2, size))
    assert estimates.shape == (2, num_sources, 2, size) and estimates.isfinite().all()


def test_every_sample_of_the_mixture_is_heard():
    model, mixture = make(), noise(1, 1, 101)
    for place in (0, 50, 100):
        changed = mixture.clone()
        changed[..., place] += 0.1
        assert (run(model, changed) - run(model, mixture)).abs().max() > 1e-5, place


def test_channels_and_items_are_separated_one_by_one():
    model, mixtures = make(), noise(3, 2, 120)
    together = run(model, mixtures)
    for item in range(3):
        for channel in range(2):
            alone = run(model, mixtures[item : item + 1, channel : channel + 1])
            torch.testing.assert_close(together[item : item + 1, :, channel : channel + 1], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernel_sizes", [[8, 6, 4], [16, 16, 16]])
def test_the_causal_one_hears_no_further_than_its_convolutions(kernel_sizes):
    model = make(causal=True, num_blocks=2, kernel_sizes=kernel_sizes)
    ahead = sum((kernel - 1) * 2**level for level, kernel in enumerate(kernel_sizes))
    mixture = noise(1, 1, 320)
    for place in (160, 163, 168):
        changed = mixture.clone()
        changed[..., place:] = noise(1, 1, 320 - place, seed=1)
        moved = (run(model, changed) - run(model, mixture)).abs().amax((0, 1, 2))
        assert moved[: place - ahead].max() == 0
        assert moved[place:].min() > 0
    changed = mixture.clone()
    changed[..., 160 + ahead] += 1  # 160: where a frame of each level begins
    assert (run(model, changed) - run(model, mixture))[..., 160].abs().max() > 0


def test_the_other_one_hears_everything_after():
    model, mixture = make(), noise(1, 1, 320)
    changed = mixture.clone()
    changed[..., 310] += 1
    assert (run(model, changed) - run(model, mixture))[..., :100].abs().max() > 0


@pytest.mark.parametrize("causal", [False, True])
def test_a_gradient_reaches_every_parameter(causal):
    model = make(causal=causal, num_blocks=2).train()
    (model(noise(2, 1, 200)) * noise(2, 2, 1, 200, seed=1)).sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_gradient_checkpointing_changes_nothing():
    gradients = []
    for recompute in (False, True):
        model = make(gradient_checkpointing=recompute).train()
        model(noise(2, 1, 200)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_float32_is_close_to_float64():
    model, mixture = make(), noise(1, 1, 400)
    wanted = run(copy.deepcopy(model).double(), mixture.double())
    assert (run(model, mixture) - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"strides": [2, 2]}, r"kernel_sizes \[8, 6, 4\] and strides \[2, 2\] must be as many"),
        ({"strides": [2, 2, 5]}, r"strides \[2, 2, 5\] must be above 0 and at most kernel_sizes"),
        ({"kernel_sizes": [], "strides": []}, "at least 1"),
        ({"num_layers": 3}, "unknown option 'num_layers'"),
    ],
)
def test_options_that_cannot_be(params, told):
    with pytest.raises(ValueError, match=told):
        make(**params)
