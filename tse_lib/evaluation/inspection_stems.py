"""What `tse inspect` shows of mixtures of stems: sections of the page of `inspection.py`, and the same as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tse_lib.config import Stems
from tse_lib.evaluation import charts
from tse_lib.evaluation.inspection import (
    PEAK,
    Draw,
    Event,
    Quantity,
    as_drawn,
    asked_and_drawn,
    examples,
    slug,
    sound_path,
    spread,
    spreads,
    tables_as_text,
    track,
    with_ticks,
)
from tse_lib.evaluation.page import figure, panel, scroll_table
from tse_lib.manifest import Mixture, Stem

MOST_FILES = 6  # named of a stem


@dataclass(frozen=True)
class ShownStems:
    """A rendered mixture of stems.

    Attributes:
        signals: (C, T) by name: the mixture, then its stems.
        heard: by stem, from when to when (s).
        levels_db: of each stem that is not silent its level over that of the mixture.
    """

    mixture: Mixture
    signals: Mapping[str, np.ndarray]
    heard: Mapping[str, list[tuple[float, float]]]
    levels_db: Mapping[str, float]

    @property
    def facts(self) -> dict[str, Any]:
        return {"levels_db": dict(self.levels_db), "heard_s": dict(self.heard)}

    @property
    def seconds(self) -> float:
        return self.mixture.num_samples / self.mixture.sample_rate


@dataclass(frozen=True)
class StemPart:
    """Draws of one conf: a step of the training, or a fixed set."""

    name: str
    simulation: Stems
    draws: Sequence[Draw]
    shown: Sequence[ShownStems]

    @property
    def folder(self) -> str:
        return slug(self.name)


# ------------------------------------------------------------------------------------------------------------- numbers


def numbers_of(mixture: Mixture) -> Draw:
    """A draw's numbers, from its text alone. Lists have an entry a stem, or a clip."""
    playing = [stem for stem in mixture.stems if stem.clips]
    clips = [clip for stem in mixture.stems for clip in stem.clips]
    return {
        "mix_id": mixture.mix_id,
        "seconds": mixture.num_samples / mixture.sample_rate,
        "num_stems": len(playing),
        "num_origins": len({stem.origin for stem in playing}),
        "num_clips": [len(stem.clips) for stem in mixture.stems],
        "gain_db": [stem.gain_db for stem in playing],
        "peak_dbfs": mixture.peak_dbfs or None,
        "speed": [clip.speed for clip in clips],
        "pan": [clip.pan for clip in clips],
        "dropped": [not stem.origin for stem in mixture.stems],
        "channels_swapped": [stem.swap_channels for stem in mixture.stems if stem.origin],
        "inverted": [stem.invert for stem in mixture.stems if stem.origin],
    }


QUANTITIES: dict[str, Quantity] = {
    "seconds": ("length", "s", "segment_s", 2),
    "num_stems": ("stems with anything to play", "", "", 1),
    "num_origins": ("performances or tracks in a mixture", "", "", 1),
    "num_clips": ("hits or files of a stem", "", "", 1),
    "gain_db": ("gain of a stem", "dB", "gain_db", 1),
    "peak_dbfs": ("peak", "dBFS", "peak_dbfs", 1),
    "speed": ("speed of a hit", "", "speed", 3),
    "pan": ("pan of a hit", "left to right", "pan", 2),
}
EVENTS: dict[str, Event] = {
    "stem is silent": ("drop_probability", lambda draw: draw["dropped"]),
    "left and right of a stem exchanged": ("channel_swap_probability", lambda draw: draw["channels_swapped"]),
    "polarity of a stem turned around": ("invert_probability", lambda draw: draw["inverted"]),
}
NOTES = {
    "num_stems": "Others have nothing in this crop, or were made silent.",
    "num_origins": "More than one where stems were exchanged for those of others.",
}


def measured_table(parts: Sequence[StemPart]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: of each stem its level over that of the mixture, and for how much of the time it is heard."""
    heads = [""]
    for part in parts:
        heads += [f"{part.name}: level (dB) [least, most]", "heard", "silent"]
    rows = []
    for name in dict.fromkeys(name for part in parts for name in part.simulation.stems):
        row = [name]
        for part in parts:
            levels = levels_of(part, name)
            shares = [share_heard(shown, name) for shown in part.shown if name in shown.heard]
            row += [
                spread(levels, 1) if levels else "-",
                f"{100 * np.mean(shares):.0f} %" if shares else "-",
                f"{len(part.shown) - len(levels)} of {len(part.shown)}",
            ]
        rows.append(row)
    return heads, rows


def levels_of(part: StemPart, name: str) -> list[float]:
    """Of each mixture in which the stem is not silent."""
    return [shown.levels_db[name] for shown in part.shown if name in shown.levels_db]


def share_heard(shown: ShownStems, name: str) -> float:
    return sum(end - begin for begin, end in shown.heard[name]) / shown.seconds


# ---------------------------------------------------------------------------------------------------------------- page


def sections(parts: Sequence[StemPart]) -> list[str]:
    table = asked_and_drawn(parts, QUANTITIES, EVENTS)
    drawn = as_drawn(parts, table, spreads(parts, QUANTITIES, NOTES))
    return [
        drawn,
        measured_section(parts),
        *(examples(part, [article(part, one) for one in part.shown]) for part in parts),
    ]


def measured_section(parts: Sequence[StemPart]) -> str:
    figures = []
    for part in parts:
        levels = {name: values for name in part.simulation.stems if (values := levels_of(part, name))}
        if levels:
            svg = charts.boxes(levels, "level over that of the mixture (dB)", f"Levels of {', '.join(levels)}")
            figures.append(figure(f"Levels of the stems: {part.name}", svg, "A dot a mixture; silent stems have none."))
    return (
        '<section id="measured"><h2>Measured</h2><p class="lead">On the audio of the mixtures below. Levels are RMS of '
        "the whole stem; heard is what lies in 20 ms frames within 40 dB of a stem's loudest.</p>"
        f"{scroll_table('Measured', *measured_table(parts))}"
        f'<div class="grid">{"".join(figures)}</div></section>'
    )


DETAILS = ["", "of", "hits or files", "gain", "over the mixture", "heard", "more", "files"]


def article(part: StemPart, shown: ShownStems) -> str:
    """One mixture: chips, what is heard when, pictures and players, and everything that was drawn."""
    mixture, rate, levels = shown.mixture, shown.mixture.sample_rate, shown.levels_db
    mono = {name: wave.mean(0) for name, wave in shown.signals.items() if name == "mixture" or name in levels}
    gain = PEAK / max(*(float(np.abs(wave).max()) for wave in mono.values()), 1e-4)
    pictures = {name: charts.spectrogram(wave * gain, rate) for name, wave in mono.items()}
    loudest = max(float(picture.max()) for picture in pictures.values())
    panels = "".join(
        panel(
            name.capitalize() if name == "mixture" else name,
            mixture.mix_id,
            charts.spectrogram_png(pictures[name], loudest),
            mono[name] * gain,
            rate,
            sound_path(part, mixture, name),
        )
        for name in mono
    )
    rows = [track(name, "s1", (0.0, 0.0), heard, shown.seconds) for name, heard in shown.heard.items()]
    origins = {stem.origin for stem in mixture.stems if stem.clips}
    peak_db = 20 * np.log10(max(float(np.abs(shown.signals["mixture"]).max()), 1e-6))
    texts = [
        f"{shown.seconds:.1f} s", f"{len(levels)} of {len(mixture.stems)} stems heard", f"peak {peak_db:.1f} dBFS",
        f"of {len(origins)} performance{'s' * (len(origins) != 1)} or track{'s' * (len(origins) != 1)}",
    ]  # fmt: skip
    chips = "".join(f'<span class="chip">{escape(text)}</span>' for text in texts)
    details = [detail(stem, shown) for stem in mixture.stems]
    return (
        f'<article class="example"><h3>{escape(mixture.mix_id)}</h3><p class="chips">{chips}</p>'
        f'{with_ticks(rows, shown.seconds)}<div class="panels">{panels}</div>'
        f"{scroll_table(f'Drawn: {mixture.mix_id}', DETAILS, details, 'drawn')}</article>"
    )


def detail(stem: Stem, shown: ShownStems) -> list[str]:
    level, files = shown.levels_db.get(stem.name), list(dict.fromkeys(Path(clip.path).name for clip in stem.clips))
    more = ["left and right exchanged"] if stem.swap_channels else []
    more += ["polarity turned around"] if stem.invert else []
    return [
        stem.name,
        stem.origin or "silent by draw",
        str(len(stem.clips)),
        f"{stem.gain_db:+.1f} dB",
        "silent" if level is None else f"{level:.1f} dB",
        f"{100 * share_heard(shown, stem.name):.0f} %",
        ", ".join(more),
        ", ".join(files[:MOST_FILES]) + (f" and {len(files) - MOST_FILES} more" if files[MOST_FILES:] else ""),
    ]


# ----------------------------------------------------------------------------------------------------------------- text


def as_text(parts: Sequence[StemPart]) -> str:
    """The tables for the terminal."""
    return tables_as_text(asked_and_drawn(parts, QUANTITIES, EVENTS), measured_table(parts))
