"""exp/<name>/report/index.html: the scores of an experiment to look at and to listen to, in one page.

The page is complete in itself: style, charts (SVG), spectrograms (PNG) and audio (16-bit WAV) are inside, nothing is
fetched and no script runs.
"""

import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tse_lib import audio
from tse_lib.evaluation import charts
from tse_lib.evaluation.page import data_uri, figure, html_table, page, panel
from tse_lib.evaluation.results import (
    CONDITION_HEAD,
    STEM_HEAD,
    condition_label,
    condition_order,
    condition_rows,
    facts,
    interval,
    null_rows,
    percent,
    presence_rows,
    quality_rows,
    read_jsonl,
)
from tse_lib.evaluation.runs import points, read_lines
from tse_lib.evaluation.score import estimate_folders, find_estimate
from tse_lib.evaluation.summary import group_names
from tse_lib.files import replace_file
from tse_lib.manifest import Mixture, audio_path, read_mixtures
from tse_lib.metrics.presence import FALSE_ACCEPT_DB

PLAYER_RATE = 16000  # higher rates are resampled to this for the page, except those of stems
AUDIO_BYTES = 6.0e6  # of all players together; base64 makes a third more of it
PEAK = 0.9


def write_report(exp: str | Path, sets: Sequence[str], data_root: str | Path) -> Path:
    """Write `<exp>/report/index.html` from `<exp>/<set>/{scores.jsonl,summary.json,wav/}` and `<exp>/log/`."""
    exp = Path(exp)
    path = exp / "report" / "index.html"
    sections = [set_section(exp, name, Path(data_root) / name, AUDIO_BYTES / len(sets)) for name in sets]
    body = [head_of_page(exp, sets), *sections, training_section(exp), foot_of_page(exp, sets)]
    with replace_file(path) as file:
        file.write(page(f"{exp.name} - report", "\n".join(body)))
    return path


# ------------------------------------------------------------------------------------------------------------ sections


def head_of_page(exp: Path, sets: Sequence[str]) -> str:
    links = "".join(f'<a href="#set-{escape(name)}">{escape(name)}</a>' for name in sets)
    separates = any("source" in line for line in read_jsonl(exp / sets[0] / "scores.jsonl")[:1])
    task = "Separation" if separates else "Target speaker extraction"
    return (
        f'<header><p class="eyebrow">{task}</p><h1>{escape(exp.name)}</h1>'
        f'<nav aria-label="Sections">{links}<a href="#training">training</a><a href="#origin">origin</a></nav></header>'
    )


def set_section(exp: Path, name: str, data_dir: Path, audio_bytes: float) -> str:
    summary = json.loads((exp / name / "summary.json").read_text(encoding="utf-8"))
    lines = read_jsonl(exp / name / "scores.jsonl")
    present = [line for line in lines if line["target_present"]]
    absent = [line for line in lines if not line["target_present"]]
    facts_of_set = "; ".join(facts(summary)[1:3])
    parts = [
        f'<section id="set-{escape(name)}"><h2>Set <em>{escape(name)}</em></h2><p class="lead">{escape(facts_of_set)}. '
        "Brackets hold 95 % bootstrap intervals over mixtures.</p>",
        headline(summary),
        f'<div class="grid">{"".join(score_charts(present, absent))}</div>',
        tables(summary),
        examples_section(exp / name / "wav", data_dir, present, absent, audio_bytes),
        "</section>",
    ]
    return "\n".join(parts)


def headline(summary: dict[str, Any]) -> str:
    """Cards with the numbers that are quoted."""
    metrics = summary["metrics"]
    cards = []

    def card(label: str, value: str, unit: str, small: str, style: str = "") -> None:
        cards.append(
            f'<div class="card {style}"><h3>{escape(label)}</h3><p class="value">{escape(value)}'
            f'<span class="unit">{escape(unit)}</span></p><p class="small">{escape(small)}</p></div>'
        )

    def quality(name: str, label: str, unit: str, digits: int, improvement: bool, style: str = "") -> None:
        entry = metrics.get(name)
        if entry is None or entry["mean"] is None:
            return
        value, _, limits = interval(entry, digits).partition(" ")
        before = "" if improvement else interval(metrics.get(f"{name}_mixture"), digits, limits=False)
        small = f"95 % {limits}" if limits else f"n = {entry['n']}"
        card(label, value, unit, small + (f", mixture {before}" if before else ""), style)

    def rate(name: str, label: str) -> None:
        if name in metrics and metrics[name]["mean"] is not None:
            value, _, limits = percent(metrics[name], limits=True).partition(" %")
            card(label, value, "%", f"95 %{limits}" if limits else f"n = {metrics[name]['n']}")

    quality("usdr_over_stems", "SDR, mean of the stems", "dB", 2, True, "hero")
    quality("csdr_over_stems", "SDR by museval, mean of the stems", "dB", 2, True)
    quality("si_sdri", "SI-SDR improvement", "dB", 2, True, "" if "stems" in summary else "hero")
    quality("sdri", "SDR improvement", "dB", 2, True)
    quality("pesq_wb", "PESQ, wide band", "", 2, False)
    quality("pesq_nb", "PESQ, narrow band", "", 2, False)
    quality("estoi", "ESTOI", "", 3, False)
    rate("confusion_rate", "Confused speakers")
    rate("false_accept_rate", "False accepts")
    return f'<div class="cards">{"".join(cards)}</div>'


def score_charts(present: Sequence[dict[str, Any]], absent: Sequence[dict[str, Any]]) -> list[str]:
    figures = []
    rated = [line for line in present if line["si_sdri"] is not None]
    improvement = [line["si_sdri"] for line in rated]
    if rated:
        mean = float(np.mean(improvement))
        figures.append(figure(
            "How much better: SI-SDRi",
            charts.histogram(
                {"present targets": improvement}, "SI-SDR improvement (dB)", {f"mean {mean:.1f}": mean},
                f"Histogram of the SI-SDR improvement of {len(rated)} targets, mean {mean:.1f} dB",
            ),
            "Left of 0 dB the output is worse than the mixture.",
        ))  # fmt: skip
        confused = [bool(line.get("confused")) for line in rated]
        told, legend = f"SI-SDR of the output over that of the mixture, {len(rated)} targets", {}
        if any(line.get("confused") is not None for line in rated):  # not so of stems
            told += f", {sum(confused)} confused"
            legend = {"s1 point": "target followed", "bad stroke": "confused: nearer to an interferer"}
        figures.append(figure(
            "Before and after",
            charts.scatter(
                [line["si_sdr_mixture"] for line in rated], [line["si_sdr"] for line in rated], confused,
                [line["mix_id"] for line in rated], ("SI-SDR of the mixture (dB)", "SI-SDR of the output (dB)"),
                told,
            ),
            "The line is no change."
            + (f" At most {charts.MAX_POINTS} targets are drawn." if len(rated) > charts.MAX_POINTS else ""),
            legend,
        ))  # fmt: skip
        groups: dict[str, list[float]] = {}
        for name in sorted({name for line in rated for name in group_names(line)}, key=condition_order):
            if name.startswith(("num_talkers=", "gender=", "stem=")):
                groups[condition_label(name)] = [line["si_sdri"] for line in rated if name in group_names(line)]
        figures.append(figure(
            "By condition",
            charts.boxes(groups, "SI-SDR improvement (dB)", f"SI-SDR improvement of {', '.join(groups)}"),
            "Box: the middle half and its median; line: 5 % to 95 %; every dot a target."
            + ("" if any("stem" in line for line in rated) else " Same gender: an interferer has the target's gender."),
        ))  # fmt: skip
    attenuation = {
        "target present": [line["tp_attenuation_db"] for line in present if line.get("tp_attenuation_db") is not None],
        "target absent": [line["ta_attenuation_db"] for line in absent if line["ta_attenuation_db"] is not None],
    }
    attenuation = {name: values for name, values in attenuation.items() if values}
    if attenuation and not any("source" in line for line in present):  # of a separation nobody is absent
        styles = {f"s{place} fill": name for place, name in enumerate(attenuation, 1)}
        figures.append(figure(
            "Silence where nobody is wanted",
            charts.histogram(
                attenuation, "output below the mixture (dB)", {"false accept < 20 dB": FALSE_ACCEPT_DB},
                "Histogram of the attenuation of the output, targets present and absent, with the threshold at 20 dB",
            ),
            "With the target absent, an output left of the line is a false accept." if absent
            else "No target of this set is absent.",
            styles,
        ))  # fmt: skip
    return figures


def tables(summary: dict[str, Any]) -> str:
    parts = []
    if summary["n_present"]:
        quality = quality_rows(summary["metrics"])
        parts.append(html_table("Quality", ["metric", "mixture", "output", "improvement", "n"], quality))
    presence = presence_rows(summary["metrics"])
    if presence:
        parts.append(html_table("Presence", ["", "value", "n"], presence))
    conditions = condition_rows(summary)
    if conditions and "stems" in summary:
        parts.append(html_table("By stem", STEM_HEAD, conditions))
    elif conditions:
        parts.append(html_table("By condition", CONDITION_HEAD, conditions))
    if summary["nulls"]:
        nulls = null_rows(summary["nulls"])
        parts.append(html_table("Without a value", ["metrics", "targets", "reason"], nulls, "words"))
    return "\n".join(parts)


def training_section(exp: Path) -> str:
    steps, checks = read_lines(exp / "log" / "train.jsonl"), read_lines(exp / "log" / "valid.jsonl")
    figures = []
    for title, log, key, note in (
        ("Loss", steps, "loss", "On training mixtures, as logged."),
        ("SDR on the development set, mean of the stems (dB)", checks, "sdr", "Each dot a validation."),
        ("SI-SDRi on the development set (dB)", checks, "si_sdri", "Each dot a validation."),
        ("Learning rate", steps, "lr", ""),
    ):
        known = points(log, key)
        if known:
            chart = charts.curve(known, "optimizer steps", f"{title} over {known[-1][0]} steps", dots=log is checks)
            figures.append(figure(title, chart, note))
    missing = [name for name, log in (("train.jsonl", steps), ("valid.jsonl", checks)) if not log]
    note = f"<p>There is no log/{' and no log/'.join(missing)} in this experiment.</p>" if missing else ""
    return f'<section id="training"><h2>Training</h2>{note}<div class="grid thirds">{"".join(figures)}</div></section>'


def foot_of_page(exp: Path, sets: Sequence[str]) -> str:
    parts = []
    for name in sets:
        summary = json.loads((exp / name / "summary.json").read_text(encoding="utf-8"))
        items = "".join(f"<li>{escape(fact).replace('`', '')}</li>" for fact in facts(summary))
        command = f"<pre><code>{escape(summary['command'])}</code></pre>" if summary["command"] else ""
        parts.append(f"<h3>{escape(name)}</h3><ul>{items}</ul>{command}")
    return f'<footer id="origin"><h2>Where the numbers come from</h2>{"".join(parts)}</footer>'


# ------------------------------------------------------------------------------------------------------------ examples


def choose_examples(
    present: Sequence[dict[str, Any]], absent: Sequence[dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Three best, median and worst present targets by SI-SDRi, none of them twice, and two absent ones."""
    if any("stem" in line for line in present):
        return of_each_stem(present)
    ranked = sorted(
        (line for line in present if line["si_sdri"] is not None), key=lambda line: (line["si_sdri"], line["mix_id"])
    )
    quiet = sorted(
        (line for line in absent if line["ta_attenuation_db"] is not None),
        key=lambda line: (line["ta_attenuation_db"], line["mix_id"]),
    )
    third = min(3, len(ranked) // 3) if len(ranked) >= 3 else 0
    first_median = (len(ranked) - third) // 2
    return {
        "Best": ranked[len(ranked) - third :][::-1],
        "Median": ranked[first_median : first_median + third] if third else ranked,
        "Worst": ranked[:third],
        "Target absent": quiet[:1] + quiet[1:][-1:],
    }


def of_each_stem(present: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Of each stem the median one, where it is heard."""
    chosen = {}
    for _, name in sorted({(line["source"], line["stem"]) for line in present}):
        own = [line for line in present if line["stem"] == name and line["usdr"] is not None]
        own.sort(key=lambda line: (line["usdr"], line["mix_id"]))
        chosen[name] = own[len(own) // 2 :][:1]
    return chosen


def examples_section(
    est_dir: Path,
    data_dir: Path,
    present: Sequence[dict[str, Any]],
    absent: Sequence[dict[str, Any]],
    audio_bytes: float,
) -> str:
    if not est_dir.is_dir():
        return f"<h3>Examples</h3><p>No examples: there is no audio in {escape(est_dir.parent.name)}/wav.</p>"
    mixtures = {mixture.mix_id: mixture for mixture in read_mixtures(data_dir / "mixtures.jsonl")}
    chosen = choose_examples(present, absent)
    num_signals = sum(len(lines) for lines in chosen.values()) * 4
    first = next(iter(mixtures.values()))
    num_signals = num_signals * 3 // 4 * first.num_channels if first.stems else num_signals  # there are no enrolments
    rate = player_rate(first)
    longest_s = audio_bytes / max(1, num_signals) / 2 / rate
    cut = any(mixture.num_samples > longest_s * mixture.sample_rate for mixture in mixtures.values())
    parts = [
        '<h3 class="examples">Examples</h3><p class="lead">'
        + (
            "Of each stem the median by SDR. "
            if first.stems
            else "Chosen by SI-SDRi, and for absent targets the loudest and the quietest output. "
        )
        + "Mixture, output and target share one gain and one colour scale, so that levels compare. "
        + (f"Signals are cut to {longest_s:.1f} s.</p>" if cut else "</p>")
    ]
    for title, lines in chosen.items():
        if lines:
            parts.append(f'<h4 class="group">{escape(title)}</h4>')
            parts += [example(line, mixtures[line["mix_id"]], est_dir, data_dir, longest_s) for line in lines]
    return "\n".join(parts)


def example(line: dict[str, Any], mixture: Mixture, est_dir: Path, data_dir: Path, longest_s: float) -> str:
    """One target: what goes in, what comes out, what it should be."""
    folder = estimate_folders(est_dir, mixture)[line.get("estimate", 1) - 1]
    reference = mixture.source_names[line["source"] - 1] if "source" in line else "target"
    paths = {
        "Mixture": audio_path(data_dir, "mixture", mixture.mix_id),
        "Output": find_estimate(folder, mixture.mix_id),
        "Target": audio_path(data_dir, reference, mixture.mix_id),
        "Enrolment": audio_path(data_dir, "enroll1", mixture.mix_id),
    }
    if not mixture.target_present:
        del paths["Target"]
    if not mixture.enrolls:
        del paths["Enrolment"]
    signals, rate = {}, player_rate(mixture)
    for name, path in paths.items():
        wave = audio.read(path, sample_rate=rate, mono=not mixture.stems)[0]
        signals[name] = wave[..., : int(longest_s * rate)].astype(np.float64)
    together = [name for name in signals if name != "Enrolment"]
    gain = PEAK / max(*(float(np.abs(signals[name]).max()) for name in together), 1e-4)
    pictures = {name: charts.spectrogram(mono(signals[name]) * gain, rate) for name in together}
    loudest = max(float(picture.max()) for picture in pictures.values())
    panels = []
    for name, signal in signals.items():
        if name == "Enrolment":
            signal = signal * PEAK / max(float(np.abs(signal).max()), 1e-4)
            picture = charts.spectrogram(signal, rate)
            image = charts.spectrogram_png(picture, float(picture.max()))
        else:
            signal = signal * gain
            image = charts.spectrogram_png(pictures[name], loudest)
        sound = data_uri("audio/wav", wav(signal, rate))
        panels.append(panel(name, mixture.mix_id, image, mono(signal), rate, sound))
    title = f"{mixture.mix_id}, source {line['source']}" if "source" in line else mixture.mix_id
    title = f"{mixture.mix_id}, {line['stem']}" if "stem" in line else title
    return (
        f'<article class="example"><h5>{escape(title)}</h5><p class="chips">{"".join(chips(line))}</p>'
        f'<div class="panels">{"".join(panels)}</div></article>'
    )


def player_rate(mixture: Mixture) -> int:
    """Of the page's audio: cymbals are above what speech needs."""
    return mixture.sample_rate if mixture.stems else min(PLAYER_RATE, mixture.sample_rate)


def mono(signal: np.ndarray) -> np.ndarray:
    """(T,) or (C, T) -> (T,)."""
    return signal.mean(0) if signal.ndim == 2 else signal


def chips(line: dict[str, Any]) -> list[str]:
    """What is to be known about an example, its scores first."""
    if "stem" in line:
        texts = [f"SDR {line['usdr_mixture']:.1f} → {line['usdr']:.1f} dB", f"SI-SDRi {line['si_sdri']:+.1f} dB"]
        texts += [f"museval {line['csdr']:.1f} dB"] if line.get("csdr") is not None else []
        return [f'<span class="chip">{escape(text)}</span>' for text in texts]
    if line["target_present"]:
        texts = [f"SI-SDRi {line['si_sdri']:+.1f} dB", f"SI-SDR {line['si_sdr_mixture']:.1f} → {line['si_sdr']:.1f} dB"]
        for name in ("pesq_wb", "pesq_nb", "estoi"):
            if line.get(name) is not None and line[f"{name}_mixture"] is not None:
                texts.append(f"{name.split('_')[0].upper()} {line[f'{name}_mixture']:.2f} → {line[name]:.2f}")
    else:
        texts = [f"{line['ta_attenuation_db']:.0f} dB below the mixture"]
    styled = [f'<span class="chip">{escape(text)}</span>' for text in texts]
    if line.get("confused"):
        styled.append('<span class="chip warn">confused</span>')
    if line.get("false_accept"):
        styled.append('<span class="chip warn">false accept</span>')
    texts = [condition_label(f"num_talkers={line['num_talkers']}")]
    texts += [f"{line['same_gender']} gender"] if line["same_gender"] else []
    texts += [f"SIR {' / '.join(f'{value:.1f}' for value in line['sir_db'])} dB"] if line["sir_db"] else []
    texts += [f"SNR {line['snr_db']:.1f} dB"] if line["snr_db"] is not None else []
    texts += [] if line["noise"] else ["no noise"]
    texts += ["reverberant"] if line["reverberant"] else []
    texts += [condition_label(f"variant={line['variant']}")] if "variant" in line else []
    return styled + [f'<span class="chip quiet">{escape(text)}</span>' for text in texts]


def wav(signal: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(signal, -1, 1).T, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
