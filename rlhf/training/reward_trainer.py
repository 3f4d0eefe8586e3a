"""Reward-model training: the chosen response should score above the rejected one."""

from itertools import islice
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from rlhf.config.schema import Config, RewardConfig
from rlhf.data.microbatching import map_microbatches
from rlhf.functional import center_rewards_loss, preference_loss
from rlhf.functional.preference_metrics import pair_accuracy
from rlhf.rewards.base import RewardModel, raw_scores
from rlhf.storage.checkpoint import Checkpoint
from rlhf.tracking.console import track
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.checkpoint_manager import (
    CheckpointManager,
    State,
    by_index,
    data_hash,
    restore_parameters,
)
from rlhf.training.data_order import num_steps, shuffled_batches
from rlhf.training.gradients import OptimizerLoop
from rlhf.types import PreferenceBatch

STARTING_PAIRS, STARTING_SPREAD = 512, 2.0  # pairs; deviation of their differences, raw scores


class RewardTrainer:
    """Minimises -log σ(score of chosen - score of rejected), mean over pairs; a tie counts half.

    Where the trunk is frozen its features are computed once. With `reward.early_stopping_patience`,
    training stops when the held-out loss no longer falls, and the best weights are kept.

    Args:
        config: reads `reward`, `ppo.microbatch_tokens`, `seed`.
        model: what trains is what requires a gradient in its head and trunk.
        pairs, validation: for training, and held out (may be empty).
        writer: where the curves go.
        directory: where checkpoints go.
        steps: optimizer steps; 0: as many as `reward.epochs` passes take.
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
        reward = config.reward
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
        self._best, self._best_step, self._over = inf, 0, False
        # Copies of the weights, only where training goes back to the best ones.
        self._kept = (
            [x.detach().clone() for x in self.parameters] if reward.early_stopping_patience else []
        )
        self._pairs, self._validation = (
            _Pairs(model, part, config.ppo.microbatch_tokens) for part in (pairs, validation)
        )

    def run(self) -> int:
        """Train, then fix the scale of the scores; the optimizer steps whose weights are kept."""
        reward = self.config.reward
        if self.optimizer_loop and not self.optimizer_loop.done:
            self._start_likelihood()
        if self.optimizer_loop and not self._over:
            with self.checkpoints.catch_signals():
                self._descend(self.optimizer_loop)
        restores = bool(reward.early_stopping_patience and len(self._validation))
        if restores:
            self._restore()
        self._normalise()
        return self._best_step if restores else self.steps

    def _descend(self, descent: OptimizerLoop) -> None:
        """Optimizer steps from where it stands to the last, or until patience ends."""
        reward, pairs, done = self.config.reward, len(self._pairs), descent.done
        every = reward.evaluate_every or num_steps(pairs, reward.batch_size, 1)
        batches = shuffled_batches(
            pairs, reward.batch_size, seed=self.config.seed, epochs=reward.epochs
        )
        with track("reward model", self.steps, done) as progress:
            for step, rows in enumerate(islice(batches, done, None), done + 1):
                loss, accuracy = self.step(descent, step, rows)
                progress.advance(1, loss=loss, accuracy=accuracy)
                last = step == self.steps
                goes_on = self._evaluate(step, every) if last or step % every == 0 else True
                self._over = last or not goes_on
                self.checkpoints.maybe_save(step, last=self._over)
                if self._over:
                    break

    def state(self) -> State:
        """Everything that training changed."""
        assert self.optimizer_loop is not None
        tensors, values = self.optimizer_loop.state()
        best = {"best": self._best, "best_step": self._best_step, "over": self._over}
        return State({**tensors, "kept": by_index(self._kept)}, {"descent": values, **best})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint as if there had been no break."""
        state = checkpoint.state
        if self.optimizer_loop:
            self.optimizer_loop.restore(checkpoint)
        restore_parameters(by_index(self._kept), checkpoint, "kept")
        self._best, self._best_step = float(state["best"]), state["best_step"]
        self._over = state["over"]
        self.checkpoints.resume(checkpoint)

    def step(self, descent: OptimizerLoop, step: int, rows: Tensor) -> tuple[float, float]:
        """One optimizer step on the pairs `rows`; its loss and accuracy."""
        chosen, rejected = self._pairs.raw_scores(rows)
        loss = _objective(chosen, rejected, self._pairs.labels[rows], self.config.reward)
        accuracy = float((chosen > rejected).float().mean())
        metrics = {
            "reward/loss": loss.item(),
            "reward/accuracy": accuracy,
            "reward/margin": (chosen - rejected).mean().item(),
        }
        self.writer.scalars({**descent.step(loss), **metrics}, step)
        return loss.item(), accuracy

    @torch.no_grad()
    def _start_likelihood(self) -> None:
        """Weigh the log-likelihood so that the scores of a pair differ by about 2.

        A weight of 1 would suit short answers only: sums over long ones differ by tens of nats.
        """
        if not self.steps or not self.model.uses_logprob:
            return
        order = torch.Generator().manual_seed(self.config.seed)
        rows = torch.randperm(len(self._pairs), generator=order)[:STARTING_PAIRS]
        chosen, rejected = self._pairs.features(rows)[:, -1].chunk(2)
        spread = float((chosen - rejected).square().mean().sqrt())
        self.model.head.linear.weight[:, -1] = STARTING_SPREAD / max(spread, 1e-6)

    @torch.no_grad()
    def _evaluate(self, step: int, every: int) -> bool:
        """Measure the held-out loss, keep the best weights; whether to go on."""
        if not len(self._validation):
            return True
        chosen, rejected = self._validation.raw_scores_in_microbatches()
        labels = self._validation.labels
        patience = self.config.reward.early_stopping_patience
        loss = float(preference_loss(chosen, rejected, labels))
        decided = bool((labels != 0.5).any())
        accuracy = float(pair_accuracy(chosen - rejected, labels)) if decided else 0.5
        self.writer.scalars(
            {"reward/validation_loss": loss, "reward/validation_accuracy": accuracy}, step
        )
        if loss < self._best:
            self._best, self._best_step = loss, step
            if patience:
                self._kept = [value.detach().clone() for value in self.parameters]
        return not patience or step - self._best_step < patience * every

    @torch.no_grad()
    def _restore(self) -> None:
        """Go back to the weights of the lowest held-out loss."""
        for value, kept in zip(self.parameters, self._kept, strict=True):
            value.copy_(kept)

    @torch.no_grad()
    def _normalise(self) -> None:
        """Bring the scores of the training pairs to mean 0 and standard deviation 1."""
        scores = torch.cat(self._pairs.raw_scores_in_microbatches())
        self.model.mean = float(scores.mean())
        self.model.std = max(float(scores.std(correction=0)), 1e-6)


class _Pairs:
    """Pairs and the states the head reads of them, kept where the trunk does not change.

    Args:
        model: scores them.
        batch: n pairs.
        max_tokens: padded tokens of one forward.
    """

    def __init__(self, model: RewardModel, batch: PreferenceBatch, max_tokens: int) -> None:
        self.model, self.batch, self.max_tokens = model, batch, max_tokens
        frozen = not any(value.requires_grad for value in model.backbone().parameters())
        self._features: Tensor | None = None
        if frozen and len(batch):
            self._features = self.features(torch.arange(len(batch)))

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def labels(self) -> Tensor:
        return self.batch.labels.to(self.model.head.linear.weight.device)

    @torch.no_grad()
    def features(self, rows: Tensor) -> Tensor:
        """[2K, D] of chosen, then of rejected, without autograd."""
        if self._features is not None:
            return self._features[torch.cat([rows, rows + len(self)])]
        pairs = self.batch.select(rows).stacked()
        return map_microbatches(self.model.head_inputs, *pairs, self.max_tokens)

    def raw_scores(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Raw scores of chosen and rejected, [K] each, with autograd."""
        if self._features is None:
            scores = raw_scores(self.model, *self.batch.select(rows).stacked())
        else:
            scores = self._read(self.features(rows))
        chosen, rejected = scores.chunk(2)
        return chosen, rejected

    def raw_scores_in_microbatches(self) -> tuple[Tensor, Tensor]:
        """The same of all pairs, [n] each, without autograd."""
        chosen, rejected = self._read(self.features(torch.arange(len(self)))).chunk(2)
        return chosen, rejected

    def _read(self, features: Tensor) -> Tensor:
        head = self.model.head
        return head(features.to(head.linear.weight.device))  # type: ignore[no-any-return]


def _objective(chosen: Tensor, rejected: Tensor, labels: Tensor, reward: RewardConfig) -> Tensor:
    """What training minimises: the preference loss, and the penalty that centres scores."""
    loss = preference_loss(
        chosen, rejected, labels, margin=reward.margin, label_smoothing=reward.label_smoothing
    )
    if reward.center_coef:
        loss = loss + reward.center_coef * center_rewards_loss(chosen, rejected)
    return loss
