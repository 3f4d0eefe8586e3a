"""Reward-model training: the chosen response should score above the rejected one."""

from torch import Tensor

from rlhf.config import Config
from rlhf.console import track
from rlhf.functional import preference_loss
from rlhf.metrics import MetricsWriter
from rlhf.models.reward import RewardModel, score
from rlhf.trainers.optimization import Descent, shuffled_batches, steps_of
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
        parameters = [*model.network().parameters(), *model.head.parameters()]
        self.descent = Descent(parameters, reward, self.steps)

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
        """One optimizer step on the pairs `rows`; its loss and accuracy."""
        chosen, rejected = self.model.raw_scores(*_stacked(self.pairs.select(rows))).chunk(2)
        loss = preference_loss(chosen, rejected, label_smoothing=self.config.reward.label_smoothing)
        accuracy = float((chosen > rejected).float().mean())
        figures = {
            "reward/loss": loss.item(),
            "reward/accuracy": accuracy,
            "reward/margin": (chosen - rejected).mean().item(),
        }
        self.writer.scalars({**self.descent.step(loss), **figures}, step)
        return loss.item(), accuracy

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
