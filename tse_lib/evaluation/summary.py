"""Means over a set, with 95 % bootstrap intervals over mixtures and over target speakers, whole and by condition."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tse_lib.rng import rng

NUM_RESAMPLES = 2000
BLOCK = 200  # resamples at a time: bounds the memory of large sets
DECIMALS = 6

OVER_VARIANTS = "_over_variants"  # ends the name of a mean over variants
OVER_STEMS = "_over_stems"  # and over stems

# names in scores.jsonl -> names of their means, where these differ
RATES = {
    "false_accept": "false_accept_rate",
    "confused": "confusion_rate",
    "above_1db": "above_1db_rate",
    "frame_false_accept": "frame_false_accept_rate",
    "frame_false_reject": "frame_false_reject_rate",
    "presence_false_accept": "presence_false_accept_rate",
    "presence_false_reject": "presence_false_reject_rate",
}


class Measure(NamedTuple):
    """A metric, its improvement over the mixture, and how it is shown."""

    name: str
    improvement: str
    label: str
    unit: str
    digits: int


MEASURES = (
    Measure("si_sdr", "si_sdri", "SI-SDR", "dB", 2),
    Measure("sdr", "sdri", "SDR", "dB", 2),
    Measure("sir", "siri", "SIR", "dB", 2),
    Measure("sar", "sari", "SAR", "dB", 2),
    Measure("usdr", "usdri", "uSDR, of whole tracks", "dB", 2),
    Measure("csdr", "", "SDR, median of 1 s frames (museval)", "dB", 2),
    Measure("cisr", "", "ISR, median of 1 s frames (museval)", "dB", 2),
    Measure("csir", "", "SIR, median of 1 s frames (museval)", "dB", 2),
    Measure("csar", "", "SAR, median of 1 s frames (museval)", "dB", 2),
    Measure("pesq_wb", "pesq_wb_gain", "PESQ (wide band)", "", 2),
    Measure("pesq_nb", "pesq_nb_gain", "PESQ (narrow band)", "", 2),
    Measure("stoi", "stoi_gain", "STOI", "", 3),
    Measure("estoi", "estoi_gain", "ESTOI", "", 3),
    Measure("stretch_si_sdr", "stretch_si_sdri", "SI-SDR of the stretch in which the target speaks", "dB", 2),
)
METRICS = [
    *(name for one in MEASURES for name in (one.name, f"{one.name}_mixture", one.improvement) if name),
    "tp_attenuation_db", "confused", "above_1db", "ta_attenuation_db", "false_accept",
    "frame_attenuation_db", "frame_contrast_db", "frame_false_accept", "frame_false_reject",
    "presence_false_accept", "presence_false_reject",
]  # fmt: skip


def summarise(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The statistics of scores: `n`, `n_present`, `n_absent`, `num_speakers`, `metrics`, `groups`, `nulls`.

    `metrics` has an entry for each metric that applies to some line: `{"mean", "ci95", "std", "n"}` and
    `ci95_speakers` where there are two target speakers or more. `n` counts the values that are defined; the others are
    in `nulls`: `{metric: {reason: count}}`. `groups` has the same as `metrics` for each condition, as `num_talkers=2`.
    Where there are variants of ready-made mixtures, `metrics` also has `<metric>_over_variants`; of stems, whose names
    are in `stems`, `<metric>_over_stems`.
    """
    present = sum(line["target_present"] for line in lines)
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        for name in group_names(line):
            groups.setdefault(name, []).append(line)
    of_groups = {name: statistics(groups[name], name) for name in sorted(groups)}
    over = {
        OVER_VARIANTS: [metrics for name, metrics in of_groups.items() if name.startswith("variant=")],
        OVER_STEMS: [metrics for name, metrics in of_groups.items() if name.startswith("stem=")],
    }
    return {
        "n": len(lines),
        "n_present": present,
        "n_absent": len(lines) - present,
        "num_speakers": len({line["target_spk"] for line in lines}),
        "metrics": statistics(lines, "all")
        | {key: entry for ending, groups in over.items() for key, entry in alike(groups, ending).items()},
        **({"stems": list(dict.fromkeys(line["stem"] for line in lines))} if "stem" in lines[0] else {}),
        "groups": of_groups,
        "nulls": null_reasons(lines),
    }


def alike(groups: Sequence[dict[str, dict[str, Any]]], ending: str) -> dict[str, dict[str, Any]]:
    """The unweighted means of the groups' means, as figures of PolSESS and of stems are reported; `n` is their number.

    A variant that only half of the mixtures can have counts as much as the others, and so does a stem that is silent
    in half of them.
    """
    found = {}
    for metric in dict.fromkeys(metric for metrics in groups for metric in metrics):
        means = [metrics[metric]["mean"] for metrics in groups if metric in metrics]
        known = [mean for mean in means if mean is not None]
        mean = _round(np.mean(known)) if known else None
        found[metric + ending] = {"mean": mean, "ci95": None, "std": None, "n": len(known)}
    return found


def group_names(line: dict[str, Any]) -> list[str]:
    """The conditions that a line of scores belongs to."""

    def yes(value: bool) -> str:
        return "yes" if value else "no"

    if "stem" in line:
        return [f"stem={line['stem']}"]
    names = [f"num_talkers={line['num_talkers']}"]
    names += [f"num_enrolls={line['num_enrolls']}"] if line["num_enrolls"] else []
    names += [f"noise={yes(line['noise'])}", f"reverberant={yes(line['reverberant'])}"]
    names += [f"variant={line['variant']}"] if "variant" in line else []
    return names + ([f"gender={line['same_gender']}"] if line["same_gender"] else [])


def statistics(lines: Sequence[dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    """Mean, intervals, standard deviation and count of every metric that applies; `name` names the randomness.

    An interval needs two values, that over speakers two speakers with a value; else they are None and left out.
    """
    metrics = [metric for metric in METRICS if any(metric in line for line in lines)]
    values = np.array([[_number(line.get(metric)) for metric in metrics] for line in lines], np.float64)  # (n, M)
    counts = np.isfinite(values)
    sums = np.where(counts, values, 0.0)
    over_mixtures = bootstrap_interval(
        # the variants of a ready-made mixture are no more independent than the sources of one
        *together([line.get("ready_made", line["mix_id"]) for line in lines], sums, counts),
        rng(0, "bootstrap", name, "mixtures"),
    )
    speaker_sums, speaker_counts = together([line["target_spk"] for line in lines], sums, counts)
    over_speakers = bootstrap_interval(speaker_sums, speaker_counts, rng(0, "bootstrap", name, "speakers"))
    result: dict[str, dict[str, Any]] = {}
    for column, metric in enumerate(metrics):
        known = values[counts[:, column], column]
        entry: dict[str, Any] = {"mean": None, "ci95": None, "std": None, "n": known.size}
        if known.size:
            entry["mean"] = _round(known.mean())
        if known.size > 1:
            entry["ci95"] = [_round(limit) for limit in over_mixtures[:, column]]
            entry["std"] = _round(known.std(ddof=1))
        if (speaker_counts[:, column] > 0).sum() > 1:
            entry["ci95_speakers"] = [_round(limit) for limit in over_speakers[:, column]]
        result[RATES.get(metric, metric)] = entry
    return result


def together(names: Sequence[str], sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows (lines, metrics) of one name summed: (units, metrics). The sources of a mixture are drawn as a whole."""
    units, of_unit = np.unique(names, return_inverse=True)
    unit_sums, unit_counts = np.zeros((2, len(units), sums.shape[1]))
    np.add.at(unit_sums, of_unit, sums)
    np.add.at(unit_counts, of_unit, counts)
    return unit_sums, unit_counts


def bootstrap_interval(sums: np.ndarray, counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """95 % percentile intervals of means under resampling of units with replacement.

    A unit is what is drawn as a whole: one mixture, or all mixtures of a speaker. Its row holds the sum of its values
    and how many there are, so that a resample's mean is the quotient of two sums.

    Args:
        sums, counts: `(units, metrics)`.

    Returns:
        `(2, metrics)`, lower and upper limit; NaN where no resample has a value.
    """
    units = len(sums)
    means = []
    for _ in range(0, NUM_RESAMPLES, BLOCK):
        drawn = generator.integers(units, size=(BLOCK, units)) + units * np.arange(BLOCK)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=BLOCK * units).reshape(BLOCK, units).astype(np.float64)
        totals, numbers = weights @ sums, weights @ counts
        means.append(np.where(numbers > 0, totals / np.maximum(numbers, 1), np.nan))
    stacked = np.concatenate(means)
    limits = np.full((2, sums.shape[1]), np.nan)
    known = np.isfinite(stacked).any(0)
    limits[:, known] = np.nanpercentile(stacked[:, known], [2.5, 97.5], axis=0)
    return limits


def null_reasons(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each metric has no value, and why."""
    counts: dict[str, Counter[str]] = {}
    for line in lines:
        for metric, reason in line.get("reasons", {}).items():
            counts.setdefault(RATES.get(metric, metric), Counter())[reason] += 1
    return {metric: dict(sorted(counts[metric].items())) for metric in sorted(counts)}


def _number(value: float | bool | None) -> float:
    return np.nan if value is None else float(value)


def _round(value: float) -> float:
    return round(float(value), DECIMALS)
