"""Reward-model training: the chosen response should score above the rejected one."""

from pathlib import Path

import torch
from torch import Tensor

from rlhf.config.schema import Config, RewardConfig
from rlhf.functional import center_rewards_loss, preference_loss
from rlhf.functional.preference_metrics import pair_accuracy
from rlhf.rewards.base import RewardModel
from rlhf.storage.checkpoint import Checkpoint
from rlhf.tracking.console import track
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.checkpoint_manager import CheckpointManager, State, data_hash
from rlhf.training.data_order import num_steps
from rlhf.training.early_stopping import EarlyStopping
from rlhf.training.pair_features import PairFeatures
from rlhf.training.supervised_loop import OptimizerLoop
from rlhf.types import PreferenceBatch

INIT_PAIRS = 512  # pairs from which the first weight of the log-likelihood is estimated
INIT_SCORE_DIFFERENCE = 2.0  # root mean square of their score differences, raw scores


class RewardTrainer:
    """Minimizes the Bradley-Terry loss of preference pairs, mean over pairs; a tie counts half.

        L = -log σ(r(x, y_chosen) - r(x, y_rejected))

    Head inputs of a frozen backbone are computed once. With `reward.early_stopping_patience`,
    training stops when the held-out loss no longer decreases, and restores the best weights.

    Args:
        config: reads `reward`, `ppo.microbatch_tokens`, `seed`.
        model: the reward model; its parameters that require a gradient are trained.
        pairs: training pairs.
        validation: held-out pairs; may be empty.
        writer: receives the metrics.
        directory: run directory; checkpoints go to its `checkpoints/`.
        steps: optimizer steps; 0: as many as `reward.epochs` passes take.

    Source: Ouyang et al. 2022, arXiv:2203.02155, equation 1.
    """

    def __init__(
        self,
        config: Config,
        model: RewardModel,
        pairs: PreferenceBatch,
        validation: PreferenceBatch,
        writer: MetricsWriter,
        directory: Path,
        *,
        steps: int = 0,
    ) -> None:
        self.config, self.model, self.writer = config, model, writer
        reward, max_tokens = config.reward, config.ppo.microbatch_tokens
        candidates = [*model.backbone().parameters(), *model.head.parameters()]
        self.parameters = [value for value in candidates if value.requires_grad]
        planned = steps or num_steps(len(pairs), reward.batch_size, reward.epochs)
        self.steps = planned if self.parameters else 0
        self.optimizer_loop = (
            OptimizerLoop(self.parameters, reward, self.steps) if self.steps else None
        )
        data = data_hash(pairs.prompts, pairs.chosen, pairs.rejected, pairs.labels)
        self.checkpoints = CheckpointManager(
            "reward", config, directory, reward.save_every, self.state, data
        )
        self._evaluate_every = reward.evaluate_every or num_steps(len(pairs), reward.batch_size, 1)
        self._early_stopping = EarlyStopping(
            self.parameters, reward.early_stopping_patience * self._evaluate_every
        )
        self._finished = False
        self._pairs = PairFeatures(model, pairs, max_tokens)
        self._validation = PairFeatures(model, validation, max_tokens)

    def run(self) -> int:
        """Train, then normalize the scores.

        Returns:
            Optimizer steps after which the final weights were reached; fewer than all if early
            stopping restored the best weights.
        """
        loop = self.optimizer_loop
        if loop and not loop.done:
            self._init_logprob_weight()
        if loop and not self._finished:
            self._train(loop)
        restores = bool(self._early_stopping.patience and len(self._validation))
        if restores:
            self._early_stopping.restore_best_weights()
        self._normalize()
        return self._early_stopping.best_step if restores else self.steps

    def step(self, loop: OptimizerLoop, rows: Tensor) -> tuple[float, float]:
        """Take one optimizer step.

        Args:
            loop: the optimizer loop.
            rows: [K] int64, indices of training pairs.

        Returns:
            Loss and accuracy of these pairs before the step.
        """
        chosen, rejected = self._pairs.raw_scores(rows)
        loss = _training_loss(chosen, rejected, self._pairs.labels[rows], self.config.reward)
        accuracy = float((chosen > rejected).float().mean())
        metrics = {
            "reward/loss": loss.item(),
            "reward/accuracy": accuracy,
            "reward/margin": (chosen - rejected).mean().item(),
        }
        self.writer.scalars({**loop.step(loss), **metrics}, loop.done)
        return loss.item(), accuracy

    def state(self) -> State:
        """Everything that training changes."""
        assert self.optimizer_loop is not None
        tensors, values = self.optimizer_loop.state()
        best_weights, best = self._early_stopping.state()
        return State(
            {**tensors, "best_weights": best_weights},
            {"optimizer_loop": values, "early_stopping": best, "finished": self._finished},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint exactly as an uninterrupted run.

        Raises:
            DataError: the parameters in the checkpoint have other names or shapes.
            UsageError: the training pairs have changed since the run began.
        """
        if self.optimizer_loop:
            self.optimizer_loop.restore(checkpoint)
        self._early_stopping.restore(checkpoint)
        self._finished = checkpoint.state["finished"]
        self.checkpoints.resume(checkpoint)

    def _train(self, loop: OptimizerLoop) -> None:
        """Take the remaining optimizer steps, or stop early."""
        with (
            self.checkpoints.catch_signals(),
            track("reward model", self.steps, loop.done) as progress,
        ):
            for rows in loop.batches(len(self._pairs), seed=self.config.seed):
                loss, accuracy = self.step(loop, rows)
                progress.advance(1, loss=loss, accuracy=accuracy)
                evaluates = loop.finished or loop.done % self._evaluate_every == 0
                stops = self._evaluate(loop.done) if evaluates else False
                self._finished = loop.finished or stops
                self.checkpoints.maybe_save(loop.done, last=self._finished)
                if self._finished:
                    break

    @torch.no_grad()
    def _init_logprob_weight(self) -> None:
        """Set the weight of the log-likelihood so that the scores of a pair differ by about 2.

        A weight of 1 would suit short responses only: sums over long ones differ by tens of nats.
        """
        if not self.model.uses_logprob:
            return
        generator = torch.Generator().manual_seed(self.config.seed)
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
    chosen: Tensor, rejected: Tensor, labels: Tensor, reward: RewardConfig
) -> Tensor:
    """0-d: the preference loss, plus the weighted penalty that centers the scores."""
    loss = preference_loss(
        chosen, rejected, labels, margin=reward.margin, label_smoothing=reward.label_smoothing
    )
    if reward.center_coef:
        loss = loss + reward.center_coef * center_rewards_loss(chosen, rejected)
    return loss
