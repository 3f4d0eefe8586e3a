"""Supervised training: the cross-entropy of demonstrated responses."""

from torch import Tensor

from rlhf.config import Config
from rlhf.console import track
from rlhf.kernels import token_logprobs
from rlhf.metrics import MetricsWriter
from rlhf.models.llava import Llava
from rlhf.trainers.optimization import Descent, shuffled_batches, steps_of
from rlhf.types import PromptBatch, Responses


class SFTTrainer:
    """Minimises -log π(response | picture, instruction), mean over response tokens.

    Args:
        config: reads `sft`, `seed`.
        llava: what trains is what requires a gradient.
        prompts, responses: the demonstrations.
        writer: where the curves go.
    """

    def __init__(
        self,
        config: Config,
        llava: Llava,
        prompts: PromptBatch,
        responses: Responses,
        writer: MetricsWriter,
    ) -> None:
        self.config, self.llava, self.writer = config, llava, writer
        self.prompts, self.responses = prompts, responses
        self.steps = steps_of(len(prompts), config.sft.batch_size, config.sft.epochs)
        self.descent = Descent(llava.model.parameters(), config.sft, self.steps)

    def run(self) -> float:
        """Train; the loss of the last step, nats per token."""
        sft, loss = self.config.sft, 0.0
        batches = shuffled_batches(
            len(self.prompts), sft.batch_size, seed=self.config.seed, epochs=sft.epochs
        )
        with track("supervised training", self.steps) as progress:
            for step, rows in enumerate(batches):
                loss = self.step(step, rows)
                progress.advance(1, loss=loss)
        return loss

    def step(self, step: int, rows: Tensor) -> float:
        """One optimizer step on the demonstrations `rows`; its loss."""
        responses = self.responses.select(rows)
        hidden = self.llava.response_hidden(self.prompts.select(rows), responses)
        tokens = responses.tokens.to(hidden.device)
        logprobs, _ = token_logprobs(hidden, self.llava.output_weight, tokens)
        loss = -logprobs.mean()
        self.writer.scalars({**self.descent.step(loss), "sft/loss": loss.item()}, step)
        return loss.item()
