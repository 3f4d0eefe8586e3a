"""Rows for tables: a cell for each column, and no row for what has no pair."""

from rlhf.evaluation.prompt_tests import INSTRUCTION_TEST, PromptTestMetrics
from rlhf.evaluation.reward_metrics import reward_metrics
from rlhf.evaluation.reward_tables import METRIC_COLUMNS, metric_rows, prompt_test_rows
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
