"""Energy ratios: SI-SDR, SDR, SIR and SAR of BSS Eval v3, and the SDR of whole tracks.

References:
    J. Le Roux, S. Wisdom, H. Erdogan, J. R. Hershey, "SDR - half-baked or well done?", ICASSP 2019.
    E. Vincent, R. Gribonval, C. Févotte, "Performance measurement in blind audio source separation", IEEE TASLP 14(4),
    2006 (version 3 of its toolbox: `bss_eval_sources`).
    R. Scheibler, "SDR - medium rare with fast computations", ICASSP 2022 (`fast_bss_eval`).
"""

import math
from typing import NamedTuple

import fast_bss_eval.numpy
import numpy as np

# SI-SDR falls to about -10 log10(T) dB for an estimate that has nothing to do with the reference: -48 dB for 4 s at
# 16 kHz. What lies below that is chance, so a mean must not depend on it; a silent estimate gets the floor as well.
FLOOR_DB = -50.0
CEILING_DB = 100.0  # 24-bit files cannot tell better estimates apart
FILTER_LENGTH = 512  # taps of the distortion that BSS Eval forgives
SILENT_TRACK_DBFS = -60.0  # RMS of a stem over its whole length, below which it is silent
TRACK_EPS = 1e-8  # of sums of squares, as evaluations of music separation have it
SILENT_RMS = 1e-10  # -200 dBFS: far below one step of 24 bit


class Undefined(ValueError):
    """The metric has no value for these signals; the message is the reason."""


class BssEval(NamedTuple):
    """dB. `sir` is None where there is no interferer."""

    sdr: float
    sir: float | None
    sar: float


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, of zero-mean signals, within [-50, 100] dB.

    With s the reference, e the estimate (means removed) and a = <e, s> / <s, s>:
    10 log10(|a s|^2 / |e - a s|^2). A silent estimate gets the floor: it is the worst there is, and leaving it out
    would reward a system for switching off.

    Raises:
        Undefined: the reference is silent.
    """
    reference, estimate = as_signals(reference, estimate)
    reference = reference - reference.mean()
    estimate = estimate - estimate.mean()
    if is_silent(reference):
        raise Undefined("silent reference")
    if is_silent(estimate):
        return FLOOR_DB
    projection = (estimate @ reference) / (reference @ reference) * reference
    distortion = estimate - projection
    return _clamp_db(projection @ projection, distortion @ distortion, FLOOR_DB, CEILING_DB)


def track_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """SDR of a whole track in dB, of all channels together, within [-50, 100] dB: (C, T), (C, T).

    10 log10 ((sum s^2 + 1e-8) / (sum (s - e)^2 + 1e-8)), the "utterance SDR" or uSDR of music separation (of the Music
    Demixing Challenge: Mitsufuji et al. 2021). No scale and no filter is forgiven.

    Raises:
        Undefined: the reference is silent, its RMS below -60 dBFS.
    """
    reference, estimate = as_signals(np.ravel(reference), np.ravel(estimate))
    if is_silent_track(reference):
        raise Undefined(f"silent reference (RMS below {SILENT_TRACK_DBFS:.0f} dBFS)")
    error = reference - estimate
    return _clamp_db(reference @ reference + TRACK_EPS, error @ error + TRACK_EPS, FLOOR_DB, CEILING_DB)


def is_silent_track(reference: np.ndarray) -> bool:
    return bool(np.mean(np.square(reference, dtype=np.float64)) < 10 ** (SILENT_TRACK_DBFS / 10))


def bss_eval(references: np.ndarray, estimates: np.ndarray) -> list[BssEval]:
    """SDR, SIR and SAR of BSS Eval v3 (512 taps) of each estimate against the first reference, within +-100 dB.

    The order is fixed: an estimate of the wrong talker scores as a bad estimate of the target, no permutation is
    sought. With P_0 the projection on 512 shifts of the target and P that on the shifts of all references:
    SDR = |P_0 e|^2 / |e - P_0 e|^2, SIR = |P_0 e|^2 / |P e - P_0 e|^2, SAR = |P e|^2 / |e - P e|^2. So SIR counts what
    is left of the other talkers only; background noise and processing artefacts are both in SAR.

    Args:
        references: `(K, T)`, the target's image and then the interferers'. Silent interferers do not count.
        estimates: `(N, T)`.

    Raises:
        Undefined: a silent target or estimate, or references that cannot be told apart.
    """
    references, estimates = np.asarray(references, np.float64), np.asarray(estimates, np.float64)
    if references.ndim != 2 or estimates.ndim != 2 or references.shape[1] != estimates.shape[1]:
        raise ValueError(f"(K, T) and (N, T) expected, got {references.shape} and {estimates.shape}")
    if is_silent(references[0]):
        raise Undefined("silent reference")
    if any(is_silent(estimate) for estimate in estimates):
        raise Undefined("silent estimate")
    references = np.stack([reference for reference in references if not is_silent(reference)])
    try:  # squared cosines of the angles between an estimate and the two subspaces
        on_each, on_all = fast_bss_eval.numpy.square_cosine_metrics(
            references, estimates, filter_length=FILTER_LENGTH, pairwise=True
        )
    except np.linalg.LinAlgError:
        raise Undefined("linearly dependent references") from None
    if not (np.isfinite(on_each).all() and np.isfinite(on_all).all()):
        raise Undefined("linearly dependent references")
    alone = len(references) == 1
    return [
        BssEval(
            sdr=_clamp_db(target, 1 - target, -CEILING_DB, CEILING_DB),
            sir=None if alone else _clamp_db(target, everything - target, -CEILING_DB, CEILING_DB),
            sar=_clamp_db(everything, 1 - everything, -CEILING_DB, CEILING_DB),
        )
        for target, everything in zip(on_each[0], on_all[0], strict=True)
    ]


def as_signals(*signals: np.ndarray) -> list[np.ndarray]:
    """As float64; ValueError unless all are `(T,)` with the same T > 0 and finite."""
    arrays = [np.asarray(signal, np.float64) for signal in signals]
    shapes = [array.shape for array in arrays]
    if any(array.ndim != 1 or array.shape != arrays[0].shape or array.size == 0 for array in arrays):
        raise ValueError(f"signals of one shape (T,) expected, got {' and '.join(map(str, shapes))}")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("NaN or infinite samples")
    return arrays


def is_silent(signal: np.ndarray) -> bool:
    return bool(np.sqrt(np.mean(np.square(signal))) < SILENT_RMS)


def _clamp_db(numerator: float, denominator: float, lowest: float, highest: float) -> float:
    # rounding can make a projection longer than the signal, hence the two limits at 0
    if denominator <= 0:
        return highest
    if numerator <= 0:
        return lowest
    return float(min(max(10 * math.log10(numerator / denominator), lowest), highest))
