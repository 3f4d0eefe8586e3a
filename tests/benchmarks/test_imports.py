"""Everything that a benchmark imports from the project is there; sources are parsed, not run.

Benchmarks need environments that tests do not have, so that few of them are imported by tests.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.support.imports import ROOT, Sources, package_sources

BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.rglob("*.py"))


def benchmark_sources() -> Sources:
    """Module name to source text, as a script in benchmarks/ imports it."""
    sources = {}
    for path in SCRIPTS:
        parts = path.relative_to(BENCHMARKS).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return sources


SOURCES = package_sources() | benchmark_sources()
OWN = {name.partition(".")[0] for name in SOURCES}


@cache
def defined(source: str) -> set[str]:
    """Names that a module binds at its top level, also inside `if` and `try`."""
    names = set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def missing(source: str, sources: Sources = SOURCES) -> list[str]:
    """What a module imports from the project that does not exist."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OWN:
            names = defined(sources.get(node.module, ""))
            submodules = {
                alias.name for alias in node.names if f"{node.module}.{alias.name}" in sources
            }
            wanted = {alias.name for alias in node.names} - submodules
            is_lazy = "__getattr__" in names
            found += [f"{node.module}.{name}" for name in sorted(wanted - names) if not is_lazy]
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(Path(path).relative_to(BENCHMARKS)))
def test_what_a_benchmark_imports_exists(path: Path) -> None:
    assert missing(path.read_text()) == []


def test_what_is_missing_is_found() -> None:
    assert missing("from rlhf.spans import Spans, Spam") == ["rlhf.spans.Spam"]
    assert missing("from baselines.gone import f") == ["baselines.gone.f"]
    assert missing("from rlhf.kernels import prefix_groups\nfrom torch import nothing") == []
