"""The list of metrics: each has a meaning, and something writes it."""

from pathlib import Path

from rlhf.tracking.metrics import METRICS
from rlhf.tracking.text_metrics import text_statistics


def test_every_metric_has_a_one_line_meaning():
    assert all(meaning and "\n" not in meaning for meaning in METRICS.values())
    expected = "objective/kl val/explained_variance sft/loss reward/validation_accuracy time/update"
    assert set(expected.split()) <= METRICS.keys()


def test_every_metric_is_written_somewhere() -> None:
    sources = Path(__file__).parents[2] / "rlhf"
    text = "".join(
        path.read_text()
        for path in sources.rglob("*.py")
        if path.name != "metrics.py" or path.parent.name != "tracking"
    )
    produced = {*text_statistics(["a"])}
    assert [name for name in METRICS if f'"{name}"' not in text and name not in produced] == []
