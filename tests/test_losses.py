"""Losses against closed forms."""

import math

import pytest
import torch

from tse_lib.losses import FOR_ABSENT, LOSSES, build_loss
from tse_lib.losses.level import amplitude, attenuation, energy
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.losses.spectral import l1, phase_sensitive


@pytest.fixture
def target():
    return torch.randn(3, 1, 4000, dtype=torch.float64, generator=torch.manual_seed(0))


def orthogonal(target):
    """Zero-mean noise of the same power, orthogonal to the target."""
    noise = torch.randn(target.shape, dtype=torch.float64, generator=torch.manual_seed(1))
    noise, target = noise - noise.mean(-1, keepdim=True), target - target.mean(-1, keepdim=True)
    noise = noise - (noise * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True) * target
    return noise * (target.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))


# ---------------------------------------------------------------------------------------- SI-SDR


@pytest.mark.parametrize("snr_db", [-20.0, 0.0, 13.0])
def test_si_sdr_of_orthogonal_noise_is_the_snr(target, snr_db):
    value = neg_si_sdr(target + orthogonal(target) * 10 ** (-snr_db / 20), target)
    torch.testing.assert_close(value, torch.full((3,), -snr_db, dtype=torch.float64))


def test_si_sdr_of_shared_angle(target):
    """The estimate as cos a of the target and sin a of noise: 20 log10 cot a, whatever its scale and offset."""
    angle = 0.3
    zero_mean = target - target.mean(-1, keepdim=True)
    estimate = -7 * (math.cos(angle) * zero_mean + math.sin(angle) * orthogonal(target)) + 3
    value = neg_si_sdr(estimate, target)
    torch.testing.assert_close(value, torch.full_like(value, 20 * math.log10(math.tan(angle))))


def test_offsets_count_where_asked(target):
    assert (neg_si_sdr(target + 1, target) < -100).all()
    assert (neg_si_sdr(target + 1, target, zero_mean=False) > -1).all()


def test_si_sdr_of_a_shift_is_bad(target):
    assert (neg_si_sdr(target.roll(1, -1), target) > 20).all()


def test_perfect_and_silent_signals_are_finite_with_a_gradient(target):
    perfect = neg_si_sdr(target, target)
    expected = -10 * torch.log10((target - target.mean(-1, keepdim=True)).square().sum((1, 2)) / 1e-8)
    torch.testing.assert_close(perfect, expected)
    for estimate, other in ((torch.zeros_like(target), target), (target, torch.zeros_like(target))):
        estimate = estimate.clone().requires_grad_()
        neg_si_sdr(estimate, other).sum().backward()
        assert estimate.grad is not None and estimate.grad.isfinite().all()
    assert neg_si_sdr(torch.zeros_like(target), target).tolist() == [0, 0, 0]


# ---------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize(("scale", "expected"), [(1, 0), (-1, 0), (2, math.log(2) ** 2), (0.5, math.log(2) ** 2)])
def test_amplitude_of_a_scaled_target(target, scale, expected):
    torch.testing.assert_close(amplitude(scale * target, target), torch.full((3,), expected, dtype=torch.float64))


def test_amplitude_of_silence_is_floored(target):
    torch.testing.assert_close(amplitude(0 * target, target), torch.full((3,), math.log(20) ** 2, dtype=torch.float64))


def test_energy_is_the_level_above_the_floor(target):
    at_20 = target / target.square().mean((1, 2), keepdim=True).sqrt() * 0.1  # -20 dBFS
    torch.testing.assert_close(energy(at_20, target), torch.full((3,), 10.0, dtype=torch.float64), atol=1e-5, rtol=0)
    assert energy(0.1 * at_20, target).tolist() == [0, 0, 0]
    assert energy(0 * at_20, target).tolist() == [0, 0, 0]


def test_attenuation_is_against_the_mixture(target):
    for scale in (1.0, 1e-3):  # blind to the level of the recording
        value = attenuation(0.1 * target * scale, target * scale)
        torch.testing.assert_close(value, torch.full((3,), 20.0, dtype=torch.float64), atol=1e-4, rtol=0)
    assert attenuation(1e-3 * target, target).tolist() == [0, 0, 0]
    assert attenuation(0 * target, target).tolist() == [0, 0, 0]


def test_attenuation_pulls_the_output_down(target):
    estimate = target.clone().requires_grad_()
    attenuation(estimate, target).sum().backward()
    assert ((estimate.grad * target).sum((1, 2)) > 0).all()


# ---------------------------------------------------------------------------------------- distances


def test_l1(target):
    assert l1(target, target).tolist() == [0, 0, 0]
    torch.testing.assert_close(l1(target + 0.5, target), torch.full((3,), 0.5, dtype=torch.float64))


def test_phase_sensitive_of_a_scaled_target_is_linear(target):
    """|2X - X| has the size of |X - 0|; a flipped sign, which magnitudes cannot see, counts twice."""
    silent = phase_sensitive(0 * target, target)
    torch.testing.assert_close(phase_sensitive(2 * target, target), silent)
    torch.testing.assert_close(phase_sensitive(-target, target), 2 * silent)
    assert phase_sensitive(target, target).tolist() == [0, 0, 0]
    assert (phase_sensitive(target.roll(1, -1), target) > 0.1 * silent).all()


def test_phase_sensitive_of_one_resolution_is_the_mean_over_a_plain_stft(target):
    window = torch.hann_window(240, dtype=torch.float64)
    spectrum = torch.view_as_real(torch.stft(target[:, 0], 512, 50, 240, window, return_complex=True))
    value = phase_sensitive(0 * target, target, resolutions=((512, 240, 50),))
    torch.testing.assert_close(value, spectrum.abs().mean((1, 2, 3)))


# ---------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", LOSSES)
def test_one_value_an_item_and_items_do_not_mix(target, name):
    loss = LOSSES[name]
    estimate = 0.5 * target + 0.1 * orthogonal(target)
    together = loss(estimate, target)
    assert together.shape == (3,)
    alone = torch.cat([loss(estimate[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    with_source = loss(estimate[:, None], target[:, None])  # (B, S, C, T)
    torch.testing.assert_close(with_source, together)


def test_build_loss(target):
    loss = build_loss("energy", "absent", {"floor_db": -60})
    torch.testing.assert_close(loss(0.1 * target, target), energy(0.1 * target, target, -60.0))


@pytest.mark.parametrize(
    ("name", "when", "params", "told"),
    [
        ("si_sdr", "present", {}, "unknown loss 'si_sdr'; known: neg_si_sdr, "),
        ("energy", "present", {}, "'energy' does not fit `when: present`; these do: neg_si_sdr"),
        ("l1", "absent", {}, "'l1' does not fit `when: absent`; these do: energy, attenuation"),
        ("energy", "absent", {"floor": 3}, "loss energy: unknown option 'floor'; did you mean 'floor_db'"),
    ],
)
def test_build_loss_errors(name, when, params, told):
    with pytest.raises(ValueError, match=told):
        build_loss(name, when, params)


def test_every_loss_for_absent_targets_is_a_loss():
    assert set(FOR_ABSENT) < set(LOSSES)
