"""Write HTML pages as self-contained files: fill in templates, escape texts, embed images."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from rlhf.evaluation import charts
from rlhf.storage.atomic import make_directory, replace_text

PIXELATED_SIDE = 160  # pixels; images up to this size are embedded as they are
_LIMITS = ("low", "high")  # interval of the win rate, shown in its column
_HEADINGS = {  # metric: what a reader calls it, with its unit
    "win_rate": "win rate, 95 % interval",
    "kl": "KL, nats a response",
    "words": "words a response",
    "rep4": "repetition, 0 to 1",
    "distinct": "different responses",
    "accuracy": "accuracy",
    "blind_accuracy": "accuracy with another image",
}
_BEGINNINGS = {"blind_score_": "score by {}, with another image", "score_": "score by {}"}


def write_page(
    path: Path,
    template: str,
    *,
    title: str,
    notes: Sequence[str],
    scripts: Sequence[str] = ("charts.js",),
    **values: Any,
) -> None:
    """Fill in a template and write the page.

    Every text is escaped. The page may load no other file and run no script but `scripts`.

    Args:
        path: the file to write; its directory is made when missing.
        template: the name of a template, which extends `base.html.j2`.
        title: the heading of the page.
        notes: lines below the heading.
        scripts: names of files beside the templates.
        values: the variables of the template.

    Raises:
        ResourceError: the file cannot be written.
    """
    environment = _environment()
    script = "\n".join(environment.get_template(name).render() for name in scripts)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    values |= {"title": title, "notes": notes, "script": Markup(script), "script_hash": digest}
    page = environment.get_template(template).render(values)
    make_directory(path.parent)
    replace_text(path, page, errors="xmlcharrefreplace")  # a lone surrogate is not UTF-8


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("rlhf.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"metric": format_metric, "percent": format_percent}
    environment.globals["charts"] = charts
    return environment


def format_metric(value: Any) -> str:
    """Format a float with four digits, other values as text; a dash for None, NaN and inf."""
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_percent(share: float) -> str:
    """Format a share as a percentage with one decimal; a dash for NaN."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%" if isfinite(share) else "–"


@dataclass(frozen=True)
class MetricTable:
    """A table of named metrics.

    Attributes:
        columns: headings, the first above the names.
        rows: cells, a name first.
    """

    columns: list[str]
    rows: list[list[str]]


def metric_table(heading: str, rows: Mapping[str, Mapping[str, Any]]) -> MetricTable:
    """Lay out metrics as a table; `low` and `high` are shown with the `win_rate`.

    Args:
        heading: of the column of names.
        rows: name to metrics by name; a missing metric becomes a dash.
    """
    columns = list(dict.fromkeys(x for row in rows.values() for x in row if x not in _LIMITS))
    cells = [[name, *(_cell(row, column) for column in columns)] for name, row in rows.items()]
    return MetricTable([heading, *map(metric_heading, columns)], cells)


def metric_heading(name: str) -> str:
    """Return what a reader calls a metric of a model, with its unit."""
    for beginning, words in _BEGINNINGS.items():
        if name.startswith(beginning):
            return words.format(name.removeprefix(beginning).replace("_", " "))
    return _HEADINGS.get(name, name.replace("_", " "))


def _cell(row: Mapping[str, Any], column: str) -> str:
    if column != "win_rate" or row.get(column) is None:
        return format_metric(row.get(column))
    low, high = (row[limit] for limit in _LIMITS)
    return f"{row[column]:.1%} [{low:.1%}, {high:.1%}]"


@dataclass(frozen=True)
class EmbeddedImage:
    """An image inside a page.

    Attributes:
        source: the image as a data URL.
        alt: its alternative text.
        pixelated: whether it is small and enlarged without smoothing.
    """

    source: str
    alt: str
    pixelated: bool


def embed_image(image: Image.Image, alt: str, side: int = 640) -> EmbeddedImage:
    """Encode an image for a page: small ones exactly (PNG), large ones shrunk (JPEG).

    Args:
        image: of any mode; it is not changed.
        alt: its alternative text.
        side: pixels, maximum of the longer side.
    """
    copy, data = image.convert("RGB"), BytesIO()
    pixelated = max(copy.size) <= PIXELATED_SIDE
    copy.thumbnail((side, side))
    copy.save(data, "PNG" if pixelated else "JPEG")
    kind = "png" if pixelated else "jpeg"
    source = f"data:image/{kind};base64,{b64encode(data.getvalue()).decode()}"
    return EmbeddedImage(source, alt, pixelated)
