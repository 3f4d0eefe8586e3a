"""The HTML page about an evaluation: models in a table, curves, responses to sort and filter."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from math import isfinite, nan
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from rlhf.evaluation.charts import Chart, Curve, line_chart, scatter_chart
from rlhf.evaluation.html import EmbeddedImage, embed_image, metric_table, write_page
from rlhf.history import History
from rlhf.tracking.metrics import METRICS

MIN_SIMILARITY = 0.3  # share of equal words; below it, differences are not marked
LARGE_SIDE, SMALL_SIDE, MANY_ITEMS = 640, 320, 60  # pixels of an image; small if many items
_ORDERS = {  # of the responses: key in the page's script, text of the button
    "random": "random order",
    "first": "differing first",
    "best": "best change",
    "worst": "worst change",
    "length": "length change",
}

WordDiff = list[tuple[str, str]]  # (equal, insert or delete; text)


@dataclass(frozen=True)
class ReportItem:
    """A prompt with the response of every model.

    Attributes:
        image: the image of the prompt.
        instruction: the text of the prompt.
        kind: the kind of the instruction, such as its first words.
        responses: one of each model; the others are compared with the first model's.
        scores: one of each response; NaN if it was not scored.
        outcome: win, loss, tie or unscored, of the last model against the first.
        history: the earlier turns of the prompt.
    """

    image: Image.Image
    instruction: str
    kind: str
    responses: Sequence[str]
    scores: Sequence[float]
    outcome: str
    history: History = ()


@dataclass(frozen=True)
class _Card:
    """A ReportItem as the page shows it, with the values to sort by."""

    image: EmbeddedImage
    history: History
    instruction: str
    kind: str
    outcome: str
    gain: float
    words: int
    responses: list[tuple[str, float, WordDiff]]


def write_model_report(
    path: Path,
    *,
    title: str,
    notes: Sequence[str],
    models: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, float],
    kinds: Mapping[str, Mapping[str, Any]],
    items: Sequence[ReportItem],
    curves: Mapping[str, Mapping[str, Curve]],
    cautions: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Write the page as one self-contained HTML file; every text is escaped.

    Args:
        path: the file to write.
        title: the heading of the page.
        notes: lines below the heading.
        models: name of the model to its metrics by name.
        scores: name of the model to its mean score, by the judge that decides; drawn over its `kl`.
        kinds: kind of instruction to metrics by name.
        items: the prompts that are shown, in this order.
        curves: metric to the curve of each model that has it, by name of the model.
        cautions: what a reader should know before believing it.
        seed: of the order in which the prompts are shown at first.

    Raises:
        ResourceError: the file cannot be written.
    """
    side = LARGE_SIDE if len(items) <= MANY_ITEMS else SMALL_SIDE
    curve_charts = [
        line_chart(name, METRICS.get(name, ""), lines) for name, lines in curves.items()
    ]
    write_page(
        path,
        "model_report.html.j2",
        title=title,
        notes=notes,
        scripts=("charts.js", "model_report.js"),
        models=metric_table("model", models),
        kinds=metric_table("begins with", kinds),
        plots=_score_over_kl(models, scores) + curve_charts,
        orders=_ORDERS,
        cautions=cautions,
        places=Random(seed).sample(range(len(items)), len(items)),
        outcomes=("win", "loss", "tie", "unscored"),
        kind_names=sorted({item.kind for item in items}),
        cards=[_card(item, list(models), side) for item in items],
    )


def _card(item: ReportItem, models: Sequence[str], side: int) -> _Card:
    first, last = item.responses[0], item.responses[-1]
    gain = item.scores[-1] - item.scores[0] if item.scores else nan
    diffs = [[("equal", first)], *(word_diff(first, text) for text in item.responses[1:])]
    return _Card(
        embed_image(item.image, item.instruction, side),
        item.history,
        item.instruction,
        item.kind,
        item.outcome,
        gain if isfinite(gain) else 0,
        len(last.split()) - len(first.split()),
        list(zip(models, item.scores, diffs, strict=True)),
    )


def word_diff(before: str, after: str) -> WordDiff:
    """Compare two texts word by word.

    Args:
        before: the text that is compared with.
        after: the text that is shown.

    Returns:
        Parts of both texts in order, as (equal, insert or delete; text); only `after`, marked as
        equal, if the texts have little in common.
    """
    if (
        SequenceMatcher(None, before.split(), after.split(), autojunk=False).ratio()
        < MIN_SIMILARITY
    ):
        return [("equal", after)]
    old, new = (re.findall(r"\s+|\S+", text) for text in (before, after))
    parts: WordDiff = []
    for tag, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        removed, added = "".join(old[i:j]), "".join(new[k:m])
        if tag == "equal":
            parts.append((tag, added))
        else:
            parts += [("delete", removed)] * bool(removed) + [("insert", added)] * bool(added)
    return parts


def _score_over_kl(
    models: Mapping[str, Mapping[str, Any]], scores: Mapping[str, float]
) -> list[Chart]:
    """Chart the models whose score and KL are known; no chart for fewer than two models."""
    values = {name: (metrics.get("kl"), scores.get(name)) for name, metrics in models.items()}
    points = {
        name: (kl, score)
        for name, (kl, score) in values.items()
        if kl is not None and score is not None and isfinite(kl) and isfinite(score)
    }
    if len(points) < 2:
        return []
    subtitle = "mean score of the responses, over the KL divergence from the first model"
    return [scatter_chart("score over KL", subtitle, "KL, nats a response", points)]
