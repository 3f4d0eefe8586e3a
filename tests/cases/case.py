"""One directory of inputs and the command lines tried on it, as its `case.toml` says."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from rlhf.cli.main import main

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command line and what it must do.

    Attributes:
        command: the words after `rlhf`, as a shell reads them; {model} is a tiny LLaVA, {dir} the
            directory that the command runs in.
        exit: the exit code.
        without: a module that is taken for absent, in a process of its own; "": none.
        says: regular expressions that what is printed must match, on stdout or stderr.
        silent: regular expressions that it must not match.
        writes: patterns of files that must exist afterwards.
    """

    command: str
    exit: int = 0
    without: str = ""
    says: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)

    @property
    def expected(self) -> str:
        """What must happen, in a few words."""
        return " ".join([f"exit {self.exit}", *map(repr, self.says)])


@dataclass(frozen=True)
class Case:
    """A directory of inputs.

    Attributes:
        directory: where they lie; each run works on a copy.
        about: what they are.
        home: the home directory of the commands, below the copy; "": the copy itself.
        steps: the command lines, in order.
    """

    directory: Path
    about: str
    home: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Outcome:
    """What a command line did.

    Attributes:
        step: the command line.
        exit: its exit code.
        printed: what it printed on stdout and stderr.
        faults: what is not as expected.
    """

    step: Step
    exit: int
    printed: str
    faults: tuple[str, ...]


def cases() -> list[Case]:
    """Every case, by name."""
    return [_read(file) for file in sorted(HERE.glob("*/case.toml"))]


def run(case: Case, model: Path, copy: Path) -> Iterator[Outcome]:
    """Run the command lines of a case.

    Args:
        case: its directory is copied.
        model: a LLaVA directory.
        copy: the directory to make; commands run in it.
    """
    shutil.copytree(case.directory, copy)
    with chdir(copy), patch.dict(os.environ, HOME=str(copy / case.home)):
        for step in case.steps:
            yield _try(step, {"{model}": str(model), "{dir}": str(copy)})


def _read(file: Path) -> Case:
    values = tomllib.loads(file.read_text("utf-8"))
    steps = tuple(Step(**step) for step in values["step"])
    return Case(file.parent, values["about"], values.get("home", ""), steps)


def _try(step: Step, places: dict[str, str]) -> Outcome:
    words = shlex.split(step.command)
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    exit_code, printed = _run_without(step.without, words) if step.without else _run(words)
    return Outcome(step, exit_code, printed, tuple(_faults(step, exit_code, printed)))


def _run(words: list[str]) -> tuple[int, str]:
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        exit_code = main(words)
    return exit_code, out.getvalue()


def _run_without(module: str, words: list[str]) -> tuple[int, str]:
    """Run a command line in a process that cannot import a module."""
    hide = f"import sys; sys.modules[{module!r}] = None"
    program = f"{hide}; from rlhf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**os.environ, **paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def _faults(step: Step, exit_code: int, printed: str) -> Iterator[str]:
    if exit_code != step.exit:
        yield f"exit {exit_code}"
    yield from (f"does not say {x!r}" for x in step.says if not re.search(x, printed))
    yield from (f"says {x!r}" for x in step.silent if re.search(x, printed))
    yield from (f"no file {x}" for x in step.writes if not any(Path().glob(x)))
