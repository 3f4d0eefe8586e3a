"""`rlhf reward`: train a reward model, and measure it on held-out pairs."""

from dataclasses import replace
from functools import partial
from typing import Any

from rlhf.commands.job import Job
from rlhf.commands.reward_report import write_report
from rlhf.commands.reward_study import RewardStudy
from rlhf.data.input_files import input_file, read_with_images
from rlhf.data.records import PreferenceRecord
from rlhf.data.splits import Split, split_from_config
from rlhf.evaluation.reward_findings import reward_findings
from rlhf.evaluation.reward_metrics import RewardMetrics
from rlhf.tracking.console import say


def reward(job: Job) -> dict[str, Any]:
    """Train a reward model on ranked pairs; write reward/ and report.html to the run directory.

    Returns:
        Accuracy with its interval, calibration, gain of training, learning curve and tests of what
        is read, on held-out pairs; accuracy on the training pairs; counts of pairs and steps; the
        path of the report.
    """
    config = job.config
    path = input_file(config.data.preferences, "data.preferences")
    records, root = read_with_images(config, path, PreferenceRecord)
    study = RewardStudy(job)
    records = study.fitting(records, root)
    folds: list[RewardMetrics] = []
    if config.reward.cv_folds:
        split = Split(records, [], root, root)
        evaluated, folds, steps = study.cross_validate(split)
        study.train(split, job.run_dir, steps=steps)
    else:
        split = split_from_config(config, records, root)
        if config.data.validation_preferences:
            held_out = study.fitting(split.held_out, split.held_out_root)
            split = replace(split, held_out=held_out)
        if not split.held_out:
            say("no pair is held out: the metrics are of the training pairs")
        evaluated, steps = study.measure(split, job.run_dir)
    found = reward_findings(evaluated, folds, seed=config.seed)
    facts = study.training_facts(path, split) | (found.gain.facts() if found.gain else {})
    study.save(facts)
    study.world.first(partial(write_report, job, evaluated, found, split.held_out_root, steps))
    return {
        **found.summary(),
        "training_accuracy": facts["accuracy"],
        "pairs": len(split.training),
        "held_out_pairs": len(split.held_out),
        "steps": steps,
        "report": str(job.run_dir / "report.html"),
    }
