"""What the modules of a package import, read from their sources, which are never imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

Sources = dict[str, str]


def package_sources() -> Sources:
    """Module name to source text; a package goes by its own name."""
    sources = {}
    for path in sorted((ROOT / "rlhf").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return sources


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def imported_names(module: str, source: str, is_package: bool) -> Iterator[str]:
    """Dotted name of everything an import statement or import_module call asks for."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package
            base = module.split(".")[: len(module.split(".")) - up] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "import_module",
            "import_extra",
            "__import__",
        ):
            yield from (str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def all_imports(sources: Sources) -> Iterator[tuple[str, str]]:
    """Pairs of a module and what it imports."""
    for module, source in sources.items():
        is_package = any(other.startswith(module + ".") for other in sources)
        yield from ((module, name) for name in imported_names(module, source, is_package))


def module_of(name: str, sources: Sources) -> str | None:
    """The module of the package that `name` (a module, or something in one) stands for."""
    while name and name not in sources:
        name = name.rpartition(".")[0]
    return name or None


def dependencies(sources: Sources) -> dict[str, set[str]]:
    """Module to the modules that run when it is imported, parents of its imports included."""
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for module, name in all_imports(sources):
        target = module_of(name, sources)
        while target:
            if not is_inside(module, target) or target == module_of(name, sources):
                graph[module].add(target)
            target = target.rpartition(".")[0]
    return graph


def package(**modules: str) -> Sources:
    """A made-up package: `data__images` stands for rlhf.data.images."""
    sources = {"rlhf": "", "rlhf.data": "", "rlhf.kernels": ""}
    return sources | {"rlhf." + name.replace("__", "."): text for name, text in modules.items()}
