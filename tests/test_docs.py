"""The documentation is current: generated parts, links, the length of the README."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from docs.generators import markdown, results

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))
generate = importlib.import_module("generate")
sys.path.pop()

PAGES = generate.pages()
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_generated_parts_are_those_of_results_and_code(page: Path) -> None:
    assert generate.written_anew(page) == page.read_text(), "run `python docs/generate.py`"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files(name: str) -> None:
    links = LINK.findall((ROOT / name).read_text())
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_links_out_of_the_pages_lead_to_files() -> None:
    """Those that mkdocs does not check: charts, examples and code."""
    outside = [
        (page, link)
        for page in PAGES[1:]
        for link in LINK.findall(page.read_text())
        if not (page.parent / link).exists()
    ]
    assert not outside


def test_the_readme_has_at_most_200_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_a_block_is_replaced_and_the_rest_stays() -> None:
    page = "a\n<!-- generated: x -->\nold\nold\n<!-- end -->\nb <!-- end -->\n"
    new = "a\n<!-- generated: x -->\nnew\n<!-- end -->\nb <!-- end -->\n"
    assert markdown.filled(page, {"x": lambda: "new\n"}) == new
    with pytest.raises(KeyError, match="x"):
        markdown.filled(page, {})


def test_a_table_aligns_numbers_to_the_right() -> None:
    rows = [("x", 1), ("y", 2.5)]
    lines = ["| name | value |", "|---|---:|", "| x | 1 |", "| y | 2.5 |"]
    assert markdown.table(("name", "value"), rows, numbers=1) == "\n".join(lines)


def test_a_learned_row_has_median_and_range() -> None:
    metrics = {"win_rate": 0.9, "accuracy_before": 0.5, "accuracy_after": 0.75, "kl": 1.0}
    runs = {
        str(seed): {"metrics": metrics | {"kl": kl}, "curve": {"seconds": [1.0, 20.0]}}
        for seed, kl in enumerate((1.0, 3.0, 1.5))
    }
    row = "| ours | 90.0 % | 50.0 → 75.0 % | 1.50 [1.00, 3.00] | 20 |"
    assert results._learning({"runs": {"ours": runs}}).splitlines()[2] == row
