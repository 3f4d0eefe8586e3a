"""Write docs/pages/results/historical_bugs.md: each bug, where it happened, what kills it."""

from itertools import chain
from pathlib import Path

from tests.mutations import (
    bugs_of_architectures,
    bugs_of_data,
    bugs_of_foreign_models,
    bugs_of_imports,
    bugs_of_mathematics,
    bugs_of_models,
    bugs_of_records,
    bugs_of_tokens,
    bugs_of_training,
)
from tests.mutations.bugs import Bug, link
from tests.mutations.sources import EXCUSED

BUGS: tuple[Bug, ...] = (
    *bugs_of_mathematics.BUGS,
    *bugs_of_models.BUGS,
    *bugs_of_data.BUGS,
    *bugs_of_training.BUGS,
    *bugs_of_tokens.BUGS,
    *bugs_of_imports.BUGS,
    *bugs_of_foreign_models.BUGS,
    *bugs_of_architectures.BUGS,
    *bugs_of_records.BUGS,
)
FILE = Path(__file__).parents[2] / "docs/pages/results/historical_bugs.md"
INTRO = """# Historical bugs

{bugs} bugs that trainers of language models had, from {threads} threads, codes and measurements (a
choice in common use that was measured to miss a known answer). `tests/mutations/` writes each bug
into a copy of this package and demands that the test named for it fails. This page is written by
`python -m tests.mutations.table`.

| bug | where it happened | here | test that kills it |
|---|---|---|---|
"""
REST = """
## Without a counterpart here

| where it happened | why it is not injected |
|---|---|
"""


def page() -> str:
    """The whole page."""
    threads = len({*chain.from_iterable(bug.sources for bug in BUGS)})
    rows = [_row(_escaped(bug.name), _links(bug.sources), _file(bug), _test(bug)) for bug in BUGS]
    excused = [_row(_links(entry.sources), entry.reason) for entry in EXCUSED]
    intro = INTRO.format(bugs=len(BUGS), threads=threads)
    return intro + "".join(rows) + REST + "".join(excused)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _links(sources: tuple[str, ...]) -> str:
    return ", ".join(link(_escaped(source)) for source in sources)


def _file(bug: Bug) -> str:
    return f"[{bug.file}](../../../rlhf/{bug.file})"


def _test(bug: Bug) -> str:
    file, _, name = bug.killer.partition("::")
    return f"[{name}](../../../{file})"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(page())
