"""Supervised fine-tuning on demonstrations."""

from pathlib import Path

from torch import Tensor

from rlhf.config.schema import Config
from rlhf.kernels import token_logprobs
from rlhf.models.llava import Llava
from rlhf.storage.checkpoint import Checkpoint
from rlhf.tracking.console import track
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.checkpoint_manager import CheckpointManager, State, data_hash
from rlhf.training.data_order import num_steps
from rlhf.training.supervised_loop import OptimizerLoop
from rlhf.types import PromptBatch, Responses


class SFTTrainer:
    """Minimizes -log π(response | image, instruction), mean over the response tokens of a batch.

    Args:
        config: reads `sft`, `seed`.
        llava: the model; its parameters that require a gradient are trained.
        prompts: n prompts.
        responses: the n demonstrated responses.
        writer: receives the metrics.
        directory: run directory; checkpoints go to its `checkpoints/`.

    Attributes:
        steps: planned optimizer steps.
        loss: of the last optimizer step, nats a token; 0 before the first.
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
        """Train to the end and return the loss of the last step, nats per token."""
        loop = self.optimizer_loop
        with (
            self.checkpoints.catch_signals(),
            track("supervised training", self.steps, loop.done) as progress,
        ):
            for rows in loop.batches(len(self.prompts), seed=self.config.seed):
                self.loss = self.step(rows)
                progress.advance(1, loss=self.loss)
                self.checkpoints.maybe_save(loop.done, last=loop.finished)
        return self.loss

    def step(self, rows: Tensor) -> float:
        """Take one optimizer step and return the loss before it, nats per token.

        Args:
            rows: [K] int64, indices of demonstrations.
        """
        step, responses = self.optimizer_loop.done, self.responses.select(rows)
        hidden_states = self.llava.response_hidden_states(self.prompts.select(rows), responses)
        tokens = responses.tokens.to(hidden_states.device)
        logprobs, _ = token_logprobs(hidden_states, self.llava.output_weight, tokens)
        loss = -logprobs.mean()
        self.writer.scalars({**self.optimizer_loop.step(loss), "sft/loss": loss.item()}, step)
        return loss.item()

    def state(self) -> State:
        """Everything that training changes."""
        tensors, values = self.optimizer_loop.state()
        return State(tensors, {"optimizer_loop": values, "loss": self.loss})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint exactly as an uninterrupted run.

        Raises:
            DataError: the parameters in the checkpoint have other names or shapes.
            UsageError: the demonstrations have changed since the run began.
        """
        self.optimizer_loop.restore(checkpoint)
        self.loss = checkpoint.state["loss"]
        self.checkpoints.resume(checkpoint)
