"""Public docstrings of rlhf/ say what their objects take, in a form that a parser reads."""

from pathlib import Path

import pytest

from tests.support.docstrings import docstring_faults


def test_public_docstrings_have_no_faults() -> None:
    faults = docstring_faults()
    assert faults == [], "\n".join(map(str, faults))


def texts(directory: Path, source: str) -> list[str]:
    """Faults of a made-up package with one module, which needs no docstring of its own."""
    package = directory / "made_up"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\n')
    (package / "module.py").write_text(f'"""A module."""\n{source}\n')
    return [fault.text for fault in docstring_faults("made_up", directory)]


ARGS = """
def scale(values, factor):
    \"\"\"Values times a factor.

    Args:
        {}
    \"\"\"
"""


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def double(value): return value * 2", "no docstring"),
        ("class Box: pass", "no docstring"),
        ('class Box:\n    """A box."""\n    def open(self): pass', "no docstring"),
        ('def f():\n    """The same, but faster."""', "the first sentence begins with 'The same,'"),
        ('def f():\n    """As g does."""', "the first sentence begins with 'As g'"),
        ('def f():\n    """Of the rows."""', "the first sentence begins with 'Of the'"),
        ('def f():\n    """See g."""', "the first sentence begins with 'See g.'"),
        ('def f(a, b, *, c):\n    """Add."""', "3 parameters and no Args block"),
        (ARGS.format("values: numbers."), "Args misses 'factor'"),
        (
            ARGS.format("values: numbers.\n        factor: one.\n        power: two."),
            "Args names unknown 'power'",
        ),
        ('def f(a):\n    """Add.\n\n    Args: a, a number.\n    """', "`Args` is no block"),
        ('def f():\n    """Add.\n    Returns: 2.\n    """', "`Returns` is no block"),
        (
            'class Box:\n    """A box.\n\n    Attributes:\n        lid: up.\n    """\n    top: int',
            "Attributes names unknown 'lid'",
        ),
    ],
)
def test_a_fault_is_found(tmp_path: Path, source: str, fault: str) -> None:
    (text,) = texts(tmp_path, source)
    assert text.startswith(fault)


def test_several_names_in_one_line_are_found(tmp_path: Path) -> None:
    source = ARGS.format("values, factor: numbers.")
    assert texts(tmp_path, source) == [
        "Args misses 'factor'",
        "Args misses 'values'",
        "Args names unknown 'values, factor'",
    ]


def test_sound_docstrings_have_no_fault(tmp_path: Path) -> None:
    source = """
from dataclasses import dataclass

import torch

@dataclass
class Box:
    \"\"\"A box.

    Attributes:
        lid: its top.
    \"\"\"

    lid: int

    def __len__(self): return 0
    def _weigh(self): return 0

    def put(self, a, b, *rest, named=1, **options):
        \"\"\"Put things in.

        Args:
            a: first thing,
                described in two lines.
            b: second thing.
            *rest: other things.
            named: a thing with a name.
            **options: things with other names.

        Returns:
            How many there are.
        \"\"\"
        def inner(x, y, z): return x
""" + ARGS.format("values: numbers.\n        factor: a number.")
    assert texts(tmp_path, source) == []


OVERRIDES = """
class Adder:
    \"\"\"Adds.\"\"\"

    def add(self, a, b, c):
        \"\"\"Add numbers.

        Args:
            a: first number.
            b: second number.
            c: third number.
        \"\"\"

class Other({bases}):
    \"\"\"Adds too.\"\"\"

    def add(self, a, b, {last}):
        \"\"\"Add in another way.\"\"\"
"""


def test_an_override_need_not_describe_what_its_base_describes(tmp_path: Path) -> None:
    assert texts(tmp_path, OVERRIDES.format(bases="Adder", last="c")) == []


@pytest.mark.parametrize(("bases", "last"), [("Adder", "d"), ("object", "c")])
def test_other_parameters_and_unrelated_classes_are_no_override(
    tmp_path: Path, bases: str, last: str
) -> None:
    source = OVERRIDES.format(bases=bases, last=last)
    assert texts(tmp_path, source) == ["3 parameters and no Args block"]
