"""Answers that wait in the browser while their server is away, or another one in its place."""

import random
from pathlib import Path

from tests.reliability.outcome import Outcome


def outbox(trials: int, tiny: Path, directory: Path) -> Outcome:
    """Each scenario of the ranking page in turn; needs Chromium and the extra `browser`."""
    from playwright.sync_api import sync_playwright

    from tests.browser.outbox import SCENARIOS
    from tests.browser.pages import launch

    outcome, rng = Outcome(trials), random.Random(0)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for trial in range(trials):
            name = list(SCENARIOS)[trial % len(SCENARIOS)]
            place = directory / str(trial)
            place.mkdir()
            try:
                outcome.losses += [f"{name}: {x}" for x in SCENARIOS[name](browser, place, rng)]
            except AssertionError as error:  # the page waits for what never comes
                outcome.check(False, f"{name}: {error}")
            outcome.note(name)
    return outcome
