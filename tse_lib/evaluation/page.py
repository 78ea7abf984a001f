"""What our HTML pages are made of, as text: style, tables, figures, players. Nothing is fetched, no script runs."""

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

from tse_lib.evaluation import charts


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


def panel(name: str, of: str, picture: bytes, signal: np.ndarray, rate: int, sound: str) -> str:
    """A signal to look at and to listen to: its spectrogram (a PNG), waveform, and a player of the address `sound`."""
    what = f"{name} of {of}"
    return (
        f'<figure class="panel"><figcaption>{escape(name)}</figcaption>'
        f'<img src="{data_uri("image/png", picture)}" alt="Spectrogram: {escape(what)}, up to {rate / 2000:g} kHz">'
        f"{charts.waveform(signal, f'Waveform: {what}')}{player(what, sound)}</figure>"
    )


def player(what: str, sound: str) -> str:
    return f'<audio controls preload="metadata" aria-label="{escape(what)}" src="{escape(sound)}"></audio>'


def html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    return f"<h3>{escape(title)}</h3>{scroll_table(title, head, rows, style)}"


def scroll_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    """Without a heading; on a narrow screen it scrolls by itself."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{_cell(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f'<table class="{style}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    value, bracket, limits = text.partition(" [")
    if not bracket or not limits.endswith("]"):
        return escape(text)
    return f'{escape(value)} <span class="limits">[{escape(limits)}</span>'


def page(title: str, body: str, head: str = "") -> str:
    """The whole page; `head` is what this page adds to its own head."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
{head}<title>{escape(title)}</title>
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
