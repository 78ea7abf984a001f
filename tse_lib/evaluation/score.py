"""Score estimates on disk against the rendered references of a set: one dictionary a target."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from tse_lib import audio
from tse_lib.config import Calibration
from tse_lib.manifest import Mixture, Source, audio_path
from tse_lib.metrics import detection, perceptual, presence
from tse_lib.metrics.frames import bss_eval_frames
from tse_lib.metrics.sdr import (
    BssEval,
    Undefined,
    bss_eval,
    is_silent_track,
    si_sdr,
    track_sdr,
)

ABOVE_DB = 1.0  # an improvement of less than this is no extraction
DECIMALS = 6
UNDEFINED_DB = 300.0  # below every SI-SDR: what has none is the last choice


# -------------------------------------------------------------------------------------------------------- from arrays


def score(
    reference: np.ndarray | None,
    estimate: np.ndarray,
    mixture: np.ndarray,
    sample_rate: int,
    interferers: Sequence[np.ndarray] = (),
    noisy: bool = False,
    partial: bool = False,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """All metrics of one output.

    A metric comes with `<metric>_mixture`, the same of the unprocessed mixture, and the improvement between the two:
    `si_sdri sdri siri sari` and `<metric>_gain` for `pesq_wb` or `pesq_nb`, `stoi` and `estoi`. What cannot be measured
    for these signals is None, with the reason under `reasons`. What makes no sense for them is left out: SIR and
    confusion without interferers, the improvement of SAR without noise (the mixture then has no artefacts at all).

    Args:
        reference: the target's image, None where the target is absent.
        interferers: the images of the other talkers.
        noisy: the mixture holds noise.
        partial: the target speaks for a part of the mixture, so that silence is judged frame by frame, too.
        calibration: of the model that made the estimate: how presence is judged, second by second.

    Returns:
        Target present: the above and `tp_attenuation_db`, `confused`, `above_1db`. Target present for a part: also
        `frame_{attenuation_db,contrast_db,false_accept,false_reject}` (`presence.partial_presence`), and of its stretch
        alone `stretch_si_sdr` and `stretch_si_sdri`. Target absent: `ta_attenuation_db`, `false_accept`. With a
        calibration: `presence_false_accept` and `presence_false_reject` (`detection.error_rates`), of the kinds of
        seconds that there are. `reasons` only where something is None.
    """
    scores = _Scores()
    if calibration is not None:
        for name, value in detection.error_rates(reference, estimate, mixture, sample_rate, calibration).items():
            scores.values[name] = round(value, DECIMALS)
    if reference is None:
        attenuation = scores.put("ta_attenuation_db", lambda: presence.attenuation_db(mixture, estimate))
        scores.put("false_accept", lambda: presence.is_false_accept(_known(attenuation)))
        return scores.result()

    def both(name: str, improvement: str | None, measure: Callable[[np.ndarray], float]) -> float | None:
        return scores.pair(name, improvement, lambda: measure(estimate), lambda: measure(mixture))

    si_sdri = both("si_sdr", "si_sdri", lambda signal: si_sdr(reference, signal))
    of_estimate, of_mixture = _bss_eval_each(np.stack([reference, *interferers]), [estimate, mixture])
    for name, improvement in (("sdr", "sdri"), ("sir", "siri"), ("sar", "sari" if noisy else None)):
        if name != "sir" or interferers:
            scores.pair(name, improvement, _taker(of_estimate, name), _taker(of_mixture, name))
    pesq_name = perceptual.pesq_name(sample_rate)
    both(pesq_name, f"{pesq_name}_gain", lambda signal: perceptual.pesq(reference, signal, sample_rate))
    both("stoi", "stoi_gain", lambda signal: perceptual.stoi(reference, signal, sample_rate))
    both("estoi", "estoi_gain", lambda signal: perceptual.stoi(reference, signal, sample_rate, extended=True))
    scores.put("tp_attenuation_db", lambda: presence.attenuation_db(mixture, estimate))
    if interferers:
        scores.put("confused", lambda: presence.is_confused(reference, interferers, estimate))
    scores.put("above_1db", lambda: _known(si_sdri) > ABOVE_DB)
    if partial:
        frames = _partial_presence(reference, estimate, mixture, sample_rate)
        for name in ("attenuation_db", "contrast_db", "false_accept", "false_reject"):
            scores.put(f"frame_{name}", _taker(frames, name))
        if isinstance(frames, presence.PartialPresence):
            part = slice(frames.begin, frames.end)
            both("stretch_si_sdr", "stretch_si_sdri", lambda signal: si_sdr(reference[part], signal[part]))
    return scores.result()


class _Scores:
    """Values, and for those that are None the reason."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def put(self, name: str, measure: Callable[[], float]) -> float | None:
        try:
            value = measure()
            self.values[name] = value if isinstance(value, bool) else round(float(value), DECIMALS)
        except Undefined as error:
            self.values[name], self.reasons[name] = None, str(error)
        return self.values[name]

    def pair(
        self, name: str, improvement: str | None, of_estimate: Callable[[], float], of_mixture: Callable[[], float]
    ) -> float | None:
        after, before = self.put(name, of_estimate), self.put(f"{name}_mixture", of_mixture)
        if improvement is None:
            return None
        reason = self.reasons.get(name) or self.reasons.get(f"{name}_mixture")
        return self.put(improvement, lambda: _known(after, reason) - _known(before, reason))

    def result(self) -> dict[str, Any]:
        return {**self.values, **({"reasons": self.reasons} if self.reasons else {})}


def score_stems(
    references: np.ndarray, estimates: np.ndarray, mixture: np.ndarray, sample_rate: int, museval: bool = False
) -> list[dict[str, Any]]:
    """The metrics of sources that have names, one dictionary each: (S, C, T), (S, C, T), (C, T).

    A reference whose RMS over all channels and samples is below -60 dBFS is silent. It has no SDR; how far its estimate
    lies below the mixture is told instead, as of an absent target.

    Args:
        museval: also the SDR, ISR, SIR and SAR of frames, which take seconds a mixture.

    Returns:
        Of one that is heard: `usdr` (`track_sdr`) and `si_sdr` (of all channels as one signal), each with that of the
        mixture and the improvement, and with `museval` `csdr`, `cisr`, `csir` and `csar`. Of one that is silent:
        `ta_attenuation_db`, `false_accept`. `target_present` says which.
    """
    heard = [not is_silent_track(reference) for reference in references]
    frames = iter(bss_eval_frames(references[heard], estimates[heard], sample_rate) if museval and any(heard) else ())
    lines = []
    for reference, estimate, is_heard in zip(references, estimates, heard, strict=True):
        scores, waves = _Scores(), [wave.ravel() for wave in (reference, estimate, mixture)]
        if is_heard:
            scores.pair("usdr", "usdri", *(partial(track_sdr, waves[0], wave) for wave in waves[1:]))
            scores.pair("si_sdr", "si_sdri", *(partial(si_sdr, waves[0], wave) for wave in waves[1:]))
            for name, value in zip(("csdr", "cisr", "csir", "csar"), next(frames, ()), strict=False):
                scores.put(name, partial(_known, value, "no frame of 1 s in which all stems are heard"))
        else:
            attenuation = scores.put("ta_attenuation_db", partial(presence.attenuation_db, waves[2], waves[1]))
            scores.put("false_accept", partial(_false_accept, attenuation))
        lines.append({"target_present": is_heard, **scores.result()})
    return lines


def _false_accept(attenuation_db: float | None) -> bool:
    return presence.is_false_accept(_known(attenuation_db))


def _known(value: float | None, reason: str | None = None) -> float:
    if value is None:
        raise Undefined(reason or "what it is computed from is undefined")
    return value


def _bss_eval_each(references: np.ndarray, estimates: list[np.ndarray]) -> list[BssEval | Undefined]:
    # all at once shares the costly solution; only when that fails it matters which of them did it
    try:
        return list(bss_eval(references, np.stack(estimates)))
    except Undefined as error:
        if len(estimates) == 1:
            return [error]
        return [one for estimate in estimates for one in _bss_eval_each(references, [estimate])]


def _partial_presence(
    reference: np.ndarray, estimate: np.ndarray, mixture: np.ndarray, sample_rate: int
) -> presence.PartialPresence | Undefined:
    try:
        return presence.partial_presence(reference, estimate, mixture, sample_rate)
    except Undefined as error:
        return error


def _taker(result: BssEval | presence.PartialPresence | Undefined, name: str) -> Callable[[], float]:
    def take() -> float:
        if isinstance(result, Undefined):
            raise result
        return _known(getattr(result, name), "silent interferers")

    return take


# --------------------------------------------------------------------------------------------------------- from files


def score_mixture(
    data_dir: str | Path,
    est_dir: str | Path,
    mixture: Mixture,
    genders: dict[str, str],
    calibration: Calibration | None = None,
    museval: bool = False,
) -> list[dict[str, Any]]:
    """The lines of scores.jsonl, one a target: the mixture's id, its conditions and its metrics.

    Of a separation each source is a target. Its line has two entries more: `source`, and which `estimate` is taken for
    it, in the order of estimates that makes their mean SI-SDR best. Stems have names, so each has its own estimate, and
    its line an entry `stem`; `museval` is as of `score_stems`.

    Raises:
        FileNotFoundError, ValueError: naming the file that is missing or does not fit the mixture.
    """

    def rendered(kind: str) -> np.ndarray:
        return read_fitting(audio_path(data_dir, kind, mixture.mix_id), mixture)

    if museval and not mixture.stems:
        raise ValueError("--museval: of stems only; bss_eval is part of the other scores")
    mixed, noisy = rendered("mixture"), is_noisy(mixture)
    estimates = [
        read_fitting(find_estimate(folder, mixture.mix_id), mixture) for folder in estimate_folders(est_dir, mixture)
    ]
    if mixture.enrolls:
        others = [rendered(f"interferer{number}") for number in range(1, len(mixture.interferers) + 1)]
        reference = rendered("target") if mixture.target_present else None
        partial = mixture.target_partial
        metrics = score(reference, estimates[0], mixed, mixture.sample_rate, others, noisy, partial, calibration)
        return [{"mix_id": mixture.mix_id, **conditions(mixture, genders), **metrics}]
    references = [rendered(name) for name in mixture.source_names]
    if mixture.stems:
        scored = score_stems(np.stack(references), np.stack(estimates), mixed, mixture.sample_rate, museval)
        return [
            {
                "mix_id": mixture.mix_id,
                "source": number,
                "estimate": number,
                "stem": stem.name,
                "target_spk": stem.origin,
                "seconds": mixture.num_samples / mixture.sample_rate,
                **values,
            }
            for number, (stem, values) in enumerate(zip(mixture.stems, scored, strict=True), 1)
        ]
    lines = []
    for place, number in enumerate(best_order(references, estimates)):
        others = references[:place] + references[place + 1 :]
        metrics = score(references[place], estimates[number], mixed, mixture.sample_rate, others, noisy)
        taken = {"mix_id": mixture.mix_id, "source": place + 1, "estimate": number + 1}
        lines.append({**taken, **conditions(mixture, genders, place), **metrics})
    return lines


def estimate_folders(est_dir: str | Path, mixture: Mixture) -> list[Path]:
    """Where the estimates of a mixture lie: in the folder itself, or of a separation in a folder a source."""
    if mixture.enrolls:
        return [Path(est_dir)]
    return [Path(est_dir) / name for name in mixture.source_names]


def best_order(references: Sequence[np.ndarray], estimates: Sequence[np.ndarray]) -> list[int]:
    """Of each reference the number of its estimate, each taken once: the order of the best mean SI-SDR."""
    values = [[_si_sdr_or_least(reference, estimate) for estimate in estimates] for reference in references]
    return linear_sum_assignment(np.array(values), maximize=True)[1].tolist()


def _si_sdr_or_least(reference: np.ndarray, estimate: np.ndarray) -> float:
    try:
        return max(si_sdr(reference, estimate), -UNDEFINED_DB)
    except Undefined:
        return -UNDEFINED_DB


def conditions(mixture: Mixture, genders: dict[str, str], place: int = 0) -> dict[str, Any]:
    """What the mixture was drawn with, as far as scores are split by it.

    `same_gender`: "same" when at least one interferer has the wanted talker's gender, "different" when none has, None
    when there is no interferer or a gender is not known. `sir_db` has one value for each talker after the first.

    Args:
        place: of a separation, which talker is the target.
    """
    if mixture.enrolls:
        wanted, others = mixture.enrolls[0], mixture.interferers
    else:
        wanted, others = mixture.talkers[place], mixture.talkers[:place] + mixture.talkers[place + 1 :]
    drawn_with = {
        "target_spk": wanted.spk_id,
        "target_present": mixture.target_present,
        "num_talkers": len(mixture.talkers),
        "same_gender": _same_gender(wanted, others, genders),
        "sir_db": [talker.level_db for talker in mixture.talkers[1:]],
        "noise": is_noisy(mixture),
        "snr_db": mixture.noise.level_db if mixture.noise else None,
        "reverberant": any(talker.rir for talker in mixture.talkers),
        "num_enrolls": len(mixture.enrolls),
        "seconds": mixture.num_samples / mixture.sample_rate,
    }
    ready = mixture.ready
    if ready:
        drawn_with |= {"ready_made": ready.mix.utt_id}
    if ready and ready.variant:  # its levels are the corpus's, and no room is known, only whether there is one
        drawn_with |= {"sir_db": [], "reverberant": "R" in ready.variant, "variant": ready.variant}
    return drawn_with


def is_noisy(mixture: Mixture) -> bool:
    """Whether there is more than talkers: noise that was mixed in, or the scene or event of a ready-made mixture."""
    return mixture.noise is not None or bool(mixture.ready and {"S", "E"} & set(mixture.ready.variant))


def _same_gender(wanted: Source, others: Sequence[Source], genders: dict[str, str]) -> str | None:
    own, *theirs = (source.gender or genders.get(source.spk_id, "") for source in (wanted, *others))
    if not theirs or not all((own, *theirs)):
        return None
    return "same" if own in theirs else "different"


def find_estimate(est_dir: str | Path, mix_id: str) -> Path:
    """`<mix_id>.flac` or `<mix_id>.wav`, whichever is there.

    Raises:
        FileNotFoundError, ValueError: none is there, or both.
    """
    candidates = [Path(est_dir) / f"{mix_id}{extension}" for extension in (".flac", ".wav")]
    found = [path for path in candidates if path.exists()]
    if not found:
        raise FileNotFoundError(f"{candidates[0]}: no estimate (nor .wav); run the infer stage")
    if len(found) > 1:
        raise ValueError(f"{found[0]}: there is also a {found[1].name}; which is the estimate? Remove the other")
    return found[0]


def require_estimates(est_dir: str | Path, mixtures: Iterable[Mixture]) -> None:
    """Find every estimate before any is scored: an hour's work must not end in a file that was missing all along.

    Raises:
        FileNotFoundError: telling how many are missing, and the first.
    """
    missing = []
    for mixture in mixtures:
        for folder in estimate_folders(est_dir, mixture):
            try:
                find_estimate(folder, mixture.mix_id)
            except FileNotFoundError as error:
                missing.append(str(error))
    if missing:
        others = f" ({len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise FileNotFoundError(missing[0] + others)


def read_fitting(path: Path, mixture: Mixture) -> np.ndarray:
    """A file's audio, (T,), of stems (C, T); ValueError unless it has the mixture's rate, length and channels."""
    rate, num_samples, num_channels = audio.info(path)
    if rate != mixture.sample_rate:
        raise ValueError(f"{path}: {rate} Hz, the mixture has {mixture.sample_rate} Hz")
    if num_channels != mixture.num_channels:
        wanted = "one is wanted" if mixture.num_channels == 1 else f"the mixture has {mixture.num_channels}"
        raise ValueError(f"{path}: {num_channels} channels, {wanted}")
    if num_samples != mixture.num_samples:
        difference = num_samples - mixture.num_samples
        raise ValueError(f"{path}: {num_samples} samples, the mixture has {mixture.num_samples} ({difference:+d})")
    return audio.read(path, mono=not mixture.stems)[0]
