"""Run command lines in this process; what would train, serve or take long is cut short."""

import contextlib
import io
import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NoReturn
from unittest.mock import patch

from rlhf.cli.main import main

SECONDS = 20  # that a line may take
UNCUT = 0.1  # share of the lines that may load the tiny model and run to the end
CUT_AT = (
    "rlhf.models.llava.Llava.load",
    "rlhf.commands.annotate._serve",
    "rlhf.commands.demo._build",
    "rlhf.rewards.external.http.HTTPScorer",
)


class Cut(BaseException):
    """The command came to where it would train, serve or take long."""


@dataclass(frozen=True)
class Outcome:
    """What a command line came to.

    Attributes:
        words: the command line.
        end: `exit N` or `cut`.
        fault: a traceback, or a message that is none; empty if all is well.
    """

    words: list[str]
    end: str
    fault: str = ""

    @property
    def place(self) -> str:
        """The last line of code and the error, by which equal faults are counted."""
        lines = self.fault.strip().splitlines()
        code = [line.strip() for line in lines if line.strip().startswith("File ")]
        return f"{code[-1] if code else ''} {lines[-1]}" if lines else ""


def run_line(words: list[str], directory: Path) -> Outcome:
    """Run one command line in a directory.

    Args:
        words: the command line.
        directory: the working directory, and the home of the user.
    """
    printed = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)  # strict, as stdout is
    errors = io.StringIO()
    with (
        contextlib.chdir(directory),
        patch.dict(os.environ, {"HOME": str(directory)}),
        patch("huggingface_hub.constants.HF_HUB_OFFLINE", True),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
        _cut(words),
    ):
        try:
            code = main(words)
        except Cut:
            return Outcome(words, "cut")
        except BaseException:  # whatever it is, it should have been a message
            return Outcome(words, "traceback", traceback.format_exc())
    return Outcome(words, f"exit {code}", _fault_of(words, code, errors.getvalue()))


def _fault_of(words: list[str], code: int, errors: str) -> str:
    if "Traceback" in errors and "--debug" not in words:
        return errors
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    return "" if (len(lines) > 0) == (code != 0) else f"exit {code} with {len(lines)} errors"


@contextmanager
def _cut(words: list[str]) -> Iterator[None]:
    """Cut the command at CUT_AT and after SECONDS; a share of them where no model is loaded."""

    def cut(*_: Any, **__: Any) -> NoReturn:
        raise Cut

    uncut = Random(repr(words)).random() < UNCUT
    with contextlib.ExitStack() as stack:
        for name in CUT_AT[1:] if uncut else CUT_AT:
            stack.enter_context(patch(name, cut))
        before = signal.signal(signal.SIGALRM, cut)
        signal.alarm(SECONDS)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
