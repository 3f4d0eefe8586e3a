"""`rlhf reward`: train a reward model, and measure it on held-out pairs."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rlhf.commands.job import Job
from rlhf.commands.model_setup import (
    announce,
    load_trainable,
    metrics_writer,
    read_captions,
)
from rlhf.commands.resume import checkpoint_of, drop_checkpoints
from rlhf.data.collate import preference_batch
from rlhf.data.input_files import input_file, read_with_images
from rlhf.data.records import PreferenceRecord
from rlhf.data.splits import Split, fold_splits, split_from_config
from rlhf.evaluation.reward_metrics import (
    RewardMetrics,
    accuracy_spread,
    blindness,
    reward_metrics,
)
from rlhf.evaluation.reward_report import write_reward_report
from rlhf.evaluation.reward_scoring import (
    BlindTest,
    most_confident_pairs,
    run_blind_test,
    score_pairs,
    write_blank_image,
)
from rlhf.evaluation.reward_tables import (
    CALIBRATION_COLUMNS,
    METRIC_COLUMNS,
    blindness_rows,
    calibration_rows,
    metric_rows,
)
from rlhf.models.loading import locate_model
from rlhf.rewards.caption_reward import CaptionReward
from rlhf.rewards.loading import build_reward, save_reward
from rlhf.storage.hashing import file_hash
from rlhf.storage.model_card import write_model_card
from rlhf.tracking.console import say, stage, table
from rlhf.tracking.reader import read_metrics
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.reward_trainer import RewardTrainer
from rlhf.types import PreferenceBatch

TABLED = ("reward/validation_accuracy", "reward/validation_loss")  # in TensorBoard
REPORTED_PAIRS = 6  # most confident mistakes, and as many most confident hits, in the report
CURVES = {
    "loss": {"training": "reward/loss", "held out": "reward/validation_loss"},
    "accuracy": {"training": "reward/accuracy", "held out": "reward/validation_accuracy"},
}


def reward(job: Job) -> dict[str, Any]:
    """Train a reward model on ranked pairs; leave reward/ and report.html in the run directory.

    Returns:
        Accuracy with its interval, calibration and blindness test on held-out pairs; accuracy on
        the training pairs; counts of pairs and steps; the path of the report.
    """
    config = job.config
    path = input_file(config.data.preferences, "data.preferences")
    records, root = read_with_images(config, path, PreferenceRecord)
    study = _Study(job)
    folds: list[RewardMetrics] = []
    if config.reward.cv_folds:
        split = Split(records, [], root, root)
        judged, folds, steps = study.cross_validate(split)
        study.train(split, job.run_dir, steps=steps)
    else:
        split = split_from_config(config, records, root)
        steps = study.train(split, job.run_dir)
        if not split.held_out:
            say("no pair is held out: the metrics are those of the training pairs")
        judged = study.judge(split)
    facts = study.training_facts(path, split)
    study.save(facts)
    drop_checkpoints(job.run_dir)
    return {
        **_report(job, judged, folds, split.held_out_root, steps),
        "training_accuracy": facts["accuracy"],
        "pairs": len(split.training),
        "held_out_pairs": len(split.held_out),
        "steps": steps,
        "report": str(job.run_dir / "report.html"),
    }


class _Study:
    """One reward model that is trained and judged on one split, or anew on each of several."""

    def __init__(self, job: Job) -> None:
        self.job, self.config = job, job.config
        options, location = self.config.reward, locate_model(self.config.model.path)
        full = options.train == "full"
        self.llava = load_trainable(self.config, location, fully=full)
        captions = read_captions(options.captions, self.config.data.root)
        self.model = build_reward(
            options, self.config.model, self.llava, captions, init_adapter=location.adapter
        )
        self.blank = write_blank_image(job.run_dir / "blank.png")
        if captions is not None and isinstance(self.model, CaptionReward):
            self.model.captioner.add(self.blank, "")
        parameters = [*self.model.backbone().parameters(), *self.model.head.parameters()]
        self._trained = [value for value in parameters if value.requires_grad]
        # Copies of the trainable weights, only if training starts more than once.
        self._start = (
            [value.detach().clone() for value in self._trained] if options.cv_folds else []
        )

    def train(self, split: Split, directory: Path, *, steps: int = 0) -> int:
        """Train from the start on the training pairs of a split.

        Args:
            split: training and held-out pairs.
            directory: where metrics and checkpoints are written.
            steps: optimizer steps; 0: those of `reward.epochs`.

        Returns:
            The optimizer steps after which the weights were taken.
        """
        if self._start:
            self._restart()
        drops = self.config.reward.ties == "drop"
        pairs = [r for r in split.training if not drops or r.preference != "tie"]
        batches = self._batch(pairs, split.root), self._batch(split.held_out, split.held_out_root)
        checkpoint = checkpoint_of(self.job, directory, must=not self.config.reward.cv_folds)
        with metrics_writer(self.job, directory, checkpoint, TABLED, first_step=1) as writer:
            trainer = RewardTrainer(
                self.config, self.model, *batches, writer, directory, steps=steps
            )
            if checkpoint:
                trainer.restore(checkpoint)
            trained = sum(value.numel() for value in trainer.parameters)
            announce(self.llava, steps=trainer.steps)
            say(f"{trained:,} parameters of the reward model train")
            return trainer.run()

    @torch.no_grad()
    def _restart(self) -> None:
        for value, start in zip(self._trained, self._start, strict=True):
            value.copy_(start)

    def cross_validate(self, whole: Split) -> tuple[BlindTest, list[RewardMetrics], int]:
        """Train and judge on each fold.

        Returns:
            Scores of every pair by the model that did not see it, the metrics of each fold, and
            the median of their optimizer steps.
        """
        judged, steps, config = [], [], self.config
        splits = fold_splits(
            whole.training, whole.root, folds=config.reward.cv_folds, seed=config.seed
        )
        for number, split in enumerate(splits, 1):
            stage(f"fold {number} of {len(splits)}")
            steps.append(self.train(split, self.job.run_dir / f"fold-{number}"))
            judged.append(self.judge(split))
        metrics = [reward_metrics(part.own_images, seed=config.seed) for part in judged]
        return BlindTest.concatenate(judged), metrics, round(median(steps))

    def judge(self, split: Split) -> BlindTest:
        """Score held-out pairs (if there are none, training pairs) with and without images."""
        held_out = split.held_out, split.held_out_root
        records, root = held_out if split.held_out else (split.training, split.root)
        pairs = self._batch(records, root)
        encoder, longest = self.llava.builder, self._max_tokens
        return run_blind_test(self.model, records, pairs, encoder, self.blank, max_tokens=longest)

    def training_facts(self, path: Path, split: Split) -> dict[str, Any]:
        """What `rlhf score` needs to recognize the training pairs and reproduce their accuracy.

        Args:
            path: the file of preferences.
            split: the split that was trained on.
        """
        config, pairs = self.config, self._batch(split.training, split.root)
        scored = score_pairs(self.model, split.training, pairs, max_tokens=self._max_tokens)
        whole = config.reward.cv_folds or config.data.validation_preferences
        return {
            "file": file_hash(path),
            "validation_fraction": 0.0 if whole else config.data.validation_fraction,
            "seed": config.seed,
            "max_tokens": self._max_tokens,
            "pairs": len(pairs),
            "accuracy": float(scored.credit.nanmean()),
        }

    def save(self, facts: dict[str, Any]) -> None:
        directory = self.job.run_dir / "reward"
        save_reward(self.model, directory, self.llava, self.config.reward, facts)
        if (directory / "adapter").is_dir():
            metrics = {"pairs": facts["pairs"], "training accuracy": facts["accuracy"]}
            card = directory / "adapter"
            write_model_card(card, self.model.base, command="reward", metrics=metrics)

    @property
    def _max_tokens(self) -> int:
        return self.config.ppo.microbatch_tokens

    def _batch(self, records: Sequence[PreferenceRecord], root: Path) -> PreferenceBatch:
        longest = self.config.data.max_prompt_tokens
        return preference_batch(records, self.llava.builder, root, max_tokens=longest)


def _report(
    job: Job, judged: BlindTest, folds: Sequence[RewardMetrics], root: Path, step: int
) -> dict[str, Any]:
    """Write metrics.json, TensorBoard and report.html; return metrics for the summary."""
    metrics = reward_metrics(judged.own_images, seed=job.config.seed)
    blind = blindness(
        judged.own_images, judged.shuffled_images, judged.blank_images, seed=job.config.seed
    )
    rows = [*metric_rows(metrics), *blindness_rows(blind)]
    table("judged pairs", METRIC_COLUMNS, rows)
    say(f"blindness test, with and without the images: {blind.verdict}")
    every = {"metrics": metrics.as_dict(), "blindness": blind.as_dict()}
    summary = {
        "reward_model_accuracy": metrics.accuracy.value,
        "accuracy_low": metrics.accuracy.low,
        "accuracy_high": metrics.accuracy.high,
        **{f"accuracy_{x.name}": x.value for x in metrics.by_kind if x.name},
        **(metrics.scalars() | blind.scalars()),
        "blindness": blind.verdict,
    }
    if folds:
        spread = accuracy_spread(folds)
        summary |= {"fold_accuracy_mean": spread.mean, "fold_accuracy_std": spread.std}
        every["folds"] = {str(n): fold.as_dict() for n, fold in enumerate(folds, 1)}
    (job.run_dir / "metrics.json").write_text(json.dumps(every, indent=2) + "\n")
    with MetricsWriter(job.run_dir) as writer:
        writer.scalars(metrics.scalars() | blind.scalars(), step)
        writer.histograms({"reward/margins": judged.own_images.margins}, step)
        writer.table("metrics", METRIC_COLUMNS, rows, step)
        writer.table("calibration", CALIBRATION_COLUMNS, calibration_rows(metrics), step)
    wrong, right = most_confident_pairs(judged, root, REPORTED_PAIRS)
    measured = read_metrics(job.run_dir)
    write_reward_report(
        job.run_dir / "report.html",
        title=f"{job.config.name}: the reward model",
        metrics=metrics,
        blindness=blind,
        mistakes=wrong,
        right=right,
        folds=folds,
        curves={
            name: {label: measured[key] for label, key in lines.items() if key in measured}
            for name, lines in CURVES.items()
        },
    )
    return summary
