"""PESQ, STOI and ESTOI through the reference implementations (`pesq`, `pystoi`), whose failures become `Undefined`.

References:
    ITU-T P.862 (2001), P.862.1 (narrow band), P.862.2 (wide band): PESQ.
    C. H. Taal, R. C. Hendriks, R. Heusdens, J. Jensen, "An algorithm for intelligibility prediction of time-frequency
    weighted noisy speech", IEEE TASLP 19(7), 2011: STOI.
    J. Jensen, C. H. Taal, "An algorithm for predicting the intelligibility of speech masked by modulated noise
    maskers", IEEE/ACM TASLP 24(11), 2016: ESTOI.
"""

import multiprocessing
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import numpy as np
import pesq as itu_pesq
import pystoi

from tse_lib import audio
from tse_lib.metrics.sdr import Undefined, as_signals, is_silent

# The ITU's C code holds 50 utterances and writes beyond its tables when there are more. In 20 s there is no room for
# so many (an utterance and its pause last 400 ms or more); in 30 s there is, and the process dies.
PESQ_SAFE_S = 20.0
STOI_MIN_S = 0.4  # 30 frames of 25.6 ms, half overlapping


def pesq_name(sample_rate: int) -> str:
    """`pesq_wb` from 16 kHz on, else `pesq_nb`: which of the two `pesq` computes. The two are not comparable."""
    return "pesq_wb" if sample_rate >= 16000 else "pesq_nb"


def pesq(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """MOS-LQO by PESQ, 1 to 4.64: wide band at 16 kHz, narrow band at 8 kHz; other rates are resampled down to these.

    Raises:
        Undefined: silence, less than 1/4 s, less than 8 kHz, no utterance found, or more than the C code holds.
    """
    reference, estimate = _audible(reference, estimate)
    if sample_rate < 8000:
        raise Undefined(f"PESQ is not defined at {sample_rate} Hz")
    rate, mode = (16000, "wb") if sample_rate >= 16000 else (8000, "nb")
    num_samples = reference.size
    reference, estimate = (
        audio.resample(signal.astype(np.float32), sample_rate, rate) for signal in (reference, estimate)
    )
    if num_samples <= PESQ_SAFE_S * sample_rate:
        return _itu_pesq(rate, reference, estimate, mode)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        try:
            return child.submit(_itu_pesq, rate, reference, estimate, mode).result()
        except BrokenProcessPool:
            raise Undefined("too many utterances for PESQ's C code to hold") from None


def stoi(reference: np.ndarray, estimate: np.ndarray, sample_rate: int, extended: bool = False) -> float:
    """Short-time objective intelligibility, -1 to 1 (speech: 0 to 1); ESTOI when `extended`.

    Raises:
        Undefined: silence, or less than 0.4 s of speech within 40 dB of the loudest frame.
    """
    reference, estimate = _audible(reference, estimate)
    if reference.size < STOI_MIN_S * sample_rate:
        raise Undefined(f"too short for STOI ({reference.size / sample_rate:.2f} s)")
    with _fixed_dither(), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and returns 1e-5 where it has no value
        try:
            value = float(pystoi.stoi(reference, estimate, sample_rate, extended=extended))
        except RuntimeWarning:
            raise Undefined("too little speech for STOI") from None
    if not np.isfinite(value):
        raise Undefined("STOI is not a number")
    return value


def _audible(reference: np.ndarray, estimate: np.ndarray) -> list[np.ndarray]:
    signals = as_signals(reference, estimate)
    for signal, name in zip(signals, ("reference", "estimate"), strict=True):
        if is_silent(signal):
            raise Undefined(f"silent {name}")
    return signals


def _itu_pesq(rate: int, reference: np.ndarray, estimate: np.ndarray, mode: str) -> float:
    try:
        value = float(itu_pesq.pesq(rate, reference, estimate, mode))
    except itu_pesq.PesqError as error:  # its message is a bytes object
        text = error.args[0] if error.args else type(error).__name__
        raise Undefined(f"PESQ: {text.decode() if isinstance(text, bytes) else text}") from None
    if not np.isfinite(value):
        raise Undefined("PESQ is not a number")
    return value


@contextmanager
def _fixed_dither() -> Iterator[None]:
    # pystoi's ESTOI adds 1e-16 of noise from numpy's global generator, which decides the value of digitally silent
    # stretches: the same noise each time makes the same score each time
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
