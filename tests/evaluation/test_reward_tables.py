"""Rows for tables: a cell for each column, and no row for what has no pair."""

import pytest

from rlhf.evaluation.learning import Trainings, training_gain
from rlhf.evaluation.learning_curve import learning_curve
from rlhf.evaluation.prompt_tests import INSTRUCTION_TEST, PromptTestMetrics
from rlhf.evaluation.reward_metrics import reward_metrics
from rlhf.evaluation.reward_tables import (
    METRIC_COLUMNS,
    metric_rows,
    prompt_test_rows,
    training_rows,
)
from tests.evaluation.test_prompt_tests import blindness
from tests.evaluation.test_reward_metrics import SIX, with_accuracy


def test_metric_rows_for_the_console() -> None:
    rows = metric_rows(reward_metrics(SIX))
    assert {len(row) for row in rows} == {len(METRIC_COLUMNS)}
    named = {row[0]: row[1:] for row in rows}
    assert named["accuracy"][0] == 0.5 and named["accuracy"][2] == 5
    assert named["accuracy of style"][0] == 0.5
    assert "accuracy, preferred is shorter" not in named and "accuracy of " not in named
    rows = prompt_test_rows(blindness(with_accuracy(1), with_accuracy(0), with_accuracy(0)))
    assert [row[1:] for row in rows] == [
        (1, "1.000 to 1.000", 100),
        (0, "0.000 to 0.000", 100),
        (0, "0.000 to 0.000", 100),
        (1, "1.000 to 1.000", 100),
        (1, "1.000 to 1.000", 100),
        (-1, "-1.000 to -1.000", 100),
        (-1, "-1.000 to -1.000", 100),
    ]
    assert prompt_test_rows(PromptTestMetrics(INSTRUCTION_TEST)) == []


def test_rows_of_training_and_of_a_learning_curve() -> None:
    parts = tuple(map(with_accuracy, (0.6, 0.6, 0.6)))
    trainings = Trainings(with_accuracy(0.6), parts, (50, 100, 150))
    gain, curve = training_gain(trainings), learning_curve(trainings)
    rows = training_rows(gain, curve)
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("accuracy, before training", pytest.approx(0.6), 100),
        ("gain of training", 0, 100),
        ("accuracy, trained on 50 pairs", pytest.approx(0.6), 100),
        ("accuracy, trained on 100 pairs", pytest.approx(0.6), 100),
        ("accuracy, trained on 150 pairs", pytest.approx(0.6), 100),
        ("gain of twice the pairs, by the fit", pytest.approx(0), 100),
        ("to expect of 300 pairs", pytest.approx(0.6), 100),
    ]
    assert training_rows(gain, None) == rows[:2]
