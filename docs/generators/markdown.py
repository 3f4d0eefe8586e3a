"""Tables, and named blocks of a page that are written anew."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

_BLOCK = re.compile(r"<!-- generated: (?P<name>[\w.]+) -->\n.*?<!-- end -->", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> str:
    """Return a Markdown table.

    Args:
        header: titles of the columns.
        rows: cells of each row.
        numbers: how many of the last columns are aligned to the right.
    """
    lines = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    body = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(header)} |", f"|{'|'.join(lines)}|", *body])


def filled(page: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """Return a page whose blocks `<!-- generated: NAME --> … <!-- end -->` are written anew.

    Args:
        page: Markdown.
        blocks: function that returns the content, by name.

    Raises:
        KeyError: the page names a block that there is none of.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- generated: {name} -->\n{blocks[name]().strip()}\n<!-- end -->"

    return _BLOCK.sub(fill, page)
