"""Find what a docstring fails to say, with griffe, the parser behind mkdocstrings.

Sources are parsed, never imported. `python -m tests.support.docstrings [PATH...]` prints the faults
of `rlhf/`, or of the files and directories named, one a line.
"""

import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[2]
# A first sentence that only makes sense to who has read something else.
LEANING = ("The same", "As ", "Of ", "See ")
# Functions with this many parameters describe each of them.
MANY = 3
IMPLICIT = ("self", "cls", "ctx")
HEADING = re.compile(r"^\s*(Args|Arguments|Attributes|Returns|Yields|Raises):", re.MULTILINE)

Documented = griffe.Module | griffe.Class | griffe.Function | griffe.Attribute


@dataclass(frozen=True, order=True)
class Fault:
    """A docstring that breaks a rule.

    Attributes:
        file: below the directory that was read.
        line: of the object's first line.
        name: dotted, of the object.
        text: what is wrong.
    """

    file: str
    line: int
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name}: {self.text}"


def docstring_faults(package: str = "rlhf", directory: Path = ROOT) -> list[Fault]:
    """Faults of all public docstrings of a package, sorted by file and line."""
    logging.getLogger("griffe").setLevel(logging.CRITICAL)  # its warnings are faults here
    module = griffe.load(
        package,
        search_paths=[directory],
        docstring_parser=griffe.Parser.google,
        allow_inspection=False,
    )
    assert isinstance(module, griffe.Module)
    return sorted(
        Fault(path_below(directory, item), item.lineno or 1, item.path, text)
        for item in public_objects(module)
        for text in faults(item)
    )


def path_below(directory: Path, item: Documented) -> str:
    """The file of an object, relative to the directory that was read."""
    assert isinstance(item.filepath, Path)
    return str(item.filepath.relative_to(directory))


def public_objects(parent: griffe.Module | griffe.Class) -> Iterator[Documented]:
    """The parent and, depth first, its modules, classes, functions and properties."""
    yield parent
    for name, member in parent.members.items():
        if name.startswith("_") or isinstance(member, griffe.Alias):
            continue
        if isinstance(member, griffe.Module | griffe.Class):
            yield from public_objects(member)
        elif isinstance(member, griffe.Function) or "property" in member.labels:
            assert isinstance(member, Documented)
            yield member


def faults(item: Documented) -> Iterator[str]:
    """What is wrong with the docstring of one object."""
    if not item.docstring:
        yield "no docstring"
        return
    text = item.docstring.value
    if text.startswith(LEANING):
        yield f"the first sentence begins with {' '.join(text.split()[:2])!r}"
    sections = item.docstring.parsed
    yield from (f"`{heading}` is no block of its own" for heading in loose_headings(sections))
    described = names_in(sections, griffe.DocstringSectionKind.parameters)
    if isinstance(item, griffe.Function):
        yield from function_faults(item, described)
    elif isinstance(item, griffe.Class):
        yield from class_faults(item, described)


def loose_headings(sections: list[griffe.DocstringSection]) -> Iterator[str]:
    """Headings that griffe takes as text, or that are followed by text in their own line."""
    for section in sections:
        if isinstance(section, griffe.DocstringSectionText):
            yield from HEADING.findall(section.value)
        elif section.title:
            yield str(section.kind.value)


def names_in(
    sections: list[griffe.DocstringSection], kind: griffe.DocstringSectionKind
) -> list[str] | None:
    """Names that the blocks of a kind describe, without stars; None where there is no block."""
    blocks = [section for section in sections if section.kind is kind]
    return [item.name.lstrip("*") for block in blocks for item in block.value] if blocks else None


def function_faults(item: griffe.Function, described: list[str] | None) -> Iterator[str]:
    """What is wrong with the Args block of a function."""
    names = parameter_names(item)
    if described is not None:
        yield from differences("Args", names, described)
    elif len(names) >= MANY and not described_by_a_base(item, names):
        yield f"{len(names)} parameters and no Args block"


def described_by_a_base(item: griffe.Function, names: list[str]) -> bool:
    """Whether a method overrides one of `rlhf/` whose Args block describes these parameters."""
    bases = item.parent.mro() if isinstance(item.parent, griffe.Class) else []
    overridden = [base.members[item.name] for base in bases if item.name in base.members]
    return any(
        names == names_in(method.docstring.parsed, griffe.DocstringSectionKind.parameters)
        for method in overridden
        if method.docstring
    )


def class_faults(item: griffe.Class, described: list[str] | None) -> Iterator[str]:
    """What is wrong with the Args and Attributes blocks of a class."""
    if described is not None:
        yield from differences("Args", parameter_names(item), described)
    assert item.docstring
    fields = names_in(item.docstring.parsed, griffe.DocstringSectionKind.attributes) or []
    yield from (
        f"Attributes names unknown {name!r}" for name in fields if name not in item.all_members
    )


def parameter_names(item: griffe.Function | griffe.Class) -> list[str]:
    """Parameters that a caller passes."""
    return [x.name for x in item.parameters if x.name not in IMPLICIT]


def differences(block: str, names: list[str], described: list[str]) -> Iterator[str]:
    """Names that a block misses or makes up."""
    yield from (f"{block} misses {name!r}" for name in names if name not in described)
    yield from (f"{block} names unknown {name!r}" for name in described if name not in names)


def main(paths: list[str]) -> int:
    """Print the faults below `paths`, those of `rlhf` here by default; 1 when there are any."""
    roots = [Path(path).resolve() for path in paths or ["rlhf"]]
    result = [
        fault
        for fault in docstring_faults()
        if any((ROOT / fault.file).is_relative_to(path) for path in roots)
    ]
    print("".join(f"{fault}\n" for fault in result), end="")
    print(f"{len(result)} faults", file=sys.stderr)
    return int(bool(result))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
