"""The reward model's page: what it says, where its marks lie, and that nothing in it runs."""

import re
from dataclasses import replace
from math import nan

import pytest
import torch
from PIL import Image

from rlhf.evaluation.learning import Trainings, training_gain
from rlhf.evaluation.learning_curve import learning_curve
from rlhf.evaluation.prompt_tests import INSTRUCTION_TEST, PromptTestMetrics
from rlhf.evaluation.reward_metrics import reward_metrics
from rlhf.evaluation.reward_report import ReportPair, write_reward_report
from rlhf.history import Exchange
from tests.evaluation.test_model_report import NASTY, Page
from tests.evaluation.test_prompt_tests import blindness, instruction_test
from tests.evaluation.test_reward_metrics import SIX, scored, with_accuracy

LOOKING = blindness(with_accuracy(0.9), with_accuracy(0.5), with_accuracy(0.6))
BLIND = blindness(*[with_accuracy(0.9)] * 3)
FEW = blindness(*[with_accuracy(0.9, 10)] * 3)
READING = instruction_test(with_accuracy(0.9), with_accuracy(0.5))
NOT_READING = instruction_test(with_accuracy(0.9), with_accuracy(0.9))


def report_pair(text="a red star", kind="style", scores=(2.0, -1.0), label=0.0) -> ReportPair:  # noqa: ANN001
    return ReportPair(Image.new("RGB", (8, 8)), text, text, text, *scores, label, kind)  # type: ignore[call-arg]


def report_page(path, metrics=None, **parts) -> Page:  # noqa: ANN001, ANN003
    defaults = {"title": "Reward", "mistakes": [], **parts}
    file = path / "deep" / "report.html"
    write_reward_report(file, metrics=metrics or reward_metrics(SIX), **defaults)
    return Page(file.read_text("utf-8"))


def every_section(text="plain") -> dict:  # noqa: ANN001, D103
    pairs = scored([1.0, -1.0], kinds=[text, text])
    return {
        "metrics": reward_metrics(pairs),
        "title": text,
        "tests": [LOOKING, READING],
        "mistakes": [report_pair(text, kind=text)],
        "right": [report_pair(text, kind=text)],
        "curves": {text: {text: [(0, 1.0), (5, 0.5)], "held out": [(0, 1.0)]}},
        "folds": [reward_metrics(pairs)],
    }


def style_of(tag: dict) -> dict[str, str]:
    return dict(re.findall(r"([\w-]+): ([^;]+)", tag["style"]))


def test_nothing_is_fetched_and_only_the_pages_own_script_runs(tmp_path) -> None:  # noqa: ANN001
    page = report_page(tmp_path, **every_section())
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "base"}
    assert page.all("script") == [{}]
    for _, attributes in page.tags:
        assert not any(key.startswith("on") or key == "href" for key in attributes)
        assert attributes.get("src", "data:").startswith("data:")
    assert "url(" not in "".join(page.words) and "@import" not in "".join(page.words)


def test_every_text_is_escaped(tmp_path) -> None:  # noqa: ANN001
    plain, page = (report_page(tmp_path, **every_section(text)) for text in ("plain", NASTY))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    # title twice, kind bar, curve, its line with two tooltips; of two pairs: kind, question,
    # two responses
    assert page.text.count("alert('x')") == 7 + 2 * 4


def test_earlier_turns_stand_above_the_instruction(tmp_path) -> None:  # noqa: ANN001
    pair = replace(report_pair("what is it?"), history=(Exchange("Where?", NASTY),))
    page = report_page(tmp_path, mistakes=[pair])
    assert page.text.index("Where?") < page.text.index("alert") < page.text.index("what is it?")
    assert page.all("script") == [{}]  # its own


def test_the_report_shows_the_metrics(tmp_path) -> None:  # noqa: ANN001
    text = report_page(tmp_path).text
    for part in ("accuracy 50.0 % 95 %:", "log loss 1.002", "chance is 0.693", "pairs 6"):
        assert part in text
    assert "5 decided, 1 ties, 1 scored equal" in text
    assert "longer scored higher 37.5 % longer preferred: 75.0 %" in text
    assert "much longer 75.0 % of 2" in text and "shorter – of 0" in text
    assert "right 50.0 % of 3" in text


@pytest.mark.parametrize(
    "test, color, sentence",
    [
        (LOOKING, "win", "This model looks at the image."),
        (BLIND, "loss", "This model ignores the image."),
        (FEW, "tie", "Cannot be told from 10 pairs."),
        (READING, "win", "This model reads the question."),
        (NOT_READING, "loss", "This model does not read the question."),
    ],
)
def test_the_verdict_is_a_sentence(tmp_path, test, color, sentence) -> None:  # noqa: ANN001
    page = report_page(tmp_path, tests=[test])
    (banner,) = [x for x in page.all("div") if x.get("class") == "card banner"]
    assert banner["style"] == f"border-left-color: var(--{color})"
    assert sentence in page.text
    assert "Blindness test" not in report_page(tmp_path).text


def test_a_test_shows_accuracies_and_margins_with_their_intervals(tmp_path) -> None:  # noqa: ANN001
    text = report_page(tmp_path, tests=[READING]).text
    assert "own instruction 90.0 % of 100 another instruction 50.0 % of 100" in text
    assert "Own instruction minus the other: +40.0 points, 95 % interval +3" in text
    own, wrong = READING.margins
    assert own.value == pytest.approx(0.8) and wrong.value == 0
    own_interval = f"{own.low:+.2f} to {own.high:+.2f}"
    margins = f"own instruction +0.80 ({own_interval}), another instruction +0.00 (-"
    assert f"Mean margin, score units: {margins}" in text


def test_a_test_that_cannot_be_made_takes_one_line(tmp_path) -> None:  # noqa: ANN001
    page = report_page(tmp_path, tests=[PromptTestMetrics(INSTRUCTION_TEST)])
    line = "Wrong-instruction test Every pair has the same instruction, so there is no wrong one."
    assert line in page.text and "Cannot be told" not in page.text
    assert "own instruction" not in page.text


def test_bars_lie_where_their_shares_say(tmp_path) -> None:  # noqa: ANN001
    spans = report_page(tmp_path, tests=[LOOKING]).all("span")
    fills = [style_of(x)["width"] for x in spans if x.get("class") == "fill"]
    dots = [style_of(x)["left"] for x in spans if x.get("class") == "dot"]
    assert fills[:3] == dots[:3] == ["90.0%", "50.0%", "60.0%"]
    interval = style_of(next(x for x in spans if x.get("class") == "interval"))
    low, high = 100 * LOOKING.accuracies[0].low, 100 * LOOKING.accuracies[0].high
    assert interval == {"left": f"{low:.1f}%", "right": f"calc(100% - {high:.1f}%)"}


def test_calibration_dots_lie_where_their_shares_say(tmp_path) -> None:  # noqa: ANN001
    """Three of four right at p = ¾ lie on the diagonal; the one wrong at p = 0.99 at the bottom."""
    differences = torch.logit(torch.tensor([0.75, 0.75, 0.75, 0.75, 0.99]))
    metrics = reward_metrics(scored(differences, [1, 1, 1, 0, 0]))
    page = report_page(tmp_path, metrics)
    diagonal_dot, wrong_dot = (
        tuple(float(x[key]) for key in ("cx", "cy", "r")) for x in page.all("circle")
    )
    (diagonal,) = [x["d"] for x in page.all("path") if "stroke-dasharray" in x]
    left, bottom, right, top = map(float, re.findall(r"[\d.]+", diagonal))
    assert left < right and bottom > top  # y grows downwards in SVG
    assert diagonal_dot[:2] == pytest.approx(((left + right) / 2, (bottom + top) / 2), abs=0.11)
    assert wrong_dot[1] == pytest.approx(bottom + (bottom - top), abs=0.11) and wrong_dot[0] < right
    assert diagonal_dot[2] > wrong_dot[2]  # four pairs and one


def test_margin_bars_are_as_high_as_their_counts(tmp_path) -> None:  # noqa: ANN001
    """Margins -4, 1, 1, 4 in 20 bins of 0.4: the first, the thirteenth and the last."""
    page = report_page(tmp_path, reward_metrics(scored([-4.0, 1.0, 1.0, 4.0])))
    heights = [float(x["height"]) for x in page.all("rect")]
    tallest = max(heights)
    assert [index for index, x in enumerate(heights) if x] == [0, 12, 19]
    assert heights[0] == heights[19] == tallest / 2
    bottoms = {round(float(x["y"]) + float(x["height"]), 1) for x in page.all("rect")}
    assert len(bottoms) == 1
    colors = [x["fill"] for x in page.all("rect")]
    assert colors == ["var(--loss)"] * 10 + ["var(--win)"] * 10
    assert "1 pairs wrong, 3 right" in page.text


def test_both_losses_share_a_chart(tmp_path) -> None:  # noqa: ANN001
    lines = {"training": [(0, 2.0), (10, 1.0)], "held out": [(0, 2.0), (5, 1.5), (7, nan)]}
    page = report_page(tmp_path, curves={"reward/loss": lines})
    *_, training, held_out = [x for x in page.all("polyline")]
    (left, top), (right, bottom) = coordinates(training)
    assert coordinates(held_out) == [(left, top), ((left + right) / 2, (top + bottom) / 2)]
    assert "var(--series-1)" in training["style"] and "var(--series-2)" in held_out["style"]
    assert "training last 1 held out last 1.5" in page.text


def coordinates(line: dict) -> list[tuple[float, ...]]:
    return [tuple(map(float, pair.split(","))) for pair in line["points"].split()]


def test_label_and_model_are_marked_on_their_responses(tmp_path) -> None:  # noqa: ANN001
    page = report_page(tmp_path, mistakes=[report_pair()])
    assert "the model is 95.3 % sure" in page.text  # σ(3)
    assert "A · 2 · model a red star B · -1 · label" in page.text
    classes = [
        x["class"]
        for x in page.all("div")
        if x.get("class", "").startswith("response ") or x.get("class") == "response"
    ]
    assert classes == ["response", "response preferred"]
    tie = report_page(tmp_path, mistakes=[report_pair(scores=(1.0, 1.0), label=0.5)])
    assert "A · 1 a red star B · 1 a red star" in tie.text and "50.0 % sure" in tie.text
    assert len(report_page(tmp_path, mistakes=[report_pair(scores=(3e38, -3e38))]).all("img")) == 1


def test_folds_are_shown_with_their_spread(tmp_path) -> None:  # noqa: ANN001
    folds = [reward_metrics(with_accuracy(share, 10)) for share in (0.6, 0.7, 0.8)]
    text = report_page(tmp_path, folds=folds).text
    assert "mean 70.0 %, standard deviation 10.0 points, 60.0 % to 80.0 %" in text
    assert "fold 3 80.0 % of 10" in text
    assert "fold" not in report_page(tmp_path).text


TRAININGS = Trainings(
    with_accuracy(0.5), tuple(map(with_accuracy, (0.5, 0.65, 0.8))), (50, 100, 150)
)


def test_what_training_taught_is_a_verdict_with_bars(tmp_path) -> None:  # noqa: ANN001
    page = report_page(tmp_path, gain=training_gain(TRAININGS))
    (banner,) = [x for x in page.all("div") if x.get("class") == "card banner"]
    assert banner["style"] == "border-left-color: var(--win)"
    assert "Training This model has learnt." in page.text
    assert "After minus before training: 30.0 points, 95 % interval 2" in page.text
    assert "before training 50.0 % of 100 after training 80.0 % of 100" in page.text
    assert "More pairs" not in page.text


def test_a_learning_curve_is_a_chart_a_sentence_and_a_table(tmp_path) -> None:  # noqa: ANN001
    curve = learning_curve(TRAININGS)
    page = report_page(tmp_path, gain=training_gain(TRAININGS), curve=curve)
    assert f"With 300 pairs you might expect {100 * curve.expected.value:.0f} % (" in page.text
    assert "pairs accuracy 95 % 0 50.0 % 40 to 60 50 50.0 %" in page.text
    last, expected = curve.accuracies[2], curve.expected
    assert f"150 80.0 % {100 * last.low:.0f} to {100 * last.high:.0f}" in page.text
    assert f"300, expected {100 * expected.value:.1f} %" in page.text
    assert len(page.all("tr")) == 6 and page.text.count("Learning curve") == 1


def test_no_decided_pair_still_makes_a_page(tmp_path) -> None:  # noqa: ANN001
    ties = scored([0.0, 1.0], [0.5, 0.5])
    gain = training_gain(Trainings(ties, (ties,), (3,)))
    tests = [blindness(ties, ties, ties)]
    page = report_page(tmp_path, reward_metrics(ties), gain=gain, tests=tests)
    assert "accuracy –" in page.text and "nan" not in page.text.lower()
    assert not any("nan" in value for _, attributes in page.tags for value in attributes.values())
