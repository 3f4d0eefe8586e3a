"""Reward-model training: the chosen response should score above the rejected one."""

from torch import Tensor

from rlhf.config import Config
from rlhf.console import track
from rlhf.errors import DivergedError
from rlhf.functional import preference_loss
from rlhf.metrics import MetricsWriter
from rlhf.models.reward import RewardModel, score
from rlhf.trainers.optimization import (
    adamw,
    clip_gradients,
    finite,
    shuffled_batches,
    steps_of,
    warmup_linear,
)
from rlhf.types import PreferenceBatch, PromptBatch, Responses


class RewardTrainer:
    """Minimises -log σ(score of chosen - score of rejected), mean over pairs.

    Args:
        config: reads `reward`, `ppo.microbatch_tokens`, `seed`.
        model: what trains is its head and what requires a gradient in its trunk.
        pairs, validation: for training and held out.
        writer: where the curves go.
    """

    def __init__(
        self,
        config: Config,
        model: RewardModel,
        pairs: PreferenceBatch,
        validation: PreferenceBatch,
        writer: MetricsWriter,
    ) -> None:
        self.config, self.model, self.writer = config, model, writer
        self.pairs, self.validation = pairs, validation
        reward = config.reward
        self.steps = steps_of(len(pairs), reward.batch_size, reward.epochs)
        self.parameters = [*model.network().parameters(), *model.head.parameters()]
        self.optimizer = adamw(self.parameters, lr=reward.lr, weight_decay=reward.weight_decay)
        self.schedule = warmup_linear(self.optimizer, reward.warmup_steps, self.steps)

    def run(self) -> float:
        """Train, then fix the scale of the scores; accuracy on the held-out pairs."""
        reward = self.config.reward
        batches = shuffled_batches(
            len(self.pairs), reward.batch_size, seed=self.config.seed, epochs=reward.epochs
        )
        with track("reward model", self.steps) as progress:
            for step, rows in enumerate(batches):
                loss, accuracy = self.step(step, rows)
                progress.advance(1, loss=loss, accuracy=accuracy)
        accuracy = self.finish()
        self.writer.scalars({"reward/validation_accuracy": accuracy}, self.steps)
        return accuracy

    def step(self, step: int, rows: Tensor) -> tuple[float, float]:
        """One optimizer step on the pairs `rows`; its loss and accuracy.

        Raises:
            DivergedError: the loss or its gradient is not finite; the weights are untouched.
        """
        chosen, rejected = self.model.raw_scores(*_stacked(self.pairs.select(rows))).chunk(2)
        loss = preference_loss(chosen, rejected, label_smoothing=self.config.reward.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        norm, value = clip_gradients(self.parameters, self.config.reward.max_grad_norm), loss.item()
        if not finite(value, norm):
            raise DivergedError(
                f"the loss is {value}, the gradient norm {norm}", f"step {step}", "lower reward.lr"
            )
        accuracy = float((chosen > rejected).float().mean())
        figures = {
            "reward/loss": value,
            "reward/accuracy": accuracy,
            "reward/margin": float((chosen - rejected).detach().mean()),
            "optim/grad_norm": norm,
            "lr": float(self.schedule.get_last_lr()[0]),
        }
        self.optimizer.step()
        self.schedule.step()
        self.writer.scalars(figures, step)
        return value, accuracy

    def finish(self) -> float:
        """Set mean and standard deviation of the scores; accuracy on the held-out pairs."""
        held_out = self.validation if len(self.validation) else self.pairs
        prompts, responses = _stacked(held_out)
        scores = score(self.model, prompts, responses, max_tokens=self.config.ppo.microbatch_tokens)
        chosen, rejected = scores.chunk(2)
        self.model.mean = float(scores.mean())
        self.model.std = max(float(scores.std(correction=0)), 1e-6)
        return float((chosen > rejected).float().mean() + 0.5 * (chosen == rejected).float().mean())


def _stacked(pairs: PreferenceBatch) -> tuple[PromptBatch, Responses]:
    """All chosen, then all rejected."""
    return (
        PromptBatch.concatenate([pairs.prompts, pairs.prompts]),
        Responses.concatenate([pairs.chosen, pairs.rejected]),
    )
