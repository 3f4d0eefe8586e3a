"""The page about an evaluation: what it shows, where its marks lie, and that nothing in it runs."""

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from math import inf, nan
from typing import Any

import pytest
from PIL import Image

from rlhf.evaluation.model_report import ReportItem, word_diff, write_model_report
from rlhf.history import Exchange
from rlhf.tracking.metrics import METRICS

NASTY = "<script>alert('x')</script>\" onload=\"x & y"


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def report_page(path, **parts):
    defaults = {"title": "Run", "notes": [], "models": {}, "scores": {}, "kinds": {}}
    defaults |= {"items": [], "curves": {}}
    if "curves" in parts:
        parts["curves"] = {name: {"": points} for name, points in parts["curves"].items()}
    write_model_report(path / "deep" / "report.html", **defaults | parts)
    return Page((path / "deep" / "report.html").read_text("utf-8"))


NAMES: dict[str, dict[str, Any]] = {"sft": {}, "ppo": {}}


def report_item(size=(48, 48), outcome="win", text="a red circle", mode="RGB", kind="what is"):
    texts, scores = ("a circle maybe", text), (-0.5, 1.25)
    return ReportItem(Image.new(mode, size, 77), "what is it?", kind, texts, scores, outcome)


def test_a_win_rate_stands_with_its_interval(tmp_path):
    models = {
        "sft": {"kl": 0.0, "words": 10.25},
        "ppo": {"win_rate": 0.92, "low": 0.877, "high": 0.9521, "kl": None, "words": 2},
    }
    page = report_page(tmp_path, models=models)
    assert "ppo – 2 92.0% [87.7%, 95.2%]" in page.text and "sft 0 10.25 –" in page.text
    assert "low" not in page.text.split()


def test_nothing_is_fetched_and_only_the_pages_own_script_may_run(tmp_path):
    page = report_page(
        tmp_path, models=NAMES, items=[report_item()], curves={"lr": [(0, 1), (1, 2)]}
    )
    names = {tag for tag, _ in page.tags}
    assert not names & {"link", "iframe", "object", "base", "form"}
    for _, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes)
        assert all(
            attributes[key].startswith("data:") for key in ("src", "href") if key in attributes
        )
    (policy,) = [x["content"] for x in page.all("meta") if "http-equiv" in x]
    source = (tmp_path / "deep" / "report.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    plain = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert policy == f"{plain}; script-src 'sha256-{digest}'"
    assert "eval" not in script and "innerHTML" not in script
    style = "".join(page.words)
    assert "prefers-color-scheme: dark" in style and "url(" not in style and "@import" not in style


def test_every_text_is_escaped(tmp_path):
    small = Image.new("RGB", (4, 4))
    nasty = ReportItem(small, NASTY, NASTY, (NASTY, f"{NASTY} {NASTY}"), (1.0, nan), NASTY)
    parts = {"items": [report_item()], "models": NAMES, "curves": {"a": [(0, 1.0)]}}
    plain = report_page(tmp_path, **parts, kinds={"what is": {"prompts": 1}})
    page = report_page(
        tmp_path,
        title=NASTY,
        notes=[NASTY],
        models={NASTY: {NASTY: NASTY}, "ppo": {}},
        kinds={NASTY: {"prompts": 1}},
        items=[nasty],
        curves={NASTY: [(0, 1.0)]},
    )
    allowed = {tag for tag, _ in plain.tags} | {"ins", "del"}
    assert {tag for tag, _ in page.tags} <= allowed and len(page.all("script")) == 1
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert page.text.count("alert('x')") >= 10


def test_earlier_turns_stand_above_the_instruction(tmp_path):
    item = replace(report_item(), history=(Exchange("Where?", NASTY),))
    page = report_page(tmp_path, models=NAMES, items=[item])
    assert page.text.index("Where?") < page.text.index("alert") < page.text.index("what is it?")
    assert len(page.all("script")) == 1


def test_what_is_new_and_what_is_gone_is_marked():
    assert word_diff("a red <b>", "a blue <b>") == [
        ("equal", "a "),
        ("delete", "red"),
        ("insert", "blue"),
        ("equal", " <b>"),
    ]
    assert word_diff("same words", "same words") == [("equal", "same words")]
    assert word_diff("one two three four", "five & six") == [("equal", "five & six")]


def test_differences_are_marked_in_the_page(tmp_path):
    report_page(tmp_path, models=NAMES, items=[report_item(text="a red <b> maybe")])
    source = (tmp_path / "deep" / "report.html").read_text()
    assert "<p>a <del>circle</del><ins>red &lt;b&gt;</ins> maybe</p>" in source


def test_cards_carry_what_they_are_sorted_and_filtered_by(tmp_path):
    page = report_page(tmp_path, models=NAMES, items=[report_item(), report_item(outcome="loss")])
    first, second = page.all("article")
    assert (first["data-gain"], first["data-words"], first["data-kind"]) == ("1.75", "0", "what is")
    assert (first["data-n"], second["data-n"]) == ("0", "1")
    assert (first["data-outcome"], second["data-outcome"]) == ("win", "loss")


def test_two_hundred_photographs_stay_small(tmp_path):
    photo = Image.effect_noise((640, 480), 40).convert("RGB")
    item = ReportItem(photo, "what?", "what?", ("a", "b"), (0.0, 1.0), "win")
    report_page(tmp_path, models=NAMES, items=[item] * 200)
    assert (tmp_path / "deep" / "report.html").stat().st_size <= 10_000_000


def test_a_lone_surrogate_does_not_stop_the_report(tmp_path):
    assert report_page(tmp_path, notes=["half \ud83d done"]).text.count("done") == 1


def image(page, number=0):
    kind, data = page.all("img")[number]["src"].removeprefix("data:image/").split(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_tiny_image_is_unharmed_and_shown_crisp(tmp_path):
    item = report_item()
    item.image.putpixel((3, 4), (1, 2, 3))
    page = report_page(tmp_path, models=NAMES, items=[item])
    kind, embedded = image(page)
    assert kind == "png" and page.all("img")[0]["class"] == "pixelated"
    assert embedded.tobytes() == item.image.tobytes()
    assert page.all("img")[0]["alt"] == "what is it?"


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "I;16"])
def test_a_large_image_of_any_mode_is_shrunk_and_itself_untouched(tmp_path, mode):
    item = report_item((2000, 1000), mode=mode)
    kind, embedded = image(report_page(tmp_path, models=NAMES, items=[item]))
    assert kind == "jpeg" and embedded.size == (640, 320)
    assert item.image.size == (2000, 1000) and item.image.mode == mode


@pytest.mark.parametrize(
    "outcome, color", [("win", "win"), ("loss", "loss"), ("tie", "tie"), ("unscored", "tie")]
)
def test_the_badge_shows_the_outcome(tmp_path, outcome, color):
    page = report_page(tmp_path, models=NAMES, items=[report_item(outcome=outcome)])
    (badge,) = [x for x in page.all("span") if x.get("class") == "badge"]
    assert badge["style"] == f"background: var(--{color})"


def test_responses_stand_side_by_side_with_model_and_score(tmp_path):
    text = report_page(tmp_path, models=NAMES, items=[report_item()]).text
    assert text.index("sft · -0.5") < text.index("a circle maybe") < text.index("ppo · 1.25")


def test_score_over_kl_has_a_point_for_each_model(tmp_path):
    models = {"a": {"kl": 0.0}, "b": {"kl": 2.0}, "c": {"kl": 1.0}, "d": {"kl": None}}
    page = report_page(tmp_path, models=models, scores={"a": 0.0, "b": 1.0, "c": 0.5, "d": 3.0})
    dots = [(float(dot["cx"]), float(dot["cy"])) for dot in page.all("circle")]
    (left, low), (right, high), middle = dots
    assert middle == ((left + right) / 2, (low + high) / 2) and left < right and high < low


def test_a_curve_lies_where_its_values_say(tmp_path):
    page = report_page(tmp_path, curves={"objective/kl": [(10, 1.0), (20, 3.0), (50, 2.0)]})
    (line,) = page.all("polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line["points"].split()]
    (left, bottom), (second, top), (right, middle) = points
    assert left < second < right and top < middle < bottom  # y grows downwards in SVG
    assert second - left == pytest.approx((right - left) / 4)
    assert middle == pytest.approx((top + bottom) / 2)
    ticks = {word.strip(): None for word in page.words}
    assert {
        "1.0",
        "2.0",
        "3.0",
        "10",
        "50",
        "step",
        "last 2",
        METRICS["objective/kl"],
    } <= ticks.keys()
    (dot,) = page.all("circle")
    assert (float(dot["cx"]), float(dot["cy"])) == points[-1]


def test_not_finite_constant_single_and_empty_curves(tmp_path):
    curves = {
        "gap": [(0, 1.0), (1, nan), (2, inf), (3, 2.0)],
        "flat": [(0, 5.0), (9, 5.0)],
        "single": [(4, -1.0)],
        "nothing": [],
        "broken": [(0, nan)],
    }
    page = report_page(tmp_path, curves=curves)
    assert [len(x["points"].split()) for x in page.all("polyline")] == [2, 2, 1]
    assert page.text.count("no finite value") == 2
    numbers = re.findall(r'(?:points|cx|cy|d)="([^"]*)"', str(page.tags))
    assert not any("nan" in number or "inf" in number for number in numbers)
    points = " ".join(x["points"] for x in page.all("polyline"))
    assert "nan" not in points and "inf" not in points
