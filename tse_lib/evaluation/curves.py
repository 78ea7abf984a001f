"""Trainings beside each other, in one page: curves over steps or hours, what came of them, and how their confs differ.

The page is complete in itself, nothing is fetched and no script runs: the x axis is switched by the style sheet.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from tse_lib.config import Config, limits_of, simulation_at
from tse_lib.evaluation import charts
from tse_lib.evaluation.charts import Plot
from tse_lib.evaluation.page import page, scroll_table
from tse_lib.evaluation.runs import Run, config_of, keys_of, loss_terms, points, step_time

# After Okabe and Ito, who chose colours that the colour-blind tell apart; darker or paler where the page needs it.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#9a4f86", "#b07d00", "#17161a", "#3f9bd8")
DARK = ("#56b4e9", "#ff8c4d", "#2fc79a", "#e39ac6", "#f0b429", "#f0eef4", "#8f9dff")
DASHES = ("none", "7 5", "1.5 4.5", "11 4 1.5 4")  # 7 colours and 4 dashes: 28 runs before two look the same
AXES = {"steps": "optimizer steps", "hours": "hours of training"}
MOST_POINTS = 600  # of a line: more would only make the page heavy
SHOWN_SHARE = 96.0  # percent of the values behind a smoothed line that the y axis covers
TITLES = {
    "loss": "Loss",
    "si_sdri": "SI-SDRi on the development set (dB)",
    "sdr": "SDR on the development set, mean of the stems (dB)",
    "si_sdr": "SI-SDR on the development set (dB)",
    "ta_attenuation_db": "Attenuation where the target is absent (dB)",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
    "skipped": "Steps skipped, their gradient not finite",
    "bad_files": "Mixtures drawn anew because of bad files",
}


@dataclass(frozen=True)
class Line:
    run: int  # its number on the page, from 0
    steps: np.ndarray
    values: np.ndarray
    logged: np.ndarray | None = None  # what `values` are the smoothed course of; drawn thin, behind
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    name: str
    title: str
    lines: list[Line]


def curves_page(runs: Sequence[Run], parameters: Sequence[int | None], window: int | None, command: str) -> str:
    """The page. `parameters` are the networks' sizes where known; `window` is smoothing in steps, None: chosen."""
    window = default_window(runs) if window is None else window
    names = " and ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} trainings"
    body = [
        f'<header><p class="eyebrow">Training curves</p><h1>{escape(names)}</h1></header>',
        '<section id="runs"><h2>What came of them</h2><p class="lead">The best by SI-SDRi on the development set.</p>',
        f"{scroll_table('What came of them', *outcomes(runs, parameters))}</section>",
        curves_section(runs, window),
        differences_section(runs),
        f"<footer><h2>Where this comes from</h2><pre><code>{escape(command)}</code></pre></footer>",
    ]
    return page(
        f"{names} - curves",
        "\n".join(body),
        f"<style>{STYLE}{LINES}{colours(LIGHT)}@media (prefers-color-scheme: dark) {{{colours(DARK)}}}</style>\n",
    )


def default_window(runs: Sequence[Run]) -> int:
    """About a fiftieth of the longest run: 1, 2 or 5 times a power of ten."""
    longest = max(run.step for run in runs)
    return max(1, int(charts.Scale(0, longest, 0, 1).ticks(50)[1])) if longest else 1


def outcomes(runs: Sequence[Run], parameters: Sequence[int | None]) -> tuple[list[str], list[list[str]]]:
    head = [
        "",
        "best (dB)",
        "at step",
        "after (h)",
        "steps",
        "hours",
        "ms a step",
        "parameters",
        "restarts",
    ]
    rows = []
    for number, (run, size) in enumerate(zip(runs, parameters, strict=True), 1):
        best, each = run.best, step_time(run)
        rows.append([
            f"{number} {run.name}",
            f"{best[1]:.2f}" if best else "",
            f"{best[0]}" if best else "",
            f"{run.seconds_at([best[0]])[0] / 3600:.2f}" if best else "",
            f"{run.step} of {run.max_steps}" if run.max_steps and not run.ended else f"{run.step}",
            f"{run.seconds / 3600:.2f}",
            f"{1000 * each:.3g}" if each is not None else "",
            f"{size:,}" if size is not None else "",
            f"{len(run.restarts)}",
        ])  # fmt: skip
    return head, rows


# ------------------------------------------------------------------------------------------------------------- curves


def curves_section(runs: Sequence[Run], window: int) -> str:
    groups = []
    for title, group in groups_of_charts(runs, window).items():
        figures = "".join(figure(chart, runs) for chart in group)
        if figures:
            groups.append(f'<h3>{escape(title)}</h3><div class="grid">{figures}</div>')
    if not groups:
        return '<section id="curves"><h2>Curves</h2><p>Nothing was logged yet.</p></section>'
    switch = "".join(
        f'<input type="radio" name="x" id="x-{axis}"{" checked" * (axis == "steps")}>'
        f'<label for="x-{axis}">{axis}</label>'
        for axis in AXES
    )
    restarts = " Short bars on the x axis are restarts." if any(run.restarts for run in runs) else ""
    note = (
        f"Thick lines are means over {window} steps around each point (--smooth), at their ends over what there is of "
        f"them; thin lines are as logged, and the y axis shows {SHOWN_SHARE:g} % of those.{restarts}"
    )
    return (
        f'<section id="curves"><h2>Curves</h2><p class="lead">{escape(note)}</p>'
        f'<fieldset class="switch"><legend>x axis</legend>{switch}</fieldset>{legend(runs)}{"".join(groups)}</section>'
    )


def legend(runs: Sequence[Run]) -> str:
    keys = "".join(
        f'<span class="key"><svg class="sample" viewBox="0 0 40 12" aria-hidden="true">'
        f'<path class="curve {look(number)}" d="M1 6H39"/></svg><b class="end {look(number)}">{number + 1}</b> '
        f"{escape(run.name)}</span>"
        for number, run in enumerate(runs)
    )
    return f'<p class="legend runs">{keys}</p>'


def look(number: int) -> str:
    """The classes of a run's colour and dashes."""
    return f"c{number % len(LIGHT)} d{number % len(DASHES)}"


def groups_of_charts(runs: Sequence[Run], window: int) -> dict[str, list[Chart]]:
    """What to draw, by heading. Keys of the logs that this version does not know have charts, too."""
    terms = dict.fromkeys(["loss", *(name for run in runs for name in loss_terms(run))])
    logged = dict.fromkeys(key for run in runs for key in keys_of(run.train))
    checked = [*dict.fromkeys(key for run in runs for key in keys_of(run.valid) if key != "best")]
    checked.sort(key=lambda key: key != "si_sdri")
    rest = [key for key in logged if key not in terms and key != "lr"]
    silent = [key for key in ("skipped", "bad_files") if not any(v for run in runs for _, v in points(run.train, key))]
    groups = {
        "Development set": [scores_chart(runs, key) for key in checked],
        "Loss in training, and its terms": [log_chart(runs, key, window) for key in terms if key in logged],
        "Learning rate and curriculum": [*([log_chart(runs, "lr", 0)] if "lr" in logged else []), *curricula(runs)],
        "More from the log": [log_chart(runs, key, window) for key in rest if key not in silent],
    }
    return {title: [chart for chart in group if chart.lines] for title, group in groups.items()}


def log_chart(runs: Sequence[Run], key: str, window: int) -> Chart:
    lines = []
    for number, run in enumerate(runs):
        steps, values = arrays(points(run.train, key))
        if len(steps):
            means = smoothed(steps, values, window)
            lines.append(Line(number, steps, means, None if np.allclose(means, values, rtol=1e-9, atol=0) else values))
    return Chart(key, TITLES.get(key, key), lines)


def scores_chart(runs: Sequence[Run], key: str) -> Chart:
    found = [(number, arrays(points(run.valid, key))) for number, run in enumerate(runs)]
    return Chart(key, TITLES.get(key, key), [Line(number, *xy, dots=True) for number, xy in found if len(xy[0])])


def curricula(runs: Sequence[Run]) -> list[Chart]:
    """Each value of the simulation that some run's curriculum moves, in all runs; of a range both ends."""
    confs = [config_of(run) for run in runs]
    moved = sorted({name for conf in confs if conf for name in moving(conf)})
    found: list[Chart] = []
    for name in moved:
        lines = [
            Line(number, steps, values)
            for number, (run, conf) in enumerate(zip(runs, confs, strict=True))
            if conf and run.step
            for steps, values in value_lines(conf, name, run.step)
        ]
        found += [Chart(f"curriculum_{name}", f"Curriculum: {name}", lines)] if lines else []
    return found


def moving(conf: Config) -> set[str]:
    return {*conf.schedule, *(name for stretch in conf.curriculum for name in stretch.simulation)}


def value_lines(conf: Config, name: str, last_step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(steps, values) of a number, or of the two ends of a range where they differ; none for a word."""
    knots = {*conf.knots(), *np.linspace(0, last_step, 60).astype(int).tolist()}
    steps = np.array(sorted(step for step in knots if step <= last_step))
    values = [getattr(simulation_at(conf, int(step)), name) for step in steps]
    limits = [limits_of(value) for value in values]
    if all(limits):
        ends = np.array(limits, float)
        yield steps, ends[:, 0]
        if not np.array_equal(ends[:, 0], ends[:, 1]):
            yield steps, ends[:, 1]


def arrays(found: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(found, float).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def smoothed(steps: np.ndarray, values: np.ndarray, window: int) -> np.ndarray:
    """The mean over `window` steps around each point, at the ends over what there is of them."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.searchsorted(steps, steps - window / 2, "left")
    last = np.searchsorted(steps, steps + window / 2, "right")
    means = (sums[last] - sums[first]) / (last - first)
    return np.where(last - first > 1, means, values)


# ------------------------------------------------------------------------------------------------------------ drawing


def figure(chart: Chart, runs: Sequence[Run]) -> str:
    drawn = "".join(
        f'<div class="by-{axis}">{plot_of(chart, runs, axis).svg(alt(chart, runs, axis))}</div>' for axis in AXES
    )
    return f'<figure class="card plot"><figcaption>{escape(chart.title)}</figcaption>{drawn}</figure>'


def alt(chart: Chart, runs: Sequence[Run], axis: str) -> str:
    names = dict.fromkeys(runs[line.run].name for line in chart.lines)
    return f"{chart.title} over {AXES[axis]}: {', '.join(names)}"


def plot_of(chart: Chart, runs: Sequence[Run], axis: str) -> Plot:
    placed = [(line, positions(runs[line.run], line.steps, axis)) for line in chart.lines]
    low, high = y_range(chart.lines)
    plot = Plot((0.0, max(float(x[-1]) for _, x in placed)), (low, high))
    plot.axes(AXES[axis])
    ends: dict[int, tuple[float, float]] = {}
    for line, x in placed:
        name, y = runs[line.run].name, np.clip(line.values, low, high)
        if line.logged is not None:
            trace(plot, x, np.clip(line.logged, low, high), f"curve raw c{line.run % len(LIGHT)}", name)
        trace(plot, x, y, f"curve {look(line.run)}", name)
        if line.dots:
            for step, at, value in zip(line.steps, x, line.values, strict=True):
                plot.dot(plot.x(at), plot.y(value), 2.4, f"end {look(line.run)}", f"{name}, step {step:g}: {value:.2f}")
        ends[line.run] = plot.x(float(x[-1])), plot.y(float(y[-1]))
    for number in ends:
        restart_bars(plot, runs[number], number, axis)
    for number, (right, y_end) in apart(ends).items():
        plot.text(right + 3, y_end + 4, f"{number + 1}", f"number end {look(number)}")
    return plot


def positions(run: Run, steps: Sequence[float] | np.ndarray, axis: str) -> np.ndarray:
    return np.asarray(steps, float) if axis == "steps" else np.array(run.seconds_at(list(steps))) / 3600


def y_range(lines: Sequence[Line]) -> tuple[float, float]:
    """All of the lines that are not smoothed, most of those that are: a first loss of 40 would flatten the rest."""
    edge = (100 - SHOWN_SHARE) / 2
    whole = [line.values if line.logged is None else line.values[-1:] for line in lines]
    most = [np.percentile(line.logged, [edge, 100 - edge]) for line in lines if line.logged is not None]
    everything = np.concatenate(whole + most)
    low, high = float(everything.min()), float(everything.max())
    constant = high - low <= 1e-6 * max(abs(low), abs(high))
    margin = (0.1 * abs(low) or 1.0) if constant else 0.05 * (high - low)
    return low - margin, high + margin


def trace(plot: Plot, x: np.ndarray, y: np.ndarray, style: str, tip: str) -> None:
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(int))
    path = " ".join(f"{plot.x(x[place]):.1f},{plot.y(y[place]):.1f}" for place in kept)
    plot.parts.append(f'<polyline class="{style}" points="{path}"><title>{escape(tip)}</title></polyline>')


def restart_bars(plot: Plot, run: Run, number: int, axis: str) -> None:
    """Where it was ended and started again; what lies beyond its last step was trained anew and is not in the log."""
    known = [restart for restart in run.restarts if restart["step"] <= run.step]
    for restart, at in zip(known, positions(run, [restart["step"] for restart in known], axis), strict=True):
        tip = f"{run.name}, step {restart['step']}: started again after exit code {restart.get('exit_code')}"
        plot.parts.append(
            f'<path class="bar curve c{number % len(LIGHT)}" d="M{plot.x(float(at)):.1f} {plot.bottom}v-9">'
            f"<title>{escape(tip)}</title></path>"
        )


def apart(ends: dict[int, tuple[float, float]], least: float = 11.0) -> dict[int, tuple[float, float]]:
    """Move labels that would cover each other upwards, from the lowest on."""
    placed: dict[int, tuple[float, float]] = {}
    for number, (x, y) in sorted(ends.items(), key=lambda item: -item[1][1]):
        while any(abs(x - other_x) < least and abs(y - other_y) < least for other_x, other_y in placed.values()):
            y -= 1
        placed[number] = (x, y)
    return placed


def svg_files(runs: Sequence[Run], window: int | None) -> dict[str, str]:
    """Each chart as an SVG that stands alone, on white, with title and legend: {"loss-steps.svg": text}."""
    window = default_window(runs) if window is None else window
    return {
        f"{re.sub(r'[^A-Za-z0-9_-]', '_', chart.name)}-{axis}.svg": alone(chart, runs, axis)
        for group in groups_of_charts(runs, window).values()
        for chart in group
        for axis in AXES
    }


def alone(chart: Chart, runs: Sequence[Run], axis: str) -> str:
    plot = plot_of(chart, runs, axis)
    top, row = 26, 17  # pixels above the plot, and of a run in the legend below
    numbers = list(dict.fromkeys(line.run for line in chart.lines))
    height = top + plot.height + row * len(numbers) + 6
    keys = "".join(
        f'<g transform="translate({plot.left} {top + plot.height + row * (place + 1) - 4})">'
        f'<path class="curve {look(number)}" d="M0 -4h40"/><text class="number end {look(number)}" x="48">{number + 1}'
        f'</text><text x="64">{escape(runs[number].name)}</text></g>'
        for place, number in enumerate(numbers)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{charts.WIDTH}" height="{height}" '
        f'viewBox="0 0 {charts.WIDTH} {height}" role="img" aria-label="{escape(alt(chart, runs, axis))}">'
        f'<style>{ALONE}{colours(LIGHT)}{LINES}</style><rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text class="title" x="{plot.left}" y="19">{escape(chart.title)}</text>'
        f'<g transform="translate(0 {top})">{"".join(plot.parts)}</g>{keys}</svg>\n'
    )


# ------------------------------------------------------------------------------------------------------ differing confs


def differences_section(runs: Sequence[Run]) -> str:
    if len(runs) < 2:
        return ""
    rows = differences([run.conf for run in runs])
    head = ["key", *(f"{number} {run.name}" for number, run in enumerate(runs, 1))]
    table = scroll_table("Where the confs differ", head, rows) if rows else "<p>The confs are the same.</p>"
    return f'<section id="confs"><h2>Where the confs differ</h2>{table}</section>'


def differences(confs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of a key, as `--set` names it, and its value in each conf, for keys that are not the same in all."""
    flats = [flat(conf) for conf in confs]
    keys = dict.fromkeys(key for values in flats for key in values)
    rows = [[key, *(shown(values[key]) if key in values else "-" for values in flats)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def flat(values: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings, and lists of them, as {"loss.1.weight": 0.5}; what is empty is as good as missing."""
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        return {} if values == [] else {name: values}
    return {key: value for part in values for key, value in flat(values[part], f"{name}.{part}".lstrip(".")).items()}


# -------------------------------------------------------------------------------------------------------------- style


def colours(palette: Sequence[str]) -> str:
    return "".join(
        f".curve.c{number}{{stroke:{colour}}}.end.c{number}{{fill:{colour};color:{colour}}}"
        for number, colour in enumerate(palette)
    )


LINES = (
    ".curve{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}"
    ".curve.raw{stroke-width:.8;opacity:.35}.curve.bar{stroke-width:2.5;stroke-linecap:butt}"
    + "".join(f".d{number}{{stroke-dasharray:{dash}}}" for number, dash in enumerate(DASHES))
)

ALONE = (
    'text{font:12px system-ui,"Helvetica Neue",Arial,sans-serif;fill:#5d5b64}.tick{font-size:11px}'
    ".title{font-size:15px;font-weight:600;fill:#17161a}.number{font-weight:700}.gridline{stroke:#e2dfd8}"
    ".axis{stroke:#a9a6a0}text,circle{stroke-dasharray:none}"
)

STYLE = """
.switch { display: inline-flex; gap: 0; margin: 0 0 10px; padding: 0; border: 0; font-size: 14px; }
.switch legend { float: left; margin-right: 10px; padding: 2px 0; color: var(--soft); }
.switch input { position: absolute; opacity: 0; pointer-events: none; }
.switch label { padding: 2px 16px; border: 1px solid var(--axis); cursor: pointer; }
.switch label:first-of-type { border-radius: 99px 0 0 99px; border-right: 0; }
.switch label:last-of-type { border-radius: 0 99px 99px 0; }
.switch input:checked + label { background: var(--ink); color: var(--page); border-color: var(--ink); }
.switch input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
#curves:has(#x-hours:checked) .by-steps, #curves:not(:has(#x-hours:checked)) .by-hours { display: none; }
.legend.runs { position: sticky; top: 0; z-index: 1; max-height: 30vh; overflow-y: auto; margin: 0 0 10px;
  padding: 8px 0; background: var(--page); color: var(--ink); font-size: 14px; border-bottom: 1px solid var(--line); }
.key .sample { width: 40px; height: 12px; }
.key { overflow-wrap: anywhere; }
.chart .number { font-size: 12px; font-weight: 700; paint-order: stroke; stroke: var(--card); stroke-width: 3px;
  stroke-dasharray: none; }
.chart circle { stroke-dasharray: none; }
h1 { font-size: clamp(24px, 4vw, 36px); }
"""
