"""Did the system follow the right talker, and does it keep silent when that talker is not there?

Of a target that speaks for a part of the mixture, silence is judged frame by frame, as HiFi-TSE's test of partial
presence does (`test_partial_presence.py` of the HiFi_TSE project, 2025): frames of 50 ms, levels in dB with a floor of
-100 dBFS, means over frames of dB. There the present frames are known by the clock; here by the target's image, since
a room rings on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tse_lib.metrics.sdr import Undefined, as_signals, is_silent, si_sdr

FALSE_ACCEPT_DB = 20.0
MAX_ATTENUATION_DB = 100.0
FRAME_S = 0.05
FRAME_FLOOR = 1e-10  # mean square: -100 dBFS
ACTIVE_DB = 40.0  # a frame is active within so much of the loudest, as where levels are set


def attenuation_db(mixture: np.ndarray, estimate: np.ndarray) -> float:
    """How much quieter the output is than the mixture: level(mixture) - level(estimate) in dB of RMS, at most 100 dB.

    Raises:
        Undefined: the mixture is silent.
    """
    mixture, estimate = as_signals(mixture, estimate)
    if is_silent(mixture):
        raise Undefined("silent mixture")
    ratio = np.mean(estimate**2) / np.mean(mixture**2)
    return float(-10 * np.log10(max(ratio, 10 ** (-MAX_ATTENUATION_DB / 10))))


def is_false_accept(attenuation: float) -> bool:
    """For a target that is absent: the output is louder than the mixture - 20 dB."""
    return attenuation < FALSE_ACCEPT_DB


def is_confused(target: np.ndarray, interferers: Sequence[np.ndarray], estimate: np.ndarray) -> bool:
    """The estimate is nearer (SI-SDR) to some interferer's image than to the target's."""
    to_target = si_sdr(target, estimate)
    return any(si_sdr(other, estimate) > to_target for other in interferers if not is_silent(other))


class PartialPresence(NamedTuple):
    """Of a target that speaks for a part of the mixture; dB and shares of frames."""

    begin: int  # samples of its stretch, from its first active frame to the end of its last one
    end: int
    attenuation_db: float  # mean level of the mixture less that of the output, outside of the stretch
    contrast_db: float  # mean level of the output in the stretch less that outside of it
    false_accept: float  # outside: the output is louder than the mixture - 20 dB
    false_reject: float  # where the target is active: the output is quieter than the target - 20 dB


def partial_presence(
    target: np.ndarray, estimate: np.ndarray, mixture: np.ndarray, sample_rate: int
) -> PartialPresence:
    """Frame by frame: is the output silent before and after the target's stretch, and is it there within?

    A perfect output has neither false accepts nor false rejects. Frames whose mixture is below the floor are not
    judged, nor is what is left at the end after the last whole frame.

    Raises:
        Undefined: the target is silent, or active from the first frame to the last.
    """
    size = round(FRAME_S * sample_rate)
    wanted, output, mixed = (frame_levels(signal, size) for signal in as_signals(target, estimate, mixture))
    silent_db = 10 * np.log10(2 * FRAME_FLOOR)  # a signal as loud as the floor
    active = wanted > max(wanted.max(initial=silent_db) - ACTIVE_DB, silent_db)
    if not active.any():
        raise Undefined("silent target")
    first, last = np.flatnonzero(active)[[0, -1]]
    inside = np.zeros_like(active)
    inside[first : last + 1] = True
    outside = ~inside & (mixed > silent_db)
    if not outside.any():
        raise Undefined("the target speaks all the time")
    return PartialPresence(
        int(first * size),
        int((last + 1) * size),
        float((mixed - output)[outside].mean()),
        float(output[inside].mean() - output[outside].mean()),
        float((output > mixed - FALSE_ACCEPT_DB)[outside].mean()),
        float((output < wanted - FALSE_ACCEPT_DB)[active].mean()),
    )


def frame_levels(signal: np.ndarray, size: int) -> np.ndarray:
    """(T,) -> (T // size,) levels in dBFS of RMS."""
    frames = signal[: len(signal) // size * size].reshape(-1, size)
    return 10 * np.log10(np.mean(frames**2, 1) + FRAME_FLOOR)
