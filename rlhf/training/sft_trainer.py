"""Supervised training: the cross-entropy of demonstrated responses."""

from itertools import islice
from pathlib import Path

from torch import Tensor

from rlhf.config.schema import Config
from rlhf.kernels import token_logprobs
from rlhf.models.llava import Llava
from rlhf.storage.checkpoint import Checkpoint
from rlhf.tracking.console import track
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.checkpoint_manager import CheckpointManager, State, data_hash
from rlhf.training.data_order import num_steps, shuffled_batches
from rlhf.training.gradients import OptimizerLoop
from rlhf.types import PromptBatch, Responses


class SFTTrainer:
    """Minimises -log π(response | image, instruction), mean over response tokens.

    Args:
        config: reads `sft`, `seed`.
        llava: what trains is what requires a gradient.
        prompts, responses: the demonstrations.
        writer: where the curves go.
        directory: where checkpoints go.
    """

    def __init__(
        self,
        config: Config,
        llava: Llava,
        prompts: PromptBatch,
        responses: Responses,
        writer: MetricsWriter,
        directory: Path,
    ) -> None:
        self.config, self.llava, self.writer = config, llava, writer
        self.prompts, self.responses = prompts, responses
        self.steps = num_steps(len(prompts), config.sft.batch_size, config.sft.epochs)
        self.optimizer_loop = OptimizerLoop(llava.model.parameters(), config.sft, self.steps)
        every, data = config.sft.save_every, data_hash(prompts, responses)
        self.checkpoints = CheckpointManager("sft", config, directory, every, self.state, data)
        self.loss = 0.0

    def run(self) -> float:
        """Train; the loss of the last step, nats per token."""
        sft, done = self.config.sft, self.optimizer_loop.done
        batches = shuffled_batches(
            len(self.prompts), sft.batch_size, seed=self.config.seed, epochs=sft.epochs
        )
        with (
            self.checkpoints.catch_signals(),
            track("supervised training", self.steps, done) as progress,
        ):
            for step, rows in enumerate(islice(batches, done, None), done):
                self.loss = self.step(step, rows)
                progress.advance(1, loss=self.loss)
                self.checkpoints.maybe_save(step + 1, last=step + 1 == self.steps)
        return self.loss

    def state(self) -> State:
        """Everything that training changed."""
        tensors, values = self.optimizer_loop.state()
        return State(tensors, {"descent": values, "loss": self.loss})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint as if there had been no break."""
        self.optimizer_loop.restore(checkpoint)
        self.loss = checkpoint.state["loss"]
        self.checkpoints.resume(checkpoint)

    def step(self, step: int, rows: Tensor) -> float:
        """One optimizer step on the demonstrations `rows`; its loss."""
        responses = self.responses.select(rows)
        hidden = self.llava.response_hidden(self.prompts.select(rows), responses)
        tokens = responses.tokens.to(hidden.device)
        logprobs, _ = token_logprobs(hidden, self.llava.output_weight, tokens)
        loss = -logprobs.mean()
        self.writer.scalars({**self.optimizer_loop.step(loss), "sft/loss": loss.item()}, step)
        return loss.item()
