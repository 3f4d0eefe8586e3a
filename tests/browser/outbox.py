"""Answers that wait in the browser: what can happen before their server takes them.

Each scenario returns what went wrong: answers that were lost, came twice or reached another log.
"""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, Route

from tests.browser.pages import Server, shown_pair, wait_until, wait_until_saved, write_candidates

KEYS = {"1": "left", "a": "left", "ArrowLeft": "left", "2": "right", "b": "right"}
KEYS |= {"ArrowRight": "right", "0": "tie", "t": "tie"}
NAMED = "annotate.annotator=someone"
HELD = 4  # pairs that a page has, the shown one included
Answers = dict[str, str]  # by pair: the text that was chosen, tie or skip


def another_log(browser: Browser, directory: Path, draw: random.Random) -> list[str]:
    """Another log is served on the port for a while, perhaps a copy with the same token."""
    mine, other = directory / "mine", directory / "other"
    answers, answers_there = Answers(), Answers()
    with server_of(mine) as server, tabs(browser) as context:
        page = opened(context, server)
        judge(page, draw.randrange(3), draw, answers)
        kill_and_judge(server, page, draw, answers)
        if draw.randrange(2):
            shutil.copytree(mine, other, ignore=shutil.ignore_patterns("judgments.jsonl"))
        with server_of(other, port=server.port) as intruder:
            wait_until(page, "$('trouble').textContent.includes('nother server answers')")
            if draw.randrange(2):
                there = opened(context, intruder)
                judge(there, draw.randrange(1, HELD), draw, answers_there)
                wait_until_saved(there)
        server.start()
        wait_until_saved(page)
        return [*faults(server, answers), *faults(intruder, answers_there)]


def another_token(browser: Browser, directory: Path, draw: random.Random) -> list[str]:
    """The server starts again with another token; its new link is opened here or in a new tab."""
    answers = Answers()
    with server_of(directory) as server, tabs(browser) as context:
        page = opened(context, server)
        judge(page, draw.randrange(3), draw, answers)
        kill_and_judge(server, page, draw, answers)
        (directory / "judgments.jsonl.token").unlink()
        server.start()
        wait_until(page, "$('trouble').textContent.includes('token is wrong')")
        if draw.randrange(2):
            page = opened(context, server)
        else:
            with page.expect_event("load"):
                page.goto(server.url)
        wait_until_saved(page)
        judge(page, draw.randrange(3), draw, answers)
        wait_until_saved(page)
        return faults(server, answers)


def two_tabs(browser: Browser, directory: Path, draw: random.Random) -> list[str]:
    """Answers wait in two tabs; one is closed and opened again, the other is silent or closed."""
    answers = Answers()
    with server_of(directory) as server, tabs(browser) as context:
        first, second = opened(context, server), opened(context, server)
        ready(first), ready(second)
        server.kill()
        for page in draw.sample([first, second] * 3, 4):
            judge(page, 1, draw, answers)
        first.close()
        second.route("**/api/**", lambda route: route.abort())
        if draw.randrange(2):
            second.close()
        server.start()
        wait_until_saved(opened(context, server))
        if not second.is_closed():
            second.unroute_all()
            wait_until_saved(second)
        return faults(server, answers)


def killed(browser: Browser, directory: Path, draw: random.Random) -> list[str]:
    """The server is killed in the middle of judgments, of which it wrote one and was not heard."""
    answers = Answers()
    with server_of(directory) as server, tabs(browser) as context:
        page = opened(context, server)
        for _ in range(2):
            if draw.randrange(2):
                wait_until_saved(page)
                page.route("**/api/judgments", written_but_unheard, times=1)
                with page.expect_event("requestfailed"):
                    judge(page, 1, draw, answers)
            judge(page, 1 + draw.randrange(2), draw, answers)
            page.wait_for_timeout(draw.randrange(20))
            server.kill()
            judge(page, draw.randrange(2), draw, answers)
            server.start()
        wait_until_saved(page)
        return faults(server, answers)


SCENARIOS: dict[str, Callable[[Browser, Path, random.Random], list[str]]] = {
    "another log": another_log,
    "another token": another_token,
    "two tabs": two_tabs,
    "killed": killed,
}


def server_of(directory: Path, port: str = "0") -> Server:
    """Serve a directory, which is made if it is missing."""
    directory.mkdir(exist_ok=True)
    if not (directory / "candidates.jsonl").exists():
        write_candidates(directory, prompts=8, responses=3)
    return Server(directory, NAMED, port=port)


@contextmanager
def tabs(browser: Browser) -> Iterator[BrowserContext]:
    """A browser profile of its own: its tabs share their storage with no others."""
    context = browser.new_context()
    try:
        yield context
    finally:
        context.close()


def opened(context: BrowserContext, server: Server) -> Page:
    """A new tab on the link of a server."""
    page = context.new_page()
    page.goto(server.url)
    return page


def ready(page: Page) -> None:
    """Wait until a page has all the pairs that it can judge without a server."""
    wait_until(page, f"held().length === {HELD} && held().every((pair) => pair.state === 'ready')")


def judge(page: Page, count: int, draw: random.Random, answers: Answers) -> None:
    """Judge so many pairs by keyboard, skip those without an image, and note what was chosen."""
    for _ in range(count):
        view, key = shown_pair(page), draw.choice(list(KEYS))
        if page.evaluate("current.state") == "broken":  # the server was killed while it loaded
            page.keyboard.press("s")
            key = "3"
        answers[view["key"]] = "skip" if key == "3" else view.get(KEYS[key], "tie")
        page.keyboard.press(key)


def kill_and_judge(server: Server, page: Page, draw: random.Random, answers: Answers) -> None:
    """Make answers that wait: all that was said before is written."""
    ready(page)
    wait_until_saved(page)
    server.kill()
    judge(page, 1 + draw.randrange(HELD), draw, answers)


def written_but_unheard(route: Route) -> None:
    """Let a request reach the server, and lose what it answers."""
    route.fetch()
    route.abort()


def faults(server: Server, answers: Answers) -> list[str]:
    """Compare a log with what was chosen, each answer once and nothing else."""
    events = server.events()
    written = {event["pair"]: preferred_text(event) for event in events}
    pairs = Counter(event["pair"] for event in events)
    return [
        *(f"{pair} is lost" for pair in answers.keys() - written.keys()),
        *(f"{pair} is of another log" for pair in written.keys() - answers.keys()),
        *(f"{pair} came {count} times" for pair, count in pairs.items() if count > 1),
        *(f"{pair} is changed" for pair in written if written[pair] != answers.get(pair)),
    ]


def preferred_text(event: dict[str, Any]) -> str:
    """The text that won, tie or skip."""
    preference = event.get("preference", "skip")
    return str(event.get(preference, preference))
