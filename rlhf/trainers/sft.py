"""Supervised training: the cross-entropy of demonstrated responses."""

from torch import Tensor

from rlhf.config import Config
from rlhf.console import track
from rlhf.errors import DivergedError
from rlhf.kernels import token_logprobs
from rlhf.metrics import MetricsWriter
from rlhf.models.llava import Llava
from rlhf.trainers.optimization import (
    adamw,
    clip_gradients,
    finite,
    shuffled_batches,
    steps_of,
    warmup_linear,
)
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
        self.parameters = [value for value in llava.model.parameters() if value.requires_grad]
        self.optimizer = adamw(
            self.parameters, lr=config.sft.lr, weight_decay=config.sft.weight_decay
        )
        self.schedule = warmup_linear(self.optimizer, config.sft.warmup_steps, self.steps)

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
        """One optimizer step on the demonstrations `rows`; its loss.

        Raises:
            DivergedError: the loss or its gradient is not finite; the weights are untouched.
        """
        responses = self.responses.select(rows)
        hidden = self.llava.response_hidden(self.prompts.select(rows), responses)
        tokens = responses.tokens.to(hidden.device)
        logprobs, _ = token_logprobs(hidden, self.llava.output_weight, tokens)
        loss = -logprobs.mean()
        self.optimizer.zero_grad()
        loss.backward()
        norm, value = clip_gradients(self.parameters, self.config.sft.max_grad_norm), loss.item()
        if not finite(value, norm):
            raise DivergedError(
                f"the loss is {value}, the gradient norm {norm}", f"step {step}", "lower sft.lr"
            )
        lr = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        self.writer.scalars({"sft/loss": value, "optim/grad_norm": norm, "lr": lr}, step)
        return value
