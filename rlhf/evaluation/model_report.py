"""The HTML page about an evaluation: models in a table, curves, and answers to sort and filter."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape
from math import isfinite, nan
from pathlib import Path
from typing import Any

from PIL import Image

from rlhf.evaluation.html import curve, embedded, grid, metric_table, shown_metric, write_page

_ALIKE = 0.3  # of two answers, words in common: fewer, and marks would only be in the way
_LARGE, _SMALL, _MANY = 640, 320, 60  # pixels of an image, and of one among many
_STYLE = """
.bar { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: 8px;
  align-items: center; padding: 10px 0; background: var(--page) }
.bar button, .bar select, .bar input { font: inherit; font-size: 14px; color: inherit;
  background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 4px 10px }
.bar button[aria-pressed=true] { border-color: var(--line); color: var(--line) }
article { content-visibility: auto; contain-intrinsic-size: auto 420px }
article[hidden] { display: none }
ins { text-decoration: none; background: color-mix(in srgb, var(--win) 22%, transparent) }
del { color: var(--dim); text-decoration-color: var(--loss) }
.pair { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)) }
@media (max-width: 560px) { body { padding: 16px 12px } }
"""
_SCRIPT = """
const list = document.getElementById("answers"), cards = [...list.children];
const value = (id) => document.getElementById(id).value;
const orders = {
  first: (a, b) => a.dataset.n - b.dataset.n,
  best: (a, b) => b.dataset.gain - a.dataset.gain,
  worst: (a, b) => a.dataset.gain - b.dataset.gain,
  length: (a, b) => Math.abs(b.dataset.words) - Math.abs(a.dataset.words),
};
function sort(name) {
  list.append(...cards.sort((a, b) => orders[name](a, b) || a.dataset.n - b.dataset.n));
  for (const button of document.querySelectorAll("[data-sort]"))
    button.setAttribute("aria-pressed", button.dataset.sort === name);
}
function filter() {
  const text = value("text").toLowerCase();
  let shown = 0;
  for (const card of cards) {
    card.hidden = (value("verdict") && card.dataset.verdict !== value("verdict"))
      || (value("kind") && card.dataset.kind !== value("kind"))
      || !card.textContent.toLowerCase().includes(text);
    shown += !card.hidden;
  }
  document.getElementById("shown").textContent = `${shown} of ${cards.length}`;
}
for (const button of document.querySelectorAll("[data-sort]"))
  button.addEventListener("click", () => sort(button.dataset.sort));
for (const id of ["verdict", "kind", "text"])
  document.getElementById(id).addEventListener("input", filter);
sort("best");
filter();
"""


@dataclass(frozen=True)
class ReportItem:
    """One prompt answered by every model.

    Attributes:
        kind: of instruction, such as its first words.
        texts: of each model, the first being what the others are compared with.
        scores: of the texts; NaN where there is none.
        verdict: win, loss, tie or unscored, of the last against the first.
    """

    image: Image.Image
    instruction: str
    kind: str
    texts: Sequence[str]
    scores: Sequence[float]
    verdict: str


def write_evaluation_report(
    path: Path,
    *,
    title: str,
    notes: Sequence[str],
    models: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, float],
    kinds: Mapping[str, Mapping[str, Any]],
    items: Sequence[ReportItem],
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
) -> None:
    """Write one HTML file that asks for nothing else; every text is escaped.

    Args:
        models: name to named metrics.
        scores: of models, mean, by the judge that decides; drawn over their `kl`.
        kinds: kind of instruction to named metrics.
        answered: the prompts that are shown, in their order.
        curves: metric to (step, value) of each model that has them.
    """
    side = _LARGE if len(items) <= _MANY else _SMALL
    drawn = [curve(name, lines) for name, lines in curves.items()]
    plot = _plot({name: (own.get("kl"), scores.get(name)) for name, own in models.items()})
    parts = [
        "<h2>Models</h2>",
        *metric_table("model", models),
        *(
            ["<h2>By kind of instruction</h2>", *metric_table("begins with", kinds)]
            if kinds
            else []
        ),
        *grid("Curves", 320, ([plot] if plot else []) + drawn),
        "<h2>Answers</h2>",
        _bar(sorted({item.kind for item in items})),
        '<div class="grid" id="answers" style="--w: 340px">',
        *(_card(n, item, list(models), side) for n, item in enumerate(items)),
        "</div>",
    ]
    write_page(path, title=title, notes=notes, parts=parts, style=_STYLE, script=_SCRIPT)


def _bar(kinds: Sequence[str]) -> str:
    sorts = {"first": "original order", "best": "best change", "worst": "worst change"}
    sorts |= {"length": "length change"}
    buttons = "".join(
        f'<button data-sort="{key}" aria-pressed="false">{name}</button>'
        for key, name in sorts.items()
    )
    verdicts = "".join(f"<option>{x}</option>" for x in ("win", "loss", "tie", "unscored"))
    options = "".join(f"<option>{escape(kind)}</option>" for kind in kinds)
    return (
        f'<div class="bar">{buttons}<select id="verdict" aria-label="verdict">'
        f'<option value="">all verdicts</option>{verdicts}</select>'
        f'<select id="kind" aria-label="kind"><option value="">all kinds</option>{options}</select>'
        '<input id="text" type="search" placeholder="search" aria-label="search">'
        '<span class="dim" id="shown"></span></div>'
    )


def _card(number: int, item: ReportItem, names: Sequence[str], side: int) -> str:
    gain = item.scores[-1] - item.scores[0] if item.scores else nan
    words = len(item.texts[-1].split()) - len(item.texts[0].split())
    responses = [
        f'<div class="answer"><span class="dim">{escape(name)} · {shown_metric(score)}</span>'
        f"<p>{escape(text) if n == 0 else marked(item.texts[0], text)}</p></div>"
        for n, (name, text, score) in enumerate(zip(names, item.texts, item.scores, strict=True))
    ]
    color = item.verdict if item.verdict in ("win", "loss") else "tie"
    return (
        f'<article class="card" data-n="{number}" data-gain="{gain if isfinite(gain) else 0}" '
        f'data-words="{words}" data-verdict="{escape(item.verdict)}" '
        f'data-kind="{escape(item.kind)}">{embedded(item.image, item.instruction, side)}'
        f"<p><b>{escape(item.instruction)}</b></p>"
        f'<span class="badge" style="background: var(--{color})">{escape(item.verdict)}</span>'
        f'<div class="pair">{"".join(responses)}</div></article>'
    )


def marked(before: str, after: str) -> str:
    """The later text as HTML, what is new in it marked, and what is gone; plain if little stays."""
    if SequenceMatcher(None, before.split(), after.split(), autojunk=False).ratio() < _ALIKE:
        return escape(after)
    old, new = (re.findall(r"\s+|\S+", text) for text in (before, after))
    matcher, parts = SequenceMatcher(None, old, new, autojunk=False), []
    for kind, a, b, c, d in matcher.get_opcodes():
        gone, come = escape("".join(old[a:b])), escape("".join(new[c:d]))
        if kind == "equal":
            parts.append(come)
        else:
            parts.append(
                (f"<del>{gone}</del>" if gone else "") + (f"<ins>{come}</ins>" if come else "")
            )
    return "".join(parts)


def _plot(places: Mapping[str, tuple[float | None, float | None]]) -> str:
    """Each model's score over its KL to the first."""
    known = {name: (x, y) for name, (x, y) in places.items() if x is not None and y is not None}
    if len(known) < 2:
        return ""
    xs, ys = zip(*known.values(), strict=True)
    left, low = min(xs), min(ys)
    wide, tall = max(xs) - left or 1, max(ys) - low or 1
    dots = "".join(
        f'<circle cx="{56 + 190 * (x - left) / wide:.1f}" cy="{125 - 105 * (y - low) / tall:.1f}" '
        f'r="4" fill="var(--line)"/><text x="{62 + 190 * (x - left) / wide:.1f}" '
        f'y="{121 - 105 * (y - low) / tall:.1f}" style="text-anchor: start">{escape(name)}</text>'
        for name, (x, y) in known.items()
    )
    return (
        '<b>score over KL</b><div class="dim">mean score of the answers; KL to the first model, '
        'nats a response</div><svg viewBox="0 0 320 165" role="img" aria-label="score over KL">'
        f'<path d="M56 130H306M56 15V130" stroke="var(--edge)" fill="none"/>'
        f'<text x="50" y="24">{max(ys):.3g}</text><text x="50" y="129">{low:.3g}</text>'
        f'<g class="x"><text x="56" y="146">{left:.3g}</text>'
        f'<text x="246" y="146">{max(xs):.3g}</text></g>{dots}</svg>'
    )
