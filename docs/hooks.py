"""What mkdocs does besides: charts and examples become part of the site.

Pages link to `benchmarks/results/` and `docs/examples/` as they lie in the repository, so that the
links hold there too.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
CHARTS, EXAMPLES = ROOT / "benchmarks" / "results", ROOT / "docs" / "examples"


def on_files(files: Files, config: Any) -> Files:
    """Add charts, as `charts/`, and examples, as `examples/`."""
    for path in sorted(CHARTS.glob("*.png")):
        files.append(File.generated(config, f"charts/{path.name}", abs_src_path=str(path)))
    for path in sorted(path for path in EXAMPLES.rglob("*") if path.is_file()):
        place = f"examples/{path.relative_to(EXAMPLES)}"
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Include files; point links to charts and examples at their places in the site.

    A link to any other file of the repository becomes its text.
    """
    up = "../" * page.file.src_uri.count("/")
    markdown = _included(markdown, up)
    markdown = markdown.replace(f"({up}../../benchmarks/results/", f"({up}charts/")
    markdown = markdown.replace(f"({up}../examples/", f"({up}examples/")
    text = r"\[((?:[^\[\]]|\[[^\]]*\])*)\]"
    return re.sub(rf"{text}\({re.escape(up)}\.\./[^)]*\)", r"\1", markdown)


def _included(page: str, up: str) -> str:
    """Return a page with the file of the repository that it includes; its title is the page's."""
    name = page.partition("<!-- include: ")[2].partition(" -->")[0]
    if not name:
        return page
    text = (ROOT / name).read_text().partition("\n")[2]
    text = text.replace("(docs/pages/", f"({up}").replace("(CHANGELOG.md)", "(changelog.md)")
    return page.replace(f"<!-- include: {name} -->", text)
