"""Silence where the wanted talker does not speak."""

import numpy as np

FADE_S = 0.05
STAY = 0.5  # an open gate closes where the probability is below this share of the threshold: it does not flutter


def gate(estimate: np.ndarray, probabilities: np.ndarray, threshold: float, sample_rate: int) -> np.ndarray:
    """Fade an estimate to silence in the seconds in which the talker is judged absent.

    The gate opens where the probability reaches the threshold and closes where it falls below half of it. Fades of
    50 ms lie outside the open seconds.

    Args:
        estimate: (T,) or (C, T).
        probabilities: (L,), as `Extractor.presence` gives them.

    Returns:
        float32, the shape of `estimate`.
    """
    # as many seconds as were judged: at the model's rate the last one may be rounded to be one, or to be none
    edges = np.append(np.arange(len(probabilities)) * sample_rate, estimate.shape[-1])
    fade = max(1, round(FADE_S * sample_rate))
    ramp = (np.arange(fade, dtype=np.float32) + 0.5) / fade
    gain = np.zeros(estimate.shape[-1], np.float32)
    for second in np.flatnonzero(open_seconds(probabilities, threshold)):
        begin, end = edges[second : second + 2]
        gain[begin:end] = 1
        before, after = gain[max(0, begin - fade) : begin], gain[end : end + fade]
        np.maximum(before, ramp[fade - len(before) :], out=before)
        np.maximum(after, ramp[::-1][: len(after)], out=after)
    return (estimate * gain).astype(np.float32, copy=False)


def open_seconds(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """(L,) whether the gate is open."""
    found = np.zeros(len(probabilities), bool)
    is_open = False
    for second, probability in enumerate(probabilities):
        is_open = bool(probability >= (threshold * STAY if is_open else threshold))
        found[second] = is_open
    return found
