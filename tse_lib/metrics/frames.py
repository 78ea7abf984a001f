"""SDR, ISR, SIR and SAR of BSS Eval v4 in frames of one second, their medians: what music separation reports as "SDR".

The library `museval` (F.-R. Stöter, A. Liutkus, N. Ito, "The 2018 signal separation evaluation campaign", LVA/ICA 2018)
computes them; it is optional.
"""

import importlib.util
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

WAY = "pip install museval"


class FrameEval(NamedTuple):
    """dB: medians over the frames that have a value. Each is None where no frame has."""

    sdr: float | None
    isr: float | None
    sir: float | None
    sar: float | None


def bss_eval_frames(references: np.ndarray, estimates: np.ndarray, sample_rate: int) -> list[FrameEval]:
    """Of each source the medians over frames of 1 s, with one distortion filter of 512 taps for the whole track.

    A frame in which a reference or an estimate is silent has no value, as museval has it.

    Args:
        references, estimates: (S, C, T); no reference is silent throughout.

    Raises:
        ValueError: museval is not installed, or the signals are shorter than a frame.
    """
    if references.shape[-1] < sample_rate:
        raise ValueError(f"{references.shape[-1] / sample_rate:.2f} s: frames of 1 s are wanted, give longer mixtures")
    if not all(wave.sum(0).any() for wave in (*references, *estimates)):  # then museval raises: no frame has a value
        return [FrameEval(None, None, None, None)] * len(references)
    waves = [np.asarray(x, np.float64).transpose(0, 2, 1) for x in (references, estimates)]  # (S, T, C)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        sdr, isr, sir, sar, _ = _museval().bss_eval(
            *waves, window=sample_rate, hop=sample_rate, compute_permutation=False, filters_len=512,
            framewise_filters=False, bsseval_sources_version=False,
        )  # fmt: skip
        medians = [[_median(row) for row in values] for values in (sdr, isr, sir, sar)]
    return [FrameEval(*values) for values in zip(*medians, strict=True)]


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


def _museval() -> Any:
    """The module `museval.metrics` by itself: the package's own `import` asks for ffmpeg, which metrics do not need."""
    found = importlib.util.find_spec("museval")
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"SDR of frames needs museval: {WAY}; or score without --museval")
    path = Path(next(iter(found.submodule_search_locations))) / "metrics.py"
    spec = importlib.util.spec_from_file_location("museval_metrics", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: cannot be loaded; {WAY} again")
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
