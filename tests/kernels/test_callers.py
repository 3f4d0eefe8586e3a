"""Every public kernel is called by the package outside rlhf/kernels, or it is deleted."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "rlhf"
INSIDE = PACKAGE / "kernels"


def exported(source: str) -> set[str]:
    """Public names that a module defines, assigns or imports under their own name."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


def called(source: str, module: str = "rlhf.kernels") -> set[str]:
    """Names that a source imports from `module` and uses elsewhere than in that import."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    }
    loaded = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return {name for local, name in imported.items() if local in loaded}


def callers() -> dict[str, list[str]]:
    """Name of each public kernel to the files outside rlhf/kernels that use it."""
    files_by_kernel: dict[str, list[str]] = {name: [] for name in kernels()}
    for path in sorted(PACKAGE.rglob("*.py")):
        if INSIDE not in path.parents:
            for name in called(path.read_text()) & files_by_kernel.keys():
                files_by_kernel[name].append(str(path.relative_to(PACKAGE)))
    return files_by_kernel


def kernels() -> list[str]:
    return sorted(exported((INSIDE / "__init__.py").read_text()))


@pytest.mark.parametrize("name", kernels())
def test_every_public_kernel_has_a_caller(name: str) -> None:
    assert callers()[name], f"{name}: nothing in rlhf/ outside rlhf/kernels uses it; delete it"


def test_the_kernels_are_those_of_the_package() -> None:
    assert kernels() == [
        "add_at_span_end",
        "gather_spans",
        "later_in_span",
        "scatter_spans",
        "span_discounted_sum",
        "span_mean",
        "span_sum",
        "token_kl",
        "token_logprobs",
    ]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from rlhf.kernels import span_sum\nspan_sum(x, spans)", {"span_sum"}),
        ("from rlhf.kernels import span_sum as total\ntotal(x, spans)", {"span_sum"}),
        ("from rlhf.kernels import span_sum", set()),
        ("from rlhf.other import span_sum\nspan_sum(x, spans)", set()),
    ],
)
def test_an_import_alone_is_no_caller(source: str, names: set[str]) -> None:
    assert called(source) == names
