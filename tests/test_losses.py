"""Losses against closed forms."""

import math
import re
from pathlib import Path

import pytest
import torch

from tse_lib.config import LossTerm, build, parse_yaml
from tse_lib.losses import FOR_ABSENT, LOSSES, OF_SCALES, OF_SPEAKERS, build_loss
from tse_lib.losses.level import amplitude, attenuation, energy
from tse_lib.losses.sdr import multi_scale_si_sdr, neg_si_sdr, neg_si_sdr_of_scales, neg_snr
from tse_lib.losses.spectral import l1, multi_resolution_stft, phase_sensitive

OF_SIGNALS = [  # masked_mse looks at the whole batch
    name for name in LOSSES if name not in (*OF_SPEAKERS, *OF_SCALES, "masked_mse")
]


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


def test_outputs_at_several_scales_are_weighted(target):
    outputs = torch.stack([target + orthogonal(target) * 10 ** (-snr_db / 20) for snr_db in (12, 5, -3)], 1)
    value = neg_si_sdr_of_scales(outputs, target[:, :, None])
    torch.testing.assert_close(value, torch.full_like(value, -0.8 * 12 - 0.1 * 5 + 0.1 * 3))
    first = neg_si_sdr_of_scales(outputs, target[:, :, None], weights=(1, 0, 0))
    torch.testing.assert_close(first, neg_si_sdr(outputs[:, 0], target))
    with pytest.raises(ValueError, match="neg_si_sdr_of_scales: 2 weights for 3 outputs"):
        neg_si_sdr_of_scales(outputs, target[:, :, None], weights=(1, 0))


def test_perfect_and_silent_signals_are_finite_with_a_gradient(target):
    perfect = neg_si_sdr(target, target)
    expected = -10 * torch.log10((target - target.mean(-1, keepdim=True)).square().sum((1, 2)) / 1e-8)
    torch.testing.assert_close(perfect, expected)
    for estimate, other in ((torch.zeros_like(target), target), (target, torch.zeros_like(target))):
        estimate = estimate.clone().requires_grad_()
        neg_si_sdr(estimate, other).sum().backward()
        assert estimate.grad is not None and estimate.grad.isfinite().all()
    assert neg_si_sdr(torch.zeros_like(target), target).tolist() == [0, 0, 0]


# ---------------------------------------------------------------------------------------- SNR


@pytest.mark.parametrize("snr_db", [-20.0, 0.0, 13.0])
def test_snr_of_noise_of_a_level(target, snr_db):
    noise = target.flip(-1) * 10 ** (-snr_db / 20)
    torch.testing.assert_close(neg_snr(target + noise, target), torch.full((3,), -snr_db, dtype=torch.float64))


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_snr_of_a_scaled_target_is_that_of_the_scale(target, scale):
    expected = 20 * math.log10(abs(1 - scale))
    torch.testing.assert_close(neg_snr(scale * target, target), torch.full((3,), expected, dtype=torch.float64))


def test_snr_comes_near_its_threshold_softly(target):
    for snr_db, expected in ((200.0, -30.0), (30.0, -30 + 10 * math.log10(2)), (-20.0, 20.0)):
        value = neg_snr(target + target.flip(-1) * 10 ** (-snr_db / 20), target, max_db=30.0)
        torch.testing.assert_close(value, torch.full((3,), expected, dtype=torch.float64), atol=1e-4, rtol=0)


def test_thresholded_snr_takes_little_gradient_where_it_is_reached(target):
    def gradient(max_db):
        estimate = (target + 1e-3 * target.flip(-1)).requires_grad_()  # 60 dB
        return torch.autograd.grad(neg_snr(estimate, target, max_db).sum(), estimate)[0].norm()

    torch.testing.assert_close(gradient(30.0), gradient(None) / 1001)


# ---------------------------------------------------------------------------------------- SI-SDR in windows


def test_one_long_window_is_the_si_sdr(target):
    estimate = target + 0.3 * orthogonal(target)
    for zero_mean in (True, False):
        value = multi_scale_si_sdr(estimate, target, windows=(10**6,), zero_mean=zero_mean)
        torch.testing.assert_close(value, neg_si_sdr(estimate, target, zero_mean))


def test_short_windows_weigh_quiet_stretches_like_loud_ones(target):
    """Noise 10 dB below a loud half and 20 dB below a quiet one: the means in dB, not the dB of the sum."""
    half = target[..., :2000]
    noise = orthogonal(half)
    signal = torch.cat([half, 0.1 * half], -1)
    estimate = signal + torch.cat([10**-0.5 * noise, 0.1 * 0.1 * noise], -1)
    windows = multi_scale_si_sdr(estimate, signal, windows=(2000,))
    middle = neg_si_sdr(estimate[..., 1000:3000], signal[..., 1000:3000])
    torch.testing.assert_close(windows, (-10 - 20 + middle) / 3)
    assert (multi_scale_si_sdr(estimate, signal, windows=(4000,)) > -10.2).all()


def test_pauses_of_the_target_do_not_count(target):
    """What an output does where the target is silent changes nothing in short windows, and one long window sees it."""
    signal = torch.cat([target, 0 * target], -1)
    estimate = signal + 0.3 * torch.cat([orthogonal(target), 0 * target], -1)
    noisy = estimate.clone()
    noisy[..., 4500:] = target[..., 500:]  # the last window that counts ends there
    windows = (1000,)
    torch.testing.assert_close(
        multi_scale_si_sdr(noisy, signal, windows), multi_scale_si_sdr(estimate, signal, windows)
    )
    assert (neg_si_sdr(noisy, signal) - neg_si_sdr(estimate, signal) > 9).all()


def test_the_end_of_the_signal_is_in_a_window(target):
    worse = target.clone()
    worse[..., -10:] = 5
    best, value = (multi_scale_si_sdr(x, target, windows=(1500,), zero_mean=False) for x in (target, worse))
    assert (value > best + 10).all()


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


@pytest.mark.parametrize("scale", [0.5, 2.0, -2.0])
def test_multi_resolution_of_a_scaled_target(target, scale):
    """| 1 - c | of convergence and | ln c | of log magnitude, whatever the resolutions; a sign is not seen."""
    value = multi_resolution_stft(scale * target, target)
    expected = (abs(1 - abs(scale)) + abs(math.log(abs(scale)))) / 2
    torch.testing.assert_close(value, torch.full((3,), expected, dtype=torch.float64), rtol=1e-5, atol=0)
    assert multi_resolution_stft(target, target).tolist() == [0, 0, 0]
    assert (multi_resolution_stft(target.flip(-1), target) > 0.1).all()


def test_convergence_over_the_batch_weighs_loud_items_more(target):
    loud = target * torch.tensor([100.0, 1.0, 1.0], dtype=torch.float64)[:, None, None]
    estimate = loud * torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)[:, None, None]
    each, batch = multi_resolution_stft(estimate, loud), multi_resolution_stft(estimate, loud, batch_wide=True)
    expected = torch.tensor([0.0, (1 + math.log(2)) / 2, (1 + math.log(2)) / 2], dtype=torch.float64)
    torch.testing.assert_close(each, expected, rtol=1e-5, atol=0)
    assert (batch[0] > 0) and (batch[1:] < each[1:] - 0.4).all()


# ---------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", OF_SIGNALS)
def test_one_value_an_item_and_items_do_not_mix(target, name):
    loss = LOSSES[name]
    estimate = 0.5 * target + 0.1 * orthogonal(target)
    together = loss(estimate, target)
    assert together.shape == (3,)
    alone = torch.cat([loss(estimate[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    with_source = loss(estimate[:, None], target[:, None])  # (B, S, C, T)
    torch.testing.assert_close(with_source, together)


@pytest.mark.parametrize("name", OF_SIGNALS)
def test_one_value_an_item_of_several_sources(target, name):
    estimate = 0.5 * target + 0.1 * orthogonal(target)
    several = [torch.stack([x, 2 * x.flip(-1)], 1) for x in (estimate, target)]  # (3, 2, 1, 4000)
    together = LOSSES[name](*several)
    assert together.shape == (3,)
    alone = torch.cat([LOSSES[name](*(x[i : i + 1] for x in several)) for i in range(3)])
    torch.testing.assert_close(together, alone)


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


# ---------------------------------------------------------------------------------------- the page about them


def test_the_page_has_all_losses_and_confs_that_work():
    page = (Path(__file__).parent.parent / "docs" / "losses.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(LOSSES)
    confs = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    terms = [build(LossTerm, term, "loss") for conf in confs for term in parse_yaml(conf).get("loss", [])]
    assert len(terms) > 4
    for term in terms:
        build_loss(term.name, term.when, term.params)
