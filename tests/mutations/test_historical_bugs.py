"""Every historical bug, put into a copy of the package, makes the test named for it fail."""

import os
import re
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from tests.mutations.bugs import REPOSITORIES, Bug, copy_with, patched
from tests.mutations.forks import ROOT, Forks
from tests.mutations.sources import EXCUSED, SOURCES
from tests.mutations.table import BUGS, FILE, page

PACKAGE = ROOT / "rlhf"
# An assertion, a refusal that did not come, or a refusal of ours.
KILLED = (
    r"^E +(assert|AssertionError|Failed: DID NOT RAISE|rlhf\.errors\.|ValueError: [\w, ]+: got )"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as running:
        yield running


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("bug", BUGS, ids=[f"{bug.sources[0]} {bug.name}" for bug in BUGS])
def test_a_historical_bug_is_caught(forks: Forks, tmp_path: Path, bug: Bug) -> None:
    copy_with(bug, PACKAGE, tmp_path)
    code, output = forks.run(tmp_path, [bug.killer])
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert re.search(KILLED, output, re.MULTILINE), output  # not by an error of another kind


@pytest.mark.slow
@needs_fork
def test_the_package_as_it_is_passes_the_same_tests(forks: Forks, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "rlhf")
    (tmp_path / "conf").symlink_to(PACKAGE.parent / "conf")
    code, output = forks.run(tmp_path, sorted({bug.killer for bug in BUGS}))
    assert code == pytest.ExitCode.OK, output


def test_every_entry_of_the_list_is_covered_or_excused_and_none_is_both() -> None:
    covered = {*chain.from_iterable(bug.sources for bug in BUGS)}
    excused = [*chain.from_iterable(entry.sources for entry in EXCUSED)]
    assert sorted([*covered, *excused]) == sorted(SOURCES)
    assert len(BUGS) >= 30


def test_sources_name_known_projects() -> None:
    known = (*(f"{name} #" for name in REPOSITORIES), *(f"{name}: " for name in REPOSITORIES))
    strays = [
        source
        for source in SOURCES
        if not source.startswith((*known, "measured: ", "another trainer: "))
    ]
    assert strays == []


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_every_anchor_stands_exactly_once(bug: Bug) -> None:
    text = (PACKAGE / bug.file).read_text()
    assert patched(bug, text) != text


def test_an_anchor_that_stands_twice_or_not_at_all_is_refused() -> None:
    bug = Bug("b", (), "file.py", (("one", "two"),), "t")
    assert patched(bug, "one") == "two"
    for text in ("", "one one"):
        with pytest.raises(ValueError, match=r"file.py: \d places have 'one', wanted 1"):
            patched(bug, text)


def test_names_are_different() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS)


def test_the_page_is_up_to_date() -> None:
    assert FILE.read_text() == page(), "run `python -m tests.mutations.table`"
