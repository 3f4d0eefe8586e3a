"""Self-contained HTML pages and their parts: cards, images, curves."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from io import BytesIO
from itertools import cycle
from math import isfinite
from pathlib import Path
from typing import Any

from PIL import Image

from rlhf.tracking.metrics import METRICS

_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'{}">"""
_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f24; --dim: #667080;
  --edge: #dfe3e8; --line: #2f6fdb; --other: #c2740a; --win: #1a7f4b; --loss: #c0392b;
  --tie: #6b7684 }
@media (prefers-color-scheme: dark) { :root { --page: #12151a; --card: #1b2027; --ink: #e6e9ee;
  --dim: #98a2b0; --edge: #2d343d; --line: #6ea3ff; --other: #e0a34a; --win: #2e9c64;
  --loss: #d9584a } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1180px; padding: 32px 24px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
h1 { margin: 0 0 8px } h2 { margin: 36px 0 12px; font-size: 18px } p { margin: 6px 0 }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(var(--w), 1fr)) }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 14px;
  overflow-wrap: anywhere }
.dim { color: var(--dim); font-size: 13px } .big { font-size: 22px; font-weight: 600 }
.pair { display: grid; gap: 10px; grid-template-columns: 1fr 1fr; margin-top: 10px }
.answer { border-top: 2px solid var(--edge); padding-top: 6px }
.badge { border-radius: 99px; padding: 1px 10px; color: #fff; font-size: 13px; font-weight: 600 }
.card img { width: 100%; height: 190px; object-fit: contain; background: var(--page) }
.tiny { image-rendering: pixelated } .line { fill: none }
table { border-collapse: collapse; width: 100%; background: var(--card); font-size: 14px }
.wide { overflow-x: auto; border: 1px solid var(--edge); border-radius: 10px }
th, td { padding: 7px 12px; text-align: right; border-bottom: 1px solid var(--edge) }
td { white-space: nowrap }
th { color: var(--dim); font-weight: 500 } td:first-child, th:first-child { text-align: left }
tr:last-child td { border-bottom: 0 }
svg { width: 100%; display: block }
svg text { fill: var(--dim); font-size: 11px; text-anchor: end } .x text { text-anchor: middle }
"""
_LIMITS = ("low", "high")  # of a win rate, shown with it
_COLORS = ("line", "other", "win", "loss", "tie")  # of the lines of one chart


def write_page(
    path: Path,
    *,
    title: str,
    notes: Sequence[str],
    parts: Sequence[str],
    style: str = "",
    script: str = "",
) -> None:
    """Write a page of HTML parts under a title and notes, which are escaped.

    Args: style is added to the page's own; script is the only one that may run, by its hash.
    """
    allowed = b64encode(sha256(script.encode()).digest()).decode()
    source = f"; script-src 'sha256-{allowed}'" if script else ""
    head = [
        f"{_HEAD.format(source)}<title>{escape(title)}</title><style>{_STYLE}{style}</style>",
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="dim">{escape(note)}</p>' for note in notes),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    tail = [f"<script>{script}</script>"] if script else []
    path.write_text("\n".join([*head, *parts, *tail]), "utf-8", errors="xmlcharrefreplace")


def metric_table(corner: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Rows of named metrics; `low` and `high` stand with the `win_rate`."""
    columns = list(dict.fromkeys(x for own in rows.values() for x in own if x not in _LIMITS))
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in (corner, *columns))
    lines = [
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{escape(_cell(own, column))}</td>" for column in columns)
        + "</tr>"
        for name, own in rows.items()
    ]
    return ['<div class="wide"><table>', f"<tr>{head}</tr>", *lines, "</table></div>"]


def _cell(own: Mapping[str, Any], column: str) -> str:
    """A metric; the win rate with its interval."""
    if column != "win_rate" or own.get(column) is None:
        return shown_metric(own.get(column))
    low, high = (own[limit] for limit in _LIMITS)
    return f"{own[column]:.1%} [{low:.1%}, {high:.1%}]"


def shown_metric(value: Any) -> str:
    """Four digits; a dash where there is no number."""
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def grid(title: str, width: int, cards: Sequence[str]) -> list[str]:
    """Cards of HTML, at least `width` pixels wide, under a heading; nothing without cards."""
    inside = [f'<div class="card">{card}</div>' for card in cards]
    head = f'<h2>{title}</h2><div class="grid" style="--w: {width}px">'
    return [head, *inside, "</div>"] if cards else []


def embedded(image: Image.Image, alt: str, side: int = 640) -> str:
    """Small images unharmed (PNG, shown crisp), large ones shrunk to `side` pixels (JPEG)."""
    shown, data = image.convert("RGB"), BytesIO()
    tiny = max(shown.size) <= 160
    shown.thumbnail((side, side))
    shown.save(data, "PNG" if tiny else "JPEG")
    source = f"data:image/{'png' if tiny else 'jpeg'};base64,{b64encode(data.getvalue()).decode()}"
    kind = "tiny" if tiny else ""
    return f'<img loading="lazy" class="{kind}" alt="{escape(alt)}" src="{source}">'


def curve(name: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """A chart of (step, value) lines with its name, meaning, last values and both axes."""
    head = f'<b>{escape(name)}</b><div class="dim">{escape(METRICS.get(name, ""))}</div>'
    finite = {label: [p for p in points if isfinite(p[1])] for label, points in lines.items()}
    drawn = {label: points for label, points in finite.items() if points}
    if not drawn:
        return head + '<p class="dim">no finite value</p>'
    steps, values = zip(*(point for points in drawn.values() for point in points), strict=True)
    first, last, low, high = min(steps), max(steps), min(values), max(values)
    wide, tall = last - first or 1, high - low or 1.0
    ticks = [(130 - 57.5 * k, low + tall * k / 2) for k in range(3)]
    marks = "".join(
        f'<path d="M56 {y}H306" stroke="var(--edge)"/><text x="50" y="{y + 4}">{value:.3g}</text>'
        for y, value in ticks
    )
    shapes, legend = "", []
    for color, (label, points) in zip(cycle(_COLORS), drawn.items(), strict=False):
        places = [(56 + 250 * (x - first) / wide, 130 - 115 * (y - low) / tall) for x, y in points]
        shapes += _line(places, color)
        named = f'<span style="color: var(--{color})">{escape(label)}</span> ' if label else ""
        legend.append(f"{named}last {points[-1][1]:.4g}")
    return (
        f'{head}<svg viewBox="0 0 320 165" role="img" aria-label="{escape(name)}">{marks}'
        f'<g class="x"><text x="56" y="146">{first:,}</text><text x="306" y="146">{last:,}</text>'
        f'<text x="181" y="160">step</text></g>{shapes}</svg>'
        f'<div class="dim">{" · ".join(legend)}</div>'
    )


def _line(places: Sequence[tuple[float, float]], color: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    return (
        f'<polyline class="line" style="stroke: var(--{color})" points="{points}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="var(--{color})"/>'
    )
