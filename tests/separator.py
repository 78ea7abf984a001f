"""What every separator has to do. A test file hands in `make(**options)`, which builds a small one."""

import copy

import torch

SIZES = [1, 2, 15, 16, 17, 99, 500, 1001]  # shorter than a frame, and no multiple of anything


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.manual_seed(seed))


def build(make, **options):
    torch.manual_seed(0)
    return make(**options).eval()


@torch.no_grad()
def check_shapes(make):
    """Any length, number of channels and number of sources; channels are separated one by one."""
    for num_sources in (1, 2, 3):
        model = build(make, num_sources=num_sources)
        for size in SIZES:
            estimate = model(noise(1, 1, size))
            assert estimate.shape == (1, num_sources, 1, size)
            assert estimate.isfinite().all() and estimate.dtype == torch.float32
        mixture = noise(2, 3, 333)
        estimate = model(mixture)
        assert estimate.shape == (2, num_sources, 3, 333)
        alone = torch.cat([model(mixture[:, channel : channel + 1]) for channel in range(3)], 2)
        torch.testing.assert_close(estimate, alone, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def check_items_do_not_mix(make):
    model, mixture = build(make), noise(3, 1, 400)
    other = mixture.clone()
    other[1:] = noise(2, 1, 400, seed=1)
    torch.testing.assert_close(model(mixture)[:1], model(other)[:1], rtol=1e-4, atol=1e-6)
    assert (model(mixture)[1:] - model(other)[1:]).abs().max() > 1e-4


@torch.no_grad()
def check_every_sample_is_separated(make, size):
    """The end of a mixture reaches the estimate, though it fills no whole frame."""
    model, mixture = build(make), noise(1, 1, size)
    other = mixture.clone()
    other[..., -1] += 1
    assert (model(mixture) - model(other))[..., -1].abs().max() > 1e-6


def check_gradients(make, dead=()):
    """They reach every parameter but those that lead nowhere, and are finite, also of silence."""
    model = build(make).train()
    (model(noise(2, 1, 400)) * noise(2, 1, 1, 400, seed=2)).sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == list(dead)
    assert getattr(model, "has_idle_parameters", False) or not dead  # several processes would wait for their gradients
    model.zero_grad()
    model(torch.zeros(1, 1, 400)).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def check_float32(make):
    """Close to float64."""
    model, mixture = build(make), noise(1, 1, 1000)
    exact = copy.deepcopy(model).double()(mixture.double())
    assert (model(mixture) - exact).norm() < 1e-4 * exact.norm()


def check_autocast(make):
    """bf16 inside, waves in float32 that are close to those without it."""
    model, mixture = build(make), noise(1, 1, 1000)
    with torch.autocast("cpu", torch.bfloat16):
        estimate = model(mixture)
    assert estimate.dtype == torch.float32
    exact = model(mixture)
    assert 0 < (estimate - exact).norm() < 0.1 * exact.norm()


def check_recomputing(make, run=lambda model, mixture: model(mixture)):
    """`gradient_checkpointing` keeps fewer numbers for the backward pass, and changes neither output nor gradients."""
    found = []
    for recompute in (False, True):
        model, kept = build(make, gradient_checkpointing=recompute).train(), []
        torch.manual_seed(1)  # dropout
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            estimate = run(model, noise(1, 1, 400))
        estimate.square().sum().backward()
        found.append((sum(kept), [estimate, *(p.grad for p in model.parameters())]))
    (plain, one), (less, other) = found
    assert less < plain
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True) if a is not None)


def check_all(make, dead=()):
    check_shapes(make)
    check_items_do_not_mix(make)
    check_every_sample_is_separated(make, 501)
    check_gradients(make, dead)
    check_float32(make)
    check_autocast(make)
