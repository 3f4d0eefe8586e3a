"""Reward-model training: the chosen response should score above the rejected one."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.config.resolve import with_parts
from rlhf.config.schema import Config, RewardConfig
from rlhf.config.validation import check_config
from rlhf.data.record_set import Preferences
from rlhf.functional import center_rewards_loss, preference_loss
from rlhf.functional.preference_metrics import pair_accuracy
from rlhf.parallel.world import ALONE, World
from rlhf.rewards.base import RewardModel
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.rewards.loading import save_reward
from rlhf.storage.checkpoint import Checkpoint
from rlhf.tracking.console import track
from rlhf.tracking.tracker import Tracker
from rlhf.training.callbacks import Callback
from rlhf.training.checkpoint_manager import State, data_hash
from rlhf.training.data_order import num_steps
from rlhf.training.early_stopping import EarlyStopping
from rlhf.training.oom_retry import OOMRetry
from rlhf.training.pair_features import PairFeatures
from rlhf.training.run_files import required_directory
from rlhf.training.sharding import check_shardable_kind, shard_models
from rlhf.training.supervised_loop import OptimizerLoop
from rlhf.training.trainer import Trainer
from rlhf.training.training_pairs import encoded_pairs, training_pairs
from rlhf.types import PreferenceBatch

INIT_PAIRS = 512  # pairs from which the first weight of the log-likelihood is estimated
INIT_SCORE_DIFFERENCE = 2.0  # root mean square of their score differences, raw scores


class RewardTrainer(Trainer):
    """Minimizes the Bradley-Terry loss of preference pairs, mean over pairs; a tie counts half.

        L = -log σ(r(x, y_chosen) - r(x, y_rejected))

    Head inputs of a frozen backbone are computed once. With `early_stopping_patience`,
    training stops when the held-out loss no longer decreases, and restores the best weights.

    Args:
        model: the reward model; its parameters that require a gradient are trained.
        pairs: training pairs.
        config: the options.
        validation: held-out pairs; None: none.
        steps: optimizer steps; 0: as many as `epochs` passes take.
        seed: of every random choice.
        callbacks: called at fixed points, in this order.
        run_dir: gets `metrics.jsonl` and checkpoints; None: no file is written.
        trackers: receive the metrics; None: TensorBoard, if there is a run directory.
        run_config: the options of the whole run, stored in its checkpoints; None: those above.
        world: this process among those of the run.

    Attributes:
        steps: planned optimizer steps.
        best_step: optimizer steps after which the final weights were reached; fewer than all if
            early stopping restored the best weights.

    Raises:
        UsageError: an option is out of range, or the model cannot be sharded.
        DataError: a pair is too long, or no decided pair is left to train on.

    Source: Ouyang et al. 2022, arXiv:2203.02155, equation 1.
    """

    command, first_step = "reward", 1
    final_metrics = ("reward/validation_accuracy", "reward/validation_loss")

    def __init__(
        self,
        model: RewardModel,
        pairs: Preferences | PreferenceBatch,
        config: RewardConfig | None = None,
        *,
        validation: Preferences | PreferenceBatch | None = None,
        steps: int = 0,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        run_dir: str | Path | None = None,
        trackers: Sequence[Tracker] | None = None,
        run_config: Config | None = None,
        world: World = ALONE,
    ) -> None:
        self.config, self.model, self.seed = config or RewardConfig(), model, seed
        run_config = run_config or check_config(Config(reward=self.config, seed=seed))
        run_config = with_parts(run_config, world.size, self.command)
        check_shardable_kind(run_config, model.kind)
        pairs = training_pairs(encoded_pairs(pairs, model), self.config)
        super().__init__(
            run_config,
            save_every=self.config.save_every,
            data=data_hash(pairs.prompts, pairs.chosen, pairs.rejected, pairs.labels),
            callbacks=callbacks,
            run_dir=run_dir,
            trackers=trackers,
            world=world,
        )
        head = model.head.named_parameters(prefix="head")
        self._check_processes([*model.backbone().named_parameters(), *head])
        self._shard_model()
        candidates = [*model.backbone().parameters(), *model.head.parameters()]
        self.parameters = [value for value in candidates if value.requires_grad]
        per_epoch = num_steps(len(pairs), self.config.batch_size, 1)
        planned = steps or per_epoch * self.config.epochs
        self.steps = self.best_step = planned if self.parameters else 0
        oom_retry, parts = OOMRetry(self.config.batch_size, world), run_config.parallel.parts
        if parts > 1 and isinstance(model, LlavaReward):
            model.llava.prefix_cache.limit = 0  # a part depends on its own pairs only
        settings: dict[str, Any] = {"num_sums": 3, "parts": parts}
        settings |= {"oom_retry": oom_retry, "sharding": self.sharding}
        self.optimizer_loop = (
            OptimizerLoop(self.parameters, self.config, self.steps, **settings)
            if self.steps
            else None
        )
        self._evaluate_every = self.config.evaluate_every or per_epoch
        self._early_stopping = EarlyStopping(
            self.parameters, self.config.early_stopping_patience * self._evaluate_every
        )
        self._finished = False
        max_tokens = self.config.microbatch_tokens
        self._pairs = PairFeatures(model, pairs, max_tokens, oom_retry)
        held_out = pairs.select(torch.arange(0)) if validation is None else validation
        held_out = encoded_pairs(held_out, model)
        self._validation = PairFeatures(model, held_out, max_tokens, oom_retry)

    @property
    def done(self) -> int:
        """Number of optimizer steps that are done."""
        return self.optimizer_loop.done if self.optimizer_loop else 0

    def iterations(self) -> Iterator[dict[str, float]]:
        """Take the remaining optimizer steps, yield the metrics of each, normalize the scores."""
        loop = self.optimizer_loop
        if loop and not loop.done:
            self._init_logprob_weight()
        if loop and not self._finished:
            yield from self._train(loop)
        if self._early_stopping.patience and len(self._validation):
            self._early_stopping.restore_best_weights()
            self.best_step = self._early_stopping.best_step
        self._normalize()

    def step(self, loop: OptimizerLoop, rows: Tensor) -> dict[str, float]:
        """Take one optimizer step and return its metrics, of these pairs before the step.

        Args:
            loop: the optimizer loop.
            rows: [K] int64, indices of training pairs.
        """
        backward = partial(self._backward, pair_count=len(rows))
        metrics, sums = loop.step(rows, self._pairs.microbatches, backward)
        loss, correct, margin = sums
        metrics |= {
            "reward/loss": loss,
            "reward/accuracy": correct / len(rows),
            "reward/margin": margin / len(rows),
        }
        metrics = self._with_user_metrics(metrics)
        self.writer.scalars(metrics, self.done)
        return metrics

    def _backward(self, rows: Tensor, *, pair_count: int) -> Tensor:
        """Add the gradient of a microbatch; return its share of the loss, and two sums, [3].

        The sums are the number of pairs whose chosen score is higher, and the score differences.
        """
        chosen, rejected = self._pairs.raw_scores(rows)
        loss = _training_loss(chosen, rejected, self._pairs.labels[rows], self.config, pair_count)
        loss.backward()
        margins = (chosen - rejected).detach()
        return torch.stack([loss.detach(), (margins > 0).sum().to(loss), margins.sum()])

    def state(self) -> State:
        """Everything that training changes."""
        assert self.optimizer_loop is not None
        tensors, values = self.optimizer_loop.state()
        best_weights, best = self._early_stopping.state()
        return State(
            {**tensors, "best_weights": self.sharding.gather_all(best_weights)},
            {"optimizer_loop": values, "early_stopping": best, "finished": self._finished},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint exactly as an uninterrupted run."""
        if self.optimizer_loop:
            self.optimizer_loop.restore(checkpoint)
        self._early_stopping.restore(checkpoint)
        self._finished = checkpoint.state["finished"]
        self.checkpoints.resume(checkpoint)

    def save(self, directory: str | Path | None = None) -> Path:
        """Write the reward model to reward/ of the directory, where `rlhf.load_reward` finds it."""
        place = required_directory(directory, self.run_dir)
        facts = {"pairs": len(self._pairs), "steps": self.best_step}
        save_reward(self.model, place / "reward", facts, self.world)
        return place

    def _shard_model(self) -> None:
        """Shard the model if `parallel.shard` says so, and no trainer before has done it."""
        model = self.model
        if not model.sharding.active:
            llavas = [model.llava] if isinstance(model, LlavaReward) else []
            optimizer = self.config.optimizer
            model.sharding = shard_models(self.run_config, optimizer, llavas, [], self.world)
        self.sharding = model.sharding

    def _train(self, loop: OptimizerLoop) -> Iterator[dict[str, float]]:
        """Take the remaining optimizer steps, or stop early."""
        with track("reward model", self.steps, loop.done) as progress:
            for rows in loop.batches(len(self._pairs), seed=self.seed):
                self.metrics = self.step(loop, rows)
                loss, accuracy = self.metrics["reward/loss"], self.metrics["reward/accuracy"]
                progress.advance(1, loss=loss, accuracy=accuracy)
                evaluates = loop.finished or loop.done % self._evaluate_every == 0
                stops = self._evaluate(loop.done) if evaluates else False
                self._finished = loop.finished or stops
                last = self._finished or self._stops
                self.checkpoints.maybe_save(loop.done, last=last)
                yield self.metrics
                if last:
                    break

    @torch.no_grad()
    def _init_logprob_weight(self) -> None:
        """Set the weight of the log-likelihood so that the scores of a pair differ by about 2.

        A weight of 1 would suit short responses only: sums over long ones differ by tens of nats.
        """
        if not self.model.uses_logprob:
            return
        generator = torch.Generator().manual_seed(self.seed)
        rows = torch.randperm(len(self._pairs), generator=generator)[:INIT_PAIRS]
        chosen, rejected = self._pairs.head_inputs(rows)[:, -1].chunk(2)
        rms_difference = float((chosen - rejected).square().mean().sqrt())
        self.model.head.linear.weight[:, -1] = INIT_SCORE_DIFFERENCE / max(rms_difference, 1e-6)

    @torch.no_grad()
    def _evaluate(self, step: int) -> bool:
        """Measure and log the held-out loss and accuracy; whether training should stop."""
        if not len(self._validation):
            return False
        chosen, rejected = self._validation.all_raw_scores()
        labels = self._validation.labels
        loss = float(preference_loss(chosen, rejected, labels))
        decided = bool((labels != 0.5).any())
        accuracy = float(pair_accuracy(chosen - rejected, labels)) if decided else 0.5
        self.writer.scalars(
            {"reward/validation_loss": loss, "reward/validation_accuracy": accuracy}, step
        )
        return self._early_stopping.update(step, loss)

    @torch.no_grad()
    def _normalize(self) -> None:
        """Set mean and std so that scores of the training pairs have mean 0 and deviation 1."""
        scores = torch.cat(self._pairs.all_raw_scores())
        self.model.mean = float(scores.mean())
        self.model.std = max(float(scores.std(correction=0)), 1e-6)


def _training_loss(
    chosen: Tensor, rejected: Tensor, labels: Tensor, reward: RewardConfig, pair_count: int
) -> Tensor:
    """0-d: the preference loss, plus the weighted penalty that centers the scores."""
    loss = preference_loss(
        chosen,
        rejected,
        labels,
        margin=reward.margin,
        label_smoothing=reward.label_smoothing,
        pair_count=pair_count,
    )
    if reward.center_coef:
        penalty = center_rewards_loss(chosen, rejected, pair_count=pair_count)
        loss = loss + reward.center_coef * penalty
    return loss
