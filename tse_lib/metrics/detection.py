"""Does the wanted talker speak? A probability a second of an extractor's output, calibrated on mixtures that are known.

An extractor leaves more of the mixture where its talker speaks than where nobody does but others. How much more, and
how surely, differs from model to model: so two attenuations (dB, mixture less output), that of the second and that of
it with its neighbours, are turned into a probability by a logistic regression (Cox 1958), fitted on the development
set with present and absent seconds counting alike. So the probability is the one that holds where the talker speaks
half of the time. The threshold is where as many absent seconds are accepted as present ones are rejected.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from tse_lib.config import Calibration
from tse_lib.metrics.presence import ACTIVE_DB, FRAME_FLOOR, FRAME_S, frame_levels

LIMIT_DB = 60.0  # more attenuation, or amplification, than this says no more
SPEAKS_S = 0.25  # a second with so much of the target's speech has it; one with some but less is left out
FLOOR_DB = 10 * np.log10(2 * FRAME_FLOOR)  # a signal as loud as the floor
RIDGE = 1e-3  # of the fit, so that classes that are told apart without fault get finite weights


class Fit(NamedTuple):
    """What `fit` finds; the names are those of `Calibration`."""

    weights: tuple[float, float]
    bias: float
    threshold: float
    equal_error_rate: float
    seconds_present: int
    seconds_absent: int


def seconds_of(num_samples: int, sample_rate: int) -> np.ndarray:
    """Where seconds begin and the last one ends: L + 1 samples. Less than half a second more belongs to the last."""
    count = max(1, round(num_samples / sample_rate))
    return np.append(np.arange(count) * sample_rate, num_samples)


def features(mixture: np.ndarray, estimate: np.ndarray, sample_rate: int) -> np.ndarray:
    """(T,) or (C, T) -> (L, 2): attenuation in dB of each second, and of it with its neighbours; NaN in silence."""
    edges = seconds_of(mixture.shape[-1], sample_rate)

    def energies(signal: np.ndarray) -> np.ndarray:
        """(L, 2): of each second, and of it with its neighbours."""
        own = np.add.reduceat(np.square(np.atleast_2d(signal), dtype=np.float64).mean(0), edges[:-1])
        before_and_after = np.pad(own, 1)
        return np.stack([own, before_and_after[:-2] + own + before_and_after[2:]], 1)

    mixed, output = energies(mixture), energies(estimate)
    with np.errstate(divide="ignore", invalid="ignore"):
        attenuation = np.clip(10 * np.log10(mixed / output), -LIMIT_DB, LIMIT_DB)
    attenuation[mixed[:, 0] < FRAME_FLOOR * np.diff(edges)] = np.nan
    return attenuation


def probabilities(mixture: np.ndarray, estimate: np.ndarray, sample_rate: int, calibration: Calibration) -> np.ndarray:
    """That the target speaks: (T,) or (C, T) -> (L,) seconds; 0 where the mixture is silent."""
    log_odds = features(mixture, estimate, sample_rate) @ np.array(calibration.weights) + calibration.bias
    return np.where(np.isnan(log_odds), 0.0, expit(log_odds))


def truth(target: np.ndarray | None, mixture: np.ndarray, sample_rate: int) -> np.ndarray:
    """Whether the target speaks in each second: (T,) -> (L,) of 1 and 0; NaN for too little speech or a silent mixture.

    Args:
        target: its image; None where it is absent.
    """
    edges = seconds_of(len(mixture), sample_rate)
    size = round(FRAME_S * sample_rate)
    mixed = frame_levels(mixture, size)
    wanted = np.full_like(mixed, FLOOR_DB) if target is None else frame_levels(target, size)
    active = wanted > max(wanted.max(initial=FLOOR_DB) - ACTIVE_DB, FLOOR_DB)
    found = np.full(len(edges) - 1, np.nan)
    of_frames = np.searchsorted(edges[1:-1], np.arange(len(mixed)) * size + size // 2, side="right")
    for second in range(len(found)):
        inside = of_frames == second
        speech_s = active[inside].sum() * FRAME_S
        if (mixed[inside] > FLOOR_DB).any() and (speech_s == 0 or speech_s >= SPEAKS_S):
            found[second] = float(speech_s > 0)
    return found


def fit(seconds: np.ndarray, speaks: np.ndarray) -> Fit:
    """A logistic regression of two classes that count alike, and its threshold of equal errors.

    Args:
        seconds: (N, 2) `features`.
        speaks: (N,) `truth`; seconds in which either is NaN are left out.

    Raises:
        ValueError: seconds of one kind only.
    """
    known = np.isfinite(speaks) & np.isfinite(seconds).all(1)
    inputs, present = seconds[known], speaks[known] > 0
    if present.all() or not present.any():
        kind = "in which the target speaks" if not present.any() else "in which it does not"
        raise ValueError(f"no second {kind}, {len(present)} of the other kind: both are needed to calibrate")
    centre, spread = inputs.mean(0), inputs.std(0) + 1e-6
    scaled, sign = (inputs - centre) / spread, np.where(present, 1.0, -1.0)
    share = np.where(present, 0.5 / present.mean(), 0.5 / (~present).mean())

    def loss(parameters: np.ndarray) -> float:
        log_odds = scaled @ parameters[:2] + parameters[2]
        return float(np.mean(share * np.logaddexp(0, -sign * log_odds)) + RIDGE * np.square(parameters[:2]).sum())

    found = minimize(loss, np.zeros(3), method="BFGS").x
    weights = found[:2] / spread
    bias = float(found[2] - weights @ centre)
    probability = expit(inputs @ weights + bias)
    threshold = _equal_error(probability, present)
    errors = (probability[~present] >= threshold).mean(), (probability[present] < threshold).mean()
    of_kinds = int(present.sum()), int((~present).sum())
    return Fit((float(weights[0]), float(weights[1])), bias, threshold, float(np.mean(errors)), *of_kinds)


def _equal_error(probability: np.ndarray, present: np.ndarray) -> float:
    """The threshold, between two of the probabilities, where the shares of both kinds of errors differ least."""
    values = np.unique(probability)
    between = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    accepted = 1 - np.searchsorted(np.sort(probability[~present]), between) / (~present).sum()
    rejected = np.searchsorted(np.sort(probability[present]), between) / present.sum()
    return float(between[np.argmin(np.abs(accepted - rejected))])


def error_rates(
    target: np.ndarray | None, estimate: np.ndarray, mixture: np.ndarray, sample_rate: int, calibration: Calibration
) -> dict[str, float]:
    """Shares of seconds judged wrongly at the calibrated threshold: of (T,) signals, those of the kinds there are.

    Returns:
        `presence_false_accept`: the target does not speak, and is judged present. `presence_false_reject`: it speaks.
    """
    judged = probabilities(mixture, estimate, sample_rate, calibration) >= calibration.threshold
    speaks = truth(target, mixture, sample_rate)
    wrong = {"presence_false_accept": judged[speaks == 0], "presence_false_reject": ~judged[speaks == 1]}
    return {name: float(seconds.mean()) for name, seconds in wrong.items() if len(seconds)}
