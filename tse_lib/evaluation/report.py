"""exp/<name>/report/index.html: the scores of an experiment to look at and to listen to, in one page.

The page is complete in itself: style, charts (SVG), spectrograms (PNG) and audio (16-bit WAV) are inside, nothing is
fetched and no script runs.
"""

import base64
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
from tse_lib.evaluation.results import (
    CONDITION_HEAD,
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
    read_log,
)
from tse_lib.evaluation.score import find_estimate
from tse_lib.evaluation.summary import group_names
from tse_lib.manifest import Mixture, audio_path, read_mixtures
from tse_lib.metrics.presence import FALSE_ACCEPT_DB

PLAYER_RATE = 16000  # higher rates are resampled to this for the page
AUDIO_BYTES = 6.0e6  # of all players together; base64 makes a third more of it
PEAK = 0.9


def write_report(exp: str | Path, sets: Sequence[str], data_root: str | Path) -> Path:
    """Write `<exp>/report/index.html` from `<exp>/<set>/{scores.jsonl,summary.json,wav/}` and `<exp>/log/`."""
    exp = Path(exp)
    path = exp / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    sections = [set_section(exp, name, Path(data_root) / name, AUDIO_BYTES / len(sets)) for name in sets]
    body = [head_of_page(exp, sets), *sections, training_section(exp), foot_of_page(exp, sets)]
    temporary = path.with_name(".partial-index.html")
    temporary.write_text(page(f"{exp.name} - report", "\n".join(body)), encoding="utf-8")
    temporary.replace(path)
    return path


# ------------------------------------------------------------------------------------------------------------ sections


def head_of_page(exp: Path, sets: Sequence[str]) -> str:
    links = "".join(f'<a href="#set-{escape(name)}">{escape(name)}</a>' for name in sets)
    return (
        f'<header><p class="eyebrow">Target speaker extraction</p><h1>{escape(exp.name)}</h1>'
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

    quality("si_sdri", "SI-SDR improvement", "dB", 2, True, "hero")
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
        figures.append(figure(
            "Before and after",
            charts.scatter(
                [line["si_sdr_mixture"] for line in rated], [line["si_sdr"] for line in rated], confused,
                [line["mix_id"] for line in rated], ("SI-SDR of the mixture (dB)", "SI-SDR of the output (dB)"),
                f"SI-SDR of the output over that of the mixture, {len(rated)} targets, {sum(confused)} confused",
            ),
            "The line is no change."
            + (f" At most {charts.MAX_POINTS} targets are drawn." if len(rated) > charts.MAX_POINTS else ""),
            {"s1 point": "target followed", "bad stroke": "confused: nearer to an interferer"},
        ))  # fmt: skip
        groups: dict[str, list[float]] = {}
        for name in sorted({name for line in rated for name in group_names(line)}, key=condition_order):
            if name.startswith(("num_talkers=", "gender=")):
                groups[condition_label(name)] = [line["si_sdri"] for line in rated if name in group_names(line)]
        figures.append(figure(
            "By condition",
            charts.boxes(groups, "SI-SDR improvement (dB)", f"SI-SDR improvement of {', '.join(groups)}"),
            "Box: the middle half and its median; line: 5 % to 95 %; every dot a target. Same gender: an interferer "
            "has the target's gender.",
        ))  # fmt: skip
    attenuation = {
        "target present": [line["tp_attenuation_db"] for line in present if line["tp_attenuation_db"] is not None],
        "target absent": [line["ta_attenuation_db"] for line in absent if line["ta_attenuation_db"] is not None],
    }
    attenuation = {name: values for name, values in attenuation.items() if values}
    if attenuation:
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
    parts.append(html_table("Presence", ["", "value", "n"], presence_rows(summary["metrics"])))
    conditions = condition_rows(summary)
    if conditions:
        parts.append(html_table("By condition", CONDITION_HEAD, conditions))
    if summary["nulls"]:
        nulls = null_rows(summary["nulls"])
        parts.append(html_table("Without a value", ["metrics", "targets", "reason"], nulls, "words"))
    return "\n".join(parts)


def training_section(exp: Path) -> str:
    steps, checks = read_log(exp / "log" / "train.jsonl"), read_log(exp / "log" / "valid.jsonl")
    figures = []
    for title, log, key, note in (
        ("Loss", steps, "loss", "On training mixtures, as logged."),
        ("SI-SDRi on the development set (dB)", checks, "si_sdri", "Each dot a validation."),
        ("Learning rate", steps, "lr", ""),
    ):
        points = [(line["step"], line[key]) for line in log if line.get(key) is not None]
        if points:
            chart = charts.curve(points, "optimizer steps", f"{title} over {points[-1][0]} steps", dots=log is checks)
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
    rate = min(PLAYER_RATE, max(mixture.sample_rate for mixture in mixtures.values()))
    longest_s = audio_bytes / max(1, num_signals) / 2 / rate
    cut = any(mixture.num_samples > longest_s * mixture.sample_rate for mixture in mixtures.values())
    parts = [
        '<h3 class="examples">Examples</h3><p class="lead">Chosen by SI-SDRi, and for absent targets the loudest and '
        "the quietest output. Mixture, output and target share one gain and one colour scale, so that levels compare. "
        + (f"Signals are cut to {longest_s:.1f} s.</p>" if cut else "</p>")
    ]
    for title, lines in chosen.items():
        if lines:
            parts.append(f'<h4 class="group">{escape(title)}</h4>')
            parts += [example(line, mixtures[line["mix_id"]], est_dir, data_dir, longest_s) for line in lines]
    return "\n".join(parts)


def example(line: dict[str, Any], mixture: Mixture, est_dir: Path, data_dir: Path, longest_s: float) -> str:
    """One target: what goes in, what comes out, what it should be."""
    paths = {
        "Mixture": audio_path(data_dir, "mixture", mixture.mix_id),
        "Output": find_estimate(est_dir, mixture.mix_id),
        "Target": audio_path(data_dir, "target", mixture.mix_id),
        "Enrolment": audio_path(data_dir, "enroll1", mixture.mix_id),
    }
    if not mixture.target_present:
        del paths["Target"]
    signals, rate = {}, min(mixture.sample_rate, PLAYER_RATE)
    for name, path in paths.items():
        signals[name] = audio.read(path, sample_rate=rate)[0][: int(longest_s * rate)].astype(np.float64)
    together = [name for name in signals if name != "Enrolment"]
    gain = PEAK / max(*(float(np.abs(signals[name]).max()) for name in together), 1e-4)
    pictures = {name: charts.spectrogram(signals[name] * gain, rate) for name in together}
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
        panels.append(panel(name, mixture.mix_id, signal, rate, image))
    return (
        f'<article class="example"><h5>{escape(mixture.mix_id)}</h5><p class="chips">{"".join(chips(line))}</p>'
        f'<div class="panels">{"".join(panels)}</div></article>'
    )


def chips(line: dict[str, Any]) -> list[str]:
    """What is to be known about an example, its scores first."""
    if line["target_present"]:
        texts = [f"SI-SDRi {line['si_sdri']:+.1f} dB", f"SI-SDR {line['si_sdr_mixture']:.1f} → {line['si_sdr']:.1f} dB"]
        for name in ("pesq_wb", "pesq_nb", "estoi"):
            if line.get(name) is not None:
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
    texts += [f"SNR {line['snr_db']:.1f} dB"] if line["noise"] else ["no noise"]
    texts += ["reverberant"] if line["reverberant"] else []
    return styled + [f'<span class="chip quiet">{escape(text)}</span>' for text in texts]


def panel(name: str, mix_id: str, signal: np.ndarray, rate: int, image: bytes) -> str:
    what = f"{name} of {mix_id}"
    sound = data_uri("audio/wav", wav(signal, rate))
    return (
        f'<figure class="panel"><figcaption>{escape(name)}</figcaption>'
        f'<img src="{data_uri("image/png", image)}" alt="Spectrogram: {escape(what)}, up to {rate / 2000:g} kHz">'
        f"{charts.waveform(signal, f'Waveform: {what}')}"
        f'<audio controls preload="metadata" aria-label="{escape(what)}" src="{sound}"></audio></figure>'
    )


def wav(signal: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(signal, -1, 1), rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------- HTML


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def figure(title: str, chart: str, note: str = "", legend: dict[str, str] | None = None) -> str:
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 12 12" aria-hidden="true">{_swatch(style)}</svg>{escape(text)}</span>'
        for style, text in (legend or {}).items()
    )
    keys = f'<p class="legend">{keys}</p>' if len(legend or {}) > 1 else ""
    note = f'<p class="small">{escape(note)}</p>' if note else ""
    return f'<figure class="card plot"><figcaption>{escape(title)}</figcaption>{keys}{chart}{note}</figure>'


def _swatch(style: str) -> str:
    if "stroke" in style:
        return f'<path class="{style}" d="M2 2L10 10M2 10L10 2"/>'
    return f'<rect class="{style}" x="1" y="1" width="10" height="10" rx="{5 if "point" in style else 2}"/>'


def html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{_cell(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<h3>{escape(title)}</h3><div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f'<table class="{style}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    value, bracket, limits = text.partition(" [")
    if not bracket or not limits.endswith("]"):
        return escape(text)
    return f'{escape(value)} <span class="limits">[{escape(limits)}</span>'


def page(title: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


STYLE = """
:root { --page: #f6f5f2; --card: #fffefb; --ink: #17161a; --soft: #5d5b64; --line: #e2dfd8; --axis: #a9a6a0;
  --s1: #2f6fd0; --s2: #e07b26; --bad: #cf3348; --accent: #7b2a80; --chip: #efece6; }
@media (prefers-color-scheme: dark) {
  :root { --page: #121116; --card: #1b1a21; --ink: #f0eef4; --soft: #a5a2ae; --line: #302e39; --axis: #6d6a78;
    --s1: #6ea3f5; --s2: #eb9347; --bad: #ff6b7d; --accent: #d08ad6; --chip: #2a2832; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 24px 64px; }
header { border-bottom: 1px solid var(--line); padding-bottom: 20px; }
.eyebrow { margin: 0; color: var(--accent); font-size: 13px; font-weight: 600; letter-spacing: .06em; }
h1 { margin: 2px 0 10px; font-size: clamp(28px, 5vw, 44px); line-height: 1.1; letter-spacing: -.02em;
  overflow-wrap: anywhere; }
h2 { margin: 44px 0 4px; font-size: 26px; letter-spacing: -.01em; }
h2 em { font-style: normal; color: var(--accent); }
h3 { margin: 30px 0 10px; font-size: 17px; }
h3.examples { margin-top: 44px; font-size: 22px; }
h4.group { margin: 28px 0 10px; font-size: 17px; color: var(--accent); }
h5 { margin: 0; font-size: 15px; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; font-size: 15px; }
a { color: var(--s1); }
.lead { margin: 4px 0 18px; color: var(--soft); max-width: 78ch; }
.small { margin: 4px 0 0; color: var(--soft); font-size: 13px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 14px; margin-bottom: 18px; }
.cards h3 { margin: 0; color: var(--soft); font-size: 13px; font-weight: 600; }
.value { margin: 2px 0 0; font-size: 30px; font-weight: 650; line-height: 1.2; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.unit { margin-left: 4px; color: var(--soft); font-size: 15px; font-weight: 500; letter-spacing: 0; }
.hero .value { font-size: 38px; color: var(--accent); }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 16px; }
.thirds { grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 15px; font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 4px 0; color: var(--soft); font-size: 13px; }
.key { display: inline-flex; align-items: center; gap: 6px; }
.key svg { width: 12px; height: 12px; }
.chart { display: block; overflow: visible; width: 100%; height: auto; margin-top: 8px; }
.chart text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
.chart .tick { font-size: 11px; }
.chart .strong, .chart .note { fill: var(--ink); font-weight: 600; }
.chart .note { font-size: 11.5px; paint-order: stroke; stroke: var(--card); stroke-width: 3px; }
.gridline { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--axis); stroke-width: 1; }
.mark { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 4 3; }
.whisker { stroke: var(--s1); stroke-width: 1.5; }
.box { fill: var(--card); fill-opacity: .8; stroke: var(--s1); stroke-width: 1.6; }
.median { stroke: var(--ink); stroke-width: 2.4; }
.s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .bad { --c: var(--bad); }
.fill { fill: var(--c); fill-opacity: .78; } .solid { fill: var(--c); }
.point { fill: var(--c); fill-opacity: .6; } .faint { fill: var(--c); fill-opacity: .45; }
.stroke { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
table { width: 100%; border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 14px; text-align: right; white-space: nowrap; }
th:first-child, .words td:last-child, .words th:last-child { text-align: left; }
.words td:last-child { white-space: normal; }
thead th { color: var(--soft); font-size: 13px; font-weight: 600; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 500; white-space: normal; min-width: 130px; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.limits { color: var(--soft); font-size: 12.5px; }
.example { margin-bottom: 16px; padding: 16px 18px; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; margin: 8px 0 14px; font-size: 13px; }
.chip { padding: 1px 10px; border-radius: 99px; background: var(--chip); font-weight: 600;
  font-variant-numeric: tabular-nums; }
.quiet { background: none; border: 1px solid var(--line); color: var(--soft); font-weight: 400; }
.warn { background: var(--bad); color: var(--card); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); gap: 14px; }
.panel figcaption { margin-bottom: 6px; font-size: 13px; color: var(--soft); }
.panel img { display: block; width: 100%; height: 128px; border-radius: 8px 8px 0 0; background: #05030f; }
.wave { display: block; width: 100%; height: 44px; background: #05030f; border-radius: 0 0 8px 8px; }
.wave path { fill: #fb8761; stroke: #fb8761; stroke-width: .6; vector-effect: non-scaling-stroke; }
audio { display: block; width: 100%; height: 38px; margin-top: 8px; }
footer { margin-top: 48px; border-top: 1px solid var(--line); color: var(--soft); font-size: 14px; }
footer h2 { margin-top: 24px; font-size: 20px; color: var(--ink); }
footer h3 { margin: 14px 0 4px; color: var(--ink); }
footer ul { margin: 0; padding-left: 20px; overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: 12px 16px; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; color: var(--ink); }
@media (max-width: 560px) { main { padding: 24px 14px 48px; } .cards { grid-template-columns: 1fr 1fr; gap: 10px; }
  .hero { grid-column: 1 / -1; } .card, .example { padding: 13px 14px; } .value { font-size: 25px; } }
"""
