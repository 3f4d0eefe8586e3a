"""The evaluation's report in a browser: it opens at once, sorts, filters, and runs nothing else."""

import time
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page

from rlhf.evaluation.charts import LEFT, RIGHT, WIDTH
from rlhf.evaluation.comparison_page import write_run_comparison
from rlhf.evaluation.model_report import ReportItem, write_model_report
from rlhf.evaluation.run_comparison import Run

XSS = Path(__file__).with_name("xss.txt").read_text().splitlines()


def write(path: Path, items: list[ReportItem], models: tuple[str, str] = ("sft", "ppo")) -> str:
    write_model_report(
        path / "report.html",
        title="Report",
        notes=[],
        models={name: {"kl": float(n)} for n, name in enumerate(models)},
        scores={name: float(n) for n, name in enumerate(models)},
        kinds={},
        items=items,
        curves={},
    )
    return (path / "report.html").as_uri()


def item(text: str, score: float, outcome: str, kind: str = "what is") -> ReportItem:
    image = Image.new("RGB", (48, 48))
    return ReportItem(image, f"about {text}", kind, ("old", text), (0.0, score), outcome)


@pytest.fixture
def report(tmp_path: Path, page: Page) -> Page:
    rows = [item("one", 1.0, "win"), item("two two two", -2.0, "loss"), item("three", 3.0, "win")]
    page.goto(write(tmp_path, [*rows, item("four", 0.0, "tie", "how many")]))
    return page


def shown_instructions(page: Page) -> list[str]:
    texts = page.locator("article:not([hidden]) b").all_text_contents()
    return [text.removeprefix("about ") for text in texts]


def test_the_first_order_is_random_and_others_are_a_click_away(report: Page) -> None:
    assert shown_instructions(report) == ["three", "two two two", "four", "one"]  # seed 0
    report.click("text=best change")
    assert shown_instructions(report) == ["three", "one", "four", "two two two"]
    report.click("text=worst change")
    assert shown_instructions(report) == ["two two two", "four", "one", "three"]
    report.click("text=length change")
    assert shown_instructions(report)[0] == "two two two"
    report.click("text=differing first")
    assert shown_instructions(report) == ["one", "two two two", "three", "four"]


def test_cards_are_filtered_by_outcome_kind_and_text(report: Page) -> None:
    report.select_option("#outcome", "win")
    assert sorted(shown_instructions(report)) == ["one", "three"]
    assert report.inner_text("#shown") == "1–2 of 2"
    report.select_option("#outcome", "")
    report.select_option("#kind", "how many")
    assert shown_instructions(report) == ["four"]
    report.select_option("#kind", "")
    report.fill("#text", "TWO two")
    assert shown_instructions(report) == ["two two two"]


def test_strings_that_would_be_code_are_text(tmp_path: Path, page: Page) -> None:
    alarms = list[str]()
    page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))  # type: ignore[call-overload]
    page.on("request", lambda request: alarms.append(request.url))
    page.on("pageerror", lambda error: alarms.append(str(error)))
    rows = [item(text, 1.0, "win", kind=text) for text in XSS]
    url = write(tmp_path, rows, models=(XSS[0], XSS[1]))
    page.goto(url)
    shown = set[str]()
    for _ in range(3):  # 50 cards, 24 a page
        shown |= set(shown_instructions(page))
        page.locator("#after").click(force=True)
    assert shown == set(XSS) and page.inner_text("#shown") == "49–50 of 50"
    assert page.evaluate("window.hacked") is None
    assert [alarm for alarm in alarms if not alarm.startswith(("data:", url))] == []


def test_two_hundred_photographs_open_within_two_seconds(tmp_path: Path, page: Page) -> None:
    photo = Image.effect_noise((640, 480), 40).convert("RGB")
    row = ReportItem(photo, "what?", "what?", ("a", "b"), (0.0, 1.0), "win")
    url = write(tmp_path, [row] * 200)
    start = time.perf_counter()
    page.goto(url)
    seconds = time.perf_counter() - start
    size = (tmp_path / "report.html").stat().st_size
    print(f"{size / 1e6:.1f} MB, {seconds:.2f} s")
    assert size <= 10_000_000 and seconds < 2


def test_a_curve_tells_its_value_under_the_pointer(tmp_path: Path, page: Page) -> None:
    run = Run("mine", {"objective/scores": [(step, float(step)) for step in range(101)]}, 0.0)
    write_run_comparison(tmp_path / "compare.html", [run], {}, [])
    page.goto((tmp_path / "compare.html").as_uri())
    box = page.locator("svg").bounding_box()
    assert box
    share = (LEFT + (RIGHT - LEFT) / 4) / WIDTH  # a quarter of the way: step 25
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    assert page.locator(".tip").inner_text().split() == ["25", "mine", "25"]
    page.mouse.move(0, 0)
    assert page.locator(".tip").is_hidden()
