"""Train one reward model, or from the same start on each fold and on parts, and evaluate it."""

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
from rlhf.commands.resume import resume_checkpoint
from rlhf.commands.training_run import training_run
from rlhf.data.collate import preference_batch
from rlhf.data.records import PreferenceRecord
from rlhf.data.splits import Split, fold_splits, growing_parts
from rlhf.errors import UsageError
from rlhf.evaluation.learning import Trainings
from rlhf.evaluation.prompt_changes import EvaluatedPairs, evaluate_pairs, write_blank_image
from rlhf.evaluation.reward_metrics import RewardMetrics, reward_metrics
from rlhf.evaluation.reward_scoring import score_pairs
from rlhf.evaluation.scored_pairs import ScoredPairs
from rlhf.parallel.world import ALONE
from rlhf.rewards.caption_reward import CaptionReward
from rlhf.rewards.loading import build_reward_model, save_reward
from rlhf.storage.hashing import file_hash
from rlhf.storage.model_card import write_model_card
from rlhf.tracking.console import say, stage
from rlhf.training.reward_trainer import RewardTrainer
from rlhf.training.sharding import check_shardable_kind
from rlhf.types import PreferenceBatch

CURVE_PARTS = 3  # trainings of a learning curve, the last on all pairs


class RewardStudy:
    """Trains and evaluates one reward model, once or several times from the same initial weights.

    Args:
        job: the call of the command.
    """

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

    def measure(self, split: Split, directory: Path) -> tuple[EvaluatedPairs, int]:
        """Train on the training pairs, for a learning curve on parts of them before, and evaluate.

        Args:
            split: training and held-out pairs.
            directory: where metrics and checkpoints are written.

        Returns:
            The pairs, scored; those that are held out also before training. And the optimizer step
            whose weights were kept.

        Raises:
            UsageError: no pair is held out to measure a learning curve.
            DataError: the training pairs are of too few images for one.
        """
        smaller, trained = self._smaller_splits(split), []
        for number, part in enumerate(smaller, 1):
            stage(f"part {number} of {CURVE_PARTS}: {_decided(part)} decided pairs to train on")
            self.train(part, directory / f"part-{number}")
            trained.append(self._score(part))
        if not split.held_out or self.config.reward.train == "none":
            step = self.train(split, directory)
            return self._evaluate(split), step
        untrained, step = self._train_from_start(split, directory)
        evaluated = self._evaluate(split)
        sizes = (*map(_decided, smaller), _decided(split))
        trainings = Trainings(untrained, (*trained, evaluated.scored), sizes)
        return replace(evaluated, trainings=trainings), step

    def train(self, split: Split, directory: Path, *, steps: int = 0) -> int:
        """Train from the initial weights on the training pairs of a split.

        Args:
            split: training and held-out pairs.
            directory: where metrics and checkpoints are written.
            steps: optimizer steps; 0: as many as `reward.epochs` takes.

        Returns:
            The optimizer step whose weights were kept: the best one, with early stopping.
        """
        return self._run(self._trainer(split, directory, steps), directory)

    def _train_from_start(self, split: Split, directory: Path) -> tuple[ScoredPairs, int]:
        """Train, and return what `train` does behind the held-out pairs scored before training."""
        trainer = self._trainer(split, directory)
        untrained = self._score(split)
        return untrained, self._run(trainer, directory)

    def _trainer(self, split: Split, directory: Path, steps: int = 0) -> RewardTrainer:
        """Return the trainer of a split, with the initial weights."""
        self._restore_initial_weights()
        trainer = RewardTrainer(
            self.model,
            self._batch(split.training, split.root),
            self.config.reward,
            validation=self._batch(split.held_out, split.held_out_root),
            steps=steps,
            seed=self.config.seed,
            run_dir=directory,
            run_config=self.config,
            world=self.world,
        )
        if self._trains_again and not self._initial:
            self._initial = [(value, value.detach().clone()) for value in trainer.parameters]
        return trainer

    def _run(self, trainer: RewardTrainer, directory: Path) -> int:
        """Train, or continue from the newest checkpoint; return the step whose weights are kept."""
        checkpoint = resume_checkpoint(self.job, directory, required=not self._trains_again)
        with training_run(self.job, trainer, checkpoint):
            count = sum(value.numel() for value in trainer.parameters)
            print_model_summary(self.llava, steps=trainer.steps)
            say(f"{count:,} parameters of the reward model train")
            trainer.run()
        return trainer.best_step

    @property
    def _trains_again(self) -> bool:
        """Whether training starts more than once."""
        return bool(self.config.reward.cv_folds) or self.config.reward.learning_curve

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
        for fold in folds:
            self._smaller_splits(fold)  # fails before the first training
        for number, fold in enumerate(folds, 1):
            stage(f"fold {number} of {len(folds)}")
            part, step = self.measure(fold, self.job.run_dir / f"fold-{number}")
            parts.append(part)
            steps.append(step)
        metrics = [reward_metrics(part.scored, seed=config.seed) for part in parts]
        return EvaluatedPairs.concatenate(parts), metrics, round(median(steps))

    def _evaluate(self, split: Split) -> EvaluatedPairs:
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

    def _score(self, split: Split) -> ScoredPairs:
        """Score the held-out pairs."""
        pairs = self._batch(split.held_out, split.held_out_root)
        return score_pairs(self.model, split.held_out, pairs, max_tokens=self._max_tokens)

    def _smaller_splits(self, split: Split) -> list[Split]:
        """Return the split with growing parts of its training pairs, without the last, all."""
        options, seed = self.config.reward, self.config.seed
        if not options.learning_curve:
            return []
        if not split.held_out:
            what = "no pair is held out to measure a learning curve"
            fix = "raise data.validation_fraction, or set reward.cv_folds"
            raise UsageError(what, "reward.learning_curve=true", fix)
        parts = growing_parts(split.training, split.root, count=CURVE_PARTS, seed=seed)
        return [replace(split, training=part) for part in parts[:-1]]

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


def _decided(split: Split) -> int:
    return sum(record.preference != "tie" for record in split.training)
