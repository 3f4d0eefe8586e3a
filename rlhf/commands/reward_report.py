"""What `rlhf reward` leaves in its run: metrics.json, TensorBoard and report.html."""

from datetime import UTC, datetime
from pathlib import Path

from rlhf.commands.job import Job
from rlhf.evaluation.prompt_changes import EvaluatedPairs
from rlhf.evaluation.reward_findings import RewardFindings
from rlhf.evaluation.reward_report import write_reward_report
from rlhf.evaluation.reward_scoring import most_confident_pairs
from rlhf.evaluation.reward_tables import CALIBRATION_COLUMNS, METRIC_COLUMNS, calibration_rows
from rlhf.storage.atomic import replace_text
from rlhf.storage.run_directory import json_text
from rlhf.tracking.console import say, table
from rlhf.tracking.reader import read_metrics
from rlhf.tracking.writer import MetricsWriter

REPORTED_PAIRS = 6  # most confident wrong pairs in the report, and as many right ones
CURVES = {
    "loss": {"training": "reward/loss", "held out": "reward/validation_loss"},
    "accuracy": {"training": "reward/accuracy", "held out": "reward/validation_accuracy"},
}


def write_report(
    job: Job, evaluated: EvaluatedPairs, found: RewardFindings, root: Path, step: int
) -> None:
    """Write metrics.json, TensorBoard and report.html, and print the metrics.

    Args:
        job: the call of the command.
        evaluated: pairs that the reward model was not trained on, scored.
        found: what was found out from them.
        root: the directory that their image paths start in.
        step: optimizer step of the weights that scored them.
    """
    table("evaluated pairs", METRIC_COLUMNS, found.rows)
    for name, sentence in found.sentences.items():
        say(f"{name}: {sentence}")
    replace_text(job.run_dir / "metrics.json", json_text(found.as_dict(), indent=2) + "\n")
    with MetricsWriter(job.run_dir) as writer:
        writer.scalars(found.scalars, step)
        margins = evaluated.scored.margins
        writer.histograms({"reward/margins": margins[~margins.isnan()]}, step)
        writer.table("metrics", METRIC_COLUMNS, found.rows, step)
        writer.table("calibration", CALIBRATION_COLUMNS, calibration_rows(found.metrics), step)
    _write_page(job, evaluated, found, root)


def _write_page(job: Job, evaluated: EvaluatedPairs, found: RewardFindings, root: Path) -> None:
    records, scored = evaluated.records, evaluated.scored
    wrong, right = most_confident_pairs(records, scored, root, REPORTED_PAIRS)
    logged = read_metrics(job.run_dir)
    write_reward_report(
        job.run_dir / "report.html",
        title=f"{job.config.name}: the reward model",
        notes=_notes(job),
        metrics=found.metrics,
        gain=found.gain,
        curve=found.curve,
        tests=found.tests,
        mistakes=wrong,
        right=right,
        folds=found.folds,
        curves={
            name: {label: logged[key] for label, key in lines.items() if key in logged}
            for name, lines in CURVES.items()
        },
    )


def _notes(job: Job) -> list[str]:
    """Return what the report is of: model, pairs, seed and day."""
    config = job.config
    day = datetime.now(UTC).date().isoformat()
    kind = f"{config.reward.kind}, reward.train={config.reward.train}"
    return [
        f"model {config.model.path} ({kind})",
        f"pairs {config.data.preferences}; seed {config.seed}; {day}",
    ]
