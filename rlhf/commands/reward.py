"""`rlhf reward`: train a reward model, and measure it on held-out pairs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rlhf.commands.fitting import fitting, fitting_scorer
from rlhf.commands.job import Job
from rlhf.commands.model_setup import (
    load_trainable,
    print_model_summary,
    read_captions,
    resolve_model,
)
from rlhf.commands.resume import delete_checkpoints, resume_checkpoint
from rlhf.commands.reward_report import write_report
from rlhf.commands.training_run import training_run
from rlhf.data.collate import preference_batch
from rlhf.data.input_files import input_file, read_with_images
from rlhf.data.records import PreferenceRecord
from rlhf.data.splits import Split, fold_splits, split_from_config
from rlhf.evaluation.prompt_changes import EvaluatedPairs, evaluate_pairs, write_blank_image
from rlhf.evaluation.reward_metrics import RewardMetrics, reward_metrics
from rlhf.evaluation.reward_scoring import score_pairs
from rlhf.parallel.world import ALONE
from rlhf.rewards.caption_reward import CaptionReward
from rlhf.rewards.loading import build_reward_model, save_reward
from rlhf.storage.hashing import file_hash
from rlhf.storage.model_card import write_model_card
from rlhf.tracking.console import say, stage
from rlhf.training.reward_trainer import RewardTrainer
from rlhf.training.sharding import check_shardable_kind
from rlhf.types import PreferenceBatch


def reward(job: Job) -> dict[str, Any]:
    """Train a reward model on ranked pairs; write reward/ and report.html to the run directory.

    Returns:
        Accuracy with its interval, calibration and tests of what is read on held-out pairs;
        accuracy on the training pairs; counts of pairs and steps; the path of the report.
    """
    config = job.config
    path = input_file(config.data.preferences, "data.preferences")
    records, root = read_with_images(config, path, PreferenceRecord)
    study = _RewardStudy(job)
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
        steps = study.train(split, job.run_dir)
        if not split.held_out:
            say("no pair is held out: the metrics are of the training pairs")
        evaluated = study.evaluate(split)
    facts = study.training_facts(path, split)
    study.save(facts)
    study.world.first(partial(delete_checkpoints, job.run_dir))
    report = partial(write_report, job, evaluated, folds, split.held_out_root, steps)
    return {
        **study.world.first(report),
        "training_accuracy": facts["accuracy"],
        "pairs": len(split.training),
        "held_out_pairs": len(split.held_out),
        "steps": steps,
        "report": str(job.run_dir / "report.html"),
    }


class _RewardStudy:
    """Trains and evaluates one reward model: on one split, or from the start on each fold."""

    def __init__(self, job: Job) -> None:
        self.job, self.config, self.world = job, job.config, job.world or ALONE
        check_shardable_kind(self.config, self.config.reward.kind)
        options, (resolved, location) = self.config.reward, resolve_model(job)
        full = options.train == "full"
        self.llava = load_trainable(resolved, location, fully=full, stage="reward")
        captions = read_captions(options.captions, self.config.data.root)
        self.model = build_reward_model(
            self.llava,
            options,
            resolved.model,
            captions=captions,
            init_adapter=location.adapter,
        )
        blank = job.run_dir / "blank.png"
        self.blank = Path(self.world.first(lambda: str(write_blank_image(blank))))
        if captions is not None and isinstance(self.model, CaptionReward):
            self.model.captioner.add(self.blank, "")
        self.model.world = self.world
        # Parameters with copies of their initial values, if training starts more than once.
        self._initial: list[tuple[torch.Tensor, torch.Tensor]] = []

    def fitting(self, records: list[PreferenceRecord], root: Path) -> list[PreferenceRecord]:
        """Return the records that the models can read."""
        records = fitting(self.config, self.llava, records, root)
        encoder, blank = self.llava.builder, [self.blank]
        return fitting_scorer(self.config, self.model, encoder, records, root, other_images=blank)

    def train(self, split: Split, directory: Path, *, steps: int = 0) -> int:
        """Train from the initial weights on the training pairs of a split.

        Args:
            split: training and held-out pairs.
            directory: where metrics and checkpoints are written.
            steps: optimizer steps; 0: as many as `reward.epochs` takes.

        Returns:
            The optimizer step whose weights were kept: the best one, with early stopping.
        """
        self._restore_initial_weights()
        held_out = self._batch(split.held_out, split.held_out_root)
        trainer = RewardTrainer(
            self.model,
            self._batch(split.training, split.root),
            self.config.reward,
            validation=held_out,
            steps=steps,
            seed=self.config.seed,
            run_dir=directory,
            run_config=self.config,
            world=self.world,
        )
        if self.config.reward.cv_folds and not self._initial:
            self._initial = [(value, value.detach().clone()) for value in trainer.parameters]
        checkpoint = resume_checkpoint(
            self.job, directory, required=not self.config.reward.cv_folds
        )
        with training_run(self.job, trainer, checkpoint):
            count = sum(value.numel() for value in trainer.parameters)
            print_model_summary(self.llava, steps=trainer.steps)
            say(f"{count:,} parameters of the reward model train")
            trainer.run()
        return trainer.best_step

    @torch.no_grad()
    def _restore_initial_weights(self) -> None:
        for value, initial in self._initial:
            value.copy_(initial)

    def cross_validate(self, split: Split) -> tuple[EvaluatedPairs, list[RewardMetrics], int]:
        """Train and evaluate on each fold.

        Args:
            split: its training pairs are divided into folds.

        Returns:
            Every pair scored by the model that was not trained on it, the metrics of each fold, and
            the median of their optimizer steps.
        """
        parts, steps, config = [], [], self.config
        folds = fold_splits(
            split.training, split.root, folds=config.reward.cv_folds, seed=config.seed
        )
        for number, fold in enumerate(folds, 1):
            stage(f"fold {number} of {len(folds)}")
            steps.append(self.train(fold, self.job.run_dir / f"fold-{number}"))
            parts.append(self.evaluate(fold))
        metrics = [reward_metrics(part.scored, seed=config.seed) for part in parts]
        return EvaluatedPairs.concatenate(parts), metrics, round(median(steps))

    def evaluate(self, split: Split) -> EvaluatedPairs:
        """Score the held-out pairs, or the training pairs if none are, and test what is read."""
        held_out = split.held_out, split.held_out_root
        records, root = held_out if split.held_out else (split.training, split.root)
        return evaluate_pairs(
            self.model,
            records,
            self._batch(records, root),
            self.blank,
            max_tokens=self._max_tokens,
            seed=self.config.seed,
        )

    def training_facts(self, path: Path, split: Split) -> dict[str, Any]:
        """Return what `rlhf score` needs to find the training pairs and reproduce their accuracy.

        Args:
            path: the file of preferences.
            split: the split that was trained on.
        """
        config, pairs = self.config, self._batch(split.training, split.root)
        scored = score_pairs(self.model, split.training, pairs, max_tokens=self._max_tokens)
        all_training = config.reward.cv_folds or config.data.validation_preferences
        return {
            "file": file_hash(path),
            "validation_fraction": 0.0 if all_training else config.data.validation_fraction,
            "seed": config.seed,
            "max_tokens": self._max_tokens,
            "pairs": len(pairs),
            "accuracy": float(scored.credit.nanmean()),
        }

    def save(self, facts: dict[str, Any]) -> None:
        """Write the reward model with its training facts to reward/ in the run directory."""
        directory = self.job.run_dir / "reward"
        save_reward(self.model, directory, facts, self.world)
        if self.model.has_adapter:
            metrics = {"pairs": facts["pairs"], "training accuracy": facts["accuracy"]}
            where = directory / "adapter", self.model.base
            self.world.first(partial(write_model_card, *where, command="reward", metrics=metrics))

    @property
    def _max_tokens(self) -> int:
        return self.config.reward.microbatch_tokens

    def _batch(self, records: Sequence[PreferenceRecord], root: Path) -> PreferenceBatch:
        max_tokens = self.config.data.max_prompt_tokens
        return preference_batch(records, self.llava.builder, root, max_tokens=max_tokens)
