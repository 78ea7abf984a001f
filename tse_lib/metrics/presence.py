"""Did the system follow the right talker, and does it keep silent when that talker is not there?"""

from collections.abc import Sequence

import numpy as np

from tse_lib.metrics.sdr import Undefined, as_signals, is_silent, si_sdr

FALSE_ACCEPT_DB = 20.0
MAX_ATTENUATION_DB = 100.0


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
