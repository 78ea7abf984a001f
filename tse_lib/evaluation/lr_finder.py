"""A page with the outcome of a learning-rate range test."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from tse_lib.evaluation.charts import TOP, WIDTH, Plot
from tse_lib.evaluation.page import figure, page


def lr_finder_page(
    lr: Sequence[float], loss: Sequence[float], smooth: Sequence[float], marks: Mapping[str, float], command: str
) -> str:
    """The loss over the learning rate, as it was and smoothed; `marks` are rates with a name."""
    decades = [math.log10(rate) for rate in lr]
    low, high = min(smooth), max(smooth)
    margin = 0.15 * (high - low) or 1.0
    plot = Plot((decades[0], decades[-1]), (low - margin, high + margin))
    plot.axes("log10 of the learning rate", "loss")
    for decade, value in zip(decades, loss, strict=True):
        if low - margin <= value <= high + margin:
            plot.dot(plot.x(decade), plot.y(value), 1.8, "s1 faint", f"{10**decade:.2g}: {value:.3g}")
    path = " ".join(f"{plot.x(a):.1f},{plot.y(b):.1f}" for a, b in zip(decades, smooth, strict=True))
    plot.parts.append(f'<polyline class="s1 stroke" points="{path}"/>')
    for number, (name, rate) in enumerate(marks.items()):
        x = plot.x(math.log10(rate))
        plot.line(x, TOP, x, plot.bottom, "mark")
        side, anchor = (-5, "end") if x > WIDTH / 2 else (5, "start")
        plot.text(x + side, TOP + 9 + 15 * number, f"{name}: {rate:.1e}", "note", anchor)  # they may lie close together
    note = "Each dot a step, before its update; the line is smoothed. Dots far off the line are left out."
    body = [
        '<header><p class="eyebrow">Learning-rate range test</p><h1>Loss over learning rate</h1></header>',
        figure("From fresh weights, each step at a higher rate", plot.svg("Loss over the learning rate"), note),
        f"<footer><h2>Where this comes from</h2><pre><code>{escape(command)}</code></pre></footer>",
    ]
    return page("Learning-rate range test", "\n".join(body))
