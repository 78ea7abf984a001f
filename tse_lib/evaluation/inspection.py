"""The page of `tse inspect`: what is drawn, to look at and to listen to, before anything is trained on it.

Everything comes as plain data: the text of many draws as `numbers_of` has them, the signals of a few of them, and what
was measured on those. The page holds style, charts and spectrograms; the audio lies beside it.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import numpy as np

from tse_lib.config import Simulation
from tse_lib.evaluation import charts
from tse_lib.evaluation.page import data_uri, figure, html_table, page, panel, player, scroll_table
from tse_lib.manifest import Mixture, Source

GENERATOR = '<meta name="generator" content="tse inspect">'
PEAK = 0.9  # of the loudest signal of a mixture in its pictures; the audio keeps its level

Draw = dict[str, Any]
Quantity = tuple[str, str, str, int]  # by key of a draw: what it is called, the unit, the knob that asks for it, digits
Event = tuple[str, Callable[[Draw], Sequence[bool]]]  # the knob that asks for it, from a draw to one answer or several


@dataclass(frozen=True)
class Measured:
    """What was asked for a mixture, and what was found in its audio.

    Attributes:
        sir_db, snr_db, level_dbfs: (asked, found); an SIR for every talker but the first.
        cut: the mixture was clipped or masked after its level was set.
        peak: of the mixture.
        clipped: share of the mixture's samples that lie where its peaks were cut.
        overlap: share of the target's speech during which somebody else is heard; None: the target is absent.
    """

    sir_db: list[tuple[float, float]]
    snr_db: tuple[float, float] | None
    level_dbfs: tuple[float, float]
    cut: bool
    peak: float
    clipped: float
    overlap: float | None


@dataclass(frozen=True)
class Shown:
    """A rendered mixture.

    Attributes:
        signals: (T,) by kind: mixture, target, interferer1…, noise, enroll1…; no target where it is absent.
        speech: by kind, from when to when (s) something is heard.
        rt60_s: by kind, of the room's response.
    """

    mixture: Mixture
    signals: Mapping[str, np.ndarray]
    speech: Mapping[str, list[tuple[float, float]]]
    rt60_s: Mapping[str, float | None]
    measured: Measured

    @property
    def facts(self) -> dict[str, Any]:
        return {"measured": asdict(self.measured), "rt60_s": dict(self.rt60_s)}


@dataclass(frozen=True)
class Part:
    """Draws of one conf: a step of the training, or a fixed set.

    Attributes:
        name: "step 3000", "test".
        simulation: what was asked for.
        draws: `numbers_of` many mixtures.
        speakers: who could have been the target.
        rates: sample rate of every file that the crops are of.
        rir_sets: the set of every response, by path and start.
    """

    name: str
    simulation: Simulation
    draws: Sequence[Draw]
    shown: Sequence[Shown]
    speakers: Sequence[str]
    rates: Mapping[str, int]
    rir_sets: Mapping[tuple[str, int], str]

    @property
    def folder(self) -> str:
        return slug(self.name)


def slug(name: str) -> str:
    """A name as files and addresses can have it everywhere; different names stay different."""
    return re.sub(r"[^A-Za-z0-9_-]", lambda odd: f"~{ord(odd[0]):x}", name.replace(" ", "-"))


# ------------------------------------------------------------------------------------------------------------- numbers


def numbers_of(mixture: Mixture, rates: Mapping[str, int], rir_sets: Mapping[tuple[str, int], str]) -> Draw:
    """A draw's numbers, from its text alone. Lists have an entry a talker, interferer or enrolment.

    `presence` is the share of the mixture that the target's crop takes, `overlap` the share of the target's crop that
    each interferer's crop covers; both None where the target is absent.
    """
    stretches = [stretch(source, mixture, rates) for source in mixture.talkers]
    begin, end = stretches[0]
    covered = [max(0, min(end, last) - max(begin, first)) / max(1, end - begin) for first, last in stretches[1:]]
    present = mixture.target_present
    return {
        "mix_id": mixture.mix_id,
        "target": mixture.target_spk,
        "present": present,
        "num_talkers": len(mixture.talkers),
        "sir_db": [source.level_db for source in mixture.talkers[1:]],
        "snr_db": mixture.noise.level_db if mixture.noise else None,
        "level_dbfs": mixture.level_dbfs,
        "presence": (end - begin) / mixture.num_samples if present else None,
        "overlap": covered if present else None,
        "speed": [source.speed for source in mixture.talkers],
        "crop_s": [(last - first) / mixture.sample_rate for first, last in stretches],
        "enroll_s": [source.num_samples / rates[source.path] / source.speed for source in mixture.enrolls],
        "rooms": [rir_set(source, rir_sets) for source in mixture.talkers],
        "enroll_rooms": [rir_set(source, rir_sets) for source in mixture.enrolls],
        "enroll_snr_db": [source.noise.level_db if source.noise else None for source in mixture.enrolls],
        "enroll_eq": [bool(source.eq_db) for source in mixture.enrolls],
        "band_limit_hz": mixture.band_limit_hz or None,
        "clip_db": mixture.clip_db or None,
        "num_time_masks": sum(mask.axis == "time" for mask in mixture.masks),
        "num_freq_masks": sum(mask.axis == "freq" for mask in mixture.masks),
    }


def stretch(source: Source, mixture: Mixture, rates: Mapping[str, int]) -> tuple[int, int]:
    """From where to where in the mixture (samples) the crop itself lies; the room's tail is not counted."""
    length = round(source.num_samples / rates[source.path] / source.speed * mixture.sample_rate)
    return max(0, source.offset), max(0, min(mixture.num_samples, source.offset + length))


def rir_set(source: Source, rir_sets: Mapping[tuple[str, int], str]) -> str | None:
    return rir_sets.get((source.rir.path, source.rir.start), "?") if source.rir else None


QUANTITIES: dict[str, Quantity] = {
    "num_talkers": ("talkers", "", "num_talkers", 1),
    "sir_db": ("SIR", "dB", "sir_db", 1),
    "snr_db": ("SNR", "dB", "snr_db", 1),
    "level_dbfs": ("level", "dBFS", "level_dbfs", 1),
    "presence": ("presence of the target", "share", "target_presence", 2),
    "overlap": ("overlap with the target", "share", "overlap_ratio", 2),
    "crop_s": ("crop of a talker", "s", "segment_s", 2),
    "enroll_s": ("enrolment", "s", "enroll_s", 2),
    "speed": ("speed", "", "speed", 3),
    "enroll_snr_db": ("SNR of an enrolment", "dB", "enroll_snr_db", 1),
    "band_limit_hz": ("band limit", "Hz", "band_limit_hz", 0),
    "clip_db": ("peaks cut by", "dB", "clip_db", 1),
    "num_time_masks": ("time masks", "", "num_time_masks", 1),
    "num_freq_masks": ("frequency masks", "", "num_freq_masks", 1),
}

EVENTS: dict[str, Event] = {
    "target absent": ("target_absent", lambda draw: [not draw["present"]]),
    "mixture with noise": ("noise_probability", lambda draw: [draw["snr_db"] is not None]),
    "talker in a room": ("rir_probability", lambda draw: [room is not None for room in draw["rooms"]]),
    "enrolment in a room": ("enroll_rir_probability", lambda draw: [room is not None for room in draw["enroll_rooms"]]),
    "enrolment with noise": ("enroll_noise_probability", lambda draw: [db is not None for db in draw["enroll_snr_db"]]),
    "enrolment equalised": ("enroll_eq_probability", lambda draw: draw["enroll_eq"]),
    "band limited": ("band_limit_probability", lambda draw: [draw["band_limit_hz"] is not None]),
    "clipped": ("clip_probability", lambda draw: [draw["clip_db"] is not None]),
}


def values_of(draws: Sequence[Draw], key: str) -> list[float]:
    """All values of a quantity, one after the other; what a draw has not is left out."""
    found = [draw[key] for draw in draws]
    flat = [value for entry in found for value in (entry if isinstance(entry, list) else [entry])]
    return [value for value in flat if value is not None]


def times_wanted(draws: Sequence[Draw], speakers: Sequence[str]) -> dict[str, int]:
    """How often each speaker is the target; those who never are with 0."""
    return dict.fromkeys(speakers, 0) | Counter(draw["target"] for draw in draws)


def drawn_table(parts: Sequence[Part]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: for each part what was asked for, and mean and range of what was drawn.

    What is never drawn has no row.
    """
    heads, rows = asked_and_drawn(parts, QUANTITIES, EVENTS)
    rir_sets = sorted({name for part in parts for name in part.rir_sets.values()})
    for name in rir_sets if len(rir_sets) > 1 else []:
        row = [f"rooms of {name}"]
        for part in parts:
            weights, own = part.simulation.rir_sources, name in part.rir_sets.values()
            rooms = [room for draw in part.draws for room in (*draw["rooms"], *draw["enroll_rooms"]) if room and own]
            wanted = f"{100 * weights.get(name, 0) / sum(weights.values()):.3g} %" if weights else ""
            row += [wanted, f"{100 * rooms.count(name) / len(rooms):.1f} %"] if rooms else ["", "-"]
        rows.append(row)
    row = ["times a speaker is the target"]
    for part in parts:
        times = list(times_wanted(part.draws, part.speakers).values())
        row += ["", spread(times, 1) if part.simulation.task == "extract" else "-"]
    return heads, [*rows, *([row] if any(cell != "-" for cell in row[2::2]) else [])]


def asked_and_drawn(
    parts: Sequence[Any],
    quantities: Mapping[str, Quantity],
    events: Mapping[str, Event],
) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of what any kind of drawing has: a row a quantity, then a row an event."""
    heads = [""]
    for part in parts:
        heads += [f"{part.name}: asked", "drawn [least, most]"]
    rows = []
    for key, (title, unit, knob, digits) in quantities.items():
        row = [f"{title} ({unit})" if unit else title]
        for part in parts:
            values = values_of(part.draws, key)
            drawn = values and (any(values) or not knob.endswith("_masks"))
            row += [asked(part.simulation, knob), spread(values, digits)] if drawn else ["", "-"]
        if any(cell not in ("", "-") for cell in row[1:]):
            rows.append(row)
    for title, (knob, answers) in events.items():
        row = [title]
        for part in parts:
            given = [answer for draw in part.draws for answer in answers(draw)]  # none of enrolments in a separation
            share = float(np.mean(given)) if given else 0.0
            row += [f"{100 * getattr(part.simulation, knob):g} %", f"{100 * share:.1f} %"]
        if any(cell not in ("0 %", "0.0 %") for cell in row[1:]):
            rows.append(row)
    return heads, rows


def asked(simulation: Any, knob: str) -> str:
    """What a knob of a drawing stands at; nothing where no knob asks for the quantity."""
    value = getattr(simulation, knob) if knob else None
    if value is None:
        return ""
    low, high = value if isinstance(value, tuple) else (value, value)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def spread(values: Sequence[float], digits: int) -> str:
    mean, low, high = (
        f"{round(float(value), digits) + 0.0:.{digits}f}" for value in (np.mean(values), min(values), max(values))
    )
    return f"{mean} [{low}, {high}]"


def measured_table(parts: Sequence[Part]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: how far the audio of each part is from what was asked for, and of how many values that is."""
    columns = [deviations([shown.measured for shown in part.shown]) for part in parts]
    rows = []
    for title in columns[0]:
        row = [title]
        for column in columns:
            worst = max((there - wanted for wanted, there in column[title]), key=abs, default=0.0)
            row.append(f"{signed(worst, 2)} dB (n = {len(column[title])})" if column[title] else "-")
        if any(cell != "-" for cell in row[1:]):
            rows.append(row)
    peaks = [max(shown.measured.peak for shown in part.shown) for part in parts]
    cut = [float(np.mean([shown.measured.clipped for shown in part.shown])) for part in parts]
    rows.append(["highest peak of a mixture", *(f"{peak:.3f}" for peak in peaks)])
    rows.append(["samples cut by clipping", *(f"{100 * share:.2g} %" for share in cut)])
    return ["largest deviation", *(part.name for part in parts)], rows


def deviations(found: Sequence[Measured]) -> dict[str, list[tuple[float, float]]]:
    """(asked, found) by what can be told of them: what comes after the levels were set moves them."""
    whole, held = [one for one in found if not one.cut], "level, held back so that nothing is above full scale"
    return {
        "SIR": [pair for one in found for pair in one.sir_db],
        "SNR": [one.snr_db for one in found if one.snr_db],
        "level": [one.level_dbfs for one in whole if not at_peak(one)],
        held: [one.level_dbfs for one in whole if at_peak(one)],
        "level after clipping or masks": [one.level_dbfs for one in found if one.cut],
    }


def signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # + 0.0: never -0.00


def at_peak(found: Measured) -> bool:
    """Whether the level that was asked for would have gone beyond full scale."""
    wanted, there = found.level_dbfs
    return there < wanted - 0.01


# ---------------------------------------------------------------------------------------------------------------- page


def sections(parts: Sequence[Part]) -> list[str]:
    return [drawn_section(parts), measured_section(parts), *map(mixtures_section, parts)]


def inspection_page(title: str, parts: Sequence[Any], sections: Sequence[str], origin: Sequence[str]) -> str:
    """The page; a signal's player has the address that `sound_path` gives.

    Args:
        parts: of any kind, with a `name` and a `folder`.
        sections: with the ids "drawn", "measured" and "mixtures-<folder>" of each part.
        origin: facts for the foot of the page.
    """
    links = "".join(f'<a href="#mixtures-{part.folder}">{escape(part.name)}</a>' for part in parts)
    head = (
        f'<header><p class="eyebrow">Mixtures as they are drawn</p><h1>{escape(title)}</h1><nav aria-label="Sections">'
        f'<a href="#drawn">asked and drawn</a><a href="#measured">measured</a>{links}<a href="#origin">origin</a>'
        "</nav></header>"
    )
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in origin)
    foot = f'<footer id="origin"><h2>Where this comes from</h2><ul>{facts}</ul></footer>'
    body = "\n".join([head, *sections, foot])
    return page(f"{title} - inspection", body, f"{GENERATOR}\n<style>{STYLE}</style>\n")


def drawn_section(parts: Sequence[Part]) -> str:
    counted = times_wanted(
        [draw for part in parts for draw in part.draws], sorted({name for part in parts for name in part.speakers})
    )
    never = sum(count == 0 for count in counted.values())
    svg = charts.ranks(counted, f"{len(counted)} speakers", "draws", "How often each speaker is the target")
    note = "Every utterance is the target equally often, so speakers with many are wanted more often."
    targets = figure("Who is the target, in all draws", svg, f"{note} {never} never are." if never else note)
    return as_drawn(parts, drawn_table(parts), [*spreads(parts, QUANTITIES, NOTES), targets])


def as_drawn(parts: Sequence[Any], table: tuple[list[str], list[list[str]]], figures: Sequence[str]) -> str:
    """The section of what is known from the text of the draws."""
    counts = ", ".join(f"{len(part.draws)} of {part.name}" for part in parts)
    spread_out = f'<h3>How they are spread</h3><div class="grid">{"".join(figures)}</div>' if figures else ""
    return (
        f'<section id="drawn"><h2>Asked and drawn</h2><p class="lead">From the text of the draws, no audio: {counts}.'
        f"</p>{html_table('Asked for, and drawn: mean and range', *table)}{spread_out}</section>"
    )


def spreads(parts: Sequence[Any], quantities: Mapping[str, Quantity], notes: Mapping[str, str]) -> list[str]:
    """A figure a quantity that is not the same everywhere."""
    figures = []
    for key, (title, unit, _, digits) in quantities.items():
        series = {part.name: values_of(part.draws, key) for part in parts}
        series = {name: values for name, values in series.items() if values}
        if np.ptp([value for values in series.values() for value in values] or [0]) >= 10**-digits:
            named = title[0].upper() + title[1:]
            svg = charts.histograms(series, unit or title, f"Histogram: {named} of {', '.join(series)}")
            figures.append(figure(named, svg, notes.get(key, "")))
    return figures


NOTES = {
    "sir_db": "The target's image over one interferer's; of an absent target, the first talker's.",
    "snr_db": "All speech over noise.",
    "overlap": "Share of the target's crop that an interferer's crop covers. A short utterance covers less than asked.",
    "presence": "Share of the mixture that the target's crop takes. A short utterance takes less than asked.",
    "crop_s": "As long as it is heard in the mixture.",
    "enroll_s": "Shorter than asked where the utterance is.",
}


def measured_section(parts: Sequence[Part]) -> str:
    return (
        '<section id="measured"><h2>Asked and measured</h2><p class="lead">On the audio of the mixtures below. SIR '
        "and SNR are RMS ratios over the target's active samples (20 ms frames within 40 dB of the loudest), after "
        f"room and crop.</p>{scroll_table('Asked and measured', *measured_table(parts))}</section>"
    )


def mixtures_section(part: Part) -> str:
    return examples(part, [article(part, shown) for shown in part.shown], ", an enrolment has its own")


def examples(part: Any, articles: Sequence[str], except_for: str = "") -> str:
    """The section of a part's mixtures, an article each."""
    rate = part.shown[0].mixture.sample_rate
    bar = data_uri("image/png", charts.colour_bar_png())
    return (
        f'<section id="mixtures-{part.folder}"><h2>Mixtures of <em>{escape(part.name)}</em></h2>'
        '<p class="lead">The audio is as the network gets it, at its level. In the pictures a mixture and its parts '
        f"share one gain and one colour scale{except_for}. Frequency is linear, 0 to "
        f'{rate / 2000:g} kHz from bottom to top.</p><p class="scale"><span>-{charts.SPECTROGRAM_RANGE_DB:g} dB</span>'
        f'<img src="{bar}" alt="Colours of the spectrograms, from quiet to loud"><span>0 dB, the loudest point</span>'
        "</p>" + "\n".join(articles) + "</section>"
    )


def sound_path(part: Any, mixture: Mixture, kind: str) -> str:
    """Where a signal lies, relative to the page."""
    return f"audio/{part.folder}/{slug(mixture.mix_id)}/{slug(kind)}.wav"


def article(part: Part, shown: Shown) -> str:
    """One mixture: chips, who speaks when, pictures and players, and everything that was drawn."""
    mixture, rate = shown.mixture, shown.mixture.sample_rate
    names = {kind: name_of(kind, mixture) for kind in shown.signals}
    together = [kind for kind in shown.signals if not kind.startswith("enroll")]
    gain = PEAK / max(*(float(np.abs(shown.signals[kind]).max()) for kind in together), 1e-4)
    pictures = {
        kind: charts.spectrogram(shown.signals[kind] * gain, rate) for kind in ("mixture", "target") if kind in names
    }
    loudest = max(float(picture.max()) for picture in pictures.values())
    panels, players = [], []
    for kind, signal in shown.signals.items():
        sound = sound_path(part, mixture, kind)
        own_gain = PEAK / max(float(np.abs(signal).max()), 1e-4) if kind not in together else gain
        if kind.startswith("enroll"):
            picture = charts.spectrogram(signal * own_gain, rate)
            image = charts.spectrogram_png(picture, float(picture.max()))
        elif kind in pictures:
            image = charts.spectrogram_png(pictures[kind], loudest)
        else:
            what = f"{names[kind]} of {mixture.mix_id}"
            players.append(
                f'<figure class="panel plain"><figcaption>{escape(names[kind])}</figcaption>'
                f"{charts.waveform(signal * gain, f'Waveform: {what}')}{player(what, sound)}</figure>"
            )
            continue
        panels.append(panel(names[kind], mixture.mix_id, image, signal * own_gain, rate, sound))
    style = "example" if mixture.target_present else "example absent"
    return (
        f'<article class="{style}"><h3>{escape(mixture.mix_id)}</h3><p class="chips">{"".join(chips(shown))}</p>'
        f"{time_line(part, shown)}"
        f'<div class="panels">{"".join(panels)}</div><div class="panels">{"".join(players)}</div>'
        f"{details(part, shown)}</article>"
    )


def name_of(kind: str, mixture: Mixture) -> str:
    """What a signal is called on the page, with its speaker."""
    source = source_of(kind, mixture)
    number = re.sub(r"\D", "", kind)
    if not mixture.enrolls and (kind == "target" or number):  # of a separation all talkers are alike
        return f"Talker {int(number or 0) + 1}: {source.spk_id if source else ''}"
    word = {"enroll": "Enrolment", "interferer": "Interferer", "image": "Target's image"}.get(
        kind.rstrip("0123456789"), kind.capitalize()
    )
    alone = number == "1" and len(mixture.interferers if word == "Interferer" else mixture.enrolls) == 1
    speaker = f" {source.spk_id}" if source and source.spk_id else ""
    return f"{word}{'' if alone or not number else f' {number}'}{':' if speaker else ''}{speaker}"


def place_of(kind: str) -> tuple[int, str]:
    """The order of a mixture's signals in lists."""
    order = ("mixture", "target", "image", "interferer", "noise", "enroll")
    return order.index(kind.rstrip("0123456789")), kind


def source_of(kind: str, mixture: Mixture) -> Source | None:
    """The crop that a signal is of; None for the mixture."""
    kinds = {"target": mixture.talkers[0] if mixture.target_present else None, "noise": mixture.noise}
    kinds |= {f"interferer{number}": source for number, source in enumerate(mixture.interferers, 1)}
    kinds |= {f"enroll{number}": source for number, source in enumerate(mixture.enrolls, 1)}
    return kinds.get(kind)


def chips(shown: Shown) -> list[str]:
    mixture, found = shown.mixture, shown.measured
    warn = "" if mixture.target_present else '<span class="chip warn">target absent</span>'
    count = len(mixture.talkers)
    texts = [f"{count} talker{'s' if count > 1 else ''}"]
    if found.sir_db:
        texts.append(f"SIR {' / '.join(f'{wanted:.1f}' for wanted, _ in found.sir_db)} dB")
    texts.append(f"SNR {found.snr_db[0]:.1f} dB" if found.snr_db else "no noise")
    texts.append(f"{mixture.level_dbfs:.1f} dBFS")
    if found.overlap is not None:
        texts.append(f"{100 * found.overlap:.0f} % of the target's speech overlapped")
    in_rooms = sum(source.rir is not None for source in mixture.talkers)
    more = [f"{in_rooms} of {count} in a room" if in_rooms else "dry"]
    if mixture.target_present and mixture.target != "reverberant" and mixture.talkers[0].rir:
        until = f" until {1000 * mixture.early_s:g} ms" if mixture.target == "early" else ""
        more.append(f"{mixture.target} target{until}")
    if mixture.band_limit_hz:
        more.append(f"band to {mixture.band_limit_hz:.0f} Hz")
    if mixture.clip_db:
        more.append(f"peaks cut by {mixture.clip_db:.1f} dB, {100 * found.clipped:.2g} % of the samples")
    for mask in mixture.masks:
        what, unit = ("time", "s") if mask.axis == "time" else ("frequency", "Hz")
        more.append(f"{what} mask {mask.begin:.4g} to {mask.end:.4g} {unit}")
    styled = [f'<span class="chip">{escape(text)}</span>' for text in texts]
    return [warn, *styled, *(f'<span class="chip quiet">{escape(text)}</span>' for text in more)]


def time_line(part: Part, shown: Shown) -> str:
    """Who speaks when: pale where the crop lies, full where something is heard of it."""
    mixture = shown.mixture
    longest = max(len(signal) for signal in shown.signals.values()) / mixture.sample_rate
    rows = []
    if not mixture.target_present:
        rows.append(
            f'<span class="who bad">Target: {escape(mixture.target_spk)}</span><span class="nobody">does not speak here'
            "</span>"
        )
    for kind in sorted(shown.speech, key=place_of):
        source = source_of(kind, mixture)
        assert source is not None
        alone = kind.startswith("enroll")
        crop = (0, len(shown.signals[kind])) if alone else stretch(source, mixture, part.rates)
        begin, end = (edge / mixture.sample_rate for edge in crop)
        style = "s1" if kind == "target" else "s2" if kind.startswith("interferer") else "own"
        heard = [(max(0.0, first), min(longest, last)) for first, last in shown.speech[kind]]
        rows.append(track(name_of(kind, mixture), style, (begin, end), heard, longest))
    return with_ticks(rows, longest)


def track(
    name: str, style: str, crop_s: tuple[float, float], heard_s: Sequence[tuple[float, float]], longest_s: float
) -> str:
    """A row of a time line: pale where the crop lies, full where something is heard."""
    begin, end = crop_s
    spans = ", ".join(f"{first:.2f} to {last:.2f} s" for first, last in heard_s[:8]) + (" …" if heard_s[8:] else "")
    bars = "".join(
        f'<rect class="{style} solid" x="{1000 * first / longest_s:.1f}" y="3" '
        f'width="{1000 * (last - first) / longest_s:.1f}" height="14"/>'
        for first, last in heard_s
    )
    return (
        f'<span class="who">{escape(name)}</span>'
        f'<svg class="track" viewBox="0 0 1000 20" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(name)} is heard from {spans}">'
        f'<rect class="{style} pale" x="{1000 * begin / longest_s:.1f}" y="0" '
        f'width="{1000 * (end - begin) / longest_s:.1f}" height="20"/>{bars}</svg>'
    )


def with_ticks(rows: Sequence[str], longest: float) -> str:
    ticks = [tick for tick in charts.Scale(0, longest, 0, 100).ticks(6) if tick < 0.97 * longest]
    marks = "".join(f'<span style="left:{100 * tick / longest:.2f}%">{tick:g} s</span>' for tick in ticks)
    return f'<div class="timeline">{"".join(rows)}<span></span><div class="ticks">{marks}</div></div>'


DETAILS = [
    "", "speaker", "asked", "measured", "heard (s)", "speed", "room", "RT60 (s)", "more", "of its file (s)",
    "utterance", "file",
]  # fmt: skip


def details(part: Part, shown: Shown) -> str:
    """Everything drawn, a row a crop."""
    mixture, found, rows = shown.mixture, shown.measured, []
    for kind in sorted(shown.signals, key=place_of):
        source, signal = source_of(kind, mixture), shown.signals[kind]
        if source is None:
            continue
        rate = part.rates[source.path]
        begin, end = stretch(source, mixture, part.rates) if source in mixture.talkers else (0, len(signal))
        if source is mixture.talkers[0]:
            level = ("reference", "")
        elif source in mixture.talkers:
            wanted, there = found.sir_db[mixture.talkers.index(source) - 1]
            level = (f"SIR {wanted:.2f} dB", f"{there:.2f} dB")
        elif found.snr_db and kind == "noise":
            level = (f"SNR {found.snr_db[0]:.2f} dB", f"{found.snr_db[1]:.2f} dB")
        else:
            level = (f"{mixture.level_dbfs:.2f} dBFS", f"{rms_db(signal):.2f} dBFS")
        rt60 = shown.rt60_s.get(kind)
        repeated = kind == "noise" and stretch(source, mixture, part.rates)[1] < mixture.num_samples - 1
        rows.append([
            name_of(kind, mixture).partition(":")[0],
            source.spk_id + (f" ({source.gender})" if source.gender else ""),
            *level,
            f"{begin / mixture.sample_rate:.2f} to {end / mixture.sample_rate:.2f}",
            f"{source.speed:.3f}" if source.speed != 1 else "1",
            room_of(source, part) if source.spk_id else "",
            f"{rt60:.2f}" if rt60 is not None else "",
            "repeated" if repeated else more_of(source),
            f"{source.start / rate:.2f} to {(source.start + source.num_samples) / rate:.2f}",
            source.utt_id,
            source.path,
        ])  # fmt: skip
    return scroll_table(f"Drawn: {mixture.mix_id}", DETAILS, rows, "drawn")


def room_of(source: Source, part: Part) -> str:
    if not source.rir:
        return "dry"
    room = f", room {source.rir.room}" if source.rir.room else ""
    return f"{source.rir.utt_id or source.rir.path}{room} ({rir_set(source, part.rir_sets)})"


def more_of(source: Source) -> str:
    parts = [f"fades {source.fade_s:g} s"] if source.fade_s else []
    parts += [f"group {source.group}"] if source.group else []
    parts += [f"noise {source.noise.utt_id} at {source.noise.level_db:.1f} dB"] if source.noise else []
    parts += [f"equaliser {' '.join(f'{gain:+.1f}' for gain in source.eq_db)} dB"] if source.eq_db else []
    return ", ".join(parts)


def rms_db(signal: np.ndarray) -> float:
    return 20 * float(np.log10(np.sqrt(np.mean(np.square(signal, dtype=np.float64))) + 1e-12))


# ------------------------------------------------------------------------------------------------------- text and JSON


def as_text(parts: Sequence[Part]) -> str:
    """The tables for the terminal."""
    return tables_as_text(drawn_table(parts), measured_table(parts))


def tables_as_text(*tables: tuple[list[str], list[list[str]]]) -> str:
    lines = []
    for heads, rows in tables:
        widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
        for row in [heads, *rows]:
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines.append("")
    return "\n".join(lines)


def as_json(parts: Sequence[Any]) -> list[dict[str, Any]]:
    """Of parts of any kind; what was measured on the mixtures that are shown are their `facts`."""
    return [
        {
            "name": part.name,
            "asked": part.simulation.model_dump(mode="json"),
            "draws": list(part.draws),
            "shown": [{"mix_id": shown.mixture.mix_id, **shown.facts} for shown in part.shown],
        }
        for part in parts
    ]


STYLE = """
.example h3 { margin: 0; font-size: 15px; overflow-wrap: anywhere; }
.example h3 + .chips { margin-bottom: 12px; }
.example.absent { border-left: 5px solid var(--bad); }
.panels + .panels { margin-top: 14px; }
.plain .wave { border-radius: 8px; }
.scale { display: flex; align-items: center; gap: 8px; margin: 0 0 16px; color: var(--soft); font-size: 13px; }
.scale img { width: min(200px, 40vw); height: 12px; border-radius: 3px; }
.timeline { display: grid; grid-template-columns: minmax(90px, max-content) 1fr; gap: 4px 12px; align-items: center;
  margin: 0 0 16px; font-size: 13px; }
.who { color: var(--soft); overflow-wrap: anywhere; max-width: 190px; }
.who.bad, .nobody { color: var(--bad); font-weight: 600; }
.nobody { border: 1px dashed var(--bad); border-radius: 4px; padding: 0 8px; }
.track { display: block; width: 100%; height: 20px; background: var(--chip); border-radius: 3px; }
.pale { fill: var(--c); fill-opacity: .25; } .own { --c: var(--accent); }
.ticks { position: relative; height: 18px; color: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums; }
.ticks span { position: absolute; border-left: 1px solid var(--axis); padding-left: 4px; white-space: nowrap; }
.example .scroll, .scroll + .grid { margin-top: 14px; }
.drawn th, .drawn td { padding: 6px 12px; text-align: left; font-size: 13px; }
.drawn tbody th { white-space: nowrap; min-width: 0; }
@media (max-width: 560px) { .timeline { grid-template-columns: 92px 1fr; gap: 4px 8px; } .who { font-size: 12px; } }
"""
