"""Pictures of the pages for the documentation, from the newest `rlhf demo` here.

    make demo screenshots

Writes docs/pages/images/: the ranking page, the evaluation report and the reward report, in
headless Chromium.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile, which

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rlhf.storage.run_directory import run_directories  # noqa: E402
from tests.browser.pages import Server, key_of  # noqa: E402

IMAGES = ROOT / "docs" / "pages" / "images"
REPORT_SIZE, RANKING_SIZE = (1280, 1500), (1000, 720)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start headless Chromium."""
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])


def newest(demo: Path, file: str, *, has_reward: bool = False) -> Path:
    """Return a file of the newest run of a demo that has it, with or without a reward model."""
    runs = (run for run in run_directories(demo) if (run / "reward").is_dir() == has_reward)
    return next(run / file for run in runs if (run / file).is_file())


def report(browser: Browser, page_file: Path, name: str) -> None:
    """Picture the top of a report."""
    width, height = REPORT_SIZE
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(page_file.as_uri())
    page.screenshot(path=IMAGES / name)
    page.close()


def ranking(browser: Browser, candidates: Path, images: Path) -> None:
    """Picture the ranking page, light beside dark."""
    width, height = RANKING_SIZE
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        copyfile(candidates, directory / "candidates.jsonl")
        server = Server(directory, "annotate.annotator=eva", f"data.root={images}")
        both = Image.new("RGB", (2 * width, height))
        for place, scheme in enumerate(("light", "dark")):
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(server.url)
            key_of(page)
            page.screenshot(path=directory / "page.png")
            both.paste(Image.open(directory / "page.png").convert("RGB"), (place * width, 0))
            page.close()
        server.kill()
    both.save(IMAGES / "annotate.png")


def main() -> None:
    demo = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "demo"
    data = next(demo.glob("base-*/data"))
    with chromium() as browser:
        report(browser, newest(demo, "report.html"), "report.png")
        report(browser, newest(demo, "report.html", has_reward=True), "reward_report.png")
        ranking(browser, newest(demo, "candidates.jsonl"), data)


if __name__ == "__main__":
    main()
