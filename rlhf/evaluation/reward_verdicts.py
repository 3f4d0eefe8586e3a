"""What the page about a reward model says in sentences: verdicts, and the numbers behind them."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.evaluation.charts import Chart
from rlhf.evaluation.html import MetricTable, format_percent
from rlhf.evaluation.learning import TrainingGain, format_points
from rlhf.evaluation.learning_curve import LearningCurve
from rlhf.evaluation.prompt_tests import PromptTestMetrics
from rlhf.evaluation.reward_charts import learning_chart
from rlhf.evaluation.scored_pairs import Estimate

_TOO_FEW = "The interval allows a gap of 0 and a large one: rank more pairs, of more images."
_LEARNT = "It prefers the better response more often than before training."
_NOT_LEARNT = "It is no better than before training: check the labels, or train longer or faster."


@dataclass(frozen=True)
class Banner:
    """A verdict with the texts and bars behind it.

    Attributes:
        title: its heading.
        color: name of a colour of the style sheet.
        headline: the verdict; "" for none.
        meaning: what it means.
        notes: the numbers behind it.
        groups: accuracies, shown as bars.
    """

    title: str
    color: str
    headline: str
    meaning: str
    notes: Sequence[str] = ()
    groups: Sequence[Estimate] = ()


@dataclass(frozen=True)
class LearningSection:
    """A learning curve as the page shows it.

    Attributes:
        sentence: what more pairs might give.
        chart: of the accuracies.
        table: of the accuracies.
    """

    sentence: str
    chart: Chart
    table: MetricTable


def training_banner(gain: TrainingGain) -> Banner:
    """Lay out whether the model has learnt, with the accuracies and the interval behind it."""
    color, subject, meaning = {
        True: ("win", "This model ", _LEARNT),
        False: ("loss", "This model ", _NOT_LEARNT),
        None: ("tie", "", _TOO_FEW),
    }[gain.learnt]
    points, low, high = map(format_points, (gain.gain, gain.low, gain.high))
    note = (
        f"After minus before training: {points} points, 95 % interval {low} to {high}, "
        f"over {gain.images:,} images."
    )
    headline = _capitalized(f"{subject}{gain.verdict}.")
    notes = [note] if gain.images else ["No pair is decided."]
    return Banner("Training", color, headline, meaning, notes, (gain.before, gain.after))


def learning_section(curve: LearningCurve, start: Estimate) -> LearningSection:
    """Lay out a learning curve.

    Args:
        curve: accuracies of trainings on growing parts of the pairs.
        start: accuracy before training.
    """
    expected = f"{2 * curve.sizes[-1]:,}, expected"
    names = ["0", *(f"{size:,}" for size in curve.sizes), expected]
    rows = zip(names, (start, *curve.accuracies, curve.expected), strict=True)
    table = MetricTable(
        ["pairs", "accuracy", "95 %"],
        [
            [name, format_percent(x.value), f"{100 * x.low:.0f} to {100 * x.high:.0f}"]
            for name, x in rows
        ],
    )
    sentence = _capitalized(f"{curve.sentence}.")
    return LearningSection(sentence, learning_chart(curve, start), table)


def prompt_test_banner(metrics: PromptTestMetrics) -> Banner:
    """Lay out the verdict of a test with the accuracies, margins and intervals behind it."""
    test = metrics.test
    if not metrics.accuracies:
        return Banner(test.title, "tie", "", metrics.verdict)
    color, subject, meaning = {
        True: ("win", "This model ", test.passed_means),
        False: ("loss", "This model ", test.failed_means),
        None: ("tie", "", _TOO_FEW),
    }[metrics.passed]
    headline = _capitalized(f"{subject}{metrics.verdict}.")
    notes = _verdict_notes(metrics) if metrics.images else ["No pair is decided."]
    return Banner(test.title, color, headline, meaning, notes, metrics.accuracies)


def _verdict_notes(metrics: PromptTestMetrics) -> list[str]:
    """The gap with its interval, and the mean margins with theirs."""
    others = "the other" if len(metrics.test.changes) == 1 else "the better of the others"
    gap = (
        f"{metrics.test.own.capitalize()} minus {others}: {100 * metrics.gap:+.1f} points, "
        f"95 % interval {100 * metrics.low:+.1f} to {100 * metrics.high:+.1f}, "
        f"over {metrics.images:,} images."
    )
    if needed := metrics.images_needed:
        gap += f" If the gap stays, about {needed:,} images would tell."
    margins = [f"{x.name} {x.value:+.2f} ({x.low:+.2f} to {x.high:+.2f})" for x in metrics.margins]
    return [gap, f"Mean margin, score units: {', '.join(margins)}."]


def _capitalized(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
