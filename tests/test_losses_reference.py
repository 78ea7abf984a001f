"""Every loss against a second computation in numpy, float64, against finite differences, on silence, under autocast."""

import json
import math
from functools import partial
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.test_parity import loss_inputs
from tse_lib.losses import LOSSES, OF_SCALES, OF_SPEAKERS, build_loss
from tse_lib.losses.level import energy
from tse_lib.losses.spectral import multi_resolution_stft

FIXTURE = json.loads((Path(__file__).parent / "parity" / "fixtures" / "hifi_tse_losses.json").read_text())
TINY = {"resolutions": ((16, 12, 5), (32, 24, 12))}  # of STFTs of signals that are short enough for finite differences
TINY_MEL = {**TINY, "sample_rate": 8000, "num_mels": 5}
CASES = [  # (name, options): every loss, every option
    ("neg_si_sdr", {}),
    ("neg_si_sdr", {"zero_mean": False}),
    ("neg_snr", {}),
    ("neg_snr", {"max_db": 12.0}),
    ("multi_scale_si_sdr", {"windows": (16, 25, 1000)}),
    ("multi_scale_si_sdr", {"windows": (16,), "zero_mean": False}),
    ("amplitude", {}),
    ("phase_sensitive", TINY),
    ("multi_resolution_stft", TINY),
    ("multi_resolution_stft", {**TINY, "batch_wide": True}),
    ("l1", {}),
    ("mixture_consistency", {}),
    ("pit", {}),
    ("pit", {"loss": "l1"}),
    ("pit", {"loss": {"name": "neg_snr", "params": {"max_db": 12.0}}}),
    ("mixit", {}),
    ("mixit", {"loss": "l1"}),
    ("neg_snr_or_silence", {}),
    ("neg_snr_or_silence", {"max_db": 12.0, "silent_max_db": 20.0}),
    ("neg_snr_or_silence", {"silent_db": 3.0}),
    ("relative_error", {}),
    ("relative_error", {"floor_db": 3.0}),
    ("masked_mse", {}),
    ("masked_mse", {"q": 0.4, "coarse": False}),
    ("multi_resolution_mel", TINY_MEL),
    ("multi_resolution_mel", {**TINY_MEL, "weighted": False}),
    ("energy", {}),
    ("attenuation", {}),
]
each_case = pytest.mark.parametrize(("name", "params"), CASES)


def built(name, params):
    return build_loss(name, "absent" if name in ("energy", "attenuation") else "present", params)


def signals(batch=3, sources=2, channels=2, samples=70):
    """Estimates and targets (B, S, C, T) that are somewhat alike; a quiet stretch in the targets."""
    generator = torch.manual_seed(4)
    target = torch.randn(batch, sources, channels, samples, dtype=torch.float64, generator=generator)
    target[:, :, :, :20] *= 1e-3
    noise = torch.randn(target.shape, dtype=torch.float64, generator=generator)
    return 0.7 * target.flip(1) + 0.4 * noise + 0.1, target


def test_every_loss_has_a_case():
    assert {name for name, _ in CASES} == set(LOSSES) - {*OF_SPEAKERS, *OF_SCALES}  # in other files


# ---------------------------------------------------------------------------------------- the second computation


def np_si_sdr(e, t, zero_mean=True):
    """Through the angle between the signals: SI-SDR = 20 log10 |cot angle|."""
    if zero_mean:
        e, t = e - e.mean(), t - t.mean()
    cosine = np.dot(e, t) / math.sqrt(np.dot(e, e) * np.dot(t, t))
    return 10 * math.log10(cosine**2 / (1 - cosine**2))


def np_snr(e, t, max_db=math.inf):
    return 10 * math.log10(1 / (np.sum((t - e) ** 2) / np.sum(t**2) + 10 ** (-max_db / 10)))


def np_multi_scale(e, t, windows, zero_mean=True):
    scales = []
    for window in windows:
        window = min(window, len(t))
        starts = range(0, len(t) - window + window // 2, window // 2)  # the last window may reach over the end
        stretches = [
            slice(start, start + window) for start in starts if start == 0 or start - window // 2 + window < len(t)
        ]
        padded = [np.concatenate([x, np.zeros(window)]) for x in (e, t)]
        energies = [np.sum(padded[1][stretch] ** 2) for stretch in stretches]
        scales.append(
            np.mean(
                [
                    -np_si_sdr(padded[0][stretch], padded[1][stretch], zero_mean)
                    for stretch, power in zip(stretches, energies, strict=True)
                    if 10 * math.log10(power / max(energies)) >= -40
                ]
            )
        )
    return np.mean(scales)


def np_stft(x, n_fft, window_length, hop, mode="reflect"):
    window = np.zeros(n_fft)
    start = (n_fft - window_length) // 2
    window[start : start + window_length] = [math.sin(math.pi * n / window_length) ** 2 for n in range(window_length)]
    x = np.pad(x, n_fft // 2, mode=mode)
    return np.stack([np.fft.rfft(window * x[at : at + n_fft]) for at in range(0, len(x) - n_fft + 1, hop)])


def np_phase_sensitive(e, t, resolutions):
    """Of one item (S, C, T)."""
    values = []
    for resolution in resolutions:
        gap = np.stack(
            [np_stft(a, *resolution) - np_stft(b, *resolution) for a, b in zip(rows(e), rows(t), strict=True)]
        )
        values.append((np.abs(gap.real).mean() + np.abs(gap.imag).mean()) / 2)
    return np.mean(values)


def np_multi_resolution(estimate, target, resolutions, batch_wide=False):
    """Of the whole batch (B, S, C, T), as the convergence may be over all of it."""
    values = []
    for resolution in resolutions:
        e, t = (
            np.stack([np.abs([np_stft(row, *resolution) for row in rows(item)]) for item in x])
            for x in (estimate, target)
        )
        axes = (0, 1, 2, 3) if batch_wide else (1, 2, 3)
        convergence = np.sqrt(((t - e) ** 2).sum(axes) / (t**2).sum(axes))
        values.append((convergence + np.abs(np.log((t + 1e-8) / (e + 1e-8))).mean((1, 2, 3))) / 2)
    return np.mean(values, 0)


def np_neg_snr_or_silence(e, t, max_db=30.0, silent_max_db=10.0, silent_db=-60.0):
    """Of one item (S, C, T)."""
    values = []
    for a, b in zip(e, t, strict=True):
        heard = np.sum(b**2) > 10 ** (silent_db / 10) * np.sum(t.sum(0) ** 2)
        power, least = (np.sum(b**2), max_db) if heard else (np.sum(t.sum(0) ** 2), silent_max_db)
        values.append(10 * math.log10(np.sum((a - b) ** 2) / power + 10 ** (-least / 10)))
    return np.mean(values)


def np_relative_error(e, t, floor_db=-10.0):
    """Of one item (S, C, T)."""
    mixture = t.sum(0)
    floor = 10 ** (floor_db / 10) * max(np.sum(mixture**2), 1e-6 * mixture.size)
    return np.mean([np.sum((a - b) ** 2) / max(np.sum(b**2), floor) for a, b in zip(e, t, strict=True)])


def np_masked_mse(estimate, target, q=0.95, coarse=True):
    """Of the whole batch, source by source."""
    errors = (estimate - target) ** 2
    errors = errors.mean((2, 3))[..., None] if coarse else errors.reshape(*errors.shape[:2], -1)
    kept = [np.where(one < np.quantile(one, q), one, 0) for one in errors.swapaxes(0, 1)]
    return np.mean([one.mean(1) for one in kept], 0)


def np_mel_bank(sample_rate, n_fft, num_mels, weighted):
    """Triangle by triangle, Slaney's scale by the inverse of its formula."""

    def hertz(mel):
        return 200 * mel / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    def a_curve(f):
        low, high = 20.598997**2, 12194.217**2
        tops = high * f**4 / ((f**2 + low) * (f**2 + high))
        return tops / math.sqrt((f**2 + 107.65265**2) * (f**2 + 737.86223**2))

    top = 15 + 27 * math.log(sample_rate / 2000) / math.log(6.4)
    edges = [hertz(top * number / (num_mels + 1)) for number in range(num_mels + 2)]
    bins = [sample_rate * number / n_fft for number in range(n_fft // 2 + 1)]
    gains = [a_curve(f) / a_curve(1000) if weighted else 1 for f in bins]
    bank = np.zeros((num_mels, len(bins)))
    for row, (left, peak, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for column, f in enumerate(bins):
            height = (f - left) / (peak - left) if f < peak else (right - f) / (right - peak)
            bank[row, column] = max(0, height) * 2 / (right - left) * gains[column]
    return bank


def np_multi_resolution_mel(e, t, resolutions, sample_rate, num_mels, weighted=True):
    """Of one item (S, C, T)."""
    values = []
    for resolution in resolutions:
        bank = np_mel_bank(sample_rate, resolution[0], num_mels, weighted)
        for a, b in zip(rows(e), rows(t), strict=True):
            ours, theirs = (bank @ np.maximum(np.abs(np_stft(x, *resolution, mode="constant")), 1e-4).T for x in (a, b))
            convergence = np.linalg.norm(theirs - ours) / np.linalg.norm(theirs)
            logs = np.log(np.maximum(theirs, 1e-8)) - np.log(np.maximum(ours, 1e-8))
            values.append(convergence + np.abs(logs).mean())
    return np.mean(values)


def np_pit(e, t, inner):
    """Of one item (S, C, T): `inner` of one source (C, T)."""
    sources = range(len(t))
    return min(np.mean([inner(e[i], t[j]) for j, i in enumerate(order)]) for order in permutations(sources))


def np_mixit(e, t, inner):
    ways = product(range(len(t)), repeat=len(e))
    sums = (
        [sum((e[i] for i in range(len(e)) if way[i] == n), np.zeros_like(e[0])) for n in range(len(t))] for way in ways
    )
    return min(np.mean([inner(each, t[n]) for n, each in enumerate(one)]) for one in sums)


def rows(x):
    return x.reshape(-1, x.shape[-1])


def mean_of_rows(function):
    """A function of two signals (T) -> of two arrays (..., T)."""
    return lambda e, t: np.mean([function(a, b) for a, b in zip(rows(e), rows(t), strict=True)])


def np_db(x):
    return 10 * math.log10(np.mean(x**2) + 1e-8)


def np_l1(e, t):
    return np.abs(e - t).mean()


SECOND = {  # of one item (S, C, T); the inner loss of `pit` and `mixit` is looked up in here
    "neg_si_sdr": lambda e, t, zero_mean=True: mean_of_rows(lambda a, b: -np_si_sdr(a, b, zero_mean))(e, t),
    "neg_snr": lambda e, t, max_db=math.inf: mean_of_rows(lambda a, b: -np_snr(a, b, max_db))(e, t),
    "multi_scale_si_sdr": lambda e, t, **params: mean_of_rows(partial(np_multi_scale, **params))(e, t),
    "amplitude": lambda e, t: math.log(np.linalg.norm(e) / np.linalg.norm(t)) ** 2,
    "phase_sensitive": np_phase_sensitive,
    "l1": np_l1,
    "mixture_consistency": lambda e, t: np_l1(e.sum(0), t.sum(0)),
    "neg_snr_or_silence": np_neg_snr_or_silence,
    "relative_error": np_relative_error,
    "multi_resolution_mel": np_multi_resolution_mel,
    "energy": lambda e, t: max(0, np_db(e) + 30),
    "attenuation": lambda e, t: max(0, 10 * math.log10(np.mean(e**2) / np.mean(t**2) + 1e-8) + 40),
}


def second(name, params, estimate, target):
    estimate, target = estimate.numpy(), target.numpy()
    if name == "multi_resolution_stft":
        return np_multi_resolution(estimate, target, **params)
    if name == "masked_mse":
        return np_masked_mse(estimate, target, **params)
    if name in ("pit", "mixit"):
        inner = params.get("loss", "neg_si_sdr" if name == "pit" else {"name": "neg_snr", "params": {"max_db": 30.0}})
        inner = {"name": inner} if isinstance(inner, str) else inner
        whole, one = (np_pit if name == "pit" else np_mixit), partial(SECOND[inner["name"]], **inner.get("params", {}))
        return [whole(e, t, one) for e, t in zip(estimate, target, strict=True)]
    return [SECOND[name](e, t, **params) for e, t in zip(estimate, target, strict=True)]


@each_case
def test_second_computation(name, params):
    estimate, target = signals()
    if name == "mixit":
        estimate = torch.cat([0.6 * estimate, 0.4 * target.flip(-1)], 1)  # four estimates of two mixtures
    value = built(name, params)(estimate, target)
    assert value.shape == (3,) and value.dtype == torch.float64
    np.testing.assert_allclose(value.numpy(), second(name, params, estimate, target), rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------------------- gradients and edges


@each_case
def test_gradient_is_that_of_finite_differences(name, params):
    estimate, target = signals(batch=2, channels=1, samples=50)
    estimate.requires_grad_()
    assert torch.autograd.gradcheck(lambda e: built(name, params)(e, target), (estimate,))


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("silent", ["estimate", "target", "both", "one source", "equal"])
def test_silence_has_finite_values_and_gradients(name, params, dtype, silent):
    estimate, target = (x.to(dtype) for x in signals())
    if silent in ("estimate", "both"):
        estimate = torch.zeros_like(estimate)
    if silent in ("target", "both"):
        target = torch.zeros_like(target)
    if silent == "one source":
        estimate[:, 0], target[:, 1] = 0, 0
    if silent == "equal":
        estimate = target.clone()
    estimate.requires_grad_()
    value = built(name, params)(estimate, target)
    value.sum().backward()
    assert value.isfinite().all() and estimate.grad.isfinite().all()


@each_case
def test_autocast_does_not_round(name, params):
    """A loss that is called inside an autocast region still computes in the precision of its inputs."""
    estimate, target = (x.float() for x in signals())
    loss = built(name, params)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(estimate, target)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, loss(estimate, target), rtol=1e-6, atol=1e-6)


@each_case
def test_float32_is_near_float64(name, params):
    estimate, target = signals()
    loss = built(name, params)
    torch.testing.assert_close(
        loss(estimate.float(), target.float()).double(), loss(estimate, target), rtol=1e-4, atol=1e-4
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_case
def test_gpu_is_near_cpu(name, params):
    estimate, target = (x.float() for x in signals())
    loss = built(name, params)
    on_gpu = loss(estimate.cuda(), target.cuda())
    torch.testing.assert_close(on_gpu.cpu(), loss(estimate, target), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["pit", "mixit"])
def test_choosing_an_order_does_not_wait_for_the_gpu(name):
    estimate, target = (x.cuda() for x in signals())
    loss = built(name, {})
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(estimate, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---------------------------------------------------------------------------------------- numbers of HiFi-TSE


def check(stored, loss):
    estimate, target = loss_inputs(FIXTURE["n"], FIXTURE["o"])
    estimate.requires_grad_()
    value = loss(estimate, target)
    (gradient,) = torch.autograd.grad(value.sum(), estimate)
    silence = torch.zeros_like(estimate)
    ours = {
        "value": value,
        "grad_l2": gradient.norm(),
        "grad_at_idx": gradient.flatten()[stored["grad_idx"]],
        "on_itself": loss(target, target),
        "on_minus_target": loss(-target, target),
        "silent_estimate": loss(silence, target),
        "silent_target": loss(estimate, silence),
        "both_silent": loss(silence, silence),
        "times_0.01": loss(0.01 * estimate, target),
    }
    for case in set(stored) - {"grad_idx"}:
        theirs = torch.tensor(stored[case], dtype=torch.float64).flatten()
        torch.testing.assert_close(ours[case].detach().flatten(), theirs, rtol=1e-9, atol=1e-9)


def test_hifi_tse_multi_resolution_stft():
    check(FIXTURE["losses"]["multi_resolution_stft"], lambda e, t: multi_resolution_stft(e, t, batch_wide=True).mean())


def test_hifi_tse_energy_v1_is_that_of_a_lower_floor_less_the_floor():
    check(FIXTURE["losses"]["energy_loss_v1"], lambda e, t: energy(e, t, -40.0) - 40)


@pytest.mark.parametrize(
    ("key", "share", "floor_db", "shift"),
    [
        ("scene_aware_v2_w0.1", 0.1, -30.0, 0.0),
        ("scene_aware_v2_w0.2", 0.2, -30.0, 0.0),
        ("scene_aware_v1_w0.1", 0.1, -40.0, -40.0),
    ],
)
def test_hifi_tse_scene_aware_is_two_terms(key, share, floor_db, shift):
    """Items 0 and 2 have a target, item 1 has none: a mean over those, weighted 1 - share, and one over this."""
    present, absent = torch.tensor([True, False, True]), torch.tensor([False, True, False])

    def scene_aware(estimate, target):
        sdr = build_loss("neg_si_sdr", "present", {})(estimate[present], target[present]).mean()
        level = build_loss("energy", "absent", {"floor_db": floor_db})(estimate[absent], target[absent]).mean()
        return (1 - share) * sdr + share * (level + shift)

    check(FIXTURE["losses"][key], scene_aware)
