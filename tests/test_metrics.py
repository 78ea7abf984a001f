"""Metrics against closed forms and second implementations."""

import warnings

import numpy as np
import pytest

from tse_lib.metrics import perceptual, presence, sdr
from tse_lib.metrics.sdr import Undefined

RATE = 8000


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def speech_like(rng: np.random.Generator, seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    """Coloured noise in syllables."""
    time = np.arange(round(seconds * rate)) / rate
    carrier = np.convolve(rng.standard_normal(time.size), [1, 1.6, 0.8], "same")
    return 0.05 * carrier * np.clip(np.sin(2 * np.pi * 2.5 * time + rng.uniform(0, 6)), 0.02, 1)


def orthogonal(signal: np.ndarray, to: np.ndarray) -> np.ndarray:
    """`signal` without its mean and without its part along `to`."""
    to, signal = to - to.mean(), signal - signal.mean()
    return signal - (signal @ to) / (to @ to) * to


# ------------------------------------------------------------------------------------------------------------- SI-SDR


@pytest.mark.parametrize("wanted_db", [-20.0, 0.0, 7.5, 60.0])
def test_si_sdr_of_orthogonal_noise_is_the_snr(rng, wanted_db):
    target = speech_like(rng)
    target -= target.mean()
    noise = orthogonal(rng.standard_normal(target.size), target)
    noise *= np.sqrt((target @ target) / (noise @ noise)) * 10 ** (-wanted_db / 20)
    assert sdr.si_sdr(target, target + noise) == pytest.approx(wanted_db, abs=1e-9)


def test_si_sdr_ignores_scale_sign_and_offset(rng):
    target, estimate = speech_like(rng), speech_like(rng) + 0.01
    value = sdr.si_sdr(target, estimate)
    assert sdr.si_sdr(target, -3.7 * estimate + 0.2) == pytest.approx(value, abs=1e-9)
    assert sdr.si_sdr(0.1 * target - 0.3, estimate) == pytest.approx(value, abs=1e-9)


def test_si_sdr_equals_the_formula_by_correlation(rng):
    target = speech_like(rng)
    estimate = 0.4 * target + 0.02 * rng.standard_normal(target.size)
    rho = np.corrcoef(target, estimate)[0, 1]  # SI-SDR = rho^2 / (1 - rho^2)
    assert sdr.si_sdr(target, estimate) == pytest.approx(10 * np.log10(rho**2 / (1 - rho**2)), abs=1e-9)


def test_si_sdr_is_finite_at_both_ends(rng):
    target = speech_like(rng)
    assert sdr.si_sdr(target, 2 * target) == sdr.CEILING_DB
    assert sdr.si_sdr(target, np.zeros_like(target)) == sdr.FLOOR_DB
    assert sdr.si_sdr(target, np.full_like(target, 0.3)) == sdr.FLOOR_DB  # an offset is no signal
    assert sdr.si_sdr(target, orthogonal(rng.standard_normal(target.size), target)) == sdr.FLOOR_DB


def test_si_sdr_of_a_silent_reference_is_undefined(rng):
    with pytest.raises(Undefined, match="silent reference"):
        sdr.si_sdr(np.zeros(100), rng.standard_normal(100))


@pytest.mark.parametrize(
    ("reference", "estimate", "message"),
    [
        (np.ones(10), np.ones(11), r"\(10,\) and \(11,\)"),
        (np.ones((1, 10)), np.ones((1, 10)), "one shape"),
        (np.ones(0), np.ones(0), "one shape"),
        (np.ones(3), np.array([1.0, np.nan, 0.0]), "NaN"),
    ],
)
def test_bad_signals_are_refused(reference, estimate, message):
    with pytest.raises(ValueError, match=message):
        sdr.si_sdr(reference, estimate)


# ------------------------------------------------------------------------------------------------------------ BSS Eval


@pytest.mark.parametrize("num_interferers", [1, 2])
def test_bss_eval_equals_mir_eval_in_fixed_order(rng, num_interferers):
    separation = pytest.importorskip("mir_eval.separation")
    images = np.stack([speech_like(rng) for _ in range(1 + num_interferers)])
    noise = 0.005 * rng.standard_normal(images.shape[1])
    mixture = images.sum(0) + noise
    estimate = np.convolve(images[0], [0.7, 0, 0.2])[: mixture.size] + 0.1 * images[1] + 0.5 * noise
    ours = sdr.bss_eval(images, np.stack([estimate, mixture, images[1] + noise]))
    for value, signal in zip(ours, (estimate, mixture, images[1] + noise), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mir_eval's own deprecation of this module
            expected = separation.bss_eval_sources(images, np.stack([signal, *images[1:]]), compute_permutation=False)
        assert value == pytest.approx([part[0] for part in expected[:3]], abs=1e-3)


def test_bss_eval_tells_interference_from_noise(rng):
    images = np.stack([speech_like(rng), speech_like(rng)])
    leak = sdr.bss_eval(images, images[:1] + 0.1 * images[1])[0]
    noisy = sdr.bss_eval(images, images[:1] + 0.005 * rng.standard_normal(images.shape[1]))[0]
    assert leak.sir is not None and noisy.sir is not None
    assert leak.sir == pytest.approx(leak.sdr, abs=0.1) and leak.sar > 40
    assert noisy.sar == pytest.approx(noisy.sdr, abs=0.5) and noisy.sir > noisy.sdr + 5


def test_bss_eval_forgives_a_short_filter_and_si_sdr_does_not(rng):
    target = speech_like(rng)
    delayed = np.concatenate([np.zeros(5), target[:-5]])
    assert sdr.bss_eval(target[None], delayed[None])[0].sdr > 40
    assert sdr.si_sdr(target, delayed) < 10


def test_bss_eval_without_an_audible_interferer_has_no_sir(rng):
    target = speech_like(rng)
    estimate = target + 0.01 * rng.standard_normal(target.size)
    alone = sdr.bss_eval(target[None], estimate[None])[0]
    assert alone.sir is None and alone.sdr == pytest.approx(alone.sar)
    assert sdr.bss_eval(np.stack([target, 0 * target]), estimate[None])[0] == pytest.approx(alone)


def test_bss_eval_stays_finite(rng):
    images = np.stack([speech_like(rng), speech_like(rng)])
    for estimate in (images[0], images[1]):
        assert np.isfinite(np.array(sdr.bss_eval(images, estimate[None])[0], float)).all()


@pytest.mark.parametrize(
    ("which", "message"), [("reference", "silent reference"), ("estimate", "silent estimate"), ("shape", "expected")]
)
def test_bss_eval_refuses(rng, which, message):
    target, other = speech_like(rng), speech_like(rng)
    references, estimates = np.stack([target, other]), target[None]
    if which == "reference":
        references[0] = 0
    if which == "estimate":
        estimates = 0 * estimates
    if which == "shape":
        estimates = estimates[:, 1:]
    with pytest.raises(ValueError, match=message):
        sdr.bss_eval(references, estimates)


# --------------------------------------------------------------------------------------------------------- perceptual


def test_pesq_is_wide_band_from_16_khz_on(rng):
    assert [perceptual.pesq_name(rate) for rate in (8000, 11025, 16000, 48000)] == [
        "pesq_nb", "pesq_nb", "pesq_wb", "pesq_wb",
    ]  # fmt: skip
    for rate, perfect in ((8000, 4.549), (16000, 4.644)):  # the top of MOS-LQO in P.862.1 and P.862.2
        target = speech_like(rng, rate=rate)
        assert perceptual.pesq(target, target, rate) == pytest.approx(perfect, abs=1e-3)
        assert perceptual.pesq(target, target + 0.02 * rng.standard_normal(target.size), rate) < 3


def test_pesq_at_other_rates_is_that_of_the_resampled_signals(rng):
    from tse_lib import audio

    target = speech_like(rng, rate=44100)
    estimate = target + 0.01 * rng.standard_normal(target.size)
    at_16k = [audio.resample(signal.astype(np.float32), 44100, 16000) for signal in (target, estimate)]
    assert perceptual.pesq(target, estimate, 44100) == pytest.approx(perceptual.pesq(*at_16k, 16000), abs=1e-6)


@pytest.mark.parametrize(
    ("make", "rate", "message"),
    [
        (lambda x: (x, 0 * x), 8000, "silent estimate"),
        (lambda x: (0 * x, x), 8000, "silent reference"),
        (lambda x: (x[:500], x[:500]), 8000, "PESQ: Buffer"),
        (lambda x: (x, x), 4000, "not defined at 4000 Hz"),
    ],
)
def test_pesq_undefined(rng, make, rate, message):
    with pytest.raises(Undefined, match=message):
        perceptual.pesq(*make(speech_like(rng)), rate)


def test_pesq_without_utterances_is_undefined(rng):
    time = np.arange(3 * 16000) / 16000
    clicks = 0.1 * rng.standard_normal(time.size) * (np.mod(time, 0.4) < 0.12)  # too short for utterances
    with pytest.raises(Undefined, match="No utterances"):
        perceptual.pesq(clicks, clicks, 16000)


def test_a_long_signal_that_kills_pesq_does_not_kill_us(rng):
    time = np.arange(40 * 16000) / 16000
    many = 0.1 * rng.standard_normal(time.size) * (np.mod(time, 0.6) < 0.3)  # 66 utterances, the C code holds 50
    with pytest.raises(Undefined, match="too many utterances"):
        perceptual.pesq(many, many + 0.01 * rng.standard_normal(time.size), 16000)


def test_a_long_signal_of_few_utterances_has_a_pesq(rng):
    time = np.arange(21 * RATE) / RATE
    target = 0.1 * rng.standard_normal(time.size) * (np.mod(time, 4) < 2)
    assert perceptual.pesq(target, target, RATE) == pytest.approx(4.549, abs=1e-3)


@pytest.mark.parametrize("extended", [False, True])
def test_stoi(rng, extended):
    target = speech_like(rng)
    noise = 0.02 * rng.standard_normal(target.size)
    values = [perceptual.stoi(target, target + gain * noise, RATE, extended) for gain in (0, 0.3, 3)]
    assert values[0] == pytest.approx(1, abs=1e-6) and values[0] > values[1] > values[2]


def test_estoi_repeats_on_digital_silence_and_leaves_the_global_generator_alone(rng):
    target = speech_like(rng)
    gated = target * (np.arange(target.size) > target.size // 2)
    np.random.seed(1)
    first = perceptual.stoi(target, gated, RATE, extended=True)
    drawn = np.random.rand()
    np.random.seed(1)
    assert np.random.rand() == drawn
    assert perceptual.stoi(target, gated, RATE, extended=True) == first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: (x, 0 * x), "silent estimate"),
        (lambda x: (x[:100], x[:100]), "too short"),
        (lambda x: (np.where(np.arange(x.size) < 1200, x, 0), x), "too little speech"),
    ],
)
def test_stoi_undefined(rng, make, message):
    with pytest.raises(Undefined, match=message):
        perceptual.stoi(*make(speech_like(rng)), RATE)


# ----------------------------------------------------------------------------------------------------------- presence


def test_attenuation_is_the_level_difference(rng):
    mixture = rng.standard_normal(1000)
    assert presence.attenuation_db(mixture, mixture / 10) == pytest.approx(20)
    assert presence.attenuation_db(mixture, 2 * mixture) == pytest.approx(-6.0206, abs=1e-4)
    assert presence.attenuation_db(mixture, 0 * mixture) == presence.MAX_ATTENUATION_DB
    with pytest.raises(Undefined, match="silent mixture"):
        presence.attenuation_db(0 * mixture, mixture)


def test_false_accept_is_louder_than_mixture_minus_20_db():
    assert presence.is_false_accept(19.9)
    assert not presence.is_false_accept(20.0)


def test_confusion_is_nearness_to_another_talker(rng):
    target, first, second = (speech_like(rng) for _ in range(3))
    assert not presence.is_confused(target, [first, second], target + 0.5 * second)
    assert presence.is_confused(target, [first, second], 0.3 * target + second)
    assert not presence.is_confused(target, [], first)
    assert not presence.is_confused(target, [0 * first], target)


def tone(*levels_db: float | None) -> np.ndarray:
    """Frames of 50 ms, each of this RMS level exactly (None: silence)."""
    signs = np.tile([1.0, -1.0], RATE // 40)
    return np.concatenate([signs * (0.0 if level is None else 10 ** (level / 20)) for level in levels_db])


def test_partial_presence_in_closed_form():
    """The target speaks in frames 2 to 5, with a pause in frame 4; a last half frame is not judged."""
    half = np.ones(RATE // 40)
    target = np.append(tone(None, None, -20, -30, None, -25, None, None), half * 0)
    mixture = np.append(tone(-20, -20, -10, -10, -10, -10, -30, -30), half)
    estimate = np.append(tone(-45, -35, -20, -51, -50, -44, -60, None), half)
    found = presence.partial_presence(target, estimate, mixture, RATE)
    assert (found.begin, found.end) == (2 * RATE // 20, 6 * RATE // 20)
    inside, outside = (-20 - 51 - 50 - 44) / 4, (-45 - 35 - 60 - 100) / 4
    assert found.attenuation_db == pytest.approx(-25 - outside, abs=1e-3)
    assert found.contrast_db == pytest.approx(inside - outside, abs=1e-3)
    assert found.false_accept == 1 / 4  # -35 dB; -45 dB is 25 dB below the mixture
    assert found.false_reject == 1 / 3  # -51 dB is 21 dB below the target, -44 dB is 19


def test_a_perfect_output_has_no_false_frames(rng):
    target, other = speech_like(rng), speech_like(rng)
    target[: RATE // 2] = target[-RATE // 2 :] = 0
    found = presence.partial_presence(target, target, target + other, RATE)
    assert found.false_accept == found.false_reject == 0 and found.attenuation_db > 40
    same = presence.partial_presence(target, target + other, target + other, RATE)
    assert same.attenuation_db == pytest.approx(0) and same.false_accept == 1


def test_silence_in_the_mixture_is_not_judged():
    target, mixture = tone(None, -20, None), tone(None, -20, -20)
    found = presence.partial_presence(target, tone(-20, -20, -60), mixture, RATE)
    assert found.false_accept == 0 and found.attenuation_db == pytest.approx(40, abs=1e-3)


@pytest.mark.parametrize(
    ("target", "reason"), [(tone(None, None), "silent target"), (tone(-20, -20), "the target speaks all the time")]
)
def test_without_a_stretch_nothing_can_be_said(target, reason):
    with pytest.raises(Undefined, match=reason):
        presence.partial_presence(target, target, tone(-10, -10), RATE)
