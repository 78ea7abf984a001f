"""Small charts as inline SVG, waveforms, and spectrograms as PNG: numbers in, text or bytes out, no library.

Colours are classes (`s1`, `s2`, `bad`, …) that the page's style sheet fills for light and dark.
"""

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 42
MAX_POINTS = 3000  # of a scatter plot: more would only make the page heavy
SPECTROGRAM_RANGE_DB = 70.0
SPECTROGRAM_ROWS, SPECTROGRAM_COLUMNS = 128, 400


# ------------------------------------------------------------------------------------------------------------- charts


class Scale:
    """From values to pixels, with round tick values."""

    def __init__(self, lowest: float, highest: float, start: float, end: float) -> None:
        if highest <= lowest:
            lowest, highest = lowest - 1, lowest + 1
        self.lowest, self.highest, self.start, self.end = lowest, highest, start, end

    def __call__(self, value: float) -> float:
        share = (value - self.lowest) / (self.highest - self.lowest)
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten, about as many as wanted."""
        rough = (self.highest - self.lowest) / wanted
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = min((factor * magnitude for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))
        first = math.ceil(self.lowest / step - 1e-9)
        last = math.floor(self.highest / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


class Plot:
    """Axes, and marks upon them, as the parts of one SVG."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], left: int = LEFT, height: int = HEIGHT) -> None:
        self.left, self.bottom, self.height = left, height - BOTTOM, height
        self.x = Scale(*x, left, WIDTH - RIGHT)
        self.y = Scale(*y, self.bottom, TOP)
        self.parts: list[str] = []

    def axes(
        self, x_label: str, y_label: str = "", y_ticks: bool = True, counts: bool = False, whole: bool = False
    ) -> None:
        """`counts` and `whole`: ticks of y or of x at whole numbers only."""
        for value in [value for value in self.x.ticks(6) if not whole or value == round(value)]:
            self.text(self.x(value), self.bottom + 16, _short(value), "tick", "middle")
        values = self.y.ticks(5 if self.height > 220 else 3) if y_ticks else []
        for value in values if not counts else [value for value in values if value == round(value)]:
            self.line(self.left, self.y(value), WIDTH - RIGHT, self.y(value), "gridline")
            self.text(self.left - 7, self.y(value) + 4, _short(value), "tick", "end")
        self.line(self.left, self.bottom, WIDTH - RIGHT, self.bottom, "axis")
        self.text((self.left + WIDTH - RIGHT) / 2, self.height - 6, x_label, "label", "middle")
        if y_label:
            middle = (TOP + self.bottom) / 2
            self.parts.append(
                f'<text class="label" text-anchor="middle" transform="translate(12 {middle:.1f}) rotate(-90)">'
                f"{escape(y_label)}</text>"
            )

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self.parts.append(f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(self, x: float, y: float, text: str, style: str, anchor: str = "start") -> None:
        self.parts.append(f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def bar(self, x1: float, y1: float, x2: float, y2: float, style: str, tip: str) -> None:
        """A rectangle between two corners in pixels; `tip` is shown under the pointer."""
        self.parts.append(
            f'<rect class="{style}" x="{min(x1, x2):.1f}" y="{min(y1, y2):.1f}" width="{abs(x2 - x1):.1f}" '
            f'height="{abs(y2 - y1):.1f}"><title>{escape(tip)}</title></rect>'
        )

    def dot(self, x: float, y: float, radius: float, style: str, tip: str) -> None:
        self.parts.append(
            f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"><title>{escape(tip)}</title></circle>'
        )

    def cross(self, x: float, y: float, size: float, style: str, tip: str) -> None:
        self.parts.append(
            f'<path class="{style}" d="M{x - size:.1f} {y - size:.1f}l{2 * size:g} {2 * size:g}m0 {-2 * size:g}'
            f'l{-2 * size:g} {2 * size:g}"><title>{escape(tip)}</title></path>'
        )

    def marker(self, value: float, text: str, style: str = "mark") -> None:
        """A vertical line at a value of x, with a word at its top."""
        x = self.x(value)
        self.line(x, TOP, x, self.bottom, style)
        on_the_left = x > WIDTH * 0.6
        self.text(x - 5 if on_the_left else x + 5, TOP + 9, text, "note", "end" if on_the_left else "start")

    def svg(self, description: str) -> str:
        return (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(description)}">'
            f"{''.join(self.parts)}</svg>"
        )


def histogram(
    series: Mapping[str, Sequence[float]], x_label: str, markers: Mapping[str, float], description: str, bins: int = 28
) -> str:
    """How many values lie where, one colour a series, on shared bins. `markers` are vertical lines."""
    values = np.concatenate([np.asarray(part, float) for part in series.values()])
    edges = _edges(np.concatenate([values, list(markers.values())]), bins)
    counts = {name: np.histogram(part, edges)[0] for name, part in series.items()}
    plot = Plot((edges[0], edges[-1]), (0, 1.08 * max(int(count.max()) for count in counts.values())))
    plot.axes(x_label, "targets", counts=True)
    for place, (name, count) in enumerate(counts.items(), 1):
        for number, low, high in zip(count, edges[:-1], edges[1:], strict=True):
            if number:
                tip = f"{name}: {number} from {low:g} to {high:g}"
                plot.bar(plot.x(low) + 0.75, plot.y(0), plot.x(high) - 0.75, plot.y(number), f"s{place} fill", tip)
    for name, value in markers.items():
        plot.marker(value, name)
    return plot.svg(description)


def histograms(series: Mapping[str, Sequence[float]], x_label: str, description: str, bins: int = 28) -> str:
    """How many values lie where: a row a series, on shared bins, each as high as its fullest bin.

    Values that are all whole numbers get a bin each. The mean stands as a line, mean and range as text.
    """
    everything = np.concatenate([np.asarray(values, float) for values in series.values()])
    whole = bool((everything == np.round(everything)).all()) and np.ptp(everything) < 60
    edges = np.arange(everything.min() - 0.5, everything.max() + 1) if whole else _edges(everything, bins)
    row = 190 if len(series) == 1 else 96
    plot = Plot((edges[0], edges[-1]), (0, 1), left=RIGHT, height=row * len(series) + BOTTOM)
    plot.axes(x_label, y_ticks=False, whole=whole)
    for place, (name, values) in enumerate(series.items()):
        count = np.histogram(values, edges)[0]
        bottom = row * (place + 1)
        plot.line(plot.left, bottom, WIDTH - RIGHT, bottom, "axis")
        for number, low, high in zip(count, edges[:-1], edges[1:], strict=True):
            if number:
                where = f"{round((low + high) / 2)}" if whole else f"{low:g} to {high:g}"
                top = bottom - (row - 30) * number / count.max()
                middle = plot.x((low + high) / 2)
                half = min(24.0, plot.x(high) - middle - 0.75)
                plot.bar(middle - half, bottom, middle + half, top, "s1 fill", f"{name}: {number} of {where}")
        mean = float(np.mean(values))
        plot.line(plot.x(mean), bottom - row + 30, plot.x(mean), bottom, "mark")
        plot.text(plot.left, bottom - row + 20, name, "note")
        said = f"mean {mean:.3g}, {min(values):.3g} to {max(values):.3g}, n = {len(values)}"
        plot.text(WIDTH - RIGHT, bottom - row + 20, said, "tick", "end")
    return plot.svg(description)


def ranks(counts: Mapping[str, float], x_label: str, y_label: str, description: str, most: int = 300) -> str:
    """A bar a name, the largest first; of more than `most` names evenly chosen ones."""
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    chosen = np.linspace(0, len(ordered) - 1, min(len(ordered), most)).round().astype(int)
    plot = Plot((0, len(ordered)), (0, 1.08 * max(1.0, *counts.values())), height=TOP + 190 + BOTTOM)
    plot.axes(x_label, y_label, counts=True)
    width = len(ordered) / len(chosen)
    for place, index in enumerate(chosen):
        name = ordered[index]
        x1, x2 = plot.x(place * width), plot.x((place + 1) * width)
        gap = min(0.75, (x2 - x1) / 8)
        plot.bar(x1 + gap, plot.y(0), x2 - gap, plot.y(counts[name]), "s1 fill", f"{name}: {counts[name]:g}")
    return plot.svg(description)


def scatter(
    x: Sequence[float], y: Sequence[float], marked: Sequence[bool], names: Sequence[str], labels: tuple[str, str],
    description: str,
) -> str:  # fmt: skip
    """A dot a target; the marked ones as crosses on top. The diagonal is "no change"."""
    order = np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).astype(int)
    everything = np.concatenate([x, y])
    low, high = float(everything.min()), float(everything.max())
    margin = 0.05 * (high - low) or 1.0
    plot = Plot((min(x) - margin, max(x) + margin), (low - margin, high + margin))
    plot.axes(*labels)
    ends = max(min(x) - margin, low - margin), min(max(x) + margin, high + margin)
    plot.line(plot.x(ends[0]), plot.y(ends[0]), plot.x(ends[1]), plot.y(ends[1]), "mark")
    for index in sorted(order, key=lambda index: marked[index]):
        tip = f"{names[index]}: {x[index]:.1f} dB in, {y[index]:.1f} dB out"
        where = plot.x(x[index]), plot.y(y[index])
        if marked[index]:
            plot.cross(*where, 3.5, "bad stroke", f"{tip}, confused")
        else:
            plot.dot(*where, 2.8, "s1 point", tip)
    return plot.svg(description)


def boxes(groups: Mapping[str, Sequence[float]], x_label: str, description: str) -> str:
    """A row a group: every value, the middle half as a box, the median, and whiskers from 5 % to 95 %."""
    everything = np.concatenate([np.asarray(values, float) for values in groups.values()])
    low, high = float(everything.min()), float(everything.max())
    margin = 0.04 * (high - low) or 1.0
    row = 50
    plot = Plot((low - margin, high + margin), (0, 1), left=132, height=TOP + row * len(groups) + BOTTOM)
    for value in plot.x.ticks(6):
        plot.line(plot.x(value), TOP, plot.x(value), plot.bottom, "gridline")
    plot.axes(x_label, y_ticks=False)
    for place, (name, group) in enumerate(groups.items()):
        values = np.sort(np.asarray(group, float))
        middle = TOP + row * (place + 0.5)
        for index in np.linspace(0, len(values) - 1, min(len(values), 400)).astype(int):
            jitter = (index * 0.618034) % 1 - 0.5  # golden ratio: even, and the same every time
            plot.dot(plot.x(values[index]), middle + 26 * jitter, 1.8, "s1 faint", f"{values[index]:.1f}")
        p5, p25, p50, p75, p95 = np.percentile(values, [5, 25, 50, 75, 95])
        plot.line(plot.x(p5), middle, plot.x(p95), middle, "whisker")
        tip = f"{name}: median {p50:.1f}, middle half {p25:.1f} to {p75:.1f}, n = {len(values)}"
        plot.bar(plot.x(p25), middle - 9, plot.x(p75), middle + 9, "box", tip)
        plot.line(plot.x(p50), middle - 9, plot.x(p50), middle + 9, "median")
        plot.text(124, middle - 1, name, "label strong", "end")
        plot.text(124, middle + 13, f"n = {len(values)}", "tick", "end")
    return plot.svg(description)


def curve(points: Sequence[tuple[float, float]], x_label: str, description: str, dots: bool = False) -> str:
    """A line through (x, y) pairs."""
    x, y = _thin(np.array([point for point in points if math.isfinite(point[1])], float).reshape(-1, 2), 500)
    margin = 0.06 * float(np.ptp(y)) or abs(float(y[0])) * 0.1 or 1.0
    y_range = float(y.min()) - margin, float(y.max()) + margin
    plot = Plot((min(0.0, float(x.min())), float(x.max())), y_range, height=200)
    plot.axes(x_label)
    path = " ".join(f"{plot.x(a):.1f},{plot.y(b):.1f}" for a, b in zip(x, y, strict=True))
    plot.parts.append(f'<polyline class="s1 stroke" points="{path}"/>')
    if dots or len(x) == 1:
        for a, b in zip(x, y, strict=True):
            plot.dot(plot.x(a), plot.y(b), 2.6, "s1 solid", f"step {a:g}: {b:.3g}")
    return plot.svg(description)


def _edges(values: np.ndarray, bins: int) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if high <= low:
        low, high = low - 1, high + 1
    rough = (high - low) / bins
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    return step * np.arange(math.floor(low / step), math.ceil(high / step + 1e-9) + 1)


def _thin(points: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    groups = np.array_split(points, most) if len(points) > most else [points[i : i + 1] for i in range(len(points))]
    means = np.array([group.mean(0) for group in groups])
    return means[:, 0], means[:, 1]


def _short(value: float) -> str:
    if abs(value) >= 10000:
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1000:g}k"
    return f"{value:g}" if value == 0 or abs(value) >= 0.01 else f"{value:.0e}".replace("e-0", "e-")


# -------------------------------------------------------------------------------------------------------- audio to see


def waveform(audio: np.ndarray, description: str, columns: int = 240, height: int = 44) -> str:
    """The range of the samples in each of `columns` stretches; full height is full scale."""
    parts = np.array_split(audio, min(columns, len(audio)))
    x = np.linspace(0, columns, len(parts))
    top = [height / 2 * (1 - float(part.max())) for part in parts]
    bottom = [height / 2 * (1 - float(part.min())) for part in parts]
    outline = [f"{a:.1f} {b:.1f}" for a, b in [*zip(x, top, strict=True), *list(zip(x, bottom, strict=True))[::-1]]]
    return (
        f'<svg class="wave" viewBox="0 0 {columns} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(description)}"><path d="M{"L".join(outline)}Z"/></svg>'
    )


def spectrogram(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Power in dB, `(128, columns)` from the highest frequency down; Hann windows of 32 ms (16 ms below 8 kHz)."""
    size = 256 if sample_rate < 12000 else 512
    padded = np.pad(audio, (0, max(0, size - len(audio))))
    hop = max(size // 4, -(-len(padded) // SPECTROGRAM_COLUMNS))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames)[:, 1:]) ** 2  # (columns, size / 2)
    rows = power.reshape(len(power), SPECTROGRAM_ROWS, -1).mean(-1).T
    return 10 * np.log10(rows[::-1] + 1e-12)


def spectrogram_png(power_db: np.ndarray, loudest_db: float) -> bytes:
    """The 70 dB below `loudest_db` in the colours of COLOURS."""
    share = (power_db - loudest_db) / SPECTROGRAM_RANGE_DB + 1
    return png((np.clip(share, 0, 1) * 255).astype(np.uint8), COLOURS)


def colour_bar_png() -> bytes:
    """The colours of a spectrogram from its quietest to its loudest, 1 pixel high."""
    return png(np.arange(256, dtype=np.uint8)[None], COLOURS)


def png(pixels: np.ndarray, palette: np.ndarray) -> bytes:
    """An 8-bit indexed PNG: pixels `(H, W)` uint8, palette `(256, 3)` uint8."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape
    rows = np.hstack([np.zeros((height, 1), np.uint8), pixels])  # each row begins with its filter, none
    return b"".join([
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
        chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
        chunk(b"IEND", b""),
    ])  # fmt: skip


def _colours() -> np.ndarray:
    # dark violet over red to pale yellow; lightness rises evenly, so it reads in grey and for the colour-blind too
    anchors = ["#05030f", "#1b1044", "#4f127b", "#812581", "#b5367a", "#e55064", "#fb8761", "#fec287", "#fcfdbf"]
    rgb = np.array([[int(anchor[i : i + 2], 16) for i in (1, 3, 5)] for anchor in anchors], float)
    at = np.linspace(0, 1, len(anchors))
    fine = np.linspace(0, 1, 256)
    return np.stack([np.interp(fine, at, rgb[:, channel]) for channel in range(3)], 1).round().astype(np.uint8)


COLOURS = _colours()
