"""The ranking page as its command serves it, and what a person sees of it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Self

from PIL import Image
from playwright.sync_api import Browser, Page, Playwright

ROOT = Path(__file__).parents[2]


def launch(playwright: Playwright) -> Browser:
    """Headless Chromium."""
    program = shutil.which("chromium")
    assert program, "`make browser-test` installs Chromium"
    return playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


class Server:
    """`rlhf annotate candidates.jsonl` in a directory; may be killed and started again.

    Args:
        directory: of candidates.jsonl.
        options: of the command; without one the name of who judges is asked for.
        port: "0" for any free one.

    Attributes:
        url: the link that it printed, with the token.
        port: the one that it listens on.
    """

    def __init__(self, directory: Path, *options: str, port: str = "0") -> None:
        self.directory, self._options, self.port = directory, options, port
        self.url = ""
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self, *, wait: bool = True) -> None:
        args = ["annotate", "candidates.jsonl", f"annotate.port={self.port}", *self._options]
        # a session of its own: no output of it may end up in a pipe that nobody reads
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlhf", *args],
            cwd=self.directory,
            stdout=subprocess.PIPE if wait else subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        if wait and self.process.stdout:
            link = re.search(r"open (\S+)", "".join(_until_ready(self.process.stdout)))
            assert link, "the page did not start"
            self.url = link[1]
            self.port = self.url.split(":")[2].partition("/")[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def events(self) -> list[dict[str, Any]]:
        log = self.directory / "judgments.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _until_ready(output: Any) -> Iterator[str]:
    for line in output:
        yield line
        if line.startswith("Ctrl-C"):
            return


def write_candidates(directory: Path, prompts: int, responses: int, **changes: Any) -> int:
    """Images and candidates.jsonl; the number of pairs."""
    rows = []
    for n in range(prompts):
        image = Image.linear_gradient("L").resize((320, 240)).rotate(13 * n).convert("RGB")
        image.save(directory / f"{n}.png")
        texts = [f"answer {k} about picture {n}" for k in range(responses)]
        prompt = {"image_path": f"{n}.png", "instruction": f"What is in picture {n}?"}
        rows.append({**prompt, "responses": texts, **changes})
    (directory / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prompts * len(list(combinations(range(responses), 2)))


def wait_until(page: Page, expression: str, *, seconds: float = 30) -> None:
    """Wait until this holds in the page, whose policy forbids Playwright's own way to ask."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"it never came that {expression}"
        page.wait_for_timeout(2)


def key_of(page: Page) -> str:
    """The pair that is shown; waits until there is one."""
    wait_until(page, "current !== null && current.state !== 'loading' && !locked")
    key: str = page.evaluate("current.key")
    return key


def shown_pair(page: Page) -> dict[str, str]:
    """What a person sees of the pair."""
    key = key_of(page)
    texts = {name: page.inner_text(f"#{name}") for name in ("instruction", "left", "right")}
    return {"key": key, **texts}


def wait_until_saved(page: Page) -> None:
    """Wait until the server has written all answers."""
    wait_until(page, "!waiting(log).length && !sending && $('state').dataset.kind === 'saved'")
